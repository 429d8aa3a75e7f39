"""Operations: everybody sees all of it from the beginning, now or later, and every end has its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from pgha.common.errors import DefinitionError, HostError, Problem, Refused, UserError
from pgha.master.operations.operation import KEPT_LINES, UNSAVED
from pgha.master.operations.operations import Operation, Operations
from pgha.master.operations.progress import End, Note, Output, Started
from pgha.master.simulation.simulation import LoopClock, MemoryStore, play

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
        assert "the master was restarted" in lines[-1].message

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


# ---- much output


def talk(count: int, text: str = "x") -> Work:
    async def work(operation: Operation) -> End:
        for number in range(count):
            await operation.emit(Output(node="n1", stream="stdout", text=f"{number} {text}\n"))
        return End()

    return work


class SlowStore(MemoryStore):
    """Takes a while for each write, and remembers how much it was given at once."""

    def __init__(self) -> None:
        super().__init__([])
        self.largest = 0

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None:
        self.largest = max(self.largest, len(lines))
        await asyncio.sleep(0.5)
        await super().add_lines(operation, first, lines)


class FullStore(MemoryStore):
    """Takes the beginning and nothing more."""

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None:
        raise HostError("the disk is full")


def test_memory_holds_the_newest_lines_and_who_comes_late_reads_the_others_back() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations, talk(20_000), "run n1 -- seq")
        seen = 0
        async for line in operations.follow(operation):
            assert len(operation.lines) <= KEPT_LINES + 2 * UNSAVED
            if isinstance(line, Output):
                assert line.text == f"{seen} x\n"
                seen += 1
        assert seen == 20_000
        again = [line async for line in operations.follow(operation) if isinstance(line, Output)]
        assert len(again) == 20_000

    with_operations(body)


def test_large_lines_are_given_up_earlier_than_small_ones() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations, talk(1500, "x" * 16_000), "run n1 -- seq")
        await all_of(operations.follow(operation))
        assert sum(len(line.text) for line in operation.lines if isinstance(line, Output)) < 17_000 * 2 * UNSAVED
        assert operation.first > 0

    with_operations(body)


def test_who_talks_faster_than_the_store_writes_has_to_wait_for_it() -> None:
    async def body() -> None:
        store = SlowStore()
        operations = Operations(store, LoopClock())
        await all_of(operations.follow(await started(operations, talk(10_000), "run n1 -- seq")))
        await asyncio.sleep(1)
        assert len(store.kept) == 1
        assert store.largest <= 2 * UNSAVED
        assert all(len(lines) == 10_002 for lines in store.kept.values())

    play(body())


def test_a_store_that_takes_no_lines_neither_stops_the_work_nor_hides_that_lines_are_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        operations = Operations(FullStore([]), LoopClock())
        operation = await started(operations, talk(6000), "run n1 -- seq")
        lines = await asyncio.wait_for(all_of(operations.follow(operation)), 60)
        assert isinstance(lines[-1], End)

    play(body())
    assert "lines of" in caplog.text
    assert "are lost: the disk is full" in caplog.text


# ---- its state is one word


@pytest.mark.parametrize(
    ("end", "word"),
    [
        (End(), "done"),
        (End(exit=3), "done"),
        (End(exit=1), "failed"),
        (End(exit=4), "failed"),
        (End(exit=6), "refused"),
    ],
)
def test_what_became_of_it_is_one_word(end: End, word: str) -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        async def work(operation: Operation) -> End:
            return end

        operation = await started(operations, work)
        await all_of(operations.follow(operation))
        await asyncio.sleep(0.1)
        assert store.states == {operation.id: word}

    with_operations(body)


def test_work_that_waits_for_ever_is_broken_off_when_it_is_cancelled_and_nothing_of_it_is_open() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        async def work(operation: Operation) -> End:
            await asyncio.sleep(3600)
            return End()

        operation = await started(operations, work)
        free = [False, False, True]
        operations.stop(operation, "bert", lambda: free.pop(0))
        lines = await all_of(operations.follow(operation))
        assert (lines[-1].exit, lines[-1].message) == (1, "cancelled by bert; what had been done stays")
        assert lines[-1].at - lines[0].at < 60
        await asyncio.sleep(0.1)
        assert store.states == {operation.id: "cancelled"}

    with_operations(body)


def test_what_has_said_its_end_is_not_running_any_more() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        assert operations.running(operation.id) is operation
        async for _ in operations.follow(operation):
            pass
        assert operations.running(operation.id) is None

    with_operations(body)


def test_a_look_at_what_runs_gives_what_was_said_so_far_and_does_not_wait() -> None:
    async def body(operations: Operations, store: MemoryStore) -> None:
        operation = await started(operations)
        await asyncio.sleep(1.2)
        assert kinds(await all_of(operations.so_far(operation.id))) == ["started", "one", "two"]
        await all_of(operations.follow(operation))
        await asyncio.sleep(0.1)
        assert kinds(await all_of(operations.so_far(operation.id))) == ["started", "one", "two", "three"]

    with_operations(body)


# ---- a row that is stored while its work has begun


class LateStore(MemoryStore):
    async def put_operation(
        self,
        operation: str,
        kind: str,
        what: str,
        who: str,
        cluster: str,
        started: float,
        request: str,
        *,
        lazy: bool = False,
    ) -> None:
        await asyncio.sleep(5)
        await super().put_operation(operation, kind, what, who, cluster, started, request)


class NoStore(MemoryStore):
    async def put_operation(
        self,
        operation: str,
        kind: str,
        what: str,
        who: str,
        cluster: str,
        started: float,
        request: str,
        *,
        lazy: bool = False,
    ) -> None:
        await asyncio.sleep(1)
        raise HostError("the disk is full")


@pytest.mark.parametrize(("at_once", "begun_at"), [(True, 0.0), (False, 5.0)])
def test_what_only_asks_begins_at_once_and_nothing_is_told_before_its_row_is_stored(
    at_once: bool, begun_at: float
) -> None:
    async def body() -> None:
        clock = LoopClock()
        operations, begun = Operations(LateStore([]), clock), []

        async def work(operation: Operation) -> End:
            begun.append(clock.monotonic())
            return End()

        operation = await operations.start("run n1 ping", "", "anna", work, at_once=at_once)
        async for _ in operations.follow(operation):
            assert clock.monotonic() == 5.0
        assert begun == [begun_at]

    play(body())


@pytest.mark.parametrize("at_once", [True, False])
def test_a_row_that_cannot_be_stored_is_told_and_is_no_operation(at_once: bool) -> None:
    async def body() -> None:
        operations = Operations(NoStore([]), LoopClock())

        async def work(operation: Operation) -> End:
            return End()

        with pytest.raises(HostError, match="the disk is full"):
            operation = await operations.start("run n1 ping", "", "anna", work, at_once=at_once)
            await all_of(operations.follow(operation))
        await asyncio.sleep(1)
        assert operations.blobs() == set()
        assert operations.changing("") is None

    play(body())
