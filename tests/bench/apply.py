"""How long an apply takes on three real nodes, against what bounds it; and an apply with nothing to do. Needs root.

Prints the whole as a multiple of its critical path (of each step its slowest node, the gates and the verification),
the median of five applies that change nothing, and the start of the CLI against a bare start of Python.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
from labsite import MASTER, Site

NODES = ("pg-node1", "pg-node2", "witness-node")


def median_s(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        since = time.monotonic()
        work()
        taken.append(time.monotonic() - since)
    return statistics.median(taken)


def start_of_the_cli() -> None:
    cli = median_s(lambda: subprocess.run([str(MASTER), "--help"], check=True, capture_output=True), 9)
    bare = median_s(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 9)
    print(f"pgha-master --help        {cli * 1000:7.0f} ms   {cli / bare:5.1f} x a bare python")


def applies(site: Site) -> None:
    for node in NODES:
        site.enrol(node)
        site.pgha("keys", "accept", node, "--yes")
    site.define()
    said = site.pgha("apply", "prod", "--json")
    end = json.loads(said.out.splitlines()[-1])
    if said.rc != 0:
        sys.exit(f"the apply failed: {end['message']}")
    whole, critical = end["data"]["seconds"], end["data"]["critical_path_s"]
    print(
        f"apply, three bare nodes   {whole:7.1f} s    {whole / critical:5.2f} x its critical path of {critical:.1f} s"
    )
    for row in sorted(end["data"]["timings"], key=lambda row: -row["seconds"])[:6]:
        print(f"    {row['step']:<22}{row['node'] or 'all':<14}{row['seconds']:7.1f} s")
    idle = median_s(lambda: site.pgha("apply", "prod"), 5)
    print(f"apply, nothing to do      {idle:7.1f} s    {idle / whole:5.2f} x the first one")


def main() -> None:
    start_of_the_cli()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(f"b{os.getpid()}", Path(folder))
        try:
            site.up()
            applies(site)
        finally:
            site.stop_master()
            site.lab("down")


if __name__ == "__main__":
    main()
