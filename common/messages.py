"""Every message of the bus as a frozen model; the law is the protocol, and this is its closed list.

Rules:
1. No message names its sender: who a peer is, its key says.
2. No field is a path, a template or code to be looked up by name; names are checked patterns.
3. Unknown fields and types are refused.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from .facts import HostFacts
from .names import ClusterName, JobId, NodeName
from .telemetry import Sample

VERSION = 1

Counter = Annotated[int, Field(ge=0, lt=2**63)]
ShortText = Annotated[str, Field(max_length=500)]
JobClass = Literal["state", "call"]
EventKind = Literal["started", "res", "out", "done", "interrupted", "cancelled", "expired"]
RefuseReason = Literal["expired", "stale_epoch", "bad_document", "busy", "unknown_type"]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    type: ClassVar[str]


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
    """minion -> master, first on every connection. Events `spool_lo` to `spool_hi` are still held and can be sent."""

    type: ClassVar[str] = "HELLO"
    epoch: ShortText
    spool_lo: Counter
    spool_hi: Counter
    acked: Counter
    mepoch: Counter  # the newest master it has obeyed
    open: tuple[OpenJob, ...] = ()
    facts: HostFacts


class Welcome(Message):
    """master -> minion: `hw` is the last event of this epoch that the master has stored."""

    type: ClassVar[str] = "WELCOME"
    name: NodeName
    mepoch: Counter
    hw: Counter
    credit: Counter
    now_ms: Counter


class Job(Message):
    """master -> minion. `document` is JSON: a list of resources, or a call; sent once more while not accepted."""

    type: ClassVar[str] = "JOB"
    jid: JobId
    att: Counter
    mepoch: Counter
    cls: JobClass
    mode: Literal["plan", "apply", "call"]
    not_after_ms: Counter
    ttl_ms: Counter
    sha256: ShortText
    document: bytes


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


class Event(Message):
    """minion -> master, kept by the minion until acknowledged. `body` is JSON."""

    type: ClassVar[str] = "EV"
    epoch: ShortText
    seq: Annotated[int, Field(ge=1, lt=2**63)]
    jid: JobId
    att: Counter
    kind: EventKind
    body: bytes = b""


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
    """minion -> master: alive, and what runs here now."""

    type: ClassVar[str] = "PING"
    mono_ms: Counter
    running: tuple[Running, ...] = ()


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


class Bye(Message):
    """master -> minion: this connection ends on purpose."""

    type: ClassVar[str] = "BYE"
    reason: ShortText
    retry_after_ms: Counter = 1000


FROM_STRANGER: tuple[type[Message], ...] = (Enrol,)
TO_STRANGER: tuple[type[Message], ...] = (Enrolled,)
FROM_MINION: tuple[type[Message], ...] = (Hello, Accept, Refuse, Event, Telemetry, Ping, Sign)
TO_MINION: tuple[type[Message], ...] = (Welcome, Job, Ack, Resync, Pong, Cancel, Signed, Bye)
