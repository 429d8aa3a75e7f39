"""The `lab` command: words to orders, values to text, errors to an exit code. Decides nothing else.

Progress goes to standard error, data to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import host, plan, program
from .lab import Lab, default_folders
from .node import Machine
from .plan import LabError, Wanted

USAGE = 2
EXEC_FAILED = 125  # of `exec` and `shell`: the lab failed, not the command
_ABOUT = """\
Real machines to try pgha on: Debian 13 with systemd, each in a region of its own behind a router, on this one machine.

  lab up                     three bare nodes: pg-node1 10.77.1.11, pg-node2 10.77.2.12, witness-node 10.77.3.13
  lab exec pg-node1 -- CMD   run a command there;   lab shell pg-node1   look around
  lab kill pg-node1          pull its plug;         lab start pg-node1   and plug it in again
  lab partition pg-node1     cut its network;       lab heal             mend all networks
  lab wipe pg-node1          a bare machine again
  lab down                   leaves nothing behind but the cache

This machine is 10.77.0.1 to the nodes: a master that runs here listens there.
"""
_ENDING = """\
exit codes: 0 done, 1 failed, 2 usage; exec and shell: the command's own, or 125 when the node cannot be entered.
environment: PGHA_LAB (name), PGHA_LAB_DIR (state), PGHA_LAB_CACHE (images), PGHA_LAB_MIRROR, PGHA_LAB_SECURITY_MIRROR.
"""


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="lab", description=_ABOUT, epilog=_ENDING, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "--name", default=os.environ.get("PGHA_LAB", plan.DEFAULT_NAME), help="which lab (default: %(default)s)"
    )
    orders = top.add_subparsers(dest="order", required=True, metavar="ORDER", title="orders")

    def order(name: str, text: str | None) -> argparse.ArgumentParser:
        sub = orders.add_parser(name, help=text, description=text) if text else orders.add_parser(name)
        # Also behind the order, where the hand goes first; SUPPRESS keeps what stood before it.
        sub.add_argument("--name", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    up = order("up", "make the lab and boot its nodes; start those which are off")
    shape = up.add_mutually_exclusive_group()
    shape.add_argument(
        "--nodes", type=int, metavar="N", help="N nodes: pg-node1.., the last one the witness (default: 3)"
    )
    shape.add_argument(
        "--file", type=Path, help="nodes with name, region, address, serves (s3), as YAML (with ruamel.yaml) or JSON"
    )
    image = order("image", "make what nodes boot from, without booting any")
    image.add_argument("--refresh", action="store_true", help="drop what is cached first: today's packages")
    for sub in (up, image):
        sub.add_argument(
            "--install-missing", action="store_true", help="install the tools this machine lacks, with apt"
        )
        sub.add_argument(
            "--without-pgha", action="store_true", help="leave this checkout's pgha-minion out of the image"
        )
        sub.add_argument(
            "--with-packages", action="store_true", help="with a cluster's packages installed, and none of them running"
        )
    order("wheels", "fetch what pgha needs on a node, as wheels for `pgha-master enrol --wheels`; print their folder")
    order("down", "end the lab and leave nothing of it but the cache")
    order("status", "what each node is, and how it is").add_argument("--json", action="store_true")
    doctor = order("doctor", "whether this machine can have a lab, and what to do if not")
    doctor.add_argument("--install-missing", action="store_true", help="install the tools this machine lacks, with apt")
    for name, text in (("exec", "run a command in a node, as root"), ("shell", "a shell in a node")):
        sub = order(name, text)
        sub.add_argument("node")
        if name == "exec":
            sub.add_argument("command", nargs="*", metavar="-- COMMAND")
    for name, text in (
        ("kill", "pull the plug: silent at once, then dead"),
        ("start", "switch on"),
        ("stop", "power off orderly"),
        ("reboot", "reboot orderly"),
        ("wipe", "give it an empty disk: dead, bare again, booted"),
    ):
        order(name, text).add_argument("nodes", nargs="+", metavar="NODE")
    parted = order("partition", "drop what passes the router to or from a node")
    parted.add_argument("nodes", nargs="+", metavar="NODE")
    parted.add_argument(
        "--from", action="append", default=[], dest="peers", metavar="PEER", help="only this node, or `host`"
    )
    order("heal", "end the partitions of these nodes, or all").add_argument("nodes", nargs="*", metavar="NODE")
    order("snapshot", "keep all disks").add_argument("label", nargs="?", default="snapshot")
    order("restore", "put kept disks back").add_argument("label", nargs="?", default="snapshot")
    push = order("push", "copy a file or folder into a node; a target that ends with / is a folder")
    push.add_argument("node")
    push.add_argument("source", type=Path)
    push.add_argument("target")
    order("supervise", None).add_argument("node")  # the lab's own: what keeps a node running
    return top


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The order. What stands behind the first `--` is a command of the node, no word of which is the lab's."""
    here, command = list(argv), []
    if "--" in here:
        cut = here.index("--")
        here, command = here[:cut], here[cut + 1 :]
    top = parser()
    args = top.parse_args(here)
    if args.order == "exec":
        args.command += command
    if args.order == "exec" and not args.command:
        top.error("exec: which command? lab exec NODE -- COMMAND")
    return args


