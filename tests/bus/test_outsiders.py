"""Who has no key of this master is heard by nobody, and keeps nobody from being heard."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from pgha.common.bus import Admission, Received, Router
from pgha.common.bus.zap import Zap
from pgha.common.codec import encode
from pgha.common.errors import BusError
from pgha.common.keys import KeyPair, new_key_pair, public_from_text, public_text
from pgha.common.messages import Enrol, Hello, Message, Ping
from pgha.minion.survey import survey
from pgha.tests.bus.conftest import Stranger, until
from pgha.tests.bus.pulse import Pulse, descriptors, patience
from pgha.tests.bus.quick import Nursery, Site, a_nursery

P99_S = 1.0
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x01"  # of ZMTP 3.1, as far as the mechanism
CURVE = GREETING + b"CURVE".ljust(20, b"\0") + b"\0" * 32
TLS_HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x5a" * 32 + b"\x00\x00\x02\x13\x01\x01\x00"
GARBAGE = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
    pytest.param(TLS_HELLO, id="tls"),
    pytest.param(b"SSH-2.0-x\r\n", id="ssh"),
    pytest.param(GREETING[:5], id="half a signature"),
    pytest.param(GREETING, id="half a greeting"),
    pytest.param(CURVE, id="a greeting and nothing"),
    pytest.param(CURVE + b"\x04\xc8\x05HELLO\x01\x00" + b"\0" * 192, id="an empty hello"),
    pytest.param(CURVE + b"\x06" + b"\xff" * 8 + b"\x05HELLO", id="a frame of 16 EiB"),
    pytest.param(CURVE + b"\x04\x0a\x08INITIATE" * 50, id="initiate without hello"),
    pytest.param(CURVE + b"\x00\x05hello" * 100, id="messages before the handshake"),
    pytest.param(GREETING + b"NULL".ljust(20, b"\0") + b"\0" * 32 + b"\x04\x06\x05READY", id="null"),
    pytest.param(GREETING + b"GSSAPI".ljust(20, b"\0") + b"\0" * 32, id="gssapi"),
    pytest.param(os.urandom(8192), id="random"),
    pytest.param(b"\0" * 100_000, id="zeros"),
]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def site(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A master and its minion n1, shared: an outsider leaves no trace."""
    site = Site(tmp_path_factory.mktemp("outside") / "site", nursery)
    try:
        yield site.start()
    finally:
        site.end()


def untouched(site: Site, before: list[dict[str, object]]) -> bool:
    """Nobody new is known, and nobody has been heard but n1."""
    known = [key["name"] for key in site.master.known_keys()]
    streams = {row[0] for row in site.master.rows("select distinct node from streams")}
    return known == [key["name"] for key in before] and streams <= {"n1"}


