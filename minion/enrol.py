"""Ask a master to take this host in. The key is made here; what travels is its public half, inside CURVE itself."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path

from ..common.bus import Dialer
from ..common.codec import decode, encode
from ..common.errors import UserError
from ..common.keys import KeyPair
from ..common.messages import TO_STRANGER, Enrol, Enrolled
from .settings import Settings

ANSWER_S = 3.0


async def ask(settings: Settings, keys: KeyPair, answer_s: float = ANSWER_S, server: bytes = b"") -> Enrolled | None:
    """Where this key stands at the master; None when nobody answered in time.

    `server` is the master's key when it is not the one that this host was enrolled with any more.
    """
    token_id, proof, nonce = "", b"", os.urandom(16)
    if settings.token:
        token_id, _, secret = settings.token.partition(".")
        proof = token_proof(secret, keys.public, settings.name, nonce)
    request = Enrol(name=settings.name, machine_id=machine_id(), nonce=nonce, token_id=token_id, proof=proof)
    dialer = Dialer(settings.enrol_address, server or settings.server_key, keys)
    try:
        deadline, sent = time.monotonic() + answer_s, False
        while time.monotonic() < deadline:
            sent = sent or await dialer.send(encode(request))
            frames = await dialer.receive(0.1)
            if frames is not None:
                answer = decode(frames, TO_STRANGER)
                assert isinstance(answer, Enrolled)
                return answer
    finally:
        dialer.close()
    return None


def token_proof(secret: str, public: bytes, name: str, nonce: bytes) -> bytes:
    """Proof of holding the token, bound to this key and name: the token itself is never sent."""
    return hmac.new(secret.encode(), b"pgha-enrol:" + public + name.encode() + nonce, hashlib.sha256).digest()


def machine_id() -> str:
    """systemd's machine id. Raises UserError where there is none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        raise UserError("/etc/machine-id is missing; run systemd-machine-id-setup") from None
