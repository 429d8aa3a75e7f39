"""From hosts that have nothing but SSH to minions, and to the next pgha, in the order of this file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from labsite import LAB, REPOSITORY, Said, Site, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NODES = ("pg-node1", "pg-node2", "witness-node")


@dataclass
class Hosts:
    """Bare hosts with a key for root, and a master that was installed from a wheel, as a person's is."""

    site: Site
    key: Path
    known_hosts: Path
    venv: Path
    source: Path
    wheels: str = ""

    def pgha(self, *words: str, timeout_s: float = 600.0) -> Said:
        said = self.site.run([str(self.venv / "bin/pgha-master"), *words], timeout_s)
        self.site.said += [said.out, said.err]
        return said

    def enrol(self, *words: str) -> Said:
        keys = ["--identity", str(self.key), "--known-hosts", str(self.known_hosts)]
        return self.pgha("enrol", "prod", *keys, *words)

    def release(self, version: str, **changes: str) -> None:
        """Install this checkout as that version on the master; `changes`: file -> text added at its end."""
        shutil.rmtree(self.source, ignore_errors=True)
        self.source.mkdir()
        for name in ("common", "states", "minion", "master", "__init__.py", "py.typed", "README.md", "pyproject.toml"):
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, self.source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(REPOSITORY / name, self.source)
        for name in ("pyproject.toml", "__init__.py"):
            text = (self.source / name).read_text()
            text = re.sub(r'^(version|__version__) = ".*"$', rf'\1 = "{version}"', text, flags=re.M)
            (self.source / name).write_text(text)
        for name, text in changes.items():
            with (self.source / name.replace("__", "/")).with_suffix(".py").open("a") as file:
                file.write(text)
        options = ["-q", "--no-deps", "--no-build-isolation", "--force-reinstall", "--disable-pip-version-check"]
        python = str(self.venv / "bin/python")
        argv = [sys.executable, "-m", "pip", "--python", python, "install", *options, str(self.source)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start_master(self) -> None:
        with (self.site.root / "master.log").open("ab") as log:
            argv = [str(self.venv / "bin/pgha-master"), "serve"]
            self.site.daemon = subprocess.Popen(argv, env=self.site.environment, stdout=log, stderr=log)
        wait_until("the master answers", lambda: self.pgha("keys", "list").rc == 0, 20)

    def connected(self) -> set[str]:
        keys = json.loads(self.pgha("keys", "list", "--json").out)["data"]["keys"]
        return {key["name"] for key in keys if key["connected"]}

    def version(self, node: str) -> str:
        return self.site.ok(node, "pgha-minion", "--version").split()[-1]

    def log(self, node: str) -> str:
        return self.site.ok(node, "journalctl", "-u", "pgha-minion", "-o", "cat", "--no-pager")

    def wait_for(self, node: str, told: str, timeout_s: float) -> None:
        wait_until(f"{node} says that {told}", lambda: told in self.log(node), timeout_s, 1)

    def service(self, node: str) -> str:
        return self.site.on(node, "systemctl", "show", "-P", "MainPID", "pgha-minion").out.strip()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("enrol")
    site = Site(f"e{os.getpid()}", tmp_path_factory.mktemp("root"))
    found = Hosts(site, folder / "key", folder / "known_hosts", folder / "venv", folder / "source")
    try:
        site.lab("up", "--without-pgha")
        found.wheels = site.lab("wheels").out.strip()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(found.key)], check=True)
        site.nodes = {node["name"]: node["address"] for node in json.loads(site.lab("status", "--json").out)["nodes"]}
        for node in NODES:
            let_in(site, node, "/root", found.key.with_suffix(".pub").read_text())
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(found.venv)], check=True)
        # what pgha needs is this interpreter's; pgha itself must be the wheel's
        path = next((found.venv / "lib").iterdir()) / "site-packages/needs.pth"
        path.write_text(f"{Path(pytest.__file__).parents[1]}\n")
        found.release("0.9.1")
        # an address of its own, so that it runs beside another lab's master
        network = site.nodes["pg-node1"].rsplit(".", 2)[0]
        assert found.pgha("init", "--listen", f"{network}.0.1:7790").rc == 0
        found.start_master()
        site.define()
        yield found
    finally:
        site.stop_master()
        site.lab("down")


