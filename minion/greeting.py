"""HELLO and WELCOME: how a minion comes to a line to its master, and whom it takes for that.

Rules:
1. Nobody is obeyed who has not signed: a WELCOME holds the nonce of this HELLO, and is for this minion.
2. A master that is older than the newest that this minion has obeyed is not obeyed any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import __version__
from ..common.bus import Dialer
from ..common.codec import decode, encode
from ..common.errors import BusError, HostError
from ..common.keys import KeyPair
from ..common.messages import OLDEST, TO_MINION, VERSION, Bye, Hello, Welcome
from ..common.signing import Verifier
from .journal import Journal
from .line import Line, boot_ms
from .outbox import Outbox
from .settings import Settings
from .survey import survey
from .trust import Identity, MasterKeys, Trust

log = logging.getLogger("pgha.minion")

CONNECT_S, WELCOME_S = 15.0, 30.0  # among thousands that come back at once, one waits for its turn


class Farewell(BusError):
    """The master ended the line on purpose."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason)
        self.retry_after_s = min(bye.retry_after_ms / 1000, 60.0)


@dataclass(frozen=True)
class Greeter:
    """`welcomed` is told of each WELCOME that was good; `stopping` says whether the minion ends."""

    settings: Settings
    identity: Identity
    trust: Trust
    journal: Journal
    welcomed: Callable[[], None]
    stopping: Callable[[], bool]

    async def greet(self, dialer: Dialer, master: MasterKeys, mine: KeyPair) -> Line | None:
        """The line, once the master has said WELCOME; None when it did not in time, or refuses the key.

        Raises BusError when whoever answers is not to be obeyed, Farewell when the master wants to be left alone.
        """
        nonce = os.urandom(16)
        hello = await asyncio.to_thread(self._hello, nonce)
        began, sent, asked_ms = time.monotonic(), False, 0
        while time.monotonic() - began < (WELCOME_S if sent else CONNECT_S) and not self.stopping():
            if not sent:
                asked_ms, sent = boot_ms(), await dialer.send(encode(hello))
            if not sent and await dialer.refused():
                return None
            frames = await dialer.receive(0.1)
            if frames is None:
                continue
            message = decode(frames, TO_MINION)
            if isinstance(message, Bye):
                raise Farewell(message)
            if isinstance(message, Welcome):
                line = self.welcome(dialer, message, nonce, master, asked_ms)
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

    def welcome(self, dialer: Dialer, welcome: Welcome, nonce: bytes, master: MasterKeys, asked_ms: int) -> Line:
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
        self.welcomed()
        log.info("connected to the master as %s", welcome.name)
        outbox = Outbox(self.journal, welcome.hw, welcome.credit, welcome.credit_bytes)
        verifier = Verifier(signing, welcome.session)
        return Line(dialer, outbox, verifier, welcome.version, welcome.now_ms - asked_ms)
