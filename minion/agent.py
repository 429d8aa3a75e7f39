"""The life of a minion: ask to be enrolled, connect, say HELLO, work, report, and start over whenever the line breaks.

Rules:
1. A line on which the master has said nothing for `SILENCE_S` is dead, whatever TCP believes; a new one is made.
2. Reconnects are jittered, so a fleet does not come back in step after a restart of its master.
3. Nobody is obeyed who has not signed: a WELCOME holds the nonce of this HELLO, a job is for this minion.
4. ACCEPT is sent only after the journal has the job. Deadlines are told in the master's time.
5. The loop waits for no disk: the heart beats also while the journal does not answer. Frames are dealt with in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from .. import __version__
from ..common.bus import Dialer
from ..common.codec import decode, encode
from ..common.errors import BusError, HostError, PghaError
from ..common.failpoint import reach
from ..common.keys import KeyPair
from ..common.messages import (
    OLDEST,
    TO_MINION,
    VERSION,
    Ack,
    Answer,
    Bye,
    Cancel,
    Chunk,
    Credit,
    Hello,
    Job,
    Message,
    NextKey,
    NextKeyKnown,
    Ping,
    Pong,
    Resync,
    Rotate,
    Signed,
    Successor,
    SuccessorKnown,
    Telemetry,
    Welcome,
)
from ..common.signing import Verifier
from .blobs import Fetcher
from .certifier import Certifier
from .enrol import ask
from .journal import Journal
from .orders import Orders
from .outbox import Outbox
from .settings import Settings
from .survey import survey
from .telemetry import POLL_S, Sampler
from .trust import Identity, MasterKeys, Trust
from .worker import Worker

log = logging.getLogger("pgha.minion")

PING_S = 5.0
SILENCE_S = 20.0
CONNECT_S, WELCOME_S = 15.0, 30.0  # among thousands that come back at once, one waits for its turn
TIDY_S = 60.0
BACKOFF_S = (0.5, 15.0)


class _Farewell(BusError):
    """The master ended the line on purpose."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason)
        self.retry_after_s = min(bye.retry_after_ms / 1000, 60.0)


