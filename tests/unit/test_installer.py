"""What travels to a host and what comes back: the wheel, the archive, the call of ssh, the words of a failure."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pgha.common import wheel
from pgha.common.errors import UserError
from pgha.master.cli.main import cli
from pgha.master.operations.progress import End
from pgha.master.ssh import installer, ssh
from pgha.master.ssh.ssh import NOT_REACHED, Access

ROOT = Path(installer.__file__).resolve().parents[2]
SCRIPT = ROOT / "master/ssh/install.sh"
OWN = wheel.installed()


def names(data: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(data)).namelist())


def rewritten(data: bytes, change: dict[str, bytes | None]) -> bytes:
    """The archive with members replaced, added, or (None) left out."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        members: dict[str, bytes | None] = {name: old.read(name) for name in old.namelist()}
        for name, content in {**members, **change}.items():
            if content is not None:
                new.writestr(name, content)
    return target.getvalue()


# ---- the wheel


def test_the_wheel_holds_the_product_and_nothing_of_the_checkout_around_it() -> None:
    rooms = [path for room in ("common", "states", "minion", "master") for path in (ROOT / room).rglob("*.py")]
    wanted = {f"pgha/{path.relative_to(ROOT)}" for path in rooms} | {"pgha/__init__.py", "pgha/py.typed"}
    wanted |= {"pgha/minion/pgha-minion.service", "pgha/master/pgha-master.service", "pgha/master/ssh/install.sh"}
    assert {name for name in names(OWN.data) if not name.startswith("pgha-")} == wanted


def test_the_same_files_give_the_same_wheel() -> None:
    assert wheel.installed() == wheel.installed()
    assert wheel.opened(OWN.data) == OWN


def test_what_another_hand_has_packed_is_the_same_if_its_files_are(tmp_path: Path) -> None:
    assert wheel.opened(rewritten(OWN.data, {})).digest == OWN.digest


def test_pip_installs_the_wheel_and_what_it_has_installed_makes_the_same_wheel(tmp_path: Path) -> None:
    (tmp_path / OWN.name).write_bytes(OWN.data)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    python = str(tmp_path / "v/bin/python")
    options = ["--no-index", "--no-deps", "--no-input", "--disable-pip-version-check", "-q"]
    argv = [sys.executable, "-m", "pip", "--python", python, "install", *options, str(tmp_path / OWN.name)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}  # for click and the others
    said = subprocess.run(
        [tmp_path / "v/bin/pgha-minion", "--version"], capture_output=True, text=True, env=environment
    )
    assert said.stdout.split()[-1] == OWN.version
    ask = "import pgha.common.wheel as w; print(w.__file__, w.installed().digest)"
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True, env=environment, cwd="/")
    where, digest = said.stdout.split()
    assert where.startswith(str(tmp_path))
    assert digest == OWN.digest


def test_what_the_wheel_asks_for_is_what_the_project_depends_on() -> None:
    listed = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert listed is not None
    bare = re.compile(r"^[A-Za-z0-9.]+")
    wanted = {match[0] for text in re.findall(r'"([^"]+)"', listed[1]) if (match := bare.match(text))}
    asked = {match[0] for text in OWN.requires if (match := bare.match(text))}
    assert asked == wanted


RECORD = f"pgha-{OWN.version}.dist-info/RECORD"
METADATA = f"pgha-{OWN.version}.dist-info/METADATA"


@pytest.mark.parametrize(
    "change",
    [
        {"pgha/minion/agent.py": b"import os"},
        {"pgha/minion/agent.py": None},
        {"pgha/minion/extra.py": b""},
        {"../../etc/cron.d/x": b""},
        {"other/__init__.py": b""},
        {RECORD: b""},
        {RECORD: None},
        {METADATA: b"Name: other\nVersion: 1\n"},
        {METADATA: b"Name: pgha\nVersion: 1; rm -rf /\n"},
        {"pgha-9.dist-info/RECORD": b""},
    ],
    ids=str,
)
def test_a_wheel_that_was_changed_on_its_way_is_refused(change: dict[str, bytes | None]) -> None:
    with pytest.raises(UserError):
        wheel.opened(rewritten(OWN.data, change))


