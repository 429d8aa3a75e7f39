"""One operation as it runs: what was said of it, what of that is stored, and who waits to hear more. Does no work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...common.clock import Clock
from .progress import End, Output

KEPT_LINES, KEPT_CHARS = 2000, 4 * 1024 * 1024  # in memory
UNSAVED = 500  # lines; with more of them the store is not left waiting for its second


@dataclass
class Operation:
    """`lines` are the newest, the first of them has the number `first`; those before `saved` are in the store."""

    id: str
    what: str
    cluster: str
    clock: Clock
    key: str = ""  # what exactly was asked for; the same request may follow, another may not
    kind: str = ""
    began: float = 0.0  # Unix time
    blob: str = ""  # SHA-256 of a file that it is still going to send
    cancelled_by: str = ""
    lines: deque[Any] = field(default_factory=deque)  # of Line
    first: int = 0
    saved: int = 0
    stored: asyncio.Future[object] | None = None  # done when its row is in the store
    task: asyncio.Task[None] | None = None
    full: asyncio.Event = field(default_factory=asyncio.Event)  # the store should take lines now
    room: asyncio.Event = field(default_factory=asyncio.Event)  # it has
    _chars: int = 0
    _watchers: set[asyncio.Event] = field(default_factory=set)

    @property
    def count(self) -> int:
        return self.first + len(self.lines)

    @property
    def ended(self) -> bool:
        return bool(self.lines) and isinstance(self.lines[-1], End)

    def add(self, line: Any) -> None:  # Any: a Line
        """Let everybody who follows have it."""
        self.lines.append(line.model_copy(update={"at": self.clock.now()}))
        self._chars += _weight(line)
        self._trim()
        for watcher in self._watchers:
            watcher.set()

    async def emit(self, line: Any) -> None:  # Any: a Line
        """`add` it, and wait while the store is far behind."""
        self.add(line)
        if self.count - self.saved >= UNSAVED:
            self.full.set()
            if self.count - self.saved >= 2 * UNSAVED and self.task is not None:
                self.room.clear()
                await self.room.wait()

    def fresh(self) -> tuple[int, list[str]]:
        """The number of the first line that is not in the store, and all from it on; they count as saved then."""
        first = max(self.saved, self.first)
        lines = [line.model_dump_json() for line in self.since(first)]
        self.saved = self.count
        self.full.clear()
        return first, lines

    def since(self, number: int) -> list[Any]:
        return list(itertools.islice(self.lines, number - self.first, None))

    def kept(self) -> None:
        """What `fresh` gave is in the store."""
        self.room.set()
        self._trim()

    @contextlib.contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def _trim(self) -> None:
        while self.first < self.saved and (len(self.lines) > KEPT_LINES or self._chars > KEPT_CHARS):
            self._chars -= _weight(self.lines.popleft())
            self.first += 1


def _weight(line: Any) -> int:
    return 200 + (len(line.text) if isinstance(line, Output) else 0)
