"""What a master remembers, and that one failing write costs nobody else's."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from pgha.common.errors import HostError
from pgha.master.store import MinionRow, Store

T = TypeVar("T")
ONE = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
TWO = "01ARZ3NDEKTSV4RRFFQ69G5FAW"


def using(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store, do the work, close it: a master's life."""

    async def live() -> T:
        store = Store(path / "pgha.db")
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(live())


def row(name: str, key: str, state: str) -> MinionRow:
    return MinionRow(name, key, state, "10.77.0.9", "m", "", 0.0, 0.0, "")


async def job(store: Store, jid: str = ONE, state: str = "queued", not_after_ms: int = 10**15) -> None:
    await store.put_job(jid, 1, "n1", "OP", "call", "ping", 0.0, not_after_ms)
    if state != "queued":
        await store.job_state(jid, 1, state)


async def event(store: Store, seq: int, state: tuple[str, str] | None = None, *, node: str = "n1") -> int:
    return await store.add_event(node, "e", seq, ONE, "out", "{}", 5.0, state)


async def state_of(store: Store) -> list[str]:
    return [one[1] for one in await store.jobs("OP")]


def test_a_write_is_there_after_a_restart(tmp_path: Path) -> None:
    using(tmp_path, lambda store: store.put_minion(row("n1", "k", "accepted")))
    assert using(tmp_path, lambda store: store.minions()) == [row("n1", "k", "accepted")]


def test_one_name_has_one_accepted_key(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[str, str]]:
        await store.put_minion(row("n1", "k1", "accepted"))
        await store.put_minion(row("n1", "k2", "revoked"))
        await store.put_minion(row("n2", "k3", "accepted"))
        return [(one.name, one.public_key) for one in await store.minions() if one.state == "accepted"]

    assert using(tmp_path, work) == [("n1", "k1"), ("n2", "k3")]


def test_one_failing_write_costs_nobody_elses(tmp_path: Path) -> None:
    def broken(db: sqlite3.Connection) -> None:
        db.execute("insert into meta values ('half', 'done')")
        raise ValueError("no")

    async def work(store: Store) -> list[object]:
        writes: list[Awaitable[object]] = [store.note("prod", f"k{number}", "v") for number in range(50)]
        writes[25:25] = [store.write(broken), store.write(lambda db: db.execute("no sql"))]
        ended = await asyncio.gather(*writes, return_exceptions=True)
        half = await store.read(lambda db: db.execute("select * from meta where key='half'").fetchall())
        return [*(type(one) for one in ended if isinstance(one, Exception)), half, len(await store.notes("prod"))]

    assert using(tmp_path, work) == [ValueError, sqlite3.OperationalError, [], 50]


def test_writes_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    async def work(store: Store) -> int:
        commits = 0

        def count(statement: str) -> None:
            nonlocal commits
            commits += statement.lower() == "commit"

        await store.write(lambda db: db.set_trace_callback(count))
        await asyncio.gather(*(store.note("prod", f"k{number}", "v") for number in range(150)))
        await store.write(lambda db: db.set_trace_callback(None))
        return commits

    assert using(tmp_path, work) < 75


def test_an_event_is_stored_once_and_only_as_the_next_one(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int]:
        highs = [await event(store, seq) for seq in (2, 1, 1, 3, 2)]
        stored = await store.read(lambda db: db.execute("select seq from events order by seq").fetchall())
        assert stored == [(1,), (2,)]
        return highs

    assert using(tmp_path, work) == [0, 1, 1, 1, 2]


def test_streams_of_other_epochs_and_nodes_are_their_own(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int]:
        await event(store, 1)
        return [await event(store, 1, node="n2"), await store.add_event("n1", "f", 1, ONE, "out", "{}", 5.0, None)]

    assert using(tmp_path, work) == [1, 1]


def test_the_high_water_survives_and_only_rises(tmp_path: Path) -> None:
    using(tmp_path, lambda store: event(store, 1))
    assert using(tmp_path, lambda store: store.high_water("n1", "e")) == 1
    assert using(tmp_path, lambda store: store.begin_stream("n1", "e", 0)) == 1
    assert using(tmp_path, lambda store: store.begin_stream("n1", "e", 9)) == 9
    assert using(tmp_path, lambda store: event(store, 10)) == 10


def test_a_state_becomes_true_with_its_event_or_not_at_all(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[str]]:
        await job(store)
        seen = []
        for seq, state in ((5, "done"), (1, "started"), (1, "done"), (2, "done")):
            await event(store, seq, (state, '{"ok": true}'))
            seen.append(await state_of(store))
        return seen

    assert using(tmp_path, work) == [["queued"], ["started"], ["started"], ["done"]]


def test_another_node_settles_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        await job(store)
        await event(store, 1, ("done", "{}"), node="n2")
        return await state_of(store)

    assert using(tmp_path, work) == ["queued"]


@pytest.mark.parametrize("late", ["unknown", "cancelled", "started", "accepted"])
def test_an_end_is_final_whatever_was_on_its_way(tmp_path: Path, late: str) -> None:
    async def work(store: Store) -> list[str]:
        await job(store)
        await asyncio.gather(event(store, 1, ("done", "{}")), store.job_state(ONE, 1, late, "its deadline", 9.0))
        await event(store, 2, (late, ""))
        return await state_of(store)

    assert using(tmp_path, work) == ["done"]


def test_jobs_that_nobody_follows_end_with_their_deadline(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        for jid, state, not_after_ms in ((ONE, "queued", 10), (TWO, "started", 10), (TWO[:-1] + "X", "started", 10**9)):
            await job(store, jid, state, not_after_ms)
        await store.settle_overdue(1.0)
        return await state_of(store)

    assert using(tmp_path, work) == ["expired", "unknown", "started"]


def test_a_token_is_spent_by_one_only(tmp_path: Path) -> None:
    async def work(store: Store) -> list[bool]:
        await store.put_token("t", "s", "n1", 9.0)
        assert await store.token("t") == ("s", "n1", 9.0)
        return list(await asyncio.gather(*(store.spend_token("t") for _ in range(5))))

    assert sorted(using(tmp_path, work)) == [False, False, False, False, True]
    assert using(tmp_path, lambda store: store.token("t")) is None


def test_every_start_has_a_higher_epoch(tmp_path: Path) -> None:
    assert [using(tmp_path, lambda store: store.next_epoch()) for _ in range(3)] == [1, 2, 3]


def test_what_ran_when_the_master_died_is_called_interrupted(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await store.put_operation("A", "run", "root", "", 1.0)
        await store.put_operation("B", "run", "root", "", 2.0)
        await store.end_operation("A", "done", 0, "", 3.0)

    async def after(store: Store) -> list[tuple[str, str]]:
        await store.close_interrupted(9.0)
        return [(one["id"], one["state"]) for one in await store.operations(10)]

    using(tmp_path, before)
    assert using(tmp_path, after) == [("B", "interrupted"), ("A", "done")]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    using(tmp_path, lambda store: store.minions())
    assert stat.S_IMODE((tmp_path / "pgha.db").stat().st_mode) == 0o600


def test_a_damaged_store_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "pgha.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(HostError, match="cannot use the store"):
        using(tmp_path, lambda store: store.minions())
