"""The lab on real nodes: its machines are bare, its faults are real, and its end leaves nothing.

Everything here happens in labs of this test's own name and folder, so that it runs beside another lab.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="a lab needs systemd-nspawn: lab doctor"),
]

DOOR = Path(__file__).resolve().parents[2] / "packaging/lab/lab"
NODES = ("pg-node1", "pg-node2", "witness-node")


class Lab:
    """The `lab` command for one lab, as a user has it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.prefix = f"pgha-lab-{name}"
        self._addresses: dict[str, str] = {}
        self.environment = {**os.environ, "PGHA_LAB": name, "PGHA_LAB_DIR": str(folder)}

    def lab(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(DOOR), *words]
        return subprocess.run(argv, input=stdin, text=True, capture_output=True, env=self.environment, timeout=240)

    def do(self, *words: str) -> str:
        done = self.lab(*words)
        assert done.returncode == 0, f"lab {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    def on(self, node: str, *argv: str) -> str:
        return self.do("exec", node, "--", *argv).strip()

    def background(self, *words: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, str(DOOR), *words]
        return subprocess.Popen(
            argv, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in json.loads(self.do("status", "--json"))["nodes"]}

    def address(self, node: str) -> str:
        if not self._addresses:
            self._addresses = {name: str(known["address"]) for name, known in self.nodes().items()}
        return self._addresses[node]

    def host_address(self) -> str:
        return ".".join([*self.address(NODES[0]).split(".")[:2], "0", "1"])

    def supervisor(self, node: str) -> int:
        return int(json.loads((self.folder / self.name / "nodes" / node / "supervisor.json").read_text())["pid"])

    def console(self, node: str) -> str:
        """The end of what the node said while it booted or went down."""
        text = (self.folder / self.name / "nodes" / node / "console.log").read_text(errors="replace")
        return text[-4000:]

    def processes(self) -> set[int]:
        """The pids in the lab's cgroups."""
        found: set[int] = set()
        for tree in ("", "unified", "systemd"):
            for procs in Path("/sys/fs/cgroup", tree, self.prefix).rglob("cgroup.procs"):
                found.update(int(pid) for pid in procs.read_text().split())
        return found

    def remains(self) -> list[str]:
        """Whatever on this machine bears the lab's name."""
        found = [
            f"cgroup {path}" for tree in ("", "unified", "systemd") if (path := cgroup(tree, self.prefix)).exists()
        ]
        looks = {
            "netns": ["ip", "netns"],
            "link": ["ip", "-br", "link"],
            "nft": ["nft", "list", "tables"],
            "mount": ["cat", "/proc/self/mountinfo"],
        }
        names = (
            self.prefix,
            f"lab-{self.name}",
            f"pgha_lab_{self.name.replace('-', '_')}",
            str(self.folder / self.name),
        )
        for what, argv in looks.items():
            lines = subprocess.run(argv, text=True, capture_output=True, check=True).stdout.splitlines()
            found += [f"{what} {line}" for line in lines if any(name in line for name in names)]
        places = [*Path("/run/systemd/nspawn").glob("*/*"), *Path("/run/pgha-lab").glob("*"), *self.folder.glob("*")]
        return found + [f"file {path}" for path in places if path.name in names or self.prefix in path.name]


def cgroup(tree: str, name: str) -> Path:
    return Path("/sys/fs/cgroup", tree, name)


def living(pids: set[int]) -> set[int]:
    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "X"

    return {pid for pid in pids if state(pid) not in "XZ"}


