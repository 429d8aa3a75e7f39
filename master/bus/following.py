"""Who waits for what becomes of jobs: one reader of many flights, and how long it waits for a minion that is silent.

Rules:
1. Several may follow one flight; each is told all that comes after it began, the first also what came before.
2. A minion is not silent as long as something of it has not been read yet.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from .flights import Flight, News, is_last

SILENT = "silent"  # told to who follows a job, and no state of it


class Following:
    """`since` is when it began, monotonic; `patience_s` is for a minion that says nothing."""

    def __init__(self, flights: Sequence[Flight], since: float, patience_s: float) -> None:
        self.since, self.patience_s = since, patience_s
        self._open = {flight.key: flight for flight in flights}
        self._news: asyncio.Queue[tuple[Flight, News]] = asyncio.Queue()
        self._unread: Counter[tuple[str, int]] = Counter()
        for flight in flights:
            flight.read(self.tell)

    def tell(self, flight: Flight, news: News) -> None:
        self._unread[flight.key] += 1
        self._news.put_nowait((flight, news))

    def waiting(self) -> list[Flight]:
        """Those that have not ended, and of which all that was told has been read."""
        return [flight for key, flight in self._open.items() if not self._unread[key]]

    @property
    def over(self) -> bool:
        return not self._open

    async def next(self) -> tuple[Flight, News]:
        """Once it has come. After its end, or silence, no more comes of a flight."""
        while True:
            flight, news = await self._news.get()
            self._unread[flight.key] -= 1
            if flight.key not in self._open or (news == SILENT and self._unread[flight.key]):
                continue  # it was given up before this came; or it is not silent any more
            if news == SILENT or is_last(news):
                self._leave(flight)
            return flight, news

    def close(self) -> None:
        for flight in list(self._open.values()):
            self._leave(flight)

    def _leave(self, flight: Flight) -> None:
        del self._open[flight.key]
        flight.leave(self.tell)
