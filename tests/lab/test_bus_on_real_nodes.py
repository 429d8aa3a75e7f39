"""Commands and applies while nodes lose their power or their network, and the master dies: one truth on all sides.

In the order of this file: three bare nodes, then a cluster on them. After each fault what the CLI said, what
`jobs show` says, the store of the master and the journals of the nodes are laid side by side; the rules are those of
`tests/bus/history.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labsite import MASTER, Said, Site, wait_until
from pgha.common.functions import FUNCTIONS
from pgha.tests.bus.history import KeptJournal, broken, read_history, read_journal

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NODES = ("pg-node1", "pg-node2", "witness-node")
DATA = ("pg-node1", "pg-node2")
EFFECTS = "var/tmp/effects"  # one line for each start of a command, on the node where it started
LABS = Path(os.environ.get("PGHA_LAB_DIR", "/var/lib/pgha-lab"))
QUERIES = {name for name, function in FUNCTIONS.items() if function.query}  # of which no journal knows
OPEN = ("queued", "accepted", "started")


@pytest.fixture(scope="module")
def fleet(site: Site) -> Site:
    """Three bare nodes whose minions are connected."""
    for node in NODES:
        if node not in {key["name"] for key in site.data("keys", "list")["keys"]}:
            assert site.enrol(node).rc == 0
    site.pgha("keys", "accept", "--all", "--yes")
    wait_until("all minions are connected", lambda: site.connected() == set(NODES), 60)
    return site


# ---- a command beside the test


def told_by(script: str, token: str) -> tuple[str, ...]:
    """A command that leaves a line of its effect, says that it began, does what `script` says, says that it ends."""
    return "--", "sh", "-c", f"echo {token} >> /{EFFECTS}; echo out of {token}; {script}; echo end of {token}"


class Typed:
    """A `pgha-master ... --json` that a person has typed and left running. `id` is that of its job."""

    def __init__(self, site: Site, *words: str) -> None:
        dashes = words.index("--") if "--" in words else len(words)
        argv = [str(MASTER), *words[:dashes], "--json", *words[dashes:]]
        self._site = site
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is read at the end
        self._running = subprocess.Popen(
            argv, env=site.environment, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        assert self._running.stdout is not None
        self._out = self._running.stdout
        self.lines: list[dict[str, Any]] = []
        self.rc, self.err = -1, ""
        self._take(self._out.readline())
        self.id = str(self.lines[0].get("id", ""))

    def _take(self, out: str) -> None:
        self.lines += [json.loads(line) for line in out.splitlines()]
        self._errors.seek(0)
        self.err = self._errors.read()
        assert self.lines, self.err

    def end(self) -> Typed:
        """Wait until it has ended by itself."""
        out = self._out.read()
        self.rc = self._running.wait()
        self._take(out)
        return self

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What it said of the end of each node."""
        return {line["node"]: line for line in self.lines if line["kind"] == "node_done"}

    def states(self) -> dict[str, str]:
        return {name: line["state"] for name, line in self.nodes().items()}

    def said(self, node: str) -> str:
        return "".join(line["text"] for line in self.lines if line["kind"] == "output" and line["node"] == node)

    def begun_on(self, *nodes: str) -> None:
        def begun() -> bool:
            return all(stored(self._site, self.id).get(node) == "started" for node in nodes)

        wait_until(f"it runs on {', '.join(nodes)}", begun, 90, 0.05)


# ---- what each side holds


