"""The law every kind keeps: perform(plan(observe)), then nothing is left to do; and planning never changes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from pgha.common.errors import UserError
from pgha.common.results import Status
from pgha.common.secret import Secret
from pgha.states.converge import MemoryDebts, converge
from pgha.states.kinds import KINDS, decode, encode, read_order
from pgha.states.resource import AnyResource
from pgha.states.resources.block import Block
from pgha.states.resources.certificate import Certificate
from pgha.states.resources.files import Absent, Directory, File, Symlink
from pgha.states.resources.firewall import AddedRule, Firewall, FirewallRule
from pgha.states.resources.kernel import Sysctl
from pgha.states.resources.packages import LISTS_STAMP, Packages, Upgrade
from pgha.states.resources.patroni import PatroniConfig
from pgha.states.resources.patroni_file import PatroniFile
from pgha.states.resources.postgres import PostgresRole, Sql, verifier
from pgha.states.resources.service import Service
from pgha.states.resources.time_sync import TimeSync
from pgha.states.system import CertificateFacts, FileFacts, UnitFacts
from pgha.states.testing import YEAR_S, FakeSystem, FakeUfw

Host = Callable[[], FakeSystem]


@dataclass
class Example:
    resource: AnyResource
    hosts: dict[str, Host] = field(default_factory=lambda: {"bare": FakeSystem})


def with_file(path: str, facts: FileFacts) -> Host:
    return lambda: FakeSystem(files={path: facts})


def with_unit(name: str, facts: UnitFacts) -> Host:
    return lambda: FakeSystem(units={name: facts})


LEAF = CertificateFacts(
    found=True,
    common_name="pg-node1",
    not_after=1_800_000_000.0 + YEAR_S,
    sans=("10.77.1.11", "pg-node1"),
    usages=("client", "server"),
    ca_fingerprint="ab" * 32,
    key_matches=True,
    bundle_matches=True,
)
TLS = "/etc/etcd/tls"
CERTIFICATE = Certificate(
    name="etcd-server",
    cluster="prod",
    directory=TLS,
    basename="server",
    group="etcd",
    common_name="pg-node1",
    sans=("pg-node1", "10.77.1.11"),
    usages=("server", "client"),
    renew_before_s=30 * 86400.0,
    ca_fingerprint="ab" * 32,
    bundle=True,
)


def certified(facts: CertificateFacts | None, mode: int = 0o640) -> Host:
    def make() -> FakeSystem:
        host = FakeSystem(issue={"etcd-server": LEAF}, files={f"{TLS}/ca.crt": FileFacts("file", "CA")})
        if facts is not None:
            host.certificates[f"{TLS}/server.crt"] = facts
            host.files[f"{TLS}/server.crt"] = FileFacts("file", "x", "root", "etcd", 0o644)
            host.files[f"{TLS}/server.key"] = FileFacts("file", None, "root", "etcd", mode)
            host.files[f"{TLS}/server.pem"] = FileFacts("file", None, "root", "root", 0o600)
        return host

    return make


def rules(*added: AddedRule, enabled: bool = True, incoming: str = "deny") -> Host:
    return lambda: FakeSystem(ufw=FakeUfw(enabled, list(added), incoming))


def role(stored: str, words: set[str]) -> Host:
    return lambda: FakeSystem(server=True, roles={"pgha_probe": (stored, set(words))})


CHECK = "select exists (select from pg_namespace where nspname = 'pgha')"
SECURITY = "Inst libssl3 [3.0.11-1] (3.0.15-1 Debian-Security:12/stable-security [amd64])"
REGULAR = "Inst tzdata [2024a-0] (2025b-0 Debian:13/stable [all])"

EXAMPLES = [
    Example(
        File(
            path="/etc/app.conf", content="user: app\npassword: {{p}}\n", mode=0o640, secrets={"p": Secret("hunter2")}
        ),
        {
            "bare": FakeSystem,
            "other text": with_file("/etc/app.conf", FileFacts("file", "user: x\n", "root", "root", 0o640)),
            "old secret": with_file(
                "/etc/app.conf", FileFacts("file", "user: app\npassword: old\n", "root", "root", 0o640)
            ),
            "other mode": with_file(
                "/etc/app.conf", FileFacts("file", "user: app\npassword: hunter2\n", "app", "root", 0o666)
            ),
            "binary": with_file("/etc/app.conf", FileFacts("file", None, "root", "root", 0o640)),
        },
    ),
    Example(
        Directory(path="/etc/app", group="app", mode=0o750),
        {"bare": FakeSystem, "open": with_file("/etc/app", FileFacts("directory", None, "root", "root", 0o777))},
    ),
    Example(
        Symlink(path="/etc/a", target="/etc/b"),
        {"bare": FakeSystem, "elsewhere": with_file("/etc/a", FileFacts("symlink", target="/etc/c"))},
    ),
    Example(
        Absent(path="/var/old", tree=True),
        {
            "folder": lambda: FakeSystem(
                files={"/var/old": FileFacts("directory"), "/var/old/a": FileFacts("file", "x")}
            ),
            "bare": FakeSystem,
        },
    ),
    Example(
        Block(path="/etc/hosts", name="cluster prod", content="10.77.1.11 pg-node1\n"),
        {
            "bare": FakeSystem,
            "of the user": with_file("/etc/hosts", FileFacts("file", "127.0.0.1 localhost\n", "root", "root", 0o644)),
            "old lines": with_file(
                "/etc/hosts",
                FileFacts("file", "a\n# pgha begin cluster prod\nold\n# pgha end cluster prod\nb", "u", "g", 0o640),
            ),
            "no end": with_file("/etc/hosts", FileFacts("file", "# pgha begin cluster prod\nb\n", "u", "g", 0o640)),
        },
    ),
    Example(
        Packages(name="base", names=("curl", "wget")),
        {"bare": FakeSystem, "half": lambda: FakeSystem(installed={"curl": "8.1"})},
    ),
    Example(
        Upgrade(scope="security", hold=("patroni",)),
        {
            "never updated": lambda: FakeSystem(upgrades=[SECURITY, REGULAR]),
            "stale lists": with_file(LISTS_STAMP, FileFacts("file", "", mtime=1_700_000_000.0)),
        },
    ),
    Example(
        Service(unit="etcd"),
        {
            "bare": FakeSystem,
            "stopped": with_unit("etcd.service", UnitFacts("loaded", "inactive", "disabled")),
            "failed": with_unit("etcd.service", UnitFacts("loaded", "failed", "enabled")),
            "masked": with_unit("etcd.service", UnitFacts("masked", "inactive", "masked")),
            "changed on disk": with_unit("etcd.service", UnitFacts("loaded", "active", "enabled", 1.0, True)),
            "condition not met": lambda: FakeSystem(unmet={"etcd.service"}),
        },
    ),
    Example(
        Sysctl(name="vm.swappiness", value="10"),
        {"host": with_file("/proc/sys/vm/swappiness", FileFacts("file", "60\n"))},
    ),
    Example(
        TimeSync(service="chrony"), {"bare": FakeSystem, "not yet in step": lambda: FakeSystem(synchronised=False)}
    ),
    Example(
        Firewall(
            rules=(
                FirewallRule(port=22, source="10.0.0.0/8", comment="pgha: SSH admin access"),
                FirewallRule(port=5433, comment="pgha: HAProxy writes"),
                FirewallRule(port=2379, source="10.77.1.11/32", comment="pgha: etcd client pg-node1"),
            ),
            confirm_s=30.0,
        ),
        {
            "installed": rules(enabled=False),
            "open by default": rules(incoming="allow"),
            "left over": rules(AddedRule(("allow", "9000/tcp"), "pgha: gone")),
            "other comment": rules(AddedRule(("allow", "5433/tcp"), "pgha: old words")),
        },
    ),
    Example(
        CERTIFICATE,
        {
            "bare": certified(None),
            "near its end": certified(CertificateFacts(True, "pg-node1", 1_800_000_000.0 + 86400.0)),
            "other authority": certified(replace(LEAF, ca_fingerprint="cd" * 32)),
            "key readable by all": certified(LEAF, mode=0o644),
        },
    ),
    Example(
        PatroniConfig(settings={"ttl": 30, "postgresql": {"parameters": {"max_connections": 100, "work_mem": None}}}),
        {
            "empty": lambda: FakeSystem(patroni_config={}),
            "drifted": lambda: FakeSystem(
                patroni_config={"ttl": 20, "postgresql": {"parameters": {"max_connections": "50", "work_mem": "4MB"}}}
            ),
        },
    ),
    Example(
        PatroniFile(
            file=File(path="/etc/patroni/config.yml", content="postgresql: {parameters: {shared_buffers: 1GB}}\n"),
            bin_dir="/usr/lib/postgresql/17/bin",
            parameters={"shared_buffers": "1GB"},
        ),
        {
            "bare": FakeSystem,
            "another": with_file(
                "/etc/patroni/config.yml", FileFacts("file", "postgresql: {parameters: {shared_buffers: 2GB}}\n")
            ),
        },
    ),
    Example(
        PostgresRole(role="pgha_probe", password=Secret("right"), attributes=("LOGIN", "CONNECTION LIMIT 5")),
        {
            "no role": lambda: FakeSystem(server=True),
            "other password": role(verifier(Secret("wrong"), b"salt"), {"LOGIN", "CONNECTION LIMIT 5"}),
            "no limit": role(verifier(Secret("right"), b"salt"), {"LOGIN"}),
        },
    ),
    Example(
        Sql(name="probe", check=CHECK, statements="create schema pgha;"),
        {"no schema": lambda: FakeSystem(server=True, checks={CHECK: lambda ran: "create schema pgha;" in ran})},
    ),
]
CASES = [
    pytest.param(example.resource, host, id=f"{example.resource.kind}-{name}")
    for example in EXAMPLES
    for name, host in example.hosts.items()
]


def test_every_kind_has_an_example() -> None:
    assert {example.resource.kind for example in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize(("resource", "host"), CASES)
def test_what_was_planned_and_performed_leaves_nothing_to_plan(resource: AnyResource, host: Host) -> None:
    system = host()
    for change in resource.plan(resource.observe(system)):
        system.perform(change.action)
    assert resource.plan(resource.observe(system)) == []


@pytest.mark.parametrize(("resource", "host"), CASES)
def test_observing_and_planning_performs_nothing(resource: AnyResource, host: Host) -> None:
    system = host()
    facts = resource.observe(system)
    resource.plan(facts)
    resource.refresh(facts)
    assert system.performed == []


@pytest.mark.parametrize(("resource", "host"), CASES)
def test_a_dry_run_performs_nothing(resource: AnyResource, host: Host) -> None:
    system = host()
    list(converge([resource], system, MemoryDebts(), dry_run=True))
    assert system.performed == []


@pytest.mark.parametrize(("resource", "host"), CASES)
def test_the_second_converge_changes_nothing(resource: AnyResource, host: Host) -> None:
    system = host()
    first = list(converge([resource], system, MemoryDebts()))
    assert first[0].status in (Status.CHANGED, Status.UNCHANGED), first[0].reason
    done = len(system.performed)
    second = list(converge([resource], system, MemoryDebts()))
    assert second[0].status in (Status.UNCHANGED, Status.SKIPPED)
    assert second[0].changes == ()
    assert len(system.performed) == done


@pytest.mark.parametrize("resource", [example.resource for example in EXAMPLES], ids=lambda r: r.kind)
def test_a_resource_survives_the_wire(resource: AnyResource) -> None:
    assert decode(encode([resource])) == [resource]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"documents": [], "resources": [{"kind": "magic"}]}, "knows no resource kind 'magic': the minion is older"),
        (
            {"documents": [], "resources": [{"kind": "file", "path": 3, "content": ""}, {"kind": "magic"}]},
            "knows no resource kind 'magic'",  # what is newer may also have newer fields
        ),
        ({"documents": [], "resources": [{"path": "/etc/a"}]}, "knows no resource kind None"),
        (
            {"documents": [], "resources": [{"kind": "file", "path": "/a", "content": "", "requires": [3]}]},
            r"resource number 0 \(file\), field requires\.0: Input should be a valid string",
        ),
        ({"documents": [], "resources": [3]}, r"cannot be read: resources\.0: Input should be an object"),
        ({"resources": []}, "cannot be read: documents: Field required"),
        ([1], "cannot be read: all of it: Input should be an object"),
    ],
)
def test_an_order_that_cannot_be_read_says_where(order: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_order(json.dumps(order))
