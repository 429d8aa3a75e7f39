"""A plan on real nodes: it performs nothing, misses nothing, invents nothing; and what an apply does is done once.

One cluster for the whole file, in its order.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
from collections import Counter
from typing import Any

import pytest
from labsite import ETCDCTL, MASTER, Said, Site, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

PREPARED = True
NODES = ("pg-node1", "pg-node2", "witness-node")
DATA = ("pg-node1", "pg-node2")


@pytest.fixture(scope="module")
def built(site: Site) -> Site:
    site.join()
    site.define(firewall="{confirm_timeout: 5s}", reconcile="{interval: 1d}")
    said = site.pgha("apply", "prod")
    assert said.rc == 0, said.out + said.err
    return site


def healthy(site: Site) -> dict[str, Any]:
    status = site.status()
    return status if status["verdict"] == "healthy" else {}


def planned(site: Site) -> Counter[tuple[str, str]]:
    """What differs by itself: not what only follows, such as a reload."""
    nodes = site.data("plan", "prod")["nodes"]
    found = [(n["node"], r) for n in nodes for r in n["results"] if r["status"] == "planned"]
    return Counter((node, r["resource"]) for node, r in found if not all(c["follows"] for c in r["changes"]))


# ---- a plan performs nothing

CALLS = "execve,open,openat,openat2,creat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir"
CALLS += ",mkdirat,rmdir,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,truncate,ftruncate,utimensat,mknod,mknodat"
CALLS += ",setxattr,fsetxattr,kill,tgkill,mount,umount2,sethostname,settimeofday,clock_settime,connect"
ASKED = {  # programs that a plan may start: all of them only say something
    *("apt-get", "dpkg", "dpkg-query", "ischroot", "iptables", "chronyc", "systemctl", "systemd-detect-virt"),
    *("timedatectl", "ufw", "runuser", "psql", "etcdctl", "postgres", "getent", "id"),
}
OWN = ("/var/lib/pgha/", "/dev/null", "/run/ufw.lock")  # its journal, and the lock that `ufw show` takes
LOCAL = re.compile(r'sun_path="/|inet_addr\("127\.0\.0\.1"\)|inet_pton\(AF_INET6, "::1"|AF_NETLINK')


def test_a_plan_writes_nothing_starts_only_what_looks_and_asks_nobody_outside(built: Site) -> None:
    """Every system call by which the minion, and what it starts, could write, run or connect is recorded."""
    node = wait_until("healthy", lambda: healthy(built), 60)["leader"]
    built.ok(node, "sh", "-c", "DEBIAN_FRONTEND=noninteractive apt-get install -qy strace")
    built.ok(
        node, "sh", "-c", "echo '# by hand' >> /etc/haproxy/haproxy.cfg; ufw delete allow 1/tcp; systemctl stop chrony"
    )
    built.define(postgresql="{parameters: {max_connections: 150}}", reconcile="{interval: 1d}")
    pid = built.ok(node, "systemctl", "show", "-p", "MainPID", "--value", "pgha-minion").strip()
    trace = ("strace", "-f", "-qq", "-y", "-e", f"trace={CALLS}", "-o", "/var/tmp/trace", "-p", pid)
    built.ok(node, "systemd-run", "--unit=tracer", *trace)
    wait_until("strace is attached", lambda: "TracerPid:\t0" not in built.ok(node, "cat", f"/proc/{pid}/status"), 20)
    said = built.pgha("plan", "prod", "--detailed-exitcode")
    assert said.rc == 3, said.out + said.err
    assert "haproxy.cfg" in said.out and "max_connections" in said.out
    built.ok(node, "systemctl", "stop", "tracer")
    lines = [line for line in built.ok(node, "cat", "/var/tmp/trace").splitlines() if "ENOENT" not in line]
    built.define(reconcile="{interval: 1d}")
    assert built.pgha("apply", "prod").rc == 0

    started = {m[1] for line in lines if (m := re.search(r'execve\("[^"]*?([^"/]+)"', line))}
    assert {"systemctl", "postgres"} <= started  # it has looked
    assert started <= ASKED
    outside = [line for line in lines if " connect(" in line and not LOCAL.search(line)]
    assert outside == []
    assert [line for line in lines if _writes(line)] == []


def _writes(line: str) -> bool:
    call = re.search(r"\d+ +(\w+)\(", line)
    if call is None or call[1] in ("execve", "connect") or " = -1 " in line:
        return False
    if call[1] == "tgkill" and "SIGURG" in line:  # by which etcdctl, a Go program, makes its own threads take turns
        return False
    if call[1].startswith("open"):
        writing = re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line) and "O_TMPFILE" not in line
        opened = re.search(r'"([^"]+)"', line)
        return bool(writing) and not (opened and opened[1].startswith(OWN))
    return not any(f'"{path}' in line or f"<{path}" in line for path in OWN)


# ---- drift

EVERYWHERE = {
    "file:/etc/apt/apt.conf.d/52pgha-hold": "echo '# x' >> /etc/apt/apt.conf.d/52pgha-hold",
    "file:/etc/sysctl.d/60-pgha.conf": "rm /etc/sysctl.d/60-pgha.conf",
    "file:/etc/systemd/system/disable-thp.service": "chmod 600 /etc/systemd/system/disable-thp.service",
    "block:/etc/hosts#cluster prod": "sed -i '/ witness-node$/d' /etc/hosts",
    "directory:/etc/haproxy/tls": "chmod 711 /etc/haproxy/tls",
    "file:/etc/pgha/tls/ca.crt": "chown nobody /etc/pgha/tls/ca.crt",
    "certificate:pgha-probe": "chmod 644 /etc/pgha/tls/pgha-probe.key",
    "file:/etc/pgha/tls/probe.pgpass": "sed -i s/pgha_probe/somebody/ /etc/pgha/tls/probe.pgpass",
    "firewall:ufw": "ufw delete allow from $(ufw show added | grep -om1 '[0-9.]* to any port 2379 proto tcp')",
    "service:haproxy": "systemctl disable haproxy",
}
ON_DATA = {
    "file:/etc/postgresql-common/createcluster.conf": "rm /etc/postgresql-common/createcluster.conf",
    "symlink:/etc/patroni/patroni.yml": "ln -sfn /dev/null /etc/patroni/patroni.yml",
    "service:postgresql": "systemctl enable postgresql",
    "service:postgresql@17-main": "systemctl unmask postgresql@17-main",
    "file:/etc/systemd/system/patroni.service.d/pgha.conf": (
        "echo '# x' >> /etc/systemd/system/patroni.service.d/pgha.conf; systemctl daemon-reload"
    ),
    "certificate:postgres-server": "chmod 600 /etc/patroni/tls/postgres-server.crt",
    "certificate:patroni-api": "chown postgres /etc/patroni/tls/api.key",
    "file:/etc/patroni/tls/clients.crt": "echo >> /etc/patroni/tls/clients.crt",
    "patroni_file:/etc/patroni/config.yml": "chmod 644 /etc/patroni/config.yml",
}
PSQL = "runuser -u postgres -- psql -qc"
ON_LEADER = {
    "patroni_config:dcs": (
        "runuser -u postgres -- patronictl -c /etc/patroni/config.yml edit-config -q -p work_mem=5MB --force"
    ),
    "postgres_role:pgha_probe": f"{PSQL} 'alter role pgha_probe connection limit 3'",
    "sql:probe": f"{PSQL} 'revoke insert on pgha.probe from pgha_probe'",
}


def test_fifty_changes_by_hand_are_all_found_none_is_invented_and_all_are_repaired(built: Site) -> None:
    leader = wait_until("healthy", lambda: healthy(built), 60)["leader"]
    made = Counter[tuple[str, str]]()
    for node in NODES:
        table = EVERYWHERE | (ON_DATA if node in DATA else {}) | (ON_LEADER if node == leader else {})
        for resource, damage in table.items():
            built.ok(node, "sh", "-c", damage)
            made[node, resource] += 1
    assert made.total() >= 50
    assert planned(built) == made
    said = built.pgha("apply", "prod")
    assert said.rc == 0, said.out + said.err
    assert planned(built) == Counter()
    assert built.pgha("plan", "prod", "--detailed-exitcode").rc == 0


def test_a_change_by_hand_is_in_the_status_soon_and_is_mended_where_that_is_asked_for(built: Site) -> None:
    def damage() -> None:
        built.ok("pg-node2", "sh", "-c", "echo '# by hand' >> /etc/apt/apt.conf.d/52pgha-hold")

    def differences() -> list[str]:
        return [row["resource"] for row in built.status()["drift"]["differences"]]

    wait_until("the node was looked at", lambda: built.status()["drift"]["checked_s"] is not None, 60)
    damage()
    wait_until("status tells of it", lambda: differences() == ["file:/etc/apt/apt.conf.d/52pgha-hold"], 30)
    assert "by hand" in built.ok("pg-node2", "cat", "/etc/apt/apt.conf.d/52pgha-hold")
    built.define(reconcile="{interval: 1d, policy: enforce}")
    assert built.pgha("apply", "prod").rc == 0
    wait_until("healthy", lambda: healthy(built), 60)
    wait_until("the node was looked at", lambda: (built.status()["drift"]["checked_s"] or 99) < 10, 60)
    damage()
    gone = ("grep", "-c", "by hand", "/etc/apt/apt.conf.d/52pgha-hold")
    wait_until("it is mended", lambda: built.on("pg-node2", *gone).out.strip() == "0", 60)
    built.define(reconcile="{interval: 1d}")
    assert built.pgha("apply", "prod").rc == 0


# ---- one member after the other

READS = """while true; do
  {etcdctl} --endpoints={endpoints} --command-timeout=6s get x >/dev/null 2>&1 && echo read || echo FAILED
  sleep 0.2
