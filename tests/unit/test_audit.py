"""The audit trail: what a row tells, and that no row can be changed or taken out unseen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pgha.common.errors import UserError
from pgha.master.keeping import audit
from pgha.master.keeping.audit import Verdict, told
from pgha.master.store import Store
from pgha.master.verbs.audit import noted

T = TypeVar("T")


class StoppedClock:
    def monotonic(self) -> float:
        return 0.0

    def now(self) -> float:
        return 1_800_000_000.25


def using(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    async def live() -> T:
        store = Store(path / "pgha.db")
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(live())


def filled(path: Path, count: int) -> list[str]:
    """A trail of that many rows; the lines that its log would have: N:HASH."""

    async def work(store: Store) -> list[str]:
        rows = [
            await audit.record(store, f"ann (uid {n % 2}, admin)", "apply", {"n": n, "name": "x"}, StoppedClock())
            for n in range(count)
        ]
        return [f"{row.n}:{row.hash}" for row in rows]

    return using(path, work)


def checked(path: Path, expect: str = "") -> Verdict:
    return using(path, lambda store: audit.verify(store, noted(expect)))


def tamper(path: Path, statement: str) -> None:
    using(path, lambda store: store.write(lambda db: db.execute(statement)))


def test_a_whole_trail_is_whole_over_restarts_and_pages(tmp_path: Path) -> None:
    assert checked(tmp_path) == Verdict()
    filled(tmp_path, 1500)
    last = filled(tmp_path, 3)[-1]
    verdict = checked(tmp_path, last)
    assert (verdict.rows, verdict.broken, verdict.first_at) == (1503, 0, 1_800_000_000.25)
    assert f"{verdict.rows}:{verdict.last}" == last


@pytest.mark.parametrize("column", ["at", "who", "act", "detail", "hash"])
def test_a_row_that_was_changed_does_not_fit(tmp_path: Path, column: str) -> None:
    filled(tmp_path, 7)
    value = "17.0" if column == "at" else f"substr({column}, 2)"
    tamper(tmp_path, f"update audit set {column} = {value} where n = 4")
    verdict = checked(tmp_path)
    assert (verdict.broken, verdict.rows) == (4, 3)
    assert "row 4 is not as it was written" in verdict.why


@pytest.mark.parametrize(
    ("rows", "broken", "why"),
    [("n=1", 1, "row 1 must"), ("n=4", 4, "row 4 must"), ("n in (4,5)", 4, "rows 4 to 5 must")],
)
def test_a_row_that_was_taken_out_is_missed(tmp_path: Path, rows: str, broken: int, why: str) -> None:
    filled(tmp_path, 7)
    tamper(tmp_path, f"delete from audit where {rows}")
    verdict = checked(tmp_path)
    assert verdict.broken == broken
    assert verdict.why.startswith(why)


def test_a_row_that_was_taken_out_is_missed_after_renumbering(tmp_path: Path) -> None:
    filled(tmp_path, 7)
    tamper(tmp_path, "delete from audit where n=4")
    for n in (5, 6, 7):
        tamper(tmp_path, f"update audit set n={n - 1} where n={n}")
    assert checked(tmp_path).broken == 4


def test_two_rows_that_changed_places_do_not_fit(tmp_path: Path) -> None:
    filled(tmp_path, 7)
    for before, after in ((3, 99), (4, 3), (99, 4)):
        tamper(tmp_path, f"update audit set n={after} where n={before}")
    assert checked(tmp_path).broken == 3


def test_a_row_that_was_put_in_does_not_fit(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    tamper(tmp_path, "insert into audit values (4, 1.0, 'bob', 'apply', '{}', '" + "0" * 64 + "')")
    assert checked(tmp_path).broken == 4


def test_values_that_no_writer_would_write_are_a_broken_row_and_no_crash(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    tamper(tmp_path, "update audit set at = 9e999, who = x'ff00', detail = 'no json' where n = 2")
    assert checked(tmp_path).broken == 2


def test_a_cut_off_end_shows_against_a_hash_from_elsewhere_and_only_there(tmp_path: Path) -> None:
    log = filled(tmp_path, 7)
    tamper(tmp_path, "delete from audit where n > 5")
    assert checked(tmp_path).broken == 0
    verdict = checked(tmp_path, log[6])
    assert verdict.broken == 6
    assert "row 7 was noted and is not there" in verdict.why
    assert checked(tmp_path, log[4]).broken == 0


def test_a_trail_that_was_written_anew_shows_against_a_hash_from_elsewhere_and_only_there(tmp_path: Path) -> None:
    log = filled(tmp_path, 7)
    tamper(tmp_path, "delete from audit where n > 3")
    filled(tmp_path, 4)
    assert checked(tmp_path).broken == 0
    verdict = checked(tmp_path, log[5])
    assert (verdict.broken, verdict.rows) == (6, 5)
    assert "another hash than was noted" in verdict.why


def test_rows_written_at_once_are_one_chain(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await asyncio.gather(*(audit.record(store, f"w{n}", "apply", {}) for n in range(300)))

    using(tmp_path, work)
    assert (checked(tmp_path).rows, checked(tmp_path).broken) == (300, 0)


def test_the_newest_rows_are_listed_in_their_order_and_by_login_name(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[int]]:
        for who in ("ann (uid 1, admin)", "anna (uid 2, admin)", "token 1a2b", "ann (uid 1, viewer)"):
            await audit.record(store, who, "x", {})
        asked = ((9, ""), (2, ""), (9, "ann"), (9, "token 1a2b"), (9, "a"), (9, "ann%"))
        return [[row.n for row in await store.newest_audit(limit, who)] for limit, who in asked]

    assert using(tmp_path, work) == [[1, 2, 3, 4], [3, 4], [1, 4], [3], [], []]


def test_each_hash_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "pgha.audit"):
        (row,) = filled(tmp_path, 1)
    assert f"audit {row} ann (uid 0, admin): apply" in caplog.text


# ---- what a row tells


CANARY = "canary-77aa01"


@pytest.mark.parametrize(
    "arguments",
    [
        {"cluster": "prod", "name": "postgresql/superuser", "value": CANARY},
        {"value": [CANARY]},
        {"password": CANARY, "token": CANARY, "content": CANARY, "data": {"a": CANARY}},
        {"what_nobody_thought_of": CANARY},
        {"text": f"cluster: prod\npassword: {CANARY}\n"},
        {"csr": CANARY},
        {"nodes": {"a": CANARY}},
        {"args": [{"deep": CANARY}]},
        {"argv": ["x" * 300 + CANARY]},
        {"argv": ["x"] * 50 + [CANARY]},
        {"target": "x" * 300 + CANARY},
    ],
)
def test_neither_secrets_nor_bulk_are_in_a_row(arguments: dict[str, Any]) -> None:
    assert CANARY not in told(arguments)


def test_a_number_that_is_a_secret_is_not_kept_either() -> None:
    assert "4711" not in told({"value": 4711, "pin": 4711.5})


def test_what_was_asked_can_be_told_from_the_row() -> None:
    told_of = json.loads(told({"argv": ["systemctl", "stop", "etcd"], "target": "role:data", "timeout_s": 60.0}))
    assert told_of == {"argv": ["systemctl", "stop", "etcd"], "target": "role:data", "timeout_s": 60.0}
    one, other = (json.loads(told({"path": "prod.yml", "text": text})) for text in ("cluster: a", "cluster: b"))
    assert one["path"] == "prod.yml"
    assert one["text"]["sha256"] != other["text"]["sha256"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"argv": ["y" * 10_000] * 10_000},
        {f"key{n}": n for n in range(10_000)},
        {"k" * 100_000: 1},
        {"argv": [["a"] * 60] * 60},
        {"n": 10**400, "f": float("inf"), "x": float("nan"), "s": "\ud800"},
    ],
    ids=["long", "many", "key", "nested", "odd"],
)
def test_a_row_has_a_largest_size_whatever_was_asked(arguments: dict[str, Any]) -> None:
    assert len(told(arguments)) <= audit.DETAIL_BYTES
    told(arguments).encode()


@pytest.mark.parametrize("text", ["7", "7:", ":" + "a" * 64, "0:" + "a" * 64, "-1:" + "a" * 64, "7:" + "a" * 63, "²:x"])
def test_what_is_no_row_and_hash_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="is not N:HASH"):
        noted(text)
