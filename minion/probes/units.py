"""Which of the units that make up a node run, in systemd's words; and whether there is a database to lose."""

from __future__ import annotations

import re

from ...states.system import Look
from .patroni import CONFIG

UNITS = ("patroni", "etcd", "haproxy", "chrony", "systemd-timesyncd", "ufw", "ssh", "pgha-minion")
CLUSTERS = "/var/lib/postgresql"
DEADLINE_S = 2.0


def probe(look: Look) -> dict[str, str]:
    """Unit name without .service -> active, inactive, failed, activating; a unit that is not there is left out.

    All in one question: this runs every few seconds for ever. Empty when systemd does not answer.
    """
    argv = ("systemctl", "show", "-p", "LoadState", "-p", "ActiveState", *(f"{name}.service" for name in UNITS))
    output = look.ask(argv, timeout_s=DEADLINE_S)
    return states(output.stdout) if output.rc == 0 else {}


def states(shown: str) -> dict[str, str]:
    """What `systemctl show` printed for UNITS: one block a unit, in their order, an empty line between two."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n")]
    return {
        name: block.get("ActiveState", "")
        for name, block in zip(UNITS, blocks, strict=False)
        if block.get("LoadState", "not-found") != "not-found"
    }


def data_directory_present(look: Look) -> bool:
    """Whether a PostgreSQL data directory is filled: the one that Patroni is told of, or /var/lib/postgresql/*/*."""
    own = re.search(r"^  data_dir: ['\"]?([^'\"\n]+)", look.file(CONFIG).content or "", re.MULTILINE)
    return (own is not None and look.file(f"{own[1]}/PG_VERSION").kind == "file") or any(
        look.file(f"{CLUSTERS}/{major}/{name}/PG_VERSION").kind == "file"
        for major in look.names(CLUSTERS)
        if major.isdigit()
        for name in look.names(f"{CLUSTERS}/{major}")
        if not re.search(r"\.(restore|before)-", name)  # what a restore copies, and what it has put aside
    )
