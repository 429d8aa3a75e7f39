"""What pgha adds to a backup, a restore and the archive of WAL, beside pgBackRest as it is. Needs root, boots nodes.

The same program with the same settings on the same data, so what differs is what is asked before and after: the tool's
time by its own log is compared, and pgha's seconds around it stand in a row of their own. The repository is a folder on
the witness, over pgBackRest's TLS, so that no store's speed is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pgha.tests.bench.table import Row, against, amount, note, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
from labsite import Site, wait_until

NODES = ("pg-node1", "pg-node2", "witness-node")
POSTGRES = ("runuser", "-u", "postgres", "--")
BARE = (*POSTGRES, "pgbackrest", "--config=/etc/pgbackrest/backups.conf", "--stanza=prod")
FULL = (*BARE, "--repo=1", "--type=full", "--backup-standby", "backup")
SCALE, ROUNDS, SEGMENTS = 70, 3, 16  # of pgbench: 1 GB
AT_MOST = 1.05


def measure(quick: bool) -> list[Row]:
    if quick or os.geteuid() != 0:
        return [Row("backup: left out, it boots three nodes as root and takes minutes", "")]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(f"k{os.getpid()}", Path(folder))
        try:
            site.up()
            return _built(site)
        finally:
            site.stop_master()
            site.lab("down")


def _built(site: Site) -> list[Row]:
    for node in NODES:
        site.enrol(node)
        site.pgha("keys", "accept", node, "--yes")
    site.define(backup="{posix: {on: witness-node}, schedule: {full: null, diff: null}}", reconcile="{interval: 1d}")
    said = site.pgha("apply", "prod")
    if said.rc != 0:
        raise RuntimeError(f"the apply failed: {said.err[-500:]}")
    leader = site.status()["leader"]
    site.ok(leader, *POSTGRES, "/usr/lib/postgresql/17/bin/pgbench", "-q", "-i", "-s", str(SCALE), "postgres")
    site.ok(leader, *POSTGRES, "psql", "-qc", "checkpoint")
    return [*_backups(site), *_archive(site, leader), *_restores(site, leader)]


def _backups(site: Site) -> list[Row]:
    """A full backup from the standby, by turns."""
    ours: list[float] = []
    whole: list[float] = []
    bare: list[float] = []
    for _ in range(ROUNDS):
        whole.append(_timed(lambda: _must(site, "backup", "now", "prod", "--type", "full")))
        ours.append(_by_its_log(site, "witness-node", "backup"))
        assert site.on("witness-node", *FULL, timeout_s=600).rc == 0
        bare.append(_by_its_log(site, "witness-node", "backup"))
        note(f"full backup: pgha {ours[-1]:.1f} s of {whole[-1]:.1f} s, bare {bare[-1]:.1f} s")
    mine, theirs = statistics.median(ours), statistics.median(bare)
    return [
        against("a full backup of 1 GB", mine, theirs, "s", AT_MOST, "pgBackRest"),
        Row("  pgha's own seconds around it", amount(statistics.median(whole) - mine, "s")),
    ]


def _archive(site: Site, leader: str) -> list[Row]:
    """So many segments through PostgreSQL's archiver, and through the command by hand."""
    fill = "create table if not exists filler(t text); insert into filler select repeat('x', 2000) from generate_series"
    fill += "(1, 6000)"
    state = "select last_archived_wal >= '{}' from pg_stat_archiver"

    def by_the_archiver() -> None:
        for _ in range(SEGMENTS):
            last = site.ok(
                leader, *POSTGRES, "psql", "-XAtqc", f"{fill}; select pg_walfile_name(pg_switch_wal())"
            ).split()[-1]
        wait_until(
            "all are archived",
            lambda: site.ok(leader, *POSTGRES, "psql", "-XAtqc", state.format(last)).strip() == "t",
            120,
            0.05,
        )

    filled = _timed(by_the_archiver)
    written = statistics.median(
        _timed(lambda: site.ok(leader, *POSTGRES, "psql", "-XAtqc", f"{fill}; select pg_switch_wal()"))
        for _ in range(5)
    )
    return [
        Row(
            f"{SEGMENTS} segments of WAL written and archived",
            amount(filled, "s"),
            f"written only {written * SEGMENTS:.1f} s",
        )
    ]


def _restores(site: Site, leader: str) -> list[Row]:
    """Copying a backup beside the data, which is the tool's part of a restore, and the same by hand."""
    node = next(name for name in ("pg-node1", "pg-node2") if name != leader)
    since = time.monotonic()
    said = site.pgha("restore", "prod", "--to", "latest", "--on", node, "--confirm", "prod", "--json", timeout_s=900)
    whole = time.monotonic() - since
    if said.rc != 0:
        raise RuntimeError(f"the restore failed: {said.out[-500:]}{said.err[-500:]}")
    steps = [json.loads(line) for line in said.out.splitlines() if '"step":"restore"' in line]
    copied = next(s["seconds"] for s in steps if s.get("state") == "done" and "copy the backup" in s["detail"])
    own = _by_its_log(site, node, "restore")
    target = "/var/lib/postgresql/17/bare"
    bare = (*POSTGRES, "pgbackrest", "--stanza=prod", f"--pg1-path={target}", "restore")
    site.ok(node, "install", "-d", "-o", "postgres", "-m", "700", target)
    assert site.on(node, *bare, timeout_s=600).rc == 0
    theirs = _by_its_log(site, node, "restore")
    site.ok(node, "rm", "-r", target)
    note(f"restore: pgha copied for {copied:.1f} s of {whole:.1f} s, bare {theirs:.1f} s")
    return [
        against("copying a backup of 1 GB back", own, theirs, "s", AT_MOST, "pgBackRest"),
        Row("  pgha's own seconds around it", amount(copied - own, "s")),
        Row("  the whole cluster at that moment: replay, replica and a new full backup, too", amount(whole, "s")),
    ]


def _by_its_log(site: Site, node: str, command: str) -> float:
    """How long the last run of it took, in s, as pgBackRest itself has written down."""
    log = f"/var/log/pgbackrest/prod-{command}.log"
    ended = site.ok(node, "sh", "-c", f"grep '{command} command end: completed' {log} | tail -n 1")
    return int(ended.rsplit("(", 1)[1].split("ms")[0]) / 1000


def _must(site: Site, *words: str) -> None:
    said = site.pgha(*words, timeout_s=900)
    if said.rc != 0:
        raise RuntimeError(f"{' '.join(words)}: {said.err[-500:]}")


def _timed(work: Callable[[], object]) -> float:
    since = time.monotonic()
    work()
    return time.monotonic() - since


if __name__ == "__main__":
    run("backup", measure)
