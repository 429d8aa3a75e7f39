"""A master and minions as real processes on loopback, each with a PGHA_ROOT of its own, ended by their own pids."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zmq
from pgha.common.codec import decode, encode
from pgha.common.keys import KeyPair, fingerprint, new_key_pair, public_from_text
from pgha.common.messages import TO_MINION, TO_STRANGER, Enrol, Enrolled, Event, Hello, Message, Welcome
from pgha.common.names import new_job_id
from pgha.minion.survey import survey
from pgha.tests.bus.ports import another_port_pair

BIN = Path(sys.executable).parent
MASTER, MINION = str(BIN / "pgha-master"), str(BIN / "pgha-minion")


def until(what: str, ask: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true answer. Fails, naming what was waited for, when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := ask():
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{seconds:g} s long not seen: {what}")
        time.sleep(0.03)


@dataclass
class Daemon:
    """One process with its root; its log is a file there."""

    argv: Sequence[str]
    root: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PGHA_ROOT": str(self.root)}

    @property
    def log(self) -> str:
        path = self.root / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(self.argv, env=self.environment, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, as systemd does; its exit code. SIGKILL when that does not help."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        assert self.process is not None
        self.process.kill()
        return self.process.wait(10)


@dataclass
class Said:
    """What a command of the CLI did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The last JSON line of stdout; only after --json."""
        value: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return value

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Master(Daemon):
    port: int = 0
    fingerprint: str = ""
    minions: dict[str, Minion] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        return self.root / "var/lib/pgha/pgha.db"

    @property
    def socket_path(self) -> Path:
        return self.root / "run/pgha/admin.sock"

    def start(self) -> None:
        before = self.log.count("listening on")
        super().start()
        until("a master that listens", lambda: self.log.count("listening on") > before or self._gone())

    def _gone(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            pytest.fail(f"the master ended by itself:\n{self.log}")
        return False

    def begin(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (MASTER, *argv),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cli(self, *argv: str, stdin: str = "", seconds: float = 40) -> Said:
        done = subprocess.run(
            (MASTER, *argv), env=self.environment, input=stdin, capture_output=True, text=True, timeout=seconds
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def ask(self, verb: str, **args: Any) -> list[dict[str, Any]]:
        """A verb through the local socket, as the CLI asks it: all lines, the End last."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(40)
            connection.connect(str(self.socket_path))
            connection.sendall(json.dumps({"verb": verb, "args": args}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                return [json.loads(line) for line in stream]

    def known_keys(self) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = self.ask("keys.list")[-1]["data"]["keys"]
        return keys

    def key(self, name: str) -> dict[str, Any]:
        return next((key for key in self.known_keys() if key["name"] == name), {})

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()

    def answers(self, name: str) -> bool:
        """Whether that minion is connected and answers a ping now."""
        lines = self.ask("run", target=name, function="ping", timeout_s=5)
        return bool(lines[-1]["exit"] == 0)

    def sees(self, name: str, seconds: float = 30.0) -> None:
        """Wait until the minion is accepted and connected."""
        until(f"{name} connected", lambda: name in self.connected(), seconds)

    def connected(self) -> set[str]:
        """Accepted keys heard of within the last heartbeats, and on this run of the master."""
        return {key["name"] for key in self.known_keys() if key["state"] == "accepted" and key["connected"]}


@dataclass
class Minion(Daemon):
    name: str = ""

    @property
    def journal(self) -> Path:
        return self.root / "var/lib/pgha/journal.db"

    def enrol(self, master: Master, *more: str, name: str = "") -> subprocess.CompletedProcess[str]:
        where = ("--master", f"127.0.0.1:{master.port}", "--fingerprint", master.fingerprint)
        argv = (MINION, "enrol", "--no-start", *where, "--name", name or self.name, *more)
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=30)

    @property
    def shown(self) -> str:
        """The fingerprint of its key, as its own `status` tells it."""
        done = subprocess.run((MINION, "status"), env=self.environment, capture_output=True, text=True, timeout=20)
        return done.stdout.split("fingerprint")[1].split()[0]


def make_master(root: Path) -> Master:
    root.mkdir()
    master = Master((MASTER, "serve"), root, port=another_port_pair())
    done = master.cli("init", "--listen", f"127.0.0.1:{master.port}")
    assert done.code == 0, done.text
    master.start()
    master.fingerprint = master.ask("keys.list")[-1]["data"]["master_fingerprint"]
    return master


def make_minion(root: Path, name: str) -> Minion:
    root.mkdir()
    return Minion((MINION, "run"), root, name=name)


def end(*daemons: Daemon) -> None:
    """All of them, also those that are stopped or dead already."""
    for daemon in daemons:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.send_signal(signal.SIGCONT)
            daemon.process.terminate()
    for daemon in daemons:
        daemon.stop()


def join(master: Master, minion: Minion) -> Minion:
    """Enrolled, accepted by fingerprint, running and connected."""
    assert minion.enrol(master).returncode == 0
    said = master.cli("keys", "accept", minion.name, "--fingerprint", minion.shown)
    assert said.code == 0, said.text
    minion.start()
    master.sees(minion.name)
    return minion


class Stranger:
    """A peer that a test plays itself, with a key of its own; it may say anything on either port."""

    open: ClassVar[set[Stranger]] = set()

    def __init__(self, master: Master, keys: KeyPair | None = None, *, enrolment: bool = False) -> None:
        self.keys = keys or new_key_pair()
        self.master = master
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.curve_serverkey = public_from_text(master.fingerprint)
        self.socket.curve_secretkey, self.socket.curve_publickey = self.keys.private, self.keys.public
        self.socket.connect(f"tcp://127.0.0.1:{master.port + enrolment}")
        self.open.add(self)

    @property
    def shown(self) -> str:
        return fingerprint(self.keys.public)

    def say(self, message: Message) -> None:
        self.raw(*encode(message))

    def raw(self, *frames: bytes) -> None:
        """Never waits: once a key was refused there is nothing left to send on."""
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart(frames, zmq.NOBLOCK)

    def hear(self, seconds: float = 5.0) -> Message | None:
        if not self.socket.poll(int(seconds * 1000)):
            return None
        return decode(self.socket.recv_multipart(), (*TO_MINION, *TO_STRANGER))

    def knock(self, name: str) -> Enrolled:
        """What the enrolment port says to this key under that name."""
        knocking = Stranger(self.master, self.keys, enrolment=True)
        try:
            knocking.say(Enrol(name=name, machine_id="m"))
            answer = knocking.hear()
        finally:
            knocking.close()
        assert isinstance(answer, Enrolled)
        return answer

    def hello(self, **changed: Any) -> Message | None:
        values: dict[str, Any] = {"epoch": "e1", "spool_lo": 1, "spool_hi": 0, "acked": 0, "mepoch": 0}
        self.say(Hello(**{**values, **changed}, facts=survey()))
        return self.hear()

    def event(self, seq: int, body: bytes = b"{}", *, epoch: str = "e1", kind: Any = "started", jid: str = "") -> None:
        self.say(Event(epoch=epoch, seq=seq, jid=jid or new_job_id(), att=1, kind=kind, body=body))

    def close(self) -> None:
        self.open.discard(self)
        self.socket.close(0)
        self._context.destroy(0)


def pytest_sessionfinish() -> None:
    """Those of tests that failed: a context that is forgotten with its socket waits for it, for ever."""
    for one in list(Stranger.open):
        one.close()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder whose path is short, whatever the test is called: that of a Unix socket has 107 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="b"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stranger() -> Iterator[Callable[..., Stranger]]:
    """`stranger(master)` on the bus port, `stranger(master, enrolment=True)` on the other."""
    made: list[Stranger] = []

    def make(master: Master, keys: KeyPair | None = None, *, enrolment: bool = False) -> Stranger:
        made.append(Stranger(master, keys, enrolment=enrolment))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def member(stranger: Callable[..., Stranger]) -> Callable[[Master, str], Stranger]:
    """`member(master, "n9")`: a stranger that was accepted under that name and got its WELCOME."""

    def make(master: Master, name: str) -> Stranger:
        keys = new_key_pair()
        knocking: Stranger = stranger(master, keys, enrolment=True)
        assert knocking.knock(name).state == "pending"
        assert master.ask("keys.accept", name=name, fingerprint=knocking.shown)[-1]["exit"] == 0
        one: Stranger = stranger(master, keys)
        assert isinstance(one.hello(), Welcome)
        return one

    return make


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """A master of this test's own, which it may kill."""
    master = make_master(tmp_path / "master")
    yield master
    end(master)


@pytest.fixture(scope="module")
def shared_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A master without minions, for all tests of one file."""
    master = make_master(tmp_path_factory.mktemp("shared") / "master")
    yield master
    end(master)


@pytest.fixture
def minion(master: Master, tmp_path: Path) -> Iterator[Callable[[str], Minion]]:
    """`minion("n1")`: connected to `master`."""
    made: list[Minion] = []

    def make(name: str) -> Minion:
        made.append(make_minion(tmp_path / name, name))
        return join(master, made[-1])

    yield make
    end(*made)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A master with the minions n1 and n2, shared by tests that leave both as they found them."""
    folder = tmp_path_factory.mktemp("pair")
    master = make_master(folder / "master")
    minions = [make_minion(folder / name, name) for name in ("n1", "n2")]
    try:
        for one in minions:
            master.minions[one.name] = join(master, one)
        yield master
    finally:
        end(*minions, master)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    return until


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[str], Minion]]:
    """`host("n3")`: a minion that has not been enrolled and does not run yet."""
    made: list[Minion] = []

    def make(name: str) -> Minion:
        made.append(make_minion(tmp_path / name, name))
        return made[-1]

    yield make
    end(*made)


@pytest.fixture(scope="module")
def member_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Master, Stranger]]:
    """A master whose only member, n9, is played by the tests. A file may break twenty rules in a minute, no more."""
    master = make_master(tmp_path_factory.mktemp("alone") / "master")
    keys = new_key_pair()
    knocking = Stranger(master, keys, enrolment=True)
    try:
        assert knocking.knock("n9").state == "pending"
        assert master.ask("keys.accept", name="n9", fingerprint=knocking.shown)[-1]["exit"] == 0
        one = Stranger(master, keys)
        assert isinstance(one.hello(), Welcome)
        yield master, one
        one.close()
    finally:
        knocking.close()
        end(master)
