"""Every message of the bus as a frozen model; the law is the protocol, and this is its closed list.

Rules:
1. No message names its sender: who a peer is, its key says.
2. No field is a path, a template or code to be looked up by name; names are checked patterns.
3. Unknown fields and types are refused.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from .facts import HostFacts
from .names import ClusterName, JobId, NodeName
from .telemetry import Sample

VERSION = 2  # what this side speaks
OLDEST = 1  # what it still understands: the version before
FETCH_WINDOW = 2  # chunks that may be on their way to one minion
CHUNK_BYTES = 128 * 1024
INLINE_BYTES = 64 * 1024  # a larger document is fetched
BLOB_BYTES = 1024**3  # of the largest file

Counter = Annotated[int, Field(ge=0, lt=2**63)]
ShortText = Annotated[str, Field(max_length=500)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # SHA-256
Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(max_length=64)]
JobClass = Literal["state", "call"]
Mode = Literal["plan", "apply", "call"]
EventKind = Literal["started", "res", "out", "done", "interrupted", "cancelled", "expired"]
RefuseReason = Literal[
    "expired", "stale_epoch", "bad_signature", "not_mine", "bad_document", "too_big", "busy", "unknown_type"
]


class Message(BaseModel):
    """`first`: the protocol version that brought the type; `since`: that of fields which came later than their type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    type: ClassVar[str]
    first: ClassVar[int] = 1
    since: ClassVar[dict[str, int]] = {}


# ---- enrolment port: any key may speak, nothing but this


class Enrol(Message):
    """minion -> master. `proof` is HMAC-SHA256(token, public key + name + nonce), empty without a token."""

    type: ClassVar[str] = "ENROL"
    name: NodeName
    machine_id: ShortText
    nonce: Annotated[bytes, Field(max_length=64)] = b""
    token_id: ShortText = ""
    proof: Annotated[bytes, Field(max_length=64)] = b""


class Enrolled(Message):
    """master -> minion: where the key stands now."""

    type: ClassVar[str] = "ENROLLED"
    state: Literal["pending", "accepted", "rejected", "revoked", "conflict"]
    reason: ShortText = ""
    retry_after_ms: Counter = 3000


# ---- bus port: accepted keys only


