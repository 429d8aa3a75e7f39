"""What the host says of itself: facts, file systems, processes, and what a first apply wants to know."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from ...common.results import Outcome
from ...states import halves
from ..preflight import listening, mirror
from ..survey import survey
from .request import Call, Doors, arguments, number

PROCESSES, PROCESSES_MAX = 10, 100
_WATCHED_S = 0.3  # over how long the use of the CPU is measured


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    name: str
    user: str
    memory_bytes: int
    cpu_percent: float


def ping(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    return Outcome(ok=True, exit_code=0, data={"pong": True})


def facts(call: Call, doors: Doors) -> Outcome:
    """What the host is, and `now`, its own time (Unix s) as this is answered."""
    arguments(call, 0, 0)
    return Outcome(ok=True, exit_code=0, data=survey().model_dump(mode="json") | {"now": time.time()})


def preflight(call: Call, doors: Doors) -> Outcome:
    """What a node can tell before anything is changed on it: who listens where, and whether packages can be had."""
    arguments(call, 0, 0)
    return Outcome(ok=True, exit_code=0, data={"listening": listening(), "mirror": mirror(doors.system)})


def ssh_public(call: Call, doors: Doors) -> Outcome:
    """What other nodes must know of this one to speak SSH with it, in both directions. No private key is shown."""
    arguments(call, 0, 0)
    return Outcome(ok=True, exit_code=0, data=halves.look(doors.system).model_dump(mode="json"))


def disk(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    systems = _file_systems()
    for path, (kind, total, free, percent) in systems.items():
        doors.output("stdout", f"{percent:5.1f} %  {_size(free)} free of {_size(total)}  {path}  {kind}\n")
    keys = ("type", "total_bytes", "free_bytes", "used_percent")
    data = {path: dict(zip(keys, values, strict=True)) for path, values in systems.items()}
    return Outcome(ok=True, exit_code=0, data={"file_systems": data})


def _file_systems() -> dict[str, tuple[str, int, int, float]]:
    """Mount point -> type, bytes in all, bytes free for others than root, percent used; the root's always."""
    mounted = {"/": "", **{part.mountpoint: part.fstype for part in psutil.disk_partitions(all=False)}}
    found: dict[str, tuple[str, int, int, float]] = {}
    for path, kind in mounted.items():
        try:
            usage = psutil.disk_usage(path)
        except OSError:
            continue
        if usage.total and Path(path).is_dir():  # containers have single files mounted
            found[path] = (kind, usage.total, usage.free, usage.percent)
    return found


def processes(call: Call, doors: Doors) -> Outcome:
    """Never their arguments: passwords stand in some."""
    given = arguments(call, 0, 1)
    most = number(call, given[0], PROCESSES_MAX) if given else PROCESSES
    shown = largest(_measured(), most)
    for process in shown:
        line = f"{process.pid:8} {process.user:16} {process.cpu_percent:6.1f} % {_size(process.memory_bytes):>10}  "
        doors.output("stdout", f"{line}{process.name}\n")
    keys = ("pid", "name", "user", "memory_bytes", "cpu_percent")
    return Outcome(ok=True, exit_code=0, data={"processes": [{key: getattr(p, key) for key in keys} for p in shown]})


def largest(running: list[Process], most: int) -> list[Process]:
    """The `most` by memory and the `most` by CPU, each once, the busiest first."""
    by_memory = sorted(running, key=lambda p: p.memory_bytes, reverse=True)[:most]
    by_cpu = [p for p in sorted(running, key=lambda p: p.cpu_percent, reverse=True)[:most] if p.cpu_percent > 0]
    return sorted({*by_memory, *by_cpu}, key=lambda p: (-p.cpu_percent, -p.memory_bytes, p.pid))


def _measured() -> list[Process]:
    watched = list(psutil.process_iter())
    for process in watched:
        _cpu(process)  # the first answer is 0; it begins the measurement
    time.sleep(_WATCHED_S)
    return [seen for process in watched if (seen := _seen(process))]


def _seen(process: psutil.Process) -> Process | None:
    try:
        with process.oneshot():
            # not psutil's name(), which completes a long one from the arguments
            name = Path(f"/proc/{process.pid}/comm").read_text(errors="replace").strip()
            return Process(process.pid, name, process.username(), process.memory_info().rss, _cpu(process))
    except (psutil.Error, OSError):
        return None  # it has ended


def _cpu(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent(interval=None))
    except psutil.Error:
        return 0.0


def _size(number: int) -> str:
    size = float(number)
    for name in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {name}" if name == "B" else f"{size:.1f} {name}"
        size /= 1024
    return f"{size:.1f} TiB"
