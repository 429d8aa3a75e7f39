"""Who gets in: the ZAP handler of a ROUTER, which libzmq asks at each handshake (RFC 27).

Rules:
1. It is bound before the socket that it guards, in the same context, and answered in the same thread.
2. It answers 200 with the peer's name, or 400; never 300, which hangs a peer.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

ENFORCE_DOMAIN = 93  # compiled into libzmq 4.3.5, though its header calls it a draft
_BATCH = 500


class Zap:
    """`admit(public key)` gives the name of who has it, or None. It is called at every handshake and must only read."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], domain: bytes, admit: Callable[[bytes], str | None]):
        self.socket = context.socket(zmq.REP)
        self.socket.bind("inproc://zeromq.zap.01")
        self._domain, self._admit = domain, admit
        self.rejected = 0  # handshakes refused

    def answer(self) -> None:
        """All that wait: one in each round would starve the handshakes of a fleet."""
        for _ in range(_BATCH):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            peer: str | None = None
            if len(frames) == 7 and frames[0] == b"1.0" and frames[2] == self._domain and frames[5] == b"CURVE":
                peer = self._admit(frames[6])
            if peer is None:
                self.rejected += 1
                self.socket.send_multipart([b"1.0", frames[1], b"400", b"key not accepted", b"", b""])
            else:
                self.socket.send_multipart([b"1.0", frames[1], b"200", b"OK", peer.encode(), b""])
