"""The simulated nodes and what their daemons make of each other: the world that `simulation.py` plays in.

What a daemon does follows from the units and files of the FakeSystems alone, so a document that forgets to start a
unit, or that sets etcd up in the wrong way, is seen in the telemetry and not only in a list of actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from ...common.cluster import Cluster, Node
from ...common.facts import HostFacts
from ...common.results import Outcome
from ...common.telemetry import Backend, EtcdMember, EtcdSample, HaproxySample, PatroniSample, PendingSetting, Sample
from ...states import halves
from ...states.action import Unit
from ...states.certificates import certificates
from ...states.converge import MemoryDebts
from ...states.documents import database, etcd, haproxy, patroni, pki
from ...states.resources.patroni import NEEDS_RESTART
from ...states.simulated import public_key
from ...states.system import CertificateFacts, FileFacts, UnitFacts
from ...states.testing import FakeSystem
from ..health.health import PRIMARY, REPLICA
from ..rollout.restarts import FOLLOWS_PRIMARY
from .testing import WAL, FakeCluster

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
YEAR_S = 365 * 86400.0
LEADER_AFTER_S = 3.0  # from the start of the first Patroni to a leader
STREAMS_AFTER_S = 8.0  # from the start of a replica, or of its leader, to streaming


@dataclass
class SimulatedNode:
    """`key`: the state of its minion's key. `dies_at`: its minion is gone as soon as it comes to that resource or
    document. `fragile`: unit -> Unix time; it does not work when it was started after that. `jobs`: mode and
    documents, as they came.
    """

    facts: HostFacts
    system: FakeSystem
    debts: MemoryDebts = field(default_factory=MemoryDebts)
    key: str = "accepted"
    online: bool = True
    clock_offset_s: float = 0.0
    dies_at: str = ""
    fragile: dict[str, float] = field(default_factory=dict)
    listening: dict[str, str] = field(default_factory=dict)
    mirror: str = ""
    member_id: str = ""  # under which its etcd has data
    damaged: str = ""  # etcd's words for what is wrong with its data
    has_database: bool = False
    parameters: dict[str, Any] | None = None  # of the cluster's, with which its PostgreSQL was started
    jobs: list[str] = field(default_factory=list)
    touched: tuple[str, ...] = ()  # managed files, until its documents are looked at

    def unit(self, name: str) -> UnitFacts:
        return self.system.unit(name)

    def runs(self, name: str) -> bool:
        facts = self.unit(name)
        return facts.active == "active" and facts.started_at <= self.fragile.get(name, float("inf"))


class World:
    """`leader`: who leads PostgreSQL, "" for nobody. `members`: etcd's own list. `calls`: all but ping."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster  # as it is wanted; a test may put another one here
        self._ever = {node.name: node for node in cluster.nodes}
        self.nodes = {node.name: SimulatedNode(bare_facts(node), bare_system(cluster, node)) for node in cluster.nodes}
        self.leader = ""
        self.members: list[EtcdMember] = []
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []
        self.patroni_tells = True  # which settings wait for a restart, as Patroni 4 does
        self.refusals: dict[str, str] = {}  # function -> why it fails wherever it is called
        self._added = 0
        self._dcs: dict[str, Any] | None = None  # Patroni's dynamic configuration, of the cluster and no node

    @property
    def everyone(self) -> Cluster:
        """The definition with every node there ever was: who left it goes on living."""
        self._ever |= {node.name: node for node in self.cluster.nodes}
        return self.cluster.model_copy(update={"nodes": tuple(self._ever.values())})

    def wipe(self, name: str) -> None:
        """The host is set up anew: everything on it is gone, and its minion has enrolled again."""
        node = self.everyone.node(name)
        self.nodes[name] = replace(
            self.nodes[name],
            system=bare_system(self.everyone, node, f"{self.nodes[name].system.seed} anew"),
            debts=MemoryDebts(),
            member_id="",
            has_database=False,
        )
        if self.leader == name:
            self.leader = ""

    # ---- what is asked of a node

    def sample(self, name: str, now: float) -> Sample:
        """What the minion of that node would send at that time (Unix s)."""
        self._turn(now)
        node, definition = self.nodes[name], self.everyone.node(name)
        healthy = FakeCluster(self.everyone, leader=self.leader, etcd_leader=self._etcd_leader()).healthy(definition)
        return healthy.model_copy(
            update={
                "at": now + node.clock_offset_s,
                "etcd": self._etcd(name, healthy.etcd),
                "patroni": self._patroni(name, healthy.patroni, now),
                "haproxy": self._haproxy(name, now),
                "data_directory_present": node.has_database,
                "touched": node.touched,
            }
        )

    def call(self, name: str, function: str, arguments: Sequence[str]) -> Outcome:
        node = self.nodes[name]
        if function == "facts":
            now = node.system.clock + node.clock_offset_s
            return Outcome(ok=True, data=node.facts.model_dump(mode="json") | {"now": now})
        self.calls.append((name, function, tuple(arguments)))
        if function in self.refusals:
            return Outcome(ok=False, exit_code=1, message=self.refusals[function])
        if function == "patroni.reset":
            node.system.files.pop(patroni.CONFIG, None)
            return Outcome(ok=True, exit_code=0)
        if function == "etcd.reset":
            node.system.perform(Unit("stop", "etcd"))
            kept = f"{etcd.DATA}.lost-1" if node.damaged else ""
            node.member_id = node.damaged = ""
            return Outcome(ok=True, exit_code=0, data={"kept": kept})
        if function == "ssh.public":
            return Outcome(ok=True, exit_code=0, data=halves.look(node.system).model_dump(mode="json"))
        if function == "preflight":
            return Outcome(ok=True, data={"listening": node.listening, "mirror": node.mirror})
        if function == "write_probe":
            replicas = [other for other in self.nodes if other != self.leader and self.nodes[other].has_database]
            ok = bool(self.leader) and node.runs("haproxy")
            replica = replicas[0] if replicas else "-"
            data: dict[str, object] = {"primary": self.leader, "write_ms": 2, "replica": replica}
            return Outcome(ok=ok, data=data, message="" if ok else "no server")
        if function == "etcd.replace":
            return self._replace(*arguments)
        if function == "service.retire":
            for unit in arguments:
                node.system.perform(Unit("stop", unit))
                node.system.perform(Unit("disable", unit))
            return Outcome(ok=True, exit_code=0)
        if function == "etcd.remove":
            self.members = [member for member in self.members if member.id != arguments[0]]
            return Outcome(ok=True, exit_code=0)
        if function == "write_watch":
            return Outcome(ok=True, exit_code=0, data={"refused_s": 4.6, "writes": 30, "refused": 20})
        if function == "patroni.restart":
            node.parameters = self._lasting(than=node.parameters if name != self.leader else None)
            return Outcome(ok=True, exit_code=0)
        if function == "patroni.switchover":
            self.leader = arguments[1]
            node.parameters = self._lasting()
            return Outcome(ok=True, exit_code=0)
        return Outcome(ok=False, message=f"there is no function {function}")

    def _lasting(self, than: dict[str, Any] | None = None) -> dict[str, Any]:
        """The parameters that are read at a start only. A standby of a running leader goes not below `than`."""
        wanted = (self._dcs or {}).get("postgresql", {}).get("parameters", {})
        found = {name: value for name, value in wanted.items() if name in NEEDS_RESTART}
        for name in FOLLOWS_PRIMARY & set(than or {}):
            least = (self.nodes[self.leader].parameters or {}).get(name, 100)
            found[name] = max(int(found.get(name, 100)), int(least))
        return found

    def _waiting(self, name: str) -> tuple[PendingSetting, ...]:
        running, wanted = self.nodes[name].parameters or {}, self._lasting()
        return tuple(
            PendingSetting(name=key, before=str(running.get(key, "")), after=str(wanted.get(key, "")))
            for key in sorted({*running, *wanted})
            if running and running.get(key) != wanted.get(key)
        )

    # ---- the daemons

    def _turn(self, now: float) -> None:
        """Everything that happens by itself has happened by now."""
        self._join_etcd()
        if not self._quorum() or (self.leader and not self.nodes[self.leader].runs("patroni")):
            self.leader = ""
        candidates = [n for n in self.everyone.data_nodes if self._patroni_for(n.name, now) >= LEADER_AFTER_S]
        owners = [n for n in candidates if self.nodes[n.name].has_database]
        known = any(node.has_database for node in self.nodes.values())
        if not self.leader and self._quorum() and (owners or (candidates and not known)):
            self.leader = (owners or candidates)[0].name
        for definition in self.everyone.data_nodes:
            self._database(definition.name, now)

    def _database(self, name: str, now: float) -> None:
        node = self.nodes[name]
        up = self.leader != "" and self._patroni_for(name, now) >= LEADER_AFTER_S
        leads = name == self.leader
        node.system.server, node.system.replica = up, up and not leads
        node.system.patroni_role = "primary" if leads else "replica"
        if not up:
            node.system.patroni_config = node.parameters = None
            return
        node.has_database = True
        if self._dcs is None:
            self._dcs = cast("dict[str, Any]", patroni.dynamic_settings(self.everyone))
        node.system.patroni_config = self._dcs
        if node.parameters is None:
            node.parameters = self._lasting()
        origin = self.nodes[self.leader].system
        node.system.roles, node.system.statements = origin.roles, origin.statements

    def _patroni_for(self, name: str, now: float) -> float:
        """For how many seconds Patroni has been running; negative when it does not."""
        node = self.nodes[name]
        return now - node.unit("patroni").started_at if node.runs("patroni") else -1.0

    def _patroni(self, name: str, healthy: PatroniSample | None, now: float) -> PatroniSample | None:
        node = self.nodes[name]
        if healthy is None or patroni.CONFIG not in node.system.files:
            return None
        running = self._patroni_for(name, now)
        if running < 0:
            return PatroniSample(error="connection refused")
        if not self.leader:
            return PatroniSample(reachable=True, state="starting")
        waiting = self._waiting(name)
        told = waiting if self.patroni_tells else ()
        members = tuple(m for m in healthy.cluster_members if self.nodes[m.name].runs("patroni"))
        healthy = healthy.model_copy(
            update={"pending_restart": bool(waiting), "pending_settings": told, "cluster_members": members}
        )
        if name == self.leader:
            return healthy
        since = min(running, self._patroni_for(self.leader, now) - LEADER_AFTER_S)
        if since < STREAMS_AFTER_S:
            return PatroniSample(reachable=True, role="replica", state="creating replica")
        return healthy.model_copy(update={"received_bytes": WAL, "replayed_bytes": WAL})

    def _haproxy(self, name: str, now: float) -> HaproxySample | None:
        node = self.nodes[name]
        if haproxy.CONFIG not in node.system.files:
            return None
        if not node.runs("haproxy"):
            return HaproxySample(error="its socket does not answer")
        up = {self.leader: PRIMARY} if self.leader else {}
        for other in self.everyone.data_nodes:
            if other.name != self.leader and self._streams(other.name, now):
                up[other.name] = REPLICA
        return HaproxySample(
            backends=tuple(
                Backend(name=backend, server=n.name, status="UP" if up.get(n.name) == backend else "DOWN")
                for backend in (PRIMARY, REPLICA)
                for n in self.everyone.data_nodes
            )
        )

    def _streams(self, name: str, now: float) -> bool:
        sample = self._patroni(name, PatroniSample(state="streaming"), now)
        return sample is not None and sample.state == "streaming"

    # ---- etcd

    def _voting(self) -> list[str]:
        ids = {member.id for member in self.members}
        return [n for n, node in self.nodes.items() if node.member_id in ids and node.runs("etcd") and not node.damaged]

    def _quorum(self) -> bool:
        return bool(self.members) and len(self._voting()) > len(self.members) // 2

    def _etcd_leader(self) -> str:
        voting = self._voting()
        return voting[1 % len(voting)] if self._quorum() else ""

    def _peer_url(self, node: Node) -> str:
        return f"https://{node.address}:{self.everyone.etcd.peer_port}"

    def _join_etcd(self) -> None:
        """Who starts as founder or as an added member is one; who has forgotten that it was a member never is again."""
        for definition in self.everyone.etcd_nodes:
            node = self.nodes[definition.name]
            if not node.runs("etcd") or node.member_id:
                continue
            config = node.system.files.get(etcd.CONFIG, FileFacts()).content or ""
            joins = "initial-cluster-state: existing" in config
            if not self.members and not joins:
                self.members = [
                    EtcdMember(id=_founder(n), peer_urls=(self._peer_url(n),)) for n in self.everyone.etcd_nodes
                ]
            listed = next((m for m in self.members if self._peer_url(definition) in m.peer_urls), None)
            if not joins and _founder(definition) not in {m.id for m in self.members}:
                node.member_id = _founder(definition)  # it founds once more, as the member that it no longer is
            elif listed is not None and not listed.started:
                node.member_id = listed.id
                started = listed.model_copy(update={"name": definition.name, "started": True})
                self.members[self.members.index(listed)] = started

    def _replace(self, member: str, name: str, url: str) -> Outcome:
        if not self._quorum():
            return Outcome(ok=False, message="etcdserver: no quorum")
        self.members = [m for m in self.members if m.id != member]
        self._added += 1
        self.members.append(EtcdMember(id=f"added-{self._added}", peer_urls=(url,)))
        return Outcome(ok=True)

    def _etcd(self, name: str, healthy: EtcdSample | None) -> EtcdSample | None:
        node = self.nodes[name]
        if healthy is None or node.unit("etcd").load == "not-found":
            return None
        if name not in self._voting() or not self._quorum():
            why = "no quorum" if node.member_id else "connection refused"
            return EtcdSample(error=why, data_present=bool(node.member_id), member_id=node.member_id, lost=node.damaged)
        return healthy.model_copy(update={"member_id": node.member_id, "members": tuple(self.members)})


