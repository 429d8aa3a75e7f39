"""One process that plays many minions: a socket, a key and a memory each, one loop for all.

    swarm.py  <  one line of JSON that describes it, then orders, one JSON line each; answers come on stdout

Rules:
1. It behaves on the line as `minion/agent.py` does: HELLO first, a beat and a sample every 5 s, a new connection after
   BYE, after silence, and, by way of the enrolment port, when there is no WELCOME in time.
2. What it says is `speech.py`'s.
3. It ends when its stdin does.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import select
import sys
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pgha.common.bus.options import minion_socket
from pgha.common.keys import KeyPair
from pgha.minion.agent import PING_S, SILENCE_S
from pgha.minion.enrol import ANSWER_S
from pgha.minion.greeting import WELCOME_S
from pgha.tests.bench.machine import raise_file_limit
from pgha.tests.bench.speech import Bare, Frames, Mind, Pgha, Speech

SAMPLE_S = 5.0
TICK_S = 0.005


def keys_of(name: str) -> KeyPair:
    """The key of a simulated minion: the same for the swarm and for who accepts it."""
    private = X25519PrivateKey.from_private_bytes(hashlib.sha256(f"bench {name}".encode()).digest())
    return KeyPair(private.public_key().public_bytes_raw(), private.private_bytes_raw())


@dataclass
class Minion:
    mind: Mind
    keys: KeyPair
    socket: zmq.Socket[bytes] | None = None
    fd: int = -1
    stage: str = "away"  # away, greeting, welcomed, knocking
    greeted: bool = False
    heard: float = 0.0
    since: float = 0.0
    acked_at_beat: int = -1
    generation: int = 0  # of the socket; timers of an older one are void


class Swarm:
    def __init__(self, about: dict[str, Any]) -> None:
        self._speech: Speech = Pgha() if about["speech"] == "pgha" else Bare(about["size"])
        self._bus, self._door = about["bus"], about["door"]
        self._server = bytes.fromhex(about["server"])
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 2 * len(about["names"]) + 64)
        epoch = about["epoch"]
        self.minions = [Minion(Mind(name, epoch), keys_of(name)) for name in about["names"]]
        self._poll = select.epoll()
        self._by_fd: dict[int, Minion] = {}
        self._timers: list[tuple[float, int, int, str]] = []  # due, minion, generation, what
        self._dirty: set[int] = set()
        self._index = {id(minion): number for number, minion in enumerate(self.minions)}
        self.welcomes = self.answers = self.jobs = self.events = self.acknowledged = 0
        self.bytes_in = self.bytes_out = 0
        self.delays: list[float] = []  # seconds from an event to its acknowledgement
        self._rate, self._size, self._until, self._owed, self._next = 0.0, 200, 0.0, 0.0, 0

    # ---- lines

    def connect(self, minion: Minion, *, door: bool = False) -> None:
        self.disconnect(minion)
        minion.socket = minion_socket(self._context.socket(zmq.DEALER), self._server, minion.keys)
        minion.socket.connect(f"tcp://{self._door if door else self._bus}")
        minion.fd = int(minion.socket.getsockopt(zmq.FD))
        minion.stage, minion.greeted, minion.since = "knocking" if door else "greeting", False, time.monotonic()
        minion.heard = minion.since
        minion.generation += 1
        minion.mind.welcomed, minion.mind.rest_s = False, None
        self._by_fd[minion.fd] = minion
        self._poll.register(minion.fd, select.EPOLLIN)
        self._later(minion, ANSWER_S if door else WELCOME_S, "patience")
        self._dirty.add(self._index[id(minion)])

    def disconnect(self, minion: Minion) -> None:
        if minion.socket is not None:
            self._poll.unregister(minion.fd)
            del self._by_fd[minion.fd]
            minion.socket.close(0)
            minion.socket, minion.stage = None, "away"

    def _later(self, minion: Minion, seconds: float, what: str) -> None:
        entry = (time.monotonic() + seconds, self._index[id(minion)], minion.generation, what)
        heapq.heappush(self._timers, entry)

    def _say(self, minion: Minion, frames: Frames) -> bool:
        if not frames or minion.socket is None:
            return True
        try:
            for frame in frames[:-1]:  # send_multipart() costs three times as much
                minion.socket.send(frame, zmq.SNDMORE | zmq.NOBLOCK)
            minion.socket.send(frames[-1], zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.bytes_out += sum(map(len, frames))
        return True

    def _touch(self, minion: Minion) -> None:
        """All that can be done on a line now. A send may swallow the sign that something came: so hear afterwards."""
        while minion.socket is not None:
            if minion.stage in ("greeting", "knocking") and not minion.greeted:
                words = self._speech.greet if minion.stage == "greeting" else self._speech.knock
                minion.greeted = self._say(minion, words(minion.mind))
            elif minion.stage == "welcomed":
                self._send_spool(minion)
            if not self._hear(minion):
                return

    def _hear(self, minion: Minion) -> bool:
        """False when nothing more has come."""
        heard = False
        while minion.socket is not None:
            try:
                frames = [minion.socket.recv(zmq.NOBLOCK)]
            except zmq.Again:
                return heard
            while minion.socket.get(zmq.RCVMORE):
                frames.append(minion.socket.recv(zmq.NOBLOCK))
            heard = True
            minion.heard = time.monotonic()
            self._take(minion, frames)
        return False

    def _take(self, minion: Minion, frames: Frames) -> None:
        mind = minion.mind
        if minion.stage == "knocking":
            self.connect(minion)
            return
        for answer in self._speech.take(mind, frames):
            self._say(minion, answer)
            self.jobs += 1
            self.bytes_in += sum(map(len, frames))
        if mind.rest_s is not None:
            self.disconnect(minion)
            self._later(minion, random.uniform(0.5, 1.0) * mind.rest_s, "connect")
        elif mind.welcomed and minion.stage == "greeting":
            minion.stage = "welcomed"
            self.welcomes += 1
            self._later(minion, random.uniform(0, PING_S), "beat")
            self._later(minion, random.uniform(0, SAMPLE_S), "sample")
        while mind.spool and mind.spool[0][0] <= mind.acked:
            self.delays.append(minion.heard - mind.spool.popleft()[1])
            self.acknowledged += 1

    def _send_spool(self, minion: Minion) -> None:
        mind = minion.mind
        if mind.sent >= mind.last:
            return
        first = mind.spool[0][0]
        room = islice(mind.spool, mind.sent + 1 - first, mind.acked + mind.credit + 1 - first)
        for seq, _, frames in list(room):
            if not self._say(minion, frames):
                return
            mind.sent = seq

    # ---- time

    def _timer(self, minion: Minion, what: str) -> None:
        now = time.monotonic()
        if what == "connect":
            self.connect(minion)
        elif not self._door:
            return  # the floor says nothing by itself, so its silence means nothing
        elif what == "patience":
            if minion.stage == "greeting":
                self.connect(minion, door=True)
            elif minion.stage == "knocking":
                self.connect(minion)
        elif now - minion.heard > SILENCE_S:
            self.connect(minion)
        elif what == "beat":
            self._say(minion, self._speech.beat(minion.mind))
            if minion.acked_at_beat == minion.mind.acked < minion.mind.sent:
                minion.mind.sent = minion.mind.acked  # a whole beat without an acknowledgement: once more
            minion.acked_at_beat = minion.mind.acked
            self._later(minion, PING_S, "beat")
        else:
            self._say(minion, self._speech.sample(minion.mind))
            self._later(minion, SAMPLE_S, "sample")
        self._dirty.add(self._index[id(minion)])

    def _make_events(self, elapsed: float) -> None:
        self._owed += self._rate * elapsed
        for _ in range(int(self._owed)):
            number = self._next = (self._next + 1) % len(self.minions)
            self._speech.event(self.minions[number].mind, self._size)
            self.events += 1
            self._dirty.add(number)
        self._owed -= int(self._owed)

    def run(self) -> None:
        orders = sys.stdin.fileno()
        self._poll.register(orders, select.EPOLLIN)
        last = time.monotonic()
        while True:
            now = time.monotonic()
            busy = now < self._until
            if busy:
                self._make_events(now - last)
            last = now
            while self._timers and self._timers[0][0] <= now:
                _, number, generation, what = heapq.heappop(self._timers)
                if generation == self.minions[number].generation:
                    self._timer(self.minions[number], what)
            dirty, self._dirty = self._dirty, set()
            for number in dirty:
                self._touch(self.minions[number])
            due = self._timers[0][0] - time.monotonic() if self._timers else 1.0
            wait = 0.0 if self._dirty else max(0.0, min(due, TICK_S if busy else 1.0))
            for fd, _ in self._poll.poll(wait):
                if fd == orders:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    print(json.dumps(self._order(json.loads(line))), flush=True)
                elif fd in self._by_fd:
                    self._touch(self._by_fd[fd])

    # ---- orders

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["do"] == "connect":
            for minion in self.minions:
                self.connect(minion)
        elif order["do"] == "spool":
            for minion in self.minions:
                self._speech.event(minion.mind, order["size"])
                self.events += 1
        elif order["do"] == "finish":
            for minion in self.minions:
                self._speech.finish(minion.mind)
                self._dirty.add(self._index[id(minion)])
        elif order["do"] == "rate":
            self._rate, self._size = order["per_s"], order["size"]
            self._until = time.monotonic() + order["seconds"]
            self._owed, self.delays = 0.0, []
        elif order["do"] == "reset":
            self.welcomes = self.jobs = self.bytes_in = self.bytes_out = 0
        elif order["do"] == "delays":
            step = max(1, len(self.delays) // 20_000)
            return {"delays": self.delays[::step]}
        return {
            "welcomed": sum(minion.stage == "welcomed" for minion in self.minions),
            "greeted": sum(minion.greeted for minion in self.minions),
            "welcomes": self.welcomes,
            "jobs": self.jobs,
            "events": self.events,
            "acknowledged": self.acknowledged,
            "held": sum(len(minion.mind.held) for minion in self.minions),
            "waiting": sum(len(minion.mind.spool) for minion in self.minions),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }


def main() -> None:
    raise_file_limit()
    swarm = Swarm(json.loads(sys.stdin.readline()))
    print("{}", flush=True)
    swarm.run()


if __name__ == "__main__":
    main()
