"""Whom an expression means, and a clear word with a position when it means nothing."""

from __future__ import annotations

import pytest
from pgha.master.targets import TargetError, TargetNode, match

NODES = [
    TargetNode("pg-node1", "prod", "eu-west", frozenset({"data", "etcd", "proxy", "leader"})),
    TargetNode("pg-node2", "prod", "us-east", frozenset({"data", "etcd", "proxy", "replica", "sync"}), connected=False),
    TargetNode("witness-node", "prod", "us-west", frozenset({"witness", "etcd", "proxy"})),
    TargetNode("db-1", "test", "eu-west", frozenset({"data", "leader"})),
]
P1, P2, W, D = (node.name for node in NODES)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("pg-node1", [P1]),
        ("all", [P1, P2, W, D]),
        ("*", [P1, P2, W, D]),
        ("  pg-*  ", [P1, P2]),
        ("pg-node?", [P1, P2]),
        ("pg-node[!1]", [P2]),
        ("db-1,pg-node2", [P2, D]),
        ("witness-*,db-*", [W, D]),
        ("prod", [P1, P2, W]),
        ("cluster:test", [D]),
        ("role:leader", [P1, D]),
        ("role:leader,witness", [P1, W, D]),
        ("db-1,role:witness", [W, D]),
        ("region:eu-west", [P1, D]),
        ("region:us-*", [P2, W]),
        ("prod and role:data", [P1, P2]),
        ("prod and not role:leader", [P2, W]),
        ("not not prod", [P1, P2, W]),
        ("role:witness or role:leader and cluster:test", [W, D]),
        ("(role:witness or role:leader) and cluster:test", [D]),
        ("not (role:leader or region:us-east)", [W]),
        ("not(pg-node1)and(prod)", [P2, W]),
        ("pg-node1 or pg-node1", [P1]),
        ("nobody", []),
        ("role:data and region:nowhere", []),
    ],
)
def test_an_expression_means_these_nodes_in_the_order_they_stand(expression: str, names: list[str]) -> None:
    assert match(expression, NODES) == names


@pytest.mark.parametrize(
    ("expression", "position", "words"),
    [
        ("", 1, "it is empty; name nodes, or use all"),
        ("   ", 1, "it is empty"),
        ("prod and", 9, "found the end"),
        ("prod and role:ledaer", 10, "unknown role 'ledaer', did you mean leader?"),
        ("rgion:eu", 1, "unknown key 'rgion', did you mean region?"),
        ("prod role:leader", 6, "expected and, or, or the end before 'role:leader'"),
        ("and prod", 1, "found 'and'"),
        ("(prod or db-1", 14, "expected ) for the ( at character 1"),
        ("prod)", 5, "expected and, or, or the end before ')'"),
        ("()", 2, "found ')'"),
        ("prod and lag>10MB", 10, "comparisons such as 'lag>10MB' are not supported"),
        ("disk >= 80%", 1, "comparisons such as 'disk >= 80%' are not supported"),
        ("prod and >", 10, "unexpected '>'"),
        ("role:", 1, "expected a value after 'role:'"),
        ("pg-node1,,db-1", 10, "expected a name beside the comma"),
        ("pg-node1,role:boss", 10, "unknown role 'boss'"),
        ("not " * 60 + "prod", 201, "more than 50 levels"),
        ("(" * 60 + "prod" + ")" * 60, 51, "more than 50 levels"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_position(expression: str, position: int, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        match(expression, NODES)
    assert words in str(caught.value)
    assert caught.value.position == position


def test_the_error_points_at_the_character() -> None:
    with pytest.raises(TargetError) as caught:
        match("prod and role:ledaer", NODES)
    first, expression, pointer = str(caught.value).split("\n")
    assert first.startswith("cannot read the target at character 10: ")
    assert expression[pointer.index("^")] == "r"


def test_a_node_of_two_clusters_is_named_once() -> None:
    twice = [TargetNode("n", "a"), TargetNode("n", "b")]
    assert match("*", twice) == ["n"]
