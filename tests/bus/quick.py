"""Masters and minions that start fast: enrolled by hand, forked from a process that has imported all (`zygote.py`).

What is tested with them is the bus: hundreds of deaths and restarts in a minute. That the commands of the CLI start
the same daemons is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgha.common.keys import load_or_create, public_from_text, public_text
from pgha.common.paths import Paths
from pgha.master.setup import initialise
from pgha.master.store import MinionRow, Store
from pgha.minion.settings import MinionPaths, Settings, save
from pgha.minion.trust import MasterKeys, Trust
from pgha.tests.bus.conftest import Daemon, Master, Minion, Stranger, until
from pgha.tests.bus.history import History, read_history
from pgha.tests.bus.ports import another_port_pair

EFFECT = "/bin/echo {token} >> {effects}; echo out of {token}; echo end of {token}"


class Nursery:
    """The zygote, and what was forked from it."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("zygote.py")
        self._process = subprocess.Popen(
            (sys.executable, str(script)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(self, what: str, root: Path, environment: dict[str, str]) -> Child:
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"what": what, "root": str(root), "log": str(root / "log"), "environment": environment}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Child(int(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


class Child:
    """As much of Popen as `Daemon` needs, for a process that another one has forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
            self.returncode = 0
            os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float = 10) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            left = deadline - time.monotonic()
            if left < 0:
                raise subprocess.TimeoutExpired("a forked daemon", timeout)
            select.select([self._handle], [], [], left)
        return 0

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass
class _Forked(Daemon):
    nursery: Any = None
    failpoints: str = ""
    start_s: float = 0.0  # how far its clock is ahead

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def arm(self, failpoints: str) -> None:
        """From now on; a start arms `failpoints` of this object."""
        self._tell(failpoints, self.start_s)

    def shift(self, seconds: float) -> None:
        """Its clock is that much ahead from now on; `start_s` is for a start."""
        self._tell("", seconds)

    def _tell(self, failpoints: str, shift_s: float) -> None:
        orders = self.root / "failpoints"
        orders.with_suffix(".new").write_text(json.dumps({"failpoints": failpoints, "shift_s": shift_s}))
        orders.with_suffix(".new").replace(orders)
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR2)
        until("that it does so", lambda: not orders.exists() or not self.alive)

    def fork(self, what: str) -> None:
        environment = {"PGHA_FAILPOINTS": self.failpoints, "PGHA_TEST_SHIFT_S": str(self.start_s)}
        child: Any = self.nursery.fork(what, self.root, environment)
        self.process = child


@dataclass
class QuickMaster(_Forked, Master):
    def start(self) -> None:
        before = self.log.count("listening on")
        self.fork("master")
        until("a master that listens, or has died", lambda: self.log.count("listening on") > before or not self.alive)


@dataclass
class QuickMinion(_Forked, Minion):
    def start(self) -> None:
        self.fork("minion")


@dataclass
class Site:
    """One master and its minions, all enrolled; nothing runs before it is started.

    What is ordered with `run` appends its own name to `effects`, once, and says two lines.
    """

    folder: Path
    nursery: Nursery
    names: Sequence[str] = ("n1",)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.effects = self.folder / "effects"
        self.effects.touch()
        root = self.folder / "master"
        root.mkdir(exist_ok=True)
        port = another_port_pair()
        about = initialise(Paths(root), f"127.0.0.1:{port}")
        self.master = QuickMaster((), root, port=port, fingerprint=str(about["fingerprint"]), nursery=self.nursery)
        self.minions = {name: self._minion(name) for name in self.names}
        self._threads: list[threading.Thread] = []
        self.tokens: list[str] = []
        asyncio.run(self._accept())

    def _minion(self, name: str) -> QuickMinion:
        root = self.folder / name
        paths = MinionPaths(Paths(root))
        paths.paths.pki.mkdir(parents=True)
        load_or_create(paths.key)
        self.dial(name, self.master.port)
        return QuickMinion((), root, name=name, nursery=self.nursery)

    def dial(self, name: str, port: int) -> None:
        """That minion finds its master on that port, from its next start on."""
        where = MinionPaths(Paths(self.folder / name)).settings
        save(where, Settings(master=f"127.0.0.1:{port}", fingerprint=self.master.fingerprint, name=name))

    async def _accept(self) -> None:
        store = Store(self.master.database)
        now = time.time()
        for name in self.names:
            key = public_text(load_or_create(MinionPaths(Paths(self.folder / name)).key).public)
            await store.put_minion(MinionRow(name, key, "accepted", "127.0.0.1", "", "", now, now, ""))
        store.close()

    def start(self) -> Site:
        self.master.start()
        assert self.master.alive, self.master.log
        for minion in self.minions.values():
            minion.start()
        self.sees()
        return self

    def sees(self, seconds: float = 30.0) -> None:
        until("every minion connected", lambda: set(self.names) <= self.connected(), seconds)

    def connected(self) -> set[str]:
        try:
            return self.master.connected()
        except (OSError, ValueError, IndexError, KeyError):
            return set()

    def token(self) -> str:
        self.tokens.append(f"T{len(self.tokens):04d}T")
        return self.tokens[-1]

    def run(self, target: str = "*", script: str = EFFECT, timeout_s: float = 60.0, token: str = "") -> list[Any]:
        """One command that leaves one line in `effects` for each node; the lines of its operation, [] when it broke."""
        token = token or self.token()
        words = f": {token}; " + script.format(token=token, effects=self.effects)
        argv = ("sh", "-c", words)
        try:
            return self.master.ask("run", target=target, argv=argv, timeout_s=timeout_s)
        except (OSError, ValueError):
            return []

    def begin(self, target: str = "*", **more: Any) -> str:
        """`run` in the background; its token."""
        token = self.token()
        thread = threading.Thread(target=self.run, args=(target,), kwargs={"token": token, **more}, daemon=True)
        thread.start()
        self._threads.append(thread)
        return token

    def wait(self, seconds: float = 60.0) -> None:
        """For all that was begun."""
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a command that was begun does not end"
        self._threads.clear()

    def count(self) -> int:
        """How many effects there are."""
        return len(self.effects.read_text().split())

    def idle(self) -> bool:
        """All that was begun has ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def settled(self, seconds: float = 45.0) -> None:
        """Wait until every job has ended and every stream is stored as far as its journal goes."""
        until("every job at its end", lambda: self._at_rest(), seconds)

    def _at_rest(self) -> bool:
        history = self.history()
        open_jobs = [job for job in history.jobs if job.state in ("queued", "accepted", "started")]
        return not open_jobs and all(j.highest <= history.stored(j.node, j.epoch) for j in history.journals)

    def state(self, token: str) -> dict[str, str]:
        return {job.node: job.state for job in self.history().jobs if job.token == token}

    def history(self) -> History:
        return read_history(self.effects, self.master.database, {n: m.journal for n, m in self.minions.items()})

    def stranger(self, name: str) -> Stranger:
        """The test itself, with that minion's key; the minion should not run."""
        return Stranger(self.master, load_or_create(MinionPaths(Paths(self.folder / name)).key))

    def trusts(self, name: str) -> None:
        """That minion knows the master's signing key already, as after its first WELCOME."""
        paths = MinionPaths(Paths(self.folder / name))
        server = public_from_text(self.master.fingerprint)
        Trust(paths.trust, MasterKeys(server)).greeted(MasterKeys(server), signing_public(self.master.root), server)

    def end(self) -> None:
        daemons = [self.master, *self.minions.values()]
        for daemon in daemons:
            if daemon.process is not None:
                daemon.process.send_signal(signal.SIGKILL)
        for daemon in daemons:
            if daemon.process is not None:
                daemon.process.wait(10)
        for thread in self._threads:
            thread.join(10)


def signing_public(root: Path) -> bytes:
    from pgha.common.signing import Signer
    from pgha.master.setup import signing_key_path

    return Signer(signing_key_path(Paths(root))).public


@contextlib.contextmanager
def a_nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    try:
        yield nursery
    finally:
        nursery.close()


def copy_of(folder: Path, to: Path) -> Path:
    """A copy of files that nobody writes to at the moment, or as a crash would leave them."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to
