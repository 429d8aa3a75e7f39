"""A plan that is kept: it comes back as it was, and holds only as long as what it saw is so."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pgha.common.errors import UserError
from pgha.common.results import ChangeView, ResourceResult, Status
from pgha.master.operations.progress import NodePlan, Plan
from pgha.master.rollout.plan_file import Expected, PlanFile, read, stale, write

OWNER = ChangeView(what="owner", before="bob:bob", after="root:root")


def plan(*changes: ChangeView, role: str = "leader", restarts: tuple[str, ...] = ()) -> Plan:
    planned = ResourceResult(resource="file:/etc/x", document="haproxy", status=Status.PLANNED, changes=changes)
    results = (planned,) if changes else ()
    nodes = (NodePlan(node="n1", role=role, results=results), NodePlan(node="n2", role="replica"))
    return Plan(cluster="prod", definition="abc123", nodes=nodes, restarts=restarts)


def kept(of: Plan) -> PlanFile:
    return PlanFile(at=1_800_000_000.0, path="prod.yml", text="cluster: prod\n", nodes=("n1",), plan=of)


def differences(then: Plan, now: Plan) -> list[str]:
    found = stale(Expected(at=1_800_000_000.0, plan=then), now)
    assert not found or found[0] == "the plan of 2027-01-15T08:00:00Z is out of date, plan again:"
    return found[1:]


def test_what_is_kept_comes_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    write(tmp_path / "x.plan", kept(plan(OWNER)))
    assert read(tmp_path / "x.plan") == kept(plan(OWNER))
    assert stat.S_IMODE((tmp_path / "x.plan").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.plan"]


@pytest.mark.parametrize("text", ["cluster: prod\n", "{cluster: prod}", "{}", "[]", "", '{"schema": "pgha/v1"}'])
def test_a_definition_is_not_taken_for_a_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    assert read(tmp_path / "x") is None


def test_a_plan_of_another_version_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"schema": "pgha/plan/v2", "at": 1}')
    with pytest.raises(UserError, match=r"x is no plan that this version of pgha can apply .*plan again"):
        read(tmp_path / "x")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent/x: No such file"):
        write(tmp_path / "absent/x", kept(plan()))


def test_a_plan_holds_while_nothing_has_changed() -> None:
    assert differences(plan(OWNER), plan(OWNER)) == []


def test_what_was_mended_meanwhile_what_came_and_what_differs_otherwise_are_named() -> None:
    assert differences(plan(OWNER), plan()) == ["n1: file:/etc/x needs no change any more"]
    assert differences(plan(), plan(OWNER)) == ["n1: file:/etc/x would be changed, too: owner"]
    other = OWNER.model_copy(update={"before": "eve:eve"})
    assert differences(plan(OWNER), plan(other)) == [
        "n1: file:/etc/x differs in another way now: owner: was bob:bob, is eve:eve"
    ]
    content = [ChangeView(what="content", diff=diff) for diff in ("+a", "+b")]
    assert differences(plan(content[0]), plan(content[1])) == ["n1: file:/etc/x differs in another way now: content"]


def test_another_leader_makes_another_plan() -> None:
    assert differences(plan(OWNER), plan(OWNER, role="replica")) == ["n1 led the cluster, now nobody does"]


def test_another_restart_makes_another_plan() -> None:
    said = "PostgreSQL waits for a restart on n2 now"
    assert differences(plan(OWNER), plan(OWNER, restarts=("n2",))) == [said]


def test_time_that_passes_makes_no_other_plan() -> None:
    days = [ChangeView(what="validity", before=f"ends in {n} days", after="renewed") for n in (9, 8)]
    assert differences(plan(days[0]), plan(days[1])) == []


def test_a_document_of_the_users_own_that_was_edited_makes_another_plan() -> None:
    then, now = (plan(OWNER).model_copy(update={"own": {"motd": digest}}) for digest in ("a", "b"))
    assert differences(then, now) == ["the document motd has been changed"]
    assert differences(then, then) == []
