"""A master with many accepted keys, and the processes of the swarm that play who holds them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgha.common.keys import public_from_text, public_text
from pgha.master.store import MinionRow, Store
from pgha.tests.bench.machine import wait_for
from pgha.tests.bench.swarm import keys_of
from pgha.tests.bus.conftest import MASTER, Master
from pgha.tests.bus.ports import another_port_pair

HERE = Path(__file__).parent
Processes = list[subprocess.Popen[bytes]]


class Helper:
    """A process that takes orders: one JSON line there, one back."""

    def __init__(self, script: str, started: Processes) -> None:
        argv = (sys.executable, str(HERE / script))
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        started.append(self.process)

    def begin(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a helper process has ended by itself; what it said of that is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **order: Any) -> dict[str, Any]:
        self.begin(**order)
        return self.answer()


@dataclass
class Crowd:
    """The swarm's processes, taken together."""

    helpers: list[Helper]

    def ask(self, **order: Any) -> dict[str, int]:
        """The same order to all; the numbers that they answer, added up."""
        total: dict[str, int] = {}
        for answer in self.answers(**order):
            for key, value in answer.items():
                total[key] = total.get(key, 0) + value
        return total

    def answers(self, **order: Any) -> list[dict[str, Any]]:
        for helper in self.helpers:
            helper.begin(**order)
        return [helper.answer() for helper in self.helpers]

    def delays(self) -> list[float]:
        return [delay for answer in self.answers(do="delays") for delay in answer["delays"]]

    def until(self, what: str, key: str, wanted: int, seconds: float) -> float:
        """Seconds until the numbers of `key` make that many."""
        return wait_for(f"{what}: {wanted}", lambda: self.ask(do="status")[key] >= wanted, seconds)


def names(count: int) -> list[str]:
    return [f"m{number}" for number in range(count)]


def crowd(
    started: Processes,
    who: Sequence[str],
    speech: str,
    bus: str,
    door: str,
    server: bytes,
    *,
    parts: int = 2,
    size: int = 200,
) -> Crowd:
    """Connects nobody yet."""
    helpers = [Helper("swarm.py", started) for _ in range(parts)]
    epoch = os.urandom(8).hex()
    for number, helper in enumerate(helpers):
        about = {"speech": speech, "bus": bus, "door": door, "server": server.hex(), "size": size, "epoch": epoch}
        helper.begin(**about, names=list(who[number::parts]))
    for helper in helpers:
        helper.answer()
    return Crowd(helpers)


@dataclass
class Big:
    """A master, all of whose minions are simulated."""

    master: Master
    crowd: Crowd
    names: list[str]

    @property
    def pid(self) -> int:
        assert self.master.process is not None
        return self.master.process.pid

    def connect(self, seconds: float = 120) -> float:
        """Seconds until everybody got a WELCOME."""
        self.crowd.ask(do="connect")
        return self.crowd.until("welcomed minions", "welcomed", len(self.names), seconds)

    def stored(self, query: str, *values: object) -> int:
        return int(self.master.rows(query, *values)[0][0])


def master_of(folder: Path, started: Processes, count: int, *, parts: int = 2) -> Big:
    """A master that runs and has accepted that many keys; the swarm that holds them is not connected yet."""
    folder.mkdir()
    master = Master((MASTER, "serve"), folder, port=another_port_pair())
    said = master.cli("init", "--listen", f"127.0.0.1:{master.port}")
    if said.code:
        raise RuntimeError(said.text)
    who = names(count)
    asyncio.run(_accept(master.database, who))
    start(master, started)
    master.fingerprint = master.ask("keys.list")[-1]["data"]["master_fingerprint"]
    bus, door = f"127.0.0.1:{master.port}", f"127.0.0.1:{master.port + 1}"
    server = public_from_text(master.fingerprint)
    return Big(master, crowd(started, who, "pgha", bus, door, server, parts=parts), who)


def start(master: Master, started: Processes) -> None:
    master.start()
    assert master.process is not None
    started.append(master.process)


def floor_of(started: Processes, count: int, *, parts: int = 2, size: int = 200) -> tuple[Helper, Crowd, float]:
    """The floor with as many connected: its process, the swarm, and the seconds that connecting took."""
    floor = Helper("floor.py", started)
    about = floor.ask(do="about")
    everybody = crowd(
        started, names(count), "bare", about["address"], "", bytes.fromhex(about["server"]), parts=parts, size=size
    )
    everybody.ask(do="connect")
    return floor, everybody, everybody.until("connected to the floor", "welcomed", count, 120)


async def _accept(database: Path, who: Sequence[str]) -> None:
    store = Store(database)
    now = time.time()
    rows = [
        MinionRow(name, public_text(keys_of(name).public), "accepted", "127.0.0.1", "bench", "", now, now, "")
        for name in who
    ]
    await asyncio.gather(*(store.put_minion(row) for row in rows))
    store.close()
