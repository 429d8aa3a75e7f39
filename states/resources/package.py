"""Package: one package, its version, whether it may move, and where it may come from.

Rules:
1. Nothing else is ever removed along, and nothing of which a program runs. What stands in the way is named, and it is
   for a person to say that it may go.
2. A version that is asked for exactly is got, but never by a step back or by moving what is held, unless that is said.
3. Nothing is started or restarted: a `service` that watches the package does that.
4. The file PIN is this resource's; without `pin` it is not there.

Sources: apt_preferences(5), apt-mark(8); dpkg(1): --remove does nothing when something else needs the package.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from ...common.errors import HostError
from ..action import InstallPackages, Remove, Run, WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .fields import OneLine, PackageName
from .packages import touched

PIN = "/etc/apt/preferences.d/pgha-{}.pref"
SHOW_HELD = ("apt-mark", "showhold")
_REMOVED = re.compile(r"^(?:Remv|Purg) ([^\s:]+)", re.MULTILINE)
_SERVICE = re.compile(r"^(?:/usr)?/lib/systemd/system/([^/@]+\.service)$", re.MULTILINE)
RUNNING = ("sh", "-c", "readlink /proc/[0-9]*/exe || true")  # it fails for the kernel's own threads
_VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")


class Pin(BaseModel):
    """Which offer apt prefers: exactly one of a version (`17.*`), a release (`n=trixie-pgdg`) or an origin (a host)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priority: int
    version: OneLine = ""
    release: OneLine = ""
    origin: OneLine = ""

    @model_validator(mode="after")
    def _one_target(self) -> Pin:
        if sum(map(bool, (self.version, self.release, self.origin))) != 1:
            raise ValueError("expected exactly one of version, release and origin beside priority")
        if not -32768 <= self.priority <= 32767 or not self.priority:
            raise ValueError(f"priority: expected a number from -32768 to 32767 but 0, not {self.priority}")
        return self

    def text(self, name: str) -> str:
        wanted = f'origin "{self.origin}"' if self.origin else ""
        wanted = wanted or (f"version {self.version}" if self.version else f"release {self.release}")
        return f"Package: {name}\nPin: {wanted}\nPin-Priority: {self.priority}\n"


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """`newer`: what is installed is newer than the version that is wanted. `along`: what apt would touch besides.

    `running`: its services and programs that run; known only of what is to go.
    """

    installed: str | None = None
    held: frozenset[str] = frozenset()
    newer: bool = False
    along: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    pin: FileFacts = field(default_factory=FileFacts)


