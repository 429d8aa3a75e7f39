"""What a rollout does to PostgreSQL on a node, and the watch that says how long writes were refused meanwhile."""

from __future__ import annotations

import json

import pytest
from pgha.common.errors import ActionFailed, HostError, UserError
from pgha.minion.functions import Call, Doors, call
from pgha.minion.probe_write import QUIET_S, Gaps, watch
from pgha.minion.probes import patroni
from pgha.states.action import PostPatroni
from pgha.states.testing import FakeSystem


def doors(system: FakeSystem) -> Doors:
    def nothing(*_: object) -> None:
        raise AssertionError("not expected")

    return Doors(system, nothing, lambda: False, nothing)


def test_a_restart_is_ordered_only_where_a_setting_waits_for_it() -> None:
    system = FakeSystem()
    assert call(Call(function="patroni.restart", arguments=("replica",), timeout_s=300), doors(system)).ok
    (order,) = system.performed
    assert order == PostPatroni("/restart", '{"restart_pending": true, "role": "replica"}', 300)


def test_a_restart_is_for_a_server_of_that_role_only() -> None:
    with pytest.raises(UserError, match="is no role"):
        call(Call(function="patroni.restart", arguments=("leader",)), doors(FakeSystem()))


def test_a_switchover_names_who_leads_so_that_it_is_not_done_twice() -> None:
    system = FakeSystem()
    assert call(Call(function="patroni.switchover", arguments=("n1", "n2")), doors(system)).ok
    (order,) = system.performed
    assert isinstance(order, PostPatroni)
    assert (order.path, json.loads(order.body)) == ("/switchover", {"leader": "n1", "candidate": "n2"})


def test_what_patroni_refuses_is_told() -> None:
    system = FakeSystem(broken={"PostPatroni": "Patroni refuses /switchover with HTTP 412: n2 is too far behind"})
    with pytest.raises(ActionFailed, match="too far behind") as refused:
        call(Call(function="patroni.switchover", arguments=("n1", "n2")), doors(system))
    assert isinstance(refused.value, HostError)


@pytest.mark.parametrize(
    ("node", "port"), [("n1; drop table x", "5433"), ("n1", "5433 host=10.9.9.9"), ("n1", ""), ("", "5433")]
)
def test_what_a_watch_is_given_is_a_name_and_numbers(node: str, port: str) -> None:
    with pytest.raises(UserError, match="is no"):
        watch(node, port, "1", lambda: None, lambda: False)


def seen(*writes: tuple[float, float, str]) -> Gaps:
    gaps = Gaps()
    for write in writes:
        gaps.took(*write)
    return gaps


def test_the_gap_is_from_the_last_write_before_it_to_the_end_of_the_first_one_after_it() -> None:
    gaps = seen((0, 0.1, "a"), (1, 1.1, "a"), (2, 2.1, ""), (3, 3.1, ""), (4, 4.5, "b"), (5, 5.1, "b"))
    assert (gaps.longest_s, gaps.writes, gaps.refused) == (3.5, 4, 2)


def test_of_several_gaps_the_longest_counts() -> None:
    gaps = seen((0, 0.1, "a"), (1, 1.1, ""), (2, 2.1, "a"), (3, 3.1, ""), (6, 6.1, "b"))
    assert gaps.longest_s == pytest.approx(4.1)


def test_a_write_that_hangs_counts_as_one_that_was_refused() -> None:
    assert seen((0, 0.1, "a"), (0.3, 4.0, "a")).longest_s == 4.0


def test_a_watch_without_trouble_has_no_gap() -> None:
    assert seen((0, 0.1, "a"), (0.2, 0.3, "a")).longest_s == 0.0


def test_a_watch_is_over_when_another_server_has_taken_writes_for_a_while() -> None:
    writes = [(0.0, 0.1, "a"), (1.0, 1.1, ""), (2.0, 2.1, "b")]
    assert not seen(*writes).over
    assert seen(*writes, (2.0 + QUIET_S, 2.1 + QUIET_S, "b")).over
    assert not seen(*writes, (3.0, 3.1, ""), (2.0 + QUIET_S, 2.1 + QUIET_S, "b")).over  # it broke off in between
    assert not seen((0.0, 0.1, "a"), (10.0, 10.1, "a")).over


def test_what_waits_for_a_restart_is_told_with_its_values() -> None:
    own = {
        "pending_restart": True,
        "pending_restart_reason": {
            "max_connections": {"old_value": 200, "new_value": "100"},
            "shared_preload_libraries": {"old_value": None, "new_value": "pg_stat_statements"},
            "damaged": "x",
        },
    }
    waiting = patroni.from_own(own, 0.0).pending_settings
    assert [(one.name, one.before, one.after) for one in waiting] == [
        ("max_connections", "200", "100"),
        ("shared_preload_libraries", "", "pg_stat_statements"),
    ]
    assert patroni.from_own({"pending_restart": True}, 0.0).pending_settings == ()