def shape_from_file(path: Path) -> list[Wanted]:
    """The nodes of a lab file.

    Raises: LabError when it cannot be read, with what was expected.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None
    content: Any  # what a reader of YAML or JSON returns; plan checks it
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError:
        try:
            content = json.loads(text)
        except ValueError as error:
            raise LabError(
                f"{path} is no JSON ({error}); to read YAML: `apt-get install python3-ruamel.yaml`"
            ) from None
    else:
        try:
            content = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise LabError(f"{path}: {error}") from None
    return plan.nodes_from_file(content)


def show_status(lab: Lab, as_json: bool) -> None:
    rows = lab.status()
    if as_json:
        print(json.dumps({"lab": lab.name, "nodes": [{**asdict(row), "state": row.state} for row in rows]}, indent=2))
        return
    table = [("NODE", "ADDRESS", "REGION", "STATE", "BOOT", "PID", "PARTED FROM")]
    table += [
        (r.name, r.address, r.region, r.state, r.boot, str(r.pid or "-"), " ".join(r.parted_from) or "-") for r in rows
    ]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for r in rows:
        if r.s3:
            print(f"{r.name} serves S3: {r.s3}")


def obey(lab: Lab, args: argparse.Namespace) -> None:
    """Carries out one order on one lab. Raises: LabError."""
    match args.order:
        case "up":
            bring_up(lab, args)
        case "image":
            make_image(lab, args)
        case "wheels":
            print(program.wheels(lab.cache))
        case "down":
            lab.down()
        case "status":
            show_status(lab, args.json)
        case "kill" | "start" | "stop" | "reboot" | "wipe" | "heal":
            getattr(lab, args.order)(args.nodes)
        case "partition":
            lab.partition(args.nodes, args.peers)
        case "snapshot" | "restore":
            getattr(lab, args.order)(args.label)
        case _:
            enter(lab.machines([args.node])[0], args)


def bring_up(lab: Lab, args: argparse.Namespace) -> None:
    wanted = shape_from_file(args.file) if args.file else None
    if args.nodes is not None:
        wanted = plan.default_nodes(args.nodes)
    lab.up(wanted, not args.without_pgha, args.with_packages)
    show_status(lab, as_json=False)


def make_image(lab: Lab, args: argparse.Namespace) -> None:
    if args.refresh:
        lab.cache.forget()
    for layer in lab.image(not args.without_pgha, args.with_packages):
        print(layer)


def enter(machine: Machine, args: argparse.Namespace) -> None:
    """The orders that concern the inside of one node."""
    match args.order:
        case "exec":
            machine.replace_process(args.command)
        case "shell":
            machine.replace_process(["bash", "-l"], term=os.environ.get("TERM", "dumb"))
        case "push":
            machine.push(args.source, args.target)
        case "supervise":
            machine.supervise()


def check_machine(args: argparse.Namespace) -> None:
    """Raises: LabError with all that keeps this machine from having a lab."""
    if getattr(args, "install_missing", False) and not os.geteuid():
        host.install_missing()
    if args.order in ("up", "image", "wheels", "doctor"):
        found = host.obstacles()
    elif os.geteuid():
        found = ["the lab makes namespaces and mounts, so it must be root: run it with sudo"]
    else:
        return
    if found:
        raise LabError("this machine cannot have a lab yet:\n  - " + "\n  - ".join(found))


def main(argv: Sequence[str]) -> int:
    os.environ["PATH"] = (
        f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"  # sudo may cut it
    )
    os.umask(0o022)  # what we write into a node is its /etc
    args = parse(argv)
    try:
        plan.check_name(args.name, "lab")
        check_machine(args)
        if args.order == "doctor":
            say("this machine can have a lab")
            return 0
        folder, cache = default_folders()
        obey(Lab(args.name, folder / args.name, cache, say), args)
    except LabError as error:
        say(str(error))
        return EXEC_FAILED if args.order in ("exec", "shell") else 1
    except KeyboardInterrupt:
        say(f"interrupted; `lab --name {args.name} down` takes away what was made")
        return 130
    return 0
