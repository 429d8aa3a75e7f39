"""The one thread that writes: what has queued up while it was busy goes into one transaction (group commit, FULL)."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ...common.errors import HostError
from ...common.failpoint import reach
from ...common.sqlite import Connection, SQLError, open_database
from .schema import STEPS

T = TypeVar("T")
Work = Callable[[Connection], Any]
_BATCH = 200  # works in one transaction
_CACHE_KIB = 32 * 1024  # the ends of the streams of a fleet, where all that comes is added
_CHECKPOINT_PAGES = 8000  # 32 MiB: a page that changes often is then copied back once, and not at every commit
LAZY_S = 0.05
Item = tuple[Work, "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Writer:
    def __init__(self, path: Path) -> None:
        """Open or create. Raises HostError with what to do."""
        self._queue: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
        self._lazy: list[Item] = []
        self._db = open_database(path, "store", STEPS)
        self._db.execute(f"pragma cache_size=-{_CACHE_KIB}")
        self._db.execute(f"pragma wal_autocheckpoint={_CHECKPOINT_PAGES}")
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._flush()
        self._queue.put(None)
        self._thread.join(10)
        self._db.close()

    @property
    def alive(self) -> bool:
        """Whether there is somebody who writes."""
        return self._thread.is_alive()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction of the writer; its value after the commit, or what it raised."""
        return await self.submit(work)

    def submit(self, work: Callable[[Connection], T], *, lazy: bool = False) -> asyncio.Future[T]:
        """As `write`, for who has something to do meanwhile. Works are done in the order they are submitted in.

        `lazy`: it goes with the next write that is not, or after `LAZY_S`: two that follow each other are one commit.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._lazy.append((work, future, loop))
        if not lazy or len(self._lazy) >= _BATCH:
            self._flush()
        elif len(self._lazy) == 1:
            loop.call_later(LAZY_S, self._flush)
        return future

    read = write  # one connection, one thread: a read sees every write before it

    def _flush(self) -> None:
        if self._lazy:
            self._queue.put(self._lazy)
            self._lazy = []

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            while len(batch) < _BATCH and not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    self._queue.put(None)
                    break
                batch += more
            self._commit(batch)

    def _commit(self, batch: list[Item]) -> None:
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            reach("store.commit.before")
            outcomes = self._work([work for work, _, _ in batch])
            self._db.execute("commit")
            reach("store.commit.after")
        except Exception as error:  # noqa: BLE001 - a thread that ended would leave everybody waiting
            with contextlib.suppress(SQLError):
                if self._db.in_transaction:
                    self._db.execute("rollback")
            outcomes = [(None, _refused(error))] * len(batch)
        told = [(future, *outcome) for (_, future, _), outcome in zip(batch, outcomes, strict=True)]
        loop = batch[0][2]
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, told)

    def _work(self, works: list[Work]) -> list[tuple[Any, Exception | None]]:
        """All in one transaction; when one of them fails, all again, each so that it can be undone by itself."""
        self._db.execute("begin immediate")
        try:
            return [(work(self._db), None) for work in works]
        except Exception:  # noqa: BLE001 - it fails again below, and is told to the one who asked
            if self._db.in_transaction:
                self._db.execute("rollback")
            self._db.execute("begin immediate")
            return [self._one(work) for work in works]

    def _one(self, work: Work) -> tuple[Any, Exception | None]:
        """A savepoint each, so that one failure costs nobody else's write."""
        self._db.execute("savepoint one")
        try:
            value = work(self._db)
        except Exception as error:  # handed to the one who asked
            if not self._db.in_transaction:
                raise  # a full disk has undone all of it, and this is why
            self._db.execute("rollback to one")
            self._db.execute("release one")
            return None, _refused(error) if isinstance(error, SQLError) else error
        self._db.execute("release one")
        return value, None


def _refused(error: Exception) -> HostError:
    return HostError(f"the store does not take the write: {error}")


def _resolve(told: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, value, failure in told:
        if future.done():
            continue  # who asked is no longer there
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(value)
