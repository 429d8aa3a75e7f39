"""What becomes of a JOB and of a CANCEL: taken once, refused with the reason, or answered.

Rules:
1. A job is taken only when it was signed, a query when it has the code of this session: for this minion, in the newest
   run of the master, before its deadline.
2. The journal has it before it is accepted. One that was seen before is accepted again, and not started again.
3. A query only reads: it is answered, and not journaled.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..common.errors import HostError
from ..common.messages import Accept, Answer, Cancel, Job, Refuse, RefuseReason
from ..common.signing import Verifier
from .journal import Journal
from .worker import Worker

log = logging.getLogger("pgha.minion.orders")

DOCUMENT_BYTES = 64 * 1024 * 1024
CANCELLED_MS = 24 * 3600 * 1000  # a job that was cancelled before it came would be long expired then


@dataclass(frozen=True)
class Orders:
    """`now_ms` of its methods is the master's time."""

    name: str
    journal: Journal
    worker: Worker
    answer: Callable[[Answer], None]

    def take(self, job: Job, verifier: Verifier, now_ms: int) -> Accept | Refuse | Answer | None:
        """What to say to it; None for a query whose answer comes later, by `answer`."""
        why, detail = self._wrong(job, verifier)
        if why is not None:
            return Refuse(jid=job.jid, att=job.att, why=why, detail=detail)
        try:
            if not job.query and self.journal.seen(job.jid, job.att):
                return Accept(jid=job.jid, att=job.att)
            if now_ms > job.not_after_ms:
                return Refuse(jid=job.jid, att=job.att, why="expired")
            if job.query:
                return self.worker.ask(job, self.answer)
            self.worker.insist_on_room()
            if self.journal.accept(job.jid, job.att, job.cls, job.not_after_ms):
                self.worker.submit(job)
        except HostError as error:
            return Refuse(jid=job.jid, att=job.att, why="busy", detail=str(error)[:500])
        return Accept(jid=job.jid, att=job.att)

    def _wrong(self, job: Job, verifier: Verifier) -> tuple[RefuseReason | None, str]:
        if job.minion != self.name:
            return "not_mine", f"this is {self.name}"
        if not verifier.job(job):
            return "bad_signature", ""
        if job.mepoch < self.journal.master_epoch:
            return "stale_epoch", ""
        if job.size > DOCUMENT_BYTES:
            return "too_big", ""
        if job.document and hashlib.sha256(job.document).hexdigest() != job.sha256:
            return "bad_document", ""
        return None, ""

    def cancel(self, cancel: Cancel, now_ms: int) -> None:
        """End it. One that has not come yet is remembered as cancelled, should it come."""
        if self.worker.has(cancel.jid, cancel.att):
            self.worker.cancel(cancel.jid, cancel.att)
            return
        try:
            if not self.journal.seen(cancel.jid, cancel.att):
                self.journal.never(cancel.jid, cancel.att, now_ms + CANCELLED_MS)
        except HostError as error:
            log.error("a cancel is not written down: %s", error)
