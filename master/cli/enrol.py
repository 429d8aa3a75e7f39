"""`pgha-master enrol`: from hosts that have nothing but SSH to connected minions.

It runs as the person who calls it, with that person's keys and known hosts; the daemon only gives a token for each node
and says who is connected. Each node goes its own way, beside the others, and doing it again repairs what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import exits
from .options import finish, leave, with_terminal
from .screen import Terminal, duration

if TYPE_CHECKING:
    from ...common.cluster import Cluster, Node
    from ..ssh.ssh import Access

AT_ONCE = 16
TOKEN_S = 1800.0
INSTALL_S = 1500.0
CONNECT_S = 60.0
POLL_S = 0.5

Key = dict[str, Any]  # JSON as the daemon sent it


@click.command("enrol")
@click.argument("name", metavar="CLUSTER|FILE")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be repeated.")
@click.option("--user", default="", help="Log in as this user. Default: as ssh itself would.")
@click.option("--sudo", is_flag=True, help="The user is not root and may use sudo without a password.")
@click.option("--identity", default="", metavar="FILE", help="The private key to log in with.")
@click.option("--port", default=0, metavar="N", help="The port of sshd, if it is not 22.")
@click.option("--host-key-checking", "checking", default="accept-new", show_default=True, metavar="accept-new|yes")
@click.option("--known-hosts", default="", metavar="FILE", help="Where host keys are kept, instead of ssh's own files.")
@click.option("--master", "reached_at", default="", metavar="ADDRESS", help="Where nodes reach this master.")
@click.option("--wheels", default="", metavar="DIR", help="Send these wheels along; nodes then need no package index.")
@with_terminal
def command(
    screen: Terminal,
    name: str,
    nodes: tuple[str, ...],
    user: str,
    sudo: bool,
    identity: str,
    port: int,
    checking: str,
    known_hosts: str,
    reached_at: str,
    wheels: str,
) -> None:
    """Install pgha-minion on the nodes of a cluster over SSH and enrol them.

    Nodes that are connected are left alone, so it can be given again. Exit code 4 when some nodes failed, 1 when all.
    """
    from ..ssh.installer import read_wheels
    from ..ssh.ssh import Access

    paths = [str(Path(text).expanduser().absolute()) if text else "" for text in (identity, known_hosts)]
    access = Access(user, port, paths[0], paths[1], checking)
    cluster = _cluster(name)
    chosen = _chosen(cluster, nodes)
    site = Site(screen, access, sudo, _address(reached_at), read_wheels(Path(wheels)) if wheels else {})
    results = site.enrol(chosen)
    if screen.as_json:
        screen.document("enrol", cluster.name, {"nodes": [asdict(result) for result in results]})
    failed = [result for result in results if result.state == "failed"]
    if not screen.as_json:
        again = "Then give the same command again: nodes that are connected are left alone."
        screen.progress(again if failed else f"Next:  pgha-master plan {name}")
    leave(exits.OK if not failed else exits.FAILED if len(failed) == len(results) else exits.PARTIAL)


@dataclass(frozen=True, slots=True)
class Result:
    """`state`: connected, or failed; `text` says what was done or what to do."""

    node: str
    address: str
    state: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Site:
    """What is the same for all nodes."""

    screen: Terminal
    access: Access
    sudo: bool
    reached_at: str
    wheels: dict[str, bytes]

    def enrol(self, nodes: Sequence[Node]) -> list[Result]:
        """All nodes, in their order. Raises Unreachable when there is no daemon, HostError when there is no ssh."""
        from ...common.wheel import installed
        from ..ssh.installer import common_files, packed
        from .client import ask

        end = ask("keys.list", {}, self.screen.progress)
        finish(self.screen, end)
        keys, known = end.data, _by_name(end.data)
        width = max(len(node.name) for node in nodes)
        waiting = [node for node in nodes if not known.get(node.name, {}).get("connected")]
        shared = packed(common_files(installed(), self.wheels)) if waiting else b""

        async def one(node: Node) -> Result:
            if node not in waiting:
                result = Result(node.name, node.address, "connected", "connected already, nothing to do", 0.0)
            else:
                async with room:
                    result = await self._tried(node, shared, str(keys["master_fingerprint"]), width)
            self._tell(result, width)
            return result

        async def all_of_them() -> list[Result]:
            return list(await asyncio.gather(*map(one, nodes)))

        room = asyncio.Semaphore(AT_ONCE)
        return asyncio.run(all_of_them())

    async def _tried(self, node: Node, shared: bytes, fingerprint: str, width: int) -> Result:
        """One node from SSH to a minion that is connected; what goes wrong with it stops no other node."""
        from ...common.errors import PghaError

        since = time.monotonic()
        try:
            failure = await self._install(node, shared, fingerprint, width)
        except PghaError as error:
            failure = str(error)
        state, text = ("failed", failure) if failure else ("connected", "enrolled and connected")
        return Result(node.name, node.address, state, text, round(time.monotonic() - since, 1))

    async def _install(self, node: Node, shared: bytes, fingerprint: str, width: int) -> str:
        """Empty, or why not. Raises Unreachable when the daemon has gone, HostError when it gives no token."""
        from ..ssh import installer, ssh

        def line(text: str) -> None:
            if text.startswith("pgha: "):
                self._say(f"{node.name:<{width}}  {text.removeprefix('pgha: ')}")

        answer = await asyncio.to_thread(self._ask, "keys.token", {"name": node.name, "ttl_s": TOKEN_S})
        where, port = self._master(str(answer["master"]))
        own = installer.own_files(node.name, str(answer["token"]), fingerprint, where, port)
        words = ssh.argv(self.access, node.address, installer.command(self.sudo))
        ended = await ssh.run(words, installer.sealed(installer.packed(own), shared), line, INSTALL_S)
        if ended.code:
            return installer.explained(ended.code, ended.errors, node.address, self.access)
        if not await self._connected(node.name):
            return f"enrolled, but not connected within {CONNECT_S:g} s; see there: journalctl -u pgha-minion"
        return ""

    async def _connected(self, node: str) -> bool:
        deadline = time.monotonic() + CONNECT_S
        while time.monotonic() < deadline:
            keys = await asyncio.to_thread(self._ask, "keys.list")
            if _by_name(keys).get(node, {}).get("connected"):
                return True
            await asyncio.sleep(POLL_S)
        return False

    def _master(self, said: str) -> tuple[str, int]:
        """Where nodes find this master, empty when each must tell from its connection, and the port of the bus."""
        host, _, port = said.rpartition(":")
        if self.reached_at:
            given = self.reached_at
            return (given if given.rpartition("]")[2].count(":") == 1 else f"{given}:{port}"), int(port)
        return ("" if host == "ADDRESS" else said), int(port)

    def _ask(self, verb: str, arguments: dict[str, object] | None = None) -> dict[str, Any]:
        from ...common.errors import HostError
        from .client import ask

        end = ask(verb, arguments or {}, self.screen.progress)
        if end.exit != exits.OK:
            raise HostError(end.message)
        return end.data

    def _tell(self, result: Result, width: int) -> None:
        if self.screen.as_json:
            return
        took = f"  ({duration(result.seconds)})" if result.seconds else ""
        first, *more = result.text.splitlines()
        if result.state == "failed":
            first = f"{self.screen.look_out.paint('failed', 'red')}: {first}"
        self.screen.result(f"{result.node:<{width}}  {first}{took}", *(f"{'':{width}}  | {line}" for line in more))

    def _say(self, text: str) -> None:
        if not self.screen.as_json:
            self.screen.progress(text)


def _by_name(answer: dict[str, Any]) -> dict[str, Key]:
    """The accepted keys, and the others of nodes that have none."""
    rows = sorted(answer.get("keys") or [], key=lambda key: key.get("state") == "accepted")
    return {str(row.get("name")): row for row in rows}


def _cluster(name: str) -> Cluster:
    """Raises DefinitionError, UserError."""
    from ...common.paths import Paths
    from ..definition import inventory

    path, text = inventory.read(name, Paths.from_environment().clusters)
    cluster, _ = inventory.load(path, text)
    inventory.insist(name, path, cluster)
    return cluster


def _chosen(cluster: Cluster, names: Sequence[str]) -> list[Node]:
    """The nodes of --node, or all. Raises UserError for a name that the definition does not have."""
    from ...common.errors import UserError
    from ...common.settings import nearest

    wanted = [name.strip() for text in names for name in text.split(",") if name.strip()]
    known = [node.name for node in cluster.nodes]
    for name in wanted:
        if name not in known:
            raise UserError(f"the cluster {cluster.name} has no node {name}. {nearest(name, known)}".rstrip())
    return [node for node in cluster.nodes if not wanted or node.name in wanted]


def _address(text: str) -> str:
    """--master as HOST or HOST:PORT. Raises UserError."""
    import ipaddress
    import re

    from ...common.errors import UserError

    try:
        return f"[{text}]" if ipaddress.ip_address(text).version == 6 else text
    except ValueError:
        pass
    if text and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252})(:\d{1,5})?", text):
        raise UserError(f"--master: {text!r} is no address; expected HOST or HOST:PORT")
    return text
