"""`self.upgrade`: bring this minion to the pgha of its master, with a way back that needs neither of them.

The master sends its own wheel; what runs here is kept as one, too. A timer of systemd puts that one back unless the new
minion gets a WELCOME in time, so a pgha that cannot start, or cannot speak with its master, does not stay.

Rules:
1. Nothing is changed before the wheel was checked, other jobs have ended, and what it needs is there.
2. The way back is armed before pip begins: a minion that dies in the middle is repaired by systemd alone.
3. The job is `done` when the new pgha is installed and has been seen to run. The restart is asked for last, and a
   minion that is told to stop first writes down the ends of its jobs.
4. Only pgha is replaced. What the new one needs besides is never installed in passing: the old one might not bear it.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from ...common.errors import ActionFailed, UserError
from ...common.paths import Paths
from ...common.results import Outcome
from ...common.wheel import PROJECT, Wheel, installed, opened, order
from ...states.action import Run, Unit, WriteFile
from ...states.system import Output, System
from ..revert import UNITS, Revert, Runner
from .request import Call, Doors, arguments, wrong

log = logging.getLogger("pgha.minion.upgrade")

SERVICE = "pgha-minion.service"
UNIT = Path("/etc/systemd/system") / SERVICE
GUARD = "pgha-revert-upgrade"
INSTALL_S = 300.0
CONFIRM_S = 60.0
_MAX_BYTES = 32 * 1024 * 1024
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\],<>=!~;'\"() -]*")
_EVERY_MODULE = (
    "import importlib, pkgutil, pgha.minion as m\n"
    "for found in pkgutil.walk_packages(m.__path__, m.__name__ + '.'): importlib.import_module(found.name)"
)


@dataclass(frozen=True)
class Place:
    """Where this pgha is installed, and where an upgrade keeps its things."""

    folder: Path
    prefix: Path
    units: Path = UNITS

    @property
    def python(self) -> str:
        return str(self.prefix / "bin/python")

    @property
    def pending(self) -> Path:
        """There while an upgrade waits for its confirmation."""
        return self.folder / "pending"

    @property
    def put_back(self) -> Path:
        """There when the last upgrade was put back and nobody has said so yet."""
        return self.folder / "put-back"

    def keep(self, which: str, wheel: Wheel) -> str:
        path = self.folder / which / wheel.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(wheel.data)
        return str(path)

    def pip(self, wheel: str) -> tuple[str, ...]:
        return (*self._pip("--no-deps", "--force-reinstall"), wheel)

    def satisfied(self, requires: tuple[str, ...]) -> tuple[str, ...]:
        """Succeeds when all of it is installed already; it cannot install anything."""
        return (*self._pip(), "--", *requires)

    def _pip(self, *options: str) -> tuple[str, ...]:
        quiet = ("-q", "--no-input", "--disable-pip-version-check", "--no-index")
        return (self.python, "-m", "pip", "--isolated", "install", *quiet, *options)


def here() -> Place:
    return Place(Paths.from_environment().state / "upgrade", Path(sys.prefix))


def upgrade(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    if sys.prefix == sys.base_prefix:
        raise ActionFailed("pgha is no virtual environment of its own on this host; upgrade it as it was installed")
    return Upgrade(here(), doors).run(call, installed())


@dataclass(frozen=True)
class Upgrade:
    place: Place
    doors: Doors

    def run(self, call: Call, old: Wheel) -> Outcome:
        new = self._fetched(call)
        data: dict[str, object] = {"from": old.version, "to": new.version, "restarts": new.digest != old.digest}
        if new.digest == old.digest:
            return self._said(f"pgha {old.version} is what this host has already", data)
        if order(new.version) < order(old.version):
            raise UserError(
                f"pgha {old.version} of this host is newer than {new.version} of the master; upgrade the master"
            )
        self._not_beside_others()
        shutil.rmtree(self.place.folder, ignore_errors=True)
        back = self.place.pip(self.place.keep("old", old))
        forth = self.place.pip(self.place.keep("new", new))
        self._insist_on(new)
        guard = self._armed(back, INSTALL_S)
        try:
            self._perform(Run(forth, timeout_s=INSTALL_S))
            self._try_out(new)
            self._unit(new)
            self._not_beside_others()
        except BaseException:
            self._perform(Run(back, timeout_s=INSTALL_S))
            self._unit(old)
            guard.disarm()
            raise
        self.place.pending.write_text(f"{new.version}\n")
        self._armed(back, CONFIRM_S / 2)
        self._perform(Unit("restart", SERVICE, wait=False))
        return self._said(f"pgha {old.version} -> {new.version}; the minion restarts", data)

    def _said(self, text: str, data: dict[str, object]) -> Outcome:
        self.doors.output("stdout", f"{text}\n")
        return Outcome(ok=True, exit_code=0, data=data)

    @property
    def _system(self) -> System:
        return self.doors.system

    def _perform(self, action: Run | Unit | WriteFile) -> None:
        self._system.perform(action)

    def _not_beside_others(self) -> None:
        others = self.doors.others()
        if others:
            raise ActionFailed(
                f"busy: {', '.join(others)} runs on this host; a restart would cut it short. Try again later"
            )
        if self.doors.cancelled():
            raise ActionFailed("cancelled; nothing is changed")

    def _fetched(self, call: Call) -> Wheel:
        if call.blob is None:
            raise wrong(call, "the master sends no wheel along; it is too old for this")
        if call.blob.size > _MAX_BYTES:
            raise UserError("this wheel is larger than pgha ever is")
        file = BytesIO()
        self.doors.fetch(call.blob.sha256, call.blob.size, file)
        return opened(file.getvalue())

    def _insist_on(self, new: Wheel) -> None:
        """Raises ActionFailed when a package that the new pgha needs is not there."""
        strange = [text for text in new.requires if not _REQUIREMENT.fullmatch(text)]
        if strange:
            raise UserError(f"the wheel asks for {strange[0][:80]!r}, which is no name of a package")
        try:
            self._perform(Run(self.place.satisfied(new.requires), timeout_s=INSTALL_S))
        except ActionFailed as error:
            needs = " ".join(f"'{text}'" for text in new.requires)
            raise ActionFailed(
                f"pgha {new.version} needs packages that are not there; nothing is changed. Install them first, on the "
                f"host: {self.place.prefix}/bin/pip install {needs}",
                error.output,
            ) from None

    def _try_out(self, new: Wheel) -> None:
        """The new pgha starts, says its version, and every module of it can be loaded. Raises ActionFailed."""
        said = self._system.ask((str(self.place.prefix / "bin/pgha-minion"), "--version"), timeout_s=60.0)
        if said.rc != 0 or said.stdout.split()[-1:] != [new.version]:
            words = f"{said.stdout}{said.stderr}".strip()[-400:]
            raise ActionFailed(f"pgha {new.version} does not run here; the old one is back", words)
        loaded = self._system.ask((self.place.python, "-I", "-c", _EVERY_MODULE), timeout_s=60.0)
        if loaded.rc != 0:
            raise ActionFailed(
                f"pgha {new.version} cannot be loaded here; the old one is back", loaded.stderr.strip()[-400:]
            )

    def _unit(self, wheel: Wheel) -> None:
        """The service of that version, where it is one that pgha has installed itself."""
        there, wanted = self._system.file(str(UNIT)), wheel.file(f"minion/{SERVICE}")
        if there.kind == "file" and wanted and there.content != wanted:
            self._perform(WriteFile(str(UNIT), wanted))
            self._perform(Unit("daemon-reload"))

    def _armed(self, back: tuple[str, ...], wait_s: float) -> Revert:
        there = self._system.file(str(UNIT))
        programs: list[tuple[str, ...]] = [back]
        if there.kind == "file" and there.content is not None:
            kept = self.place.folder / "old" / SERVICE
            if not kept.exists():
                kept.write_text(there.content)
            programs += [("install", "-m", "0644", str(kept), str(UNIT)), ("systemctl", "daemon-reload")]
        programs.append(("mv", "-f", str(self.place.pending), str(self.place.put_back)))
        programs.append(("systemctl", "--no-block", "restart", SERVICE))
        run = _runner(self._system)
        Revert(run, GUARD, self.place.units).disarm()  # a timer that ran before would not start again
        return Revert.arm(run, tuple(programs), wait_s, self.place.units, GUARD)


def _runner(system: System) -> Runner:
    def run(argv: tuple[str, ...], timeout_s: float) -> Output:
        try:
            system.perform(Run(argv, timeout_s=timeout_s))
        except ActionFailed as error:
            return Output(1, "", str(error))
        return Output(0)

    return run


def settle(confirm: Callable[[float], bool], run: Runner, place: Place | None = None) -> None:
    """At the start of a minion: an upgrade that is pending is confirmed by a WELCOME, or left to the timer."""
    place = place or here()
    guard = Revert(run, GUARD, place.units)
    if place.put_back.exists():
        version = place.put_back.read_text().strip()
        log.error("the upgrade to %s %s was put back: the new minion got no WELCOME from its master", PROJECT, version)
        place.put_back.unlink()
        guard.disarm()
    if not place.pending.exists():
        return
    version = place.pending.read_text().strip()
    if not confirm(CONFIRM_S):
        log.error("no WELCOME within %g s: a timer puts the %s before %s back", CONFIRM_S, PROJECT, version)
        return
    guard.disarm()
    place.pending.unlink(missing_ok=True)
    log.info("the upgrade to %s %s is confirmed", PROJECT, version)
