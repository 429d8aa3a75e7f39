"""The one form in which every benchmark tells what it measured.

Rules:
1. A row compares: with a floor that does the same amount of work in the same run, or with a peer. A ratio holds on
   any machine, a millisecond does not.
2. A target that was missed is shown as missed. A row without a target is there to be known.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import zmq

HEAD = ("what", "pgha", "floor or peer", "ratio", "target", "met")


@dataclass(frozen=True)
class Row:
    """`met` is None where nothing is promised."""

    what: str
    pgha: str
    other: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return self.what, self.pgha, self.other, ratio, self.target, {None: "", True: "yes", False: "NO"}[self.met]


def against(what: str, ours: float, floor: float, unit: str, at_most: float | None = None, name: str = "") -> Row:
    """A row of two times, in the given unit. `name` says what the floor is."""
    ratio = ours / floor if floor else None
    target = "" if at_most is None else f"ratio <= {at_most:g}"
    met = None if at_most is None or ratio is None else ratio <= at_most
    return Row(what, amount(ours, unit), f"{name} {amount(floor, unit)}".strip(), ratio, target, met)


def below(what: str, ours: float, limit: float, unit: str, other: str = "") -> Row:
    """A row that has a limit of its own."""
    return Row(what, amount(ours, unit), other, None, f"< {limit:g} {unit}", ours < limit)


def exactly(what: str, ours: float, wanted: float, unit: str) -> Row:
    return Row(what, f"{ours:g} {unit}", "", None, f"{wanted:g}", ours == wanted)


def amount(value: float, unit: str) -> str:
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:,.{digits}f} {unit}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median_s(work: Callable[[], object], times: int, warm: int = 1) -> float:
    """Seconds of one call; `warm` calls before that are not counted."""
    taken = []
    for _ in range(times + warm):
        since = time.perf_counter()
        work()
        taken.append(time.perf_counter() - since)
    return statistics.median(taken[warm:])


def text(rows: Sequence[Row]) -> str:
    """A Markdown table whose columns stand under each other."""
    cells = [HEAD, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths))
    return "\n".join(f"{line} |" if index != 1 else f"{line}|" for index, line in enumerate(lines))


def about() -> str:
    """What the figures are of: date, versions, machine, and what else was going on there."""
    cpus, gib = len(os.sched_getaffinity(0)), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    one, five, _ = os.getloadavg()
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}; pgha {version('pgha')}, Python {platform.python_version()}, "
        f"pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}, {platform.system()} {platform.release()}, "
        f"{cpus} CPUs, {gib:.0f} GiB; load before: {one:.1f} (1 min), {five:.1f} (5 min)"
    )


def run(name: str, measure: Callable[[bool], list[Row]]) -> None:
    """The main program of one benchmark: `python tests/bench/NAME.py [--quick] [--json FILE]`."""
    arguments = options(name).parse_args()
    print(about(), flush=True)
    rows = measure(arguments.quick)
    print(text(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(any(row.met is False for row in rows))


def options(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(name)
    parser.add_argument("--quick", action="store_true", help="small and short, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    return parser


def note(line: str) -> None:
    """What is going on, for a person who waits."""
    print(f"   {line}", file=sys.stderr, flush=True)
