"""FakeSystem: a host made of dicts, on which every action does what the real one would.

Shipped, so that users test their own documents with it. Rules: it starts bare unless told otherwise; it raises on
anything it was not taught rather than invent an answer; `performed` keeps every action in the order it came.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..common.errors import ActionFailed
from .action import (
    Action,
    Guarded,
    InstallPackages,
    IssueCertificate,
    MakeDirectory,
    MakeSymlink,
    PatchPatroni,
    PostPatroni,
    Remove,
    Run,
    RunSql,
    SetAttributes,
    Unit,
    UpgradePackages,
    WriteFile,
    rendered,
)
from .resources import apt_repository, firewall, mount, packages, postgres, ssh, sshd, time_sync
from .simulated import FakeAccounts, FakeDatabases, FakeMounts, FakePackages, FakeUfw, FakeUser, public_key
from .simulated_sshd import FakeSshd
from .system import CertificateFacts, FileFacts, Output, UnitFacts

YEAR_S = 365 * 86400.0
_ECHO = re.compile(r'^ExecStart=/bin/sh -c "echo (\S+) > (/sys/\S+)"$', re.MULTILINE)
Program = Callable[["FakeSystem"], Output]
_ROLE = re.compile(r"""(?:create|alter) role "(.+)" with (.*) password '([^']*)';""")


