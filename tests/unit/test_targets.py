"""Whom an expression means, and a clear word with a position when it means nothing."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.common.facts import HostFacts
from pgha.common.telemetry import HostSample, PatroniSample, Sample
from pgha.master.targeting.comparisons import MEASURES, Known
from pgha.master.targeting.targets import KEYS, ROLES, TAGS, TargetError, TargetNode, match


def known(system: str, version: str, codename: str, *, disk: float, lag: int | None, pg: int) -> Known:
    host = HostSample(
        cpu_percent=5, load1=0.1, memory_percent=30, disk_percent=disk, disk_free_bytes=10**11, uptime_s=7200
    )
    facts = HostFacts(
        hostname=f"{codename}.example.org",
        machine_id="m",
        boot_id="b",
        os_id=system,
        os_version=version,
        os_codename=codename,
        architecture="amd64" if system == "debian" else "arm64",
        kernel="6.12",
        python="3.13",
        cpus=4,
        memory_bytes=8 * 1024**3,
        disk_free_bytes=0,
        container=False,
        virtualization="kvm",
        addresses=(),
        pgha_version="0.1.3" if system == "debian" else "0.2.0",
    )
    patroni = PatroniSample(reachable=True, server_version=pg) if pg else None
    return Known(Sample(at=0, host=host, patroni=patroni), lag, facts)


NODES = [
    TargetNode(
        "pg-node1",
        "prod",
        "eu-west",
        frozenset({"data", "etcd", "proxy", "leader"}),
        tags={"nofailover": "false", "failover_priority": "100"},
        known=known("debian", "13", "trixie", disk=81, lag=None, pg=180004),
    ),
    TargetNode(
        "pg-node2",
        "prod",
        "us-east",
        frozenset({"data", "etcd", "proxy", "replica", "sync"}),
        connected=False,
        tags={"nofailover": "true", "replicatefrom": "pg-node1"},
        known=known("ubuntu", "24.04", "noble", disk=80, lag=11_000_000, pg=170009),
    ),
    TargetNode(
        "witness-node",
        "prod",
        "us-west",
        frozenset({"witness", "etcd", "proxy"}),
        tags={"nofailover": "false"},
        known=known("debian", "12", "bookworm", disk=12.5, lag=None, pg=0),
    ),
    TargetNode("db-1", "test", "eu-west", frozenset({"data", "leader"})),  # it has told nothing yet
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
        ("os:debian-13", [P1]),
        ("os:debian", [P1, W]),
        ("os:debian*,ubuntu-24.*", [P1, P2, W]),
        ("os:trixie", [P1]),
        ("os:*", [P1, P2, W]),
        ("not os:debian", [P2, D]),
        ("arch:amd64", [P1, W]),
        ("host:*.example.org and arch:arm*", [P2]),
        ("pgha:0.1*", [P1, W]),
        ("state:connected", [P1, W, D]),
        ("state:offline", [P2]),
        ("state:offline,connected", [P1, P2, W, D]),
        ("tag:nofailover", [P2]),
        ("tag:nofailover=false", [P1, W]),
        ("tag:failover_priority", [P1]),
        ("tag:failover_priority=1*", [P1]),
        ("tag:replicatefrom=pg-*,failover_priority", [P1, P2]),
        ("db-1,tag:nofailover=true", [P2, D]),
        ("disk>80%", [P1]),
        ("disk >= 80%", [P1, P2]),
        ("disk>= 80%", [P1, P2]),
        ("disk =80%", [P2]),
        ("disk==80%", [P2]),
        ("disk!=80%", [P1, W]),
        ("disk<12.6%", [W]),
        ("not disk>80%", [P2, W, D]),
        ("lag>10MB", [P2]),
        ("lag<1TB", [P2]),
        ("lag!=0", [P2]),
        ("not lag>10MB", [P1, W, D]),
        ("pg<18.4", [P2]),
        ("pg=18", [P1]),
        ("pg>17", [P1]),
        ("pg<=17", [P2]),
        ("pgha<0.2", [P1, W]),
        ("(disk>80%)or(lag>10MB)", [P1, P2]),
        ("prod and uptime<3h and not role:leader", [P2, W]),
        ("disk>80% and pg>18.3 or db-1", [P1, D]),
        ("nothing-else", []),
        ("order or notary or android", []),
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
        ("prod and lagg>10MB", 10, "unknown value 'lagg', did you mean lag?; there are lag (size), disk (percent)"),
        ("prod and disk>80MB", 15, "unknown unit 'MB'; disk takes %"),
        ("order>5", 1, "unknown value 'order'; there are"),
        ("lag > 10", 7, "10 has no unit; lag takes B, kB, KB, MB"),
        ("lag>10mb", 5, "unknown unit 'mb', did you mean MB?"),
        ("lag=>10MB", 4, "unknown comparison '=>'; there are < <= > >= = == !="),
        ("lag>", 5, "expected a size such as 10MB or 1GiB for lag and found ''"),
        ("pg<new", 4, "expected a version such as 18 or 18.4 for pg and found 'new'"),
        ("load>8%", 6, "expected a number such as 8 or 0.5, without a unit for load"),
        ("cert<30 d", 6, "30 has no unit; cert takes s, m, h, d"),
        ("prod lag>1B", 6, "expected and, or, or the end before 'lag>1B'"),
        ("disk>80%,lag>1B", 13, "unexpected '>'; a comparison is one name"),
        ("db-1,lag>1B", 9, "unexpected '>'; a comparison is one name, a sign and one value, such as lag>10MB"),
        ("prod and >", 10, "unexpected '>'"),
        ("os:", 1, "expected a value after 'os:'"),
        ("tag:nofailovr", 1, "unknown tag 'nofailovr', did you mean nofailover?; known: nofailover"),
        ("tag:a=b,c=d", 1, "unknown tag 'a'; known:"),
        ("state:offlin", 1, "unknown state 'offlin', did you mean offline?; known: connected, offline"),
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


def test_the_reference_names_every_key_word_and_value() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/reference/targets.md").read_text().replace("```", "")
    told = set(re.findall(r"[a-z_]+(?::[a-z]+)?", " ".join(re.findall(r"`([^`]+)`", page))))
    keyed = {f"role:{role}" for role in ROLES} | {"state:connected", "state:offline"}
    assert keyed | {one.name for one in MEASURES} <= told
    assert set(KEYS) <= {word.partition(":")[0] for word in told}


ANY_TEXT = st.text() | st.lists(
    st.sampled_from(
        [*"()<>=!,:*?[]%-. \t\n", "and", "or", "not", "all", "lag", "disk", "pg", "10MB", "80%", "18.4", "", "pg-node1"]
        + [f"{key}:" for key in KEYS]
        + list(TAGS)
    )
).map("".join)


@given(ANY_TEXT)
def test_whatever_is_written_is_read_or_refused_with_a_position(expression: str) -> None:
    try:
        names = match(expression, NODES)
    except TargetError as error:
        assert 1 <= error.position <= len(expression) + 1
        assert f"at character {error.position}: " in str(error)
    else:
        assert set(names) <= {P1, P2, W, D}


@dataclass
class Said:
    """An expression and, beside it, whom it means, found without a parser."""

    text: str
    whom: frozenset[str]
    binds: int  # 3 a term or not, 2 and, 1 or

    def inside(self, binds: int) -> str:
        return self.text if self.binds >= binds else f"({self.text})"


EVERY = frozenset((P1, P2, W, D))
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def of_disk(sign: str, percent: int, space: str) -> Said:
    disks = {P1: 81, P2: 80, W: 12.5}
    whom = frozenset(name for name, disk in disks.items() if SIGNS[sign](disk, percent))
    return Said(f"disk{space}{sign}{space}{percent}%", whom, 3)


TERMS = (
    st.sampled_from([Said(node.name, frozenset((node.name,)), 3) for node in NODES])
    | st.sampled_from(sorted({role for node in NODES for role in node.roles})).map(
        lambda role: Said(f"role:{role}", frozenset(node.name for node in NODES if role in node.roles), 3)
    )
    | st.builds(
        of_disk, st.sampled_from(sorted(SIGNS)), st.sampled_from([0, 12, 13, 80, 81, 100]), st.sampled_from(["", " "])
    )
)


def put_together(parts: st.SearchStrategy[Said]) -> st.SearchStrategy[Said]:
    return (
        parts.map(lambda a: Said(f"not {a.inside(3)}", EVERY - a.whom, 3))
        | st.builds(lambda a, b: Said(f"{a.inside(2)} and {b.inside(2)}", a.whom & b.whom, 2), parts, parts)
        | st.builds(lambda a, b: Said(f"{a.inside(1)} or {b.inside(1)}", a.whom | b.whom, 1), parts, parts)
    )


@given(st.recursive(TERMS, put_together, max_leaves=12))
def test_what_is_put_together_means_what_its_parts_mean(said: Said) -> None:
    assert frozenset(match(said.text, NODES)) == said.whom
    spacious = re.sub(r"([()])", r" \1  ", said.text)
    assert frozenset(match(spacious, NODES)) == said.whom
