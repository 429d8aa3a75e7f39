"""The SQLite files that must not forget: WAL, synchronous=FULL, for their owner only. Both daemons open theirs here."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from .errors import HostError

Connection = sqlite3.Connection
SQLError = sqlite3.Error


def open_database(path: Path, what: str, steps: Sequence[str]) -> Connection:
    """Open or create, in autocommit mode, usable from any thread under the caller's own lock.

    `steps` are SQL scripts, the n-th leading from schema n to n+1; each is taken whole or not at all.
    Raises HostError with what to do: the disk refuses, the file is damaged or from a newer pgha.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        (at,) = db.execute("pragma user_version").fetchone()
        if at > len(steps):
            raise HostError(
                f"the {what} {path} was written by a newer pgha (schema {at}, this one knows {len(steps)}): "
                "install that version again"
            )
        for number in range(at, len(steps)):
            db.executescript(f"begin immediate; {steps[number]}; pragma user_version={number + 1}; commit;")
    except (sqlite3.Error, OSError) as error:
        raise HostError(f"cannot use the {what} {path}: {error}; is the disk full or the file damaged?") from None
    return db
