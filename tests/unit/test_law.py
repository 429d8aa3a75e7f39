"""The law every kind keeps: perform(plan(observe)), then nothing is left to do; and planning never changes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from pgha.common.errors import UserError
from pgha.common.results import Status
from pgha.common.secret import Secret
from pgha.states.backups.told import as_user
from pgha.states.backups.tools import driver
from pgha.states.converge import MemoryDebts, converge
from pgha.states.kinds import KINDS, decode, encode, read_order
from pgha.states.resource import AnyResource
from pgha.states.resources.accounts import Group, User
from pgha.states.resources.apt_repository import AptRepository
from pgha.states.resources.authorized_keys import AuthorizedKeys, LabelledKey
from pgha.states.resources.block import Block
from pgha.states.resources.certificate import Certificate
from pgha.states.resources.command import Command
from pgha.states.resources.databases import PostgresDatabase, PostgresExtension
from pgha.states.resources.etcd_member import EtcdMember
from pgha.states.resources.files import Absent, Directory, File, Symlink
from pgha.states.resources.firewall import AddedRule, Firewall, FirewallRule
from pgha.states.resources.hosts import Hosts
from pgha.states.resources.kernel import Sysctl
from pgha.states.resources.limits import Limits
from pgha.states.resources.line import Line
from pgha.states.resources.mount import Mount
from pgha.states.resources.package import Package, Pin
from pgha.states.resources.packages import LISTS_STAMP, Packages, Upgrade
from pgha.states.resources.patroni import PatroniConfig
from pgha.states.resources.patroni_file import PatroniFile
from pgha.states.resources.postgres import PostgresRole, Sql, verifier
from pgha.states.resources.service import Service
from pgha.states.resources.ssh import AuthorizedKey, SshKey
from pgha.states.resources.sshd import Sshd
from pgha.states.resources.stanza import Stanza
from pgha.states.resources.thp import SYSFS, THP_UNIT, Thp
from pgha.states.resources.time_sync import TimeSync
from pgha.states.resources.units import DropIn, Timer, UnitFile
from pgha.states.simulated import FakeAccounts, FakeDatabase, FakeDatabases, FakePackages, FakeUfw, FakeUser
from pgha.states.simulated_sshd import FakeSshd
from pgha.states.system import CertificateFacts, FileFacts, Output, UnitFacts
from pgha.states.testing import YEAR_S, FakeSystem

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


KEY = """\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEaSYAABYJKwYBBAHaRw8BAQdA
-----END PGP PUBLIC KEY BLOCK-----
"""
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi0nq3QSrVZ0vLrMPGx0TD6pdjvYyVgXJPCBkS0nL3s"


def text(path: str, content: str, mode: int = 0o644) -> Host:
    return with_file(path, FileFacts("file", content, "root", "root", mode))


def people(user: FakeUser | None = None, files: dict[str, FileFacts] | None = None) -> Host:
    """A host with the groups dba and app, and a user called deploy. `files` are in the home."""

    def make() -> FakeSystem:
        accounts = FakeAccounts(groups={"root": 0, "dba": 500, "app": 501, "deploy": 1001})
        accounts.users["deploy"] = user or FakeUser(1001, "deploy", frozenset(), "/srv/deploy")
        return FakeSystem(
            files={f"/srv/deploy/{name}": facts for name, facts in (files or {}).items()}, accounts=accounts
        )

    return make


def installed(version: str, held: bool = False) -> Host:
    return lambda: FakeSystem(installed={"tool": version}, apt=FakePackages(held={"tool"} if held else set()))


def huge_pages(word: str, unit: UnitFacts | None = None) -> Host:
    def make() -> FakeSystem:
        choice = FileFacts("file", "always madvise never\n".replace(word, f"[{word}]"))
        files = {f"{SYSFS}/{name}": choice for name in ("enabled", "defrag")}
        return FakeSystem(files=files, units={THP_UNIT: unit} if unit else {})

    return make


def ssh_server(files: dict[str, str] | None = None, active: str = "active", mode: int = 0o644) -> Host:
    """`files`: names of drop-ins and what stands in them."""

    def make() -> FakeSystem:
        return FakeSystem(
            sshd=FakeSshd(),
            units={"ssh.service": UnitFacts("loaded", active, "enabled", 1.0 if active == "active" else 0.0)},
            files={
                f"/etc/ssh/sshd_config.d/{name}.conf": FileFacts("file", text, "root", "root", mode)
                for name, text in (files or {}).items()
            },
        )

    return make


def initialise(host: FakeSystem) -> Output:
    host.files["/var/lib/app/done"] = FileFacts("file", "")
    return Output(0)


def asked(host: FakeSystem) -> Output:
    return Output(0 if "/var/lib/app/done" in host.files else 1)


def commanded() -> FakeSystem:
    return FakeSystem(programs={("app", "init"): initialise, ("app", "check"): asked})


def databases(**names: FakeDatabase) -> Host:
    return lambda: FakeSystem(
        server=True, databases=FakeDatabases({"postgres": FakeDatabase(), **names}, {"pgcrypto": "1.3"})
    )


CHECK = "select exists (select from pg_namespace where nspname = 'pgha')"
SECURITY = "Inst libssl3 [3.0.11-1] (3.0.15-1 Debian-Security:12/stable-security [amd64])"
REGULAR = "Inst tzdata [2024a-0] (2025b-0 Debian:13/stable [all])"


def with_etcd(*members: str) -> Host:
    """etcd with these members, `NAME=PEER_URL`, all of them healthy; changed by the commands of that kind."""
    made = EtcdMember(name="d", peer_url="https://10.0.0.4:2380")
    call = made._etcdctl()

    def host() -> FakeSystem:
        known = dict(one.split("=", 1) for one in members)

        def listed(system: FakeSystem) -> Output:
            rows = [
                {"ID": number, "name": name, "peerURLs": [url], "clientURLs": [url.replace("2380", "2379")]}
                for number, (name, url) in enumerate(known.items(), start=16)
            ]
            return Output(0, json.dumps({"members": rows}))

        def health(system: FakeSystem) -> Output:
            told = [{"endpoint": url.replace("2380", "2379"), "health": True} for url in known.values()]
            return Output(0, json.dumps(told))

        def put(system: FakeSystem) -> Output:
            known["d"] = made.peer_url
            return Output(0)

        ids = [f"{number:x}" for number, _ in enumerate(known, start=16)]
        return FakeSystem(
            programs={
                (*call, "member", "list", "-w", "json"): listed,
                (*call, "endpoint", "health", "--cluster", "-w", "json"): health,
                (*call, "member", "add", "d", f"--peer-urls={made.peer_url}"): put,
                **{(*call, "member", "update", one, f"--peer-urls={made.peer_url}"): put for one in ids},
            }
        )

    return host


def with_repository() -> FakeSystem:
    """A database, and a repository that knows it when there is a file of that name."""

    def info(system: FakeSystem) -> Output:
        code = 2 if "/repository/prod" in system.files else 1
        told = {"name": "prod", "repo": [{"key": 1, "cipher": "none", "status": {"code": code, "message": "said"}}]}
        return Output(0, json.dumps([told]))

    def create(system: FakeSystem) -> Output:
        system.files["/repository/prod"] = FileFacts("file", "")
        return Output(0)

    return FakeSystem(
        server=True,
        installed={"pgbackrest": "2.55"},
        programs={
            as_user(driver("pgbackrest").info("prod", 1)): info,
            ("tool", "create"): create,
            ("tool", "check"): lambda system: Output(0 if "/repository/prod" in system.files else 1),
        },
    )


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
        Package(name="tool", version="2.0", hold=True, pin=Pin(version="2.*", priority=1001)),
        {"bare": FakeSystem, "older": installed("1.0"), "older and held": installed("1.0", True)},
    ),
    Example(
        Package(name="tool", absent=True, hold=False),
        {"bare": FakeSystem, "there": installed("1.0"), "held": installed("1.0", True)},
    ),
    Example(
        AptRepository(name="pgdg", uris=("https://a/b",), suites=("x-pgdg",), components=("main",), signed_by=KEY),
        {
            "bare": FakeSystem,
            "other key": text("/etc/apt/keyrings/pgdg.asc", "other"),
            "other source": text("/etc/apt/sources.list.d/pgdg.sources", "Types: deb\n"),
        },
    ),
    Example(
        AptRepository(name="pgdg", absent=True),
        {"bare": FakeSystem, "there": text("/etc/apt/sources.list.d/pgdg.sources", "Types: deb\n")},
    ),
    Example(
        Line(path="/etc/a", line="b=2", match="^b="),
        {
            "bare": FakeSystem,
            "no such line": text("/etc/a", "a=1"),
            "another": text("/etc/a", "a=1\nb=1\nc=1\n"),
        },
    ),
    Example(
        Line(path="/etc/a", match="^b", absent=True),
        {"bare": FakeSystem, "twice": text("/etc/a", "b=1\na=1\nb=2")},
    ),
    Example(Group(name="dba", gid=700), {"bare": FakeSystem}),
    Example(Group(name="app", absent=True), {"bare": FakeSystem, "there": people()}),
    Example(
        User(name="deploy", groups=("dba",), shell="/bin/sh", comment="Deployer"),
        {
            "bare": lambda: FakeSystem(accounts=FakeAccounts(groups={"root": 0, "dba": 500})),
            "namesake": lambda: FakeSystem(accounts=FakeAccounts(groups={"dba": 500, "deploy": 9, "root": 0})),
            "there": people(),
            "elsewhere, too": people(FakeUser(1001, "deploy", frozenset({"app"}), "/srv/deploy", "/bin/bash", "x")),
        },
    ),
    Example(User(name="deploy", absent=True), {"bare": FakeSystem, "there": people()}),
    Example(
        AuthorizedKey(user="deploy", public_key=f"{SSH} a@b", options="restrict"),
        {
            "bare home": people(),
            "another key": people(files={".ssh/authorized_keys": FileFacts("file", "# x\nssh-rsa AAAA c\n", "deploy")}),
            "without options": people(files={".ssh/authorized_keys": FileFacts("file", f"{SSH}\n{SSH} x\n", "deploy")}),
            "open to all": people(files={".ssh": FileFacts("directory", None, "deploy", "deploy", 0o777)}),
        },
    ),
    Example(
        AuthorizedKey(user="deploy", public_key=SSH, absent=True),
        {"bare": people(), "there": people(files={".ssh/authorized_keys": FileFacts("file", f"restrict {SSH} x\n")})},
    ),
    Example(
        AuthorizedKeys(user="deploy", label="ci", keys=(LabelledKey(public_key=f"{SSH} one", options="restrict"),)),
        {
            "bare home": people(),
            "others": people(
                files={".ssh/authorized_keys": FileFacts("file", f"{SSH}\nssh-rsa AAAA ci gone\n", "deploy")}
            ),
            "looser": people(files={".ssh/authorized_keys": FileFacts("file", f"{SSH} ci one\n", "deploy")}),
        },
    ),
    Example(
        AuthorizedKeys(user="deploy", label="ci"),
        {"bare": people(), "there": people(files={".ssh/authorized_keys": FileFacts("file", f"{SSH} ci x\n")})},
    ),
    Example(
        SshKey(path="/srv/deploy/.ssh/id_ed25519", owner="deploy"),
        {
            "bare": people(),
            "no public half": people(
                files={
                    ".ssh/id_ed25519": FileFacts("file", None, "deploy", "deploy", 0o600),
                    ".ssh": FileFacts("directory"),
                }
            ),
        },
    ),
    Example(
        SshKey(path="/srv/deploy/.ssh/id_ed25519", owner="deploy", absent=True),
        {
            "bare": people(),
            "there": people(
                files={".ssh/id_ed25519": FileFacts("file"), ".ssh/id_ed25519.pub": FileFacts("file", "x")}
            ),
            "half": people(files={".ssh/id_ed25519.pub": FileFacts("file", "x")}),
        },
    ),
    Example(
        Sshd(name="00-pgha", settings={"PasswordAuthentication": "no", "MaxAuthTries": 3, "AllowUsers": "root ada"}),
        {
            "not installed": FakeSystem,
            "stopped": ssh_server(active="inactive"),
            "running": ssh_server(),
            "another": ssh_server({"00-pgha": "# managed by pgha\nMaxAuthTries 4\n"}),
            "open to all": ssh_server({"00-pgha": "x\n"}, mode=0o666),
        },
    ),
    Example(
        Sshd(name="00-pgha", absent=True),
        {
            "not installed": FakeSystem,
            "none": ssh_server(),
            "there": ssh_server({"00-pgha": "MaxAuthTries 4\n"}),
            "there, stopped": ssh_server({"00-pgha": "MaxAuthTries 4\n"}, active="inactive"),
        },
    ),
    Example(
        Thp(),
        {
            "bare": huge_pages("always"),
            "set back by hand": huge_pages("madvise", UnitFacts("loaded", "active", "enabled")),
        },
    ),
    Example(
        Limits(domain="@dba", soft={"nofile": 1024}, hard={"nofile": 65536, "memlock": "unlimited"}),
        {"bare": FakeSystem, "drifted": text("/etc/security/limits.d/60-pgha-group-dba.conf", "x\n")},
    ),
    Example(
        Mount(path="/srv/a b", source="tmpfs", fstype="tmpfs", options="noexec,size=1m"),
        {
            "bare": FakeSystem,
            "other entry": text("/etc/fstab", "# mine\ntmpfs /srv/a\\040b tmpfs defaults 0 0\n/dev/sda1 / ext4 x 0 1"),
            "without the option": text("/proc/self/mounts", "tmpfs /srv/a\\040b tmpfs rw 0 0\n"),
        },
    ),
    Example(
        Mount(path="/srv/a", absent=True),
        {
            "bare": FakeSystem,
            "mounted": text("/proc/self/mounts", "tmpfs /srv/a tmpfs rw 0 0\n"),
            "entry": text("/etc/fstab", "tmpfs /srv/a tmpfs defaults 0 0\n"),
        },
    ),
    Example(
        UnitFile(name="app.service", content="[Service]\nExecStart=/bin/true"),
        {
            "bare": FakeSystem,
            "another": text("/etc/systemd/system/app.service", "[Service]\n"),
            "not read yet": with_unit("app.service", UnitFacts("loaded", "active", "enabled", 1.0, True)),
        },
    ),
    Example(
        UnitFile(name="app.service", absent=True),
        {
            "bare": FakeSystem,
            "enabled": lambda: FakeSystem(
                files={"/etc/systemd/system/app.service": FileFacts("file", "x")},
                units={"app.service": UnitFacts("loaded", "inactive", "enabled")},
            ),
        },
    ),
    Example(
        DropIn(unit="app.service", name="limits", content="[Service]\nLimitNOFILE=65536\n"),
        {"bare": FakeSystem, "another": text("/etc/systemd/system/app.service.d/limits.conf", "x\n")},
    ),
    Example(
        Timer(name="job", on_calendar="daily", command=("/bin/true", "a b")),
        {
            "bare": FakeSystem,
            "stopped": with_unit("job.timer", UnitFacts("loaded", "inactive", "enabled")),
        },
    ),
    Example(
        Timer(name="job", absent=True),
        {
            "bare": FakeSystem,
            "there": lambda: FakeSystem(
                files={f"/etc/systemd/system/job.{end}": FileFacts("file", "x") for end in ("timer", "service")},
                units={"job.timer": UnitFacts("loaded", "active", "enabled")},
            ),
        },
    ),
    Example(
        Command(name="init", argv=("app", "init"), creates="/var/lib/app/done", unless=("app", "check")),
        {"bare": commanded},
    ),
    Example(
        Hosts(name="app", entries={"10.0.0.1": ("db1", "db1.example"), "fd00::1": ("db1",)}),
        {
            "bare": FakeSystem,
            "old": text("/etc/hosts", "127.0.0.1 localhost\n# pgha begin app\n10.0.0.2 db1\n# pgha end app\n"),
        },
    ),
    Example(
        Hosts(name="app", absent=True),
        {"bare": FakeSystem, "there": text("/etc/hosts", "a\n# pgha begin app\n10.0.0.2 db1\n# pgha end app\nb")},
    ),
    Example(
        PostgresDatabase(database="app", owner="app", encoding="UTF8", locale="C.UTF-8"),
        {"none": databases(), "other owner": databases(app=FakeDatabase())},
    ),
    Example(PostgresDatabase(database="app", absent=True, destroy=True), {"there": databases(app=FakeDatabase())}),
    Example(
        PostgresExtension(extension="pgcrypto", database="app", version="latest"),
        {
            "none": databases(app=FakeDatabase()),
            "old": databases(app=FakeDatabase(extensions={"pgcrypto": "1.1"})),
        },
    ),
    Example(
        PostgresExtension(extension="pgcrypto", database="app", absent=True, destroy=True),
        {"none": databases(), "there": databases(app=FakeDatabase(extensions={"pgcrypto": "1.1"}))},
    ),
    Example(
        Sql(name="probe", check=CHECK, statements="create schema pgha;"),
        {"no schema": lambda: FakeSystem(server=True, checks={CHECK: lambda ran: "create schema pgha;" in ran})},
    ),
    Example(
        EtcdMember(name="d", peer_url="https://10.0.0.4:2380"),
        {
            "not a member": with_etcd("a=https://10.0.0.1:2380"),
            "at another address": with_etcd("a=https://10.0.0.1:2380", "d=https://10.0.0.9:2380"),
        },
    ),
    Example(
        Stanza(
            stanza="prod",
            driver="pgbackrest",
            numbers=(1,),
            create=("tool", "create"),
            upgrade=("tool", "upgrade"),
            check=("tool", "check"),
        ),
        {"not known to the repository": with_repository},
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
    first = list(converge([resource], system, MemoryDebts(), allow_destroy=[resource.id]))
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
