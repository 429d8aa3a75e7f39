"""A question that may take long, asked beside everything else: whoever wants the answer gets the newest there is.

Each asking is a thread of its own that ends with the answer. So there is never more than one, nothing has to be
stopped, and a minion that ends waits for none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ...common.clock import Clock
from ...common.errors import HostError

log = logging.getLogger("pgha.minion.backups")

A = TypeVar("A")
T = TypeVar("T")
Begin = Callable[[Callable[[], None]], None]


def in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="backups", daemon=True).start()


class Asking(Generic[A, T]):
    """`ask` is given the newest argument. `begin` starts a piece of work and returns at once."""

    def __init__(self, ask: Callable[[A], T], clock: Clock, begin: Begin = in_a_thread) -> None:
        self._ask, self._clock, self._begin = ask, clock, begin
        self._asked: tuple[float, A] | None = None  # monotonic time at which it began, and of what
        self._due = False
        self._busy = threading.Lock()
        self._newest: T | None = None

    @property
    def newest(self) -> T | None:
        """None until the first answer, and again once a question could not be asked at all."""
        return self._newest

    def soon(self) -> None:
        """What was answered is out of date; `again` asks anew as soon as nobody is asking."""
        self._due = True

    def again(self, about: A, every_s: float) -> None:
        """Ask anew when the last asking began `every_s` ago or was about something else. Returns at once."""
        now, last = self._clock.monotonic(), self._asked
        if not (self._due or last is None or last[1] != about or now - last[0] >= every_s):
            return
        if not self._busy.acquire(blocking=False):
            return
        self._asked, self._due = (now, about), False
        try:
            self._begin(lambda: self._answer(about))
        except BaseException:  # no thread to be had: whoever asks next tries again
            self._busy.release()
            raise

    def _answer(self, about: A) -> None:
        try:
            self._newest = self._ask(about)
        except HostError as error:
            log.warning("the backups cannot be asked about: %s", error)
            self._newest = None
        finally:
            self._busy.release()