def rows(site: Site, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Of the master's store, as it is on its disk."""
    path = site.root / "var/lib/pgha/pgha.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(sql, values).fetchall()


def stored(site: Site, identity: str) -> dict[str, str]:
    """Node -> the state of its newest job."""
    return dict(rows(site, "select node, state from jobs where operation=? order by jid", identity))


def operation(site: Site, identity: str) -> str:
    """Its state, as the master's store has it."""
    return str(rows(site, "select state from operations where id=?", identity)[0][0])


def shown(site: Site, identity: str) -> dict[str, str]:
    """Node -> state, as `jobs show` says."""
    end = json.loads(site.pgha("jobs", "show", identity, "--json").out.splitlines()[-1])
    return {node["node"]: node["state"] for node in end["data"]["nodes"]}


def logged(site: Site, identity: str, node: str) -> str:
    """What its command said, as `jobs log` has it."""
    lines = [json.loads(text) for text in site.pgha("jobs", "log", identity, "--node", node, "--json").out.splitlines()]
    return "".join(line["text"] for line in lines if line["kind"] == "output")


def journal(site: Site, node: str) -> KeptJournal:
    return read_journal(node, disk(site, node) / "var/lib/pgha/journal.db")


def disk(site: Site, node: str) -> Path:
    """Its root, as this host sees it."""
    return LABS / site.name / "nodes" / node / "root"


def effects(site: Site, token: str) -> Counter[str]:
    """How often that command has started on each node."""
    texts = {node: disk(site, node) / EFFECTS for node in NODES}
    counted = {node: path.read_text().split().count(token) for node, path in texts.items() if path.exists()}
    return Counter({node: count for node, count in counted.items() if count})


def ran(site: Site, identity: str, node: str, what: str = "cmd") -> str:
    """The state of that job in the node's own journal; "" when it holds none."""
    words = "select jid from jobs where operation=? and node=? and what=?"
    (jid,) = (row[0] for row in rows(site, words, identity, node, what))
    return journal(site, node).jobs.get((str(jid), 1), "")


def agree(site: Site, folder: Path) -> None:
    """Nothing is open any more, and the store, the journals and what was really done tell one story."""
    words = f"select node, what, state from jobs where state in {OPEN}"
    wait_until("no job is open", lambda: not rows(site, words) or None, 90)
    texts = [path.read_text() for node in NODES if (path := disk(site, node) / EFFECTS).exists()]
    (folder / "effects").write_text("".join(texts))
    journals = {node: disk(site, node) / "var/lib/pgha/journal.db" for node in NODES}

    def settled() -> bool:
        found = read_history(folder / "effects", site.root / "var/lib/pgha/pgha.db", journals)
        return all(found.stored(one.node, one.epoch) >= one.highest for one in found.journals)

    wait_until("every event of every node is stored", settled, 60)
    history = read_history(folder / "effects", site.root / "var/lib/pgha/pgha.db", journals)
    asked = {jid for jid, what in rows(site, "select jid, what from jobs") if what in QUERIES}
    history = replace(history, jobs=tuple(job for job in history.jobs if job.jid not in asked))
    assert {one.node for one in history.journals} == set(NODES)
    assert broken(history) == []


def back(site: Site, nodes: Collection[str] = NODES) -> None:
    """Every minion is connected; the first order after a fault finds them so."""
    wait_until("all minions are connected", lambda: set(nodes) <= site.connected(), 90)


# ---- a run, without a cluster


def test_a_node_without_power_is_silent_then_unknown_and_its_command_never_runs_again(
    fleet: Site, tmp_path: Path
) -> None:
    run = Typed(fleet, "run", "*", *told_by("sleep 6", "T0001T"))
    run.begun_on(*NODES)
    fleet.lab("kill", "pg-node1")
    run.end()
    assert run.rc == 4
    assert run.states() == {"pg-node1": "started", "pg-node2": "done", "witness-node": "done"}
    assert "silent since" in run.nodes()["pg-node1"]["message"]
    assert "may still run there" in run.nodes()["pg-node1"]["message"]
    assert shown(fleet, run.id) == stored(fleet, run.id) == run.states()
    fleet.lab("start", "pg-node1")
    wait_until("its minion has told", lambda: stored(fleet, run.id)["pg-node1"] == "unknown", 120)
    assert shown(fleet, run.id) == {"pg-node1": "unknown", "pg-node2": "done", "witness-node": "done"}
    assert ran(fleet, run.id, "pg-node1") == "interrupted"
    assert "end of T0001T" not in logged(fleet, run.id, "pg-node1")
    back(fleet)
    assert fleet.pgha("run", "*", "--", "true").rc == 0
    assert effects(fleet, "T0001T") == Counter(NODES)
    agree(fleet, tmp_path)


def test_a_node_without_network_goes_on_and_what_it_did_is_told_when_it_is_back(fleet: Site, tmp_path: Path) -> None:
    run = Typed(fleet, "run", "*", *told_by("sleep 30", "T0002T"))
    run.begun_on(*NODES)
    with parted(fleet, "witness-node"):
        run.end()
        assert run.rc == 4
        assert run.states() == {"pg-node1": "done", "pg-node2": "done", "witness-node": "started"}
        assert "silent since" in run.nodes()["witness-node"]["message"]
        assert run.said("pg-node1") == "out of T0002T\nend of T0002T\n"
        assert shown(fleet, run.id) == stored(fleet, run.id) == run.states()
        wait_until("it is done there", lambda: ran(fleet, run.id, "witness-node") == "finished", 90)
        assert stored(fleet, run.id)["witness-node"] == "started", "nobody here can know"
    wait_until("it has told", lambda: stored(fleet, run.id)["witness-node"] == "done", 120)
    assert shown(fleet, run.id) == dict.fromkeys(NODES, "done")
    for node in NODES:
        assert logged(fleet, run.id, node) == "out of T0002T\nend of T0002T\n"
    assert effects(fleet, "T0002T") == Counter(NODES)
    agree(fleet, tmp_path)


@contextlib.contextmanager
def parted(site: Site, node: str) -> Iterator[None]:
    """Meanwhile nothing passes to or from that node."""
    site.lab("partition", node)
    try:
        yield
    finally:
        site.lab("heal", node)


def test_a_run_goes_on_to_done_by_itself_when_the_master_is_killed(fleet: Site, tmp_path: Path) -> None:
    run = Typed(fleet, "run", "*", "--batch", "2", *told_by("sleep 5", "T0003T"))
    run.begun_on(*DATA)
    fleet.stop_master(signal.SIGKILL)
    run.end()
    assert run.rc == 8
    assert "What runs may go on" in run.err
    fleet.start_master()
    wait_until("it is done", lambda: operation(fleet, run.id) == "done", 120)
    assert shown(fleet, run.id) == stored(fleet, run.id) == dict.fromkeys(NODES, "done")
    for node in NODES:
        assert logged(fleet, run.id, node) == "out of T0003T\nend of T0003T\n"
        assert ran(fleet, run.id, node) == "finished"
    assert effects(fleet, "T0003T") == Counter(NODES), "the third had not begun, and began once"
    agree(fleet, tmp_path)


# ---- an apply


def applying(site: Site, run: Typed, *nodes: str, stage: str = "base") -> None:
    """Wait until that stage has begun on these nodes."""
    words = "select node from jobs where operation=? and what=? and state='started'"

    def begun() -> bool:
        return set(nodes) <= {row[0] for row in rows(site, words, run.id, f"apply {stage}")}

    wait_until(f"{stage} has begun on {', '.join(nodes)}", begun, 120, 0.05)


def states(site: Site, identity: str, node: str) -> dict[str, str]:
    """What was to be done on that node -> the state of that job."""
    return dict(rows(site, "select what, state from jobs where operation=? and node=?", identity, node))


def whole(site: Site) -> None:
    """The cluster is healthy with all of its nodes, and a second apply finds nothing to do."""
    wait_until("healthy", lambda: healthy(site), 120)
    again = site.pgha("apply", "prod")
    assert again.rc == 0, again.out + again.err
    assert ": 0 changed, " in again.out + again.err


def healthy(site: Site) -> dict[str, Any]:
    """The status once all is well and somebody leads."""
    status = site.status()
    return status if status["verdict"] == "healthy" and status["leader"] else {}


@pytest.fixture(scope="module")
def built(fleet: Site) -> Site:
    """A cluster that was begun under a master that was killed meanwhile, and gone on with under the next."""
    fleet.define()
    apply = Typed(fleet, "apply", "prod")
    applying(fleet, apply, *NODES)
    fleet.stop_master(signal.SIGKILL)
    assert apply.end().rc == 8
    fleet.start_master()
    assert operation(fleet, apply.id) == "unknown"
    said = fleet.pgha("jobs", "show", apply.id)
    assert said.rc == 1
    assert f"resume: pgha-master jobs resume {apply.id}" in said.out + said.err
    words = "select node from jobs where operation=? and what='apply base' and state='done'"
    wait_until("what had begun has ended", lambda: len(rows(fleet, words, apply.id)) == len(NODES), 400)
    resumed = fleet.pgha("jobs", "resume", apply.id)
    assert resumed.rc == 0, resumed.out + resumed.err
    assert ", 0 failed" in resumed.out + resumed.err
    return fleet


def test_an_apply_under_a_killed_master_is_unknown_and_resumed_to_its_end(built: Site, tmp_path: Path) -> None:
    whole(built)
    agree(built, tmp_path)


LOCK = (
    "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(900)"
)


def stuck_apply(site: Site, node: str) -> Typed:
    """An apply that waits on that node for apt's lock, to install HAProxy, which has been removed there."""
    site.ok(node, "apt-get", "purge", "-qy", "haproxy")
    site.ok(node, "systemd-run", "--unit=holder", "python3", "-c", LOCK)
    wait_until("status sees it", lambda: site.status()["verdict"] != "healthy", 60)
    apply = Typed(site, "apply", "prod")
    applying(site, apply, node)
    wait_until("it installs", lambda: site.on(node, "sh", "-c", "pgrep -x apt-get").rc == 0, 60)
    return apply


def test_an_apply_goes_on_when_a_partition_heals_with_what_was_done_meanwhile(built: Site, tmp_path: Path) -> None:
    apply = stuck_apply(built, "witness-node")
    with parted(built, "witness-node"):
        wait_until("it counts as gone", lambda: "witness-node" not in reachable(built), 60)
        built.ok("witness-node", "systemctl", "stop", "holder")
        wait_until("it is done there", lambda: ran(built, apply.id, "witness-node", "apply base") == "finished", 120)
        assert states(built, apply.id, "witness-node")["apply base"] == "started"
    assert apply.end().rc == 0, apply.lines[-1]
    assert set(states(built, apply.id, "witness-node").values()) == {"done"}
    back(built)
    whole(built)
    agree(built, tmp_path)


def reachable(site: Site) -> set[str]:
    return {key["name"] for key in site.data("keys", "list")["keys"] if key["connected"]}


def test_an_apply_ends_when_a_node_loses_power_and_another_one_repairs_it(built: Site, tmp_path: Path) -> None:
    node = next(name for name in DATA if name != built.status()["leader"])
    apply = stuck_apply(built, node)
    built.lab("kill", node)
    built.lab("start", node)
    assert apply.end().rc == 1
    assert f"base: {node}: the minion was restarted while the job ran" in apply.lines[-1]["message"]
    assert states(built, apply.id, node)["apply base"] == "unknown"
    assert shown(built, apply.id)[node] == "unknown"
    assert ran(built, apply.id, node, "apply base") == "interrupted"
    back(built)
    repaired = built.pgha("apply", "prod")
    assert repaired.rc == 0, repaired.out + repaired.err
    whole(built)
    agree(built, tmp_path)


# ---- the guard


def running(site: Site) -> dict[str, str]:
    """What would be another value had a service, or the node, been restarted."""
    show = ("systemctl", "show", "-p", "MainPID,ActiveState", "etcd", "patroni", "haproxy", "systemd-journald")
    return {node: site.ok(node, *show) for node in NODES}


@pytest.mark.parametrize(
    "words",
    [
        ("role:data", "service.restart", "patroni"),
        ("*", "service.restart", "etcd"),
        ("*", "--", "systemctl", "stop", "etcd"),
        ("*", "--", "reboot"),
    ],
    ids=" ".join,
)
def test_what_would_take_the_cluster_down_is_refused_and_nothing_is_done(built: Site, words: tuple[str, ...]) -> None:
    wait_until("healthy", lambda: healthy(built), 120)
    before = running(built)
    said = built.pgha("run", *words)
    assert said.rc == 6, said.err
    assert "prod: " in said.err and "nothing was sent" in said.err
    assert "--batch 1" in said.err
    identity = str(rows(built, "select id from operations order by id desc limit 1")[0][0])
    assert operation(built, identity) == "refused"
    assert rows(built, "select jid from jobs where operation=?", identity) == []
    assert running(built) == before


@pytest.mark.parametrize(("target", "unit", "nodes"), [("*", "etcd", NODES), ("role:data", "patroni", DATA)])
def test_one_node_at_a_time_is_let_through_and_waits_for_the_cluster_in_between(
    built: Site, target: str, unit: str, nodes: tuple[str, ...]
) -> None:
    wait_until("healthy", lambda: healthy(built), 120)
    before = {node: built.ok(node, "systemctl", "show", "-P", "MainPID", unit) for node in nodes}
    run = Typed(built, "run", target, "--batch", "1", "service.restart", unit).end()
    assert run.rc == 0, run.lines[-1]
    seen = [line.get("node") or line["gate"] for line in run.lines if line["kind"] == "node_done" or is_open(line)]
    assert seen == [word for node in nodes for word in (node, "prod is whole again")][:-1]
    for node in nodes:
        assert built.ok(node, "systemctl", "show", "-P", "MainPID", unit) != before[node]
    wait_until("healthy", lambda: healthy(built), 120)


def is_open(line: dict[str, Any]) -> bool:
    return (line["kind"], line.get("state")) == ("gate", "open")


ROLES = "\nroles:\n  viewer: [nogroup]\n  operator: [daemon]\n"
# Afterwards it is that user, who may read neither the interpreter's own files nor the folders above the socket's.
AS_USER = """
import os, pwd, socket, sys
account = pwd.getpwnam(sys.argv[2])
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(account.pw_gid); os.setuid(account.pw_uid)
there = socket.socket(socket.AF_UNIX); there.settimeout(60); there.connect("admin.sock")
there.sendall(sys.argv[3].encode() + b"\\n")
sys.stdout.write(there.makefile().read().splitlines()[-1])
"""
HARMLESS = ("sh", "-c", "true || systemctl stop etcd")  # in which the guard reads that etcd is stopped


def ask_as(site: Site, user: str, **args: object) -> dict[str, Any]:
    """The end of a run, as another user of the master's host gets it."""
    text = json.dumps({"verb": "run", "args": {"target": "*", "argv": HARMLESS, **args}})
    done = site.run([sys.executable, "-c", AS_USER, str(site.root / "run/pgha"), user, text])
    end: dict[str, Any] = json.loads(done.out)
    return end


def test_only_an_admin_goes_past_the_guard(built: Site) -> None:
    settings = built.root / "etc/pgha/master.yml"
    if ROLES not in settings.read_text():
        settings.write_text(settings.read_text() + ROLES)
    built.stop_master()
    built.start_master()
    wait_until("all minions are connected", lambda: reachable(built) == set(NODES), 60)
    wait_until("healthy", lambda: healthy(built), 120)
    before = running(built)
    assert ask_as(built, "nobody")["exit"] == 8
    assert ask_as(built, "daemon")["exit"] == 6
    refused = ask_as(built, "daemon", force_unsafe=True)
    assert refused["exit"] == 8
    assert "admin" in refused["message"]
    assert built.pgha("run", "*", "--", *HARMLESS).rc == 6
    forced = built.pgha("run", "*", "--force-unsafe", "--", *HARMLESS)
    assert forced.rc == 0, forced.err
    assert "3 ok" in forced.err
    assert running(built) == before


# ---- targets and functions


def test_targets_are_what_telemetry_says_now(built: Site) -> None:
    leader = wait_until("healthy", lambda: healthy(built), 120)["leader"]
    replica = next(name for name in DATA if name != leader)
    wanted = {
        "role:leader": {leader},
        "role:replica": {replica},
        "role:sync": {replica},
        "role:witness": {"witness-node"},
        "role:data and not role:leader": {replica},
        "lag<1GB": {replica},
        "lag>=1GB": set(),
        "disk<99%": set(NODES),
        "disk>=99%": set(),
        "cert<400d": set(NODES),
        "cert<1d": set(),
        "pg>=17": set(DATA),
        "pg>=99": set(),
        "not pg>=17": {"witness-node"},
        "etcd>=3 and uptime<30d": set(NODES),
        "prod and region:us-*": {"pg-node2", "witness-node"},
        "os:debian-13 and state:connected": set(NODES),
    }
    assert {target: picked(built, target) for target in wanted} == wanted


def picked(site: Site, target: str) -> set[str]:
    run = Typed(site, "run", target, "ping").end()
    assert run.rc == (0 if run.states() else 5), run.lines
    return set(run.states())


def call(site: Site, *words: str, rc: int = 0) -> Typed:
    run = Typed(site, "run", *words).end()
    assert run.rc == rc, run.lines
    return run


def test_functions_tell_of_services_processes_and_disks(built: Site) -> None:
    leader = wait_until("healthy", lambda: healthy(built), 120)["leader"]
    assert "the leader with the lock" in call(built, leader, "journal", "patroni", "50").said(leader)
    told = call(built, "*", "service.status", "haproxy")
    assert {told.said(node) for node in NODES} == {"loaded active enabled\n"}
    assert call(built, leader, "service.status", "nothing-here", rc=1).nodes()[leader]["exit_code"] == 3
    show = (
        ("systemctl", "show", "-P", "MainPID", "haproxy"),
        ("systemctl", "show", "-P", "StateChangeTimestamp", "haproxy"),
    )
    before = [built.ok(leader, *words) for words in show]
    wait_until("the second is another", lambda: built.ok(leader, "date", "+%T") not in before[1], 5)
    call(built, leader, "service.reload", "haproxy")
    after = [built.ok(leader, *words) for words in show]
    assert after[0] == before[0] and after[1] != before[1], "read again, and not restarted"
    systems = call(built, "*", "disk").nodes()
    assert all(0 < systems[node]["data"]["file_systems"]["/"]["used_percent"] < 100 for node in NODES)
    largest = call(built, leader, "processes", "100").nodes()[leader]["data"]["processes"]
    assert {"postgres", "etcd", "haproxy"} <= {process["name"] for process in largest}


def test_functions_tell_of_the_cluster(built: Site) -> None:
    leader = wait_until("healthy", lambda: healthy(built), 120)["leader"]
    replica = next(name for name in DATA if name != leader)
    members = call(built, replica, "patroni.list").nodes()[replica]["data"]["members"]
    assert {member["name"]: member["role"] for member in members} == {leader: "leader", replica: "sync_standby"}
    history = call(built, leader, "patroni.history")
    assert "new leader" in history.said(leader) or "never changed" in history.said(leader)
    health = call(built, "witness-node", "etcd.health")
    assert health.said("witness-node").count("is healthy") == 3
    versions = call(built, leader, "package.versions").said(leader)
    assert {"etcd-server", "haproxy", "patroni", "postgresql-17"} <= {line.split()[0] for line in versions.splitlines()}


def test_a_query_only_reads_and_what_is_executed_is_replicated(built: Site) -> None:
    leader = wait_until("healthy", lambda: healthy(built), 120)["leader"]
    replica = next(name for name in DATA if name != leader)
    asked = call(built, "role:data", "postgres.query", "select pg_is_in_recovery() as standby")
    assert {node: asked.said(node) for node in DATA} == {leader: "standby\nf\n", replica: "standby\nt\n"}
    count = "select count(*) from pg_class where relname='bus_was_here'"
    for sql in ("create table bus_was_here ()", "commit; create table bus_was_here ()"):
        call(built, "role:leader", "postgres.query", sql, rc=1)
    assert call(built, "role:leader", "postgres.query", count).said(leader) == "count\n0\n"
    refused = call(built, "role:replica", "postgres.execute", "create table bus_was_here ()", rc=1)
    assert "read-only" in json.dumps(refused.lines)
    call(built, "role:leader", "postgres.execute", "create table bus_was_here ()")
    there = "count\n1\n"
    wait_until("it is there", lambda: call(built, replica, "postgres.query", count).said(replica) == there, 20)
    call(built, "role:leader", "postgres.execute", "drop table bus_was_here")


REPOSITORY = r"""
set -e
mkdir -p /var/tmp/repo && cd /var/tmp/repo
for version in 1.0 2.0; do
  mkdir -p $version/DEBIAN
  echo "Package: pgha-harmless\nVersion: $version\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: x" \
    > $version/DEBIAN/control
  dpkg-deb -b $version
done
{
  cat 2.0/DEBIAN/control
  echo "Filename: ./2.0.deb\nSize: $(stat -c %s 2.0.deb)\nSHA256: $(sha256sum < 2.0.deb | cut -d' ' -f1)"
} > Packages
dpkg -i 1.0.deb
echo "deb [trusted=yes] file:/var/tmp/repo ./" > /etc/apt/sources.list.d/harmless.list
apt-get -q update
"""


def test_a_package_is_upgraded_and_nothing_else(built: Site) -> None:
    built.ok("witness-node", "sh", "-c", REPOSITORY)
    try:
        said = call(built, "witness-node", "package.upgrade", "pgha-harmless").said("witness-node")
        assert said == "pgha-harmless 1.0 -> 2.0\n"
        said = call(built, "witness-node", "package.upgrade", "pgha-harmless").said("witness-node")
        assert said == "pgha-harmless 2.0, the newest there is\n"
        asked = call(built, "*", "package.versions", "pgha-harmless", rc=4)
        assert asked.states() == {"pg-node1": "failed", "pg-node2": "failed", "witness-node": "done"}
    finally:
        built.ok(
            "witness-node",
            "sh",
            "-c",
            "dpkg -P pgha-harmless; rm -r /etc/apt/sources.list.d/harmless.list /var/tmp/repo",
        )


def test_a_file_goes_to_all_nodes_and_comes_back_as_it_was(built: Site, tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(150_000))
    (tmp_path / "sent").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    call(built, "*", "file.push", "/var/tmp/pushed", "mode=0640", "--file", str(tmp_path / "sent"))
    seen = call(built, "*", "file.stat", "/var/tmp/pushed").nodes()
    assert {seen[node]["data"]["sha256"] for node in NODES} == {digest}
    assert {seen[node]["data"]["mode"] for node in NODES} == {"0640"}
    tail = call(built, "*", "file.tail", "/var/tmp/pushed", "2")
    assert {tail.said(node) for node in NODES} == {"line 149998\nline 149999\n"}
    call(built, "*", "file.get", "/var/tmp/pushed", "--into", str(tmp_path / "got"))
    for node in NODES:
        assert (tmp_path / "got" / node / "pushed").read_text() == text
    call(built, "*", "file.get", "/etc/pgha/pki/minion.key", "--into", str(tmp_path / "got"), rc=1)
    assert not list(tmp_path.rglob("minion.key"))


# ---- a bad line


def lossy(site: Site, node: str) -> None:
    """From now on each packet to or from that node is dropped with a chance of 5 %."""
    link = f"n{site.nodes[node].split('.')[2]}"
    hook, drop = "type filter hook forward priority -1;", "numgen random mod 100 < 5 counter drop"
    rules = f"table inet bad {{\nchain forward {{\n{hook}\niifname {link} {drop}\noifname {link} {drop}\n}}\n}}\n"
    said = in_router(site, "nft", "-f", "-", stdin=rules)
    assert said.rc == 0, said.err


def dropped(site: Site) -> int:
    """How many packets have been."""
    listed = in_router(site, "nft", "list", "table", "inet", "bad").out
    return sum(int(count) for count in re.findall(r"counter packets (\d+)", listed))


def in_router(site: Site, *argv: str, stdin: str = "") -> Said:
    return site.run(["ip", "netns", "exec", f"pgha-lab-{site.name}.router.ns", *argv], stdin=stdin)


def test_every_ping_is_answered_over_a_line_that_loses_packets(built: Site) -> None:
    lossy(built, "pg-node2")
    try:
        answered = 0
        while answered < 15 or not dropped(built):
            assert call(built, "*", "ping").states() == dict.fromkeys(NODES, "done")
            answered += 1
    finally:
        in_router(built, "nft", "delete", "table", "inet", "bad")


def test_after_all_of_this_every_side_tells_the_same(built: Site, tmp_path: Path) -> None:
    whole(built)
    agree(built, tmp_path)
    states = {row[0] for table in ("jobs", "operations") for row in rows(built, f"select state from {table}")}
    assert states <= {"done", "failed", "unknown", "refused", "cancelled"}