def test_a_wheel_that_unpacks_to_more_than_pgha_ever_is_is_refused() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pgha/big.py", b"\0" * (40 * 1024 * 1024))
    assert len(target.getvalue()) < 100_000
    with pytest.raises(UserError, match="larger"):
        wheel.opened(target.getvalue())


@given(st.binary(max_size=200), st.integers(0, len(OWN.data)))
def test_bytes_that_are_no_wheel_are_refused_and_nothing_else_happens(noise: bytes, cut: int) -> None:
    for data in (noise, OWN.data[:cut] + noise):
        if data != OWN.data:
            try:
                assert wheel.opened(data).digest == OWN.digest  # bytes behind the archive's end change nothing in it
            except UserError:
                pass


def test_versions_are_ordered_as_pip_orders_them() -> None:
    before = ["0.9", "0.10.dev1", "0.10a1", "0.10a1.post1", "0.10b1", "0.10rc1", "0.10", "0.10.post1", "0.10.1"]
    texts = [*before, "1.0.dev2", "1.0", "1.0.1", "10.0"]
    assert sorted(set(texts), key=wheel.order) == texts
    assert wheel.order("1.0") == wheel.order("1") == wheel.order("1.0+local.1")


# ---- the archive, and the command that takes it


def test_an_archive_that_is_joined_of_parts_is_one_archive() -> None:
    files = {"a": b"", "b/c": b"x" * 512, "d": b"y" * 1000}
    data = installer.sealed(installer.packed({"own": b"1"}), installer.packed(files))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in found.items() if file} == {"own": b"1", **files}
        assert {member.mode for member in archive.getmembers()} == {0o600}