done > /var/tmp/reads"""


def test_etcd_gets_other_certificates_and_timers_member_by_member_and_never_loses_its_quorum(built: Site) -> None:
    """A read that needs the quorum is asked for all the time, of whichever member answers."""
    wait_until("healthy", lambda: healthy(built), 60)
    tls = "--cacert=/etc/etcd/tls/ca.crt --cert=/var/tmp/reader.crt --key=/var/tmp/reader.key"
    endpoints = ",".join(f"https://{built.nodes[node]}:2379" for node in NODES)
    built.ok("witness-node", "sh", "-c", "cd /etc/etcd/tls && cp etcd-server.crt /var/tmp/reader.crt")
    built.ok("witness-node", "sh", "-c", "cd /etc/etcd/tls && cp etcd-server.key /var/tmp/reader.key")
    script = READS.format(etcdctl=f"etcdctl {tls}", endpoints=endpoints)
    before = {node: built.ok(node, "systemctl", "show", "-p", "MainPID", "etcd") for node in NODES}
    for node in NODES:
        built.ok(node, "rm", "/etc/etcd/tls/etcd-server.crt")
    built.define(etcd="{election_timeout: 2000}", reconcile="{interval: 1d}")
    plan = built.pgha("plan", "prod")
    assert re.search(r"etcd: (\S+), then (\S+), then (\S+)", " ".join(plan.out.split())), plan.out
    built.ok("witness-node", "systemd-run", "--unit=reads", "sh", "-c", script)
    said = built.pgha("apply", "prod")
    built.ok("witness-node", "systemctl", "stop", "reads")
    assert said.rc == 0, said.out + said.err
    reads = Counter(built.ok("witness-node", "cat", "/var/tmp/reads").split())
    assert reads["read"] > 10
    assert reads["FAILED"] == 0, reads
    for node in NODES:
        assert built.ok(node, "systemctl", "show", "-p", "MainPID", "etcd") != before[node]
    built.ok("witness-node", "rm", "/var/tmp/reader.key", "/var/tmp/reader.crt")
    assert built.pgha("plan", "prod", "--detailed-exitcode").rc == 0


# ---- a change that cuts the line


def test_a_firewall_that_cuts_the_node_off_is_put_back_by_itself(built: Site) -> None:
    """A rule of somebody's hand closes the way to the master; it sleeps until the firewall is switched on again."""
    node = "witness-node"
    built.define(firewall="{confirm_timeout: 5s}", reconcile="{interval: 1d}")
    assert built.pgha("apply", "prod").rc == 0
    built.ok(node, "ufw", "deny", "out", "to", "any", "port", "7760", "proto", "tcp")
    built.ok(node, "ufw", "disable")
    said = built.pgha("apply", "prod")
    assert said.rc == 1
    assert "the change was put back" in said.out + said.err
    assert "inactive" in built.ok(node, "ufw", "status")
    wait_until("it is connected", lambda: node in built.connected(), 60)
    built.ok(node, "ufw", "delete", "deny", "out", "to", "any", "port", "7760", "proto", "tcp")
    assert built.pgha("apply", "prod").rc == 0
    assert "Status: active" in built.ok(node, "ufw", "status")
    wait_until("healthy", lambda: healthy(built), 60)


