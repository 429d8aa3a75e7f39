"""The proof that backups are good: the newest one is restored into a scratch folder, started, read and thrown away.

Rules:
1. Of several repositories one is proved at a time, whose turn it is, with nothing from another one.
2. A row is written through this node's own HAProxy before, and must come back: so the proof covers the archive of WAL
   up to now, and tells how much would be lost.
3. The copy serves nobody and disturbs nobody, see `scratch`; it archives nothing, and its tablespaces are beside it.
4. What it takes on a disk is known before, and nothing of it is left after: an attempt that was killed is cleared away
   by the next one.
5. Whatever it comes to is written down, a failure with its reason.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...common.errors import HostError
from ...common.installation import Installation
from ...common.telemetry_backup import BackupSet, DrillSample, RepositorySample
from ...states.backups.driver import USER, Argv, Driver, Target
from ...states.backups.told import as_user, ask
from ...states.backups.tools import driver
from ...states.system import Output
from ..probe_write import Mark, mark
from .history import History
from .scratch import SHARED_BUFFERS, Place, Progress, Scratch

FOLDER = Path("/var/lib/pgha-drill")
BESIDE = "pgha-drill"  # in the folder that holds the data directory
RUN = Path("/run/pgha-drill")
LOCK = Path("/run/pgha-drill.lock")
ROOM, MARGIN = 1.2, 1024**3  # the backup's size times this, and bytes: for WAL and for what is written
SLACK_S = 3600.0  # the timer fires at a time of day, and a drill takes a while
WRITE_S = 30.0
ASK_S = 2.0
ARCHIVED_S = 180.0  # beside the time that WAL may stay open: the archiver rests a minute when a repository is away
WORDS = 3  # lines that are told of what a program found

Tell = Callable[[str], None]


def not_due(here: Installation, drills: Sequence[DrillSample], now: float) -> str:
    """Why no drill is due on this node, which is whose turn it is; empty when it is due.

    Only one that came out well counts, so one that failed is made again the next time somebody asks.
    """
    every_s = here.drill_every_s
    if every_s is None:
        return "the definition has no drills by themselves (backup.drill.every: null)"
    good = [drill.began for drill in drills if drill.ok]
    if not good or not 0 <= now - good[-1] < every_s - SLACK_S:
        return ""
    return f"the last good one is {(now - good[-1]) / 86400:.1f} days old, and one is due every {every_s / 86400:g}"


def needed(size: int) -> int:
    """Bytes that must be free for a backup of that size."""
    return int(size * ROOM) + MARGIN


def roomiest(free: dict[Path, int], size: int) -> Path:
    """The folder with the most room, the first of equals. Raises HostError when it is not enough."""
    folder = max(free, key=lambda path: free[path])
    if free[folder] < needed(size):
        raise HostError(
            f"the newest backup is of {_gib(size)}; restoring it needs {_gib(needed(size))} free, and {folder.parent} "
            f"has {_gib(free[folder])}: make room, or set backup.drill.on to a node that has it"
        )
    return folder


def whose_turn(samples: Sequence[RepositorySample], drills: Sequence[DrillSample]) -> tuple[int, BackupSet]:
    """The repository that has not been proved for the longest time, the last of equals, and its newest backup.

    Raises HostError: there is no backup, or nobody answers.
    """
    proved = {drill.repository: drill.began for drill in drills if drill.ok}
    held = {sample.number: sample.backups[-1] for sample in samples if sample.backups}
    if held:
        number = min(held, key=lambda number: (proved.get(number, 0.0), -number))
        return number, held[number]
    told = "; ".join(f"repository {one.number}: {one.state}{f', {one.why}' if one.why else ''}" for one in samples)
    raise HostError(f"there is no backup to restore: {told or 'this node reaches no repository'}")


@dataclass
class _Found:
    """What is known so far; of a drill that fails, too."""

    began: float
    since: float  # the beginning of the restore
    answered: float | None = None
    repository: int | None = None
    label: str = ""
    size: int | None = None
    age_s: float | None = None
    note: str = ""


@dataclass
class Drill:
    """`execute` starts a program, without a deadline, as root. `tell` hears what is being done, a line each."""

    here: Installation
    execute: Callable[[Argv], Output]
    tell: Tell
    history: History = field(default_factory=History)
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    write: Callable[[str, int, float], Mark] = mark
    server: Callable[[Place], Scratch] = Scratch
    folder: Path = FOLDER
    stopped: Callable[[], bool] = lambda: False

    def make(self) -> DrillSample:
        """What it came to, also written down. Raises OSError when it cannot be written down."""
        found = _Found(began=self.now(), since=self.now())
        error = self._or_why(lambda: self._prove(found))
        ended = self.now()
        left = self._or_why(self._clear)
        sample = DrillSample(
            began=found.began,
            ok=not (error or left),
            seconds=max(0.0, (found.answered or ended) - found.since),
            repository=found.repository,
            label=found.label,
            age_s=found.age_s,
            bytes=found.size,
            error=error or left,
            note=found.note,
        )
        self.history.add_drill(sample)
        return sample

    def _or_why(self, work: Callable[[], None]) -> str:
        try:
            work()
        except (HostError, OSError) as error:
            return str(error)
        return ""

    def _prove(self, found: _Found) -> None:
        self._clear()
        tool = driver(self.here.driver)
        number, backup = whose_turn(self._info(tool), self.history.drills())
        found.repository, found.label, found.size = number, backup.label, backup.size
        folder = roomiest({path: _free(path) for path in self._folders()}, backup.size)
        row, wrote = self._row(tool, number, found)
        self.tell(f"restoring {backup.label} of repository {number}, {_gib(backup.size)}, to {folder}")
        found.since = self.now()
        server = self.server(_place(self.here, folder))
        self._restore(tool, number, backup, folder)
        server.start(self._progress)
        self._look_for(server, row)
        found.answered, found.age_s = self.now(), max(0.0, found.since - wrote) if row else None
        self._check(server)

    def _row(self, tool: Driver, number: int, found: _Found) -> tuple[Mark | None, float]:
        """Write it, and wait until that repository has it."""
        here = self.here
        if here.writes_port is None:
            found.note = "no row was looked for: this node has no HAProxy to write one through"
            return None, 0.0
        wrote = self.now()
        try:
            row = self.write(here.node, here.writes_port, WRITE_S)
        except HostError as error:
            found.note = f"no row was looked for, as none could be written: {error}"
            return None, 0.0
        limit_s = 2 * here.archive_timeout_s + ARCHIVED_S
        self.tell(f"a row was written; waiting until {row.segment} is archived, {limit_s:.0f} s at most")
        while self._info(tool, number)[0].wal_max < row.segment:
            if self.now() - wrote > limit_s:
                raise HostError(
                    f"WAL is not archived: {row.segment}, with a row written {limit_s:.0f} s ago, is not in "
                    f"repository {number}"
                )
            self._pause(ASK_S)
        return row, wrote

    def _restore(self, tool: Driver, number: int, backup: BackupSet, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        shutil.chown(folder, USER, USER)
        target, data = Target("latest", label=backup.label), str(folder / "data")
        argv = tool.restore(
            self.here.stanza,
            target,
            data,
            archive=False,
            delta=False,
            tablespaces=str(folder / "tablespaces"),
            repository=number,
        )
        said = self.execute(as_user(argv))
        self._go_on()
        if said.rc:
            raise HostError(f"the restore failed: {tool.why(said.rc, said.stdout, said.stderr)}")

    def _look_for(self, server: Scratch, row: Mark | None) -> None:
        if row is None:
            return
        came = server.query("select node, token from pgha.probe").splitlines()
        if f"{row.key}\t{row.nonce}" not in came:
            age = server.query("select round(extract(epoch from now() - max(at))) from pgha.probe")
            told = f"the newest that did is {age} s old" if age else "none did"
            raise HostError(f"the row that was written and archived before did not come back: {told}")

    def _check(self, server: Scratch) -> None:
        """Every index against its table; then, stopped, every page against its checksum where there are any."""
        place = server.place
        amcheck = (f"{place.bin_dir}/pg_amcheck", *server.connection(), "--all", "--install-missing")
        self._sound(amcheck, "pg_amcheck finds damage in the restored database")
        checksums = server.control().get("Data page checksum version", "0") != "0"
        if not server.stop():
            raise HostError(f"the restored server did not stop in order: {server.last_words()}")
        if checksums:
            argv = (f"{place.bin_dir}/pg_checksums", "--check", "-D", str(place.data))
            self._sound(argv, "pg_checksums finds damaged pages in the restored database")

    def _sound(self, argv: Argv, what: str) -> None:
        self.tell(f"running {Path(argv[0]).name}")
        said = self.execute(as_user(argv))
        self._go_on()
        if said.rc:
            lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
            raise HostError(f"{what}: {'; '.join(lines[:WORDS]) or f'exit code {said.rc}'}")

    def _clear(self) -> None:
        """Take away whatever a drill has made, with its server."""
        for folder in self._folders():
            if folder.exists():
                self.server(_place(self.here, folder)).clean()
                shutil.rmtree(folder)

    def _folders(self) -> tuple[Path, ...]:
        beside = Path(self.here.data_directory).parent
        return (self.folder, beside / BESIDE) if self.here.data and beside.is_dir() else (self.folder,)

    def _info(self, tool: Driver, number: int | None = None) -> tuple[RepositorySample, ...]:
        """Of one repository, or of all."""
        numbers = self.here.repositories if number is None else (number,)
        return ask(tool, self.here.stanza, numbers, self.execute, self.now).repositories

    def _progress(self, progress: Progress) -> None:
        self.tell(f"{progress.seconds:.0f} s: {progress.doing or 'starting'}")
        self._go_on()

    def _pause(self, seconds: float) -> None:
        self._go_on()
        self.sleep(seconds)

    def _go_on(self) -> None:
        if self.stopped():
            raise HostError("it was ended before it was done")


def _place(here: Installation, folder: Path) -> Place:
    return Place(folder / "data", here.bin_dir, RUN, shared_buffers=SHARED_BUFFERS)


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