def let_in(site: Site, node: str, home: str, key: str) -> None:
    script = 'mkdir -p -m 700 "$1/.ssh" && cat > "$1/.ssh/authorized_keys" && chown -R "$(stat -c %u "$1")" "$1/.ssh"'
    said = site.run([sys.executable, str(LAB), "exec", node, "--", "sh", "-c", script, "sh", home], stdin=key)
    assert said.rc == 0, said.err


# ---- what goes wrong is told, and leaves nothing half done


def test_a_host_that_does_not_let_us_in_is_told(hosts: Hosts, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    said = hosts.pgha("enrol", "prod", "--identity", str(other), "--known-hosts", str(hosts.known_hosts))
    assert said.rc == 1
    assert said.out.count("SSH does not let you in") == 3


def test_a_host_whose_key_is_another_is_not_spoken_to(hosts: Hosts, tmp_path: Path) -> None:
    other = (tmp_path / "host").with_suffix(".pub")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "host")], check=True)
    known = tmp_path / "known"
    known.write_text(f"{hosts.site.nodes['pg-node1']} {other.read_text()}")
    said = hosts.pgha("enrol", "prod", "--node", "pg-node1", "--identity", str(hosts.key), "--known-hosts", str(known))
    assert said.rc == 1
    assert "its SSH host key is not the one that is known" in said.out


def test_a_host_that_is_not_known_is_not_spoken_to_when_that_was_asked_for(hosts: Hosts, tmp_path: Path) -> None:
    words = ("--identity", str(hosts.key), "--known-hosts", str(tmp_path / "none"), "--host-key-checking", "yes")
    said = hosts.pgha("enrol", "prod", "--node", "pg-node1", *words)
    assert said.rc == 1
    assert "its SSH host key is not known here" in said.out


def test_a_host_without_an_index_says_so_and_is_not_enrolled(hosts: Hosts) -> None:
    hosts.site.ok(
        "pg-node1", "sh", "-c", "printf '[global]\\nindex-url = http://127.0.0.1:9/\\nretries = 0\\n' > /etc/pip.conf"
    )
    said = hosts.enrol("--node", "pg-node1")
    assert said.rc == 1
    assert "pip cannot get what pgha needs" in said.out
    assert "--wheels" in said.out
    assert hosts.site.on("pg-node1", "ls", "/etc/pgha/minion.yml", "/etc/pgha/pki/minion.key").out == ""
    assert json.loads(hosts.pgha("keys", "list", "--json").out)["data"]["keys"] == []


def test_a_full_disk_is_told(hosts: Hosts) -> None:
    hosts.site.ok("pg-node2", "sh", "-c", "mkdir -p /opt/pgha && mount -t tmpfs -o size=4m tmpfs /opt/pgha")
    said = hosts.enrol("--node", "pg-node2", "--wheels", hosts.wheels)
    hosts.site.ok("pg-node2", "umount", "/opt/pgha")
    assert said.rc == 1
    assert "its disk is full" in said.out


# ---- enrolled


def test_two_nodes_are_enrolled_while_a_third_is_off_and_that_is_partly_done(hosts: Hosts) -> None:
    hosts.site.lab("kill", "witness-node")
    said = hosts.enrol("--wheels", hosts.wheels)
    assert said.rc == 4, said.out + said.err
    assert "witness-node  failed: no answer from" in said.out
    assert hosts.connected() == {"pg-node1", "pg-node2"}
    hosts.site.lab("start", "witness-node")


def test_the_same_again_does_the_rest_and_leaves_the_others_alone(hosts: Hosts) -> None:
    before = {node: hosts.service(node) for node in ("pg-node1", "pg-node2")}
    said = hosts.enrol("--wheels", hosts.wheels)
    assert said.rc == 0, said.out + said.err
    assert said.out.count("connected already, nothing to do") == 2
    assert said.err.splitlines()[-1] == "Next:  pgha-master plan prod"
    assert hosts.connected() == set(NODES)
    assert {node: hosts.service(node) for node in before} == before


