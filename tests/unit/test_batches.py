"""Which nodes come next: never too many at once, nobody twice, and nobody after too many have failed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.common.errors import UserError
from pgha.master.adhoc.batches import Limits, Next, Over, Seen, Start, Stop, Wait, following, limits, planned

ABC = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("count", "batch", "canary", "max_fail", "meant"),
    [
        (5, "", False, "", Limits(5, None, False)),
        (5, "2", False, "", Limits(2, 0, False)),
        (5, "", True, "", Limits(5, 0, True)),
        (10, "25%", False, "", Limits(2, 0, False)),
        (3, "10%", False, "", Limits(1, 0, False)),
        (3, "100%", False, "", Limits(3, 0, False)),
        (10, "2", True, "30%", Limits(2, 3, True)),
        (10, "", False, "1", Limits(10, 1, False)),
        (10, "50", False, "0", Limits(50, 0, False)),
        (0, "", False, "", Limits(1, None, False)),
    ],
)
def test_the_options_mean_numbers_of_nodes(count: int, batch: str, canary: bool, max_fail: str, meant: Limits) -> None:
    assert limits(count, batch, canary, max_fail) == meant


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "%", "101%", " 2", "2 %", "\u0662", "9" * 30, "0%x"])
def test_what_is_no_number_of_nodes_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(UserError, match="--batch"):
        limits(10, text)


def test_no_node_may_fail_is_a_number_and_a_word_is_not() -> None:
    assert limits(10, "1", False, "0").max_fail == 0
    with pytest.raises(UserError, match="--max-fail all: expected a number of nodes from 0 on"):
        limits(10, "1", False, "all")


def seen(text: str) -> dict[str, Seen]:
    words: dict[str, Seen] = {"+": "good", "-": "bad", "?": "open"}
    return {node: words[sign] for node, sign in zip(ABC, text, strict=False)}


@pytest.mark.parametrize(
    ("allowed", "so_far", "step"),
    [
        (Limits(5), "", Start(ABC)),
        (Limits(2), "", Start(("a", "b"))),
        (Limits(2), "+?", Wait()),
        (Limits(2), "++", Start(("c", "d"))),
        (Limits(2), "++++", Start(("e",))),
        (Limits(2), "+++++", Over()),
        (Limits(2), "++++?", Wait()),
        (Limits(2, 0), "+-", Stop("b is not done, and --max-fail allows 0")),
        (Limits(2, 1), "+-", Start(("c", "d"))),
        (Limits(2, 1), "--", Stop("a, b are not done, and --max-fail allows 1")),
        (Limits(2, 0), "-?", Wait()),
        (Limits(5, 0), "-----", Over()),
        (Limits(4, 1), "----", Stop("a, b, c and 1 more are not done, and --max-fail allows 1")),
        (Limits(5, 0, True), "", Start(("a",))),
        (Limits(5, 0, True), "?", Wait()),
        (Limits(5, 0, True), "+", Start(("b", "c", "d", "e"))),
        (Limits(5, 3, True), "-", Stop("the canary a is not done")),
        (Limits(2, 0, True), "+", Start(("b", "c"))),
    ],
)
def test_what_comes_next_follows_from_what_became_of_the_others(allowed: Limits, so_far: str, step: Next) -> None:
    assert following(ABC, allowed, seen(so_far)) == step


def test_nothing_to_do_is_over() -> None:
    assert following((), Limits(1), {}) == Over()


def test_the_batches_are_known_beforehand() -> None:
    assert planned(ABC, Limits(2, 0, True)) == [("a",), ("b", "c"), ("d", "e")]
    assert planned(ABC, Limits(9)) == [ABC]


counts = st.integers(0, 30)
nodes_of = counts.map(lambda count: tuple(f"n{number}" for number in range(count)))
allowed_of = st.builds(Limits, st.integers(1, 8), st.none() | st.integers(0, 5), st.booleans())


@given(nodes_of, allowed_of, st.data())
def test_whatever_becomes_of_the_nodes_the_rules_hold(
    nodes: tuple[str, ...], allowed: Limits, data: st.DataObject
) -> None:
    """A run in which the jobs end one by one, in any order and any way, with the master asking after each of them."""
    states: dict[str, Seen] = {}
    begun: list[str] = []
    while True:
        step = following(nodes, allowed, states)
        open_ = [node for node, state in states.items() if state == "open"]
        if isinstance(step, Start):
            bad = list(states.values()).count("bad")
            assert step.nodes and not open_, "a batch begins when the one before has ended"
            assert len(step.nodes) <= allowed.at_once
            assert allowed.max_fail is None or bad <= allowed.max_fail
            assert not allowed.canary or len(step.nodes) == 1 or states[nodes[0]] == "good"
            begun += step.nodes
            states |= dict.fromkeys(step.nodes, "open")
        elif isinstance(step, Wait):
            assert open_, "it waits for something"
            states[data.draw(st.sampled_from(open_))] = data.draw(st.sampled_from(["good", "bad"]))
        else:
            break
    assert not open_, "nobody is left behind"
    assert begun == list(nodes[: len(begun)]), "each node at most once, in order"
    assert isinstance(step, Stop) == (len(begun) < len(nodes))
