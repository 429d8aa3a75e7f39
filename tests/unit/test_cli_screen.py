"""What a terminal gets to see: colours, widths, tables, and lines that are rewritten."""

from __future__ import annotations

import io

import pytest
from pgha.common.errors import Problem
from pgha.common.results import ChangeView, ResourceResult, Status
from pgha.master.cli.follow import Follower, event
from pgha.master.cli.screen import ColourChoice, Look, Terminal, duration, look, render_problems, size, table
from pgha.master.cli.show_plan import render_plan, sign
from pgha.master.cli.show_status import render_status
from pgha.master.operations.progress import End, Gate, NodePlan, Plan, Step


def test_colour_needs_a_terminal() -> None:
    assert look(environment={}, tty=True, encoding="utf-8", width=80).colour
    assert not look(environment={}, tty=False, encoding="utf-8", width=80).colour


@pytest.mark.parametrize(
    ("environment", "choice", "colour"),
    [
        ({"NO_COLOR": "1"}, "auto", False),
        ({"NO_COLOR": ""}, "auto", True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, "auto", False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, "auto", True),
        ({"TERM": "dumb"}, "auto", False),
        ({"NO_COLOR": "1"}, "always", True),
        ({}, "never", False),
    ],
)
def test_who_decides_on_colour(environment: dict[str, str], choice: ColourChoice, colour: bool) -> None:
    assert look(True, "utf-8", environment, 80, choice).colour is colour


def test_a_dumb_terminal_is_never_rewritten() -> None:
    assert not look(True, "utf-8", {"TERM": "dumb"}, 80).live


def test_nothing_but_ascii_goes_to_a_stream_that_is_not_utf8() -> None:
    shown = look(False, "ANSI_X3.4-1968", {}, 80)
    assert shown.plain("Köln") == "K?ln"
    assert shown.fit("x" * 100) == "x" * 77 + "..."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12, "12 s"), (82, "1 m 22 s"), (18720, "5 h 12 m"), (187200, "2 d 4 h")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (1048576, "1 MiB"), (5 * 1024**4, "5.0 TiB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_a_table_drops_columns_before_it_wraps() -> None:
    rows = [("pg-node1", "eu-west", "leader")]
    assert table(("NODE", "REGION", "ROLE"), rows, 80)[1] == "pg-node1  eu-west  leader"
    assert table(("NODE", "REGION", "ROLE"), rows, 20, ("REGION",))[1] == "pg-node1  leader"


def test_a_problem_points_at_its_place() -> None:
    problem = Problem("C001", "unknown key 'adress'", 2, 3, 6, "did you mean 'address'?")
    assert render_problems("p.yml", "a:\n  adress: 1\n", [problem], Look()) == [
        "p.yml: 1 error",
        "",
        "error[C001]  p.yml:2:3  unknown key 'adress'",
        "   2 |   adress: 1",
        "     |   ^^^^^^  did you mean 'address'?",
    ]


def test_a_password_is_masked_in_the_excerpt_of_every_problem() -> None:
    clear = Problem("C040", "a password is written in clear text", 1, 11, 7)
    other = Problem("C001", "unknown key 'password'", 1, 1, 8)
    shown = "\n".join(render_problems("p.yml", "password: hunter2 # x", [other, clear], Look()))
    assert "hunter2" not in shown
    assert shown.count("password: ******** # x") == 2


def test_warnings_are_told_by_word_and_not_by_colour_alone() -> None:
    shown = render_problems("p.yml", "", [Problem("C070", "old", warning=True)], Look(colour=True))
    assert shown[0] == "p.yml: 1 warning"
    assert "warning[C070]" in shown[2]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ChangeView(what="file", before="absent", after="file", diff="@@ -0,0 +1 @@\n+x"), "+"),
        (ChangeView(what="presence", before="file", after="absent"), "-"),
        (ChangeView(what="file", diff="--- a\n+++ b\n-x\n+y"), "~"),
        (ChangeView(what="package", before="absent", after="installed"), "+"),
        (ChangeView(what="rule", before="allow", after="absent"), "-"),
        (ChangeView(what="mode", before="0644", after="0640"), "~"),
    ],
)
def test_a_change_has_the_sign_of_what_it_does(change: ChangeView, expected: str) -> None:
    assert sign(change) == expected