def test_a_node_has_what_a_node_has(hosts: Hosts) -> None:
    for node in NODES:
        assert hosts.site.ok(node, "systemctl", "is-enabled", "pgha-minion").strip() == "enabled"
        assert hosts.site.ok(node, "readlink", "/usr/bin/pgha-minion").strip() == "/opt/pgha/bin/pgha-minion"
        assert hosts.version(node) == "0.9.1"
        assert f"name: {node}" in hosts.site.ok(node, "cat", "/etc/pgha/minion.yml")
        assert "token" not in hosts.site.ok(node, "cat", "/etc/pgha/minion.yml")
        assert hosts.site.ok(node, "sh", "-c", "ls -d /tmp/tmp.* 2>/dev/null || true") == ""


def test_no_token_was_ever_printed(hosts: Hosts) -> None:
    assert not [text for text in hosts.site.said if re.search(r"\b[0-9a-f]{8}\.[A-Za-z0-9_-]{43}\b", text)]


def test_a_minion_that_was_taken_away_is_put_back_with_its_key(hosts: Hosts) -> None:
    key = hosts.site.ok("pg-node1", "cat", "/etc/pgha/pki/minion.key")
    hosts.site.ok("pg-node1", "sh", "-c", "systemctl stop pgha-minion && rm -rf /opt/pgha /usr/bin/pgha-minion")
    wait_until("it is gone", lambda: "pg-node1" not in hosts.connected(), 60)
    said = hosts.enrol("--wheels", hosts.wheels)
    assert said.rc == 0, said.out + said.err
    assert hosts.site.ok("pg-node1", "cat", "/etc/pgha/pki/minion.key") == key


def test_a_host_that_was_set_up_anew_is_a_conflict_until_its_old_key_is_revoked(hosts: Hosts) -> None:
    hosts.site.lab("wipe", "pg-node1")
    let_in(hosts.site, "pg-node1", "/root", hosts.key.with_suffix(".pub").read_text())
    hosts.known_hosts.unlink()
    wait_until("it is gone", lambda: "pg-node1" not in hosts.connected(), 60)
    said = hosts.enrol("--wheels", hosts.wheels)
    assert said.rc == 4
    assert "pgha-master keys revoke pg-node1" in said.out
    assert hosts.site.on("pg-node1", "ls", "/etc/pgha/minion.yml").out == ""
    assert hosts.pgha("keys", "revoke", "pg-node1", "--yes").rc == 0
    assert hosts.enrol("--wheels", hosts.wheels).rc == 0
    assert hosts.connected() == set(NODES)


def test_a_host_that_is_another_node_is_not_renamed(hosts: Hosts) -> None:
    site, path = hosts.site, hosts.site.root / "etc/pgha/clusters/prod.yml"
    before = path.read_text()
    path.write_text(before.replace("pg-node2:", "pg-node3:"))
    said = hosts.enrol("--node", "pg-node3", "--wheels", hosts.wheels)
    path.write_text(before)
    assert said.rc == 1
    assert "Are two addresses swapped" in said.out
    assert "name: pg-node2" in site.ok("pg-node2", "cat", "/etc/pgha/minion.yml")


def test_a_user_with_sudo_enrols_as_root_does(hosts: Hosts) -> None:
    site = hosts.site
    site.ok("witness-node", "sh", "-c", "command -v sudo || apt-get -q -y install --no-install-recommends sudo")
    site.ok("witness-node", "useradd", "--create-home", "--shell", "/bin/bash", "ops")
    let_in(site, "witness-node", "/home/ops", hosts.key.with_suffix(".pub").read_text())
    site.ok("witness-node", "sh", "-c", "systemctl disable --now pgha-minion; rm -rf /opt/pgha")
    wait_until("it is gone", lambda: "witness-node" not in hosts.connected(), 60)
    words = ("--node", "witness-node", "--user", "ops", "--wheels", hosts.wheels)
    assert "the user is not root" in hosts.enrol(*words).out
    assert "sudo asks ops for a password" in hosts.enrol(*words, "--sudo").out
    site.ok("witness-node", "sh", "-c", "echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops")
    said = hosts.enrol(*words, "--sudo")
    assert said.rc == 0, said.out + said.err


