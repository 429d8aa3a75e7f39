"""`pgha-minion apply --local` on one bare node: no master, no daemon, no enrolment. In the order of this file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from labsite import LAB, Said, Site, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NODE = "pg-node1"
STATE = """\
schema: pgha/states/v1
target: role:data
resources:
  - kind: file
    path: /etc/motd
    mode: 0640
    content: |
      {node.name}
  - kind: file
    path: /etc/greeter.conf
    content: |
      greeting=%s
  - kind: file
    path: /etc/systemd/system/greeter.service
    content: |
      [Service]
      ExecStart=/usr/bin/sleep infinity
      ExecReload=/bin/sh -c "cat /etc/greeter.conf >> /run/greeted"
      [Install]
      WantedBy=multi-user.target
  - kind: service
    unit: greeter
    on_change: reload
    requires: ["file:/etc/systemd/system/greeter.service"]
    watches: ["file:/etc/greeter.conf"]
"""


@dataclass
class Host:
    site: Site

    def write(self, text: str, path: str = "/var/tmp/greeter.yml") -> None:
        said = self.site.run([*self.site.lab_exec(NODE), "sh", "-c", 'cat > "$1"', "sh", path], stdin=text)
        assert said.rc == 0, said.err

    def on(self, *argv: str) -> Said:
        return self.site.on(NODE, *argv)

    def apply(self, *words: str, env: str = "PGHA=1") -> Said:
        return self.on("env", env, "pgha-minion", "apply", "--local", "/var/tmp/greeter.yml", *words)

    def text(self, path: str) -> str:
        return self.site.ok(NODE, "sh", "-c", f"cat {path} 2>/dev/null || true")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    site = Site(f"o{os.getpid()}", tmp_path_factory.mktemp("own"))
    try:
        site.lab("up", "--nodes", "1")
        yield Host(site)
    finally:
        site.lab("down")


def test_a_plan_shows_what_would_be_done_and_does_none_of_it(host: Host) -> None:
    host.write(STATE % "hello")
    said = host.apply("--plan")
    assert said.rc == 0, said.out + said.err
    assert f"+{NODE}" in said.out
    assert said.out.splitlines()[-1] == "Plan of /var/tmp/greeter.yml: 4 to change, 0 unchanged, 0 failed."
    assert "target: role:data  is for the master" in said.err
    assert host.text("/etc/greeter.conf") == ""


def test_an_apply_makes_it_so(host: Host) -> None:
    said = host.apply()
    assert said.rc == 0, said.out + said.err
    assert "4 changed, 0 unchanged, 0 failed." in said.out
    assert host.text("/etc/motd") == f"{NODE}\n"
    assert host.on("stat", "-c", "%a", "/etc/motd").out.strip() == "640"
    assert host.on("systemctl", "is-active", "greeter").out.strip() == "active"
    assert host.on("systemctl", "is-enabled", "greeter").out.strip() == "enabled"


def test_a_second_apply_changes_nothing(host: Host) -> None:
    said = host.apply()
    assert said.rc == 0
    assert len(said.out.splitlines()) == 1
    assert "0 changed, 4 unchanged, 0 failed." in said.out
    assert host.text("/run/greeted") == ""


def test_what_drifted_is_shown_as_that_difference_and_repaired(host: Host) -> None:
    host.site.ok(NODE, "sh", "-c", "echo greeting=other > /etc/greeter.conf; chmod 600 /etc/motd")
    said = host.apply()
    assert said.rc == 0, said.out + said.err
    assert "-greeting=other" in said.out
    assert "+greeting=hello" in said.out
    assert "mode: 0600 -> 0640" in said.out
    assert "reload greeter" in said.out
    assert "3 changed, 1 unchanged" in said.out
    assert host.text("/run/greeted") == "greeting=hello\n"


def test_a_bad_file_is_told_with_line_and_column_and_nothing_is_done(host: Host) -> None:
    host.write((STATE % "bad").replace("kind: service", "kind: servcie"))
    said = host.apply()
    assert said.rc == 2
    assert "/var/tmp/greeter.yml:21:11" in said.err
    assert "did you mean 'service'?" in said.err
    assert "Traceback" not in said.err
    assert host.text("/etc/greeter.conf") == "greeting=hello\n"


def test_a_reload_that_a_kill_prevented_is_made_by_the_next_apply(host: Host) -> None:
    host.write(STATE % "changed")
    killed = host.apply(env="PGHA_FAILPOINTS=local.res.after=kill@2")
    assert killed.rc in (-9, 137), killed.out + killed.err
    assert host.text("/etc/greeter.conf") == "greeting=changed\n"
    assert host.text("/run/greeted") == "greeting=hello\n"
    assert "reload greeter" in host.apply("--plan").out
    said = host.apply()
    assert said.rc == 0, said.out + said.err
    assert "1 changed, 3 unchanged" in said.out
    assert host.text("/run/greeted") == "greeting=hello\ngreeting=changed\n"
    assert "0 changed, 4 unchanged" in host.apply().out


def test_two_applies_never_run_at_once(host: Host) -> None:
    """The first one waits in the check of a file for as long as /run/hold is there."""
    held = STATE % "held" + '  - {kind: file, path: /etc/slow, content: x, check: [/var/tmp/hold, "%s"]}\n'.replace(
        "%%", "%"
    )
    host.write(held)
    host.write("#!/bin/sh\ntouch /run/held; while [ -e /run/hold ]; do sleep 0.1; done\n", "/var/tmp/hold")
    host.site.ok(NODE, "sh", "-c", "chmod +x /var/tmp/hold; touch /run/hold")
    argv = [sys.executable, str(LAB), "exec", NODE, "--", "pgha-minion", "apply", "--local", "/var/tmp/greeter.yml"]
    with subprocess.Popen(argv, env=host.site.environment, stdout=subprocess.PIPE, text=True) as first:
        wait_until("the first one is in the middle", lambda: host.on("test", "-e", "/run/held").rc == 0, 20)
        second = host.apply()
        host.site.ok(NODE, "rm", "/run/hold")
        assert first.stdout is not None
        out = first.stdout.read()
    assert second.rc == 1
    assert "this host is being brought to a state right now" in second.err
    assert (first.returncode, "failed" in out) == (0, True)
    assert ", 0 failed." in out


def test_what_needs_a_master_fails_with_a_sentence_and_the_rest_is_done(host: Host) -> None:
    certificate = "{kind: certificate, name: web, cluster: prod, directory: /etc/web, basename: web, "
    certificate += "common_name: web, sans: [], usages: [server], renew_before_s: 1, ca_fingerprint: ab}"
    host.write("schema: pgha/states/v1\nresources:\n" + f"  - {certificate}\n  - {{kind: directory, path: /srv/web}}\n")
    said = host.apply("--json")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert said.rc == 1
    assert lines[-1]["kind"] == "end"
    assert (lines[-1]["exit"], lines[-1]["data"]["failed"], lines[-1]["data"]["changed"]) == (1, 1, 1)
    assert "must be signed by the master" in lines[0]["result"]["reason"]
    assert host.on("test", "-d", "/srv/web").rc == 0
