"""What a lab is called and which addresses it has. Pure: nothing here looks at the machine.

Rules kept here:
1. Every name that reaches the kernel (namespace, interface, nft table, cgroup) is derived from the lab's name,
   so `down` can find what belongs to a lab when its state files are gone.
2. Two lab names never give the same kernel name. The separator is `.`, which no name may hold.
3. A lab lives in one 10.N.0.0/16; each node has a routed /24 of its own inside it, as a region has. The default
   lab is always 10.77; others take the first free N from a start that follows from their name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_NAME = "pgha"
DEFAULT_OCTET = 77
OCTETS = range(78, 200)
REGIONS = ("eu-west", "us-east", "us-west", "eu-north", "ap-south", "ap-east", "sa-east", "af-south")
SERVICES = ("s3",)  # what a node may serve instead of being a bare host for pgha
HOST = "host"  # the machine the lab runs on, as a peer in `partition --from`
_KEYS = ("name", "region", "address", "serves")  # of a node in a lab file
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class LabError(Exception):
    """Something the operator can act on. The text ends with what to do; the CLI prints it without a traceback."""


@dataclass(frozen=True)
class Node:
    """One machine of the lab: its place in the network follows from its address alone."""

    name: str
    address: str
    region: str
    serves: str | None = None  # one of SERVICES; None is a bare host

    @property
    def subnet(self) -> int:
        """The third octet: which /24 of the lab this node lives in."""
        return int(self.address.split(".")[2])

    @property
    def gateway(self) -> str:
        return self.address.rsplit(".", 1)[0] + ".1"

    @property
    def link(self) -> str:
        """The router's end of this node's cable."""
        return f"n{self.subnet}"


@dataclass(frozen=True)
class Wanted:
    """A node as asked for; without an address it gets one of the lab's."""

    name: str
    region: str
    address: str | None = None
    serves: str | None = None


@dataclass(frozen=True)
class Names:
    """Every kernel-visible name of one lab."""

    lab: str

    @property
    def prefix(self) -> str:
        return f"pgha-lab-{self.lab}"

    @property
    def router(self) -> str:
        """The network namespace of the router. A node's namespace is never called this: node names hold no dot."""
        return f"{self.prefix}.router.ns"

    def netns(self, node: str) -> str:
        return f"{self.prefix}.{node}"

    @property
    def host_link(self) -> str:
        """The host's interface: an interface name has at most 15 characters, a long lab name is cut and hashed."""
        short = (
            self.lab if len(self.lab) <= 11 else f"{self.lab[:4]}-{hashlib.sha256(self.lab.encode()).hexdigest()[:6]}"
        )
        return f"lab-{short}"

    @property
    def table(self) -> str:
        """The lab's nft table on the host. Lab names hold no underscore, so two labs never share one."""
        return f"pgha_lab_{self.lab.replace('-', '_')}"

    def machine(self, node: str) -> str:
        return f"{self.prefix}.{node}"


def check_name(name: str, what: str) -> str:
    """`name`, if it may name a lab or a node.

    Raises: LabError when it holds anything but a-z, 0-9 and inner dashes, or is longer than 31 characters.
    """
    if not _NAME.fullmatch(name) or name.endswith("-") or "--" in name:
        raise LabError(
            f"{name!r} cannot be the name of a {what}: use a-z, 0-9 and single inner dashes, at most 31 characters"
        )
    if name == HOST:
        raise LabError(f"{HOST!r} names the machine the lab runs on; choose another name for the {what}")
    return name


def default_nodes(count: int) -> list[Wanted]:
    """`count` nodes: pg-node1.., and from two on the last one is the witness.

    Raises: LabError when count is not between 1 and 200.
    """
    if not 1 <= count <= 200:
        raise LabError(f"a lab has 1 to 200 nodes, not {count}")
    names = [f"pg-node{i + 1}" for i in range(count)]
    if count > 1:
        names[-1] = "witness-node"
    return [Wanted(name, REGIONS[i % len(REGIONS)]) for i, name in enumerate(names)]


