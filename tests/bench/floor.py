"""What pyzmq with CURVE can do at least: a ROUTER and a loop, no protocol, no store, nobody to show anything to.

    floor.py  <  orders, one JSON line each; answers come on stdout

The swarm speaks `Bare` to it. Ends when its stdin does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import zmq
from pgha.common.keys import new_key_pair
from pgha.tests.bench.machine import raise_file_limit


class Floor:
    def __init__(self) -> None:
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._router = self._context.socket(zmq.ROUTER)
        self._keys = new_key_pair()
        self._router.curve_server = True
        self._router.curve_secretkey, self._router.curve_publickey = self._keys.private, self._keys.public
        for option, value in ((zmq.BACKLOG, 4096), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.ROUTER_MANDATORY, 1)):
            self._router.setsockopt(option, value)
        self._router.setsockopt(zmq.ZAP_DOMAIN, b"floor")
        port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"127.0.0.1:{port}"
        self.server = self._keys.public.hex()
        self._routes: dict[bytes, bytes] = {}  # name -> route
        self._poller = zmq.Poller()
        self._answers = 0
        self._piece, self._left = b"", dict[bytes, int]()
        for socket in (self._zap, self._router):
            self._poller.register(socket, zmq.POLLIN)

    def turn(self, timeout_ms: int) -> None:
        """Let in who knocks, say W to who greets, K to each event; count the rest."""
        ready = dict(self._poller.poll(timeout_ms))
        if self._zap in ready:
            frames = self._zap.recv_multipart()
            self._zap.send_multipart([b"1.0", frames[1], b"200", b"OK", b"somebody", b""])
        if self._router in ready:
            for _ in range(500):
                try:
                    route, word, rest = self._router.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return
                if word == b"A":
                    self._answers += 1
                elif word == b"N":
                    self._window(route)
                elif word == b"H":
                    self._routes[rest] = route
                    self._router.send_multipart([route, b"W", b""])
                else:
                    self._router.send_multipart([route, b"K" + word[1:], b""])

    def fan_out(self, size: int) -> float:
        """Seconds until everybody has answered."""
        since, self._answers, routes = time.perf_counter(), 0, list(self._routes.values())
        letter = b"j" * size
        for route in routes:
            self._router.send_multipart([route, b"J", letter])
        while self._answers < len(routes):
            self.turn(1000)
        return time.perf_counter() - since

    def send_file(self, size: int, piece: int) -> float:
        """Seconds until everybody has had so many bytes, in pieces, two of them on their way to each."""
        since, self._answers = time.perf_counter(), 0
        self._piece, self._left = b"p" * piece, dict.fromkeys(self._routes.values(), size)
        for route in self._left:
            self._window(route)
        while self._answers < len(self._left):
            self.turn(1000)
        return time.perf_counter() - since

    def _window(self, route: bytes) -> None:
        if self._left[route] <= 0:
            self._answers += 1
            return
        for word in (b"C", b"D"):
            self._router.send_multipart([route, word, self._piece[: max(0, self._left[route])]])
            self._left[route] -= len(self._piece)

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["do"] == "fan out":
            return {"seconds": self.fan_out(order["size"])}
        if order["do"] == "send file":
            return {"seconds": self.send_file(order["size"], order["piece"])}
        return {"address": self.address, "server": self.server, "peers": len(self._routes)}


def main() -> None:
    raise_file_limit()
    floor = Floor()
    orders = zmq.Poller()
    orders.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        if orders.poll(0):
            line = sys.stdin.readline()
            if not line:
                return
            print(json.dumps(floor.order(json.loads(line))), flush=True)
        floor.turn(5)


if __name__ == "__main__":
    main()
