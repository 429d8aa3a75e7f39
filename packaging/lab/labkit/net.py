"""The lab's network: a router namespace between the host and one routed /24 per node, and the ways it can break.

    host 10.N.0.1 -- 10.N.0.2 router 10.N.1.1 -- 10.N.1.11 pg-node1
                                     10.N.2.1 -- 10.N.2.12 pg-node2 ...

Rules kept here:
1. Nothing is translated inside the lab. Only what leaves it (to the package mirrors) is, by one nft table of the host
   that bears the lab's name, so `down` deletes it whole.
2. A node without power is silent. Its cable is cut at the router by dropping, not by taking the link down: peers see
   neither a FIN, nor a reset, nor "no carrier". The same for a partition, but in its own set: power does not heal it.
3. A boot gets a fresh namespace. Otherwise sockets, firewall rules and sysctls of the previous life would still be
   there, and a kernel that never lost power would send the FINs after all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .host import RUN, run, write
from .plan import HOST, LabError, Names, Node

UPLINK = "up0"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_FORWARDING_BEFORE = RUN / "ip_forward.before"
HOST_LOCK = RUN / "host.lock"
_ROUTER_RULES = """
table inet lab {
  set off { type ifname; }
  set parted { type ifname; }
  set split { type ifname . ifname; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname @off drop
    oifname @off drop
    iifname @parted drop
    oifname @parted drop
    iifname . oifname @split drop
  }
}
"""


def namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def tables() -> set[str]:
    """The nft tables of all labs on this host: the one list of labs that cannot be out of date."""
    listed = run(["nft", "list", "tables", "ip"]).stdout
    return set(re.findall(r"table ip (pgha_lab_\w+)", listed))


def taken_octets() -> set[int]:
    """Each N for which the host already uses something of 10.N.0.0/16, as a route, an address or a name server."""
    text = run(["ip", "-4", "route", "show", "table", "all"]).stdout + run(["ip", "-4", "addr"]).stdout
    text += Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else ""
    return {int(n) for n in re.findall(r"\b10\.(\d+)\.\d+\.\d+", text)}


def outside() -> tuple[str, int] | None:
    """The interface that leads to the internet and its MTU in bytes; None when there is no default route."""
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "default"]).stdout or "[]")
    if not routes or "dev" not in routes[0]:
        return None
    links = json.loads(run(["ip", "-j", "link", "show", "dev", routes[0]["dev"]]).stdout)
    return str(routes[0]["dev"]), int(links[0]["mtu"])


def _ip(netns: str | None, lines: Iterable[str]) -> None:
    run(["ip", *(["-n", netns] if netns else []), "-batch", "-"], stdin="\n".join(lines) + "\n")


def _router_nft(names: Names, script: str) -> None:
    run(["ip", "netns", "exec", names.router, "nft", "-f", "-"], stdin=script)


def router_is_up(names: Names) -> bool:
    """Whether the router was built to the end: its nft table comes last."""
    if names.router not in namespaces():
        return False
    return (
        run(["ip", "netns", "exec", names.router, "nft", "list", "table", "inet", "lab"], check=False).returncode == 0
    )


def build(names: Names, octet: int, nodes: Iterable[Node]) -> None:
    """Makes the host's side and the router. Every node's cable starts cut: `attach` connects it at its boot."""
    out = outside()
    mtu = out[1] if out else 1500
    run(["ip", "netns", "add", names.router])
    run(["ip", "netns", "exec", names.router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    _ip(
        None,
        (
            f"link add {names.host_link} mtu {mtu} type veth peer name {UPLINK} mtu {mtu} netns {names.router}",
            f"addr add 10.{octet}.0.1/24 dev {names.host_link}",
            f"link set {names.host_link} up",
        ),
    )
    _ip(
        names.router,
        (
            "link set lo up",
            f"addr add 10.{octet}.0.2/24 dev {UPLINK}",
            f"link set {UPLINK} up",
            f"route add default via 10.{octet}.0.1",
        ),
    )
    _ip(None, (f"route add 10.{octet}.0.0/16 via 10.{octet}.0.2",))
    lab = f"10.{octet}.0.0/16"
    masquerade = f"type nat hook postrouting priority 100\nip saddr {lab} ip daddr != {lab} masquerade"
    run(["nft", "-f", "-"], stdin=f"table ip {names.table} {{\nchain out {{\n{masquerade}\n}}\n}}\n")
    _allow_forwarding()
    off = ", ".join(f'"{node.link}"' for node in nodes)
    _router_nft(names, _ROUTER_RULES + f"add element inet lab off {{ {off} }}\n")


def _allow_forwarding() -> None:
    if not _FORWARDING_BEFORE.exists():
        write(_FORWARDING_BEFORE, _FORWARDING.read_text())
    _FORWARDING.write_text("1")


def remove(names: Names) -> None:
    """Takes away all of this lab's network, from any half-built state; gives ip_forward back after the last lab."""
    run(["ip", "link", "del", names.host_link], check=False)
    for netns in sorted(namespaces()):
        if netns.startswith(names.prefix + "."):
            if netns == names.router:
                _delete_links(netns)
            run(["ip", "netns", "del", netns], check=False)
    if names.table in tables():
        run(["nft", "delete", "table", "ip", names.table])
    if not tables() and _FORWARDING_BEFORE.exists():
        _FORWARDING.write_text(_FORWARDING_BEFORE.read_text())
        _FORWARDING_BEFORE.unlink()