def taken(script: str, tmp_path: Path, sudo: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """What becomes of an archive with that script, on this machine instead of a host."""
    files = installer.own_files("pg-node1", "tok.en", "f" * 52, "", 7760)
    data = installer.sealed(installer.packed({**files, "install.sh": script.encode()}))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        installer.command(sudo),
        shell=True,  # as sshd gives it to the user's shell
        input=data,
        capture_output=True,
        env={"PATH": path, "TMPDIR": str(tmp_path / "tmp"), "SSH_CONNECTION": "10.1.2.3 5 10.9.9.9 22", **environment},
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_the_command_runs_the_script_with_its_files_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = taken('cd "$1"; stat -c %a .; cat name token; echo "$2"; cat master; exit 85', tmp_path)
    assert done.stdout.split() == ["700", "pg-node1", "tok.en", "10.1.2.3"]
    assert done.returncode == 85
    assert list((tmp_path / "tmp").iterdir()) == []


def test_with_sudo_the_script_alone_runs_as_root_and_still_knows_the_connection(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] || exit 1\nshift\nexec env -i PATH="$PATH" AS=root "$@"\n')
    sudo.chmod(0o755)
    done = taken('echo "$AS $2"', tmp_path, sudo=True)
    assert (done.returncode, done.stdout) == (0, "root 10.1.2.3\n")


def test_no_value_of_a_host_is_part_of_the_command() -> None:
    assert installer.command(False).count("'") == 2
    assert installer.command(True).replace("sudo -n ", "") == installer.command(False)


def test_the_script_is_one_that_a_plain_shell_reads() -> None:
    assert subprocess.run(["sh", "-n", str(SCRIPT)], capture_output=True).returncode == 0


def test_each_step_at_which_the_script_fails_has_its_words() -> None:
    text = SCRIPT.read_text()
    codes = {int(code) for code in re.findall(r"(?:die|exit) (\d\d)\b", text)}
    assert codes | {69} == set(installer._STEPS) - {NOT_REACHED}


def test_the_folder_of_wheels_gives_only_wheels_and_never_another_pgha(tmp_path: Path) -> None:
    for name in ("click-8.1-py3-none-any.whl", "pgha-9-py3-none-any.whl", "notes.txt", "-evil.whl"):
        (tmp_path / name).write_bytes(b"x")
    assert set(installer.read_wheels(tmp_path)) == {"click-8.1-py3-none-any.whl"}
    with pytest.raises(UserError, match="no folder"):
        installer.read_wheels(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no wheel"):
        installer.read_wheels(tmp_path / "empty")


# ---- ssh


def test_the_call_of_ssh_has_its_address_and_command_behind_all_options() -> None:
    words = ssh.argv(Access(user="admin", port=2222), "10.0.0.1", "true")
    assert words[-3:] == ["--", "10.0.0.1", "true"]
    assert words[words.index("-l") + 1] == "admin"
    assert words[words.index("-p") + 1] == "2222"
    assert {"BatchMode=yes", "StrictHostKeyChecking=accept-new", "ForwardAgent=no"} <= set(words)


def test_without_wishes_ssh_decides_user_port_and_key_itself() -> None:
    assert not {"-l", "-p", "-i"} & set(ssh.argv(Access(), "10.0.0.1", "true"))


@pytest.mark.parametrize(
    "wish",
    [
        {"user": "-oProxyCommand=id"},
        {"user": "a b"},
        {"user": "a;id"},
        {"user": "$(id)"},
        {"port": 70000},
        {"port": -1},
        {"checking": "no"},
        {"identity": "/nowhere/key"},
        {"identity": "-oProxyCommand=id"},
        {"known_hosts": "/tmp/a b"},
        {"known_hosts": "/tmp/%h"},
        {"known_hosts": "/tmp/a\nProxyCommand id"},
    ],
    ids=str,
)
def test_what_ssh_could_take_for_something_else_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Access(**wish)


def test_lines_come_as_they_are_said_and_the_end_of_the_errors_is_kept() -> None:
    lines: list[str] = []
    script = "cat >/dev/null; echo one; printf '%09000d\\n' 1; echo two; echo why >&2; exit 7"
    ended = asyncio.run(ssh.run(["sh", "-c", script], b"x" * 1_000_000, lines.append, 30))
    assert (ended.code, ended.errors.strip()) == (7, "why")
    assert [line for line in lines if len(line) < 100] == ["one", "two"]


def test_a_host_that_stops_reading_is_no_error_of_its_own() -> None:
    ended = asyncio.run(ssh.run(["sh", "-c", "exec <&-; exit 3"], b"x" * 4_000_000, lambda line: None, 30))
    assert ended.code == 3


def test_a_call_that_does_not_end_is_ended() -> None:
    ended = asyncio.run(ssh.run(["sleep", "600"], b"", lambda line: None, 0.2))
    assert ended.code == NOT_REACHED
    assert "0.2 s" in ended.errors


# ---- failures


@pytest.mark.parametrize(
    ("code", "errors", "expected"),
    [
        (255, "ssh: connect to host 10.0.0.1 port 22: Connection timed out", "no answer from 10.0.0.1"),
        (255, "ssh: connect to host 10.0.0.1 port 22: No route to host", "that the host is up"),
        (255, "ssh: connect to host 10.0.0.1 port 22: Connection refused", "nothing listens on port 22"),
        (255, "admin@10.0.0.1: Permission denied (publickey).", "ssh admin@10.0.0.1 true"),
        (
            255,
            "@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "ssh-keygen -R",
        ),
        (255, "No ED25519 host key is known for 10.0.0.1 and you have requested strict checking.", "accept-new"),
        (255, "Connection closed by 10.0.0.1", "the SSH connection broke\nConnection closed"),
        (1, "sudo: a password is required", "NOPASSWD"),
        (1, "admin is not in the sudoers file.", "admin may not use sudo"),
        (127, "sh: 1: sudo: not found", "there is no sudo"),
        (76, "E: Unable to locate package python3-venv", "apt-get install python3-venv"),
        (77, "Python 3.8.10", "Python 3.10 or newer"),
        (81, "ERROR: No matching distribution found for click>=8.1", "--wheels"),
        (81, "ERROR: [Errno 28] No space left on device", "its disk is full"),
        (2, "tar: install.sh: Cannot write: No space left on device", "its disk is full"),
        (85, "the name is known with another key: pgha-master keys revoke n1", "keys revoke n1"),
        (42, "strange", "exit code 42\nstrange"),
    ],
)
def test_a_failure_says_what_to_do(code: int, errors: str, expected: str) -> None:
    assert expected in installer.explained(code, errors, "10.0.0.1", Access(user="admin"))


def test_an_old_host_key_is_taken_away_from_where_it_lies() -> None:
    said = installer.explained(
        255, "REMOTE HOST IDENTIFICATION HAS CHANGED", "10.0.0.1", Access(port=2222, known_hosts="/etc/k")
    )
    assert "ssh-keygen -R '[10.0.0.1]:2222' -f /etc/k." in said


# ---- the command, with a daemon and an ssh that are played

GOOD = """\
schema: pgha/v1
cluster: prod
entrypoint: db.example.com
access: {admin: [192.0.2.200/32], clients: [0.0.0.0/0]}
nodes:
  n1: {address: 203.0.113.1, region: eu-west}
  n2: {address: 198.51.100.2, region: us-east}
  n3: {address: 192.0.2.3, region: us-west, role: witness}
"""
SSH = """\
#!/bin/sh
# plays the host: notes what it was called with, and does what the file named after the address says
here=${0%/*}
for word; do address=$before before=$word; done
printf '%s\\n' "$@" > "$here/$address.argv"
mkdir -p "$here/$address.d" && tar -xf - -C "$here/$address.d"
echo "noise of a login shell"
. "$here/$address.sh"
"""


class Played:
    """A daemon that knows three names, and an `ssh` before the real one in PATH."""

    def __init__(self, root: Path) -> None:
        self.root, self.connected, self.asked, self.listen = (
            root,
            set[str](),
            list[tuple[str, object]](),
            "ADDRESS:7760",
        )
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.bin / "ssh").write_text(SSH)
        (self.bin / "ssh").chmod(0o755)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(root / "run/pgha/admin.sock"))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                request = json.loads(stream.readline())
                self.asked.append((request["verb"], request["args"]))
                stream.write(self._answer(request["verb"], request["args"]).model_dump_json().encode() + b"\n")

    def _answer(self, verb: str, arguments: dict[str, str]) -> End:
        if verb == "keys.token":
            return End(data={"token": f"{arguments['name']}.secret", "master": self.listen})
        self.connected |= {path.read_text().strip() for path in self.bin.glob("*.connected")}
        keys = [{"name": name, "state": "accepted", "connected": True} for name in self.connected]
        return End(data={"master_fingerprint": "f" * 52, "keys": keys})

    def host(self, address: str, script: str) -> None:
        (self.bin / f"{address}.sh").write_text(script)

    def sent(self, address: str, name: str) -> str:
        return (self.bin / f"{address}.d" / name).read_text()

    def argv(self, address: str) -> list[str]:
        return (self.bin / f"{address}.argv").read_text().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setenv("PGHA_ROOT", str(tmp_path))
    (tmp_path / "run/pgha").mkdir(parents=True)
    (tmp_path / "etc/pgha/clusters").mkdir(parents=True)
    (tmp_path / "etc/pgha/clusters/prod.yml").write_text(GOOD)
    daemon = Played(tmp_path)
    monkeypatch.setenv("PATH", f"{daemon.bin}:{os.environ['PATH']}")
    for address in ("203.0.113.1", "198.51.100.2", "192.0.2.3"):
        daemon.host(address, 'cat "$here/$address.d/name" > "$here/$address.connected"; echo "pgha: accepted"\n')
    yield daemon
    daemon.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="pgha-master")


