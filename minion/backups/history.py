"""What backups and drills of this node have come to, and which one runs, kept on the node: they need no master.

One JSON document a line, the newest last, at most KEPT of each kind. A line that cannot be read, after a power cut for
one, is left out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ...common.telemetry_backup import BackupRun, DrillSample

KEPT = 50
FOLDER = Path("/var/lib/pgha/backups")

M = TypeVar("M", bound=BaseModel)


class History:
    """Raises OSError when the folder cannot be written."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._runs, self._drills = folder / "runs.jsonl", folder / "drills.jsonl"
        self._now = folder / "running.json"

    def runs(self) -> tuple[BackupRun, ...]:
        return _read(self._runs, BackupRun)

    def drills(self) -> tuple[DrillSample, ...]:
        return _read(self._drills, DrillSample)

    def running(self) -> BackupRun | None:
        """The run that is under way. What a run that died has left does not count: nobody holds its lock."""
        try:
            with self._now.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return next(iter(_read(self._now, BackupRun)), None)
        except OSError:
            pass  # there has never been one
        return None

    @contextmanager
    def under_way(self, run: BackupRun) -> Iterator[None]:
        """`running` gives this run meanwhile, also to other processes."""
        self._now.parent.mkdir(parents=True, exist_ok=True)
        with self._now.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(run.model_dump_json() + "\n")
            file.flush()
            yield

    def add_run(self, run: BackupRun) -> None:
        _write(self._runs, (*self.runs(), run))

    def add_drill(self, drill: DrillSample) -> None:
        _write(self._drills, (*self.drills(), drill))


def _read(path: Path, model: type[M]) -> tuple[M, ...]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(model.model_validate_json(line))
        except ValidationError:
            continue
    return tuple(found)


def _write(path: Path, entries: tuple[BaseModel, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.writelines(entry.model_dump_json() + "\n" for entry in entries[-KEPT:])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