def _delete_links(netns: str) -> None:
    """Deletes the cables at once: a namespace with an orphaned socket outlives its name, and would keep its end."""
    listed = run(["ip", "-n", netns, "-j", "link", "show", "type", "veth"], check=False).stdout
    for link in json.loads(listed or "[]"):
        run(["ip", "-n", netns, "link", "del", link["ifname"]], check=False)


def attach(names: Names, node: Node) -> None:
    """Gives the node a fresh namespace and connects its cable; what was parted stays parted."""
    netns = names.netns(node.name)
    run(["ip", "-n", names.router, "link", "del", node.link], check=False)
    run(["ip", "netns", "del", netns], check=False)
    run(["ip", "netns", "add", netns])
    mtu = json.loads(run(["ip", "-n", names.router, "-j", "link", "show", "dev", UPLINK]).stdout)[0]["mtu"]
    _ip(
        names.router,
        (
            f"link add {node.link} mtu {mtu} type veth peer name host0 mtu {mtu} netns {netns}",
            f"addr add {node.gateway}/24 dev {node.link}",
            f"link set {node.link} up",
        ),
    )
    _ip(
        netns,
        (
            "link set lo up",
            f"addr add {node.address}/24 dev host0",
            "link set host0 up",
            f"route add default via {node.gateway}",
        ),
    )
    _router_nft(
        names, f'add element inet lab off {{ "{node.link}" }}\ndelete element inet lab off {{ "{node.link}" }}\n'
    )


def cut_power(names: Names, node: Node) -> None:
    """From now on nothing passes to or from the node, until `attach`."""
    _router_nft(names, f'add element inet lab off {{ "{node.link}" }}\n')


def partition(names: Names, node: Node, peers: Iterable[str], nodes: Iterable[Node]) -> None:
    """Parts the node from everybody, or, with peers, from just these nodes (HOST: the machine the lab runs on).

    Raises: LabError when a peer is not of this lab.
    """
    links = {other.name: other.link for other in nodes} | {HOST: UPLINK}
    wanted = list(peers)
    if not wanted:
        _router_nft(names, f'add element inet lab parted {{ "{node.link}" }}\n')
    for peer in wanted:
        if peer not in links or peer == node.name:
            raise LabError(
                f"{node.name} cannot be parted from {peer!r}; its peers: {', '.join(sorted(set(links) - {node.name}))}"
            )
        there = f'"{node.link}" . "{links[peer]}", "{links[peer]}" . "{node.link}"'
        _router_nft(names, f"add element inet lab split {{ {there} }}\n")


def _elements(names: Names, name: str) -> set[tuple[str, ...]]:
    """The elements of a set in the router, each as the interfaces it names."""
    shown = run(["ip", "netns", "exec", names.router, "nft", "-j", "list", "set", "inet", "lab", name]).stdout
    listed: list[Any] = next(
        (item["set"].get("elem", []) for item in json.loads(shown)["nftables"] if "set" in item), []
    )
    return {tuple(elem["concat"]) if isinstance(elem, dict) else (elem,) for elem in listed}


def heal(names: Names, node: Node | None) -> None:
    """Ends the node's partitions, or all of them."""
    if node is None:
        _router_nft(names, "flush set inet lab parted\nflush set inet lab split\n")
        return
    for name in ("parted", "split"):
        for elements in _elements(names, name):
            if node.link in elements:
                joined = " . ".join(f'"{link}"' for link in elements)
                _router_nft(names, f"delete element inet lab {name} {{ {joined} }}\n")


def parted_from(names: Names, node: Node, nodes: Iterable[Node]) -> list[str]:
    """Whom the node is parted from: ["everybody"], some names, or nobody."""
    if (node.link,) in _elements(names, "parted"):
        return ["everybody"]
    by_link = {other.link: other.name for other in nodes} | {UPLINK: HOST}
    return sorted(by_link[there] for here, there in _elements(names, "split") if here == node.link)
