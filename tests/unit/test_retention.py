"""What is forgotten and what never is, and that nobody's write waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pgha.common.sqlite import Connection
from pgha.master.keeping import audit
from pgha.master.keeping.retention import DAY_S, NEWEST, ROWS, Forgotten, Keep, keep_tidy, report, tidy
from pgha.master.store import Store
from pydantic import ValidationError

T = TypeVar("T")
NOW = 1_000 * DAY_S
KEEP = Keep(days=30)


def using(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    async def live() -> T:
        store = Store(path / "pgha.db")
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(live())


def operation(db: Connection, number: int, *, age_days: float, lines: int = 1, jobs: int = 1, events: int = 1) -> None:
    """One that ended so many days ago, its jobs as well."""
    identity, at = f"OP{number:06}", NOW - age_days * DAY_S
    db.execute(
        "insert into operations (id, what, who, cluster, state, started, ended) values (?,'run','ann','','done',?,?)",
        (identity, at, at),
    )
    for n in range(lines):
        db.execute("insert into lines values (?,?,'x')", (identity, n))
    for n in range(jobs):
        jid = f"J{number:06}-{n}"
        db.execute(
            "insert into jobs (jid, att, node, operation, mode, what, state, created, ended, not_after_ms)"
            " values (?,1,'n1',?,'call','ping','done',?,?,0)",
            (jid, identity, at, at),
        )
        for seq in range(events):
            add_event(db, jid, at, number * 100_000 + n * 10_000 + seq)


def add_event(db: Connection, jid: str, at: float, seq: int, body: str = "{}") -> None:
    db.execute("insert into events values ('n1','e',?,?,'out',?,?)", (seq, jid, body, at))


def fill(*steps: Callable[[Connection], Any]) -> Callable[[Store], Awaitable[None]]:
    async def work(store: Store) -> None:
        for step in steps:
            await store.write(step)

    return work


def newest(db: Connection) -> None:
    """As many recent operations as always stay."""
    for number in range(NEWEST):
        operation(db, 900_000 + number, age_days=0)


def left(path: Path) -> dict[str, list[str]]:
    """What is there still, but for the newest."""

    async def work(store: Store) -> dict[str, list[str]]:
        def look(db: Connection) -> dict[str, list[str]]:
            return {
                table: sorted({row[0] for row in db.execute(f"select {column} from {table}") if row[0][2:3] != "9"})
                for table, column in (("operations", "id"), ("lines", "operation"), ("events", "jid"))
            } | {"jobs": sorted(r[0] for r in db.execute("select operation from jobs") if r[0][2:3] != "9")}

        return await store.read(look)

    found = using(path, work)
    found["events"] = sorted({jid.replace("J", "OP")[:8] for jid in found["events"] if jid[1:2] != "9"})
    return found


def tidied(path: Path, keep: Keep = KEEP) -> Forgotten:
    return using(path, lambda store: tidy(store, NOW, keep))


def test_what_is_older_than_it_may_be_goes_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    def some(db: Connection) -> None:
        for number, age_days in enumerate((40, 31, 29, 1)):
            operation(db, number, age_days=age_days, lines=3, jobs=2, events=4)

    using(tmp_path, fill(some, newest))
    forgotten = tidied(tmp_path)
    kept = ["OP000002", "OP000003"]
    assert left(tmp_path) == {
        "operations": kept,
        "lines": kept,
        "events": kept,
        "jobs": [kept[0], kept[0], kept[1], kept[1]],
    }
    assert (forgotten.operations, forgotten.rows) == (2, 2 * (1 + 3 + 2 + 8))
    assert tidied(tmp_path).rows == 0


def test_the_newest_stay_however_old_they_are(tmp_path: Path) -> None:
    def old(db: Connection) -> None:
        for number in range(NEWEST + 3):
            operation(db, number, age_days=900 - number)

    using(tmp_path, fill(old))
    assert tidied(tmp_path).operations == 3
    assert left(tmp_path)["operations"] == [f"OP{number:06}" for number in range(3, NEWEST + 3)]


@pytest.mark.parametrize("count", [0, 1, NEWEST])
def test_few_are_not_touched(tmp_path: Path, count: int) -> None:
    def old(db: Connection) -> None:
        for number in range(count):
            operation(db, number, age_days=900)

    using(tmp_path, fill(old))
    assert tidied(tmp_path).rows == 0


@pytest.mark.parametrize("state", ["queued", "accepted", "started"])
def test_what_is_open_stays(tmp_path: Path, state: str) -> None:
    def open_ones(db: Connection) -> None:
        for number in range(3):
            operation(db, number, age_days=900, jobs=2)
        db.execute("update operations set ended=null, state='started' where id='OP000000'")
        db.execute("update jobs set state=?, ended=null where jid='J000001-1'", (state,))

    using(tmp_path, fill(open_ones, newest))
    assert tidied(tmp_path).operations == 1
    found = left(tmp_path)
    assert found["operations"] == found["lines"] == found["events"] == ["OP000000", "OP000001"]
    assert len(found["jobs"]) == 4


def test_one_that_was_opened_again_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def work(store: Store) -> int:
        await store.write(lambda db: operation(db, 1, age_days=900))
        await store.write(lambda db: db.execute("update operations set ended=null"))
        return await store.forget_operation("OP000001", ROWS)

    assert using(tmp_path, work) == 0


def test_streams_and_the_audit_trail_stay_whole(tmp_path: Path) -> None:
    async def before(store: Store) -> None:
        await audit.record(store, "ann", "apply", {})
        await store.write(lambda db: add_event(db, "J000001-0", 0.0, 3))
        await store.write(lambda db: db.execute("insert into streams values ('n1', 'e', 3)"))
        await store.write(lambda db: operation(db, 1, age_days=900, events=0))
        await store.write(newest)

    using(tmp_path, before)
    assert tidied(tmp_path).operations == 1
    streams = using(tmp_path, lambda store: store.read(lambda db: db.execute("select * from streams").fetchall()))
    assert streams == [("n1", "e", 3)]
    assert using(tmp_path, audit.verify).rows == 1


def test_events_of_no_job_go_when_they_are_old(tmp_path: Path) -> None:
    def strays(db: Connection) -> None:
        operation(db, 5, age_days=1)
        for number in range(ROWS * 2 + 7):
            add_event(db, f"J{number % 700:06}-x", 0.0 if number % 2 else NOW - 2 * 3600, number)
        for number in range(ROWS + 3):
            add_event(db, "J000800-x" if number else "", 0.0, 10_000 + number)

    using(tmp_path, fill(strays))
    assert tidied(tmp_path).rows == ROWS + 3 + ROWS + 3
    assert "OP000005" in left(tmp_path)["events"]
    recent = using(tmp_path, lambda store: store.read(lambda db: db.execute("select count(*) from events").fetchone()))
    assert recent == (ROWS + 4 + 1,)


def test_jobs_of_no_operation_go_when_they_are_old_also_those_whose_end_nobody_knows(tmp_path: Path) -> None:
    def loose(db: Connection) -> None:
        for number, age_days in ((1, 900), (2, 900), (3, 1)):
            operation(db, number, age_days=age_days, jobs=3, events=2)
        db.execute("delete from operations")
        db.execute("update jobs set operation=''")
        db.execute("update jobs set state='started', ended=null where jid like 'J000002%'")

    using(tmp_path, fill(loose))
    assert tidied(tmp_path).rows == 2 * (3 + 6)
    assert left(tmp_path)["events"] == ["OP000003"]


def test_a_full_store_forgets_the_oldest_until_it_is_small_enough(tmp_path: Path) -> None:
    def big(db: Connection) -> None:
        for number in range(40):
            operation(db, number, age_days=20 - number / 10, events=0)
            add_event(db, f"J{number:06}-0", NOW, number, "x" * 1024**2)

    using(tmp_path, fill(big, newest))
    forgotten = tidied(tmp_path, Keep(size=24 * 1024**2))
    assert 16 * 1024**2 < forgotten.used_bytes <= 24 * 1024**2
    kept = left(tmp_path)["operations"]
    assert kept == [f"OP{number:06}" for number in range(40 - len(kept), 40)]
    assert 18 <= len(kept) <= 24


def test_a_store_that_stays_too_large_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "pgha.retention"):
        report(Forgotten(0, 0, 10), KEEP)
        assert caplog.text == ""
        report(Forgotten(2, 14, KEEP.size + 1), KEEP)
    assert "forgot 2 ended jobs" in caplog.text
    assert "more than keep.size allows (1024 MiB)" in caplog.text


def test_no_step_takes_more_than_so_many_rows(tmp_path: Path) -> None:
    """Rows are counted by the database itself, transaction by transaction."""

    async def work(store: Store) -> int:
        totals: list[int] = []

        def watch(db: Connection) -> None:
            totals.append(db.total_changes)
            db.set_trace_callback(lambda said: totals.append(db.total_changes) if said.lower() == "commit" else None)

        await store.write(lambda db: operation(db, 1, age_days=900, lines=2600, jobs=3, events=1100))
        await store.write(newest)
        await store.write(watch)
        forgotten = await tidy(store, NOW, KEEP)
        await store.write(lambda db: db.set_trace_callback(None))
        assert forgotten.rows == 2600 + 3 + 3300 + 1
        return max(after - before for before, after in pairwise(totals))

    assert 0 < using(tmp_path, work) <= ROWS + 1  # the operation itself


def test_tidying_begins_at_once_and_goes_on_until_it_is_ended(tmp_path: Path) -> None:
    class Later:
        def monotonic(self) -> float:
            return 0.0

        def now(self) -> float:
            return NOW

    async def work(store: Store) -> bool:
        await store.write(lambda db: operation(db, 1, age_days=900))
        await store.write(newest)
        task = asyncio.create_task(keep_tidy(store, Later(), KEEP))

        async def forgotten() -> None:
            while await store.lines("OP000001"):
                pass

        await asyncio.wait_for(forgotten(), 20)
        ongoing = not task.done()
        task.cancel()
        return ongoing

    assert using(tmp_path, work)


@pytest.mark.parametrize("wrong", [{"days": 0}, {"days": -1}, {"size": "1MiB"}, {"size": "much"}, {"weeks": 3}])
def test_settings_that_would_forget_everything_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Keep.model_validate(wrong)