# ---- deaths in the middle

DAMAGE = (
    "echo '# x' >> /etc/apt/apt.conf.d/52pgha-hold; rm -f /etc/sysctl.d/60-pgha.conf; chmod 711 /etc/haproxy/tls;"
    "echo '# x' >> /etc/haproxy/haproxy.cfg; chown nobody /etc/pgha/tls/ca.crt; sed -i '/ witness-node$/d' /etc/hosts"
)
DEATHS = int(os.environ.get("PGHA_SEEDS", "10"))


def test_an_apply_that_lost_its_minion_or_its_master_anywhere_is_finished_by_the_next_and_nothing_is_done_twice(
    built: Site,
) -> None:
    node, chance = "pg-node2", random.Random(4)
    kept = ("systemctl", "show", "-p", "MainPID", "etcd", "patroni", "haproxy")
    servers = built.ok(node, *kept)
    for number in range(DEATHS):
        built.ok(node, "sh", "-c", DAMAGE)
        apply = subprocess.Popen(
            [str(MASTER), "apply", "prod", "--json"], env=built.environment, stdout=subprocess.PIPE, text=True
        )
        assert apply.stdout is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            apply.wait(chance.uniform(0.0, 2.0))
        if number % 2:
            built.stop_master(signal.SIGKILL)
            built.start_master()
        else:
            built.ok(node, "systemctl", "kill", "-s", "KILL", "pgha-minion")
        first = apply.communicate(timeout=120)[0]
        wait_until("all minions are connected", lambda: built.connected() == set(NODES), 60)
        second = built.pgha("apply", "prod", "--json")
        assert second.rc == 0, second.out + second.err
        done = Counter(
            line.split('"resource":"')[1].split('"')[0]
            for line in (first + second.out).splitlines()
            if '"status":"changed"' in line
        )
        assert [resource for resource, times in done.items() if times > 1 and not resource.startswith("service:")] == []
    assert built.pgha("plan", "prod", "--detailed-exitcode").rc == 0
    assert built.ok(node, *kept) == servers  # reloaded, never restarted


