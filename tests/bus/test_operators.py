"""Other users of the host at the local socket of a real master: what each may, and what is written of it."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Master

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users, which takes root")

VIEWER, OPERATOR, ADMIN, OUTSIDER = "nobody", "daemon", "bin", "games"  # accounts that every Debian has
ROLES = """
roles:
  viewer: [nogroup]
  operator: [daemon]
  admin: [bin, no-such-group-here]
"""

# Afterwards it is that user, who may read neither the interpreter's own files nor the folders above the socket's.
AS_USER = """
import json, os, socket, sys
folder, uid, gid, count, text = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
os.chdir(folder)
os.setgroups([]); os.setgid(gid); os.setuid(uid)
held = []
for _ in range(count):
    held.append(socket.socket(socket.AF_UNIX)); held[-1].settimeout(30); held[-1].connect("admin.sock")
last = socket.socket(socket.AF_UNIX); last.settimeout(30); last.connect("admin.sock")
try:
    last.sendall(text.encode() + b"\\n")
except OSError:
    pass
said = b""
try:
    while more := last.recv(65536):
        said += more
except ConnectionResetError:
    pass  # it was closed with the request unread
sys.stdout.write(said.decode().strip().splitlines()[-1])
"""


@pytest.fixture(scope="module")
def host(shared_master: Master) -> Master:
    shared_master.stop()
    with (shared_master.root / "etc/pgha/master.yml").open("a") as settings:
        settings.write(ROLES)
    shared_master.start()
    return shared_master


def ask_as(host: Master, user: str, verb: str, *, held: int = 0, gid: int | None = None, **args: Any) -> dict[str, Any]:
    """The End that this user gets; with so many connections held open meanwhile that say nothing."""
    account = pwd.getpwnam(user)
    argv = (str(host.socket_path.parent), str(account.pw_uid), str(account.pw_gid if gid is None else gid), str(held))
    text = json.dumps({"verb": verb, "args": args})
    done = subprocess.run((sys.executable, "-c", AS_USER, *argv, text), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    end: dict[str, Any] = json.loads(done.stdout)
    return end


def rows(host: Master) -> list[tuple[Any, ...]]:
    return host.rows("select n, who, act, detail from audit order by n")


def test_everybody_may_connect_and_nobody_else_may_read_the_files(host: Master) -> None:
    assert stat.S_IMODE(host.socket_path.stat().st_mode) == 0o666
    assert stat.S_IMODE(host.socket_path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(host.database.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("user", "verb", "args", "code"),
    [
        (VIEWER, "keys.list", {}, 0),
        (VIEWER, "jobs.list", {}, 0),
        (VIEWER, "status", {}, 0),
        (VIEWER, "run", {"target": "*", "function": "ping"}, 5),
        (VIEWER, "run", {"target": "*", "argv": ["id"]}, 8),
        (VIEWER, "plan", {"path": "x.yml", "text": "x"}, 8),
        (VIEWER, "secrets.reveal", {"cluster": "prod", "name": "x"}, 8),
        (VIEWER, "audit.list", {}, 8),
        (OPERATOR, "keys.list", {}, 0),
        (OPERATOR, "run", {"target": "*", "argv": ["id"]}, 5),
        (OPERATOR, "run", {"target": "*", "argv": ["id"], "force_unsafe": True}, 8),
        (OPERATOR, "keys.token", {}, 8),
        (OPERATOR, "secrets.set", {"cluster": "prod", "name": "x", "value": "y"}, 8),
        (ADMIN, "keys.token", {}, 0),
        (ADMIN, "audit.verify", {}, 0),
        (OUTSIDER, "keys.list", {}, 8),
        (OUTSIDER, "no.such.verb", {}, 8),
    ],
)
def test_each_may_what_their_group_gives(host: Master, user: str, verb: str, args: dict[str, Any], code: int) -> None:
    end = ask_as(host, user, verb, **args)
    assert end["exit"] == code, end["message"]
    if code == 8:
        assert end["message"].startswith(f"{user} may not ")
        assert not end["data"]


def test_who_is_refused_is_told_the_role_and_its_group(host: Master) -> None:
    message = ask_as(host, OPERATOR, "keys.token")["message"]
    assert message == (
        "daemon may not ask for keys.token: that needs the role admin (group bin or no-such-group-here),"
        " and daemon is operator"
    )
    assert "not in one of the groups nogroup, daemon, bin" in ask_as(host, OUTSIDER, "status")["message"]


def test_the_group_that_a_process_runs_with_counts_nothing(host: Master) -> None:
    """`newgrp`, setgid programs and the like: the account's groups count."""
    assert ask_as(host, OUTSIDER, "keys.token", gid=pwd.getpwnam(ADMIN).pw_gid)["exit"] == 8
    assert ask_as(host, ADMIN, "keys.list", gid=pwd.getpwnam(OUTSIDER).pw_gid)["exit"] == 0