def eventually(condition: Callable[[], bool], within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(f"t{os.getpid()}", tmp_path_factory.mktemp("labs"))
    try:
        made.do("up", "--without-pgha")
        yield made
    finally:
        made.do("down")


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(f"s{os.getpid()}", tmp_path)
    try:
        yield made
    finally:
        made.do("down")


@pytest.fixture
def whole(lab: Lab) -> Lab:
    """The lab with all nodes on and all networks whole, whatever the test before did."""
    if any(node["state"] != "up" for node in lab.nodes().values()):
        lab.do("heal")
        lab.do("up", "--without-pgha")
    return lab


def reaches(lab: Lab, node: str, address: str) -> bool:
    return lab.lab("exec", node, "--", "ping", "-c1", "-W1", address).returncode == 0


# --- what a node is -----------------------------------------------------------------------------------------------


def test_nodes_come_up_bare(whole: Lab) -> None:
    for node in NODES:
        packages = whole.on(node, "dpkg-query", "-W", "-f", "${Package}\n").split()
        unwanted = [
            p for p in packages if p.startswith(("postgresql", "etcd", "patroni", "haproxy", "ufw", "pgbackrest"))
        ]
        assert not unwanted
        assert whole.on(node, "hostname") == node
    assert {node["boot"] for node in whole.nodes().values()} == {"running"}
    assert len({whole.on(node, "cat", "/etc/machine-id") for node in NODES}) == 3
    assert len({whole.on(node, "cat", "/etc/ssh/ssh_host_ed25519_key.pub") for node in NODES}) == 3


def test_nodes_reach_each_other_across_regions_under_their_own_addresses(whole: Lab) -> None:
    host, first, second = whole.host_address(), whole.address("pg-node1"), whole.address("pg-node2")
    assert first.rsplit(".", 1)[0] != second.rsplit(".", 1)[0]
    ssh_of_second = (  # with its banner read: sshd may not know any more who came and went at once
        f"import socket; s = socket.create_connection(({second!r}, 22), 5); s.recv(64); print(s.getsockname()[0])"
    )
    assert whole.on("pg-node1", "python3", "-c", ssh_of_second) == first
    # by its name, not its unit: journald does not know the unit of a process that has ended before it is looked up
    told = ("journalctl", "-q", "-t", "sshd", "-t", "sshd-session", "-o", "cat", "--no-pager")
    assert eventually(lambda: first in whole.on("pg-node2", *told)), whole.on("pg-node2", *told)
    with socket.create_connection((second, 22), 5) as to_node:
        assert to_node.getsockname()[0] == host
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
        whole.on("pg-node2", "python3", "-c", connect)
        assert server.accept()[1][0] == second


def test_a_node_installs_packages_through_the_mirror(whole: Lab) -> None:
    whole.on("pg-node1", "apt-get", "-q", "update")
    told = whole.on("pg-node1", "apt-get", "-q", "-y", "install", "jq")
    assert "Setting up jq" in told
    assert whole.on("pg-node1", "sh", "-c", "echo '[7]' | jq '.[0]'") == "7"


def test_neither_a_node_nor_a_command_in_it_can_set_the_clock(whole: Lab) -> None:
    sys_time = 1 << 25
    for status in ("/proc/1/status", "/proc/self/status"):
        lines = whole.on("pg-node1", "grep", "^Cap", status).splitlines()
        assert len(lines) == 5
        assert not any(int(line.split()[1], 16) & sys_time for line in lines)


def test_a_node_sets_its_own_network_sysctls_but_not_the_hosts_memory(whole: Lab) -> None:
    before = Path("/proc/sys/vm/swappiness").read_text(), Path("/proc/sys/net/ipv4/tcp_keepalive_time").read_text()
    whole.on("pg-node1", "sysctl", "-w", "net.ipv4.tcp_keepalive_time=61")
    assert whole.lab("exec", "pg-node1", "--", "sysctl", "-w", "vm.swappiness=61").returncode != 0
    after = Path("/proc/sys/vm/swappiness").read_text(), Path("/proc/sys/net/ipv4/tcp_keepalive_time").read_text()
    assert after == before


def test_a_node_filters_its_own_packets(whole: Lab) -> None:
    rules = "table inet t { chain i { type filter hook input priority 0; tcp dport 22 drop\n} }"
    done = whole.lab(
        "exec", "witness-node", "--", "nft", "-f", "-", stdin=rules.replace("{ ", "{\n").replace(" }", "\n}")
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(TimeoutError):
        socket.create_connection((whole.address("witness-node"), 22), 0.5)
    socket.create_connection((whole.address("pg-node2"), 22), 5).close()


# --- exec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 124, 255])
def test_exec_ends_with_the_exit_code_of_the_command(whole: Lab, code: int) -> None:
    assert whole.lab("exec", "pg-node1", "--", "sh", "-c", f"exit {code}").returncode == code


def test_exec_hands_over_standard_input_and_every_word_as_it_is(whole: Lab) -> None:
    assert whole.lab("exec", "pg-node2", "--", "cat", stdin="one\ntwo").stdout == "one\ntwo"
    assert whole.on("pg-node2", "printf", "%s|", "a b", "--", "--name", "$HOME", "") == "a b|--|--name|$HOME||"


def test_exec_in_a_node_that_is_not_there_says_so_with_a_code_of_its_own(whole: Lab) -> None:
    done = whole.lab("exec", "pg-node9", "--", "true")
    assert done.returncode == 125
    assert "pg-node1, pg-node2, witness-node" in done.stderr


def test_a_command_dies_with_the_exec_that_asked_for_it(whole: Lab) -> None:
    asked = whole.background("exec", "pg-node2", "--", "sleep", "4321")

    def sleeps() -> bool:
        return whole.lab("exec", "pg-node2", "--", "pgrep", "-f", "sleep 4321$").returncode == 0

    assert eventually(sleeps)
    asked.kill()
    asked.wait()
    assert eventually(lambda: not sleeps())


def test_a_pushed_folder_arrives_and_belongs_to_root(whole: Lab, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("text")
    os.chown(tmp_path / "a" / "b", 12345, 12345)
    whole.do("push", "pg-node2", str(tmp_path / "a"), "/srv/deep/renamed")
    assert whole.on("pg-node2", "stat", "-c", "%U %s", "/srv/deep/renamed/b") == "root 4"


# --- faults -------------------------------------------------------------------------------------------------------


def test_a_killed_node_sends_no_fin_to_its_peers_and_forgets_its_connections(whole: Lab) -> None:
    host = whole.host_address()
    with socket.create_server((host, 0)) as server:
        talk = (
            f"import socket, time; s = socket.create_connection(({host!r}, {server.getsockname()[1]})); time.sleep(600)"
        )
        client = whole.background("exec", "pg-node1", "--", "python3", "-c", talk)
        peer, _ = server.accept()
    whole.do("kill", "pg-node1")
    client.wait(timeout=10)
    assert whole.nodes()["pg-node1"]["state"] == "down"
    peer.settimeout(0.5)
    with pytest.raises(TimeoutError):
        peer.recv(1)
    assert not reaches(whole, "pg-node2", whole.address("pg-node1"))
    whole.do("start", "pg-node1")
    assert reaches(whole, "pg-node2", whole.address("pg-node1"))
    with pytest.raises(TimeoutError):
        peer.recv(1)
    peer.settimeout(10)
    peer.send(b"x")
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    peer.close()


def test_a_disk_survives_power_loss_and_reboot_but_not_a_wipe(whole: Lab) -> None:
    whole.on("witness-node", "sh", "-c", "echo kept > /srv/file && sync /srv/file")
    machine = whole.on("witness-node", "cat", "/etc/machine-id")
    whole.do("kill", "witness-node")
    whole.do("start", "witness-node")
    assert whole.on("witness-node", "cat", "/srv/file") == "kept"
    before = whole.nodes()["witness-node"]["pid"]
    whole.do("reboot", "witness-node")
    assert whole.nodes()["witness-node"]["pid"] != before
    assert whole.on("witness-node", "cat", "/srv/file", "/etc/machine-id").split() == ["kept", machine]
    whole.do("wipe", "witness-node")
    assert whole.lab("exec", "witness-node", "--", "test", "-e", "/srv/file").returncode == 1
    assert whole.on("witness-node", "cat", "/etc/machine-id") != machine


def test_a_node_that_reboots_by_itself_comes_back_without_its_firewall_of_before(whole: Lab) -> None:
    whole.on("pg-node2", "nft", "add", "table", "inet", "of_before")
    before = whole.nodes()["pg-node2"]["pid"]
    whole.lab("exec", "pg-node2", "--", "systemctl", "reboot")
    assert eventually(lambda: whole.nodes()["pg-node2"]["pid"] not in (None, before), 100), whole.console("pg-node2")
    assert eventually(lambda: whole.nodes()["pg-node2"]["boot"] == "running", 60)
    assert "of_before" not in whole.on("pg-node2", "nft", "list", "tables")


def test_a_node_that_was_stopped_is_silent_and_starts_again(whole: Lab) -> None:
    whole.do("stop", "pg-node2")
    assert not reaches(whole, "pg-node1", whole.address("pg-node2"))
    whole.do("stop", "pg-node2")
    whole.do("kill", "pg-node2")
    whole.do("start", "pg-node2")
    assert reaches(whole, "pg-node1", whole.address("pg-node2"))


def test_the_plug_can_be_pulled_in_the_middle_of_a_boot(whole: Lab) -> None:
    whole.do("kill", "witness-node")
    start = whole.background("start", "witness-node")
    assert eventually(lambda: whole.nodes()["witness-node"]["power"] == "on")
    whole.do("kill", "witness-node")
    start.wait(timeout=30)
    assert whole.nodes()["witness-node"]["state"] == "down"
    assert not reaches(whole, "pg-node1", whole.address("witness-node"))


def test_a_partition_holds_through_a_reboot_until_it_is_healed(whole: Lab) -> None:
    whole.do("partition", "pg-node1")
    assert not reaches(whole, "pg-node2", whole.address("pg-node1"))
    assert not reaches(whole, "pg-node1", whole.host_address())
    assert whole.nodes()["pg-node1"]["state"] == "partitioned"
    assert reaches(whole, "pg-node2", whole.address("witness-node"))
    whole.do("reboot", "pg-node1")
    assert not reaches(whole, "pg-node2", whole.address("pg-node1"))
    whole.do("heal", "pg-node1")
    assert reaches(whole, "pg-node2", whole.address("pg-node1"))
    assert whole.nodes()["pg-node1"]["state"] == "up"


def test_a_node_can_be_parted_from_one_peer_only(whole: Lab) -> None:
    whole.do("partition", "pg-node1", "--from", "pg-node2", "--from", "host")
    assert whole.nodes()["pg-node2"]["parted_from"] == ["pg-node1"]
    assert not reaches(whole, "pg-node1", whole.address("pg-node2"))
    assert not reaches(whole, "pg-node1", whole.host_address())
    assert reaches(whole, "pg-node1", whole.address("witness-node"))
    whole.do("heal")
    assert reaches(whole, "pg-node1", whole.address("pg-node2"))


def test_a_snapshot_brings_the_disks_back(whole: Lab) -> None:
    whole.on("pg-node1", "sh", "-c", "echo before > /srv/time")
    whole.do("snapshot", "before")
    whole.on("pg-node1", "sh", "-c", "echo after > /srv/time")
    whole.do("restore", "before")
    assert whole.on("pg-node1", "cat", "/srv/time") == "before"


# --- beginnings and ends ------------------------------------------------------------------------------------------


def test_up_when_it_is_up_changes_nothing_and_says_so(whole: Lab) -> None:
    before = whole.nodes()
    done = whole.lab("up", "--without-pgha")
    assert done.returncode == 0
    assert "already up" in done.stderr
    assert whole.nodes() == before


def test_a_second_lab_runs_beside_it_with_this_checkouts_minion(whole: Lab, second: Lab) -> None:
    before = whole.nodes()
    second.do("up", "--nodes", "1")
    assert second.address("pg-node1").split(".")[1] != whole.address("pg-node1").split(".")[1]
    found = second.on("pg-node1", "/opt/pgha/bin/python", "-c", "import pgha.common; print(pgha.__file__)")
    assert found.startswith("/opt/pgha/lib/python3.13/")
    assert second.on("pg-node1", "readlink", "-f", "/usr/bin/pgha-minion") == "/opt/pgha/bin/pgha-minion"
    second.do("down")
    assert second.remains() == []
    assert whole.nodes() == before
    assert reaches(whole, "pg-node1", whole.host_address())


def test_nodes_can_come_with_the_packages_of_a_cluster_and_none_of_it_runs(second: Lab) -> None:
    second.do("up", "--nodes", "1", "--with-packages", "--without-pgha")
    assert {node["boot"] for node in second.nodes().values()} == {"running"}
    services = ("etcd", "patroni", "postgresql", "haproxy", "pgbackrest")
    assert second.on("pg-node1", "sh", "-c", f"systemctl is-active {' '.join(services)}; true").split() == [
        "inactive" for _ in services
    ]
    assert second.on("pg-node1", "sh", "-c", "pg_lsclusters -h; ls /var/lib/etcd; ls /etc/postgresql") == ""
    second.do("down")
    assert second.remains() == []


@pytest.mark.parametrize("crash", ["none", "supervisor killed", "state lost"])
def test_down_leaves_nothing(second: Lab, crash: str) -> None:
    second.do("up", "--nodes", "2", "--without-pgha")
    processes = second.processes()
    assert len(processes) > 10
    if crash == "supervisor killed":
        os.kill(second.supervisor("pg-node1"), signal.SIGKILL)
    if crash == "state lost":
        for path in (second.folder / second.name).rglob("*.json"):
            path.unlink()
    second.do("down")
    assert not living(processes)
    assert second.remains() == []
    second.do("down")


def test_an_up_that_was_killed_in_the_middle_can_be_repeated(second: Lab) -> None:
    first = second.background("up", "--nodes", "2", "--without-pgha")
    assert eventually(lambda: Path("/run/netns", f"{second.prefix}.router.ns").exists(), 60)
    first.kill()
    first.wait()
    second.do("up", "--nodes", "2", "--without-pgha")
    assert {node["state"] for node in second.nodes().values()} == {"up"}
    second.do("down")
    assert second.remains() == []
