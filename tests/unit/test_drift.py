"""What differs from the definition that was applied: by which policy, what is mended, what is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pgha.common.cluster import Override, Policy, Reconcile
from pgha.common.results import ChangeView, Disruption, Impact, ResourceResult, Status
from pgha.master.operations.progress import NodePlan, Plan
from pgha.master.rollout import drift
from pgha.master.rollout.drift import Difference, Drift
from pgha.minion.watched import Watched

RELOAD = Disruption(impact=Impact.RELOAD, unit="haproxy")
RESTART = Disruption(impact=Impact.RESTART, unit="etcd")


def result(resource: str, *disruptions: Disruption, follows: bool = False, document: str = "haproxy") -> ResourceResult:
    changes = tuple(
        ChangeView(what="content", disruption=one, follows=follows) for one in disruptions or (Disruption(),)
    )
    return ResourceResult(resource=resource, document=document, status=Status.PLANNED, changes=changes)


def plan(*results: ResourceResult) -> Plan:
    return Plan(cluster="prod", definition="x", nodes=(NodePlan(node="n1", results=results),))


def one(
    policy: Policy = "enforce", *, mild: bool = True, resource: str = "file:/a", document: str = "haproxy"
) -> Difference:
    return Difference("n1", document, resource, ("content",), policy, mild)


def test_the_last_override_that_matches_a_document_or_a_resource_counts() -> None:
    overrides = (
        Override(match="haproxy", policy="enforce"),
        Override(match="file:/etc/haproxy/*", policy="observe"),
    )
    reconcile = Reconcile(overrides=overrides)
    assert drift.policy_of(reconcile, "haproxy", "service:haproxy") == "enforce"
    assert drift.policy_of(reconcile, "haproxy", "file:/etc/haproxy/haproxy.cfg") == "observe"
    assert drift.policy_of(reconcile, "etcd", "service:etcd") == "propose"


def test_what_follows_from_another_difference_is_none_of_its_own() -> None:
    found = drift.differences(Reconcile(), plan(result("file:/a"), result("service:haproxy", RELOAD, follows=True)))
    assert [(row.resource, row.follows) for row in found] == [("file:/a", False), ("service:haproxy", True)]


def test_updates_that_have_come_out_are_no_drift() -> None:
    assert drift.differences(Reconcile(), plan(result("upgrade:security", document="hardening"))) == ()


def test_what_must_be_reloaded_for_it_is_mended_with_it_also_in_another_document() -> None:
    reload = one(resource="service:patroni", document="patroni")
    known = Drift(differences=(one(document="pki"),), following=(reload,))
    assert drift.to_mend(known, 0.0) == {"n1": ("pki", "patroni")}


def test_what_does_more_than_reload_is_refused_to_an_apply_that_nobody_asked_for() -> None:
    lost = ChangeView(what="presence", destroys="/srv/x")
    tree = ResourceResult(resource="absent:/srv/x", document="own", status=Status.PLANNED, changes=(lost,))
    assert drift.harsh(plan(result("file:/a"), result("file:/b", RELOAD))) == []
    assert drift.harsh(plan(result("service:etcd", RESTART), tree)) == [
        "n1: service:etcd would restart etcd",
        "n1: absent:/srv/x would destroy data",
    ]


def test_what_would_restart_something_is_not_mended() -> None:
    restart = one(mild=False, resource="service:etcd", document="etcd")
    known = Drift(differences=(one(document="etcd"), one(document="haproxy")), following=(restart,))
    assert drift.to_mend(known, 0.0) == {}


def test_only_what_disturbs_nothing_or_reloads_is_mild() -> None:
    rows = drift.differences(Reconcile(), plan(result("file:/a"), result("file:/b", RELOAD), result("x:y", RESTART)))
    assert [row.mild for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("rows", "mended"),
    [
        ((one(),), {"n1": ("haproxy",)}),
        ((one("propose"),), {}),
        ((one(mild=False),), {}),
        ((one(), one("observe", resource="file:/b")), {}),
        ((one(), one(mild=False, document="etcd")), {"n1": ("haproxy",)}),
        ((one(), one(document="etcd")), {"n1": ("haproxy", "etcd")}),
    ],
)
def test_a_document_is_mended_when_everything_in_it_may_be(
    rows: tuple[Difference, ...], mended: dict[str, tuple[str, ...]]
) -> None:
    assert drift.to_mend(Drift(differences=rows), 0.0) == mended


def test_what_comes_back_again_and_again_is_left_to_a_person() -> None:
    known = Drift(differences=(one(),))
    for now in range(drift.AGAIN):
        assert drift.to_mend(known, float(now))
        drift.remember_mended(known, {"n1": ("haproxy",)}, float(now))
    assert drift.to_mend(known, 10.0) == {}
    assert drift.to_mend(known, drift.AGAIN_S + 10.0) == {"n1": ("haproxy",)}


def test_a_finding_names_the_node_and_a_few_resources_and_what_is_observed_is_none() -> None:
    rows = tuple(one("propose", resource=f"file:/{n}") for n in range(5))
    (finding,) = drift.findings("prod", Drift(differences=(*rows, one("observe"))))
    assert finding.text == "n1 is not as it was applied: file:/0, file:/1, file:/2 and 2 more"
    assert (finding.fix, finding.degrades) == ("pgha-master plan prod", False)
    assert drift.findings("prod", Drift(differences=(one("observe"),))) == []


def test_a_touched_file_is_told_until_somebody_has_looked(tmp_path: Path) -> None:
    watched, path = Watched(), tmp_path / "x"
    path.write_text("a")
    watched.resume([str(path), str(tmp_path / "absent")])
    assert watched.touched() == ()
    path.write_text("other")
    assert watched.touched() == watched.touched() == (str(path),)
    watched.resume([str(path)])
    assert watched.touched() == ()


@pytest.mark.parametrize("act", ["chmod", "remove", "make"])
def test_every_way_to_touch_a_file_is_seen(tmp_path: Path, act: str) -> None:
    watched, path = Watched(), tmp_path / "x"
    if act != "make":
        path.write_text("a")
    watched.resume([str(path)])
    path.chmod(0o600) if act == "chmod" else path.unlink() if act == "remove" else path.write_text("")
    assert watched.touched() == (str(path),)


def test_what_comes_and_goes_in_a_folder_does_not_touch_it_and_another_mode_does(tmp_path: Path) -> None:
    watched = Watched()
    watched.resume([str(tmp_path)])
    (tmp_path / "new").write_text("")
    assert watched.touched() == ()
    tmp_path.chmod(0o711)
    assert watched.touched() == (str(tmp_path),)


def test_what_an_apply_itself_writes_is_not_touched(tmp_path: Path) -> None:
    watched, path = Watched(), tmp_path / "x"
    watched.resume([str(path)])
    watched.pause()
    path.write_text("applied")
    assert watched.touched() == ()
    watched.resume([str(path)])
    assert watched.touched() == ()


def test_a_look_at_some_documents_leaves_the_others_touched(tmp_path: Path) -> None:
    watched, mine, other = Watched(), tmp_path / "mine", tmp_path / "other"
    watched.resume([str(mine), str(other)])
    mine.write_text("x")
    other.write_text("x")
    watched.resume([str(mine)], [str(other)])
    assert watched.touched() == (str(other),)


def test_kernel_files_are_not_watched() -> None:
    watched = Watched()
    watched.resume(["/proc/uptime"])
    assert watched.touched() == ()