@dataclass
class FakeSystem:
    """`units` holds what systemd knows; a unit in `unmet` has a Condition that is never met.

    `issue` is what the certificate authority puts into a certificate of that name. `patroni_config` is None where no
    Patroni answers; `server` False where no PostgreSQL does. `checks` answers a query from the statements run so far.
    `upgrades` are lines as apt-get -s prints them. `confirms` is the master's answer to a guarded change.
    `programs`: what a program says, and does to this host, by its argv; both when it is asked and when it is run.
    """

    files: dict[str, FileFacts] = field(default_factory=dict)
    installed: dict[str, str] = field(default_factory=dict)
    units: dict[str, UnitFacts] = field(default_factory=dict)
    unmet: set[str] = field(default_factory=set)
    certificates: dict[str, CertificateFacts] = field(default_factory=dict)
    issue: dict[str, CertificateFacts] = field(default_factory=dict)
    ufw: FakeUfw | None = None
    upgrades: list[str] = field(default_factory=list)
    complaints: str = ""  # what PostgreSQL says of parameters it is asked about
    patroni_config: dict[str, Any] | None = None
    patroni_role: str = "primary"
    server: bool = False
    replica: bool = False
    roles: dict[str, tuple[str, set[str]]] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    checks: dict[str, Callable[[list[str]], bool]] = field(default_factory=dict)
    answers: dict[tuple[str, ...], Output] = field(default_factory=dict)
    programs: dict[tuple[str, ...], Program] = field(default_factory=dict)
    accounts: FakeAccounts = field(default_factory=FakeAccounts)
    apt: FakePackages = field(default_factory=FakePackages)
    mounts: FakeMounts = field(default_factory=FakeMounts)
    databases: FakeDatabases = field(default_factory=FakeDatabases)
    sshd: FakeSshd | None = None
    pages: dict[str, tuple[int, str]] = field(default_factory=dict)
    sockets: dict[tuple[str, str], str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # type of action -> why it fails
    virtual: str = "none"
    synchronised: bool = True
    confirms: bool = True
    clock: float = 1_800_000_000.0
    seed: str = ""  # of the keys that are made here
    performed: list[Action] = field(default_factory=list)

    def file(self, path: str) -> FileFacts:
        if self.ufw and (text := self.ufw.file(path)):
            return FileFacts("file", text, "root", "root", 0o644)
        if path == mount.MOUNTS:
            return self.files.get(path, FileFacts("file", "", "root", "root", 0o444))
        return self.files.get(path, FileFacts())

    def attributes(self, path: str) -> FileFacts:
        return replace(self.file(path), content=None)

    def certificate(self, cert_path: str, key_path: str, ca_path: str, bundle_path: str = "") -> CertificateFacts:
        facts = self.certificates.get(cert_path, CertificateFacts())
        if not facts.found or cert_path not in self.files:
            return CertificateFacts()
        return replace(
            facts,
            ca_fingerprint=facts.ca_fingerprint if ca_path in self.files else "",
            key_matches=facts.key_matches and key_path in self.files,
            bundle_matches=facts.bundle_matches and bundle_path in self.files,
        )

    def packages(self, names: tuple[str, ...]) -> dict[str, str | None]:
        return {name: self.installed.get(name) for name in names}

    def unit(self, name: str) -> UnitFacts:
        return self.units.get(_full(name), UnitFacts())

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        if argv in self.answers:
            return self.answers[argv]
        if argv in self.programs:
            return self.programs[argv](self)
        if said := self.accounts.ask(argv) or self.apt.ask(argv, self.installed):
            return said
        if argv[0] == sshd.SSHD:
            return (self.sshd and self.sshd.ask(argv, stdin, self.files)) or Output(127, "", "sshd is not installed")
        if argv[:2] == ("systemd-analyze", "calendar"):
            return Output(0, "Next elapse: soon\n")
        if argv[:-1] == ssh.PUBLIC_HALF:
            there = argv[-1] in self.files
            return Output(0, f"{public_key(self.seed + argv[-1])}\n") if there else Output(1, "", "no such file")
        if argv == firewall.SHOW:
            return self.ufw.show_added() if self.ufw else Output(127, "", "ufw: not found")
        if argv[1:3] == ("-C", "port"):
            return Output(1 if self.complaints else 0, "5432\n", self.complaints)
        if argv == packages.SIMULATE:
            return Output(0, "\n".join(self.upgrades))
        if argv == time_sync.ASK_TIMEDATECTL:
            return Output(0, f"NTP=yes\nNTPSynchronized={'yes' if self.synchronised else 'no'}\nCanNTP=yes\n")
        if argv == time_sync.ASK_CHRONY:
            return Output(0, f"Leap status     : {'Normal' if self.synchronised else 'Not synchronised'}\n")
        raise AssertionError(f"FakeSystem was not told what {shlex.join(argv)} says; put it into answers")

    def patroni(self, path: str) -> tuple[int, str]:
        if self.patroni_config is None:
            return 0, "connection refused"
        if path == "/patroni":
            return 200, json.dumps({"role": self.patroni_role, "state": "running"})
        if path == "/config":
            return 200, json.dumps(self.patroni_config)
        raise AssertionError(f"FakeSystem knows no path {path} of Patroni")

    def http(self, url: str, timeout_s: float = 2.0) -> tuple[int, str]:
        return self.pages.get(url, (0, "connection refused"))

    def unix_socket(self, path: str, text: str, timeout_s: float = 2.0) -> str | None:
        return self.sockets.get((path, text))

    def names(self, directory: str) -> tuple[str, ...]:
        inside = (path[len(directory) + 1 :] for path in self.files if path.startswith(directory + "/"))
        return tuple(sorted({name.split("/")[0] for name in inside}))

    def sql(self, database: str, query: str) -> Output:
        if not self.server:
            return Output(2, "", "no server")
        if query == postgres.IN_RECOVERY:
            return Output(0, "t\n" if self.replica else "f\n")
        for role, (verifier, words) in self.roles.items():
            if query == postgres.role_query(role):
                limit = next((w.removeprefix(postgres.LIMIT) for w in words if w.startswith(postgres.LIMIT)), "-1")
                flags = ("t" if word in words else "f" for word in postgres.FLAGS)
                return Output(0, "\t".join((verifier, limit, *flags)) + "\n")
        if query in self.checks:
            return Output(0, "t\n" if self.checks[query](self.statements) else "f\n")
        return self.databases.ask(database, query) or Output(0, "")

    def container(self) -> str:
        return self.virtual

    def now(self) -> float:
        return self.clock

    def perform(self, action: Action) -> None:
        self.performed.append(action)
        if why := self.broken.get(type(action).__name__):
            raise ActionFailed(why)
        match action:
            case WriteFile() | MakeDirectory() | MakeSymlink() | SetAttributes() | Remove():
                self._perform_file(action)
            case InstallPackages():
                self._install(action.names)
            case UpgradePackages():
                self._upgrade(action)
            case Unit():
                self._unit(action)
            case Run(argv=("ssh-keygen", "-q", *_, path), user=user):
                self.files[path] = FileFacts("file", None, user, user, 0o600, mtime=self.clock)
                self.files[path + ".pub"] = FileFacts(
                    "file", f"{public_key(self.seed + path)} made\n", user, user, 0o644
                )
            case Run():
                self._run(action.argv)
            case IssueCertificate():
                self._issue(action)
            case PatchPatroni():
                self._patch(json.loads(action.patch))
            case PostPatroni():
                pass
            case RunSql():
                self._sql(action)
            case Guarded():
                self._guarded(action)

    def _perform_file(self, action: WriteFile | MakeDirectory | MakeSymlink | SetAttributes | Remove) -> None:
        match action:
            case WriteFile(path, content, owner, group, mode, _, secrets):
                self.files[path] = FileFacts("file", rendered(content, secrets), owner, group, mode, mtime=self.clock)
            case MakeDirectory(path, owner, group, mode):
                self.files[path] = FileFacts("directory", None, owner, group, mode, mtime=self.clock)
            case MakeSymlink(path, target):
                self.files[path] = FileFacts("symlink", None, "root", "root", 0o777, target, self.clock)
            case SetAttributes(path, owner, group, mode):
                self.files[path] = replace(self.files[path], owner=owner, group=group, mode=mode)
            case Remove(path, tree):
                inside = [name for name in self.files if name.startswith(path + "/")]
                if inside and not tree:
                    raise ActionFailed(f"{path} is not empty")
                for name in [path, *inside]:
                    self.files.pop(name, None)

    def _install(self, names: tuple[str, ...]) -> None:
        for name, _, version in (name.partition("=") for name in names):
            self.installed[name] = version or "1.0"
        if "ufw" in names and self.ufw is None:
            self.ufw = FakeUfw()
        if "postgresql-common" in names:
            self.accounts.groups.setdefault("postgres", 110)
            self.accounts.users.setdefault("postgres", FakeUser(110, "postgres", home="/var/lib/postgresql"))

    def _upgrade(self, action: UpgradePackages) -> None:
        done = {package.name for package in packages.upgradable("\n".join(self.upgrades), action.scope, action.hold)}
        self.upgrades = [line for line in self.upgrades if line.split()[1] not in done]
        self.files[packages.LISTS_STAMP] = FileFacts("file", "", "root", "root", 0o644, mtime=self.clock)

    def _unit(self, action: Unit) -> None:
        name = _full(action.name)
        facts = self.unit(name)
        if action.verb == "daemon-reload":
            self.units = {key: replace(unit, needs_daemon_reload=False) for key, unit in self.units.items()}
            return
        if action.verb in ("start", "restart") and name in self.unmet:
            facts = replace(facts, condition_met=False)
        elif action.verb in ("start", "restart"):
            if facts.load == "masked":
                raise ActionFailed(f"{name} is masked")
            facts = replace(facts, load="loaded", active="active", condition_met=True, started_at=self.clock)
            text = self.files.get(f"/etc/systemd/system/{name}", FileFacts()).content or ""
            for word, path in _ECHO.findall(text):
                self.files[path] = FileFacts("file", f"[{word}]\n", "root", "root", 0o644)
        elif action.verb == "stop":
            facts = replace(facts, active="inactive", started_at=0.0)
        elif action.verb in ("enable", "disable"):
            facts = replace(facts, enabled=action.verb + "d")
        elif action.verb == "mask":
            facts = replace(facts, load="masked", enabled="masked")
        elif action.verb == "unmask":
            facts = replace(facts, load="loaded", enabled="disabled")
        elif action.verb != "reload" or facts.active != "active":
            raise ActionFailed(f"systemctl {action.verb} {name}: the unit is {facts.active}")
        self.units[name] = facts

    def _run(self, argv: tuple[str, ...]) -> None:
        if argv in self.programs:
            if (said := self.programs[argv](self)).rc:
                raise ActionFailed(f"{shlex.join(argv)} failed with exit code {said.rc}", said.stderr)
            return
        parts = (self.accounts.run(argv), self.apt.run(argv, self.installed), self.mounts.run(argv, self.files))
        if any(parts):
            return
        match argv:
            case apt_repository.UPDATE:
                self.files[packages.LISTS_STAMP] = FileFacts("file", "", "root", "root", 0o644, mtime=self.clock)
            case ("sysctl", "-qw", setting):
                name, value = setting.split("=", 1)
                path = "/proc/sys/" + name.replace(".", "/")
                self.files[path] = FileFacts("file", value + "\n", "root", "root", 0o644)
            case ("ufw", *words):
                if self.ufw is None:
                    raise ActionFailed("ufw is not installed")
                self.ufw.run(tuple(word for word in words if word != "--force"))
            case ("cp", "-p", source, target):
                if source in self.files:
                    self.files[target] = self.files[source]
            case (sshd.SSHD, "-t"):
                if (said := self.ask(sshd.EFFECTIVE)).rc:
                    raise ActionFailed(f"{shlex.join(argv)} failed with exit code {said.rc}", said.stderr)
            case ("systemctl", "reset-failed", _):
                pass
            case _ if argv == sshd.restart("restart"):
                self._unit(Unit("restart", sshd.UNIT))
            case ("rm", "-f", *paths):
                for path in paths:
                    self.files.pop(path, None)
            case _:
                raise AssertionError(f"FakeSystem does not know what {shlex.join(argv)} does")

    def _issue(self, action: IssueCertificate) -> None:
        if action.name not in self.issue:
            raise ActionFailed(f"the master knows no certificate {action.name}")
        base = f"{action.directory}/{action.basename}"
        self.certificates[f"{base}.crt"] = replace(
            self.issue[action.name], found=True, key_matches=True, bundle_matches=action.bundle
        )
        self.files[f"{base}.key"] = FileFacts("file", None, action.owner, action.group, 0o640)
        self.files[f"{base}.crt"] = FileFacts("file", "certificate", action.owner, action.group, 0o644)
        if action.bundle:
            self.files[f"{base}.pem"] = FileFacts("file", None, "root", "root", 0o600)

    def _patch(self, patch: dict[str, Any]) -> None:
        if self.patroni_config is None:
            raise ActionFailed("Patroni does not answer: connection refused")
        _merge(self.patroni_config, patch)

    def _sql(self, action: RunSql) -> None:
        if not self.server:
            raise ActionFailed("no PostgreSQL server answers on this host")
        text = action.statements.reveal()
        self.statements.append(text)
        self.databases.run(action.database, text)
        if match := _ROLE.fullmatch(text):
            role, attributes, verifier = match.groups()
            old = self.roles.get(role, ("", set()))[1]
            limit = re.search(rf"{postgres.LIMIT}-?\d+", attributes)
            words = set(attributes.replace(limit[0], "").split() if limit else attributes.split())
            words |= {limit[0]} if limit else {word for word in old if word.startswith(postgres.LIMIT)}
            self.roles[role] = (verifier, words | {w for w in old if w not in words and f"NO{w}" not in words})

    def _guarded(self, action: Guarded) -> None:
        for step in (*action.prepare, *action.actions):
            self.perform(step)
        deaf = bool(action.greets) and self.sshd is not None and not self.sshd.greets(self.files)
        if deaf or not self.confirms:
            for argv in action.revert:
                self._run(argv)
            who = "nobody answers" if deaf else "the master could not be reached"
            raise ActionFailed(f"{who} after the change; it was put back")


def _full(unit: str) -> str:
    return unit if "." in unit else f"{unit}.service"


def _merge(base: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(base.get(key), dict):
                base[key] = {}
            _merge(base[key], value)
        else:
            base[key] = value
