"""The master's end of the bus: one CURVE ROUTER with its ZAP handler, in one thread of its own.

Rules it keeps, each of which was broken by somebody once:
1. A ROUTER never serves without its ZAP handler: the handler is bound first, in the same thread, the domain is
   enforced, and a self-test with a random key must be refused before `start` returns.
2. A peer is the User-Id that ZAP gave to its key; the routing id is only where to send. Who chooses one is cut.
3. Every frame in and out is checked against the live admission, so a revoked peer is deaf and mute at once.
4. No send ever blocks, no socket lingers. What must not be lost is in the caller's spool.
5. The thread of a ROUTER never ends silently: whoever serves through it is told, and must end, too.
6. What was read and not dealt with yet is bounded: beyond that nothing is read, and TCP makes the senders wait.
   MAXMSGSIZE bounds a part, and a message may have any number of them: see `wires`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import zmq

from ..errors import BusError
from ..keys import KeyPair, new_key_pair
from .options import HANDSHAKE_MS, MAX_FRAME, common_options, minion_socket
from .wires import Wires
from .zap import ENFORCE_DOMAIN, Zap

log = logging.getLogger("pgha.bus")

_BATCH = 500
_AHEAD = 4 * 1024 * 1024  # bytes that are read before those before them are dealt with
_MESSAGE = 2048  # bytes that a message counts for beside its frames: it takes time, too
_LARGE = 64 * 1024  # bytes of a frame that is not copied once more on its way out
_UNFINISHED = 2 * _AHEAD  # bytes that a peer may send of a message that is not whole; much more than it has credit for
_LOOK_S = 0.05  # 200 connections each time; how long a message without end may fill memory, at the speed of its line


class Received(NamedTuple):
    """`size`: bytes that it keeps in memory; also a message of nothing costs something."""

    peer: str
    route: bytes
    address: str
    frames: list[bytes]
    size: int


@dataclass(frozen=True)
class Admission:
    """Who may speak. Both are called from the IO thread and must only read.

    `admit(public key) -> peer or None` at the handshake; `still(peer) -> bool` on every frame. A peer must be another
    one for another key: a revoked key's connection lives on, and must not be taken for its successor's.
    """

    admit: Callable[[bytes], str | None]
    still: Callable[[str], bool]


class Router:
    """One CURVE ROUTER with its ZAP handler, in one thread of its own (5x the throughput of an asyncio socket)."""

    def __init__(
        self,
        address: str,
        keys: KeyPair,
        domain: str,
        admission: Admission,
        deliver: Callable[[list[Received]], None],
        *,
        max_frame: int = MAX_FRAME,
        queue: int = 64,
        unfinished: int = _UNFINISHED,
        gone: Callable[[bytes], None] = lambda route: None,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        """`deliver` is called from the IO thread; `taken` must be told of every batch when it has been dealt with.

        `unfinished`: bytes that a connection may send without a whole message coming of them.

        `gone(route)` is called, from the IO thread, when a connection turned out to be no more.

        `died()` is called from that thread when it ends without having been asked to: nothing is served any more.
        """
        self._gone, self._died = gone, died
        self._address, self._keys, self._domain = address, keys, domain.encode()
        self._admission, self._deliver = admission, deliver
        self._max_frame, self._queue = max_frame, queue
        self._outbox: deque[tuple[str, bytes, list[bytes]]] = deque()
        self._awake = False  # the thread has been told of what is in the outbox
        self._kicks: deque[bytes] = deque()
        self._barred: deque[str] = deque()
        self._wires = Wires(unfinished)
        self._looked = 0.0
        self._given = self._taken = 0  # bytes; the first is only written by the IO thread, the second only by `taken`
        self._context = zmq.Context()
        self._wake_address = f"inproc://wake-{id(self)}"
        self._waker: zmq.Socket[bytes] | None = None
        self._waker_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"bus-{domain}", daemon=True)
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self.port = 0
        self.turned = 0.0  # monotonic; the thread went round its loop then

    def start(self) -> None:
        """Bind and serve. Raises BusError when the address is taken or the self-test finds the door open."""
        self._thread.start()
        self._ready.wait(10)
        if self._failure is not None:
            raise self._failure
        self._waker = self._context.socket(zmq.PUSH)
        self._waker.setsockopt(zmq.LINGER, 0)
        self._waker.connect(self._wake_address)
        self._wake(b"")  # for what was sent before there was anything to wake the thread with
        self._self_test()

    def send(self, peer: str, route: bytes, frames: list[bytes], *, farewell: bool = False) -> None:
        """Queue for sending from any thread; dropped when the peer is gone, or no longer admitted.

        A `farewell` goes out all the same: it tells a revoked peer that it is.
        """
        self._outbox.append((peer if not farewell else "", route, frames))
        if not self._awake:
            self._awake = True
            self._wake(b"")

    def kick(self, route: bytes) -> None:
        """Cut that connection, from any thread, after what is queued for it. It may come back, and is judged anew."""
        self._kicks.append(route)
        self._wake(b"")

    def bar(self, peer: str) -> None:
        """Cut every connection of that peer, from any thread; for who is no longer admitted."""
        self._barred.append(peer)
        self._wake(b"")

    def taken(self, batch: list[Received]) -> None:
        """That batch has been dealt with. Always called from the same thread."""
        full = self._full()
        self._taken += sum(received.size for received in batch)
        if full:
            self._wake(b"")

    def _full(self) -> bool:
        return self._given - self._taken > _AHEAD

    def close(self) -> None:
        self._wake(b"stop")
        if self._thread.ident is not None:  # else it was never started
            self._thread.join(5)
        if self._waker is not None:
            self._waker.close(0)
        self._context.destroy(0)

    def _wake(self, word: bytes) -> None:
        with self._waker_lock:
            if self._waker is not None:
                try:
                    self._waker.send(word, zmq.NOBLOCK)
                except zmq.Again:
                    pass  # the thread is awake already

    def _run(self) -> None:
        try:
            self._zap = Zap(self._context, self._domain, self._admission.admit)
            wake = self._context.socket(zmq.PULL)
            wake.bind(self._wake_address)
            router, accepted = self._bind_router()
        except zmq.ZMQError as error:
            self._failure = BusError(f"cannot listen on {self._address}: {error}")
            self._ready.set()
            return
        self._ready.set()
        try:
            self._turn(wake, router, accepted)
        except Exception:
            log.exception("the thread of the bus on %s broke", self._address)
            self._died()
        router.close(200)  # milliseconds for the farewells that were just queued
        for one in (self._zap.socket, wake, accepted):
            one.close(0)

    def _turn(self, wake: zmq.Socket[bytes], router: zmq.Socket[bytes], accepted: zmq.Socket[bytes]) -> None:
        zap = self._zap.socket
        busy, poller = zmq.Poller(), zmq.Poller()
        for one in (zap, wake, accepted):
            busy.register(one, zmq.POLLIN)
        for one in (zap, wake, accepted, router):
            poller.register(one, zmq.POLLIN)
        running = True
        while running:
            ready = dict((busy if self._full() else poller).poll(int(_LOOK_S * 1000)))
            self.turned = time.monotonic()
            if zap in ready:
                self._zap.answer()
            if wake in ready:
                running = self._drain_wake(wake)
                self._awake = False  # before the outbox is emptied: who adds to it now wakes this thread again
                self._flush(router)
                self._cut_off()
            if accepted in ready:
                self._take_in(accepted)
            if router in ready:
                self._drain(router)
            if self.turned - self._looked > _LOOK_S:
                self._look()

    def _cut_off(self) -> None:
        while self._kicks:
            self._wires.cut(self._kicks.popleft())
        while self._barred:
            for route in self._wires.of(self._barred.popleft()):
                self._wires.cut(route)

    def _take_in(self, accepted: zmq.Socket[bytes]) -> None:
        """Connections that libzmq tells of: with these descriptors."""
        with contextlib.suppress(zmq.Again):
            for _ in range(_BATCH):
                about, _address = accepted.recv_multipart(zmq.NOBLOCK)
                self._wires.accepted(int.from_bytes(about[2:6], sys.byteorder), self.port)

    def _look(self) -> None:
        self._looked = self.turned
        if cut := self._wires.look():
            where = ", ".join(sorted(set(cut))[:3])
            log.warning("cut %d connections that sent without end and said nothing; from %s", len(cut), where)

    def _bind_router(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """The socket, and one that tells of connections which come in; no queue of that has an end, or libzmq waits."""
        router = self._context.socket(zmq.ROUTER)
        common_options(router)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.SNDHWM, self._queue)
        router.setsockopt(zmq.RCVHWM, max(4, self._queue // 4))  # messages of one peer, each up to `max_frame`
        router.setsockopt(zmq.MAXMSGSIZE, self._max_frame)
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        router.setsockopt(zmq.BACKLOG, 4096)
        router.setsockopt(zmq.ZAP_DOMAIN, self._domain)
        router.setsockopt(ENFORCE_DOMAIN, 1)
        router.curve_server = True
        router.curve_secretkey = self._keys.private
        router.curve_publickey = self._keys.public
        address = f"inproc://accepted-{id(self)}"
        router.monitor(address, zmq.EVENT_ACCEPTED)
        accepted = self._context.socket(zmq.PAIR)
        accepted.setsockopt(zmq.RCVHWM, 0)
        accepted.connect(address)
        router.bind(self._address)
        self.port = int(router.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
        return router, accepted

    def _drain_wake(self, wake: zmq.Socket[bytes]) -> bool:
        while True:
            try:
                if wake.recv(zmq.NOBLOCK) == b"stop":
                    return False
            except zmq.Again:
                return True

    def _flush(self, router: zmq.Socket[bytes]) -> None:
        while self._outbox:
            peer, route, frames = self._outbox.popleft()
            if peer and not self._admission.still(peer):
                continue
            try:
                router.send(route, zmq.SNDMORE | zmq.NOBLOCK)  # send_multipart() costs three times as much
                for frame in frames[:-1]:
                    router.send(frame, zmq.SNDMORE | zmq.NOBLOCK)
                router.send(frames[-1], zmq.NOBLOCK, copy=len(frames[-1]) < _LARGE)
            except (zmq.Again, zmq.ZMQError) as error:
                log.debug("not sent to %s: %s", peer, error)
                if error.errno == zmq.EHOSTUNREACH:
                    self._wires.forget(route)
                    self._gone(route)

    def _drain(self, router: zmq.Socket[bytes]) -> None:
        batch: list[Received] = []
        room = _AHEAD
        while len(batch) < _BATCH and room > 0:
            try:
                route = router.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            parts = [router.recv(zmq.NOBLOCK, copy=False)]
            while parts[-1].more:
                parts.append(router.recv(zmq.NOBLOCK, copy=False))
            peer = str(parts[-1].get("User-Id"))
            address, admitted = self._wires.said(route), _given_here(route) and self._admission.still(peer)
            if address is None:
                address = str(parts[-1].get("Peer-Address")).removeprefix("::ffff:")
                with contextlib.suppress(ValueError, zmq.ZMQError):
                    self._wires.learn(route, peer, address, int(parts[-1].get("__fd")))
                if not admitted:  # its peer was turned out before it said anything, or has chosen this route itself
                    self._wires.cut(route)
            if admitted:
                frames = [part.bytes for part in parts]
                size = _MESSAGE + sum(map(len, frames))
                batch.append(Received(peer, route, address, frames, size))
                room -= size
        if batch:
            self._given += sum(received.size for received in batch)
            self._deliver(batch)

    def _self_test(self) -> None:
        """A stranger must be refused, unless this door is open to strangers on purpose."""
        stranger = new_key_pair()
        if self._admission.admit(stranger.public) is not None:
            return
        before = self._zap.rejected
        context = zmq.Context()
        dealer = minion_socket(context.socket(zmq.DEALER), self._keys.public, stranger)
        try:
            host = self._address.rsplit(":", 1)[0].replace("*", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")  # noqa: S104
            dealer.connect(f"{host}:{self.port}")
            waited = threading.Event()
            for _ in range(200):
                if self._zap.rejected > before:
                    return
                waited.wait(0.02)
            raise BusError("self-test: a random key was not refused by the bus; not serving")
        finally:
            dealer.close(0)
            context.destroy(0)


def _given_here(route: bytes) -> bool:
    """Whether libzmq made that routing id. One that a peer has chosen could be that of a connection it had before."""
    return len(route) == 5 and route[0] == 0
