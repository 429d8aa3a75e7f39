"""Parts of FakeSystem: programs that keep something of their own, each simulated as far as the kinds ask of it.

`ask` gives None, and `run` False, for what is not this part's business. A part raises ActionFailed where the program
would refuse.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..common.errors import ActionFailed
from .resources import databases, firewall, package
from .resources.firewall import AddedRule
from .resources.mount import fields_of
from .system import FileFacts, Output

Files = dict[str, FileFacts]
_ED25519 = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
_FIRST_NUMBER = 1000


def public_key(seed: str) -> str:
    """The public half of an ed25519 key, always the same one of a seed: `TYPE BASE64`."""
    blob = base64.b64encode(_ED25519 + hashlib.sha256(seed.encode()).digest())
    return f"ssh-ed25519 {blob.decode()}"


@dataclass(frozen=True, slots=True)
class FakeUser:
    uid: int
    group: str
    groups: frozenset[str] = frozenset()
    home: str = ""
    shell: str = "/bin/bash"
    comment: str = ""


def _root() -> dict[str, FakeUser]:
    return {"root": FakeUser(0, "root", home="/root")}


@dataclass
class FakeAccounts:
    """/etc/passwd and /etc/group, and the programs of Debian's `passwd` package."""

    users: dict[str, FakeUser] = field(default_factory=_root)
    groups: dict[str, int] = field(default_factory=lambda: {"root": 0})

    def ask(self, argv: tuple[str, ...]) -> Output | None:
        match argv:
            case ("getent", "passwd", name):
                if (user := self.users.get(name)) is None:
                    return Output(2)
                gid = self.groups[user.group]
                return Output(0, f"{name}:x:{user.uid}:{gid}:{user.comment}:{user.home}:{user.shell}\n")
            case ("getent", "group", name):
                return Output(0, f"{name}:x:{self.groups[name]}:\n") if name in self.groups else Output(2)
            case ("id", "-gn" | "-Gn" as what, name):
                if (found := self.users.get(name)) is None:
                    return Output(1, "", "no such user")
                return Output(0, " ".join([found.group, *(sorted(found.groups) if what == "-Gn" else ())]) + "\n")
        return None

    def run(self, argv: tuple[str, ...]) -> bool:
        name, options = argv[-1], _options(argv[1:-1])
        match argv[0]:
            case "groupadd":
                self.groups[name] = int(options.get("--gid") or _FIRST_NUMBER + len(self.groups))
            case "groupdel":
                if any(user.group == name for user in self.users.values()):
                    raise ActionFailed(f"groupdel: cannot remove the primary group of a user: {name}")
                del self.groups[name]
            case "useradd":
                self._useradd(name, options)
            case "usermod":
                self._usermod(name, options)
            case "userdel":
                del self.users[name]
            case _:
                return False
        return True

    def _useradd(self, name: str, options: dict[str, str]) -> None:
        group = options.get("--gid", name)
        if "--user-group" in options:
            self.groups[name] = _FIRST_NUMBER + len(self.groups)
        supplementary = frozenset(filter(None, options.get("--groups", "").split(",")))
        if missing := sorted({group, *supplementary} - {*self.groups}):
            raise ActionFailed(f"useradd: group '{missing[0]}' does not exist")
        uid = int(options.get("--uid") or _FIRST_NUMBER + len(self.users))
        home = options.get("--home-dir", f"/home/{name}")
        shell, comment = options["--shell"], options.get("--comment", "")
        self.users[name] = FakeUser(uid, group, supplementary, home, shell, comment)

    def _usermod(self, name: str, options: dict[str, str]) -> None:
        user = self.users[name]
        groups = frozenset(filter(None, options["--groups"].split(","))) if "--groups" in options else user.groups
        group, shell = options.get("--gid", user.group), options.get("--shell", user.shell)
        comment = options.get("--comment", user.comment)
        self.users[name] = replace(user, group=group, groups=groups, shell=shell, comment=comment)


