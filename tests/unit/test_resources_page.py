"""docs/reference/resources.md and the models say the same: every kind, every field, and examples that are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pgha.common import yamltext
from pgha.states import kinds
from pgha.states.kinds import KINDS, decode
from pgha.states.resource import Resource

PAGE = Path(kinds.__file__).parents[1] / "docs/reference/resources.md"
COMMON = set(Resource.model_fields) - {"document"}  # the catalog fills that in


def sections() -> dict[str, str]:
    """Kind -> its part of the page."""
    parts = re.split(r"^### `([a-z_]+)`$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> dict[str, str]:
    """Field -> its default as the table has it."""
    return dict(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| ([^|]*) \|", text, re.MULTILINE))


def examples() -> list[tuple[str, str]]:
    return [(kind, text) for kind, part in sections().items() for text in re.findall(r"```yaml\n(.*?)```", part, re.S)]


def test_every_kind_has_its_part_and_an_example() -> None:
    assert set(sections()) == set(KINDS)
    assert {kind for kind, _ in examples()} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_kind_is_in_its_table_and_none_else(kind: str) -> None:
    assert set(rows(sections()[kind])) == set(KINDS[kind].model_fields) - COMMON - {"document"}


def test_the_fields_of_all_kinds_stand_at_the_beginning() -> None:
    assert set(rows(PAGE.read_text().split("\n## ")[0])) == COMMON


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_of_the_table_are_those_of_the_model(kind: str) -> None:
    for name, told in rows(sections()[kind]).items():
        field = KINDS[kind].model_fields[name]
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        empty: dict[object, str] = {(): "[]", "": '""'}
        shown = empty.get(default) if isinstance(default, (str, tuple)) else None
        if isinstance(default, bool):
            shown = str(default).lower()
        elif name == "mode":
            shown = f"{default:04o}"
        elif isinstance(default, tuple) and default:
            shown = f"[{', '.join(default)}]"
        elif default is not None and shown is None:
            shown = str(default)
        assert told.strip() == (f"`{shown}`" if shown is not None else ""), name


@pytest.mark.parametrize(("kind", "text"), examples(), ids=lambda value: value.split("\n")[0][:40])
def test_an_example_is_a_resource_of_its_kind(kind: str, text: str) -> None:
    (resource,) = decode([yamltext.parse("resources.md", text).data])
    assert resource.kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_never_does_and_how_its_id_begins(kind: str) -> None:
    part = sections()[kind]
    assert re.search(r"^Bounds: [A-Z]", part, re.MULTILINE)
    assert f"\nId: `{kind}:" in part