# ---- the next pgha


def test_an_upgrade_through_the_bus_brings_the_masters_pgha_and_answers(hosts: Hosts) -> None:
    before = {node: hosts.service(node) for node in NODES}
    hosts.release("0.9.2")
    said = hosts.pgha("run", "*", "self.upgrade", "--timeout", "300")
    assert said.rc == 0, said.out + said.err
    assert said.out.count("pgha 0.9.1 -> 0.9.2") == 3
    for node in NODES:
        hosts.wait_for(node, "the upgrade to pgha 0.9.2 is confirmed", 90)
        assert hosts.version(node) == "0.9.2"
        assert hosts.service(node) != before[node]
        assert "pgha-revert" not in hosts.site.ok(node, "ls", "/run/systemd/system")
    wait_until("all are back", lambda: hosts.connected() == set(NODES), 60)


def test_an_upgrade_to_what_is_there_changes_nothing(hosts: Hosts) -> None:
    before = hosts.service("pg-node1")
    said = hosts.pgha("run", "pg-node1", "self.upgrade")
    assert said.rc == 0
    assert "is what this host has already" in said.out
    assert hosts.service("pg-node1") == before


def test_an_upgrade_is_refused_while_another_job_runs_and_the_job_runs_to_its_end(hosts: Hosts) -> None:
    hosts.release("0.9.3")
    argv = [str(hosts.venv / "bin/pgha-master"), "run", "pg-node1", "--", "sh", "-c", "echo begun; sleep 8; echo ended"]
    with subprocess.Popen(argv, env=hosts.site.environment, stdout=subprocess.PIPE, text=True) as long:
        assert long.stdout is not None
        assert "begun" in long.stdout.readline()
        said = hosts.pgha("run", "pg-node1", "self.upgrade")
        assert said.rc == 1
        assert "busy: cmd runs on this host" in said.out + said.err
        assert "ended" in long.stdout.read()
    assert hosts.version("pg-node1") == "0.9.2"


def test_a_pgha_that_does_not_load_is_never_started(hosts: Hosts) -> None:
    before = hosts.service("pg-node1")
    hosts.release("0.9.4", minion__agent="\nimport no_such_module\n")
    said = hosts.pgha("run", "pg-node1", "self.upgrade", "--timeout", "300")
    assert said.rc == 1
    assert "cannot be loaded here; the old one is back" in said.out + said.err
    assert hosts.version("pg-node1") == "0.9.2"
    assert hosts.service("pg-node1") == before


def test_a_pgha_that_cannot_speak_with_the_master_is_put_back(hosts: Hosts) -> None:
    deaf = "\n\nasync def _deaf(self: object) -> bool:\n    await asyncio.sleep(5)\n    return False\n"
    deaf += "\n\nAgent._session = _deaf\n"
    hosts.release("0.9.5", minion__agent=deaf)
    hosts.pgha("run", "pg-node1", "self.upgrade", "--timeout", "60")
    assert hosts.version("pg-node1") == "0.9.5"
    hosts.wait_for("pg-node1", "the upgrade to pgha 0.9.5 was put back", 240)
    assert hosts.version("pg-node1") == "0.9.2"
    wait_until("it is connected", lambda: "pg-node1" in hosts.connected(), 60)
    assert "pgha-revert" not in hosts.site.ok("pg-node1", "ls", "/run/systemd/system")


def test_after_one_that_was_put_back_the_next_one_is_installed(hosts: Hosts) -> None:
    hosts.release("0.9.6")
    said = hosts.pgha("run", "pg-node1", "self.upgrade", "--timeout", "300")
    assert said.rc == 0, said.out + said.err
    hosts.wait_for("pg-node1", "the upgrade to pgha 0.9.6 is confirmed", 90)
    assert hosts.version("pg-node1") == "0.9.6"