class OpenJob(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    jid: JobId
    att: Counter
    state: Literal["accepted", "started", "finished", "interrupted", "expired", "cancelled"]


class Hello(Message):
    """minion -> master, first on every connection. Events `spool_lo` to `spool_hi` are still held and can be sent.

    `speaks` is the newest version that the minion knows, and `nonce` what the master must sign in its WELCOME.
    """

    type: ClassVar[str] = "HELLO"
    since: ClassVar[dict[str, int]] = {"speaks": 2, "nonce": 2}
    epoch: ShortText
    spool_lo: Counter
    spool_hi: Counter
    acked: Counter
    mepoch: Counter  # the newest master it has obeyed
    open: tuple[OpenJob, ...] = ()
    facts: HostFacts
    speaks: Counter = 1
    nonce: Annotated[bytes, Field(max_length=64)] = b""


class Welcome(Message):
    """master -> minion: `hw` is the last event of this epoch that the master has stored.

    `now_ms` is the master's time, which deadlines are told in; with it, `signature` proves that this is now, and said
    by who holds the signing key. `version` is what both speak from here on, and `session` a key for this connection
    alone, made now: with it queries are authenticated.
    """

    type: ClassVar[str] = "WELCOME"
    since: ClassVar[dict[str, int]] = {"version": 2, "credit_bytes": 2, "signing_key": 2, "session": 2, "signature": 2}
    name: NodeName
    mepoch: Counter
    hw: Counter
    credit: Counter
    now_ms: Counter
    version: Counter = 1
    credit_bytes: Counter = 0
    signing_key: Annotated[bytes, Field(max_length=32)] = b""
    session: Annotated[bytes, Field(max_length=32, repr=False)] = b""
    signature: Signature = b""


class Job(Message):
    """master -> minion. A list of resources, or a call, as JSON; sent once more while not accepted.

    `document` is empty when it is to be fetched by its `sha256`.
    `query`: it only reads; it is answered by ANSWER, not journaled, and may be asked again.
    `signature` is made with the master's signing key, that of a query with the key of the session.
    """

    type: ClassVar[str] = "JOB"
    since: ClassVar[dict[str, int]] = {"minion": 2, "query": 2, "size": 2, "signature": 2}
    jid: JobId
    att: Counter
    minion: ShortText = ""
    mepoch: Counter
    cls: JobClass
    mode: Mode
    query: bool = False
    not_after_ms: Counter
    ttl_ms: Counter
    sha256: Digest
    size: Counter = 0
    document: bytes
    signature: Signature = b""


class Accept(Message):
    type: ClassVar[str] = "ACCEPT"
    jid: JobId
    att: Counter


class Refuse(Message):
    type: ClassVar[str] = "REFUSE"
    jid: JobId
    att: Counter
    why: RefuseReason
    detail: ShortText = ""


class Answer(Message):
    """minion -> master: what came of a query, the output and an Outcome as JSON. Asked again rather than kept."""

    type: ClassVar[str] = "ANSWER"
    first: ClassVar[int] = 2
    jid: JobId
    att: Counter
    out: tuple[tuple[Literal["stdout", "stderr"], str], ...] = ()
    outcome: bytes


class Fetch(Message):
    """minion -> master: send `count` chunks of it, from `offset` on. Only what a job of this minion names is given."""

    type: ClassVar[str] = "FETCH"
    first: ClassVar[int] = 2
    sha256: Digest
    offset: Annotated[int, Field(ge=0, le=BLOB_BYTES)]
    count: Annotated[int, Field(ge=1, le=FETCH_WINDOW)]


class Chunk(Message):
    """master -> minion: bytes of it, or `why` there are none."""

    type: ClassVar[str] = "CHUNK"
    first: ClassVar[int] = 2
    sha256: Digest
    offset: Counter
    data: Annotated[bytes, Field(max_length=CHUNK_BYTES)] = b""
    why: ShortText = ""


class Event(Message):
    """minion -> master, kept by the minion until acknowledged. `body` is JSON."""

    type: ClassVar[str] = "EV"
    epoch: ShortText
    seq: Annotated[int, Field(ge=1, lt=2**63)]
    jid: JobId
    att: Counter
    kind: EventKind
    body: bytes = b""


class Lost(Message):
    """minion -> master: it no longer holds the events `first_seq` to `last_seq`; the stream goes on after them."""

    type: ClassVar[str] = "LOST"
    first: ClassVar[int] = 2
    epoch: ShortText
    first_seq: Annotated[int, Field(ge=1, lt=2**63)]
    last_seq: Annotated[int, Field(ge=1, lt=2**63)]


class Ack(Message):
    """master -> minion: all events up to `seq` are stored. Sent only after the commit."""

    type: ClassVar[str] = "ACK"
    epoch: ShortText
    seq: Counter


class Resync(Message):
    """master -> minion: send again, starting with `from_seq`."""

    type: ClassVar[str] = "RESYNC"
    epoch: ShortText
    from_seq: Counter


class Credit(Message):
    """master -> minion: so much may be unacknowledged from now on."""

    type: ClassVar[str] = "CREDIT"
    first: ClassVar[int] = 2
    events: Counter
    bytes: Counter


class Telemetry(Message):
    """minion -> master: the newest sample; never kept, never sent again."""

    type: ClassVar[str] = "TEL"
    sample: Sample


class Running(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    jid: JobId
    att: Counter
    resource: ShortText
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Ping(Message):
    """minion -> master: alive, what runs here now, how much waits to be sent, and what is wrong with the minion."""

    type: ClassVar[str] = "PING"
    since: ClassVar[dict[str, int]] = {"spool": 2, "spool_bytes": 2, "trouble": 2}
    mono_ms: Counter
    running: tuple[Running, ...] = ()
    spool: Counter = 0
    spool_bytes: Counter = 0
    trouble: ShortText = ""


class Pong(Message):
    type: ClassVar[str] = "PONG"
    mono_ms: Counter


class Cancel(Message):
    type: ClassVar[str] = "CANCEL"
    jid: JobId
    att: Counter


class Sign(Message):
    """minion -> master: please sign this request. What goes into the certificate is the master's decision."""

    type: ClassVar[str] = "SIGN"
    request: Counter
    cluster: ClusterName
    name: ShortText
    csr: Annotated[str, Field(max_length=8192)]


class Signed(Message):
    """master -> minion: the certificate, or why not."""

    type: ClassVar[str] = "SIGNED"
    request: Counter
    certificate: str = ""
    why: ShortText = ""


class Rotate(Message):
    """master -> minion: make yourself a new key and tell its public half."""

    type: ClassVar[str] = "ROTATE"
    first: ClassVar[int] = 2


class NextKey(Message):
    """minion -> master: the public half of the key it will use from its next connection on."""

    type: ClassVar[str] = "NEXT_KEY"
    first: ClassVar[int] = 2
    public: Key


class NextKeyKnown(Message):
    """master -> minion: that key is accepted under your name; the old one is, until the new one has said HELLO."""

    type: ClassVar[str] = "NEXT_KEY_KNOWN"
    first: ClassVar[int] = 2
    public: Key


class Successor(Message):
    """master -> minion: the keys this master will have soon, signed with the signing key it has now."""

    type: ClassVar[str] = "SUCCESSOR"
    first: ClassVar[int] = 2
    server_key: Key
    signing_key: Key
    signature: Signature


class SuccessorKnown(Message):
    """minion -> master: the keys are written down here."""

    type: ClassVar[str] = "SUCCESSOR_KNOWN"
    first: ClassVar[int] = 2
    server_key: Key


class Bye(Message):
    """master -> minion: this connection ends on purpose."""

    type: ClassVar[str] = "BYE"
    reason: ShortText
    retry_after_ms: Counter = 1000


FROM_STRANGER: tuple[type[Message], ...] = (Enrol,)
TO_STRANGER: tuple[type[Message], ...] = (Enrolled,)
FROM_MINION: tuple[type[Message], ...] = (
    Hello, Accept, Refuse, Answer, Fetch, Event, Lost, Telemetry, Ping, Sign, NextKey, SuccessorKnown,
)  # fmt: skip
TO_MINION: tuple[type[Message], ...] = (
    Welcome, Job, Chunk, Ack, Resync, Credit, Pong, Cancel, Signed, Rotate, NextKeyKnown, Successor, Bye,
)  # fmt: skip