def _options(words: Sequence[str]) -> dict[str, str]:
    """`--key value` pairs; what is followed by another option, or by nothing, has an empty value."""
    found: dict[str, str] = {}
    for number, word in enumerate(words):
        if word.startswith("--"):
            after = words[number + 1] if number + 1 < len(words) else "--"
            found[word] = "" if after.startswith("--") else after
    return found


@dataclass
class FakePackages:
    """`needed_by`: package -> packages that cannot be without it. `moves`: -> what its change would move along."""

    held: set[str] = field(default_factory=set)
    needed_by: dict[str, tuple[str, ...]] = field(default_factory=dict)
    moves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    running: tuple[str, ...] = ()  # programs

    def ask(self, argv: tuple[str, ...], installed: dict[str, str]) -> Output | None:
        match argv:
            case package.RUNNING:
                return Output(0, "".join(f"{path}\n" for path in self.running))
            case ("apt-mark", "showhold"):
                return Output(0, "".join(f"{name}\n" for name in sorted(self.held)))
            case ("dpkg", "--compare-versions", first, "gt", second):
                return Output(0 if _numbers(first) > _numbers(second) else 1)
            case ("dpkg-query", "-L", name):
                return Output(0, "".join(f"{path}\n" for path in self.files.get(name, ())))
            case ("apt-get", "-s", "-q", "remove", name):
                gone = [name, *(n for n in self.needed_by.get(name, ()) if n in installed)]
                return Output(0, "".join(f"Remv {n} [{installed[n]}]\n" for n in gone))
            case ("apt-get", "-s", "-q", *_, "install", spec):
                name = spec.split("=")[0]
                return Output(0, "".join(f"Inst {n} [1.0] (2.0 x)\n" for n in (name, *self.moves.get(name, ()))))
        return None

    def run(self, argv: tuple[str, ...], installed: dict[str, str]) -> bool:
        match argv:
            case ("apt-mark", "hold", name):
                self.held.add(name)
            case ("apt-mark", "unhold", name):
                self.held.discard(name)
            case ("dpkg", "--remove", name):
                if left := [n for n in self.needed_by.get(name, ()) if n in installed]:
                    raise ActionFailed(f"dpkg: dependency problems: {left[0]} depends on {name}")
                installed.pop(name, None)
            case _:
                return False
        return True


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


