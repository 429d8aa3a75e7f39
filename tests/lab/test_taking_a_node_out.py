"""A node is taken out of a cluster that goes on serving, and comes back: a replica, the leader, after a death midway.

One cluster for the whole file, in its order.
"""

from __future__ import annotations

import re
import signal
import subprocess
from typing import Any

import pytest
from labsite import MASTER, THREE, Said, Site, wait_until
from labwriter import Writer, make_ledger

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

PREPARED = True
SHAPE = {**THREE, "pg-node3": "region: asia"}
DATA = ("pg-node1", "pg-node2", "pg-node3")
WITNESS = "witness-node"


@pytest.fixture(scope="module")
def built(site: Site) -> Site:
    site.join()
    site.define(reconcile="{interval: 1d}")
    said = site.pgha("apply", "prod")
    assert said.rc == 0, said.out + said.err
    make_ledger(site)
    return site


def healthy(site: Site) -> dict[str, Any]:
    status = site.status()
    return status if status["verdict"] == "healthy" else {}


def leads(site: Site) -> str:
    return str(wait_until("healthy", lambda: healthy(site), 60)["leader"])


def take_out(site: Site, node: str) -> Said:
    site.define(without=node, reconcile="{interval: 1d}")
    return site.pgha("apply", "prod", "--allow-destroy", node)


def take_in(site: Site) -> Said:
    site.define(reconcile="{interval: 1d}")
    return site.pgha("apply", "prod")


def votes(site: Site) -> set[str]:
    """Who is a member of etcd, as the witness lists them."""
    tls = "--cacert=/etc/etcd/tls/ca.crt --cert=/etc/etcd/tls/etcd-server.crt --key=/etc/etcd/tls/etcd-server.key"
    said = site.ok(WITNESS, "etcdctl", "--endpoints=https://127.0.0.1:2379", *tls.split(), "member", "list")
    return {line.split(", ")[2] for line in said.splitlines()}


def is_out(site: Site, node: str) -> None:
    """Nothing serves the cluster there, now or after a boot; the data and what was configured are kept."""
    assert votes(site) == set(SHAPE) - {node}
    for unit in ("etcd", "patroni", "haproxy"):
        assert site.on(node, "systemctl", "is-active", unit).out.strip() != "active"
        assert site.on(node, "systemctl", "is-enabled", unit).out.strip() == "disabled"
    assert site.on(node, "pgrep", "-x", "postgres").out == ""
    site.ok(node, "sh", "-c", "test ! -e /var/lib/etcd/pgha && ls -d /var/lib/etcd/pgha.lost-*")
    site.ok(node, "sh", "-c", "test ! -e /etc/patroni/config.yml && test -s /etc/patroni/config.yml.taken-out")
    site.ok(node, "test", "-s", "/var/lib/postgresql/17/main/PG_VERSION")
    assert site.pgha("plan", "prod", "--detailed-exitcode").rc == 0
    wait_until("healthy", lambda: healthy(site), 60)


SLOW = "mkdir -p /run/systemd/system/etcd.service.d && cd /run/systemd/system/etcd.service.d && "
SLOW += "printf '[Service]\\nExecStopPost=/bin/sleep 8\\n' > slow.conf && systemctl daemon-reload"


def test_a_replica_is_taken_out_under_a_writer_though_the_master_dies_midway(built: Site) -> None:
    """It dies when the vote is taken and etcd's data is still there: etcd is made slow to stop, to hit that."""
    leader = leads(built)
    node = next(name for name in DATA if name != leader)
    built.define(without=node, reconcile="{interval: 1d}")
    refused = built.pgha("apply", "prod")
    assert refused.rc == 6
    assert f"pgha-master apply prod --allow-destroy {node}" in refused.err
    built.ok(node, "sh", "-c", SLOW)
    with Writer(built, WITNESS) as writer:
        argv = [str(MASTER), "apply", "prod", "--allow-destroy", node]
        apply = subprocess.Popen(argv, env=built.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("it has no vote any more", lambda: node not in votes(built), 60)
        built.stop_master(signal.SIGKILL)
        assert apply.wait(60) != 0
        built.ok(node, "test", "-d", "/var/lib/etcd/pgha/member/wal")
        built.ok(node, "sh", "-c", "rm /run/systemd/system/etcd.service.d/slow.conf && systemctl daemon-reload")
        built.start_master()
        said = take_out(built, node)
        assert said.rc == 0, said.out + said.err
        before = len(writer.acknowledged)
        wait_until("writes go on", lambda: len(writer.acknowledged) > before + 5, 30)
    assert f"{node} is no part of the cluster any more" in " ".join((said.out + said.err).split())
    assert writer.lost() == set()
    assert writer.longest_gap_s < 30
    assert leads(built) == leader
    is_out(built, node)


def test_it_comes_back_by_putting_it_into_the_definition_again(built: Site) -> None:
    said = take_in(built)
    assert said.rc == 0, said.out + said.err
    assert votes(built) == set(SHAPE)
    status = wait_until("healthy", lambda: healthy(built), 60)
    states = {node["name"]: node["state"] for node in status["nodes"]}
    assert [states[name] for name in DATA if name != status["leader"]] == ["streaming"] * 2


def test_the_leader_hands_over_before_it_is_taken_out_and_what_that_cost_is_told(built: Site) -> None:
    old = leads(built)
    with Writer(built, WITNESS) as writer:
        said = take_out(built, old)
        assert said.rc == 0, said.out + said.err
        before = len(writer.acknowledged)
        wait_until("writes go on", lambda: len(writer.acknowledged) > before + 5, 30)
    text = " ".join((said.out + said.err).split())
    assert re.search(rf"switchover from {old} to \S+; writes were refused for [0-9.]+ s", text), text
    assert writer.lost() == set()
    assert writer.longest_gap_s < 30
    assert leads(built) != old
    is_out(built, old)


def test_a_restart_of_etcd_is_refused_while_a_patroni_is_down_and_an_apply_starts_that_one(built: Site) -> None:
    rows = {row["name"]: row["state"] for row in built.status()["nodes"]}
    (out,) = set(SHAPE) - set(rows)
    (node,) = [name for name, state in rows.items() if state == "streaming"]
    built.ok(node, "systemctl", "stop", "patroni")
    wait_until(
        "it is seen", lambda: [r for r in built.status()["nodes"] if (r["name"], r["state"]) == (node, "down")], 30
    )
    built.define(without=out, etcd="{election_timeout: 2000}", reconcile="{interval: 1d}")
    refused = built.pgha("apply", "prod")
    assert refused.rc == 6, refused.out + refused.err
    text = " ".join(refused.err.split())
    assert f"{node}: Patroni is down there" in text
    assert "pgha-master apply prod --only patroni" in text
    for words in (("--only", "patroni"), ()):
        said = built.pgha("apply", "prod", *words)
        assert said.rc == 0, said.out + said.err
    wait_until("healthy", lambda: healthy(built), 60)
