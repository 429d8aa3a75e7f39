"""The documents tell the truth: every command in them exists with those options, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pgha.common import messages
from pgha.common.paths import Paths
from pgha.common.results import ChangeView, Disruption, ResourceResult
from pgha.master import setup
from pgha.master.cli.main import cli
from pgha.master.operations.progress import NodePlan, Plan
from pgha.master.orchestration.stages import STAGES
from pgha.minion.cli import main as minion
from pgha.minion.settings import MinionPaths
from pgha.states.catalog import DOCUMENTS
from pgha.states.kinds import KINDS
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "packaging" / "lab"))

from labkit import cli as lab  # noqa: E402
from labkit import demo, plan  # noqa: E402
from labkit.lab import Lab  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS: dict[str, click.Command] = {"pgha-master": cli, "pgha-minion": minion}


def console_lines(text: str) -> Iterator[str]:
    for block in re.findall(r"^ *```console\n(.*?)^ *```", text, re.M | re.S):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def commands() -> list[tuple[str, str]]:
    """Every line that a reader is told to type, with its page."""
    return [(str(page.relative_to(ROOT)), line) for page in PAGES for line in console_lines(page.read_text())]


def parse(line: str) -> None:
    """Lets click read the line down to the last option, and runs nothing. Raises click.UsageError."""
    program, *words = shlex.split(line)
    command: click.Command = PROGRAMS[program]
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0]) if words else None
        if found is None:
            raise click.UsageError(f"no such command: {line}")
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if c[1].startswith(tuple(PROGRAMS))])
def test_a_command_in_the_documents_exists_with_its_options(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", ["pgha-master plan prod --no-such-option", "pgha-master no-such-command"])
def test_a_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if c[1].startswith("lab ")])
def test_an_order_to_the_lab_in_the_documents_exists(page: str, line: str) -> None:
    assert lab.parse(shlex.split(line)[1:]).order


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if c[1].startswith("make")])
def test_a_word_of_make_in_the_documents_exists(page: str, line: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert line.split()[1] in targets


def test_nothing_else_is_typed_than_what_a_bare_host_has() -> None:
    known = ("apt-get", "chown", "install", "lab", "ln", "make", "pgha-master", "pgha-minion", "python3", "systemctl")
    foreign = [c for c in commands() if not c[1].split()[0].startswith(("/opt/pgha/bin/", "useradd", *known))]
    assert foreign == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_page_stands_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    assert {page for page in (ROOT / "docs").rglob("*.md") if page != index} <= linked


def test_every_message_is_documented_and_none_else() -> None:
    page = (ROOT / "docs/reference/messages.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    groups = (messages.FROM_STRANGER, messages.TO_STRANGER, messages.FROM_MINION, messages.TO_MINION)
    assert set(re.findall(r"`([A-Z_]+)`", "".join(rows))) == {kind.type for group in groups for kind in group}


def test_every_document_stage_and_kind_is_documented() -> None:
    page = (ROOT / "docs/reference/documents.md").read_text()
    for name in (*DOCUMENTS, *(stage.name for stage in STAGES), *KINDS):
        assert f"`{name}`" in page, name
    for stage in STAGES:
        assert f"| `{stage.name}` | {', '.join(stage.documents)} | {stage.gate_name}".rstrip() in page


def test_the_files_of_master_and_minion_stand_where_the_page_says() -> None:
    page = (ROOT / "docs/reference/ports-and-files.md").read_text()
    paths = Paths(Path("/"))
    host = MinionPaths(paths)
    files = [setup.settings_path(paths), setup.master_key_path(paths), setup.curve_key_path(paths), paths.admin_socket]
    for path in (*files, host.settings, host.key, host.journal, host.local_journal, host.turn):
        assert f"`{path}`" in page, path
    assert f"| {setup.BUS_PORT} | master |" in page


def test_what_the_demo_says_to_try_next_can_be_typed() -> None:
    made = Lab("pgha", Path("/x/pgha"), Path("/y"), print)
    text = demo.try_next(made, demo.Master(Path("/x/pgha/master"), Path("/z/bin/pgha-master")), "pg-node1")
    lines = [line.split(" # ")[0] for line in text.splitlines()]
    for line in lines:
        if line.startswith("pgha-"):
            parse(line)
        elif line.startswith("lab "):
            assert lab.parse(shlex.split(line)[1:]).order
    assert sum(line.startswith(("pgha-", "lab ")) for line in lines) >= 5


def test_the_demos_definition_is_valid_without_a_warning() -> None:
    from pgha.master.definition import inventory

    nodes = plan.place(plan.default_nodes(3), 77)
    cluster, warnings = inventory.load("prod.yml", demo.definition(77, nodes))
    assert ([node.address for node in cluster.nodes], warnings) == ([node.address for node in nodes], [])


def test_of_a_plan_the_demo_shows_what_it_means_and_how_much_it_is() -> None:
    text = "Cluster prod\n\npg-node1  1 change\n  + file\n\nOrder    a -> b\nImpact   none\n\nPlan: 1 to change."
    assert demo.last_paragraph(text) == "Order    a -> b\nImpact   none\nPlan: 1 to change."


@pytest.mark.parametrize("model", [Plan, NodePlan, ResourceResult, ChangeView, Disruption])
def test_every_field_of_a_plan_as_json_is_described_and_no_other(model: type[BaseModel]) -> None:
    page = (ROOT / "docs/reference/plan-json.md").read_text()
    told = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `")))
    told |= set(Disruption.model_fields) if "`impact` (`none`" in page and "and `unit`" in page else set()
    assert set(model.model_fields) <= told
    known = {name for one in (Plan, NodePlan, ResourceResult, ChangeView, Disruption) for name in one.model_fields}
    assert told <= known
