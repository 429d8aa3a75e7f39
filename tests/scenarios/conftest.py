"""Transcripts: what a rollout shows, line by line, kept as text beside the tests and compared.

`pytest tests/scenarios --regenerate` writes them anew; the difference is then read in the commit.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pgha.common.results import Status
from pgha.master.operations.progress import End, Gate, Note, Plan, Resource, Step
from pgha.master.simulation.simulated import World
from pgha.master.simulation.simulation import Simulation
from pgha.master.simulation.testing import three_nodes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the transcripts anew")


def told(lines: Iterable[Any]) -> str:
    """The lines of one operation as text. Seconds are virtual and count from its beginning."""
    lines = list(lines)
    since = lines[0].at
    rows = [f"{line.at - since:7.2f} s  {text}" for line in lines for text in _texts(line)]
    return "\n".join(rows) + "\n"


def _texts(line: Any) -> list[str]:
    match line:
        case Plan(nodes=nodes, order=order, impact=impact):
            counts = [f"{n.node} {n.role or '-'}: {len(n.changes)} changes in {_documents(n.results)}" for n in nodes]
            return ["plan", *(f"    {text}" for text in (*counts, *order, *impact))]
        case Step(step=step, node=node, state=state, detail=detail):
            return [" ".join(filter(None, (f"{step:<13}", node, state, detail and f"- {detail}"))).rstrip()]
        case Gate(step=step, gate=gate, state=state, reason=reason):
            return [f"{step:<13} gate {state}: {gate}" + (f" - {reason}" if reason else "")]
        case Resource(node=node, result=result) if result.status is Status.FAILED:
            return [f"    {node} {result.resource} failed: {result.reason}"]
        case Note(text=text):
            return [text]
        case End(exit=code, message=message):
            return [f"end, exit {code}: {message}"]
    return []


def _documents(results: Iterable[Any]) -> str:
    counted = Counter(r.document for r in results if r.status is Status.PLANNED for _ in r.changes)
    return ", ".join(f"{document} {count}" for document, count in counted.items()) or "nothing"


@pytest.fixture
def transcript(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`transcript("bare", text)` compares with bare.txt."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).with_name(f"{name}.txt")
        if request.config.getoption("--regenerate", default=False):
            path.write_text(text)
        assert path.exists(), f"no transcript {path.name} yet; write it: pytest tests/scenarios --regenerate"
        assert text.splitlines() == path.read_text().splitlines()

    return compare


@pytest.fixture
def bare() -> Simulation:
    """Three hosts with nothing but their minions."""
    return Simulation(World(three_nodes()))


@pytest.fixture(scope="session")
def _built_once() -> World:
    simulation = Simulation(World(three_nodes()))
    end = simulation.apply()[-1]
    assert end.exit == 0, end.message
    for node in simulation.world.nodes.values():
        node.jobs.clear()
        node.system.performed.clear()
    simulation.world.calls.clear()
    return simulation.world


@pytest.fixture
def built(_built_once: World) -> Simulation:
    """The cluster after its first apply; what was done until then is forgotten."""
    return Simulation(copy.deepcopy(_built_once), now=3600.0)


@pytest.fixture
def narrate() -> Callable[[Iterable[Any]], str]:
    return told
