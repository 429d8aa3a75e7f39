"""The demo: from nothing to a cluster that heals itself, on the three nodes of a lab.

It does what an operator does, with the same commands and in the same order, and says each of them. Everything it makes
is in the lab's own folder, the master's files too, so that the lab's end is the demo's end. Doing it again keeps what
is there, starts what is off, and builds what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import host, plan
from .host import Process, wait_until
from .lab import Built, Lab, default_folders
from .node import Machine
from .plan import LabError
from .program import CHECKOUT

CLUSTER = "prod"
STEADY_S = 30.0  # a node that was off needs that long to be a healthy member again


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Master:
    """The master of the demo, which runs on this machine: PGHA_ROOT is its whole world."""

    folder: Path
    command: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PGHA_ROOT": str(self.folder)}

    @property
    def pid_file(self) -> Path:
        return self.folder / "serve.json"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    @property
    def definition(self) -> Path:
        return self.folder / f"etc/pgha/clusters/{CLUSTER}.yml"

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A finished command of the master, its output kept."""
        argv = [str(self.command), *words]
        return subprocess.run(argv, env=self.environment, stdin=subprocess.DEVNULL, text=True, capture_output=True)

    def ask(self, *words: str) -> dict[str, Any]:  # Any: the JSON of a command
        """What the command answers under `data`. Raises LabError with its complaint."""
        done = self.call(*words, "--json")
        if done.returncode:
            raise LabError(f"`pgha-master {' '.join(words)}` failed: {done.stderr.strip()}; see {self.log}")
        data: dict[str, Any] = json.loads(done.stdout)["data"]
        return data

    def show(self, *words: str) -> None:
        """Says the command and lets it write to this terminal. Raises LabError when it fails."""
        say(f"$ pgha-master {' '.join(words)}")
        done = subprocess.run([str(self.command), *words], env=self.environment, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError(
                f"`pgha-master {' '.join(words)}` ended with exit code {done.returncode}. What it said stands above, "
                f"the daemon's log is {self.log}. To go on from here: make demo; to begin anew: make clean"
            )

    def start(self) -> None:
        """Makes the daemon answer; starts it when it does not run. Raises LabError with the end of its log."""
        if Process.load(self.pid_file) is None:
            say(f"$ pgha-master serve   (in the background, log: {self.log})")
            with self.log.open("a") as log:
                child = subprocess.Popen(
                    [str(self.command), "serve"],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            if process := Process.of(child.pid):
                process.save(self.pid_file)
        wait_until(lambda: self._answers() or Process.load(self.pid_file) is None, 30, every_s=0.2)
        if not self._answers():
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise LabError(f"the master does not answer; the end of {self.log}:\n{tail}")

    def _answers(self) -> bool:
        return self.call("keys", "list", "--json").returncode == 0

    def stop(self) -> None:
        """Ends the daemon that `start` began, and no other one."""
        if process := Process.load(self.pid_file):
            process.send(signal.SIGTERM)
            if not wait_until(lambda: not process.alive(), 10):
                process.send(signal.SIGKILL)
        self.pid_file.unlink(missing_ok=True)


def definition(octet: int, nodes: Sequence[plan.Node]) -> str:
    """The definition of the demo's cluster: the last node is the witness, as in the lab."""
    width = max(len(node.name) for node in nodes) + 1
    lines = []
    for node in nodes:
        role = ", role: witness" if node is nodes[-1] else ""
        lines.append(f"  {node.name + ':':<{width}} {{address: {node.address}, region: {node.region}{role}}}")
    return "\n".join(
        [
            "# Written once by `make demo`. Change it, then: pgha-master plan prod",
            "schema: pgha/v1",
            f"cluster: {CLUSTER}",
            "entrypoint: postgres.example.internal",
            f"access: {{admin: [10.{octet}.0.1/32], clients: [10.{octet}.0.0/16]}}",
            "nodes:",
            *lines,
            "rto: fast",
            "rpo: zero",
            "",
        ]
    )


def last_paragraph(text: str) -> str:
    """Of a plan as text: what it means and how much it is, without the changes one by one."""
    paragraphs = text.strip().split("\n\n")
    return "\n".join(paragraphs[-2:]) if len(paragraphs) > 1 else text.strip()


def try_next(lab: Lab, master: Master, leader: str) -> str:
    """Commands that work as pasted into the shell the demo was called from."""
    door = f"{Path(__file__).resolve().parents[1] / 'lab'}"
    name = "" if lab.name == plan.DEFAULT_NAME else f"export PGHA_LAB={lab.name}\n"
    there = "" if lab.name == plan.DEFAULT_NAME else f"PGHA_LAB={lab.name} "
    return f"""
The cluster runs. To look at it from another shell, paste this first:

{name}export PGHA_ROOT={shlex.quote(str(master.folder))} PATH={shlex.quote(str(master.command.parent))}:$PATH
alias lab={shlex.quote(door)}

Pull the leader's plug, watch the other node take over, and plug it in again:

lab kill {leader}
pgha-master status {CLUSTER} --watch      # Ctrl-C ends it
lab start {leader}

Damage a node, see exactly what differs, and repair it:

lab exec witness-node -- systemctl stop haproxy
pgha-master plan {CLUSTER}
pgha-master apply {CLUSTER}

Everything away again: {there}make clean   (docs/tutorial/first-failover.md goes on from here)
"""


def prepare_machine() -> None:
    """Raises: LabError with all that keeps this machine from having a lab."""
    if not os.geteuid():
        host.install_missing()
    if found := host.obstacles():
        raise LabError("this machine cannot have a lab yet:\n  - " + "\n  - ".join(found))


def command() -> Path:
    """The checkout's pgha-master. Raises: LabError when it is not there."""
    path = CHECKOUT / ".venv/bin/pgha-master"
    if not path.exists():
        raise LabError(f"{path} is not there: run `make demo` in {CHECKOUT}, which makes it first")
    return path


def enrol(master: Master, machines: Iterable[Machine], address: str) -> None:
    """Lets in each node that is not in yet, by the fingerprint the node itself shows."""
    known = master.ask("keys", "list")
    accepted = {key["name"] for key in known["keys"] if key["state"] == "accepted"}
    for machine in machines:
        node = machine.node.name
        if node in accepted:
            continue
        words = ["pgha-minion", "enrol", "--master", address, "--fingerprint", str(known["master_fingerprint"])]
        say(f"$ lab exec {node} -- {' '.join(words)}")
        shown = machine.call(words).stdout.split()
        master.show("keys", "accept", node, "--fingerprint", shown[1])


def verdict(master: Master) -> str:
    """healthy, degraded, ...; "" when no cluster has been applied yet."""
    done = master.call("status", CLUSTER, "--json")
    return str(json.loads(done.stdout)["data"]["verdict"]) if done.returncode == 0 else ""


def is_there(master: Master) -> bool:
    """Whether the cluster was applied before and is healthy, at once or when its nodes have come up again."""
    if not master.definition.exists() or not verdict(master):
        return False
    return wait_until(lambda: verdict(master) == "healthy", STEADY_S, every_s=1)


def build_up(lab: Lab, master: Master) -> None:
    """The whole way. Raises: LabError."""
    prepare_machine()
    lab.up(None, True)
    built: Built = lab.must_be_built()
    address = f"10.{built.octet}.0.1"
    if not (master.folder / "etc/pgha/master.yml").exists():
        say(f"$ pgha-master init --listen {address}")
        say(f"the master's fingerprint is {master.ask('init', '--listen', address)['fingerprint']}")
    master.start()
    if is_there(master):
        say("the cluster is there already and healthy")
        return
    enrol(master, lab.machines(), address)
    if not master.definition.exists():
        host.write(master.definition, definition(built.octet, built.nodes))
        say(f"wrote {master.definition}")
    master.show("validate", CLUSTER)
    say(f"$ pgha-master plan {CLUSTER}   (only its end is shown)")
    planned = master.call("plan", CLUSTER)
    print(last_paragraph(planned.stdout) if planned.returncode == 0 else planned.stderr, flush=True)
    master.show("apply", CLUSTER)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--down", action="store_true", help="end the demo and its lab; only the images stay")
    args = parser.parse_args(argv)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    os.umask(0o022)  # as in `lab`
    folder, cache = default_folders()
    name = os.environ.get("PGHA_LAB", plan.DEFAULT_NAME)
    try:
        plan.check_name(name, "lab")
        lab = Lab(name, folder / name, cache, lambda text: print(f"lab: {text}", file=sys.stderr, flush=True))
        if args.down:
            return _down(lab)
        master = Master(lab.folder / "master", command())
        build_up(lab, master)
        master.show("status", CLUSTER)
        print(try_next(lab, master, str(master.ask("status", CLUSTER)["leader"]) or "pg-node1"))
    except LabError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; to go on: make demo; to take away what was made: make clean")
        return 130
    return 0


def _down(lab: Lab) -> int:
    if os.geteuid():
        raise LabError("the demo runs as root, so it must be ended by root: run it with sudo")
    Master(lab.folder / "master", Path()).stop()
    lab.down()
    return 0