class Package(Resource[PackageFacts]):
    """`version` empty: whichever is installed. `hold` None: a hold is left as it is."""

    kind: Literal["package"] = "package"
    name: PackageName
    version: str = ""
    absent: bool = False
    hold: bool | None = None
    pin: Pin | None = None
    recommends: bool = False
    allow_downgrade: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Package:
        if self.version and not _VERSION.fullmatch(self.version):
            raise ValueError(f"version: expected one exact version, such as '17.2-1', not {self.version!r}")
        if self.absent and (self.version or self.hold):
            raise ValueError("absent: what is absent has no version and no hold; leave those out")
        return self

    def key(self) -> str:
        return self.name

    @property
    def _pin_path(self) -> str:
        return PIN.format(re.sub(r"[^a-z0-9.-]", "_", self.name))  # apt reads no file with another character

    def observe(self, look: Look) -> PackageFacts:
        installed = look.packages((self.name,))[self.name]
        moves = installed is not None and (self.absent or self.version not in ("", installed))
        held: frozenset[str] = frozenset()
        if self.hold is not None or moves:
            held = frozenset(name.split(":")[0] for name in look.ask(SHOW_HELD).stdout.split())
        pin = look.file(self._pin_path)
        if installed is None or not moves:
            return PackageFacts(installed, held, pin=pin)
        if self.absent:
            gone = _REMOVED.findall(_simulated(look, "remove", self.name))
            return PackageFacts(installed, held, along=_others(self.name, gone), running=self._running(look), pin=pin)
        newer = look.ask(("dpkg", "--compare-versions", installed, "gt", self.version)).rc == 0
        options = ("--allow-downgrades", "--allow-change-held-packages", "--no-install-recommends")
        moved = touched(_simulated(look, *options, "install", f"{self.name}={self.version}"))
        return PackageFacts(installed, held, newer, _others(self.name, moved), pin=pin)

    def _running(self, look: Look) -> tuple[str, ...]:
        files = look.ask(("dpkg-query", "-L", self.name)).stdout
        units = sorted(set(_SERVICE.findall(files)))
        active = [unit for unit in units if look.unit(unit).active in ("active", "activating", "reloading")]
        programs = {*map(_merged, look.ask(RUNNING).stdout.splitlines())} & {*map(_merged, files.splitlines())}
        return (*active, *sorted(programs))

    def plan(self, facts: PackageFacts) -> list[Change]:
        pinned = self._pin(facts.pin)
        if self.absent:
            return [*pinned, *self._removal(facts)]
        held = self.name in facts.held
        changes = [*pinned, *([self._mark("unhold", "yes", "no")] if held and self.hold is False else [])]
        if facts.installed is None or self.version not in ("", facts.installed):
            changes.append(self._installation(facts))
        if self.hold and not held:
            changes.append(self._mark("hold", "no", "yes"))
        return changes

    def _installation(self, facts: PackageFacts) -> Change:
        options = ["--no-remove"]
        if facts.installed is not None:
            self._refuse(facts)
            options += ["--allow-downgrades"] if facts.newer else []
            options += ["--allow-change-held-packages"] if self.name in facts.held and self.hold else []
        spec = f"{self.name}={self.version}" if self.version else self.name
        along = f", along with {', '.join(facts.along)}" if facts.along else ""
        return Change(
            "version" if facts.installed else "package",
            InstallPackages((spec,), self.recommends, tuple(options)),
            facts.installed or "not installed",
            (self.version or "installed") + along,
        )

    def _refuse(self, facts: PackageFacts) -> None:
        have = f"{self.name} {facts.installed} is installed"
        if facts.newer and not self.allow_downgrade:
            raise HostError(f"{have}, which is newer than {self.version}; a step back needs allow_downgrade: true")
        if self.name in facts.held and self.hold is None:
            raise HostError(f"{have} and held; say hold: true to hold it at {self.version}, or hold: false")
        if moved := sorted(facts.held & {*facts.along}):
            raise HostError(f"{have}; version {self.version} would move {', '.join(moved)} along, which is held")

    def _removal(self, facts: PackageFacts) -> list[Change]:
        if facts.installed is None:
            return []
        if self.name in facts.held and self.hold is None:
            raise HostError(f"{self.name} is held, so it is not removed; with hold: false it would be")
        if facts.along:
            raise HostError(
                f"without {self.name} these would go, too: {', '.join(facts.along)}; nothing is removed. "
                "If they may go, list each of them as absent before it"
            )
        if facts.running:
            raise HostError(
                f"{self.name} is not removed while it runs: {', '.join(facts.running)}; stop it first, "
                "with a service that says running: false, enabled: false"
            )
        unhold = [self._mark("unhold", "yes", "no")] if self.name in facts.held else []
        # dpkg, and not apt: it does nothing at all when something else came to need the package since we looked
        remove = Run(("dpkg", "--remove", self.name), timeout_s=600.0)
        return [*unhold, Change("package", remove, facts.installed, "absent")]

    def _mark(self, verb: str, before: str, after: str) -> Change:
        return Change("hold", Run(("apt-mark", verb, self.name)), before, after)

    def _pin(self, facts: FileFacts) -> list[Change]:
        if self.pin is None:
            return [] if facts.kind == "absent" else [Change("pin", Remove(self._pin_path), "pinned", "absent")]
        text = self.pin.text(self.name)
        if facts.content == text:
            return []
        before = "other" if facts.kind == "file" else facts.kind
        return [Change("pin", WriteFile(self._pin_path, text), before, text.splitlines()[1])]


def _merged(path: str) -> str:
    """The path where /bin, /sbin and /lib lead into /usr, which dpkg need not know."""
    return re.sub(r"^/(?=s?bin/|lib)", "/usr/", path)


def _others(name: str, names: list[str] | frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted({*names} - {name}))


def _simulated(look: Look, *words: str) -> str:
    return look.ask(("apt-get", "-s", "-q", *words), timeout_s=60.0).stdout
