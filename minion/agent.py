"""The life of a minion: ask to be enrolled, connect, say HELLO, work, report, and start over whenever the line breaks.

Rules:
1. A line on which the master has said nothing for `SILENCE_S` is dead, whatever TCP believes; a new one is made.
2. Reconnects are jittered, so a fleet does not come back in step after a restart of its master.
3. Events go out in order, at most `credit` unacknowledged; on every new line they start after what the master stored.
4. ACCEPT is sent only after the journal has the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..common.bus import Dialer
from ..common.codec import decode, encode
from ..common.errors import ActionFailed, BusError
from ..common.keys import KeyPair
from ..common.messages import (
    TO_MINION,
    Accept,
    Ack,
    Bye,
    Cancel,
    Event,
    Hello,
    Job,
    Message,
    Ping,
    Pong,
    Refuse,
    Resync,
    Sign,
    Signed,
    Telemetry,
    Welcome,
)
from .enrol import ask
from .journal import Journal
from .settings import Settings
from .survey import survey
from .telemetry import POLL_S, Sampler
from .worker import Worker

log = logging.getLogger("pgha.minion")

PING_S = 5.0
SILENCE_S = 20.0
WELCOME_S = 5.0
SIGN_S = 15.0
BACKOFF_S = (0.5, 15.0)


class _Farewell(BusError):
    """The master ended the line on purpose."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason)
        self.retry_after_s = min(bye.retry_after_ms / 1000, 60.0)


@dataclass
class _Line:
    """One connection, from WELCOME on."""

    dialer: Dialer
    sent: int  # the highest event sent on it
    credit: int
    heard: float