def plan_of(result: ResourceResult) -> Plan:
    return Plan(cluster="prod", definition="7f3a1c", nodes=(NodePlan(node="n", results=(result,)),))


def test_a_removal_is_told_again_at_the_end() -> None:
    change = ChangeView(what="rule", before="allow 22", after="absent")
    result = ResourceResult(resource="firewall:ufw", document="firewall", status=Status.PLANNED, changes=(change,))
    assert "removes  n  firewall:ufw" in render_plan(plan_of(result), Look())


def test_what_could_not_be_looked_at_is_part_of_the_plan() -> None:
    result = ResourceResult(resource="file:/x", document="etcd", status=Status.FAILED, reason="no such user: etcd")
    lines = render_plan(plan_of(result), Look())
    assert any("! failed" in line and "no such user: etcd" in line for line in lines)
    assert lines[-1] == "Plan: 0 to change, 0 unchanged, 1 could not be looked at."


def test_what_cannot_be_set_on_its_host_is_counted_and_shown_when_asked_for() -> None:
    skipped = ResourceResult(resource="sysctl:vm.swappiness", document="x", status=Status.SKIPPED, reason="a container")
    shown = "\n".join(render_plan(plan_of(skipped), Look()))
    assert "Skipped  1 that cannot be set on their hosts: add -v to see why" in shown
    assert "a container" not in shown
    assert "! skipped  sysctl:vm.swappiness  a container" in "\n".join(
        render_plan(plan_of(skipped), Look(), verbose=True)
    )


def test_a_long_diff_is_cut_and_says_how_to_see_the_rest() -> None:
    change = ChangeView(what="content", diff="--- a\n+++ b\n" + "\n".join(f"+{i}" for i in range(50)))
    result = ResourceResult(resource="file:/x", document="etcd", status=Status.PLANNED, changes=(change,))
    assert "      ... 10 more lines: add -v" in render_plan(plan_of(result), Look())
    assert "      +49" in render_plan(plan_of(result), Look(), verbose=True)


def test_a_status_of_which_nothing_is_known_is_shown_with_dashes() -> None:
    lines = render_status({"cluster": "prod", "verdict": "unknown", "nodes": [{"name": "n"}]}, Look(width=200))
    assert lines[4].split() == ["n", *["-"] * 11]


def test_a_step_on_a_terminal_has_one_line_until_it_ends() -> None:
    err = io.StringIO()
    screen = Terminal(io.StringIO(), err, Look(), Look(live=True, unicode=True))
    started = Step(step="etcd", node="n", state="started")
    Follower(screen).follow([started, started.model_copy(update={"state": "done"}), End()])
    first, second = err.getvalue().split("\x1b[1A\x1b[0J")
    assert first.split() == ["n", "etcd", "started"]
    assert second.split() == ["n", "etcd", "done"]


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (Gate(step="etcd", gate="all vote", state="waiting", reason="a is silent"), "until all vote; now: a is silent"),
        (Gate(step="etcd", gate="all vote", state="failed", reason="a is silent"), "all vote; now: a is silent"),
        (Gate(step="etcd", gate="all vote", state="open"), "all vote"),
    ],
)
def test_a_gate_says_what_it_waits_for_and_what_is_instead(gate: Gate, told: str) -> None:
    assert event(gate, Look()).split(f" {gate.state}")[1].strip() == told


def test_a_plan_counts_resources_as_the_end_of_an_apply_does() -> None:
    changes = (ChangeView(what="mode", before="0644", after="0640"), ChangeView(what="owner", before="a", after="b"))
    result = ResourceResult(resource="file:/x", document="etcd", status=Status.PLANNED, changes=changes)
    skipped = ResourceResult(resource="file:/y", document="etcd", status=Status.SKIPPED)
    node = NodePlan(node="n", results=(result, skipped))
    plan = Plan(cluster="prod", definition="7f3a1c", nodes=(node, node.model_copy(update={"node": "m"})))
    assert plan.change_count == 2
    lines = render_plan(plan, Look())
    assert lines[-1] == "Plan: 2 to change, 0 unchanged."
    assert len([line for line in lines if line.startswith("  ~")]) == 2
