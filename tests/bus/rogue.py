"""A master played by a test: it has the true one's CURVE key, and whatever else the test gives it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgha.common.bus import Admission, Received, Router
from pgha.common.codec import decode, encode
from pgha.common.keys import load_or_create
from pgha.common.messages import FROM_MINION, VERSION, Hello, Job, Message, Welcome
from pgha.common.names import new_job_id
from pgha.common.paths import Paths
from pgha.common.signing import Signer
from pgha.master.setup import curve_key_path, signing_key_path
from pgha.tests.bus.conftest import until
from pgha.tests.bus.ports import another_port_pair
from pgha.tests.bus.quick import EFFECT, Site

Greet = Callable[[Hello], Welcome | None]


class Rogue:
    """Answers HELLO with `greet`; what it has heard is in `heard`."""

    def __init__(self, site: Site) -> None:
        root = Paths(site.master.root)
        self.site, self.port = site, another_port_pair()
        self.signer, self.epoch, self.session = Signer(signing_key_path(root)), 2**30, os.urandom(32)
        self.heard: list[Message] = []
        self.now_ms: Callable[[], int] = lambda: int(time.time() * 1000)
        self.greet: Greet = self.true_welcome
        self._route = b""
        self._lock = threading.Lock()
        admission = Admission(lambda key: "n1", lambda peer: True)
        keys = load_or_create(curve_key_path(root))
        self._router = Router(f"tcp://127.0.0.1:{self.port}", keys, "bus", admission, self._take)
        self._router.start()

    def _take(self, batch: list[Received]) -> None:
        for received in batch:
            message = decode(received.frames, FROM_MINION)
            with self._lock:
                self.heard.append(message)
            if isinstance(message, Hello):
                self._route = received.route
                welcome = self.greet(message)
                if welcome is not None:
                    self.say(welcome)

    def welcome(self, **changed: Any) -> Welcome:
        values: dict[str, Any] = {
            "name": "n1",
            "mepoch": self.epoch,
            "hw": 0,
            "credit": 100,
            "credit_bytes": 10**6,
            "now_ms": self.now_ms(),
            "version": VERSION,
            "session": self.session,
        }
        return Welcome(**{**values, **changed})

    def true_welcome(self, hello: Hello) -> Welcome:
        return self.signer.welcome(self.welcome(), hello.nonce)

    def say(self, message: Message, version: int = VERSION) -> None:
        self._router.send("n1", self._route, encode(message, version))

    def job(self, script: str = EFFECT, **changed: Any) -> Job:
        """One that leaves an effect; not signed."""
        token, now = self.site.token(), self.now_ms()
        words = f": {token}; " + script.format(token=token, effects=self.site.effects)
        call = {"function": "cmd", "arguments": ["sh", "-c", words], "timeout_s": 30.0}
        text = json.dumps(call).encode()
        values: dict[str, Any] = {
            "jid": new_job_id(),
            "att": 1,
            "minion": "n1",
            "mepoch": self.epoch,
            "cls": "call",
            "mode": "call",
            "not_after_ms": now + 60_000,
            "ttl_ms": 60_000,
            "sha256": hashlib.sha256(text).hexdigest(),
            "size": len(text),
            "document": text,
        }
        return Job(**{**values, **changed})

    def answer(self, job: Job) -> Message:
        """Send it; the ACCEPT or REFUSE to it."""
        with self._lock:
            before = len(self.heard)
        self.say(job)
        answer: Message = until("an answer", lambda: self._answered(job, before))
        return answer

    def _answered(self, job: Job, since: int) -> Message | None:
        with self._lock:
            found = [m for m in self.heard[since:] if m.type in ("ACCEPT", "REFUSE") and vars(m)["jid"] == job.jid]
        return found[0] if found else None

    def of(self, kind: str) -> list[Message]:
        with self._lock:
            return [message for message in self.heard if message.type == kind]

    def close(self) -> None:
        self._router.close()


def foreign_signer(folder: Path) -> Signer:
    """Somebody else's signing key."""
    return Signer(folder / f"foreign-{os.urandom(4).hex()}.key")
