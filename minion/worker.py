"""Runs jobs: documents one at a time in one thread, calls beside them, queries beside both.

Everything that happens to a job becomes a journal row before anybody is told; a query is not journaled, only answered.
The worker decides nothing about connections: `wake` tells the agent that the journal holds something new to send,
`ended` that a job is over.

While the spool is full, or the disk refuses, work waits: nothing that happened is left out, and nothing new begins.
A job that was cancelled, or whose deadline came, while it waited for whatever it was never begins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import BytesIO
from typing import BinaryIO, Literal

from ..common import functions
from ..common.errors import HostError, PghaError, UserError
from ..common.failpoint import reach
from ..common.messages import Answer, EventKind, Job, Running
from ..common.results import Outcome, ResourceResult
from ..states.converge import MemoryDebts
from ..states.system import System
from .functions import Call, Doors, call
from .journal import Journal
from .statejob import bring_about
from .turn import Turn
from .underway import Underway, over
from .watched import Watched

log = logging.getLogger("pgha.minion.worker")

LEAVE_S = 8.0  # more than a command gets between SIGTERM and SIGKILL
OUTPUT_LIMIT = 32 * 1024 * 1024  # characters of one job: a program that never stops talking must not fill two disks
RETRY_S = 0.5
OPEN_JOBS = 1000  # a HELLO that names each of them is far below what a frame may have
ALONE_S = 900.0  # at most so long one job has the minion for itself
RESTART_S = 15.0  # and so long after it ended well: that is when the restart comes which it has asked for

Cancelled = Callable[[], bool]
Fetch = Callable[[str, int, BinaryIO, Cancelled], None]
"""(SHA-256, size, where to write, whether to give up). Raises HostError."""

Stream = Literal["stdout", "stderr"]
_AT_ONCE = b'{"function":"ping"'  # waits for nothing, so no thread is worth it


class Worker:
    def __init__(
        self,
        journal: Journal,
        system: System,
        wake: Callable[[], None],
        ended: Callable[[], None],
        fetch: Fetch,
        turn: Turn | None = None,
    ) -> None:
        """`turn`: what an apply waits for, so that nobody else changes the host meanwhile."""
        self._host_turn = turn
        self._journal, self._system, self._wake, self._ended, self._fetch = journal, system, wake, ended, fetch
        self._states = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._calls = ThreadPoolExecutor(8, thread_name_prefix="call")
        self._queries = ThreadPoolExecutor(8, thread_name_prefix="query")
        self._current: dict[tuple[str, int], Underway] = {}
        self._turns: set[Future[None]] = set()
        self._closing = threading.Event()
        self.watched = Watched()
        self._held_until = 0.0  # monotonic; by a job that has this minion for itself
        self.trouble = ""  # why nothing can be written down at the moment

    def submit(self, job: Job) -> None:
        """Queue a job that the journal has just accepted for the first time."""
        current = Underway(job, time.monotonic(), "waiting for the job before it")
        self._current[job.jid, job.att] = current
        pool = self._states if job.cls == "state" else self._calls
        self._turns = {turn for turn in self._turns if not turn.done()} | {pool.submit(self._turn, current)}

    def insist_on_room(self) -> None:
        """Raises HostError while one job has this minion for itself, or more are open than HELLO should name."""
        if time.monotonic() < self._held_until:
            raise HostError("this minion is being upgraded; try again in a minute")
        if len(self._current) >= OPEN_JOBS:
            raise HostError(f"{OPEN_JOBS} jobs are open on this minion; try again when some have ended")

    def cancel(self, jid: str, att: int) -> None:
        if current := self._current.get((jid, att)):
            current.cancelled.set()

    def has(self, jid: str, att: int) -> bool:
        return (jid, att) in self._current

    def ask(self, job: Job, answer: Callable[[Answer], None]) -> Answer | None:
        """The answer to a query, or None when it comes later, from a thread of its own, by `answer`.

        One that is being answered already is not asked twice.
        """
        if (job.jid, job.att) in self._current:
            return None
        current = self._current[job.jid, job.att] = Underway(job, time.monotonic())
        if job.document.startswith(_AT_ONCE):
            return self._query(current)
        self._queries.submit(lambda: answer(self._query(current)))
        return None

    def running(self) -> tuple[Running, ...]:
        """What runs now, for the heartbeat."""
        now = time.monotonic()
        return tuple(
            Running(jid=c.job.jid, att=c.job.att, resource=c.resource[:500], seconds=max(0.0, now - c.since))
            for c in list(self._current.values())
        )

    def give_up(self) -> None:
        """End what waits for its turn and must not begin any more: it is told now, and not when its turn would come."""
        for current in list(self._current.values()):
            why = over(current)
            if why is None or current.job.query or not current.turn.acquire(blocking=False):
                continue
            try:
                self._never(current, why)
            except HostError:
                current.turn.release()  # the disk refuses; the next try is soon enough
                return
            self._leave(current)

    def close(self) -> None:
        """Cancel everything; what ends within `LEAVE_S` still has its end in the journal."""
        self._closing.set()
        for current in list(self._current.values()):
            current.cancelled.set()
        self._queries.shutdown(wait=False, cancel_futures=True)
        self._states.shutdown(wait=False, cancel_futures=True)
        self._calls.shutdown(wait=False, cancel_futures=True)
        wait(self._turns, LEAVE_S)

    def _turn(self, current: Underway) -> None:
        if not current.turn.acquire(blocking=False):
            return  # it has ended
        try:
            self._run(current)
        except Exception:
            log.exception("the end of job %s is not in the journal", current.job.jid)
        self._leave(current)

    def _leave(self, current: Underway) -> None:
        self._current.pop((current.job.jid, current.job.att), None)
        self._wake()
        self._ended()

    def _run(self, current: Underway) -> None:
        job = current.job
        self._wait_for_room(current)
        outcome = self._outcome(current, self._have_document)
        if not self._begin(current):
            return
        current.since, current.resource = time.monotonic(), ""
        if outcome.ok:
            outcome = self._outcome(current, self._call if job.mode == "call" else self._state)
        reach("worker.effect.after")
        if current.cancelled.is_set() and not outcome.ok:
            why = "the minion was stopped" if self._closing.is_set() else "cancelled"
            reason = f"{why} while it ran: {outcome.message or current.resource}"
            self._insist(lambda: self._journal.finish(job.jid, job.att, "cancelled", {"reason": reason}))
        else:
            self._insist(lambda: self._journal.finish(job.jid, job.att, "done", outcome.model_dump(mode="json")))

    def _begin(self, current: Underway) -> bool:
        """Write down that it begins; or that it never will, when it was over before that was written."""
        job = current.job
        self._insist(lambda: self._journal.start(job.jid, job.att), lambda: over(current) is not None)
        why = over(current)
        if why is not None:
            self._insist(lambda: self._never(current, why))
        self._wake()
        return why is None

    def _never(self, current: Underway, why: EventKind) -> None:
        self._journal.finish(current.job.jid, current.job.att, why, {"reason": "it had not begun"})

    def _outcome(self, current: Underway, work: Callable[[Underway], Outcome]) -> Outcome:
        """What came of it, whatever went wrong."""
        try:
            return work(current)
        except PghaError as error:
            return Outcome(ok=False, message=str(error))
        except Exception as error:
            log.exception("job %s broke", current.job.jid)
            return Outcome(ok=False, message=f"internal error: {type(error).__name__}; see journalctl -u pgha-minion")

    def _insist(self, write: Callable[[], None], give_up: Callable[[], bool] = lambda: False) -> None:
        """Write it down, and wait for a disk that refuses. Raises HostError only when the minion stops meanwhile."""
        while not give_up():
            try:
                write()
            except HostError as error:
                if not self.trouble:
                    log.error("%s; work waits until it does", error)
                self.trouble = str(error)[:500]
                if self._closing.wait(RETRY_S):
                    raise
            else:
                self.trouble = ""
                return

    def _wait_for_room(self, current: Underway) -> None:
        while self._journal.full and not current.cancelled.wait(RETRY_S):
            current.resource = "waiting for the master to take what is in the spool"

    def _query(self, current: Underway) -> Answer:
        job = current.job
        said: list[tuple[Stream, str]] = []

        def output(stream: str, text: str) -> None:
            said.append(("stderr" if stream == "stderr" else "stdout", text))

        def work(current: Underway) -> Outcome:
            request = Call.model_validate_json(job.document)
            current.resource = request.function
            if not functions.find(request.function).query:
                raise UserError(f"{request.function} changes something: it is a job, and no query")
            return call(request, self._doors(current, output))

        try:
            outcome = self._outcome(current, work)
        finally:
            self._current.pop((job.jid, job.att), None)
        return Answer(jid=job.jid, att=job.att, out=tuple(said), outcome=outcome.model_dump_json().encode())

    def _have_document(self, current: Underway) -> Outcome:
        """The job's document; a large one has to be fetched."""
        job = current.job
        current.document = job.document
        if job.size and not job.document:
            current.resource, file = "fetching its document", BytesIO()
            self._fetch(job.sha256, job.size, file, lambda: over(current) is not None)
            current.document = file.getvalue()
        return Outcome(ok=True)

    def _doors(self, current: Underway, output: Callable[[str, str], None]) -> Doors:
        stop = current.cancelled.is_set

        def others() -> tuple[str, ...]:
            found = [c for c in list(self._current.values()) if c is not current and not c.job.query]
            if not found:
                self._held_until = time.monotonic() + ALONE_S
            return tuple(c.resource if c.job.mode == "call" else c.job.mode for c in found)

        def fetch(sha256: str, size: int, file: BinaryIO) -> None:
            self._fetch(sha256, size, file, stop)

        return Doors(self._system, output, stop, fetch, others)

    def _state(self, current: Underway) -> Outcome:
        if self._host_turn is None or current.job.mode == "plan":
            return self._converge(current)
        while not self._host_turn.take():
            current.resource = "waiting for an apply --local on this host to end"
            if current.cancelled.wait(RETRY_S):
                return Outcome(ok=False, message="cancelled")
        try:
            return self._converge(current)
        finally:
            self._host_turn.release()

    def _converge(self, current: Underway) -> Outcome:
        job = current.job
        return bring_about(
            current.document,
            self._system,
            MemoryDebts(self._journal.debts()) if job.mode == "plan" else self._journal,
            self.watched,
            dry_run=job.mode == "plan",
            started=lambda resource: setattr(current, "resource", resource.id),
            tell=lambda result: self._report(job, result),
            cancelled=current.cancelled.is_set,
        )

    def _report(self, job: Job, result: ResourceResult) -> None:
        self._insist(lambda: self._journal.record(job.jid, job.att, "res", result.model_dump(mode="json")))
        self._wake()
        reach("worker.res.after")

    def _call(self, current: Underway) -> Outcome:
        job, room = current.job, OUTPUT_LIMIT

        def output(stream: str, text: str) -> None:
            nonlocal room
            if room <= 0:
                return
            room -= len(text)
            if room <= 0:
                text += f"\n[pgha: the rest of the output is left out; a job may have {OUTPUT_LIMIT >> 20} MiB]\n"
            self._wait_for_room(current)
            self._insist(lambda: self._journal.record(job.jid, job.att, "out", {"stream": stream, "text": text}))
            self._wake()

        request = Call.model_validate_json(current.document)
        current.resource = request.function
        held_s = 0.0
        try:
            outcome = call(request, self._doors(current, output))
            held_s = RESTART_S
        finally:
            if self._held_until:
                self._held_until = time.monotonic() + held_s
        return outcome
