"""How long an apply takes on three real nodes, against what bounds it; and an apply with nothing to do. Needs root.

The floor is its critical path: of each step its slowest node, the gates and the verification.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from pgha.tests.bench.table import Row, amount, median_s, note, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
from labsite import Site

NODES = ("pg-node1", "pg-node2", "witness-node")


def measure(quick: bool) -> list[Row]:
    if quick or os.geteuid() != 0:
        return [Row("apply: left out, it boots three nodes as root and takes minutes", "")]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(f"b{os.getpid()}", Path(folder))
        try:
            site.up()
            return _applies(site)
        finally:
            site.stop_master()
            site.lab("down")


def _applies(site: Site) -> list[Row]:
    for node in NODES:
        site.enrol(node)
        site.pgha("keys", "accept", node, "--yes")
    site.define()
    said = site.pgha("apply", "prod", "--json")
    end = json.loads(said.out.splitlines()[-1])
    if said.rc != 0:
        raise RuntimeError(f"the apply failed: {end['message']}")
    whole, critical = end["data"]["seconds"], end["data"]["critical_path_s"]
    for row in sorted(end["data"]["timings"], key=lambda row: -row["seconds"])[:6]:
        note(f"{row['step']:<22}{row['node'] or 'all':<14}{row['seconds']:7.1f} s")
    idle = median_s(lambda: site.pgha("apply", "prod"), 5)
    return [
        Row("apply, three bare nodes", amount(whole, "s"), f"critical path {critical:.1f} s", whole / critical),
        Row("  again, with nothing to do", amount(idle, "s"), "the first one", idle / whole),
    ]


if __name__ == "__main__":
    run("apply", measure)
