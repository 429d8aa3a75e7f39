"""The same questions to pgha and to a real Salt, each with the same number of real minions on this machine.

Rules:
1. Both run beside nothing else of the other: first all of one, then all of the other, on the loopback interface.
2. Salt comes from PyPI into an environment of its own, kept in the cache folder; all it writes is in a temporary
   folder. Its settings are its defaults, but for addresses, paths, and that the master accepts every key by itself.
3. Memory is proportional (PSS): what processes share is counted once. A number of minions for which the machine has not
   the memory is left out, and said.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pgha.tests.bench.machine import cpu_s, processes, proportional_bytes, raise_file_limit, wait_for
from pgha.tests.bench.ping import times
from pgha.tests.bench.table import Row, amount, note, run
from pgha.tests.bus.conftest import Master, make_master, make_minion
from pgha.tests.bus.ports import another_port_pair

RELEASE = "salt==3008.3"
NEEDED_MIB = 130  # for one minion, of Salt's, as seen; and as much for the master as for ten


@dataclass(frozen=True)
class Figures:
    api_ms: float
    cli_ms: float
    master_mib: float
    minion_mib: float
    idle_percent: float  # of one core: the master and all minions
    connect_s: float


def measure(quick: bool) -> list[Row]:
    raise_file_limit()
    try:
        home = install()
    except subprocess.CalledProcessError as error:
        return [Row(f"beside Salt: {RELEASE} cannot be had here", "", str(error.stderr or error)[-200:].strip())]
    rows = []
    for count in (1, 3) if quick else (1, 10, 50, 100):
        free = psutil.virtual_memory().available / 2**20
        if free < (count + 10) * NEEDED_MIB:
            rows.append(Row(f"{count} minions: left out, {free:,.0f} MiB are free", ""))
            continue
        rounds, idle_s = (10, 3.0) if quick else (30, 30.0)
        ours = _of_pgha(count, rounds, idle_s)
        note(f"pgha, {count}: {ours}")
        theirs = _of_salt(home, count, rounds, idle_s)
        note(f"Salt, {count}: {theirs}")
        rows += _rows(count, ours, theirs)
    return rows


def _rows(count: int, ours: Figures, theirs: Figures) -> list[Row]:
    def row(what: str, pick: Callable[[Figures], float], unit: str) -> Row:
        return Row(what, amount(pick(ours), unit), f"Salt {amount(pick(theirs), unit)}", pick(ours) / pick(theirs))

    return [
        row(f"ping of {count}, through the running daemon, p50", lambda f: f.api_ms, "ms"),
        row("  the same from the command line, p50", lambda f: f.cli_ms, "ms"),
        row("  memory of the master", lambda f: f.master_mib, "MiB"),
        row("  memory of each minion", lambda f: f.minion_mib, "MiB"),
        row("  processor when idle, all together", lambda f: f.idle_percent, "% of a core"),
    ]


def install() -> Path:
    """Salt's environment. Raises CalledProcessError when it cannot be had."""
    return environment(RELEASE)