# ---- a kind that only a node of a cluster can try

MEMBER = "schema: pgha/states/v1\nresources:\n  - {kind: etcd_member, name: watcher, peer_url: 'https://%s:2380'%s}\n"


def test_a_vote_in_etcd_is_given_and_taken_by_a_state_of_ones_own(built: Site) -> None:
    node = wait_until("healthy", lambda: healthy(built), 120)["leader"]
    url = built.nodes["witness-node"].rsplit(".", 1)[0] + ".99"

    def apply(more: str, *words: str) -> Said:
        write = [*built.lab_exec(node), "sh", "-c", "cat > /var/tmp/member.yml"]
        assert built.run(write, stdin=MEMBER % (url, more)).rc == 0
        return built.on(node, "pgha-minion", "apply", "--local", "/var/tmp/member.yml", *words)

    def members() -> str:
        return built.ok(node, *ETCDCTL, "member", "list")

    wait_until("etcd lets somebody in", lambda: apply("").rc == 0, 60)
    assert f"https://{url}:2380" in members()
    again = apply("")
    assert again.rc == 0 and "0 changed" in again.out
    refused = apply(", absent: true")
    assert refused.rc != 0 and f"https://{url}:2380" in members()
    taken = apply(", absent: true", "--allow-destroy", "etcd_member:watcher")
    assert taken.rc == 0, taken.out + taken.err
    assert url not in members()
