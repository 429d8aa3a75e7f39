"""The proof by restoring, on a real cluster with two repositories: on its witness, where the proof is made, too, and in
a store.

In the order of this file.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from labsite import Said, Site, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

S3 = True
NODES = ("pg-node1", "pg-node2", "witness-node")
AT = "witness-node"
IN_STORE, ON_WITNESS = 1, 2  # the repositories
LEFT = "ls -d /var/lib/pgha-drill /var/lib/postgresql/*/pgha-drill /run/pgha-drill; ps -eo args | grep '[p]gha-scratch'"
BEYOND = """
import sys
from pathlib import Path
from pgha.common.errors import HostError
from pgha.minion.backups.scratch import Place, Scratch
server = Scratch(Place(Path(sys.argv[1]), sys.argv[2], Path("/run/pgha-beyond")))
try:
    server.start(print)
except HostError as error:
    print(error)
server.clean()
"""


@pytest.fixture(scope="module")
def built(site: Site) -> Site:
    site.join()
    backup = site.backups(posix="{on: witness-node}", drill="{on: witness-node}")
    site.define(system="{packages: {upgrade: none}}", backup=backup)
    said = site.pgha("apply", "prod")
    assert said.rc == 0, said.out + said.err
    return site


def drill(site: Site, node: str = AT) -> Said:
    return site.on(node, "pgha-minion", "backup", "drill", timeout_s=400.0)


def record(site: Site, node: str = AT) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(site.ok(node, "tail", "-n", "1", "/var/lib/pgha/backups/drills.jsonl"))
    return last


def left(site: Site, node: str = AT) -> str:
    return site.on(node, "sh", "-c", LEFT).out


def test_a_host_that_only_proves_has_the_software_and_no_cluster_of_its_own(built: Site) -> None:
    assert built.ok(AT, "pg_lsclusters", "--no-header") == ""
    assert built.on(AT, "pgha-minion", "backup", "drill", "--due").rc == 0


def test_a_drill_when_one_is_due_is_good_and_leaves_nothing_but_its_record(built: Site) -> None:
    built.ok(AT, "systemctl", "start", "pgha-drill-due.service")
    wait_until("it is over", lambda: built.on(AT, "systemctl", "is-active", "pgha-drill").out.strip() == "inactive", 90)
    made = record(built)
    assert made["ok"], made
    assert made["label"].endswith("F")
    assert 0 < made["age_s"] < 80
    assert 0 < made["seconds"] < 80
    assert left(built) == ""


def test_then_none_is_due_and_one_by_hand_proves_the_other_repository(built: Site) -> None:
    due = built.on(AT, "pgha-minion", "backup", "drill", "--due")
    assert due.rc == 1 and "one is due every 7" in due.err
    assert record(built)["repository"] == ON_WITNESS
    built.ok(AT, "systemctl", "start", "pgha-drill.service")
    assert record(built)["ok"] and record(built)["repository"] == IN_STORE


def test_what_is_in_each_repository_is_read_whole(built: Site) -> None:
    said = built.pgha("backup", "verify", "prod")
    assert said.rc == 0, said.out + said.err
    assert "2 repositories were read whole" in said.out


def test_a_damaged_repository_is_found_out_and_the_record_says_why(built: Site) -> None:
    held = built.ok(AT, "find", "/var/lib/pgbackrest/backup/prod", "-path", "*/bundle/*", "-size", "+20k")
    bundle = sorted(held.split())[0]
    built.ok(AT, "cp", "-p", bundle, "/var/tmp/kept")
    middle = int(built.ok(AT, "stat", "-c", "%s", bundle)) // 2
    garble = ("dd", "if=/dev/urandom", f"of={bundle}", "bs=1", f"seek={middle}", "count=4096", "conv=notrunc")
    built.ok(AT, *garble)
    verified = built.pgha("backup", "verify", "prod")
    asked = built.pgha("backup", "drill", "prod")
    built.ok(AT, "cp", "-p", "/var/tmp/kept", bundle)
    assert verified.rc == 1 and "checksum" in verified.err
    assert asked.rc == 1 and "does not restore" in asked.err
    made = record(built)
    assert not made["ok"] and made["repository"] == ON_WITNESS  # whose turn it was
    assert "the restore failed: [" in made["error"]
    assert left(built) == ""
    asked = built.pgha("backup", "drill", "prod")
    assert asked.rc == 0, asked.err
    assert "was restored and read on witness-node" in asked.out


def test_a_store_that_is_away_keeps_nothing_of_the_other_repository(built: Site) -> None:
    built.lab("kill", "s3")
    plan, asked = built.pgha("plan", "prod", "--detailed-exitcode"), built.pgha("backup", "verify", "prod")
    wait_until("it is told", lambda: "repository 1" in json.dumps(built.status()["findings"]), 120)
    built.lab("start", "s3")
    assert plan.rc == 0, plan.out + plan.err
    assert asked.rc == 1 and "error: repository 1: it is unreachable" in asked.err
    assert "repository 2  done" in asked.err


def test_a_data_node_can_prove_it_beside_its_own_server(built: Site) -> None:
    serving = built.ok("pg-node2", "systemctl", "show", "-P", "MainPID", "patroni")
    said = drill(built, "pg-node2")
    assert said.rc == 0, said.out + said.err
    assert left(built, "pg-node2") == ""
    assert built.ok("pg-node2", "systemctl", "show", "-P", "MainPID", "patroni") == serving
    assert "00000002.history" not in built.ok(AT, "sh", "-c", "ls -R /var/lib/pgbackrest/archive/prod")


def test_one_that_was_killed_is_cleared_away_by_the_next(built: Site) -> None:
    built.ok(AT, "systemctl", "start", "--no-block", "pgha-drill.service")
    pidfile = "/var/lib/pgha-drill/data/postmaster.pid"
    wait_until("the restored server runs", lambda: built.on(AT, "test", "-s", pidfile).rc == 0, 60, 0.05)
    built.ok(AT, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", "pgha-drill.service")
    assert "/var/lib/pgha-drill" in left(built)
    assert drill(built).rc == 0
    assert left(built) == ""


def test_recovery_to_what_was_never_archived_ends_with_postgresqls_own_words(built: Site) -> None:
    folder, major = "/var/lib/pgha-beyond", built.ok(AT, "ls", "/usr/lib/postgresql").strip()
    built.ok(AT, "install", "-d", "-o", "postgres", "-m", "700", folder)
    target = ("--type=name", "--target=never-made", "--target-action=promote", "--archive-mode=off")
    user = ("runuser", "-u", "postgres", "--")
    built.ok(AT, *user, "pgbackrest", "--stanza=prod", f"--pg1-path={folder}/data", *target, "restore")
    said = built.ok(AT, "/opt/pgha/bin/python3", "-c", BEYOND, f"{folder}/data", f"/usr/lib/postgresql/{major}/bin")
    built.ok(AT, "rm", "-r", folder)
    assert "recovery ended before configured recovery target was reached" in said
    assert "Traceback" not in said


def test_with_the_store_away_the_cluster_comes_back_from_the_other_repository(built: Site) -> None:
    """It goes when PostgreSQL has stopped, whose archiver would wait for it, and comes back for the last backup."""
    lead = built.status()["leader"]
    sql = ("runuser", "-u", "postgres", "--", "psql", "-XAtqc")
    built.ok(lead, *sql, "create table kept as select 1 as n")
    label = next(b["label"] for b in built.data("backup", "list", "prod")["backups"] if b["repository"] == ON_WITNESS)
    restoring = built.begin("restore", "prod", "--to", "latest", "--label", label, "--confirm", "prod")

    def told(text: str) -> bool:
        return restoring.poll() is not None or text in (built.root / "begun.log").read_text()

    wait_until("it has stopped", lambda: told("PostgreSQL is stopped"), 200)
    built.lab("kill", "s3")
    wait_until("data has changed places", lambda: told("what was there is kept"), 200)
    built.lab("start", "s3")
    assert restoring.wait(300) == 0, (built.root / "begun.log").read_text()
    assert built.ok(built.status()["leader"], *sql, "select n from kept").strip() == "1"
    assert built.pgha("backup", "verify", "prod").rc == 0


def test_another_cluster_begins_with_these_backups_and_leaves_them_alone(built: Site) -> None:
    """On the same hosts, wiped and under other names; what is in the store is all that is left."""
    lead = built.status()["leader"]
    sql = ("runuser", "-u", "postgres", "--", "psql", "-XAtqc")
    built.ok(lead, *sql, "create table inherited as select 7 as n")
    segment = built.ok(lead, *sql, "select pg_walfile_name(pg_switch_wal())")
    last = (lead, *sql, "select last_archived_wal from pg_stat_archiver")
    # whose archiver could not reach the store a while ago rests a minute between two rounds of tries
    wait_until("it is archived", lambda: built.ok(*last) >= segment, 180)

    def timeline(node: str) -> int:
        return int(built.ok(node, *sql, "select timeline_id from pg_control_checkpoint()"))

    old = timeline(lead)
    names = {"pg-node1": "copy1", "pg-node2": "copy2", "witness-node": "copy3"}
    for node in NODES:
        built.lab("wipe", node)
        assert built.enrol(node, names[node]).rc == 0
    assert built.pgha("keys", "accept", "--all", "--yes").rc == 0
    wait_until("they are connected", lambda: set(names.values()) <= built.connected(), 60)
    text = (built.root / "etc/pgha/clusters/prod.yml").read_text().replace("cluster: prod", "cluster: copy")
    for node, name in names.items():
        text = text.replace(node, name)
    copy = built.root / "etc/pgha/clusters/copy.yml"
    own = "bootstrap: {from_backup: {stanza: prod}}\npostgresql: {parameters: {max_connections: 77}}\n"
    copy.write_text(text + own)
    said = built.pgha("apply", "copy", timeout_s=900)
    assert said.rc == 0, said.out + said.err
    found = built.data("status", "copy")
    assert found["verdict"] == "healthy", found["findings"]
    lead = next(node for node, name in names.items() if name == found["leader"])
    assert built.ok(lead, *sql, "select n from inherited").strip() == "7"
    assert built.ok(lead, *sql, "show max_connections").strip() == "77"
    assert built.pgha("plan", "copy", "--detailed-exitcode").rc == 0
    new = timeline(lead)

    def archived(stanza: str) -> str:
        words = ("pgbackrest", f"--stanza={stanza}", "--repo=1", "repo-ls", f"archive/{stanza}", "--recurse")
        return built.ok(lead, "runuser", "-u", "postgres", "--", *words)

    assert f"{new:08X}.history" in archived("copy") and f"/{old:08X}0000" in archived("prod")
    assert new > old and not [one for one in range(old + 1, new + 1) if f"/{one:08X}" in archived("prod")]
