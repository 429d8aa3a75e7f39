"""A line of TCP between a minion and its master that goes bad in whatever way a test asks for, byte by byte.

One thread for each direction of each connection. What is set counts from the next piece of bytes on.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from pgha.tests.bus.ports import another_port_pair

PIECE = 4096


@dataclass
class Way:
    """How bytes go in one direction. `hold`: they are taken and stay here; nobody is told."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as they come
    hold: bool = False
    cut_after: int = -1  # bytes, then the connection ends, wherever in a frame that is; once
    seen: int = 0
    cuts: int = 0


@dataclass
class Proxy:
    """Listens on `port` and connects each who comes to `target`; beside it the enrolment port, which is always good.

    `recordings`: what minions have sent, by connection.
    """

    target: int
    up: Way = field(default_factory=Way)  # minion -> master
    down: Way = field(default_factory=Way)
    recordings: list[bytearray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = another_port_pair()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._door = socket.create_server(("127.0.0.1", self.port + 1))
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._changed = threading.Event()
        for accept in (self._accept_bus, self._accept_door):
            threading.Thread(target=accept, daemon=True).start()

    def _accept_bus(self) -> None:
        for near, far in self._connections(self._listener, 0):
            self.recordings.append(bytearray())
            self._join(near, far, self.up, self.down, self.recordings[-1])

    def _accept_door(self) -> None:
        for near, far in self._connections(self._door, 1):
            self._join(near, far, Way(), Way(), bytearray())

    def _connections(self, listener: socket.socket, offset: int) -> Iterator[tuple[socket.socket, socket.socket]]:
        while not self._closing.is_set():
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target + offset), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open |= {near, far}
            yield near, far

    def _join(self, near: socket.socket, far: socket.socket, up: Way, down: Way, record: bytearray) -> None:
        for one, other, way, kept in ((near, far, up, record), (far, near, down, None)):
            threading.Thread(target=self._pass_on, args=(one, other, way, kept), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, way: Way, kept: bytearray | None) -> None:
        try:
            while data := one.recv(1 if way.bytes_per_s else PIECE):
                if kept is not None:
                    kept += data
                if way.delay_s or way.bytes_per_s:
                    self._closing.wait(way.delay_s or 1 / way.bytes_per_s)
                while way.hold and not self._closing.is_set():
                    self._changed.wait(0.02)
                if 0 <= way.cut_after <= way.seen + len(data):
                    other.sendall(data[: way.cut_after - way.seen])
                    way.cut_after, way.cuts = -1, way.cuts + 1
                    return
                way.seen += len(data)
                other.sendall(data)
        except OSError:
            pass
        finally:
            self._end(one, other)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            self._open.discard(one)
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def cut(self) -> None:
        """All connections end now."""
        self._end(*list(self._open))

    def heal(self) -> None:
        for way in (self.up, self.down):
            way.delay_s, way.bytes_per_s, way.hold, way.cut_after = 0.0, 0.0, False, -1

    def replay(self, number: int) -> bytes:
        """Play that recording to the target, as a new connection; what it answers until it hangs up."""
        with socket.create_connection(("127.0.0.1", self.target), timeout=3) as again:
            answer = b""
            try:
                again.sendall(bytes(self.recordings[number]))
                while data := again.recv(PIECE):
                    answer += data
            except OSError:
                pass
        return answer

    def close(self) -> None:
        self._closing.set()
        self._listener.close()
        self._door.close()
        self.cut()