def test_what_changes_is_written_with_who_asked_and_what_only_looks_is_not(host: Master) -> None:
    before = len(rows(host))
    ask_as(host, VIEWER, "keys.list")
    ask_as(host, ADMIN, "keys.token", name="n7", ttl_s=60)
    host.ask("secrets.set", cluster="prod", name="own/one", value="canary-51f3")
    ask_as(host, OPERATOR, "secrets.reveal", cluster="prod", name="own/one")
    found = [row[1:] for row in rows(host)[before:]]
    assert found == [
        ("bin (uid 2, admin)", "keys.token", '{"name":"n7","ttl_s":60}'),
        ("root (uid 0, admin)", "secrets.set", '{"cluster":"prod","name":"own/one","value":"not kept: 11"}'),
        ("daemon (uid 1, operator)", "refused secrets.reveal", '{"cluster":"prod","name":"own/one"}'),
    ]
    for path in host.root.rglob("*"):
        assert not path.is_file() or b"canary-51f3" not in path.read_bytes(), path


def test_who_is_turned_away_again_and_again_does_not_fill_the_trail(host: Master) -> None:
    before = len(rows(host))
    for _ in range(26):
        assert ask_as(host, "man", "keys.list")["exit"] == 8
    assert len(rows(host)) - before == 20


def test_the_trail_can_be_listed_and_verified_by_the_command(host: Master) -> None:
    ask_as(host, ADMIN, "keys.token", name="n8")
    listed = host.cli("audit", "list", "--who", "bin", "--limit", "1")
    assert listed.code == 0, listed.text
    assert "bin (uid 2, admin)" in listed.out and "keys.token" in listed.out and '"n8"' in listed.out
    said = host.cli("audit", "verify")
    assert said.code == 0, said.text
    assert "the audit trail is whole" in said.out
    logged = [line.split("audit ")[1].split(" ")[0] for line in host.log.splitlines() if "pgha.audit audit" in line]
    assert len(logged) == len(rows(host)) - 1 or len(logged) == len(rows(host))
    assert host.cli("audit", "verify", "--expect", logged[2]).code == 0
    assert host.cli("audit", "verify", "--expect", f"999999:{'0' * 64}").code == 1
    assert host.cli("audit", "verify", "--expect", "nonsense").code == 2


def test_a_row_that_was_changed_in_the_file_is_found(host: Master) -> None:
    import sqlite3

    ask_as(host, ADMIN, "keys.token", name="n9")
    host.stop()
    database = sqlite3.connect(host.database)
    ((number, detail),) = database.execute("select n, detail from audit order by n desc limit 1").fetchall()
    for new, code in (('{"name":"n1"}', 1), (detail, 0)):
        database.execute("update audit set detail=? where n=?", (new, number))
        database.commit()
        host.start()
        # asking for it is the next row, which is written before it is done
        said = host.cli("audit", "verify")
        assert said.code == code, said.text
        assert code == 0 or f"broken at row {number}" in said.err
        host.stop()
    database.close()
    host.start()


def test_one_user_has_so_many_connections_and_the_others_do_not_notice(host: Master) -> None:
    refused = ask_as(host, OUTSIDER, "status", held=32)
    assert refused["exit"] == 6
    assert "32 requests of yours are open already" in refused["message"]
    assert ask_as(host, VIEWER, "status", held=31)["exit"] == 0


def test_root_is_not_shut_out_by_the_connections_of_others(host: Master) -> None:
    account = pwd.getpwnam(OUTSIDER)
    script = AS_USER.replace(
        "last = socket", "sys.stdout.write('full'); sys.stdout.flush(); sys.stdin.read()\nlast = socket"
    )
    argv = (
        sys.executable,
        "-c",
        script,
        str(host.socket_path.parent),
        str(account.pw_uid),
        str(account.pw_gid),
        "32",
        "{}",
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout is not None and crowd.stdin is not None
        assert crowd.stdout.read(4) == b"full"
        assert host.ask("keys.list")[-1]["exit"] == 0
        assert ask_as(host, VIEWER, "keys.list")["exit"] == 0
        crowd.stdin.close()


def test_an_outsider_may_not_send_much(host: Master) -> None:
    assert "at most 65536 bytes" in ask_as(host, OUTSIDER, "status", junk="x" * 100_000)["message"]


def test_a_master_that_runs_low_on_file_descriptors_says_so_and_still_serves(
    master: Master, until: Callable[..., Any]
) -> None:
    master.stop()
    master.argv = ("sh", "-c", 'ulimit -Sn 60 && ulimit -Hn 120 && exec "$@"', "sh", *master.argv)
    master.start()
    assert master.process is not None
    limits = Path(f"/proc/{master.process.pid}/limits").read_text()
    assert re.search(r"Max open files +120 +120", limits), "the soft limit was not raised"
    folder = Path(f"/proc/{master.process.pid}/fd")
    held = [socket.socket(socket.AF_UNIX) for _ in range(84 - len(list(folder.iterdir())))]
    for one in held:
        one.connect(str(master.socket_path))
        one.sendall(b'{"verb": "')
    until("the warning", lambda: "of 120 file descriptors are in use" in master.log)
    assert master.ask("keys.list")[-1]["exit"] == 0
    for one in held:
        one.close()
