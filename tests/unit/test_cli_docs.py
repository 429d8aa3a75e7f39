"""The reference pages and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pgha.common.cluster import RTO_TIMERS, Cluster, Node
from pgha.common.settings import known_keys
from pgha.master.cli import exits
from pgha.master.cli.main import COMMANDS
from pgha.master.definition import inventory, rules, rules_backup

ROOT = Path(exits.__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
SECTIONS = [name for name in known_keys(Cluster, ()) if known_keys(Cluster, (name,))]


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def test_every_exit_code_is_documented_in_the_words_of_the_program() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page("exit-codes.md"), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exits.MEANING


def test_every_command_is_documented() -> None:
    documented = set(re.findall(r"`([a-z]+)[ `]", page("cli.md")))
    assert set(COMMANDS) <= documented


def test_every_top_level_key_is_documented() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", page("cluster-file.md").split("## `nodes")[0]))
    assert {*known_keys(Cluster, ()), "defaults"} <= documented


def test_every_field_of_a_node_is_documented() -> None:
    text = page("cluster-file.md").split("## `nodes.NAME`")[1].split("\n## ")[0]
    assert set(known_keys(Node, ())) - {"name"} <= set(re.findall(r"`([a-z_]+)`", text))


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "nodes"])
def test_every_key_of_a_section_is_documented(section: str) -> None:
    words = set(re.findall(r"[a-z0-9_]+", page("cluster-file.md")))
    assert set(known_keys(Cluster, (section,))) <= words


def test_the_timers_of_every_preset_are_documented_as_they_are() -> None:
    for preset, timers in RTO_TIMERS.items():
        row = f"| `{preset.value}` | {timers.ttl} | {timers.loop_wait} | {timers.retry_timeout} |"
        assert row in page("cluster-file.md")


def test_every_code_that_can_be_raised_is_documented_and_none_else() -> None:
    sources = [
        ROOT / "common/settings.py",
        ROOT / "common/yamltext.py",
        Path(inventory.__file__),
        Path(rules.__file__),
        Path(rules_backup.__file__),
    ]
    raised = {code for source in sources for code in re.findall(r'"(C\d{3})"', source.read_text())}
    assert set(re.findall(r"^\| (C\d{3}) \|", page("cluster-file.md"), re.MULTILINE)) == raised


def test_the_example_of_the_page_is_valid() -> None:
    text = page("cluster-file.md").split("```yaml\n")[1].split("```")[0]
    cluster, warnings = inventory.load("prod.yml", text)
    assert (cluster.name, warnings) == ("prod", [])