def _founder(node: Node) -> str:
    """The id that a member of a new cluster has, always the same one. Source: etcd, from peer URL and token."""
    return f"founder-{node.name}"


def bare_facts(node: Node, **changed: Any) -> HostFacts:
    """A Debian 13 with nothing on it; `changed` is laid over it."""
    values: dict[str, Any] = {
        "hostname": node.name,
        "machine_id": f"machine-{node.name}",
        "boot_id": "1",
        "os_id": "debian",
        "os_version": "13",
        "os_codename": "trixie",
        "architecture": "amd64",
        "kernel": "6.12",
        "python": "3.13",
        "cpus": 2,
        "memory_bytes": 4 * 1024**3,
        "disk_free_bytes": 50 * 1024**3,
        "container": False,
        "virtualization": "kvm",
        "addresses": (node.address,),
        "pgha_version": "0.1.0",
    }
    return HostFacts(**{**values, **changed})


def bare_system(cluster: Cluster, node: Node, seed: str = "") -> FakeSystem:
    """The host under such facts; the authority signs what the definition gives to that node.

    `seed`: of the SSH keys that are made on it.
    """
    system = FakeSystem(seed=seed or node.name)
    host_key = FileFacts("file", f"{public_key(system.seed + 'host')} root@{node.name}\n", "root", "root", 0o644)
    system.files["/etc/ssh/ssh_host_ed25519_key.pub"] = host_key
    system.files["/proc/sys/vm/swappiness"] = FileFacts("file", "60\n", "root", "root", 0o644)
    system.issue = {
        spec.name: CertificateFacts(
            common_name=spec.common_name,
            not_after=system.clock + YEAR_S,
            sans=tuple(sorted(set(spec.sans))),
            usages=tuple(sorted(spec.usages)),
            ca_fingerprint=pki.fingerprint(PEM),
        )
        for spec in certificates(cluster, node)
    }
    system.checks[database.CHECK] = lambda statements: any("pgha.probe" in text for text in statements)
    return system
