"""What all sockets of the bus are set to, and those of minions: both sides must agree on it.

Rules:
1. No send ever blocks, no socket lingers.
2. A half-open line is noticed by both ends within half a minute: by the kernel, and by PING and PONG of the protocol.
3. Not by the heartbeats of ZeroMQ: libzmq 4.3.5 ends the whole process (`Assertion failed: !_io_error`) when one is
   read or due on a connection that broke while its queue was full, as when a partition heals and all that was under way
   arrives at once. Source: https://github.com/zeromq/libzmq/issues/4364, seen here with five masters on two cores.
"""

from __future__ import annotations

import random
from typing import TypeVar

import zmq
import zmq.asyncio

from ..keys import KeyPair

S = TypeVar("S", "zmq.Socket[bytes]", zmq.asyncio.Socket)

MAX_FRAME = 512 * 1024
HANDSHAKE_MS = 15_000  # among thousands that come back at once, one waits for its turn


def common_options(socket: zmq.Socket[bytes] | zmq.asyncio.Socket) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)  # seconds of silence, then four questions with five seconds between
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 4)
    socket.setsockopt(zmq.TCP_MAXRT, 30_000)  # milliseconds that what was sent may go without an answer of TCP


def minion_socket(dealer: S, server: bytes, keys: KeyPair) -> S:
    """That DEALER, ready to connect to who has the key `server`."""
    common_options(dealer)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.setsockopt(zmq.SNDHWM, 64)
    dealer.setsockopt(zmq.RCVHWM, 64)
    dealer.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, 10_000)
    dealer.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    dealer.setsockopt(zmq.RECONNECT_IVL, random.randint(200, 1000))  # noqa: S311 - jitter, no secret
    dealer.curve_serverkey = server
    dealer.curve_secretkey = keys.private
    dealer.curve_publickey = keys.public
    return dealer
