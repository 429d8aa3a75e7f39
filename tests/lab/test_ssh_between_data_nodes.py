"""SSH between the data nodes on real nodes, before any cluster is built: both ways, from nowhere else, and gone again.

In the order of this file.
"""

from __future__ import annotations

import pytest
from labsite import Said, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DATA = ("pg-node1", "pg-node2")
NODES = (*DATA, "witness-node")
ONLY = ("--only", "hardening,pki,firewall,ssh", "--node", "pg-node1", "--node", "pg-node2")
KEY = "/var/lib/postgresql/.ssh/pgha_ed25519"
ON = "{ssh_between_data_nodes: true, packages: {upgrade: none}}"
OFF = "{packages: {upgrade: none}}"


@pytest.fixture(scope="module")
def enrolled(site: Site) -> Site:
    site.join()
    return site


def apply(site: Site, system: str) -> None:
    site.define(system=system, firewall="{confirm_timeout: 5s}")
    said = site.pgha("apply", "prod", *ONLY)
    assert said.rc == 0, said.out + said.err


def ssh(site: Site, node: str, host: str, *command: str) -> Said:
    """As the DBA does it; a question would hang, so there must be none."""
    return site.on(node, "runuser", "-u", "postgres", "--", "ssh", "-o", "BatchMode=yes", host, *command)


def changes(site: Site) -> list[str]:
    nodes = site.data("plan", "prod", *ONLY)["nodes"]
    return [f"{n['node']} {r['resource']}" for n in nodes for r in n["results"] if r["status"] == "planned"]


def test_switched_on_each_data_node_reaches_the_other_by_name_and_address_without_a_question(enrolled: Site) -> None:
    apply(enrolled, ON)
    for node, other in (DATA, DATA[::-1]):
        for host in (other, enrolled.nodes[other]):
            said = ssh(enrolled, node, host, "hostname; id -un")
            assert (said.rc, said.out.split()) == (0, [other, "postgres"]), said.err
    assert changes(enrolled) == []
    assert enrolled.pgha("apply", "prod", *ONLY, "--json").out.count('"status":"changed"') == 0


def test_files_can_be_copied_and_a_terminal_had_but_nothing_is_forwarded(enrolled: Site) -> None:
    peer = enrolled.nodes["pg-node2"]
    assert ssh(enrolled, "pg-node1", peer, "-tt", "tty").out.startswith("/dev/pts/")
    copied = ("runuser", "-u", "postgres", "--", "scp", "-B", "/etc/debian_version", f"{peer}:copied")
    assert enrolled.on("pg-node1", *copied).rc == 0
    refused = ssh(enrolled, "pg-node1", peer, "-o", "ExitOnForwardFailure=yes", "-R", "9999:127.0.0.1:22", "true")
    assert refused.rc != 0 and "forwarding failed" in refused.err


def test_the_private_keys_stay_where_they_were_made(enrolled: Site) -> None:
    for node in DATA:
        assert enrolled.ok(node, "stat", "-c", "%U %a", KEY).strip() == "postgres 600"
        secret = enrolled.ok(node, "sh", "-c", f"tail -n 3 {KEY} | head -n 1").strip()
        assert len(secret) > 60
        for elsewhere in NODES:
            if elsewhere != node:
                found = enrolled.on(elsewhere, "grep", "-rlF", secret, "/etc", "/var/lib/pgha", "/var/lib/postgresql")
                assert found.out == ""
        held = enrolled.run(["grep", "-rlF", secret, str(enrolled.root)])
        assert held.rc == 1, held.out


def test_a_host_with_another_key_is_not_spoken_to(enrolled: Site) -> None:
    """Somebody answers at the address of pg-node2 who is not pg-node2."""
    enrolled.ok("pg-node2", "sh", "-c", "cd /etc/ssh && mkdir kept && mv ssh_host_* kept/ && ssh-keygen -qA")
    enrolled.ok("pg-node2", "systemctl", "restart", "ssh")
    said = ssh(enrolled, "pg-node1", "pg-node2", "true")
    assert said.rc != 0 and "Host key verification failed" in said.err
    enrolled.ok("pg-node2", "sh", "-c", "cd /etc/ssh && rm ssh_host_* && mv kept/* . && rmdir kept")
    enrolled.ok("pg-node2", "systemctl", "restart", "ssh")
    assert ssh(enrolled, "pg-node1", "pg-node2", "true").rc == 0


def test_the_witness_is_let_in_nowhere_not_even_with_a_stolen_key(enrolled: Site) -> None:
    """First the firewall keeps it out, and without one the address that the key is bound to."""
    dial = ("timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{enrolled.nodes['pg-node1']}/22")
    assert enrolled.on("witness-node", *dial).rc != 0
    assert enrolled.on("pg-node2", *dial).rc == 0
    stolen = enrolled.ok("pg-node2", "cat", KEY)
    put = [*enrolled.lab_exec("witness-node"), "sh", "-c", "umask 077; cat > /run/stolen"]
    assert enrolled.run(put, stdin=stolen).rc == 0
    enrolled.ok("pg-node1", "ufw", "allow", "22/tcp")
    options = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
    said = enrolled.on("witness-node", "ssh", "-i", "/run/stolen", *options, f"postgres@{enrolled.nodes['pg-node1']}")
    enrolled.ok("pg-node1", "ufw", "delete", "allow", "22/tcp")
    assert said.rc == 255 and "Permission denied" in said.err


def test_a_node_with_a_new_key_is_let_in_by_the_next_apply_and_its_old_key_goes(enrolled: Site) -> None:
    authorized = ("cat", "/var/lib/postgresql/.ssh/authorized_keys")
    enrolled.ok("pg-node1", "sh", "-c", "echo '# mine' >> /var/lib/postgresql/.ssh/authorized_keys")
    before = enrolled.ok("pg-node1", *authorized)
    enrolled.ok("pg-node2", "rm", KEY, f"{KEY}.pub")
    apply(enrolled, ON)
    after = enrolled.ok("pg-node1", *authorized)
    assert before != after
    assert [line.split()[-1] for line in after.splitlines()] == ["mine", "pg-node2"]
    assert ssh(enrolled, "pg-node2", "pg-node1", "true").rc == 0
    assert changes(enrolled) == []


def test_switched_off_all_of_it_is_gone(enrolled: Site) -> None:
    apply(enrolled, OFF)
    for node in DATA:
        left = enrolled.ok(node, "sh", "-c", "ls /var/lib/postgresql/.ssh /etc/ssh/ssh_config.d; ls /etc/ssh")
        assert "pgha_ed25519" not in left and "pgha-data-nodes" not in left.replace(".pgha-orig", "")
        assert "pgha_known_hosts" not in left
        assert "pgha:prod" not in enrolled.ok(node, "cat", "/var/lib/postgresql/.ssh/authorized_keys")
        other = enrolled.nodes[DATA[1 - DATA.index(node)]]
        assert enrolled.on(node, "timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{other}/22").rc != 0
    assert changes(enrolled) == []
