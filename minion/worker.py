"""Runs jobs: documents one at a time in one thread, calls beside them. Everything that happens becomes a journal row.

The worker decides nothing about connections; `wake` tells the agent that the journal holds something new to send,
`ended` that a job is over.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import BinaryIO

from ..common.errors import ActionFailed, PghaError
from ..common.messages import EventKind, Job, Running
from ..common.results import Outcome, ResourceResult, Status
from ..states.converge import Debts, MemoryDebts, converge
from ..states.kinds import decode
from ..states.system import System
from .functions import Call, Doors, call
from .journal import Journal

log = logging.getLogger("pgha.minion.worker")

LEAVE_S = 8.0  # more than a command gets between SIGTERM and SIGKILL
OUTPUT_LIMIT = 32 * 1024 * 1024  # characters of one job: a program that never stops talking must not fill two disks


@dataclass
class _Current:
    job: Job
    since: float
    resource: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)


class Worker:
    def __init__(self, journal: Journal, system: System, wake: Callable[[], None], ended: Callable[[], None]) -> None:
        self._journal, self._system, self._wake, self._ended = journal, system, wake, ended
        self._states = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._calls = ThreadPoolExecutor(8, thread_name_prefix="call")
        self._current: dict[tuple[str, int], _Current] = {}
        self._turns: set[Future[None]] = set()

    def submit(self, job: Job) -> None:
        """Queue a job that the journal has just accepted for the first time."""
        current = _Current(job, time.monotonic(), "waiting for the job before it")
        self._current[job.jid, job.att] = current
        pool = self._states if job.cls == "state" else self._calls
        self._turns = {turn for turn in self._turns if not turn.done()} | {pool.submit(self._turn, current)}

    def cancel(self, jid: str, att: int) -> None:
        if current := self._current.get((jid, att)):
            current.cancelled.set()

    def running(self) -> tuple[Running, ...]:
        """What runs now, for the heartbeat."""
        now = time.monotonic()
        return tuple(
            Running(jid=c.job.jid, att=c.job.att, resource=c.resource[:500], seconds=max(0.0, now - c.since))
            for c in list(self._current.values())
        )

    def close(self) -> None:
        """Cancel everything; what ends within `LEAVE_S` still has its end in the journal."""
        for current in list(self._current.values()):
            current.cancelled.set()
        self._states.shutdown(wait=False, cancel_futures=True)
        self._calls.shutdown(wait=False, cancel_futures=True)
        wait(self._turns, LEAVE_S)

    def _turn(self, current: _Current) -> None:
        try:
            self._run(current)
        except Exception:
            log.exception("the end of job %s is not in the journal", current.job.jid)
        self._wake()
        self._ended()

    def _run(self, current: _Current) -> None:
        job = current.job
        try:
            if current.cancelled.is_set() or _too_late(current):
                kind: EventKind = "cancelled" if current.cancelled.is_set() else "expired"
                self._journal.finish(job.jid, job.att, kind, {"reason": "it had not begun"})
                return
            self._journal.start(job.jid, job.att)
            self._wake()
            current.since, current.resource = time.monotonic(), ""
            outcome = self._call(current) if job.mode == "call" else self._converge(current)
        except PghaError as error:
            outcome = Outcome(ok=False, message=str(error))
        except Exception as error:
            log.exception("job %s broke", job.jid)
            outcome = Outcome(
                ok=False, message=f"internal error: {type(error).__name__}; see journalctl -u pgha-minion"
            )
        finally:
            self._current.pop((job.jid, job.att), None)
        self._journal.finish(job.jid, job.att, "done", outcome.model_dump(mode="json"))

    def _converge(self, current: _Current) -> Outcome:
        job, counts, since = current.job, dict.fromkeys(Status, 0), time.monotonic()
        order = json.loads(job.document)
        resources = decode(order["resources"])
        dry_run = job.mode == "plan"
        debts: Debts = MemoryDebts(self._journal.debts()) if dry_run else self._journal
        for result in converge(
            resources,
            self._system,
            debts,
            dry_run=dry_run,
            only=order["documents"],
            started=lambda resource: setattr(current, "resource", resource.id),
            cancelled=current.cancelled.is_set,
        ):
            counts[result.status] += 1
            if result.status is not Status.UNCHANGED or result.reason:
                self._report(job, result)
        return Outcome(
            ok=counts[Status.FAILED] == 0 and not current.cancelled.is_set(),
            message="cancelled" if current.cancelled.is_set() else "",
            unchanged=counts[Status.UNCHANGED],
            changed=counts[Status.CHANGED],
            planned=counts[Status.PLANNED],
            failed=counts[Status.FAILED],
            skipped=counts[Status.SKIPPED],
            seconds=time.monotonic() - since,
        )

    def _report(self, job: Job, result: ResourceResult) -> None:
        self._journal.record(job.jid, job.att, "res", result.model_dump(mode="json"))
        self._wake()

    def _call(self, current: _Current) -> Outcome:
        job = current.job

        room = OUTPUT_LIMIT

        def output(stream: str, text: str) -> None:
            nonlocal room
            if room <= 0:
                return
            room -= len(text)
            if room <= 0:
                text += f"\n[pgha: the rest of the output is left out; a job may have {OUTPUT_LIMIT >> 20} MiB]\n"
            self._journal.record(job.jid, job.att, "out", {"stream": stream, "text": text})
            self._wake()

        request = Call.model_validate_json(job.document)
        current.resource = request.function
        return call(request, Doors(self._system, output, current.cancelled.is_set, _no_fetch))


def _no_fetch(sha256: str, size: int, file: BinaryIO) -> None:
    raise ActionFailed("this minion has no way yet to fetch a file from its master")


def _too_late(current: _Current) -> bool:
    """Its time was over while it waited for the job before it: nothing begins after its deadline."""
    return time.monotonic() - current.since > current.job.ttl_ms / 1000