@dataclass
class Agent:
    settings: Settings
    keys: KeyPair
    journal: Journal
    worker: Worker = field(init=False)
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._reconnect = asyncio.Event()
        self._stopping = asyncio.Event()
        self._welcomes = 0
        self._welcomed = threading.Condition()
        self._requests: dict[int, asyncio.Future[Signed]] = {}
        self._line: _Line | None = None

    # ---- called from the worker's thread

    def wake(self) -> None:
        """The journal has news to send."""
        self._loop.call_soon_threadsafe(self._news.set)

    def ended(self) -> None:
        """A job has ended: what it changed is worth a look now."""
        self._loop.call_soon_threadsafe(self._ended.set)

    def sign(self, cluster: str, name: str, csr: str) -> str:
        """The certificate for that request. Raises ActionFailed when the master refuses or does not answer."""
        return asyncio.run_coroutine_threadsafe(self._sign(cluster, name, csr), self._loop).result(SIGN_S * 4)

    def confirm(self, timeout_s: float) -> bool:
        """True when the master says WELCOME on a connection made after this call, within the time."""
        with self._welcomed:
            before = self._welcomes
            self._loop.call_soon_threadsafe(self._reconnect.set)
            return self._welcomed.wait_for(lambda: self._welcomes > before, timeout_s)

    # ---- the life

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        sampling = asyncio.create_task(self._sample())
        low, high = BACKOFF_S
        pause = low
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    if await self._session():
                        pause = low
                        continue
                except _Farewell as farewell:
                    log.info("the master says: %s", farewell)
                    await self._rest(random.uniform(0.5, 1.0) * farewell.retry_after_s)  # noqa: S311 - jitter
                    continue
                except BusError as error:
                    log.warning("the line to the master broke: %s", error)
                if self._reconnect.is_set():
                    continue
                pause = low if time.monotonic() - began > 60 else min(pause * 2, high)
                await self._rest(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - jitter, no secret
        finally:
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling
            self.worker.close()

    async def _session(self) -> bool:
        """One connection from HELLO to its end; True when there is reason to make the next one at once.

        Raises BusError when it breaks.
        """
        dialer = Dialer(self.settings.bus_address, self.settings.server_key, self.keys)
        self._reconnect.clear()
        try:
            welcome = await self._greet(dialer)
            if welcome is None:
                return await self._knock()
            await self._serve(_Line(dialer, welcome.hw, welcome.credit, time.monotonic()))
            return False
        finally:
            self._line = None
            dialer.close()

    async def _greet(self, dialer: Dialer) -> Welcome | None:
        hello = Hello(
            epoch=self.journal.epoch,
            spool_lo=self.journal.lowest(),
            spool_hi=self.journal.highest(),
            acked=self.journal.acked,
            mepoch=self.journal.master_epoch,
            open=self.journal.open_jobs(),
            facts=await asyncio.to_thread(survey, __version__),
        )
        deadline = time.monotonic() + WELCOME_S
        sent = False
        while time.monotonic() < deadline and not self._stopping.is_set():
            sent = sent or await dialer.send(encode(hello))
            frames = await dialer.receive(0.1)
            if frames is None:
                continue
            message = decode(frames, TO_MINION)
            if isinstance(message, Bye):
                raise _Farewell(message)
            if isinstance(message, Welcome):
                return self._welcome(message)
        return None

    def _welcome(self, welcome: Welcome) -> Welcome:
        if welcome.mepoch < self.journal.master_epoch:
            raise BusError("this master has been replaced by a newer one; not taking orders from it")
        if welcome.mepoch > self.journal.master_epoch:
            self.journal.remember_master_epoch(welcome.mepoch)
        if welcome.hw > self.journal.acked:
            self.journal.acknowledge(welcome.hw)
        with self._welcomed:
            self._welcomes += 1
            self._welcomed.notify_all()
        log.info("connected to the master as %s", welcome.name)
        return welcome

    async def _serve(self, line: _Line) -> None:
        self._line = line
        self._news.set()
        ends = (self._reconnect.wait(), self._stopping.wait())
        works = (self._listen(line), self._report(line), self._beat(line))
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work) for work in (*works, *ends)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, line: _Line) -> None:
        while True:
            frames = await line.dialer.receive(1.0)
            if frames is not None:
                line.heard = time.monotonic()
                await self._take(decode(frames, TO_MINION), line)
            elif time.monotonic() - line.heard > SILENCE_S:
                raise BusError(f"the master has been silent for {SILENCE_S:g} s")

    async def _take(self, message: Message, line: _Line) -> None:
        if isinstance(message, Job):
            await line.dialer.send(encode(self._order(message)))
        elif isinstance(message, Ack):
            if message.epoch == self.journal.epoch:
                self.journal.acknowledge(message.seq)
                self._news.set()
        elif isinstance(message, Resync):
            line.sent = message.from_seq - 1
            self._news.set()
        elif isinstance(message, Cancel):
            self.worker.cancel(message.jid, message.att)
        elif isinstance(message, Signed):
            waiting = self._requests.pop(message.request, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif isinstance(message, Bye):
            raise _Farewell(message)
        else:
            assert isinstance(message, (Welcome, Pong))

    def _order(self, job: Job) -> Accept | Refuse:
        """Take the job, once. A job seen before is accepted again and not started again."""
        now_ms = int(time.time() * 1000)
        if self.journal.seen(job.jid, job.att):
            return Accept(jid=job.jid, att=job.att)
        if job.mepoch < self.journal.master_epoch:
            return Refuse(jid=job.jid, att=job.att, why="stale_epoch")
        if job.not_after_ms < now_ms and job.ttl_ms <= 0:
            return Refuse(jid=job.jid, att=job.att, why="expired")
        if hashlib.sha256(job.document).hexdigest() != job.sha256:
            return Refuse(jid=job.jid, att=job.att, why="bad_document")
        self.journal.prune(now_ms)
        if self.journal.accept(job.jid, job.att, job.cls, max(job.not_after_ms, now_ms + job.ttl_ms)):
            self.worker.submit(job)
        return Accept(jid=job.jid, att=job.att)

    async def _report(self, line: _Line) -> None:
        """Send what the journal holds, within the credit; go back to what RESYNC says."""
        while True:
            await self._news.wait()
            self._news.clear()
            while (room := self.journal.acked + line.credit - line.sent) > 0:
                events = self.journal.events_after(line.sent, min(room, 64))
                if not events:
                    break
                for event in events:
                    message = Event(
                        epoch=self.journal.epoch,
                        seq=event.seq,
                        jid=event.jid,
                        att=event.att,
                        kind=event.kind,
                        body=event.body,
                    )
                    while not await line.dialer.send(encode(message)):
                        await asyncio.sleep(0.02)
                    line.sent = event.seq

    async def _beat(self, line: _Line) -> None:
        """PING; and when a whole beat long nothing that was sent has been acknowledged, it is sent again."""
        acked = -1
        while True:
            await line.dialer.send(encode(Ping(mono_ms=int(time.monotonic() * 1000), running=self.worker.running())))
            if acked == self.journal.acked < line.sent:
                line.sent = acked
                self._news.set()
            acked = self.journal.acked
            await asyncio.sleep(PING_S)

    async def _sample(self) -> None:
        """Telemetry is never kept: a sample goes out when there is a line, or not at all."""
        while True:
            look = self.sampler.sample if self._ended.is_set() else self.sampler.poll
            self._ended.clear()
            try:
                sample = await asyncio.to_thread(look)
                if sample is not None and self._line is not None:
                    await self._line.dialer.send(encode(Telemetry(sample=sample)))
            except Exception:
                log.exception("this sample is lost; the next one is tried")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), POLL_S)

    async def _sign(self, cluster: str, name: str, csr: str) -> str:
        for _ in range(3):
            request = int.from_bytes(os.urandom(6), "big")
            future: asyncio.Future[Signed] = self._loop.create_future()
            self._requests[request] = future
            try:
                if self._line is not None:
                    await self._line.dialer.send(encode(Sign(request=request, cluster=cluster, name=name, csr=csr)))
                signed = await asyncio.wait_for(future, SIGN_S)
            except asyncio.TimeoutError:
                continue
            finally:
                self._requests.pop(request, None)
            if not signed.certificate:
                raise ActionFailed(f"the master does not sign {name}: {signed.why}")
            return signed.certificate
        raise ActionFailed(f"the master did not answer the request to sign {name}; it is tried again at the next apply")

    async def _knock(self) -> bool:
        """Ask at the enrolment port what is wrong, until the key is accepted (True) or nobody answers (False)."""
        told = ""
        while not self._stopping.is_set():
            answer = await ask(self.settings, self.keys)
            if answer is None:
                log.warning(
                    "no answer from the master at %s; check that it runs, its address and fingerprint, and firewalls",
                    self.settings.master,
                )
                return False
            if answer.state == "accepted":
                return True
            if answer.state != told:
                told = answer.state
                log.warning("the master has not accepted this key: %s %s", answer.state, answer.reason)
            await self._rest(random.uniform(1.0, 2.0) * answer.retry_after_ms / 3000)  # noqa: S311 - jitter
        return False

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
