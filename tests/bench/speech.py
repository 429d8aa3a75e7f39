"""What a simulated minion says, byte for byte as a real one would: the only part of the swarm that knows the protocol.

Rules:
1. Every message is made from the model in `common/messages` once, by `common/codec`; afterwards only its changing
   fields are put in. So the swarm follows the protocol, and costs little of the machine that it shares with the master.
2. What a minion keeps on its disk is kept here in memory, and the master's signatures are not checked: all minions
   share this machine with the master, and it is the master that is measured.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgpack
from pgha.common.codec import encode
from pgha.common.facts import HostFacts
from pgha.common.messages import (
    CHUNK_BYTES,
    FETCH_WINDOW,
    VERSION,
    Accept,
    Answer,
    Enrol,
    Event,
    Fetch,
    Hello,
    Message,
    Ping,
    Telemetry,
)
from pgha.common.names import new_job_id
from pgha.common.results import Outcome
from pgha.common.telemetry import HostSample, Sample

Frames = list[bytes]


@dataclass
class Download:
    """A file on its way to one minion."""

    jid: str
    att: int
    sha256: str
    size: int
    offset: int = 0  # of the window that was asked for
    got: int = 0  # bytes of it


@dataclass
class Mind:
    """What one minion remembers."""

    name: str
    epoch: str
    welcomed: bool = False
    credit: int = 0
    acked: int = 0
    sent: int = 0
    mepoch: int = 0
    seen: set[str] = field(default_factory=set)
    held: dict[str, int] = field(default_factory=dict)  # jobs that go on until they are told to end: id -> attempt
    file: Download | None = None
    stray: str = field(default_factory=new_job_id)  # a job of its own that this master has not ordered
    spool: deque[tuple[int, float, Frames]] = field(default_factory=deque)  # seq, since when, message; not acked yet
    rest_s: float | None = None  # the master said BYE: a new connection after that

    @property
    def last(self) -> int:
        return self.spool[-1][0] if self.spool else self.acked


class Speech(Protocol):
    """A language that minions of the swarm can speak."""

    def greet(self, mind: Mind) -> Frames: ...

    def beat(self, mind: Mind) -> Frames: ...

    def sample(self, mind: Mind) -> Frames: ...

    def knock(self, mind: Mind) -> Frames: ...

    def event(self, mind: Mind, size: int) -> None:
        """Something happened: into the spool with it."""

    def finish(self, mind: Mind) -> None:
        """What was held ends: its last event is in the spool."""

    def take(self, mind: Mind, frames: Frames) -> list[Frames]:
        """What is to be said at once to what the master said. The spool is sent by the caller, within the credit."""


class _Form:
    """A message with most fields filled in."""

    def __init__(self, message: Message) -> None:
        self._header = encode(message)[0]
        self._body = message.model_dump(mode="python")

    def frames(self, **changed: object) -> Frames:
        return [self._header, msgpack.packb({**self._body, **changed}, use_bin_type=True)]


class Pgha:
    """The protocol of `common/messages`, spoken as `minion/agent` does."""

    def __init__(self) -> None:
        jid, sha256 = new_job_id(), "0" * 64
        self._hello = _Form(Hello(epoch="e", spool_lo=1, spool_hi=0, acked=0, mepoch=0, facts=_facts(), speaks=VERSION))
        self._ping = _Form(Ping(mono_ms=0))
        self._sample = _Form(Telemetry(sample=_sample()))
        self._accept = _Form(Accept(jid=jid, att=1))
        self._answer = _Form(Answer(jid=jid, att=1, outcome=_PONG))
        self._fetch = _Form(Fetch(sha256=sha256, offset=0, count=FETCH_WINDOW))
        self._event = _Form(Event(epoch="e", seq=1, jid=jid, att=1, kind="out"))
        self._enrol = Enrol(name="n1", machine_id="bench")
        self._kinds: dict[bytes, str] = {}  # header -> type: the master sends the same few headers again and again

    def greet(self, mind: Mind) -> Frames:
        return self._hello.frames(
            epoch=mind.epoch,
            spool_lo=mind.acked + 1,
            spool_hi=mind.last,
            acked=mind.acked,
            mepoch=mind.mepoch,
            open=[{"jid": jid, "att": att, "state": "started"} for jid, att in mind.held.items()],
            nonce=os.urandom(16),
        )

    def beat(self, mind: Mind) -> Frames:
        return self._ping.frames(mono_ms=int(time.monotonic() * 1000), spool=len(mind.spool))

    def sample(self, mind: Mind) -> Frames:
        return self._sample.frames()

    def knock(self, mind: Mind) -> Frames:
        return encode(self._enrol.model_copy(update={"name": mind.name}))

    def event(self, mind: Mind, size: int) -> None:
        body = b'{"stream":"stdout","text":"' + b"x" * size + b'"}'
        self._spool(mind, jid=mind.stray, att=1, kind="out", body=body)

    def finish(self, mind: Mind) -> None:
        for jid, att in mind.held.items():
            self._spool(mind, jid=jid, att=att, kind="done", body=_PONG)
        mind.held.clear()

    def take(self, mind: Mind, frames: Frames) -> list[Frames]:
        kind, body = self._read(frames)
        if kind == "JOB":
            return self._order(mind, body)
        if kind == "CHUNK":
            return self._piece(mind, body)
        if kind == "ACK" and body["epoch"] == mind.epoch:
            mind.acked = max(mind.acked, body["seq"])
        elif kind == "RESYNC":
            mind.sent = max(mind.acked, body["from_seq"] - 1)
        elif kind == "CREDIT":
            mind.credit = body["events"]
        elif kind == "WELCOME":
            mind.welcomed, mind.mepoch, mind.credit = True, body["mepoch"], body["credit"]
            mind.acked = max(mind.acked, body["hw"])
            mind.sent = mind.acked
        elif kind == "BYE":
            mind.welcomed, mind.rest_s = False, body["retry_after_ms"] / 1000
        return []

    def _order(self, mind: Mind, job: dict[str, Any]) -> list[Frames]:
        """A query is answered at once; a file is fetched; any other job begins and goes on."""
        jid, att = job["jid"], job["att"]
        if job["query"]:
            return [self._answer.frames(jid=jid, att=att)]
        answers = [self._accept.frames(jid=jid, att=att)]
        if jid not in mind.seen:
            mind.seen.add(jid)
            self._spool(mind, jid=jid, att=att, kind="started", body=b"{}")
            blob = json.loads(job["document"]).get("blob")
            if blob:
                mind.file = Download(jid, att, blob["sha256"], blob["size"])
                answers.append(self._fetch.frames(sha256=mind.file.sha256, offset=0))
            else:
                mind.held[jid] = att
        return answers

    def _piece(self, mind: Mind, chunk: dict[str, Any]) -> list[Frames]:
        file = mind.file
        if file is None or chunk["sha256"] != file.sha256 or chunk["why"]:
            return []
        file.got += len(chunk["data"])
        if file.offset + file.got >= file.size:
            self._spool(mind, jid=file.jid, att=file.att, kind="done", body=_PONG)
            mind.file = None
        elif file.got >= FETCH_WINDOW * CHUNK_BYTES:
            file.offset, file.got = file.offset + file.got, 0
            return [self._fetch.frames(sha256=file.sha256, offset=file.offset)]
        return []

    def _spool(self, mind: Mind, **fields: object) -> None:
        seq = mind.last + 1
        frames = self._event.frames(epoch=mind.epoch, seq=seq, **fields)
        mind.spool.append((seq, time.monotonic(), frames))

    def _read(self, frames: Frames) -> tuple[str, dict[str, Any]]:
        header = frames[0]
        if header not in self._kinds:
            self._kinds[header] = msgpack.unpackb(header)["t"]
        body: dict[str, Any] = msgpack.unpackb(frames[1])
        return self._kinds[header], body


class Bare:
    """No protocol at all: an answer of `size` bytes to whatever comes. The floor speaks it."""

    def __init__(self, size: int) -> None:
        self._answer = b"a" * size

    def greet(self, mind: Mind) -> Frames:
        return [b"H", mind.name.encode()]

    def beat(self, mind: Mind) -> Frames:
        return []

    sample = knock = beat

    def finish(self, mind: Mind) -> None:
        pass

    def event(self, mind: Mind, size: int) -> None:
        seq = mind.last + 1
        mind.spool.append((seq, time.monotonic(), [b"E%d" % seq, b"x" * size]))

    def take(self, mind: Mind, frames: Frames) -> list[Frames]:
        if frames[0] == b"W":
            mind.welcomed, mind.credit = True, 256
            mind.sent = mind.acked
        elif frames[0].startswith(b"K"):
            mind.acked = max(mind.acked, int(frames[0][1:]))
        elif frames[0] == b"J":
            return [[b"A", self._answer]]
        elif frames[0] == b"D":  # the last piece of a window
            return [[b"N", b""]]
        return []


_PONG = Outcome(ok=True, exit_code=0, data={"pong": True}, seconds=0.0001).model_dump_json().encode()


def _facts() -> HostFacts:
    """A host like those that pgha is for."""
    return HostFacts(
        hostname="bench",
        machine_id="0" * 32,
        boot_id="0" * 32,
        os_id="debian",
        os_version="13",
        os_codename="trixie",
        architecture="amd64",
        kernel="6.12.0-1-amd64",
        python="3.13.5",
        cpus=8,
        memory_bytes=32 << 30,
        disk_free_bytes=400 << 30,
        container=False,
        virtualization="kvm",
        addresses=("10.0.0.1", "fd00::1"),
        pgha_version="0.1.0",
    )


def _sample() -> Sample:
    host = HostSample(
        cpu_percent=3.0, load1=0.2, memory_percent=20.0, disk_percent=10.0, disk_free_bytes=1, uptime_s=9.0
    )
    return Sample(at=time.time(), host=host, units={"patroni": "active", "etcd": "active"})