@pytest.mark.parametrize("port", [0, 1], ids=["bus", "enrolment"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_bytes_of_a_stranger_are_nothing(site: Site, garbage: bytes, port: int) -> None:
    before = site.master.known_keys()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", site.master.port + port), 5) as connection:
            try:
                connection.sendall(garbage)
            except OSError:
                pass  # hung up on already
    assert site.master.answers("n1")
    assert untouched(site, before)


def test_fifteen_hundred_connections_that_come_and_go_hold_nobody_up(site: Site) -> None:
    before, open_before = site.master.known_keys(), descriptors(site.master)
    with Pulse(site.master, "n1") as pulse:
        number = 0
        while number < 1500 or len(pulse.seconds) < 30:
            socket.create_connection(("127.0.0.1", site.master.port + number % 2), 5).close()
            number += 1
    print(f"{number} connections that come and go: {pulse}")
    assert pulse.p99_s < P99_S * patience()
    assert untouched(site, before)
    until("their descriptors given back", lambda: descriptors(site.master) <= open_before + 10, 40)


def test_three_hundred_that_connect_and_say_nothing_hold_nobody_up_and_are_hung_up_on(site: Site) -> None:
    open_before = descriptors(site.master)
    with ExitStack() as stack:
        mute = []
        with Pulse(site.master, "n1") as pulse:
            for number in range(300):
                where = ("127.0.0.1", site.master.port + number % 2)
                mute.append(stack.enter_context(socket.create_connection(where, 5)))
                if number % 3 == 0:
                    mute[-1].sendall(GREETING[: number // 3 % len(GREETING)])
            until("the mute ones hung up on", lambda: descriptors(site.master) <= open_before + 10, 40)
        print(f"300 mute connections: {pulse}")
        for one in mute:
            one.settimeout(1)
            while one.recv(4096):
                pass  # its greeting, then the end
    assert pulse.p99_s < P99_S * patience()


def test_random_keys_hold_nobody_up_and_none_is_heard(site: Site) -> None:
    """Each handshake costs the master more than it costs to send it away again."""
    before = site.master.known_keys()
    server = public_from_text(site.master.fingerprint)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = 1000
    hello: Message = Hello(epoch="e", spool_lo=1, spool_hi=0, acked=0, mepoch=0, facts=survey())
    dealers: list[zmq.Socket[bytes]] = []
    try:
        with Pulse(site.master, "n1") as pulse:
            for _ in range(300):
                keys, dealer = new_key_pair(), context.socket(zmq.DEALER)
                dealers.append(dealer)
                dealer.curve_serverkey = server
                dealer.curve_secretkey, dealer.curve_publickey = keys.private, keys.public
                dealer.setsockopt(zmq.RECONNECT_IVL, 20)
                dealer.connect(f"tcp://127.0.0.1:{site.master.port}")
                dealer.send_multipart(encode(hello), zmq.NOBLOCK)
            assert not any(dealer.poll(5) for dealer in dealers)
        print(f"300 random keys: {pulse}")
    finally:
        context.destroy(0)
    assert pulse.p99_s < P99_S * patience()
    assert untouched(site, before)


@pytest.mark.parametrize("port", [0, 1], ids=["bus", "enrolment"])
def test_who_has_another_master_in_mind_is_not_heard(site: Site, port: int) -> None:
    """The server's key is part of the handshake: a message for another master cannot be read here."""
    before = site.master.known_keys()
    stranger = Stranger(site.master, enrolment=bool(port))
    stranger.socket.close(0)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    stranger.socket = dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.curve_serverkey = new_key_pair().public
    dealer.curve_secretkey, dealer.curve_publickey = stranger.keys.private, stranger.keys.public
    dealer.connect(f"tcp://127.0.0.1:{site.master.port + port}")
    try:
        stranger.say(Enrol(name="elsewhere", machine_id="m"))
        assert stranger.hear(0.5) is None
        assert site.master.answers("n1")
        assert untouched(site, before)
    finally:
        stranger.close()


class Door:
    """A Router of the test's own that lets in one key, and breaks when it is told to."""

    def __init__(self) -> None:
        self.keys, self.friend = new_key_pair(), new_key_pair()
        self.heard: list[Received] = []
        self.died = threading.Event()
        self.broken = False
        admission = Admission(self._admit, lambda peer: True)
        self.router = Router("tcp://127.0.0.1:0", self.keys, "bus", admission, self._deliver, died=self.died.set)

    def _admit(self, public: bytes) -> str | None:
        if self.broken:
            raise RuntimeError("the handler of keys is dead")
        return "friend" if public == self.friend.public else None

    def _deliver(self, batch: list[Received]) -> None:
        self.heard += batch

    def knock(self, keys: KeyPair) -> zmq.Socket[bytes]:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.curve_serverkey = self.keys.public
        dealer.curve_secretkey, dealer.curve_publickey = keys.private, keys.public
        dealer.connect(f"tcp://127.0.0.1:{self.router.port}")
        dealer.send_multipart(encode(Ping(mono_ms=1)), zmq.NOBLOCK)
        return dealer


def test_when_the_handler_of_keys_dies_nobody_is_let_in_and_the_daemon_is_told() -> None:
    """ZeroMQ itself lets everybody in when nobody answers for keys: it must be the end of the thread instead."""
    door = Door()
    door.router.start()
    friend = door.knock(door.friend)
    until("the friend heard", lambda: door.heard)
    door.broken = True
    strangers = [door.knock(new_key_pair()) for _ in range(5)]
    try:
        assert door.died.wait(5)
        strangers += [door.knock(door.friend) for _ in range(2)]
        for one in (friend, *strangers):
            assert not one.poll(50)
        assert [received.peer for received in door.heard] == ["friend"]
        with pytest.raises(ConnectionRefusedError):
            until("the port closed", lambda: socket.create_connection(("127.0.0.1", door.router.port), 1).close())
    finally:
        for one in (friend, *strangers):
            one.close(0)
        door.router.close()


def test_a_door_that_lets_everybody_in_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test: a handler that says yes to a random key at the handshake, whatever the admission told it."""

    def yes(zap: Zap) -> None:
        while zap.socket.poll(0):
            frames = zap.socket.recv_multipart()
            zap.socket.send_multipart([b"1.0", frames[1], b"200", b"OK", b"anybody", b""])

    monkeypatch.setattr(Zap, "answer", yes)
    admission = Admission(lambda public: None, lambda peer: True)
    router = Router("tcp://127.0.0.1:0", new_key_pair(), "bus", admission, lambda batch: None)
    try:
        with pytest.raises(BusError, match="a random key was not refused"):
            router.start()
    finally:
        router.close()


BREAKING = """
import sys
from pathlib import Path
from pgha.common.bus.zap import Zap
from pgha.master.cli.main import main

answer, flag = Zap.answer, Path(sys.argv[1])

def breaks(self):
    if flag.exists():
        raise RuntimeError("the handler of keys is dead")
    answer(self)

Zap.answer = breaks
sys.argv = ["pgha-master", "serve"]
sys.exit(main())
"""


def test_a_master_whose_handler_of_keys_dies_ends_with_an_error(nursery: Nursery, tmp_path: Path) -> None:
    """So that systemd starts it again, rather than a master that nobody can reach, or everybody."""
    site = Site(tmp_path / "site", nursery)
    flag = tmp_path / "break"
    with (site.master.root / "log").open("ab") as log:
        argv = (sys.executable, "-c", BREAKING, str(flag))
        process = subprocess.Popen(argv, env=site.master.environment, stdout=log, stderr=log)
    try:
        until("a master that listens", lambda: "listening on" in site.master.log)
        flag.touch()
        stranger = Stranger(site.master)
        stranger.say(Ping(mono_ms=1))
        assert process.wait(20) != 0
        assert stranger.hear(0.1) is None
        stranger.close()
        assert "a part of the master broke" in site.master.log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_what_is_read_ahead_is_bounded_and_goes_on_when_it_is_dealt_with() -> None:
    """A peer that sends faster than it is heard waits; it does not fill the memory of who listens."""
    door = Door()
    door.router.start()
    peer = door.knock(door.friend)
    peer.setsockopt(zmq.SNDHWM, 10)
    until("the friend heard", lambda: door.heard)
    frames = [b"h", bytes(400_000)]
    sent = 0
    try:
        until("the sender made to wait", lambda: _send_some(peer, frames) == 0, 20)
        held = sum(len(frame) for received in door.heard for frame in received.frames)
        assert held < 20_000_000, "eight MiB, and what was under way"
        sent = len(door.heard)
        door.router.taken(door.heard[:sent])
        until("it went on", lambda: len(door.heard) > sent)
    finally:
        peer.close(0)
        door.router.close()


def _send_some(peer: zmq.Socket[bytes], frames: list[bytes]) -> int:
    """How many went within a moment; 0 when none does any more."""
    sent = 0
    while peer.poll(500, zmq.POLLOUT):
        peer.send_multipart(frames, zmq.NOBLOCK)
        sent += 1
        if sent >= 200:
            return sent
    return sent


def test_the_text_of_a_key_is_no_key(site: Site) -> None:
    """What ZAP is asked about is 32 bytes: a public key without its private half is no use, whoever publishes it."""
    known = public_from_text(site.master.rows("select public_key from minions where name='n1'")[0][0])
    keys = KeyPair(known, new_key_pair().private)
    thief = Stranger(site.master, keys)
    try:
        thief.say(Ping(mono_ms=1))
        assert thief.hear(0.5) is None
        assert site.master.answers("n1")
        assert public_text(known) in {row[0] for row in site.master.rows("select public_key from minions")}
    finally:
        thief.close()
