"""The backups of one cluster, from the day they are switched on to the day when everything is gone, in this order."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from functools import partial
from typing import Any

import pytest
from labsite import Site, wait_until
from labwriter import Writer, make_ledger

pytestmark = pytest.mark.lab
S3 = PREPARED = True
NODES = ("pg-node1", "pg-node2", "witness-node")
DATA = ("pg-node1", "pg-node2")
POSTGRES = ("runuser", "-u", "postgres", "--")


def healthy(site: Site) -> dict[str, Any]:
    status = site.status()
    return status if status["verdict"] == "healthy" else {}


def sql(site: Site, node: str, statement: str) -> str:
    return site.ok(node, *POSTGRES, "psql", "-XAtqc", statement).strip()


def leader(site: Site) -> str:
    name: str = wait_until("healthy", lambda: healthy(site), 120)["leader"]
    return name


def labels(site: Site) -> list[str]:
    told = site.data("backup", "list", "prod")
    return [one["label"] for one in told["backups"]]


def newest(site: Site, node: str = "pg-node1") -> dict[str, Any]:
    """The newest backup in the repository, as the tool on a node says right now."""
    told = json.loads(site.ok(node, *POSTGRES, "pgbackrest", "--stanza=prod", "info", "--output=json"))
    return told[0]["backup"][-1] if told[0]["backup"] else {}


@pytest.fixture(scope="module")
def built(site: Site) -> Site:
    """A cluster without backups."""
    site.join()
    site.define(reconcile="{interval: 1d}")
    said = site.pgha("apply", "prod")
    assert said.rc == 0, said.out + said.err
    make_ledger(site)
    return site


def test_wrong_credentials_are_told_before_postgresql_is_touched(built: Site) -> None:
    built.define(reconcile="{interval: 1d}", backup=built.backups(key="NOBODY"))
    said = built.pgha("apply", "prod")
    assert said.rc == 1
    assert "repository 1 (s3) is unreachable" in said.err
    assert "PostgreSQL was left as it is" in said.err
    assert sql(built, leader(built), "show archive_mode") == "off"


def test_backups_come_to_a_cluster_that_is_written_to_with_one_switchover(built: Site) -> None:
    before = leader(built)
    built.define(reconcile="{interval: 1d}", backup=built.backups())
    with Writer(built, "witness-node") as writer:
        said = built.pgha("apply", "prod")
        assert said.rc == 0, said.out + said.err
        count = len(writer.acknowledged)
        wait_until("writes go on", lambda: len(writer.acknowledged) > count + 5, 30)
    assert said.err.count("switchover from") >= 1
    assert leader(built) != before
    assert writer.lost() == set()
    assert writer.longest_gap_s < 30
    assert newest(built)["type"] == "full"
    assert built.pgha("backup", "check", "prod").rc == 0
    assert built.pgha("plan", "prod", "--detailed-exitcode").rc == 0


def test_a_backup_that_is_asked_for_is_made_on_the_standby_and_listed(built: Site) -> None:
    standby = next(node for node in DATA if node != leader(built))
    said = built.pgha("backup", "now", "prod", "--type", "incr")
    assert said.rc == 0, said.out + said.err
    assert f"by {standby}" in said.err
    wait_until("it is listed", lambda: newest(built)["label"] in labels(built), 90)
    assert built.pgha("backup", "verify", "prod").rc == 0


def test_a_dropped_table_is_back_as_it_was_a_second_before(built: Site) -> None:
    with Writer(built, "witness-node") as writer:
        count = len(writer.acknowledged)
        wait_until("there are rows", lambda: len(writer.acknowledged) > count + 20, 30)
    lead = leader(built)
    before = set(sql(built, lead, "select n from ledger").split())
    moment = sql(built, lead, "select clock_timestamp()")
    wait_until(
        "a second has passed",
        lambda: sql(built, lead, f"select clock_timestamp() > '{moment}'::timestamptz + interval '1 s'") == "t",
        10,
    )
    with Writer(built, "witness-node"):
        pass
    sql(built, lead, "drop table ledger")
    said = built.pgha("restore", "prod", "--to", moment, "--confirm", "prod")
    assert said.rc == 0, said.out + said.err
    lead = leader(built)
    assert set(sql(built, lead, "select n from ledger").split()) == before
    for node in DATA:
        assert "before-" in built.ok(node, "sh", "-c", "ls /var/lib/postgresql/*/")
        assert sql(built, node, "select count(*) from ledger") == str(len(before))
    with Writer(built, "witness-node") as writer:
        pass
    assert writer.lost() == set()
    assert built.pgha("plan", "prod", "--detailed-exitcode").rc == 0
    assert built.pgha("backup", "now", "prod").rc == 0
    proved = built.pgha("backup", "drill", "prod")
    assert proved.rc == 0, proved.out + proved.err
    assert built.pgha("restore", "prod", "--commit", "--confirm", "prod").rc == 0
    for node in DATA:
        assert "before-" not in built.ok(node, "sh", "-c", "ls /var/lib/postgresql/*/")


def test_a_target_that_no_wal_reaches_leaves_the_cluster_as_it_was(built: Site) -> None:
    lead = leader(built)
    count = sql(built, lead, "select count(*) from ledger")
    refused = built.pgha("restore", "prod", "--to", "2020-01-01 00:00:00+00", "--confirm", "prod")
    assert refused.rc == 6
    assert "before the end of the oldest backup" in refused.err
    failed = built.pgha("restore", "prod", "--name", "nobody-made-this-point", "--confirm", "prod")
    assert failed.rc == 1
    assert "recovery ended before configured recovery target was reached" in failed.err
    assert "the cluster goes on with the data it had" in failed.err
    assert sql(built, leader(built), "select count(*) from ledger") == count


def test_a_restore_whose_node_loses_power_goes_on_where_it_was(built: Site) -> None:
    lead = leader(built)
    node = next(name for name in DATA if name != lead)
    sql(built, lead, "create table big as select g, repeat(md5(g::text), 20) as t from generate_series(1, 400000) g")
    assert built.pgha("backup", "now", "prod", "--type", "full").rc == 0
    sql(built, lead, "insert into ledger values (-1)")
    sql(built, lead, "select pg_switch_wal()")
    restoring = built.begin("restore", "prod", "--to", "latest", "--confirm", "prod")
    work = ("sh", "-c", "ls -d /var/lib/postgresql/*/main.restore-*/base")
    wait_until("it copies", lambda: built.on(node, *work).rc == 0, 60, 0.05)
    built.lab("kill", node)
    built.lab("start", node)
    rc = restoring.wait(600)
    if rc != 0:
        said = built.pgha("restore", "prod", "--resume", "--confirm", "prod")
        assert said.rc == 0, said.out + said.err
    lead = leader(built)
    assert sql(built, lead, "select count(*) from big") == "400000"
    assert sql(built, lead, "select count(*) from ledger where n = -1") == "1"
    assert built.pgha("restore", "prod", "--commit", "--confirm", "prod").rc == 0


def test_a_replica_is_made_from_the_repository(built: Site) -> None:
    node = next(name for name in DATA if name != leader(built))
    said = built.pgha("reinit", "prod", node, "--confirm", node)
    assert said.rc == 0, said.out + said.err
    assert "replica has been created using pgbackrest" in built.ok(node, "journalctl", "-u", "patroni", "-n", "5000")


def test_a_replica_is_copied_from_the_leader_while_the_repository_does_not_answer(built: Site) -> None:
    node = next(name for name in DATA if name != leader(built))
    built.lab("exec", "s3", "--", "systemctl", "stop", "s3rver")
    try:
        since = time.monotonic()
        said = built.pgha("reinit", "prod", node, "--confirm", node)
        assert said.rc == 0, said.out + said.err
        assert time.monotonic() - since < 120
    finally:
        built.lab("exec", "s3", "--", "systemctl", "start", "s3rver")
    assert "replica has been created using basebackup" in built.ok(node, "journalctl", "-u", "patroni", "-n", "5000")
    wait_until("WAL is archived again", lambda: healthy(built), 150)


def test_a_member_that_cannot_be_rewound_is_made_anew_by_itself(built: Site) -> None:
    old = leader(built)
    new = next(name for name in DATA if name != old)
    built.ok(old, "sh", "-c", "mv /usr/lib/postgresql/17/bin/pg_rewind /usr/lib/postgresql/17/bin/pg_rewind.away")
    built.lab("partition", old)
    wait_until("the other one leads", lambda: sql(built, new, "select pg_is_in_recovery()") == "f", 90)
    sql(built, new, "create table meanwhile as select generate_series(1, 1000)")
    built.lab("heal")
    try:
        wait_until("both are there again", lambda: healthy(built), 180)
    finally:
        built.ok(old, "sh", "-c", "mv /usr/lib/postgresql/17/bin/pg_rewind.away /usr/lib/postgresql/17/bin/pg_rewind")
    assert sql(built, old, "select count(*) from meanwhile") == "1000"
    assert leader(built) == new


def test_after_a_failover_amid_a_backup_and_an_archive_push_the_next_repairs_it_and_no_wal_is_missing(
    built: Site,
) -> None:
    lead = leader(built)
    node = next(name for name in DATA if name != lead)
    started = built.begin("backup", "now", "prod", "--type", "full")
    wait_until(
        "it runs",
        lambda: built.on(node, "systemctl", "is-active", "pgha-backup@full-now").out.strip() == "activating",
        60,
    )
    built.ok("s3", "systemctl", "kill", "-s", "STOP", "s3rver")
    write = "insert into ledger select least(min(n), -10) - 1 from ledger; select pg_walfile_name(pg_switch_wal())"
    segments = [sql(built, lead, write) for _ in range(3)]
    pushing = ("pgrep", "-f", "archive-push:async")
    wait_until("WAL is on its way", lambda: built.on(lead, *pushing).rc == 0, 30)
    built.lab("kill", lead)
    built.ok("s3", "systemctl", "kill", "-s", "CONT", "s3rver")
    wait_until("the other one leads", lambda: sql(built, node, "select pg_is_in_recovery()") == "f", 90)
    kept = (*POSTGRES, "pgbackrest", "--stanza=prod", "repo-ls", "--recurse", "archive/prod")

    def missing() -> list[str]:
        archived = built.ok(node, *kept)
        return [segment for segment in segments if segment not in archived]

    wait_until("the new leader has archived what it received", lambda: not missing(), 90)
    built.lab("start", lead)
    started.wait(300)
    wait_until("both are there again", lambda: healthy(built), 180)
    said = built.pgha("backup", "now", "prod", "--type", "full")
    assert said.rc == 0, said.out + said.err
    verified = built.pgha("backup", "verify", "prod")
    assert verified.rc == 0, verified.out + verified.err


def test_backups_go_on_while_the_master_is_away(built: Site) -> None:
    built.define(reconcile="{interval: 1d}", backup=built.backups(schedule="{incr: '*:*:0/15', full: '*:0/2'}"))
    assert built.pgha("apply", "prod").rc == 0
    built.stop_master()
    seen: set[str] = set()

    def more() -> bool:
        seen.add(newest(built)["label"])
        return len(seen) > 3 and any("I" not in label for label in list(seen)[1:])

    wait_until("several have been made, and a full one", more, 200, 2.0)
    built.start_master()
    wait_until("all minions are connected", lambda: built.connected() == set(NODES), 40)
    built.define(reconcile="{interval: 1d}", backup=built.backups())
    assert built.pgha("apply", "prod").rc == 0


def test_when_everything_is_gone_one_command_builds_it_again_from_the_repository(built: Site) -> None:
    lead = leader(built)
    sql(built, lead, "insert into ledger values (-2)")
    rows = sql(built, lead, "select count(*) from ledger")
    segment = sql(built, lead, "select pg_walfile_name(pg_switch_wal())")
    wait_until(
        "it is archived", lambda: sql(built, lead, "select last_archived_wal from pg_stat_archiver") >= segment, 60
    )
    for node in NODES:
        built.lab("wipe", node)
    for node in NODES:
        assert "conflict" in built.enrol(node).out
        assert built.pgha("keys", "revoke", node, "--yes").rc == 0
    for node in NODES:
        accept = ("keys", "accept", node, "--yes")
        wait_until("the new key is let in", partial(lambda words: built.pgha(*words).rc == 0, accept), 30)
    wait_until("all minions are connected", lambda: built.connected() == set(NODES), 60)
    refused = built.pgha("apply", "prod")
    assert refused.rc == 1
    assert "holds backups of a cluster prod already" in refused.err
    said = built.pgha("restore", "prod", "--to", "latest", "--confirm", "prod", timeout_s=900)
    assert said.rc == 0, said.out + said.err
    assert sql(built, leader(built), "select count(*) from ledger") == rows
    assert built.pgha("plan", "prod", "--detailed-exitcode").rc == 0
    assert datetime.fromtimestamp(newest(built)["timestamp"]["stop"], timezone.utc).year > 2000
