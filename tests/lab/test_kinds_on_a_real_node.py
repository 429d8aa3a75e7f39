"""Every kind that needs no cluster, on one real node: made, left alone, and repaired where somebody changed it.

In the order of this file, on one bare Debian node that no master knows: the resources come as JSON and the engine runs
on the node itself, with the host's own systemd, apt and kernel.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from labsite import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NODE = "pg-node1"
ENGINE = """\
import json, sys
from pgha.minion.host import Host
from pgha.states.converge import MemoryDebts, converge
from pgha.states.kinds import decode

host = Host(signer=lambda *request: "", confirm=lambda seconds: True)
named = [word for word in sys.argv[1:] if ":" in word]
dry = "--dry-run" in sys.argv
for result in converge(decode(json.load(sys.stdin)), host, MemoryDebts(), dry_run=dry, allow_destroy=named):
    print(result.model_dump_json())
"""
PUBLIC_KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
ARCHIVE_KEY = "/etc/apt/trusted.gpg.d/debian-archive-trixie-automatic.asc"
UNIT = "[Service]\nExecStart=/bin/sleep infinity\n\n[Install]\nWantedBy=multi-user.target\n"
SKIPPED = ("thp:kernel", "mount:/srv/disk")


def document(key: str) -> list[dict[str, Any]]:
    """`key`: the armored key of an archive that the node can reach."""
    return [
        {
            "kind": "apt_repository",
            "name": "backports",
            "uris": ["http://deb.debian.org/debian"],
            "suites": ["trixie-backports"],
            "components": ["main"],
            "signed_by": key,
        },
        {"kind": "package", "name": "jq", "hold": True, "pin": {"version": "1.*", "priority": 900}},
        {"kind": "package", "name": "less", "absent": True},
        {"kind": "group", "name": "dba", "system": True},
        {"kind": "user", "name": "deploy", "groups": ["dba"], "comment": "Deploys, 100%", "shell": "/bin/sh"},
        {"kind": "user", "name": "job", "system": True, "home": "/var/lib/job"},
        {"kind": "authorized_key", "user": "deploy", "public_key": PUBLIC_KEY, "options": 'restrict,command="/bin/id"'},
        {"kind": "ssh_key", "path": "/etc/pgha-keys/id_ed25519", "owner": "deploy", "comment": "of the node"},
        {"kind": "line", "path": "/etc/login.defs", "line": "UMASK 027", "match": r"^UMASK\s"},
        {"kind": "limits", "domain": "deploy", "soft": {"nofile": 3000}, "hard": {"nofile": 4000}},
        {"kind": "hosts", "name": "app", "entries": {"10.9.9.9": ["db.example", "db"]}},
        {"kind": "thp"},
        {
            "kind": "mount",
            "path": "/srv/scratch disk",
            "source": "tmpfs",
            "fstype": "tmpfs",
            "options": "size=1m,noexec,nosuid",
        },
        {"kind": "mount", "path": "/srv/disk", "source": "/dev/sdz1", "fstype": "ext4"},
        {"kind": "unit", "name": "app.service", "content": UNIT},
        {"kind": "drop_in", "unit": "app.service", "name": "limits", "content": "[Service]\nLimitNOFILE=5000\n"},
        {"kind": "service", "unit": "app.service", "watches": ["unit:app.service", "drop_in:app.service/limits"]},
        {
            "kind": "timer",
            "name": "job",
            "on_calendar": "*-*-* 04:00",
            "command": ["/bin/echo", "100% of $HOME", 'a "b" \\'],
            "user": "job",
        },
        {
            "kind": "command",
            "name": "init",
            "argv": ['echo "$1" > state', "done"],
            "shell": True,
            "creates": "/srv/deploy-state/state",
            "only_if": ["test -d /srv"],
            "user": "deploy",
            "cwd": "/srv/deploy-state",
            "requires": ["directory:/srv/deploy-state"],
        },
        {"kind": "directory", "path": "/srv/deploy-state", "owner": "deploy"},
    ]


POSTGRES: list[dict[str, Any]] = [
    {"kind": "package", "name": "postgresql-17"},
    {"kind": "service", "unit": "postgresql@17-main", "enabled": None, "requires": ["package:postgresql-17"]},
    {
        "kind": "sql",
        "name": "app",
        "check": "select exists (select from pg_roles where rolname = 'app')",
        "statements": "create role app;",
        "requires": ["service:postgresql@17-main"],
    },
    {"kind": "postgres_database", "database": "app", "owner": "app", "locale": "C.UTF-8", "requires": ["sql:app"]},
    {
        "kind": "postgres_extension",
        "extension": "pgcrypto",
        "database": "app",
        "version": "1.3",
        "requires": ["postgres_database:app"],
    },
]


class Node:
    """One real node and the engine on it."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def apply(self, resources: list[dict[str, Any]], *options: str) -> dict[str, dict[str, Any]]:
        """The result of each resource by its id."""
        engine = [*self.site.lab_exec(NODE), "/opt/pgha/bin/python", "-c", ENGINE, *options]
        said = self.site.run(engine, 240.0, json.dumps(resources))
        assert said.rc == 0, said.err
        results = [json.loads(line) for line in said.out.splitlines()]
        return {result["resource"]: result for result in results}

    def ok(self, *argv: str) -> str:
        return self.site.ok(NODE, *argv).strip()

    def shell(self, script: str) -> str:
        return self.ok("sh", "-ec", script)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    site = Site(f"k{os.getpid()}", tmp_path_factory.mktemp("kinds"))
    try:
        site.lab("up", "--nodes", "1")
        yield Node(site)
    finally:
        site.lab("down")