@dataclass
class FakeMounts:
    """What is mounted is in /proc/self/mounts of the files; what cannot be unmounted is in `busy`."""

    busy: set[str] = field(default_factory=set)

    def run(self, argv: tuple[str, ...], files: Files) -> bool:
        match argv:
            case ("mount", *options, path) if options in ([], ["-o", "remount"]):
                fstab = (files.get("/etc/fstab", FileFacts()).content or "").splitlines()
                entry = next((line for line in fstab if fields_of(line)[1:2] == [path]), None)
                if entry is None:
                    raise ActionFailed(f"mount: {path}: can't find in /etc/fstab.")
                self._write(files, [*self._others(files, path), entry])
            case ("umount", path):
                if path in self.busy:
                    raise ActionFailed(f"umount: {path}: target is busy.")
                self._write(files, self._others(files, path))
            case _:
                return False
        return True

    def _others(self, files: Files, path: str) -> list[str]:
        lines = (files.get("/proc/self/mounts", FileFacts()).content or "").splitlines()
        return [line for line in lines if fields_of(line)[1:2] != [path]]

    def _write(self, files: Files, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        files["/proc/self/mounts"] = FileFacts("file", text, "root", "root", 0o444)


@dataclass
class FakeUfw:
    enabled: bool = False
    rules: list[AddedRule] = field(default_factory=list)
    incoming: str = "deny"
    outgoing: str = "allow"

    def file(self, path: str) -> str:
        """The text of one of ufw's own files, empty for any other."""
        if path == firewall.ENABLED_FILE:
            return f"ENABLED={'yes' if self.enabled else 'no'}\n"
        if path == firewall.POLICY_FILE:
            words = {"deny": "DROP", "allow": "ACCEPT", "reject": "REJECT"}
            text = f'DEFAULT_INPUT_POLICY="{words[self.incoming]}"\n'
            return text + f'DEFAULT_OUTPUT_POLICY="{words[self.outgoing]}"\n'
        return ""

    def show_added(self) -> Output:
        lines = ["Added user rules (see 'ufw status' for running firewall):"]
        for rule in self.rules:
            comment = f" comment {shlex.quote(rule.comment)}" if rule.comment else ""
            lines.append("ufw " + " ".join(rule.words) + comment)
        return Output(0, "\n".join(lines) + "\n")

    def run(self, words: tuple[str, ...]) -> None:
        match words:
            case ("enable",) | ("disable",):
                self.enabled = words[0] == "enable"
            case ("reload",):
                pass
            case ("default", policy, "incoming"):
                self.incoming = policy
            case ("default", policy, "outgoing"):
                self.outgoing = policy
            case ("delete", *rule):
                self.rules = [added for added in self.rules if added.words != tuple(rule)]
            case ("allow", *_):
                new = AddedRule(words[:-2], words[-1]) if "comment" in words else AddedRule(words)
                self.rules = [added for added in self.rules if added.opens != new.opens] + [new]
            case _:
                raise AssertionError(f"FakeUfw does not know ufw {shlex.join(words)}")


@dataclass(frozen=True, slots=True)
class FakeDatabase:
    """`extensions`: installed ones with their versions."""

    owner: str = "postgres"
    encoding: str = "UTF8"
    locale: str = "C.UTF-8"
    extensions: dict[str, str] = field(default_factory=dict)


_CREATE = re.compile(
    r"""create database "(.+?)"(?: owner "(.+?)")?(?: template template0)?(?: encoding '(.+?)')?(?: locale '(.+?)')?;"""
)
_OWNER = re.compile(r"""alter database "(.+)" owner to "(.+)";""")
_EXTENSION = re.compile(
    r"""(create|alter|drop) extension "(.+?)"(?: schema "(?:.+?)")?(?: (?:version|update to) "(.+?)")?;"""
)


@dataclass
class FakeDatabases:
    """`available`: extensions that the installed packages offer, with their default versions."""

    names: dict[str, FakeDatabase] = field(default_factory=lambda: {"postgres": FakeDatabase()})
    available: dict[str, str] = field(default_factory=dict)

    def ask(self, database: str, query: str) -> Output | None:
        if query.startswith("select pg_get_userbyid(datdba)"):
            for name, found in self.names.items():
                if query == databases.database_query(name):
                    return Output(0, f"{found.owner}\t{found.encoding}\t{found.locale}\n")
            return Output(0)
        if query.startswith("select coalesce((select extversion"):
            if (inside := self.names.get(database)) is None:
                return Output(2, "", f'database "{database}" does not exist')
            for name in {*inside.extensions, *self.available}:
                if query == databases.extension_query(name):
                    return Output(0, f"{inside.extensions.get(name, '')}\t{self.available.get(name, '')}\n")
            return Output(0, "\t\n")
        return None

    def run(self, database: str, text: str) -> None:
        if made := _CREATE.fullmatch(text):
            name, owner, encoding, locale = made.groups()
            self.names[name] = FakeDatabase(owner or "postgres", encoding or "UTF8", locale or "C.UTF-8")
        elif given := _OWNER.fullmatch(text):
            self.names[given[1]] = replace(self.names[given[1]], owner=given[2])
        elif gone := re.fullmatch(r'drop database "(.+)";', text):
            del self.names[gone[1]]
        elif changed := _EXTENSION.fullmatch(text):
            verb, name, version = changed.groups()
            if database not in self.names or (verb == "create" and name not in self.available):
                raise ActionFailed(f'ERROR: extension "{name}" is not available')
            inside = self.names[database].extensions
            if verb == "drop":
                del inside[name]
            else:
                inside[name] = version or self.available[name]
