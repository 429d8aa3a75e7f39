from __future__ import annotations

from typing import Any

import pytest
from pgha.common.clock import moment
from pgha.common.errors import Refused, UserError
from pgha.master.cli.restore import insist, target, told

NOTHING: dict[str, Any] = {
    "to": None,
    "xid": None,
    "lsn": None,
    "point": None,
    "label": "",
    "resume": False,
    "cancel": False,
    "commit": False,
}
WINDOW: dict[str, Any] = {
    "cluster": "prod",
    "bare": False,
    "leader": "a",
    "nodes": ["a", "b"],
    "earliest": "2026-01-01T00:00:00Z",
    "earliest_s": 1767225600.0,
    "asked_at_s": 1767312000.0,
    "wal_until": "000000010000000000000007",
    "backups": [{"label": "F", "ended": "2026-01-01T00:00:00Z"}],
    "unusable": [],
}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"to": "latest"}, {"kind": "latest"}),
        ({"to": "2026-11-22 18:21:03.5+02"}, {"kind": "time", "value": "2026-11-22 16:21:03.500000+00"}),
        ({"to": "2026-11-22T18:21:03Z"}, {"kind": "time", "value": "2026-11-22 18:21:03.000000+00"}),
        ({"to": "2026-11-22 18:21"}, {"kind": "time", "value": "2026-11-22 18:21:00.000000+00"}),
        ({"xid": "779"}, {"kind": "xid", "value": "779"}),
        ({"lsn": "0/4D000028"}, {"kind": "lsn", "value": "0/4D000028"}),
        ({"point": "before-the-release"}, {"kind": "name", "value": "before-the-release"}),
        ({"resume": True}, {"resume": True}),
    ],
)
def test_one_target_is_read_as_the_tool_takes_it(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = target(**{**NOTHING, **given})
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "say one of"),
        ({"to": "latest", "xid": "1"}, "say one of"),
        ({"to": "latest", "commit": True}, "say one of"),
        ({"to": "yesterday"}, "is no time; write it as 2026-11-22 18:21:03"),
        ({"xid": "-1"}, "--xid: '-1' is none"),
        ({"lsn": "0/x'; drop"}, "--lsn"),
        ({"point": "a b"}, "--name"),
        ({"to": "latest", "label": "../x"}, "is no label of a backup"),
    ],
)
def test_what_is_no_target_is_told_before_anything_is_asked(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        target(**{**NOTHING, **given})


def test_a_time_outside_of_the_window_is_refused_with_the_window() -> None:
    with pytest.raises(Refused, match="before the end of the oldest backup, 2026-01-01T00:00:00Z"):
        insist(WINDOW, {"kind": "time", "value": moment("2025-12-31 23:59:59+00")})
    with pytest.raises(Refused, match="has not come yet"):
        insist(WINDOW, {"kind": "time", "value": moment("2026-01-02 00:00:01+00")})
    insist(WINDOW, {"kind": "time", "value": moment("2026-01-01 12:00:00+00")})


def test_a_person_is_told_what_can_be_had_and_what_it_costs() -> None:
    text = "\n".join(told(WINDOW, {"kind": "time", "value": "2026-01-01 12:00:00+00"}))
    assert "from 2026-01-01T00:00:00Z on" in text and "a leads now" in text and "stops on a, b" in text
    assert "is deleted" in "\n".join(told(WINDOW, {"commit": True}))
    assert "built anew" in "\n".join(told({"bare": True, "cluster": "prod"}, {"kind": "latest"}))
