"""Settings of the SSH server, in a drop-in of their own: confirmed by those who use it, or put back.

Rules:
1. What the server would make of the settings is asked of itself before anything is written. What it refuses, and what
   lets nobody in as far as can be known, is an error of the plan.
2. Writing and reloading are one guarded action: the server greets on every address where it did before, and the master
   answers on a new connection, or the former file is back.
3. A setting that another file decides, because it is read earlier, is an error: it would be in place without effect.
4. Where it listens is not for this kind: the firewall knows port 22 only.

Source: sshd_config(5): of a keyword the first value counts; sshd(8), -T and -t.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ...common.errors import HostError
from ...common.results import Disruption, Impact
from ..action import Action, Greeting, Guarded, MakeDirectory, Remove, Run, Unit, WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look, Output
from .accounts import getent
from .fields import Label, one_line
from .files import attribute_changes, unified

SSHD = "/usr/sbin/sshd"
FOLDER = "/etc/ssh/sshd_config.d"
EFFECTIVE = (SSHD, "-T")
WOULD_BE = (SSHD, "-T", "-f", "/dev/stdin")
THE_REST = "Include /etc/ssh/sshd_config\n"
NO_FOLDER = "Missing privilege separation directory"
CHECK = (
    "sh",
    "-c",
    f'mkdir -p /run/sshd; {{ cat -- "$1"; echo "{THE_REST.strip()}"; }} | {SSHD} -t -f /dev/stdin',
    "sh",
    "%s",
)
UNIT = "ssh.service"
SOCKET = "ssh.socket"
REVERT = "/var/lib/pgha/revert"
NOT_INSTALLED = 127
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_LISTENS = {"port", "listenaddress", "addressfamily"}
_BLOCKS = {"match", "include", "subsystem"}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - as sshd writes it, and where it answers then
Said = dict[str, tuple[str, ...]]  # keyword in small letters -> its values, as `sshd -T` has them


@dataclass(frozen=True, slots=True)
class SshdFacts:
    """`now`: what counts at present. Empty where no server is installed (yet), and while it is `broken`: with what is
    in its files, our own among them, the server would not start. `socket`: systemd listens, and starts it when needed.
    """

    file: FileFacts
    runs: bool = False
    socket: bool = False
    broken: bool = False
    now: Said = field(default_factory=dict)


class Sshd(Resource[SshdFacts]):
    """`settings`: keyword -> value, as in sshd_config. `absent`: the drop-in goes, and other files decide again."""

    kind: Literal["sshd"] = "sshd"
    name: Label
    settings: dict[str, str | int] = Field(default_factory=dict)
    absent: bool = False
    confirm_s: float = Field(default=30.0, gt=0, le=600)

    @field_validator("settings")
    @classmethod
    def _keywords(cls, value: dict[str, str | int]) -> dict[str, str | int]:
        seen: set[str] = set()
        for keyword, setting in value.items():
            small = keyword.lower()
            if not _KEYWORD.fullmatch(keyword):
                raise ValueError(f"expected a keyword of sshd_config, such as PasswordAuthentication, not {keyword!r}")
            if small in _LISTENS:
                raise ValueError(f"{keyword} is not set here: the firewall lets SSH in on port 22 only")
            if small in _BLOCKS:
                raise ValueError(f"{keyword} is not set here: only settings that count for every connection are")
            if small in seen:
                raise ValueError(f"{keyword} stands twice; only the first would count")
            if not one_line(str(setting)).strip():
                raise ValueError(f"{keyword}: expected a value")
            seen.add(small)
        return value

    @model_validator(mode="after")
    def _something(self) -> Sshd:
        if self.absent == bool(self.settings):
            raise ValueError("expected settings, or absent: true, and not both")
        return self

    def key(self) -> str:
        return self.name

    @property
    def _path(self) -> str:
        return f"{FOLDER}/{self.name}.conf"

    @property
    def _text(self) -> str:
        return "# managed by pgha\n" + "".join(f"{key} {value}\n" for key, value in self.settings.items())

    def files(self) -> tuple[str, ...]:
        return (self._path,)

    def observe(self, look: Look) -> SshdFacts:
        file, said = look.file(self._path), effective(look, EFFECTIVE)
        if said.rc == NOT_INSTALLED:
            return SshdFacts(file)
        broken = said.rc != 0
        if broken and (file.kind == "absent" or file.content == self._text):
            raise HostError(f"the SSH server refuses its other settings; put them right first: {_why(said.stderr)}")
        runs, socket = (look.unit(name).active == "active" for name in (UNIT, SOCKET))
        facts = SshdFacts(file, runs, socket, broken, {} if broken else parse(said.stdout))
        if not self.absent:
            self._ask(look, facts)
        return facts

    def _ask(self, look: Look, facts: SshdFacts) -> None:
        """Raises HostError for settings that must not be, or that are in place and do not count."""
        would_be = effective(look, WOULD_BE, stdin=self._text + ("" if facts.broken else THE_REST))
        if would_be.rc != 0:
            raise HostError(f"the SSH server refuses these settings: {_why(would_be.stderr)}")
        then = parse(would_be.stdout)
        nobody = locked_out(then, look)
        if nobody and (not facts.now or nobody != locked_out(facts.now, look)):
            raise HostError(f"with these settings nobody could log in by SSH: {nobody}")
        now = facts.now
        for keyword in self.settings if facts.file.content == self._text else ():
            small = keyword.lower()
            if set(now.get(small, ())) != set(then.get(small, ())):
                counts = " ".join(now.get(small, ())) or "not set"
                raise HostError(
                    f"{self._path} is in place, but {keyword} is {counts}: a file that is read before it decides. Of "
                    "the files in that folder the first by name counts: take another name, such as 00-pgha, or take "
                    "the setting out of the other file"
                )

    def plan(self, facts: SshdFacts) -> list[Change]:
        old = (facts.file.content or "").splitlines()
        disruption = Disruption(impact=Impact.RELOAD, unit="ssh") if facts.runs else Disruption()
        if self.absent:
            if facts.file.kind == "absent":
                return []
            action = self._guarded(facts, Remove(self._path))
            return [Change("settings", action, facts.file.kind, "absent", unified(old, [], []), disruption)]
        if facts.file.kind == "file" and facts.file.content == self._text:
            return attribute_changes(self._path, facts.file, "root", "root", 0o644)
        new = self._text.splitlines()
        # one of our own that is broken stands in the way of asking about the new one beforehand
        write = WriteFile(self._path, self._text, check=() if facts.broken else CHECK)
        action = self._guarded(facts, write)
        return [Change("settings", action, facts.file.kind, "file", unified(old, new, new), disruption)]

    def _guarded(self, facts: SshdFacts, change: Action) -> Action:
        """A server that does not run locks nobody out, and reads the file when it is started."""
        if not (facts.runs or facts.socket):
            return change
        kept = f"{REVERT}/sshd-{self.name}.conf"
        there = facts.file.kind != "absent"
        prepare: tuple[Action, ...] = (MakeDirectory(REVERT, mode=0o700),)
        if there:
            prepare += (Run(("cp", "-p", self._path, kept)),)
        back = ("cp", "-p", kept, self._path) if there else ("rm", "-f", self._path)
        actions: tuple[Action, ...] = (change, Run((SSHD, "-t")))
        if facts.runs:
            actions += (Unit("reload", UNIT),)
        revert = (back, ("systemctl", "reset-failed", UNIT), restart("restart" if facts.runs else "try-restart"))
        return Guarded(actions, revert, self.confirm_s, prepare, greetings(facts.now))


def effective(look: Look, argv: tuple[str, ...], stdin: str | None = None) -> Output:
    """What the server says to `-T`; where it is stopped, and so has no folder in /run, to `-G` of newer versions.

    Raises HostError when it is stopped and too old for that.
    """
    said = look.ask(argv, stdin=stdin)
    if NO_FOLDER not in said.stderr:
        return said
    said = look.ask((SSHD, "-G", *argv[2:]), stdin=stdin)
    if "unknown option" in said.stderr:
        raise HostError("the SSH server does not run, and one of this version cannot be asked then; start it first")
    return said


def restart(verb: str) -> tuple[str, ...]:
    """Not a reload, which a server that broke may not hear; sessions outlive it.

    A server that would not start again with what is in its files is left as it runs. One that has ended has nothing to
    lose, and its own check fails for want of a folder that systemd makes with it.
    """
    return ("sh", "-c", f"systemctl -q is-active {UNIT} && ! {SSHD} -t || exec systemctl {verb} {UNIT}")


def parse(text: str) -> Said:
    """What `sshd -T` prints: a keyword and its value a line, the keyword again for a further value."""
    said: Said = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        said[keyword] = (*said.get(keyword, ()), value.strip())
    return said


def greetings(now: Said) -> tuple[Greeting, ...]:
    """Where the server listens, as this host itself reaches it."""
    found: list[Greeting] = []
    for address in now.get("listenaddress", ("0.0.0.0:22",)):
        host, _, port = address.rpartition(":")
        bare = host.strip("[]").split("%")[0]
        if port.isdigit():
            found.append(Greeting(_EVERYWHERE.get(bare, bare), int(port), "SSH-"))
    return tuple(found)


def locked_out(then: Said, look: Look) -> str:
    """Why nobody at all could log in, as far as that can be known from settings and accounts; empty when it cannot."""

    def value(keyword: str, default: str = "") -> str:
        return " ".join(then.get(keyword, (default,)))

    others = (
        "passwordauthentication",
        "kbdinteractiveauthentication",
        "gssapiauthentication",
        "hostbasedauthentication",
    )
    only_keys = all(value(method, "no") == "no" for method in others)
    if only_keys and value("pubkeyauthentication", "no") == "no":
        return "every way to prove who one is is switched off"
    keys = [value("authorizedkeysfile", "none"), value("authorizedkeyscommand", "none")]
    if only_keys and {*keys, value("trustedusercakeys", "none")} == {"none"}:
        return "keys are the only way in, and none are looked for"
    for keyword, what in (("maxauthtries", "no attempt is"), ("maxsessions", "no session is")):
        if value(keyword, "1") == "0":
            return f"{what} allowed"
    if value("refuseconnection", "no") == "yes":
        return "every connection is refused"
    for keyword in ("forcecommand", "chrootdirectory"):
        if value(keyword, "none") != "none":
            return f"{keyword} counts for every user here, and leaves nobody a shell"
    for keyword in ("denyusers", "denygroups"):
        if "*" in value(keyword).split():
            return f"{keyword} is *"
    return _nobody_is_left(then, look)


def _nobody_is_left(then: Said, look: Look) -> str:
    """Whether all those who are allowed by name are not there, or are refused again."""
    users = " ".join(then.get("allowusers", ())).split()
    groups = " ".join(then.get("allowgroups", ())).split()
    denied = {*" ".join(then.get("denyusers", ())).split()}
    if then.get("permitrootlogin") == ("no",):
        denied.add("root")
    if users and all(_plain(name) and (name in denied or getent(look, "passwd", name) is None) for name in users):
        return f"allowusers names {', '.join(users)} only, who are not there or are refused"
    if groups and all(_plain(name) and getent(look, "group", name) is None for name in groups):
        return f"allowgroups names {', '.join(groups)} only, which are not there"
    return ""


def _plain(name: str) -> bool:
    """No pattern, no host: an account's name."""
    return not set(name) & set("*?!@")


def _why(stderr: str) -> str:
    lines = [line.replace("/dev/stdin", "the settings") for line in stderr.strip().splitlines()]
    return "; ".join(lines[:3])