def test_every_node_is_installed_and_told_when_it_is_connected(played: Played) -> None:
    said = run("enrol", "prod")
    assert said.exit_code == 0, said.output
    for node in ("n1", "n2", "n3"):
        assert re.search(rf"^{node}  enrolled and connected", said.stdout, re.M)
    assert said.stderr.splitlines()[-1] == "Next:  pgha-master plan prod"
    assert "noise" not in said.output


def test_a_node_that_is_connected_is_left_alone(played: Played) -> None:
    played.connected = {"n1", "n3"}
    said = run("enrol", "prod")
    assert said.exit_code == 0
    assert "n1  connected already, nothing to do" in said.stdout
    assert [arguments for verb, arguments in played.asked if verb == "keys.token"] == [{"name": "n2", "ttl_s": 1800.0}]
    assert not (played.bin / "203.0.113.1.argv").exists()


def test_each_node_gets_a_token_of_its_own_which_is_in_no_argument(played: Played) -> None:
    run("enrol", "prod")
    for node, address in (("n1", "203.0.113.1"), ("n2", "198.51.100.2")):
        assert played.sent(address, "token") == f"{node}.secret\n"
        assert played.sent(address, "name") == f"{node}\n"
        assert "secret" not in " ".join(played.argv(address))
        assert not {node, f"{node}.secret", "f" * 52} & set(" ".join(played.argv(address)).split())
    assert wheel.opened((played.bin / "203.0.113.1.d" / OWN.name).read_bytes()).version == OWN.version