@dataclass
class _Line:
    """One connection, from WELCOME on. `offset_ms` is the master's time less this host's time since boot."""

    dialer: Dialer
    outbox: Outbox
    verifier: Verifier
    version: int
    offset_ms: int
    heard: float = field(default_factory=time.monotonic)

    def now_ms(self) -> int:
        """The master's time."""
        return _boot_ms() + self.offset_ms

    async def send(self, message: Message) -> bool:
        return message.first <= self.version and await self.dialer.send(encode(message, self.version))


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
        self._line: _Line | None = None
        self._attempt = 0
        self._fetcher = Fetcher(self._loop, self._send)
        self._certifier = Certifier(self._loop, self._send)

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
                except _Farewell as farewell:
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
            line = await self._greet(dialer, master, mine)
            if line is None:
                self._attempt += 1
                return self._attempt % len(pairs) != 0 or await self._knock()
            await self._serve(line)
            return False
        finally:
            self._line = None
            dialer.close()

    async def _greet(self, dialer: Dialer, master: MasterKeys, mine: KeyPair) -> _Line | None:
        nonce = os.urandom(16)
        hello = await asyncio.to_thread(self._hello, nonce)
        began, sent, asked_ms = time.monotonic(), False, 0
        while time.monotonic() - began < (WELCOME_S if sent else CONNECT_S) and not self._stopping.is_set():
            if not sent:
                asked_ms, sent = _boot_ms(), await dialer.send(encode(hello))
            if not sent and await dialer.refused():
                return None
            frames = await dialer.receive(0.1)
            if frames is None:
                continue
            message = decode(frames, TO_MINION)
            if isinstance(message, Bye):
                raise _Farewell(message)
            if isinstance(message, Welcome):
                line = self._welcome(dialer, message, nonce, master, asked_ms)
                try:
                    self.identity.greeted(mine)
                except OSError as error:
                    log.error("this minion's new key is not in its place yet: %s", error)
                return line
        return None

    def _hello(self, nonce: bytes) -> Hello:
        open_jobs = self.journal.open_jobs()  # before `spool_hi`: the end of one that ends meanwhile comes after it
        return Hello(
            epoch=self.journal.epoch,
            spool_lo=self.journal.lowest(),
            spool_hi=self.journal.highest(),
            acked=self.journal.acked,
            mepoch=self.journal.master_epoch,
            open=open_jobs,
            facts=survey(__version__),
            speaks=VERSION,
            nonce=nonce,
        )

    def _welcome(self, dialer: Dialer, welcome: Welcome, nonce: bytes, master: MasterKeys, asked_ms: int) -> _Line:
        """Raises BusError when whoever speaks there is not to be obeyed.

        The master's time in it is taken as that of the HELLO, which was at `asked_ms`: were it long on its way, a job
        is refused too early rather than begun too late.
        """
        if not OLDEST < welcome.version <= VERSION:
            raise BusError("this master is older than this minion; upgrade the master first")
        signing = master.signing or welcome.signing_key
        if welcome.signing_key != signing or len(signing) != 32 or not Verifier(signing).welcome(welcome, nonce):
            raise BusError(
                "who answers has the master's CURVE key and not its signing key; not obeyed. If the master was set up "
                f"anew: remove {self.trust.path} and enrol again"
            )
        if welcome.name != self.settings.name:
            raise BusError(f"that WELCOME is for {welcome.name}, and this is {self.settings.name}; not obeyed")
        if welcome.mepoch < self.journal.master_epoch:
            raise BusError("this master has been replaced by a newer one; not taking orders from it")
        if welcome.mepoch > self.journal.master_epoch:
            self.journal.remember_master_epoch(welcome.mepoch)
        try:
            self.trust.greeted(master, signing, self.settings.server_key)
        except HostError as error:
            log.error("the master's keys are not written down yet: %s", error)
        if welcome.hw > self.journal.highest():
            log.error(
                "the master has %d events of this host, and its journal ends at %d: it is older than what it has told, "
                "as after a disk was restored. It goes on under a new epoch; what it has forgotten ends as unknown",
                welcome.hw,
                self.journal.highest(),
            )
            self.journal.renew()
            raise BusError("the journal begins a new epoch")
        self.journal.acknowledge(welcome.hw)
        with self._welcomed:
            self._welcomes += 1
            self._welcomed.notify_all()
        log.info("connected to the master as %s", welcome.name)
        outbox = Outbox(self.journal, welcome.hw, welcome.credit, welcome.credit_bytes)
        verifier = Verifier(signing, welcome.session)
        return _Line(dialer, outbox, verifier, welcome.version, welcome.now_ms - asked_ms)

    async def _serve(self, line: _Line) -> None:
        self._line = line
        self._news.set()
        if self.identity.next is not None:
            await line.send(NextKey(public=self.identity.next.public))
        if self.trust.next is not None:
            await line.send(SuccessorKnown(server_key=self.trust.next.server))
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
            await self._change_keys(message, line)
        elif isinstance(message, Bye):
            raise _Farewell(message)
        else:
            assert isinstance(message, (Welcome, Pong))

    async def _order(self, job: Job, line: _Line) -> None:
        take = partial(self._orders.take, job, line.verifier, line.now_ms())
        if job.query:
            if (answer := take()) is not None:
                await line.send(answer)
        elif (answer := await asyncio.to_thread(take)) is not None:
            reach("agent.accept.before_send")
            await line.send(answer)
            reach("agent.accept.after_send")

    async def _change_keys(self, message: Rotate | NextKeyKnown | Successor, line: _Line) -> None:
        """Raises BusError when the master's next keys are not signed.

        A disk that refuses changes nothing: the master tells it again on the next line, and the present keys are good.
        """
        if isinstance(message, Successor) and not line.verifier.successor(message):
            raise BusError("the master's next keys are not signed with the key it has")
        try:
            await self._write_keys(message, line)
        except (PghaError, OSError) as error:
            log.error("keys cannot be changed now: %s", error)

    async def _write_keys(self, message: Rotate | NextKeyKnown | Successor, line: _Line) -> None:
        if isinstance(message, Rotate):
            await line.send(NextKey(public=self.identity.make_next().public))
        elif isinstance(message, NextKeyKnown):
            if self.identity.next_is_known(message.public):
                log.info("this minion's next key is known to the master; connecting with it")
                self._attempt = 0
                self._reconnect.set()
        else:
            if self.trust.next != MasterKeys(message.server_key, message.signing_key):
                self.trust.succeed(message, self.settings.server_key)
            await line.send(SuccessorKnown(server_key=message.server_key))

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

    async def _report(self, line: _Line) -> None:
        """Send what the journal holds, within the credit."""
        while True:
            await self._news.wait()
            self._news.clear()
            room = True
            while room and (messages := await asyncio.to_thread(line.outbox.next)):
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

    async def _beat(self, line: _Line) -> None:
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


def _boot_ms() -> int:
    """Milliseconds since boot, also those that the host was suspended; nobody can set this clock."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