def nodes_from_file(content: Any) -> list[Wanted]:  # Any: what a YAML or JSON reader returns
    """The nodes of a lab file: {"nodes": [{"name": .., "region": .., "address": .., "serves": "s3"}, ..]}.

    Only the name must be there.

    Raises: LabError that names the entry which is wrong, and how.
    """
    entries = content.get("nodes") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise LabError('a lab file holds {"nodes": [...]} with at least one node')
    wanted = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise LabError(f"node {i + 1} of the lab file has no name")
        if unknown := sorted(set(entry) - set(_KEYS)):
            raise LabError(
                f"node {entry['name']} of the lab file: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}"
            )
        region = entry.get("region", REGIONS[i % len(REGIONS)])
        address = entry.get("address")
        if not isinstance(region, str) or not isinstance(address, str | None):
            raise LabError(f"node {entry['name']} of the lab file: region and address are text")
        serves = entry.get("serves")
        if "serves" in entry and serves not in SERVICES:
            raise LabError(
                f"node {entry['name']} of the lab file: no node can serve {serves!r}; what one can: "
                f"{', '.join(SERVICES)}. Without `serves` it is a bare host"
            )
        wanted.append(Wanted(entry["name"], region, address, serves))
    return wanted


def wanted_octet(wanted: Collection[Wanted]) -> int | None:
    """The N of 10.N.0.0/16 which the given addresses ask for, None when none is given.

    Raises: LabError when an address is not in 10/8, or two of them are not in the same 10.N.0.0/16.
    """
    octets: dict[int, str] = {}
    for node in wanted:
        if node.address is None:
            continue
        try:
            parts = ipaddress.IPv4Address(node.address).packed
        except ValueError:
            raise LabError(f"node {node.name}: {node.address!r} is no IPv4 address") from None
        if parts[0] != 10 or parts[2] == 0 or parts[3] in (0, 1, 255):
            raise LabError(f"node {node.name}: {node.address} is not 10.N.S.H with S from 1 and H from 2 to 254")
        octets[parts[1]] = node.address
    if len(octets) > 1:
        raise LabError(f"one lab is one 10.N.0.0/16: {' and '.join(octets.values())} are in two")
    return next(iter(octets), None)


def choose_octet(name: str, asked: int | None, taken: Collection[int]) -> int:
    """The N of 10.N.0.0/16 for the lab `name`: what its file asks for, 77 for the default lab, else the first free one.

    Raises: LabError when the one it must have is taken, or none is free.
    """
    must = asked if asked is not None else DEFAULT_OCTET if name == DEFAULT_NAME else None
    if must is not None:
        if must in taken:
            raise LabError(
                f"10.{must}.0.0/16 is already in use on this machine (`ip route`): take another --name or addresses"
            )
        return must
    start = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    for i in range(len(OCTETS)):
        octet = OCTETS[(start + i) % len(OCTETS)]
        if octet not in taken:
            return octet
    raise LabError("no 10.N.0.0/16 from 10.78 to 10.199 is free on this machine; take other labs down first")


def place(wanted: Collection[Wanted], octet: int) -> list[Node]:
    """Every node with its address: the i-th gets 10.N.i.(10+i) unless it asked for one.

    Raises: LabError when a name is wrong or used twice, or two nodes would share a /24.
    """
    used = {Node("", w.address, "").subnet for w in wanted if w.address}
    nodes: list[Node] = []
    for i, want in enumerate(wanted, start=1):
        check_name(want.name, "node")
        subnet = next(s for s in (*range(i, 255), *range(1, i)) if s not in used)
        node = Node(want.name, want.address or f"10.{octet}.{subnet}.{10 + subnet % 240}", want.region, want.serves)
        for other in nodes:
            if other.name == node.name:
                raise LabError(f"two nodes are called {node.name}")
            if other.subnet == node.subnet:
                raise LabError(
                    f"{other.name} and {node.name} are both in 10.{octet}.{node.subnet}.0/24: give each its own"
                )
        used.add(node.subnet)
        nodes.append(node)
    return nodes
