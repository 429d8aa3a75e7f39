"""Settings of a real SSH server: good ones stay, those that shut people out are taken back by themselves.

In the order of this file, on one bare node that no master knows: the engine runs on the node itself. Whether a person
comes in is tried from outside, with a key.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from labsite import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NODE = "pg-node1"
PATH = "/etc/ssh/sshd_config.d/00-pgha.conf"
ENGINE = """\
import json, sys
from pgha.minion.host import Host
from pgha.states.converge import MemoryDebts, converge
from pgha.states.kinds import decode

host = Host(signer=lambda *request: "", confirm=lambda seconds: "--unconfirmed" not in sys.argv)
for result in converge(decode(json.load(sys.stdin)), host, MemoryDebts(), dry_run="--dry-run" in sys.argv):
    print(result.model_dump_json())
"""


@dataclass
class Node:
    site: Site
    address: str
    key: Path

    def apply(self, settings: dict[str, Any], *options: str, name: str = "00-pgha") -> dict[str, Any]:
        """The one result."""
        wanted = {"settings": settings} if settings else {"absent": True}
        document = [{"kind": "sshd", "name": name, "confirm_s": 5.0, **wanted}]
        engine = [*self.site.lab_exec(NODE), "/opt/pgha/bin/python", "-c", ENGINE, *options]
        said = self.site.run(engine, 120.0, json.dumps(document))
        assert said.rc == 0, said.err
        result: dict[str, Any] = json.loads(said.out)
        return result

    def ok(self, *argv: str) -> str:
        return self.site.ok(NODE, *argv).strip()

    def comes_in(self) -> bool:
        options = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
        argv = ["ssh", "-i", str(self.key), *options, "-o", "ConnectTimeout=5", f"root@{self.address}", "true"]
        return self.site.run(argv, 30.0).rc == 0

    def effective(self, keyword: str) -> str:
        lines = self.ok("/usr/sbin/sshd", "-T").splitlines()
        return next(line.split(" ", 1)[1] for line in lines if line.startswith(f"{keyword} "))

    def file(self) -> str:
        return self.site.on(NODE, "cat", PATH).out


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    site = Site(f"d{os.getpid()}", tmp_path_factory.mktemp("sshd"))
    key = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    try:
        site.lab("up", "--nodes", "1")
        address = json.loads(site.lab("status", "--json").out)["nodes"][0]["address"]
        script = "cd ~root && mkdir -pm 700 .ssh && cat > .ssh/authorized_keys"
        put = site.run([*site.lab_exec(NODE), "sh", "-c", script], stdin=key.with_suffix(".pub").read_text())
        assert put.rc == 0, put.err
        found = Node(site, address, key)
        assert found.comes_in()
        yield found
    finally:
        site.lab("down")


def test_good_settings_are_in_effect_and_stay_and_nobody_is_thrown_out(node: Node) -> None:
    server = node.ok("systemctl", "show", "-P", "MainPID", "ssh")
    good = {"PasswordAuthentication": "no", "MaxAuthTries": 3, "PermitRootLogin": "prohibit-password"}
    assert node.apply(good, "--dry-run")["status"] == "planned"
    assert node.file() == ""
    assert node.apply(good)["status"] == "changed"
    assert (node.effective("passwordauthentication"), node.effective("maxauthtries")) == ("no", "3")
    assert node.apply(good)["status"] == "unchanged"
    assert node.comes_in()
    assert node.ok("systemctl", "show", "-P", "MainPID", "ssh") == server
    assert "pgha-revert" not in node.ok("ls", "/run/systemd/system")


def test_settings_that_the_server_takes_and_that_make_it_deaf_are_taken_back_by_themselves(node: Node) -> None:
    """`sshd -t` passes and the unit stays active, but every connection is dropped before the banner."""
    before = node.file()
    assert node.site.on(NODE, "sh", "-c", "echo PerSourceMaxStartups 0 | /usr/sbin/sshd -t -f /dev/stdin").rc == 0
    result = node.apply({"PerSourceMaxStartups": 0})
    assert result["status"] == "failed"
    assert "nobody answered on [::1]:22, 127.0.0.1:22 as before, so it was put back" in result["reason"]
    assert "since then there is an answer again" in result["reason"]
    assert node.file() == before != ""
    assert node.comes_in()
    assert "pgha-revert" not in node.ok("ls", "/run/systemd/system")


def test_a_server_that_does_not_survive_the_reload_is_started_again_with_the_old_settings(node: Node) -> None:
    """Whatever runs at the reload ends the server, as a broken library would."""
    before = node.file()
    folder = "/run/systemd/system/ssh.service.d"
    drop_in = "[Service]\\nExecReload=\\nExecReload=/bin/kill -KILL $MAINPID\\nRestart=no\\n"
    node.ok("sh", "-c", f"mkdir -p {folder} && printf '{drop_in}' > {folder}/x.conf && systemctl daemon-reload")
    result = node.apply({"MaxAuthTries": 4})
    node.ok("sh", "-c", f"rm -r {folder} && systemctl daemon-reload")
    assert result["status"] == "failed"
    assert "put back; since then there is an answer again" in result["reason"]
    assert node.file() == before
    assert node.ok("systemctl", "is-active", "ssh") == "active"
    assert node.comes_in()


def test_without_the_masters_word_even_good_settings_go_back(node: Node) -> None:
    before = node.file()
    result = node.apply({"MaxAuthTries": 4}, "--unconfirmed")
    assert result["status"] == "failed"
    assert "the master did not answer" in result["reason"]
    assert (node.file(), node.effective("maxauthtries")) == (before, "3")
    assert node.comes_in()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"Nonsense": "yes"}, "Bad configuration option: Nonsense"),
        ({"MaxAuthTries": "many"}, "the SSH server refuses these settings"),
        ({"PubkeyAuthentication": "no", "PasswordAuthentication": "no"}, "nobody could log in by SSH: every way"),
        ({"AllowUsers": "not-here"}, "allowusers names not-here only"),
        ({"RefuseConnection": "yes"}, "every connection is refused"),
    ],
    ids=str,
)
def test_what_the_server_refuses_or_lets_nobody_in_is_said_by_the_plan(
    node: Node, settings: dict[str, Any], said: str
) -> None:
    before = node.file()
    for options in (("--dry-run",), ()):
        result = node.apply(settings, *options)
        assert result["status"] == "failed"
        assert said in result["reason"]
    assert node.file() == before


def test_a_setting_that_an_earlier_file_decides_is_told_and_not_taken_for_done(node: Node) -> None:
    result = node.apply({"MaxAuthTries": 5}, name="50-late")
    assert result["status"] == "failed"
    assert "but MaxAuthTries is 3: a file that is read before it decides" in result["reason"]
    assert node.apply({}, name="50-late")["status"] == "changed"


def test_our_own_file_that_somebody_broke_is_repaired_without_a_moment_of_silence(node: Node) -> None:
    node.ok("sh", "-c", f"echo 'Nonsense yes' > {PATH}")
    assert node.apply({"MaxAuthTries": 3})["status"] == "changed"
    assert node.effective("maxauthtries") == "3"
    assert node.comes_in()


def test_a_server_that_is_stopped_gets_its_settings_and_is_not_started(node: Node) -> None:
    node.ok("systemctl", "stop", "ssh")
    assert node.apply({"MaxAuthTries": 2})["status"] == "changed"
    assert node.apply({"AllowUsers": "not-here"})["status"] == "failed"
    assert node.site.on(NODE, "systemctl", "is-active", "ssh").out.strip() == "inactive"
    node.ok("systemctl", "start", "ssh")
    assert node.effective("maxauthtries") == "2"
    assert node.comes_in()


def test_what_was_set_can_be_taken_away_again(node: Node) -> None:
    assert node.apply({})["status"] == "changed"
    assert node.apply({})["status"] == "unchanged"
    assert node.effective("maxauthtries") == "6"
    assert node.comes_in()
