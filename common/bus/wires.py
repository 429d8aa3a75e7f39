"""The TCP connections under a ROUTER: counted and cut here, because libzmq has a call for neither.

Rules:
1. A descriptor may be another's by now: nothing is done to it before its inode has been compared.
2. Who sends on and on, and no message comes of it, is cut: a message is handed over when its last part is there, and
   until then it fills memory that no limit of libzmq bounds.
3. A descriptor is libzmq's: what is opened over it here never closes it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_ROUTES = 20_000  # that are remembered
_LOOKS = 200  # connections at one go: a millisecond
_TCP_INFO_BYTES, _RECEIVED_AT = 136, 128  # tcpi_bytes_received of struct tcp_info, in Linux 4.1 and later


@dataclass(slots=True)
class _Wire:
    """`base`: bytes that had come in when it was last known to have said something whole."""

    descriptor: int
    inode: int
    base: int = 0
    spoke: bool = False  # since it was looked at
    route: bytes = b""  # of what it has said


class _Route(NamedTuple):
    peer: str
    address: str
    wire: _Wire | None


class Wires:
    def __init__(self, most: int) -> None:
        """`most`: bytes that one connection may send without saying anything whole."""
        self._most = most
        self._routes: OrderedDict[bytes, _Route] = OrderedDict()
        self._open: OrderedDict[int, _Wire] = OrderedDict()  # by descriptor; the one not looked at for longest first

    def accepted(self, descriptor: int, port: int) -> None:
        """A connection came in on that port."""
        with contextlib.suppress(OSError), _borrowed(descriptor) as wire:
            if wire.getsockname()[1] == port:
                self._watch(descriptor)

    def _watch(self, descriptor: int) -> _Wire:
        """Raises OSError when there is no such descriptor."""
        inode = os.fstat(descriptor).st_ino
        known = self._open.get(descriptor)
        if known is None or known.inode != inode:
            known = self._open[descriptor] = _Wire(descriptor, inode)
        return known

    def said(self, route: bytes) -> str | None:
        """A whole message came: from that address. None when the route is new; then `learn` it."""
        known = self._routes.get(route)
        if known is None:
            return None
        if known.wire is not None:
            known.wire.spoke = True
        return known.address

    def learn(self, route: bytes, peer: str, address: str, descriptor: int) -> None:
        """Where that route leads. Of one that is gone already nothing is remembered."""
        try:
            wire = self._watch(descriptor)
        except OSError:
            return
        if wire.route and wire.route != route:
            return  # another's by now: what is still read of the route comes from one that is gone
        wire.spoke, wire.route = True, route
        self._routes[route] = _Route(peer, address, wire)
        if len(self._routes) > _ROUTES:
            self._routes.popitem(last=False)

    def forget(self, route: bytes) -> None:
        self._routes.pop(route, None)

    def of(self, peer: str) -> list[bytes]:
        return [route for route, known in self._routes.items() if known.peer == peer]

    def cut(self, route: bytes) -> None:
        """What is still read of it must not be taken for what uses its descriptor next."""
        known = self._routes.get(route, _Route("", "", None))
        self._routes[route] = _Route("", known.address, None)
        if known.wire is not None:
            _shut(known.wire)

    def look(self) -> list[str]:
        """Cut whoever sends without end. The addresses that they came from."""
        return [found for _ in range(min(len(self._open), _LOOKS)) if (found := self._judge())]

    def _judge(self) -> str:
        """Of the next one: where it came from if it was cut, else ""."""
        descriptor, wire = self._open.popitem(last=False)
        try:
            with _borrowed(descriptor) as connection:
                received = _received(connection)
                if wire.spoke or received < wire.base:
                    wire.base, wire.spoke = received, False
                elif received - wire.base > self._most:
                    address = _address(descriptor)
                    return address if _shut(wire) else ""
        except OSError:
            return ""  # gone, or not a connection any more
        self._open[descriptor] = wire
        return ""


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Raises OSError when it is no socket."""
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _received(connection: socket.socket) -> int:
    """Bytes that have come in on it, as the kernel counts them."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int(struct.unpack_from("=Q", info, _RECEIVED_AT)[0]) if len(info) == _TCP_INFO_BYTES else 0


def _address(descriptor: int) -> str:
    with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as connection:
        return str(connection.getpeername()[0]).removeprefix("::ffff:")


def _shut(wire: _Wire) -> bool:
    """End that connection. False when its descriptor is another's."""
    try:
        if os.fstat(wire.descriptor).st_ino != wire.inode:
            return False
        with _borrowed(wire.descriptor) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False  # it was gone already
    return True
