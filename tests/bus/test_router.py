"""The socket that all minions hold on to, without any message of the domain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from pgha.common.bus import Admission, Dialer, Received, Router
from pgha.common.bus.options import common_options, minion_socket
from pgha.common.keys import KeyPair, new_key_pair, public_text
from pgha.common.messages import Welcome
from pgha.tests.bus.conftest import Master, Stranger, until

WELL_S = 20.0


class Echo:
    """A router that answers whoever has the one key that is accepted."""

    def __init__(self) -> None:
        self.server, self.mine = new_key_pair(), new_key_pair()
        self.heard: list[Received] = []
        me = public_text(self.mine.public)
        admission = Admission(lambda key: me if public_text(key) == me else None, lambda peer: True)
        self.router = Router("tcp://127.0.0.1:0", self.server, "bus", admission, self._deliver)

    def _deliver(self, batch: list[Received]) -> None:
        self.heard += batch
        for received in batch:
            self.router.send(received.peer, received.route, [b"header", b"answer"])
        self.router.taken(batch)

    async def answers(self, keys: KeyPair | None = None) -> bool:
        dialer = Dialer(f"127.0.0.1:{self.router.port}", self.server.public, keys or self.mine)
        try:
            deadline = time.monotonic() + WELL_S
            while time.monotonic() < deadline:
                await dialer.send([b"header", b"question"])
                if await dialer.receive(0.2):
                    return True
            return False
        finally:
            dialer.close()


@contextmanager
def closing(echo: Echo) -> Iterator[Echo]:
    try:
        yield echo
    finally:
        echo.router.close()


@pytest.mark.parametrize("early", [False, True])
def test_what_is_sent_before_the_router_has_started_keeps_no_later_answer_back(early: bool) -> None:
    with closing(Echo()) as echo:
        if early:
            echo.router.send("nobody", b"nowhere", [b"header", b"too early"])
        echo.router.start()
        assert asyncio.run(echo.answers())


def test_who_chooses_the_name_of_its_line_is_cut_and_not_heard() -> None:
    """It could be that of a line which was cut before."""
    with closing(Echo()) as echo, zmq.Context() as context:
        echo.router.start()
        dealer = minion_socket(context.socket(zmq.DEALER), echo.server.public, echo.mine)
        dealer.setsockopt(zmq.ROUTING_ID, b"alice")
        ends = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            dealer.connect(f"tcp://127.0.0.1:{echo.router.port}")
            assert dealer.poll(5000, zmq.POLLOUT)
            dealer.send_multipart([b"header", b"question"])
            assert ends.poll(5000)
            assert not dealer.poll(0)
            assert echo.heard == []
            assert asyncio.run(echo.answers())
        finally:
            dealer.disable_monitor()
            ends.close(0)
            dealer.close(0)


def test_the_heartbeats_of_zeromq_are_off_since_they_can_end_a_process() -> None:
    """`test_bad_lines` ended a master in one of ten runs on a busy machine while they were on: libzmq issue 4364."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        common_options(dealer)
        assert dealer.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert dealer.getsockopt(zmq.TCP_KEEPALIVE) == 1


# ---- a message that has no end


def most_mib(master: Master) -> int:
    """What that process has needed at most."""
    assert master.process is not None
    status = Path(f"/proc/{master.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def pour(one: Stranger, part: bytes, mib: int) -> None:
    """So much in parts of one message. libzmq begins to send when it has the last one; others would not wait for it."""
    for _ in range((mib << 20) // len(part)):
        one.socket.send(part, zmq.SNDMORE)
    one.socket.send(b"")


def test_a_message_without_end_is_cut_before_it_fills_the_memory_of_a_master(
    master: Master, stranger: Callable[..., Stranger]
) -> None:
    assert stranger(master, enrolment=True).knock("n9").state == "pending"
    before = most_mib(master)
    pour(stranger(master, enrolment=True), bytes(4000), 300)
    until("that it is told", lambda: "connections that sent without end" in master.log)
    assert most_mib(master) - before < 150
    assert stranger(master, enrolment=True).knock("n8").state == "pending"


def test_also_one_of_an_accepted_minion(
    master: Master, stranger: Callable[..., Stranger], member: Callable[..., Stranger]
) -> None:
    bad = member(master, "n9")
    before = most_mib(master)
    pour(bad, bytes(500_000), 400)
    until("that it is told", lambda: "connections that sent without end" in master.log)
    assert most_mib(master) - before < 200
    assert isinstance(stranger(master, bad.keys).hello(), Welcome)
