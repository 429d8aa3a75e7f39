"""Who may talk to whom."""

from __future__ import annotations

from collections.abc import Callable

from pgha.states.document import Context
from pgha.states.documents.firewall import build, flows

Build = Callable[..., Context]
ADDRESSES = {"pg-node1": "10.77.1.11", "pg-node2": "10.77.2.12", "witness-node": "10.77.3.13"}


def sources(context: Context, port: int) -> set[str]:
    return {rule.source for rule in flows(context.cluster, context.node) if rule.port == port}


def test_every_haproxy_reaches_every_postgresql_and_every_patroni(context_of: Build) -> None:
    for node in ("pg-node1", "pg-node2"):
        others = {address for name, address in ADDRESSES.items() if name != node}
        assert sources(context_of(node), 5432) == others
        assert sources(context_of(node), 8008) == others | {"10.77.9.0/24"}


def test_every_etcd_member_lets_in_the_others_and_nobody_else(context_of: Build) -> None:
    for node in ADDRESSES:
        others = {address for name, address in ADDRESSES.items() if name != node}
        assert sources(context_of(node), 2379) == others
        assert sources(context_of(node), 2380) == others


def test_an_etcd_outside_the_data_nodes_lets_their_patroni_in_but_not_as_a_peer(context_of: Build) -> None:
    nodes = [
        {"name": "db", "address": "10.77.1.1", "role": "data"},
        {"name": "vote", "address": "10.77.1.2", "role": "etcd"},
        {"name": "entry", "address": "10.77.1.3", "role": "proxy"},
    ]
    context = context_of("vote", nodes=nodes)
    assert sources(context, 2379) == {"10.77.1.1"}
    assert sources(context, 5433) == set()
    entry = context_of("entry", nodes=nodes)
    assert {rule.port for rule in flows(entry.cluster, entry.node)} == {22, 5433, 5434}


def test_clients_reach_both_ports_of_every_node_and_nothing_of_postgresql(context_of: Build) -> None:
    for node in ADDRESSES:
        assert sources(context_of(node), 5433) == {"any"}
        assert sources(context_of(node), 5434) == {"any"}
        assert "any" not in sources(context_of(node), 5432)


def test_the_statistics_port_is_opened_only_when_it_listens_outside(context_of: Build) -> None:
    assert sources(context_of(), 7000) == set()
    listening = context_of(haproxy={"stats": {"listen": "0.0.0.0"}})
    assert sources(listening, 7000) == {"10.77.9.0/24"}


def test_the_administrator_keeps_ssh(context_of: Build) -> None:
    for node in ADDRESSES:
        assert sources(context_of(node), 22) == {"10.77.0.1"}


def test_every_rule_is_marked_as_pghas_and_stands_once(context_of: Build) -> None:
    monitored_node = context_of(access={"admin": ["10.77.0.1"], "monitoring": ["10.77.2.12"]})
    rules = flows(monitored_node.cluster, monitored_node.node)
    assert all(rule.comment.startswith("pgha: ") for rule in rules)
    assert len({(rule.port, rule.source) for rule in rules}) == len(rules)


def test_without_a_backend_no_firewall_is_touched(context_of: Build) -> None:
    assert build(context_of(firewall={"backend": "none"})) == []
