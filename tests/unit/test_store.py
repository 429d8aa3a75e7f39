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
from pgha.master.store import AnswerRow, EventRow, JobRow, MinionRow, Piece, Store
from pgha.master.store.jobs import EPOCHS, OPEN_STRAYS, STRAYS

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


async def job(store: Store, jid: str = ONE, *words: str, node: str = "n1") -> None:
    """A job that is queued, and to which those things happened."""
    await store.put_jobs([JobRow(jid, 1, node, "OP", "call", "call", "ping", "queued", 10**15, b"sealed")], 0.0)
    for word in words:
        await store.move_job(jid, 1, node, word, "", 1.0)


def said(seq: int, kind: str = "out", body: str = "{}", jid: str = ONE, word: str | None = None) -> EventRow:
    return EventRow(seq, jid, 1, kind, body, kind if word is None else word)


async def event(
    store: Store, seq: int, kind: str = "out", *, node: str = "n1", epoch: str = "e", jid: str = ONE
) -> int:
    return (await store.add_pieces([Piece(node, epoch, [said(seq, kind, jid=jid)])], 5.0))[0].hw


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

    assert using(tmp_path, work) == [ValueError, HostError, [], 50]


def test_a_disk_that_fills_up_in_the_middle_is_told_as_that_and_stops_nobody(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await store.note("prod", "before", "v")
        pages = "select page_count from pragma_page_count"
        await store.write(
            lambda db: db.execute(f"pragma max_page_count={db.execute(pages).fetchone()[0] + 1}").fetchone()
        )
        small = store.submit(lambda db: db.execute("insert into meta values ('small', '')"), lazy=True)
        ended = await asyncio.gather(small, store.note("prod", "large", "x" * 5_000_000), return_exceptions=True)
        await store.write(lambda db: db.execute("pragma max_page_count=1000000").fetchone())
        await store.note("prod", "after", "v")
        return [*(str(one).rpartition(": ")[2] for one in ended), sorted(await store.notes("prod")), store.alive]

    full = "database or disk is full"
    assert using(tmp_path, work) == [full, full, ["after", "before"], True]


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
        await job(store)
        highs = [await event(store, seq) for seq in (2, 1, 1, 3, 2)]
        stored = await store.read(lambda db: db.execute("select seq from events order by seq").fetchall())
        assert stored == [(1,), (2,)]
        return highs

    assert using(tmp_path, work) == [0, 1, 1, 1, 2]


def test_a_piece_of_a_stream_is_stored_as_far_as_it_fits(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[int, dict[int, str]]:
        await job(store)
        await event(store, 1, "started")
        (stored,) = await store.add_pieces([Piece("n1", "e", [said(1), said(2), said(3, "done"), said(5)])], 5.0)
        return stored.hw, stored.states

    assert using(tmp_path, work) == (3, {2: "started", 3: "done"})


def test_streams_of_other_epochs_and_nodes_are_their_own(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int]:
        await job(store)
        await event(store, 1)
        return [await event(store, 1, node="n2"), await event(store, 1, epoch="f")]

    assert using(tmp_path, work) == [1, 1]


def test_a_node_with_a_new_epoch_for_each_event_fills_nothing_and_costs_nobody(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await job(store)
        await event(store, 1, node="n2", epoch="of n2")
        for number in range(3 * EPOCHS):
            await event(store, 1, epoch=f"e{number}")
        pieces = [Piece("n1", "e0", [said(1)]), Piece("n2", "of n2", [said(2)])]
        highs = [stored.hw for stored in await store.add_pieces(pieces, 5.0)]
        count = "select node, count(*) from streams group by node order by node"
        return [highs, await store.read(lambda db: db.execute(count).fetchall())]

    assert using(tmp_path, work) == [[1, 2], [("n1", EPOCHS), ("n2", 1)]]


def test_the_high_water_survives(tmp_path: Path) -> None:
    using(tmp_path, lambda store: event(store, 1))
    assert using(tmp_path, lambda store: store.begin_stream("n1", "e")) == 1
    assert using(tmp_path, lambda store: store.begin_stream("n1", "other")) == 0


def test_a_gap_is_passed_over_only_when_its_minion_says_that_it_is_lost(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await job(store)
        await event(store, 1)
        wrong = [await store.lose_events("n1", "e", first, last, 5.0) for first, last in ((1, 4), (3, 4), (2, 1))]
        after = [await store.lose_events("n1", "e", 2, 4, 5.0), await event(store, 5)]
        noted = await store.read(lambda db: db.execute("select seq, body from events where kind='lost'").fetchall())
        return [wrong, after, noted]

    assert using(tmp_path, work) == [[1, 1, 1], [4, 5], [(4, '{"first":2,"last":4}')]]


def test_a_state_becomes_true_with_its_event_or_not_at_all(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[str]]:
        await job(store)
        seen = []
        for seq, kind in ((5, "done"), (1, "started"), (1, "done"), (2, "done")):
            await event(store, seq, kind)
            seen.append(await state_of(store))
        return seen

    assert using(tmp_path, work) == [["queued"], ["started"], ["started"], ["done"]]


def test_another_node_settles_nothing_and_leaves_no_trace(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await job(store)
        await event(store, 1, "done", node="n2")
        await store.move_job(ONE, 1, "n2", "cancelled", "", 1.0)
        assert await store.answers([AnswerRow(ONE, 1, "n2", ["{}"], "{}", "done")], 5.0) == [""]
        rows = await store.read(lambda db: db.execute("select count(*) from events").fetchone())
        return [*await state_of(store), rows[0]]

    assert using(tmp_path, work) == ["queued", 0]


@pytest.mark.parametrize("late", ["overdue", "cancelled", "started", "accept"])
def test_an_end_that_is_known_is_final_whatever_was_on_its_way(tmp_path: Path, late: str) -> None:
    async def work(store: Store) -> list[str]:
        await job(store)
        done = store.add_pieces([Piece("n1", "e", [said(1, "done")])], 5.0)
        await asyncio.gather(done, store.move_job(ONE, 1, "n1", late, "its deadline", 9.0))
        await event(store, 2, "failed")
        return await state_of(store)

    assert using(tmp_path, work) == ["done"]


def test_what_was_not_known_becomes_known_when_its_minion_tells_it(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        await job(store, ONE, "accept", "overdue")
        before = await state_of(store)
        await event(store, 1, "started")
        await event(store, 2, "done")
        return [*before, *await state_of(store)]

    assert using(tmp_path, work) == ["unknown", "done"]


def test_an_answer_is_its_output_and_its_end_at_once(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await job(store)
        answer = AnswerRow(ONE, 1, "n1", ["a", "b"], '{"ok":true}', "done")
        states = [*await store.answers([answer], 5.0), *await store.answers([answer], 6.0)]
        rows = await store.read(lambda db: db.execute("select seq, body from events order by seq").fetchall())
        return [states, rows, (await store.jobs("OP"))[0][3]]

    assert using(tmp_path, work) == [["done", "done"], [(1, "a"), (2, "b")], '{"ok":true}']


def test_a_job_that_has_ended_keeps_no_document(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await job(store)
        await job(store, TWO)
        await event(store, 1, "done")
        kept = await store.read(lambda db: db.execute("select jid, length(payload) from jobs order by jid").fetchall())
        return [kept, [row.jid for row in await store.open_jobs()]]

    assert using(tmp_path, work) == [[(ONE, 0), (TWO, 6)], [TWO]]


@pytest.mark.parametrize(("kind", "state", "most"), [("done", "done", STRAYS), ("started", "started", OPEN_STRAYS)])
def test_jobs_that_this_store_does_not_know_are_taken_down_up_to_a_limit(
    tmp_path: Path, kind: str, state: str, most: int
) -> None:
    async def work(store: Store) -> list[object]:
        strays = [said(n, kind, jid=f"01ARZ3NDEKTSV4RRFFQ69G{n:04d}") for n in range(1, most + 20)]
        await store.add_pieces([Piece("n1", "e", strays)], 5.0)
        return await store.read(
            lambda db: db.execute("select state, count(*) from jobs where operation='' group by state").fetchall()
        )

    assert using(tmp_path, work) == [(state, most)]


def test_a_token_is_spent_by_one_only(tmp_path: Path) -> None:
    async def work(store: Store) -> list[bool]:
        await store.put_token("t", "n1", 9.0, "ann")
        assert await store.token("t") == ("n1", 9.0, "ann")
        return list(await asyncio.gather(*(store.spend_token("t") for _ in range(5))))

    assert sorted(using(tmp_path, work)) == [False, False, False, False, True]
    assert using(tmp_path, lambda store: store.token("t")) is None


def test_every_start_has_a_higher_epoch_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    def started(now: float) -> int:
        return using(tmp_path, lambda store: store.next_epoch(now))

    assert [started(now) for now in (50.0, 50.0, 9.0, 70.0)] == [50, 51, 52, 70]


def test_a_master_that_supersedes_is_newer_than_any_clock_could_make_another(tmp_path: Path) -> None:
    later = 4e10  # the year 3237
    before = using(tmp_path, lambda store: store.next_epoch(later))
    assert using(tmp_path, lambda store: store.next_epoch(50.0, supersede=True)) > before + later
    assert using(tmp_path, lambda store: store.next_epoch(60.0)) > before + later


def test_a_store_of_a_newer_pgha_is_refused_and_not_touched(tmp_path: Path) -> None:
    using(tmp_path, lambda store: store.minions())
    with sqlite3.connect(tmp_path / "pgha.db") as db:
        db.execute("pragma user_version=99")
    with pytest.raises(HostError, match="newer pgha"):
        using(tmp_path, lambda store: store.minions())


def test_a_next_key_becomes_the_accepted_one_when_it_speaks(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await store.put_minion(row("n1", "k1", "accepted"))
        assert await store.put_next_key(row("n1", "never used", "next"), "k1")
        assert await store.put_next_key(row("n1", "k2", "next"), "k1")
        said = [await store.seen("n1", key, "10.77.0.9", 7.0, "{}") for key in ("k1", "k2", "k2")]
        return [said, [(one.public_key, one.state) for one in await store.minions()]]

    assert using(tmp_path, work) == [[False, True, False], [("k1", "retired"), ("k2", "accepted")]]


def test_a_next_key_is_nothing_beside_a_key_that_is_no_more(tmp_path: Path) -> None:
    async def work(store: Store) -> list[object]:
        await store.put_minion(row("n1", "k1", "accepted"))
        await store.put_next_key(row("n1", "k2", "next"), "k1")
        revoked = store.put_minion(row("n1", "k1", "revoked"))
        _, taken = await asyncio.gather(revoked, store.put_next_key(row("n1", "k3", "next"), "k1"))
        promoted = [await store.seen("n1", "k2", "10.77.0.9", 7.0, "{}")]
        await store.put_minion(row("n1", "k4", "accepted"))
        taken_of_another = await store.put_next_key(row("n1", "k5", "next"), "k1")
        states = {one.public_key: one.state for one in await store.minions()}
        return [taken, promoted, taken_of_another, states]

    states = {"k1": "revoked", "k2": "next", "k4": "accepted"}
    assert using(tmp_path, work) == [False, [False], False, states]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    using(tmp_path, lambda store: store.minions())
    assert stat.S_IMODE((tmp_path / "pgha.db").stat().st_mode) == 0o600


def test_a_damaged_store_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "pgha.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(HostError, match="cannot use the store"):
        using(tmp_path, lambda store: store.minions())
