"""What this node sees of backups: what the tool says of the repositories, how far WAL is archived, what runs and ran.

The tool may take long over a repository that does not answer, and psql over a server that hangs, so both are asked in
threads of their own (`asking`); a sample holds their newest answers. All else is read from files that are here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from ...common import installation
from ...common.clock import Clock, SystemClock
from ...common.installation import Installation
from ...common.telemetry_backup import RUN_LIMIT, ArchiverSample, BackupRun, BackupSample, RepositorySample
from ...states.backups.driver import KEEP
from ...states.backups.told import Told, ask
from ...states.backups.tools import driver
from ...states.system import Look
from ..backups.asking import Asking, Begin, in_a_thread
from ..backups.history import History
from ..backups.run import BUSY
from . import archiver

REPOSITORIES_EVERY_S = 60.0
RUNNING_EVERY_S = 5.0
ARCHIVER_EVERY_S = 10.0
INFO_S = 60.0  # for one repository; the tool itself gives up before that, in its own words
LOG_TAIL = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Archived:
    archiver: ArchiverSample | None
    dropped: tuple[str, ...]


class Backups:
    """Of one node. Not for several threads at once."""

    def __init__(
        self, look: Look, clock: Clock | None = None, history: History | None = None, begin: Begin = in_a_thread
    ) -> None:
        self._look, self._history = look, history or History()
        clock = clock or SystemClock()
        self._told: Asking[Installation, Told] = Asking(self._repositories, clock, begin)
        self._archived: Asking[Installation, Archived] = Asking(self._archive, clock, begin)
        self._latest: BackupRun | None = None
        self._strange: float | None = None  # since when a run goes on that pgha did not start

    def probe(self) -> BackupSample | None:
        """As it is now, as far as it is known; None where there are no backups. Never waits for a program."""
        file = self._look.file(installation.PATH)
        if file.kind == "absent":
            return None
        try:
            here = Installation.model_validate_json(file.content or "")
        except ValidationError:
            return BackupSample(
                driver="", error=f"{installation.PATH} cannot be read; apply the cluster's definition again"
            )
        return self._sample(here)

    def _sample(self, here: Installation) -> BackupSample:
        runs = tuple(run for run in self._history.runs() if run.error != BUSY)
        latest = runs[-1] if runs else None
        if latest != self._latest:
            self._latest = latest
            self._told.soon()
        told, running = self._told.newest, self._running()
        self._told.again(here, RUNNING_EVERY_S if running else REPOSITORIES_EVERY_S)
        self._archived.again(here, ARCHIVER_EVERY_S)
        archived = self._archived.newest or Archived(None, ())
        return BackupSample(
            driver=here.driver,
            operates=here.operates,
            kept=self._look.attributes(KEEP).kind != "absent",
            repositories=told.repositories if told else (),
            archiver=archived.archiver,
            dropped=len(archived.dropped),
            last_dropped=max(archived.dropped, default=""),
            running=running,
            runs=runs[-RUN_LIMIT:],
            drill=next(reversed(self._history.drills()), None),
        )

    def _running(self) -> BackupRun | None:
        """A run of pgha's own tells what it is; one of somebody else's is known by the tool's lock alone."""
        run, told = self._history.running(), self._told.newest
        progress = told.progress if told else None
        if run is None and (told is None or progress is None):
            self._strange = None
            return None
        if run is None and told is not None:
            self._strange = self._strange or told.at
            run = BackupRun(type="", repository=0, began=self._strange)
        if run is None or told is None or progress is None or told.at < run.began:
            return run
        return run.model_copy(update={"done": progress[0], "total": progress[1]})

    # ---- in threads of their own

    def _repositories(self, here: Installation) -> Told:
        own = self._system_id() if here.data else ""
        told = told_of(self._look, here)
        return replace(told, repositories=tuple(_judged(one, own) for one in told.repositories))

    def _system_id(self) -> str:
        """Of this node's database, as Patroni tells it; empty when nobody does."""
        status, body = self._look.patroni("/patroni")
        try:
            told = json.loads(body) if status else {}
        except ValueError:
            return ""
        return str(told.get("database_system_identifier") or "") if isinstance(told, dict) else ""

    def _archive(self, here: Installation) -> Archived:
        tool = driver(here.driver)
        log = tail(Path(here.logs) / tool.push_log(here.stanza), LOG_TAIL)
        seen = archiver.probe(self._look) if here.data else None
        return Archived(seen, tuple(sorted(tool.dropped(log))))


def told_of(look: Look, here: Installation, numbers: Iterable[int] | None = None) -> Told:
    """Of all repositories that this node reaches, or of these."""
    numbers = here.repositories if numbers is None else numbers
    return ask(driver(here.driver), here.stanza, numbers, lambda argv: look.ask(argv, timeout_s=INFO_S), look.now)


def _judged(one: RepositorySample, own: str) -> RepositorySample:
    """The tool compares what it has with no database."""
    if own and one.system_id and one.system_id != own and one.state in ("ok", "no backups"):
        why = f"it is for the database with system identifier {one.system_id}, this cluster's is {own}"
        return one.model_copy(update={"state": "another cluster's", "why": why})
    return one


def tail(path: Path, limit: int) -> str:
    """The last `limit` bytes of a file as text; empty when it cannot be read, as before the first line of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""
