"""The acts that replace a member or take one out: nothing of value is thrown away, and they may be done twice."""

from __future__ import annotations

import pytest
from pgha.minion.functions import Call, Doors, call, cluster
from pgha.minion.functions.cluster import ETCD_DATA
from pgha.minion.probes.etcd import etcdctl
from pgha.states.action import Action, Remove, Run, Unit
from pgha.states.system import FileFacts, Output, UnitFacts
from pgha.states.testing import FakeSystem

URL = "https://10.77.3.13:2380"
REMOVE = (*etcdctl(2379), "member", "remove", "abc")
LIST = (*etcdctl(2379), "member", "list")
ADD = (*etcdctl(2379), "member", "add", "witness-node", f"--peer-urls={URL}")


class Recording(FakeSystem):
    """What is to be done is only written down."""

    def perform(self, action: Action) -> None:
        self.performed.append(action)


def recording() -> Recording:
    units = {"etcd.service": UnitFacts("loaded", "active"), "patroni.service": UnitFacts("loaded", "active")}
    return Recording(clock=1_800_000_000.0, units=units)


def doors(system: FakeSystem) -> Doors:
    return Doors(system, lambda stream, text: None, lambda: False, lambda sha256, size, file: None)


def test_the_log_of_a_member_is_kept_when_it_is_reset() -> None:
    system = recording()
    system.files[f"{ETCD_DATA}/member/wal/0.wal"] = FileFacts("file", "")
    outcome = call(Call(function="etcd.reset", arguments=(ETCD_DATA,)), doors(system))
    kept = f"{ETCD_DATA}.lost-1800000000"
    assert outcome.data == {"kept": kept}
    assert system.performed == [Unit("stop", "etcd"), Run(("mv", "-T", ETCD_DATA, kept))]


def test_what_a_refused_start_left_behind_is_removed() -> None:
    system = recording()
    system.files[f"{ETCD_DATA}/member/snap/db"] = FileFacts("file", "")
    assert call(Call(function="etcd.reset", arguments=(ETCD_DATA,)), doors(system)).data == {}
    assert system.performed == [Unit("stop", "etcd"), Remove(ETCD_DATA, tree=True)]


def test_where_no_etcd_was_ever_installed_there_is_none_to_stop() -> None:
    system = Recording()
    assert call(Call(function="etcd.reset", arguments=(ETCD_DATA,)), doors(system)).ok
    assert system.performed == [Remove(ETCD_DATA, tree=True)]


def test_the_configuration_of_patroni_is_put_aside_and_a_second_time_there_is_nothing_to_do() -> None:
    system = recording()
    system.files["/etc/patroni/config.yml"] = FileFacts("file", "scope: prod\n")
    kept = "/etc/patroni/config.yml.taken-out"
    assert call(Call(function="patroni.reset"), doors(system)).data == {"kept": kept}
    assert system.performed == [Unit("stop", "patroni"), Run(("mv", "-T", "/etc/patroni/config.yml", kept))]
    system = recording()
    assert call(Call(function="patroni.reset"), doors(system)).ok
    assert system.performed == []


@pytest.mark.parametrize(
    ("removal", "added"),
    [
        (Output(0), True),
        (Output(1, "", "Error: etcdserver: member not found\n"), True),
        (Output(1, "", "Error: etcdserver: unhealthy cluster\n"), False),
    ],
    ids=["removed", "removed already", "not now"],
)
def test_a_member_is_added_once_the_old_one_is_gone_whoever_removed_it(
    removal: Output, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "UNSTEADY_S", -1.0)
    system = FakeSystem()
    system.answers = {REMOVE: removal, LIST: Output(0), **({ADD: Output(0)} if added else {})}
    outcome = call(Call(function="etcd.replace", arguments=("abc", "witness-node", URL)), doors(system))
    assert outcome.ok == added
    assert outcome.message == ("" if added else "Error: etcdserver: unhealthy cluster")


def test_who_has_the_address_under_a_newer_id_than_was_told_is_removed_before_it_is_added() -> None:
    """A member that was replaced a moment ago and is lost again; etcd adds nobody while it counts one who is away."""
    gone, asked = Output(1, "", "Error: etcdserver: member not found\n"), list[tuple[str, ...]]()
    others = "111, started, pg-node1, https://10.77.1.11:2380, https://10.77.1.11:2379, false\n"
    listed = f"{others}f68, started, witness-node, {URL}, https://10.77.3.13:2379, false\n"

    class Newer(FakeSystem):
        def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
            asked.append(argv)
            return gone if argv == REMOVE else Output(0, listed if argv == LIST else "")

    assert call(Call(function="etcd.replace", arguments=("abc", "witness-node", URL)), doors(Newer())).ok
    assert asked == [REMOVE, LIST, (*REMOVE[:-1], "f68"), ADD]


def test_a_cluster_that_is_not_steady_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd refuses for some seconds after one of its members has come or gone."""
    monkeypatch.setattr(cluster, "PAUSE_S", 0.0)
    refusals = [Output(1, "", "Error: etcdserver: unhealthy cluster\n")] * 3

    class Unsteady(FakeSystem):
        def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
            return refusals.pop() if argv == ADD and refusals else Output(0)

    assert call(Call(function="etcd.replace", arguments=("-", "witness-node", URL)), doors(Unsteady())).ok
    assert refusals == []
