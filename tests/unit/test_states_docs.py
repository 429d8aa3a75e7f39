"""The pages on states of your own tell the truth: their files compile, their package is found and builds."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pgha.common.secret import Secret
from pgha.master.operations.progress import Plan
from pgha.master.simulation.simulated import World
from pgha.master.simulation.simulation import Simulation
from pgha.master.simulation.testing import three_nodes
from pgha.master.userstates import python as userpython
from pgha.master.userstates import states as userstates
from pgha.master.userstates.folder import LASTING, discover, read
from pgha.minion import local
from pgha.states.document import Context
from pgha.states.placeholders import NAMES, SAMPLE
from pgha.states.resources.files import File
from pgha.states.statefile import KEYS
from pgha.states.system import UnitFacts

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs/tutorial/states-of-your-own.md").read_text()
REFERENCE = (ROOT / "docs/reference/states.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)


def greeting(folder: Path) -> userstates.UserStates:
    (folder / "greeting.yml").write_text(blocks(TUTORIAL, "yaml")[0])
    own = discover(folder)
    own.insist(())
    return own


@pytest.mark.parametrize("text", [*blocks(TUTORIAL, "yaml"), *blocks(REFERENCE, "yaml")])
def test_every_file_on_the_pages_is_right_and_builds(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.yml").write_text(text)
    assert len(read(tmp_path / "state.yml").build(SAMPLE, lambda name: Secret("x"))) == text.count("kind: ")


def test_the_file_of_the_tutorial_greets_with_the_nodes_own_names(
    tmp_path: Path, context_of: Callable[..., Context]
) -> None:
    own = greeting(tmp_path)
    chosen = userstates.UserStates(own.documents, {}, {"pg-node2": frozenset({"greeting"})})
    made = {r.id: r for r in userstates.compile(chosen, context_of("pg-node2")) if r.document == "greeting"}
    motd = made["file:/etc/motd"]
    assert isinstance(motd, File)
    assert motd.content == "pg-node2, a data node of prod in us-east\nPostgreSQL 17 on port 5432\n"
    assert list(made)[-1] == "service:systemd-journald"


def test_the_plan_of_the_tutorial_is_the_one_it_tells(tmp_path: Path) -> None:
    simulation = Simulation(World(three_nodes()))
    assert simulation.apply()[-1].exit == 0
    for node in simulation.world.nodes.values():
        journal = UnitFacts("loaded", "active", enabled="static", started_at=1.0)
        node.system.units["systemd-journald.service"] = copy.copy(journal)
    simulation.states = greeting(tmp_path)
    (plan,) = (line for line in simulation.plan() if isinstance(line, Plan))
    assert {node.node: node.change_count for node in plan.nodes} == {"pg-node1": 3, "pg-node2": 3, "witness-node": 0}
    assert plan.order[0] == "own: pg-node2, then pg-node1"
    assert f"`{plan.order[0]}`" in TUTORIAL
    assert simulation.apply()[-1].data["changed"] == 6
    assert simulation.apply()[-1].data["changed"] == 0


def test_the_package_of_the_tutorial_is_found_and_builds_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context_of: Callable[..., Context]
) -> None:
    (project,), (code,) = blocks(TUTORIAL, "toml"), blocks(TUTORIAL, "python")
    points = re.findall(r'^\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"$', project, re.M)
    assert [group for group, _, _ in points] == [userpython.GROUP]
    (module,) = re.findall(r'^py-modules = \["(\w+)"\]$', project, re.M)
    info = tmp_path / "acme_states-1.0.dist-info"
    info.mkdir()
    (tmp_path / f"{module}.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-states\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[{g}]\n{name} = {value}\n" for g, name, value in points))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        own = discover(tmp_path / "none", userpython.found())
        own.insist(())
        document = own.documents["neighbours"]
        assert isinstance(document, userpython.PythonDocument)
        (file,) = document.build(context_of("pg-node1"))
        assert document.build(context_of("witness-node")) == []
    finally:
        sys.modules.pop(module, None)
    assert isinstance(file, File)
    assert (file.path, file.content.splitlines()[0]) == ("/etc/neighbours", "pg-node2 10.77.2.12 us-east")


def test_the_last_file_of_the_tutorial_needs_no_master(tmp_path: Path) -> None:
    (tmp_path / "motd.yml").write_text(blocks(TUTORIAL, "yaml")[-1])
    (file,) = local.read(tmp_path / "motd.yml", "host1").resources
    assert isinstance(file, File)
    assert file.content == "This is host1.\n"


def test_every_name_in_braces_is_documented_as_it_is() -> None:
    rows = re.findall(r"^\| `\{([\w.]+)\}` \| (.+) \|$", REFERENCE, re.M)
    assert [(name, text.replace("`", "")) for name, text in rows] == list(NAMES.items())
    assert len(NAMES) == 7  # "there are seven"


def test_every_key_and_every_lasting_measure_is_documented() -> None:
    assert {*KEYS, *LASTING} <= set(re.findall(r"`([a-z]+)`", REFERENCE))


def test_every_code_of_a_mistake_is_documented_and_none_else() -> None:
    sources = [ROOT / "states/statefile.py", ROOT / "states/statefields.py"]
    sources += [ROOT / "master/userstates/folder.py", ROOT / "master/userstates/states.py"]
    raised = {code for source in sources for code in re.findall(r'"(S\d{3})"', source.read_text())}
    assert set(re.findall(r"^\| (S\d{3}) \|", REFERENCE, re.M)) == raised
