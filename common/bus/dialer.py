"""The minion's end of the bus: one asyncio DEALER. What must not be lost is in the caller's spool."""

from __future__ import annotations

import zmq
import zmq.asyncio

from ..keys import KeyPair
from .options import minion_socket


class Dialer:
    """The minion's end: one asyncio DEALER. A broken one is thrown away and a new one made."""

    def __init__(self, address: str, server: bytes, keys: KeyPair) -> None:
        """`address` is host:port, `server` the master's public key."""
        self._context = zmq.asyncio.Context()
        self._socket = minion_socket(self._context.socket(zmq.DEALER), server, keys)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._socket.connect(f"tcp://{address}")

    async def refused(self) -> bool:
        """True when the other side has said that it does not accept this key. libzmq then never tries again."""
        return bool(await self._monitor.poll(0))

    async def receive(self, timeout_s: float) -> list[bytes] | None:
        """The frames of one message, None when none came in time."""
        if not await self._socket.poll(int(max(timeout_s, 0) * 1000)):
            return None
        try:
            return list(await self._socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return None

    async def send(self, frames: list[bytes]) -> bool:
        """False when there is no connection to send on, or the peer does not take more now."""
        try:
            await self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.destroy(0)
