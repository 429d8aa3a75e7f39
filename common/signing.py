"""What a master signs, so that a minion obeys nobody who merely sits where its master should be.

The signing key is Ed25519 and apart from the CURVE key: who stole the one cannot order with it. What is signed is a
fixed word and a msgpack list of every field that matters, so no signature of one kind is one of another.

Rules:
1. A job is for one minion, one attempt, one document, until one deadline, of one run of the master.
2. A WELCOME is for one minion and holds the nonce of the HELLO it answers: the master's time in it is of this moment.
3. The next keys of a master are signed with the key it has.
4. A query only reads, and many are asked at once, so it is authenticated with the key of its session instead: that came
   in a signed WELCOME, which no one but its minion can read, and costs a hundredth. Nothing else is taken with it.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .keys import load_private
from .messages import Job, Successor, Welcome


class Signer:
    """Signs with the private key in a file of its owner's; made when there is none. Raises UserError as `keys` does."""

    def __init__(self, path: Path) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(load_private(path))
        self.public = self._key.public_key().public_bytes_raw()

    def job(self, job: Job, session: bytes = b"") -> Job:
        """`session` is the key of the connection that it goes out on."""
        return self.job_now(job, session, job.ttl_ms, job.document)

    def job_now(self, job: Job, session: bytes, ttl_ms: int, document: bytes) -> Job:
        """As it is sent now: with so much time left, and with its document or without."""
        text = _job(job, ttl_ms)
        signature = _code(text, session) if job.query and session else self._key.sign(text)
        return job.model_copy(update={"ttl_ms": ttl_ms, "document": document, "signature": signature})

    def welcome(self, welcome: Welcome, nonce: bytes) -> Welcome:
        named = welcome.model_copy(update={"signing_key": self.public})
        return named.model_copy(update={"signature": self._key.sign(_welcome(named, nonce))})

    def successor(self, server_key: bytes, signing_key: bytes) -> Successor:
        bare = Successor(server_key=server_key, signing_key=signing_key, signature=b"")
        return bare.model_copy(update={"signature": self._key.sign(_successor(bare))})


class Verifier:
    """Knows one signing key, and that of a session. Each method is True when these signed exactly this."""

    def __init__(self, public: bytes, session: bytes = b"") -> None:
        self._key, self._session = Ed25519PublicKey.from_public_bytes(public), session

    def job(self, job: Job) -> bool:
        text = _job(job, job.ttl_ms)
        if job.query and self._session:
            return hmac.compare_digest(job.signature, _code(text, self._session))
        return self._good(job.signature, text)

    def welcome(self, welcome: Welcome, nonce: bytes) -> bool:
        return self._good(welcome.signature, _welcome(welcome, nonce))

    def successor(self, successor: Successor) -> bool:
        return self._good(successor.signature, _successor(successor))

    def _good(self, signature: bytes, text: bytes) -> bool:
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


def _job(job: Job, ttl_ms: int) -> bytes:
    fields = (job.jid, job.att, job.minion, job.mepoch, job.cls, job.mode, job.query, job.not_after_ms, ttl_ms)
    return _text(b"pgha job", *fields, job.sha256, job.size)


def _code(text: bytes, session: bytes) -> bytes:
    return hashlib.blake2b(text, key=session, digest_size=32, person=b"pgha query").digest()


def _welcome(welcome: Welcome, nonce: bytes) -> bytes:
    fields = (welcome.mepoch, welcome.now_ms, welcome.version, welcome.hw, welcome.credit, welcome.credit_bytes)
    return _text(b"pgha welcome", nonce, welcome.name, *fields, welcome.signing_key, welcome.session)


def _successor(successor: Successor) -> bytes:
    return _text(b"pgha successor", successor.server_key, successor.signing_key)


def _text(word: bytes, *fields: object) -> bytes:
    packed: bytes = msgpack.packb([word, *fields], use_bin_type=True)
    return packed
