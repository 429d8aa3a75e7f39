"""Operations: everybody sees all of it from the beginning, now or later, and every end has its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from pgha.common.errors import DefinitionError, HostError, Problem, Refused, UserError
from pgha.master.operations import Operation, Operations
from pgha.master.progress import End, Note, Started
from pgha.master.simulation import LoopClock, MemoryStore, play

Work = Callable[[Operation], Awaitable[End]]


def kinds(lines: list[Any]) -> list[str]:
    return [line.text if isinstance(line, Note) else line.kind for line in lines]


async def all_of(lines: AsyncIterator[Any]) -> list[Any]:
    return [line async for line in lines]


async def notes(operation: Operation) -> End:
    """Three notes, in between the moments at which lines are saved."""
    for text in ("one", "two", "three"):
        await operation.emit(Note(text=text))
        await asyncio.sleep(0.75)
    return End(message="done")


async def started(operations: Operations, work: Work = notes, what: str = "apply prod") -> Operation:
    return await operations.start(what, "prod", "anna", work, ("pg-node1",))


def with_operations(body: Callable[[Operations, MemoryStore], Coroutine[Any, Any, None]]) -> None:
    store = MemoryStore([])
    play(body(Operations(store, LoopClock()), store))


def test_who_follows_sees_every_line_and_the_end_last() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        lines = await all_of(operations.follow(await started(operations)))
        assert kinds(lines) == ["started", "one", "two", "three", "end"]
        assert lines[0].what == "apply prod"
        assert [line.at - lines[0].at for line in lines] == [0, 0, 0.75, 1.5, 2.25]

    with_operations(body)


def test_who_comes_later_sees_it_from_the_beginning_and_is_told_that_it_was_running() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        await asyncio.sleep(1.5)
        lines = await all_of(operations.follow(operation, joined=True))
        assert kinds(lines) == ["started", "one", "two", "three", "end"]
        assert isinstance(lines[0], Started)
        assert lines[0].joined

    with_operations(body)


def test_who_leaves_stops_nothing() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        async for line in operations.follow(operation):
            if kinds([line]) == ["one"]:
                break
        assert kinds(await all_of(operations.follow(operation)))[-1] == "end"

    with_operations(body)


def test_only_an_apply_changes_a_cluster_and_only_until_it_has_ended() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        await started(operations, what="plan prod")
        assert operations.changing("prod") is None
        operation = await started(operations)
        assert operations.changing("prod") is operation
        assert operations.changing("test") is None
        await all_of(operations.follow(operation))
        await asyncio.sleep(0.1)
        assert operations.changing("prod") is None

    with_operations(body)


def test_what_has_ended_is_replayed_from_the_store_as_it_was() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        seen = await all_of(operations.follow(operation))
        await asyncio.sleep(0.1)
        again = await all_of(Operations(store, LoopClock()).replay(operation.id))
        assert again == seen

    with_operations(body)


def test_what_runs_is_replayed_and_followed_to_its_end() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        await asyncio.sleep(0.5)
        assert kinds(await all_of(operations.replay(operation.id))) == ["started", "one", "two", "three", "end"]

    with_operations(body)


def test_after_a_restart_of_the_master_its_lines_are_there_and_end_with_what_happened() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        await asyncio.sleep(1.2)
        await operations.close()
        lines = await all_of(Operations(store, LoopClock()).replay(operation.id))
        assert kinds(lines) == ["started", "one", "two", "end"]
        assert lines[-1].exit == 1
        assert "the master was restarted while this ran" in lines[-1].message

    with_operations(body)


def test_an_id_that_nothing_has_is_refused_with_where_to_look() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        with pytest.raises(UserError, match="no job has the id 'x'; see: pgha-master jobs list"):
            await all_of(operations.replay("x"))

    with_operations(body)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (Refused("nothing was changed"), 6),
        (UserError("there is no such node"), 2),
        (DefinitionError("prod.yml", [Problem("C001", "wrong", 1, 1)]), 2),
        (HostError("the store does not take the write"), 1),
    ],
)
def test_an_error_ends_the_operation_with_its_own_words_and_exit_code(error: Exception, exit_code: int) -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        async def work(operation: Operation) -> End:
            raise error

        lines = await all_of(operations.follow(await started(operations, work)))
        assert (lines[-1].exit, lines[-1].message) == (exit_code, str(error))

    with_operations(body)


def test_a_bug_is_told_as_one_and_leaves_its_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        async def work(operation: Operation) -> End:
            raise ZeroDivisionError("oops")

        lines = await all_of(operations.follow(await started(operations, work)))
        assert lines[-1] == End(
            at=lines[-1].at, exit=1, message="internal error: ZeroDivisionError: oops; see the log of pgha-master"
        )
        await asyncio.sleep(0.1)
        assert operations.changing("prod") is None

    with_operations(body)
    assert "apply prod broke" in caplog.text


def test_lines_are_kept_while_it_runs_and_none_twice() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        await asyncio.sleep(1.2)
        assert len(store.kept[operation.id]) == 3
        await all_of(operations.follow(operation))
        await asyncio.sleep(0.1)
        assert len(store.kept[operation.id]) == 5

    with_operations(body)


def test_time_that_nobody_can_end_is_an_error_and_no_hang() -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="everybody waits"):
        play(for_ever())


def test_an_apply_counts_as_running_from_the_first_moment_on() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        first = asyncio.create_task(started(operations))
        await asyncio.sleep(0)
        running = operations.changing("prod")
        assert running is not None
        assert (await first).id == running.id

    with_operations(body)