def test_one_that_fails_stops_no_other_and_says_what_to_do(played: Played) -> None:
    played.host("198.51.100.2", "echo 'ssh: connect to host x port 22: Connection refused' >&2; exit 255\n")
    said = run("enrol", "prod")
    assert said.exit_code == 4
    assert "n2  failed: nothing listens on port 22 of 198.51.100.2" in said.stdout
    assert said.stdout.count("enrolled and connected") == 2
    assert "give the same command again" in said.stderr


def test_when_all_fail_it_is_a_failure(played: Played) -> None:
    for address in ("203.0.113.1", "198.51.100.2", "192.0.2.3"):
        played.host(address, "echo 'sudo: a password is required' >&2; exit 1\n")
    said = run("enrol", "prod", "--sudo", "--user", "admin")
    assert said.exit_code == 1
    assert said.stdout.count("failed: sudo asks admin for a password there") == 3


def test_only_the_nodes_that_are_named(played: Played) -> None:
    said = run("enrol", "prod", "--node", "n3", "--json")
    (node,) = json.loads(said.stdout)["data"]["nodes"]
    assert (node["node"], node["address"], node["state"]) == ("n3", "192.0.2.3", "connected")


def test_a_node_that_the_definition_lacks_is_refused_before_anything_happens(played: Played) -> None:
    said = run("enrol", "prod", "--node", "n33")
    assert said.exit_code == 2
    assert "n3" in said.stderr
    assert played.asked == []


@pytest.mark.parametrize(
    ("listen", "option", "sent"),
    [
        ("ADDRESS:7760", (), ""),
        ("10.0.0.5:7777", (), "10.0.0.5:7777\n"),
        ("ADDRESS:7760", ("--master", "198.51.100.7"), "198.51.100.7:7760\n"),
        ("ADDRESS:7760", ("--master", "master.example.com:7000"), "master.example.com:7000\n"),
        ("10.0.0.5:7777", ("--master", "2001:db8::1"), "[2001:db8::1]:7777\n"),
        ("10.0.0.5:7777", ("--master", "[2001:db8::1]:7000"), "[2001:db8::1]:7000\n"),
    ],
)
def test_nodes_are_told_where_the_master_is(played: Played, listen: str, option: tuple[str, ...], sent: str) -> None:
    played.listen = listen
    assert run("enrol", "prod", "--node", "n1", *option).exit_code == 0
    assert played.sent("203.0.113.1", "master") == sent
    assert played.sent("203.0.113.1", "port").strip() == listen.rpartition(":")[2]


@pytest.mark.parametrize("address", ["$(id)", "a b", "-x", "host:port", "10.0.0.1:7760:1"])
def test_an_address_of_the_master_that_is_none_is_refused(played: Played, address: str) -> None:
    assert run("enrol", "prod", "--master", address).exit_code == 2


def test_without_ssh_it_says_what_to_install(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(played.root / "empty"))
    said = run("enrol", "prod")
    assert said.exit_code == 1
    assert "apt-get install openssh-client" in said.stdout


def test_without_a_daemon_nothing_is_sent(played: Played) -> None:
    played.close()
    (played.root / "run/pgha/admin.sock").unlink()
    assert run("enrol", "prod").exit_code == 8
    assert list(played.bin.glob("*.argv")) == []