def environment(release: str) -> Path:
    """One that has this of PyPI, made once for each Python. Raises CalledProcessError when it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    home = cache / "pgha-bench" / f"{release.replace('==', '-')}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not (home / "made").exists():
        note(f"installing {release} into {home}: some minutes, once")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True, capture_output=True, text=True)
        pip = (str(home / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", release)
        subprocess.run(pip, check=True, capture_output=True, text=True)
        (home / "made").touch()
    return home


def idle_percent(pids: list[int], seconds: float) -> float:
    before, since = sum(map(cpu_s, pids)), time.monotonic()
    time.sleep(seconds)
    return (sum(map(cpu_s, pids)) - before) / (time.monotonic() - since) * 100


def _figures(
    count: int,
    ask: Callable[[], object],
    command: Callable[[], object],
    pids: list[int],
    rounds: int,
    idle_s: float,
    connect_s: float,
) -> Figures:
    """`pids`: the master's first."""
    idle = idle_percent(pids, idle_s)
    minions = [proportional_bytes(pid) for pid in pids[1:]]
    return Figures(
        api_ms=statistics.median(times(rounds, ask, 3)) * 1e3,
        cli_ms=statistics.median(times(max(5, rounds // 3), command, 1)) * 1e3,
        master_mib=proportional_bytes(pids[0]) / 2**20,
        minion_mib=statistics.mean(minions) / 2**20,
        idle_percent=idle,
        connect_s=connect_s,
    )


# ---- pgha


def _of_pgha(count: int, rounds: int, idle_s: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        master = make_master(Path(folder) / "master")
        assert master.process is not None
        started.append(master.process)
        since = time.monotonic()
        for number in range(count):
            minion = make_minion(Path(folder) / f"n{number}", f"n{number}")
            done = minion.enrol(master)
            if done.returncode:
                raise RuntimeError(done.stderr)
            minion.start()
            assert minion.process is not None
            started.append(minion.process)
            accept(master, minion.name)
        wait_for(f"{count} minions of pgha", lambda: len(master.connected()) == count, 300)
        connect_s = time.monotonic() - since

        def ask() -> None:
            end = master.ask("run", target="*", function="ping")[-1]
            if end["exit"]:
                raise RuntimeError(f"not all minions of pgha answered: {end}")

        pids = [process.pid for process in started]
        return _figures(count, ask, lambda: master.cli("run", "*", "ping"), pids, rounds, idle_s, connect_s)


def accept(master: Master, name: str) -> None:
    """Whatever key knocks under that name: the bench has started it itself."""
    wait_for(f"{name} knocking", lambda: bool(master.key(name)), 30)
    key = master.key(name)
    if key["state"] == "pending":
        end = master.ask("keys.accept", name=name, fingerprint=key["fingerprint"])[-1]
        if end["exit"]:
            raise RuntimeError(end["message"])


# ---- Salt

_CLIENT = """
import json, sys, time
import salt.client, salt.exceptions
client = None
for line in sys.stdin:
    try:
        client = client or salt.client.LocalClient(c_path=sys.argv[1])
        answered = client.cmd("*", "test.ping", timeout=30)
    except salt.exceptions.SaltException:
        client, answered = None, {}  # the master is not there yet
        time.sleep(1)
    print(json.dumps(sum(value is True for value in answered.values())), flush=True)
"""


def _of_salt(home: Path, count: int, rounds: int, idle_s: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder, processes() as started:
        port = another_port_pair()
        config = configure(
            Path(folder), "master", interface="127.0.0.1", publish_port=port, ret_port=port + 1, auto_accept=True
        )
        start(home, "salt-master", config, started)
        since = time.monotonic()
        for number in range(count):
            more = {"id": f"n{number}", "master": "127.0.0.1", "publish_port": port, "master_port": port + 1}
            start(home, "salt-minion", configure(Path(folder), f"minion{number}", **more), started)
        with _client(home, config, started) as ask:
            wait_for(f"{count} minions of Salt", lambda: ask() == count, 600)
            connect_s = time.monotonic() - since

            def all_answer() -> None:
                if (answered := ask()) != count:
                    raise RuntimeError(f"{answered} of {count} minions of Salt answered")

            def command() -> None:
                argv = (str(home / "bin/salt"), "-c", str(config.parent), "--out=quiet", "*", "test.ping")
                subprocess.run(argv, check=True, capture_output=True)

            pids = [process.pid for process in started[: count + 1]]
            return _figures(count, all_answer, command, pids, rounds, idle_s, connect_s)


def configure(folder: Path, name: str, **settings: Any) -> Path:
    home = folder / name
    home.mkdir()
    kind = "master" if name == "master" else "minion"
    paths = {"pki_dir": "pki", "cachedir": "cache", "sock_dir": "sock", "log_file": "log", "pidfile": "pid"}
    places = {key: str(home / place) for key, place in paths.items()}
    config = home / kind
    config.write_text(json.dumps({**settings, **places, "root_dir": str(home)}))  # JSON is YAML
    return config


def start(home: Path, program: str, config: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with (config.parent / "output").open("ab") as output:
        argv = (str(home / "bin" / program), "-c", str(config.parent), "-l", "warning")
        started.append(subprocess.Popen(argv, stdout=output, stderr=output))


@contextlib.contextmanager
def _client(home: Path, config: Path, started: list[subprocess.Popen[bytes]]) -> Iterator[Callable[[], int]]:
    """Salt's own client library in a process that goes on: how many answered a ping of all."""
    argv = (str(home / "bin/python"), "-c", _CLIENT, str(config))
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    started.append(process)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None

    def ask() -> int:
        stdin.write(b"\n")
        stdin.flush()
        return int(json.loads(stdout.readline()))

    yield ask
    stdin.close()


if __name__ == "__main__":
    run("salt", measure)
