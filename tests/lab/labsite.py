"""A lab of its own, a master on this machine, and what a person would type: nothing here reaches into pgha's code.

The whole life of a cluster is one module's tests in the order of the file, since booting and building take minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAB = REPOSITORY / "packaging/lab/lab"
MASTER = Path(sys.executable).parent / "pgha-master"
THREE = {
    "pg-node1": "region: eu-west",
    "pg-node2": "region: us-east",
    "witness-node": "region: us-west, role: witness",
}

ETCDCTL = (
    "etcdctl",
    "--cacert=/etc/etcd/tls/ca.crt",
    "--cert=/etc/etcd/tls/etcd-server.crt",
    "--key=/etc/etcd/tls/etcd-server.key",
    "--endpoints=https://127.0.0.1:2379",
)
STORE = {"name": "s3", "serves": "s3"}


def wait_until(what: str, holds: Callable[[], Any], timeout_s: float, pause_s: float = 0.5) -> Any:
    """What `holds` gives once it is true. Fails with `what` and the last answer when it never was."""
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s until {what}; last seen: {answer!r}")
        time.sleep(pause_s)
    return answer


@dataclass
class Said:
    rc: int
    out: str
    err: str


@dataclass
class Site:
    """A lab, its master, and a definition of a cluster called prod.

    With `s3` the lab has one node more, called s3: what a client must know of its store is then in `store`. `prepared`:
    the packages are installed already, as on an image that somebody made.
    """

    name: str
    root: Path
    s3: bool = False
    prepared: bool = False
    nodes: dict[str, str] = field(default_factory=dict)  # name -> address, of pgha's nodes
    store: dict[str, Any] = field(default_factory=dict)  # endpoint, port, bucket, region, key, key_secret, ca_file
    shape: dict[str, str] = field(default_factory=lambda: dict(THREE))  # name -> its fields but the address
    daemon: subprocess.Popen[bytes] | None = None
    said: list[str] = field(default_factory=list)  # all that pgha-master ever printed

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PGHA_LAB": self.name, "PGHA_ROOT": str(self.root), "NO_COLOR": "1"}

    def run(self, argv: list[str], timeout_s: float = 120.0, stdin: str = "") -> Said:
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def lab(self, *words: str, timeout_s: float = 600.0) -> Said:
        said = self.run([sys.executable, str(LAB), *words], timeout_s)
        assert said.rc == 0, f"lab {' '.join(words)}: {said.err}"
        return said

    def on(self, node: str, *argv: str, timeout_s: float = 120.0) -> Said:
        """Run a command on a node, as its root."""
        return self.run([*self.lab_exec(node), *argv], timeout_s)

    def ok(self, node: str, *argv: str) -> str:
        said = self.on(node, *argv)
        assert said.rc == 0, f"{node}: {' '.join(argv)}: rc {said.rc}\n{said.out}{said.err}"
        return said.out

    def pgha(self, *words: str, timeout_s: float = 600.0, stdin: str = "") -> Said:
        said = self.run([str(MASTER), *words], timeout_s, stdin)
        self.said += [said.out, said.err]
        return said

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Type it, and do not wait for its end."""
        with (self.root / "begun.log").open("ab") as log:
            return subprocess.Popen([str(MASTER), *words], env=self.environment, stdout=log, stderr=log)

    def data(self, *words: str) -> dict[str, Any]:
        said = self.pgha(*words, "--json")
        assert said.rc == 0, said.err
        answer: dict[str, Any] = json.loads(said.out)["data"]
        return answer

    def status(self) -> dict[str, Any]:
        return self.data("status", "prod")

    def psql(self, node: str, port: int, sql: str, extra: str = "") -> Said:
        """As an application would: from outside, TLS verified in full, client certificate and password."""
        tls = self.root / "app"
        return self.run(
            [
                "psql",
                "-X",
                "-Atc",
                sql,
                f"host={self.nodes[node]} port={port} dbname=postgres user=app password=from-the-test connect_timeout=5"
                f" sslmode=verify-full sslrootcert={tls}/ca.crt sslcert={tls}/app.crt sslkey={tls}/app.key {extra}",
            ],
            30.0,
        )

    def lab_exec(self, node: str) -> list[str]:
        return [sys.executable, str(LAB), "exec", node, "--"]

    def boot(self, nodes: list[dict[str, str]], *words: str) -> None:
        """Boot these nodes, as they stand in a lab's file, or the lab's three, and look at what there is."""
        if nodes:
            shape = self.root / "nodes.json"
            shape.write_text(json.dumps({"nodes": nodes}))
            words = (*words, "--file", str(shape))
        self.lab("up", *words)
        rows = json.loads(self.lab("status", "--json").out)["nodes"]
        self.nodes = {row["name"]: row["address"] for row in rows if not row["s3"]}
        self.store = next((row["s3"] for row in rows if row["s3"]), {})

    def up(self) -> None:
        """Boot nodes, one for each of the shape, and start a master for them."""
        nodes = [*({"name": name} for name in self.shape), *([STORE] if self.s3 else [])]
        self.boot(nodes, *(["--with-packages"] if self.prepared else []))
        network = self.nodes["pg-node1"].rsplit(".", 2)[0]
        assert self.pgha("init", "--listen", f"{network}.0.1").rc == 0
        self.start_master()

    # ---- the master

    def start_master(self) -> None:
        with (self.root / "master.log").open("ab") as log:
            self.daemon = subprocess.Popen([str(MASTER), "serve"], env=self.environment, stdout=log, stderr=log)
        wait_until("the master answers", lambda: self.pgha("keys", "list").rc == 0, 20)

    def stop_master(self, number: int = signal.SIGTERM) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(number)
            self.daemon.wait(20)
            self.daemon = None

    # ---- minions

    def enrol(self, node: str, name: str = "") -> Said:
        fingerprint = self.data("keys", "list")["master_fingerprint"]
        host = self.nodes[node].rsplit(".", 2)[0] + ".0.1"
        words = ("--master", host, "--fingerprint", fingerprint, *(["--name", name] if name else []))
        return self.on(node, "pgha-minion", "enrol", *words)

    def join(self) -> None:
        """Enrol all nodes, and let them in."""
        for node in self.nodes:
            assert self.enrol(node).rc == 0
        assert self.pgha("keys", "accept", "--all", "--yes").rc == 0
        wait_until("all minions are connected", lambda: self.connected() == set(self.nodes), 60)

    def connected(self) -> set[str]:
        said = self.pgha("run", "*", "ping", "--json")
        lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
        return {line["node"] for line in lines if line.get("kind") == "node_done" and line["state"] == "done"}

    def backups(self, key: str = "", **more: str) -> str:
        """The section of a definition that keeps them in the store. `key`: another access key than the right one."""
        store, folder = self.store, self.root / "etc/pgha"
        secrets = {"key": key or store["key"], "secret": store["key_secret"]}
        for name, value in secrets.items():
            (folder / f"s3-{name}").write_text(value)
            (folder / f"s3-{name}").chmod(0o600)
        credentials = ", ".join(f"{name}: 'file:{folder}/s3-{name}'" for name in secrets)
        place = f"endpoint: {store['endpoint']}, port: {store['port']}, uri_style: path, ca: {store['ca_file']}"
        section = {
            "s3": f"{{bucket: {store['bucket']}, path: /prod, {place}, credentials: {{{credentials}}}}}",
            "archive_timeout": "10s",
            **more,
        }
        return "{" + ", ".join(f"{name}: {value}" for name, value in section.items()) + "}"

    def define(self, *, without: str = "", **changes: str) -> Path:
        """Write the definition, maybe without one of the nodes; `changes` replace whole top-level lines or add them."""
        network = self.nodes["pg-node1"].rsplit(".", 2)[0]
        lines = {
            "schema": "pgha/v1",
            "cluster": "prod",
            "entrypoint": "postgres.example.internal",
            "access": f"{{admin: [{network}.0.1/32], clients: [{network}.0.0/16]}}",
            "rto": "fast",
            "rpo": "zero",
            **changes,
        }
        text = "".join(f"{key}: {value}\n" for key, value in lines.items()) + "nodes:\n"
        text += "".join(
            f"  {name}: {{address: {self.nodes[name]}, {fields}}}\n"
            for name, fields in self.shape.items()
            if name != without
        )
        path = self.root / "etc/pgha/clusters/prod.yml"
        path.write_text(text)
        return path