@pytest.fixture(scope="module")
def wanted(node: Node) -> list[dict[str, Any]]:
    return [*document(node.ok("cat", ARCHIVE_KEY)), *POSTGRES]


def statuses(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Without those that a container skips."""
    return {name: result["status"] for name, result in results.items() if name not in SKIPPED}


def reasons(results: dict[str, dict[str, Any]], status: str) -> dict[str, str]:
    return {name: result["reason"] for name, result in results.items() if result["status"] == status}


def test_a_dry_run_on_the_bare_node_plans_all_of_it_and_fails_nowhere(node: Node, wanted: list[dict[str, Any]]) -> None:
    results = node.apply(wanted, "--dry-run")
    assert reasons(results, "failed") == {}
    assert set(statuses(results).values()) == {"planned"}
    assert node.shell("getent passwd deploy || echo none") == "none"


def test_the_first_apply_changes_all_of_it(node: Node, wanted: list[dict[str, Any]]) -> None:
    results = node.apply(wanted)
    assert reasons(results, "failed") == {}
    assert set(statuses(results).values()) == {"changed"}
    assert {name: results[name]["status"] for name in SKIPPED} == dict.fromkeys(SKIPPED, "skipped")
    assert all("container" in results[name]["reason"] for name in SKIPPED)
    public = node.ok("cat", "/etc/pgha-keys/id_ed25519.pub")
    assert results["ssh_key:/etc/pgha-keys/id_ed25519"]["reason"] == public


def test_the_host_really_is_so(node: Node) -> None:
    assert node.ok("apt-mark", "showhold") == "jq"
    assert "900" in node.ok("apt-cache", "policy", "jq")
    assert "trixie-backports" in node.ok("apt-cache", "policy")
    assert node.ok("id", "-Gn", "deploy") == "deploy dba"
    assert node.shell("getent shadow deploy | cut -d: -f2") == "!"
    assert node.ok("stat", "-c", "%U %a", "/etc/pgha-keys/id_ed25519") == "deploy 600"
    assert node.shell("cd ~deploy && stat -c %U:%a .ssh .ssh/authorized_keys").split() == [
        "deploy:700",
        "deploy:600",
    ]
    assert node.ok("su", "-", "deploy", "-c", "ulimit -n") == "3000"
    assert node.ok("getent", "hosts", "db").split()[0] == "10.9.9.9"
    assert "noexec" in node.ok("findmnt", "-no", "OPTIONS", "/srv/scratch disk")
    assert node.shell("cat /proc/$(systemctl show -P MainPID app)/limits | grep -c 'open files *5000'") == "1"
    assert node.ok("systemctl", "is-active", "job.timer", "app.service").split() == ["active", "active"]
    assert node.ok("stat", "-c", "%U", "/srv/deploy-state/state") == "deploy"


def test_what_a_timer_runs_gets_its_words_as_they_were_written(node: Node) -> None:
    node.ok("systemctl", "start", "job.service")
    said = node.ok("journalctl", "-q", "-o", "cat", "-t", "echo", "--no-pager")
    assert said == '100% of $HOME a "b" \\'


def test_a_second_apply_changes_nothing(node: Node, wanted: list[dict[str, Any]]) -> None:
    results = node.apply(wanted)
    assert {name: result["reason"] for name, result in results.items() if result["changes"]} == {}
    assert set(statuses(results).values()) == {"unchanged"}


DRIFTS = {
    "package:jq": "apt-mark unhold jq",
    "user:deploy": "usermod -G '' -s /bin/bash deploy",
    "authorized_key:deploy#": "sed -i 's/^restrict,/no-pty,/; 1i # mine' ~deploy/.ssh/authorized_keys",
    "ssh_key:/etc/pgha-keys/id_ed25519": "rm /etc/pgha-keys/id_ed25519.pub; chmod 640 /etc/pgha-keys/id_ed25519",
    "line:/etc/login.defs#^UMASK\\s": "sed -i 's/^UMASK.*/UMASK 022/' /etc/login.defs",
    "hosts:app": "sed -i 's/10.9.9.9/10.9.9.8/' /etc/hosts",
    "mount:/srv/scratch disk": "umount '/srv/scratch disk'; sed -i 's/noexec,//; 1i # mine' /etc/fstab",
    "drop_in:app.service/limits": "echo '# more' >> /etc/systemd/system/app.service.d/limits.conf",
    "service:app.service": "true",  # it watches the drop-in
    "timer:job": "systemctl disable --now job.timer",
    "command:init": "rm /srv/deploy-state/state",
    "postgres_database:app": "runuser -u postgres -- psql -qc 'alter database app owner to postgres'",
    "postgres_extension:app/pgcrypto": "runuser -u postgres -- psql -qd app -c 'drop extension pgcrypto'",
}


def test_exactly_what_somebody_changed_is_repaired(node: Node, wanted: list[dict[str, Any]]) -> None:
    node.shell("\n".join(DRIFTS.values()))
    results = node.apply(wanted)
    assert reasons(results, "failed") == {}
    changed = {name for name, status in statuses(results).items() if status == "changed"}
    assert {name: [d for d in DRIFTS if name.startswith(d)] for name in changed} == {
        name: [d] for d in DRIFTS for name in results if name.startswith(d)
    }
    assert node.shell("head -n1 /etc/fstab; head -n1 ~deploy/.ssh/authorized_keys").split("\n") == ["# mine"] * 2


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a package that others need": (
        {"kind": "package", "name": "libpq5", "absent": True},
        "these would go, too: postgresql",
    ),
    "a package that runs": ({"kind": "package", "name": "openssh-server", "absent": True}, "while it runs: ssh"),
    "a version that nobody offers": ({"kind": "package", "name": "acl", "version": "99"}, "no package source"),
    "another number of a user": ({"kind": "user", "name": "deploy", "uid": 4711}, "pgha does not change it"),
    "a mount over files": (
        {"kind": "mount", "path": "/srv/deploy-state", "source": "tmpfs", "fstype": "tmpfs"},
        "would hide",
    ),
    "a busy mount": ({"kind": "mount", "path": "/srv/scratch disk", "absent": True}, "busy"),
    "a unit that cannot run": (
        {"kind": "unit", "name": "app.service", "content": UNIT.replace("/bin/sleep", "/bin/no-sleep")},
        "/bin/no-sleep is not executable",
    ),
    "a unit with a word that systemd ignores": (
        {"kind": "unit", "name": "app.service", "content": UNIT.replace("ExecStart", "Exec_Start")},
        "Exec_Start",
    ),
    "a drop-in with a wrong value": (
        {"kind": "drop_in", "unit": "app.service", "name": "limits", "content": "[Service]\nLimitNOFILE=many\n"},
        "LimitNOFILE=many",
    ),
    "the file of a unit that runs": ({"kind": "unit", "name": "app.service", "absent": True}, "stop it first"),
    "a time that is none": (
        {"kind": "timer", "name": "job", "on_calendar": "dayly", "command": ["/bin/true"]},
        "on_calendar: expected",
    ),
    "a command whose guard does not hold after it": (
        {"kind": "command", "name": "nothing", "argv": ["true"], "creates": "/srv/never"},
        "did not converge",
    ),
    "a database with another locale": (
        {"kind": "postgres_database", "database": "app", "locale": "POSIX"},
        "given once",
    ),
}


def batches() -> list[list[str]]:
    """The refusals in as few runs as can be: within one, a thing can be wanted in one way only."""
    made: list[dict[str, str]] = []
    for what, (resource, _) in REFUSALS.items():
        name = str(resource.get("path") or resource.get("name") or what)
        batch = next((batch for batch in made if name not in batch), None)
        if batch is None:
            made.append(batch := {})
        batch[name] = what
    return [[*batch.values()] for batch in made]


def test_what_would_do_harm_is_refused_and_leaves_everything_as_it_was(
    node: Node, wanted: list[dict[str, Any]]
) -> None:
    holder = "systemd-run -q --unit holder --working-directory='/srv/scratch disk' sleep infinity"
    node.shell(holder)
    for batch in batches():
        results = node.apply([REFUSALS[what][0] for what in batch])
        for what, result in zip(batch, results.values(), strict=True):
            assert result["status"] == "failed", (what, result)
            assert REFUSALS[what][1] in result["reason"], (what, result["reason"])
    node.shell("systemctl stop holder")
    assert set(statuses(node.apply(wanted)).values()) == {"unchanged"}


ABSENT: list[dict[str, Any]] = [
    {"kind": "postgres_extension", "extension": "pgcrypto", "database": "app", "absent": True, "destroy": True},
    {"kind": "postgres_database", "database": "app", "absent": True, "destroy": True},
    {"kind": "timer", "name": "job", "absent": True},
    {"kind": "service", "unit": "app.service", "running": False, "enabled": False},
    {"kind": "drop_in", "unit": "app.service", "name": "limits", "absent": True},
    {"kind": "unit", "name": "app.service", "absent": True},
    {"kind": "mount", "path": "/srv/scratch disk", "absent": True},
    {"kind": "hosts", "name": "app", "absent": True},
    {"kind": "limits", "domain": "deploy", "absent": True},
    {"kind": "authorized_key", "user": "deploy", "public_key": PUBLIC_KEY, "absent": True},
    {"kind": "user", "name": "deploy", "absent": True},
    {"kind": "user", "name": "job", "absent": True},
    {"kind": "group", "name": "dba", "absent": True},
    {"kind": "package", "name": "jq", "absent": True, "hold": False},
    {"kind": "apt_repository", "name": "backports", "absent": True},
]


def test_what_was_made_can_be_taken_away_again(node: Node) -> None:
    lost = ("postgres_extension:app/pgcrypto", "postgres_database:app")
    kept = node.apply(ABSENT[:2])
    assert {name: "--allow-destroy" in why for name, why in reasons(kept, "failed").items()} == dict.fromkeys(
        lost, True
    )
    results = node.apply(ABSENT, *lost)
    assert reasons(results, "failed") == {}
    assert set(statuses(results).values()) == {"changed"}
    assert set(statuses(node.apply(ABSENT)).values()) == {"unchanged"}
    assert node.shell("ls -d /home/deploy") == "/home/deploy"
    assert node.shell("grep -c . /etc/fstab; ls /etc/apt/preferences.d /etc/apt/sources.list.d").split() == [
        "2",
        "/etc/apt/preferences.d:",
        "/etc/apt/sources.list.d:",
    ]
    assert node.shell("ls /etc/systemd/system | grep -E '^(app|job)'") == "app.service.d"  # an empty folder
