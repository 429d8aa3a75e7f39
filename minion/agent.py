"""The life of a minion: ask to be enrolled, connect, say HELLO, work, report, and start over whenever the line breaks.

Rules:
1. A line on which the master has said nothing for `SILENCE_S` is dead, whatever TCP believes; a new one is made.
2. Reconnects are jittered, so a fleet does not come back in step after a restart of its master.
3. ACCEPT is sent only after the journal has the job. Deadlines are told in the master's time.
4. The loop waits for no disk: the heart beats also while the journal does not answer. Frames are dealt with in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from ..common.bus import Dialer
from ..common.codec import decode
from ..common.errors import BusError, HostError, PghaError
from ..common.failpoint import reach
from ..common.messages import (
    TO_MINION,
    Ack,
    Answer,
    Bye,
    Cancel,
    Chunk,
    Credit,
    Job,
    Message,
    NextKeyKnown,
    Ping,
    Pong,
    Resync,
    Rotate,
    Signed,
    Successor,
    Telemetry,
    Welcome,
)
from .blobs import Fetcher
from .certifier import Certifier
from .enrol import ask
from .greeting import Farewell, Greeter
from .journal import Journal
from .line import Line
from .orders import Orders
from .settings import Settings
from .successors import Successors
from .telemetry import POLL_S, Sampler
from .trust import Identity, Trust
from .worker import Worker

log = logging.getLogger("pgha.minion")

PING_S = 5.0
SILENCE_S = 20.0
TIDY_S = 60.0
BACKOFF_S = (0.5, 15.0)


@dataclass
class Agent:
    settings: Settings
    identity: Identity
    trust: Trust
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
        self._line: Line | None = None
        self._attempt = 0
        self._fetcher = Fetcher(self._loop, self._send)
        self._certifier = Certifier(self._loop, self._send)
        self._successors = Successors(self.settings, self.identity, self.trust)
        known = (self.settings, self.identity, self.trust, self.journal)
        self._greeter = Greeter(*known, self._was_welcomed, self._stopping.is_set)

    # ---- called from the worker's thread

    def wake(self) -> None:
        """The journal has news to send."""
        self._loop.call_soon_threadsafe(self._news.set)

    def ended(self) -> None:
        """A job has ended: what it changed is worth a look now."""
        self._loop.call_soon_threadsafe(self._ended.set)

    def sign(self, cluster: str, name: str, csr: str) -> str:
        """As `Certifier.sign`."""
        return self._certifier.sign(cluster, name, csr)

    def fetch(self, sha256: str, size: int, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        """A file or document from the master. Raises HostError."""
        self._fetcher.fetch(sha256, size, file, cancelled)

    def confirm(self, timeout_s: float) -> bool:
        """True when the master says WELCOME on a connection made after this call, within the time."""
        with self._welcomed:
            before = self._welcomes
            self._loop.call_soon_threadsafe(self._reconnect.set)
            return self._welcomed.wait_for(lambda: self._welcomes > before, timeout_s)

    def _was_welcomed(self) -> None:
        with self._welcomed:
            self._welcomes += 1
            self._welcomed.notify_all()

    # ---- the life

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        beside = [asyncio.create_task(work) for work in (self._sample(), self._tidy(), self._give_up())]
        low, high = BACKOFF_S
        pause = low
        self._orders = Orders(self.settings.name, self.journal, self.worker, self._answer)
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    if await self._session():
                        pause = low
                        continue
                except Farewell as farewell:
                    log.info("the master says: %s", farewell)
                    await self._rest(random.uniform(0.5, 1.0) * farewell.retry_after_s)  # noqa: S311 - jitter
                    continue
                except (PghaError, OSError) as error:  # a disk that refuses ends a line, and never the minion
                    log.warning("the line to the master broke: %s", error)
                except Exception:  # nor does what nobody thought of: jobs run here
                    log.exception("the line to the master broke")
                if self._reconnect.is_set():
                    continue
                pause = low if time.monotonic() - began > 60 else min(pause * 2, high)
                await self._rest(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - jitter, no secret
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._certifier.close()
            await asyncio.to_thread(self.worker.close)  # who fetches or asks for a certificate needs this loop to end

    async def _session(self) -> bool:
        """One connection from HELLO to its end; True when there is reason to make the next one at once.

        Raises BusError when it breaks.
        """
        pairs = [(master, mine) for mine in self.identity.candidates() for master in self.trust.candidates()]
        master, mine = pairs[self._attempt % len(pairs)]
        dialer = Dialer(self.settings.bus_address, master.server, mine)
        self._reconnect.clear()
        try:
            line = await self._greeter.greet(dialer, master, mine)
            if line is None:
                self._attempt += 1
                return self._attempt % len(pairs) != 0 or await self._knock()
            await self._serve(line)
            return False
        finally:
            self._line = None
            dialer.close()

    async def _serve(self, line: Line) -> None:
        self._line = line
        self._news.set()
        await self._successors.remind(line)
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

    async def _listen(self, line: Line) -> None:
        while True:
            frames = await line.dialer.receive(1.0)
            if frames is not None:
                line.heard = time.monotonic()
                await self._take(decode(frames, TO_MINION), line)
            elif time.monotonic() - line.heard > SILENCE_S:
                raise BusError(f"the master has been silent for {SILENCE_S:g} s")

    async def _take(self, message: Message, line: Line) -> None:
        if isinstance(message, Job):
            await self._order(message, line)
        elif isinstance(message, Ack):
            if message.epoch == self.journal.epoch:
                self.journal.acknowledge(message.seq)
                line.outbox.acknowledge(message.seq)
                self._news.set()
        elif isinstance(message, Resync):
            line.outbox.resync(message.from_seq)
            self._news.set()
        elif isinstance(message, Credit):
            line.outbox.grant(message.events, message.bytes)
            self._news.set()
        elif isinstance(message, Chunk):
            self._fetcher.take(message)
        elif isinstance(message, Cancel):
            await asyncio.to_thread(self._orders.cancel, message, line.now_ms())
            self._news.set()
        elif isinstance(message, Signed):
            self._certifier.take(message)
        elif isinstance(message, (Rotate, NextKeyKnown, Successor)):
            if await self._successors.take(message, line):
                log.info("this minion's next key is known to the master; connecting with it")
                self._attempt = 0
                self._reconnect.set()
        elif isinstance(message, Bye):
            raise Farewell(message)
        else:
            assert isinstance(message, (Welcome, Pong))

    async def _order(self, job: Job, line: Line) -> None:
        take = partial(self._orders.take, job, line.verifier, line.now_ms())
        if job.query:
            if (answer := take()) is not None:
                await line.send(answer)
        elif (answer := await asyncio.to_thread(take)) is not None:
            reach("agent.accept.before_send")
            await line.send(answer)
            reach("agent.accept.after_send")

    def _answer(self, answer: Answer) -> None:
        """Called from a query's thread."""
        asyncio.run_coroutine_threadsafe(self._send(answer), self._loop)

    async def _send(self, message: Message) -> bool:
        """On the line there is. False when there is none, or it does not take it; for what is asked again."""
        try:
            return self._line is not None and await self._line.send(message)
        except BusError as error:
            log.error("not sent: %s", error)
            return False

    async def _report(self, line: Line) -> None:
        """Send what the journal holds, within the credit."""
        while True:
            await self._news.wait()
            self._news.clear()
            room = True
            while room and line.outbox.behind and (messages := await asyncio.to_thread(line.outbox.next)):
                for message in messages:
                    reach("agent.event.before_send")
                    while line.outbox.expects(message) and not await line.send(message):
                        await asyncio.sleep(0.02)
                    reach("agent.event.after_send")
                    if not line.outbox.expects(message):
                        break  # the master has asked for others meanwhile
                    room = line.outbox.took(message)
                    if not room:
                        break

    async def _beat(self, line: Line) -> None:
        """PING; and when a whole beat long nothing that was sent has been acknowledged, it is sent again."""
        while True:
            events, size = self.journal.waiting
            await line.send(
                Ping(
                    mono_ms=int(time.monotonic() * 1000),
                    running=self.worker.running(),
                    spool=events,
                    spool_bytes=size,
                    trouble=self.worker.trouble,
                )
            )
            if line.outbox.beat():
                self._news.set()
            await asyncio.sleep(PING_S)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            if self._line is None:
                continue  # only the master knows what time it is
            try:
                await asyncio.to_thread(self.journal.tidy, self._line.now_ms())
            except HostError as error:
                log.error("%s", error)

    async def _give_up(self) -> None:
        """What waits for its turn and is cancelled or too late is told as that within a heartbeat."""
        while True:
            await asyncio.sleep(PING_S)
            await asyncio.to_thread(self.worker.give_up)

    async def _sample(self) -> None:
        """Telemetry is never kept: a sample goes out when there is a line, or not at all."""
        while True:
            look = self.sampler.sample if self._ended.is_set() else self.sampler.poll
            self._ended.clear()
            try:
                sample = await asyncio.to_thread(look)
                if sample is not None and not self.journal.full:
                    await self._send(Telemetry(sample=sample))
            except Exception:
                log.exception("this sample is lost; the next one is tried")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), POLL_S)

    async def _knock(self) -> bool:
        """Ask at the enrolment port what is wrong, until the key is accepted (True) or nobody answers (False)."""
        told = ""
        while not self._stopping.is_set():
            answer = await ask(self.settings, self.identity.now, server=self.trust.now.server)
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
