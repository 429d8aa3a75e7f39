"""Unit files in /etc/systemd/system: a whole unit, a drop-in for one, a timer with the service that it runs.

Rules:
1. systemd-analyze reads a new version before it replaces the old one, where there is one. A line that systemd would
   ignore is taken as wrong: it does not do what whoever wrote it wanted.
2. systemd is told to read the files again; it then goes by the new ones at the next start. Starting and restarting is
   a `service` that watches this resource; only a timer is started here, because that disturbs nobody.
3. The unit that runs is not taken away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator, model_validator

from ...common.errors import HostError
from ..action import Remove, Unit
from ..resource import Change, Resource
from ..system import FileFacts, Look, UnitFacts
from .fields import AccountName, Label, OneLine, UnitName
from .files import File
from .service import Service

FOLDER = "/etc/systemd/system"
NOT_INSTALLED = 127
_ON_CALENDAR = re.compile(r"^OnCalendar=([^%\n]+)$", re.MULTILINE)
_EXPECTED = "expected a time as systemd.time(7) has it"
_SECTION = re.compile(r"^\[[A-Z][A-Za-z0-9-]*\]\s*$", re.MULTILINE)
# $1 the new version, $2 where it will be below FOLDER, $3 the unit whose errors count whoever made them, or nothing
_VERIFY = """\
command -v systemd-analyze >/dev/null || exit 0
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir -p "$(dirname "$dir/$2")" && cp -- "$1" "$dir/$2" || exit 1
only=--recursive-errors=no
systemd-analyze --help | grep -q -e "${only%=no}" || only=
unit=${2%%.d/*}
[ "$unit" = "$2" ] && unit="$dir/$2"
said=$(SYSTEMD_UNIT_PATH="$dir:" systemd-analyze verify --man=no $only "$unit" 2>&1); rc=$?
[ -n "$3" ] || rc=0
case "$said" in *"$dir/$2"*) rc=1 ;; esac
[ $rc = 0 ] || sed "s|$dir/||g" >&2 <<END
$said
END
exit $rc
"""


def verify(place: str, whole: bool) -> tuple[str, ...]:
    """The check of a new version that will be at FOLDER/`place`. A drop-in answers for its own lines only."""
    return ("sh", "-c", _VERIFY, "sh", "%s", place, "yes" if whole else "")


@dataclass(frozen=True, slots=True)
class UnitFileFacts:
    """`calendar`: what systemd-analyze has against a time in the new version; empty when nothing."""

    file: FileFacts
    unit: UnitFacts
    calendar: str = ""


class UnitFile(Resource[UnitFileFacts]):
    """FOLDER/`name` with exactly this content, which hides a unit of that name that a package brings."""

    kind: Literal["unit"] = "unit"
    name: UnitName
    content: str = ""
    absent: bool = False

    @model_validator(mode="after")
    def _sections(self) -> UnitFile:
        if not self.absent:
            _must_have_a_section(self.content)
        return self

    def key(self) -> str:
        return self.name

    def files(self) -> tuple[str, ...]:
        return (self._path,)

    @property
    def _path(self) -> str:
        return f"{FOLDER}/{self.name}"

    def observe(self, look: Look) -> UnitFileFacts:
        file = look.file(self._path)
        new = not self.absent and file.content != _ended(self.content)
        times = _ON_CALENDAR.findall(self.content) if new else ()  # with a specifier only systemd knows what it says
        wrong = next((f"{time}: {why}" for time in times if (why := _against(look, time))), "")
        return UnitFileFacts(file, _state(look, self.name), wrong)

    def plan(self, facts: UnitFileFacts) -> list[Change]:
        if facts.calendar:
            raise HostError(f"OnCalendar: {_EXPECTED}: {facts.calendar}")
        if not self.absent:
            changes = File(path=self._path, content=_ended(self.content), check=verify(self.name, True)).plan(
                facts.file
            )
            return [*changes, *_reload(changes, facts.unit)]
        if facts.file.kind == "absent":
            return _reload([], facts.unit)
        if facts.unit.active in ("active", "activating", "reloading"):
            raise HostError(
                f"{self.name} is {facts.unit.active}, so its file is not taken away; stop it first, with a service "
                f"that says unit: {self.name}, running: false, enabled: false"
            )
        disable = [Change("at boot", Unit("disable", self.name), facts.unit.enabled, "disabled")]
        removal = [*(disable if facts.unit.enabled.startswith("enabled") else []), _removed("unit", self._path)]
        return [*removal, *_reload(removal, facts.unit)]


class DropIn(Resource[UnitFileFacts]):
    """FOLDER/UNIT.d/NAME.conf: some settings of a unit that belongs to somebody else."""

    kind: Literal["drop_in"] = "drop_in"
    unit: UnitName
    name: Label = "pgha-local"
    content: str = ""
    absent: bool = False

    @model_validator(mode="after")
    def _sections(self) -> DropIn:
        if not self.absent:
            _must_have_a_section(self.content)
        return self

    def key(self) -> str:
        return f"{self.unit}/{self.name}"

    def files(self) -> tuple[str, ...]:
        return (f"{FOLDER}/{self._place}",)

    @property
    def _place(self) -> str:
        return f"{self.unit}.d/{self.name}.conf"

    def observe(self, look: Look) -> UnitFileFacts:
        return UnitFileFacts(look.file(f"{FOLDER}/{self._place}"), _state(look, self.unit))

    def plan(self, facts: UnitFileFacts) -> list[Change]:
        path = f"{FOLDER}/{self._place}"
        if self.absent:
            changes = [_removed("drop-in", path)] if facts.file.kind != "absent" else []
        else:
            check = verify(self._place, False)
            changes = File(path=path, content=_ended(self.content), check=check).plan(facts.file)
        return [*changes, *_reload(changes, facts.unit)]


@dataclass(frozen=True, slots=True)
class TimerFacts:
    """`calendar`: what systemd-analyze has against the expression; empty when nothing."""

    timer_file: FileFacts
    service_file: FileFacts
    timer: UnitFacts
    service: UnitFacts
    calendar: str = ""


class Timer(Resource[TimerFacts]):
    """NAME.timer, enabled and started, and NAME.service, which runs `command` once each time, without a shell.

    `persistent`: a run that was missed while the host was off is made up for.
    """

    kind: Literal["timer"] = "timer"
    name: Label
    on_calendar: OneLine = ""
    command: tuple[str, ...] = ()
    user: AccountName = "root"
    description: OneLine = ""
    persistent: bool = True
    randomized_delay_s: int = 0
    absent: bool = False

    @field_validator("name")
    @classmethod
    def _bare(cls, value: str) -> str:
        if value.endswith((".timer", ".service")):
            raise ValueError(f"expected the name without its ending, not {value!r}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Timer:
        if not self.absent and not (self.on_calendar and self.command and self.command[0]):
            raise ValueError("on_calendar, command: expected a time, such as '*-*-* 04:00', and a list of words")
        if self.command and self.command[0].startswith(("-", "@", ":", "+", "!", "|")):
            raise ValueError(f"command: expected a program first; {self.command[0]!r} would mean more to systemd")
        if self.randomized_delay_s < 0:
            raise ValueError("randomized_delay_s: expected seconds, 0 or more")
        return self

    def key(self) -> str:
        return self.name

    def _texts(self) -> tuple[str, str]:
        """The service's and the timer's."""
        about = (self.description or f"{self.name}, at its time").replace("%", "%%")
        service = (
            f"[Unit]\nDescription={about}\n\n[Service]\nType=oneshot\nUser={self.user}\n"
            f"ExecStart={' '.join(map(quoted_word, self.command))}\n"
        )
        delay = f"RandomizedDelaySec={self.randomized_delay_s}\n" if self.randomized_delay_s else ""
        timer = (
            f"[Unit]\nDescription={about}\n\n[Timer]\nOnCalendar={self.on_calendar}\n"
            f"Persistent={str(self.persistent).lower()}\n{delay}\n[Install]\nWantedBy=timers.target\n"
        )
        return service, timer

    def observe(self, look: Look) -> TimerFacts:
        wrong = ""
        if not self.absent:
            wrong = _against(look, self.on_calendar)
        timer, service = f"{self.name}.timer", f"{self.name}.service"
        files = look.file(f"{FOLDER}/{timer}"), look.file(f"{FOLDER}/{service}")
        return TimerFacts(*files, look.unit(timer), look.unit(service), wrong)

    def plan(self, facts: TimerFacts) -> list[Change]:
        if facts.calendar:
            raise HostError(f"on_calendar: {_EXPECTED}: {facts.calendar}")
        timer, service = f"{self.name}.timer", f"{self.name}.service"
        if self.absent:
            return self._removal(facts, timer, service)
        texts = self._texts()
        parts = ((service, texts[0], facts.service_file), (timer, texts[1], facts.timer_file))
        changes = [
            Change(f"{place}: {change.what}", change.action, change.before, change.after, change.diff)
            for place, text, file in parts
            for change in File(path=f"{FOLDER}/{place}", content=text, check=verify(place, True)).plan(file)
        ]
        changes += _reload(changes, facts.service) or _reload([], facts.timer)
        # the files are read again by now, and a timer that runs then goes by the new time
        return [*changes, *(c for c in Service(unit=timer).plan(facts.timer) if c.action != Unit("daemon-reload"))]

    def _removal(self, facts: TimerFacts, timer: str, service: str) -> list[Change]:
        changes: list[Change] = []
        if facts.timer.active == "active":
            changes.append(Change("state", Unit("stop", timer), "active", "inactive"))
        if facts.timer.enabled.startswith("enabled"):
            changes.append(Change("at boot", Unit("disable", timer), facts.timer.enabled, "disabled"))
        for place, file in ((timer, facts.timer_file), (service, facts.service_file)):
            if file.kind != "absent":
                changes.append(_removed(place, f"{FOLDER}/{place}"))
        return [*changes, *_reload(changes, facts.timer)]


def quoted_word(word: str) -> str:
    """A word as ExecStart= takes it for exactly itself. Source: systemd.service(5), systemd.syntax(7)."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    text = text.replace("%", "%%").replace("$", "$$")
    return text if re.fullmatch(r"[A-Za-z0-9_/.,:=%+-]+", text) else f'"{text}"'


def _against(look: Look, calendar: str) -> str:
    """What systemd has against a time of its calendar; empty when nothing, and where nobody can say."""
    said = look.ask(("systemd-analyze", "calendar", "--", calendar))
    return said.stderr.strip() or "it is refused" if said.rc not in (0, NOT_INSTALLED) else ""


def _state(look: Look, name: str) -> UnitFacts:
    """Of a template systemd knows none: only its instances run."""
    return UnitFacts() if "@." in name else look.unit(name)


def _must_have_a_section(content: str) -> None:
    if not _SECTION.search(content):
        raise ValueError("content: expected the text of a unit file, with a section such as [Service] in it")


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _removed(what: str, path: str) -> Change:
    return Change(what, Remove(path), "there", "absent")


def _reload(changes: list[Change], unit: UnitFacts) -> list[Change]:
    needed = bool(changes) or unit.needs_daemon_reload
    return [Change("unit files", Unit("daemon-reload"), "changed on disk", "loaded")] if needed else []
