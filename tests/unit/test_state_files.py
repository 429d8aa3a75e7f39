"""A state file of the user's: what it builds, and every way in which it can be wrong, each with its place."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pgha.common.errors import DefinitionError
from pgha.common.secret import Secret
from pgha.master.cli.screen import Look, render_problems
from pgha.states.claims import claims
from pgha.states.document import Context
from pgha.states.kinds import KINDS, decode, encode
from pgha.states.placeholders import NAMES, SAMPLE, fill, values_of
from pgha.states.resource import AnyResource
from pgha.states.resources.files import File
from pgha.states.resources.postgres import PostgresRole
from pgha.states.resources.service import Service
from pgha.states.statefile import load

HEAD = "schema: pgha/states/v1\nresources:\n"


def nobody(name: str) -> Secret | None:
    return None


def build(text: str, **values: str) -> list[AnyResource]:
    return load("motd.yml", text).build({**SAMPLE, **values}, lambda name: Secret(f"value of {name}"))


def wrong(text: str, path: str = "motd.yml") -> list[tuple[str, int, int]]:
    with pytest.raises(DefinitionError) as error:
        load(path, text)
    return [(p.code, p.line, p.column) for p in error.value.problems]


def told(text: str) -> str:
    with pytest.raises(DefinitionError) as error:
        load("motd.yml", text)
    return "\n".join(render_problems("motd.yml", error.value.source, error.value.problems, Look()))


# ---- what it builds


def test_resources_come_in_the_order_of_the_file_with_the_files_name_as_their_document() -> None:
    text = HEAD + (
        "  - kind: file\n    path: /etc/motd\n    content: |\n      of {node.name}\n"
        "  - kind: service\n    unit: chrony.service\n    watches: [file:/etc/motd]\n"
    )
    assert build(text) == [
        File(path="/etc/motd", content="of some-node\n", document="motd"),
        Service(unit="chrony.service", watches=("file:/etc/motd",), document="motd"),
    ]


def test_what_is_built_travels_to_a_minion_as_any_other_resource() -> None:
    resources = build(HEAD + "  - {kind: sysctl, name: vm.swappiness, value: '10'}\n  - {kind: absent, path: /etc/x}\n")
    assert decode(encode(resources)) == resources


@pytest.mark.parametrize("written", ["0640", '"0640"', "'0640'", "0o640", "&mode 0640"])
def test_a_mode_is_octal_as_everybody_writes_it(written: str) -> None:
    (built,) = build(HEAD + f"  - {{kind: file, path: /a, content: x, mode: {written}}}\n")
    assert isinstance(built, File)
    assert built.mode == 0o640


def test_a_secret_is_looked_up_by_its_name_and_never_written() -> None:
    role, file = build(
        HEAD + "  - {kind: postgres_role, role: app, password: 'secret:app/password'}\n"
        "  - {kind: file, path: /a, content: 'pw={{pw}}', secrets: {pw: 'secret:app/password'}}\n"
    )
    assert isinstance(role, PostgresRole)
    assert isinstance(file, File)
    assert role.password == file.secrets["pw"] == Secret("value of app/password")
    assert file.content == "pw={{pw}}"


def test_a_unit_may_be_named_with_or_without_its_suffix() -> None:
    text = (
        HEAD + "  - {kind: service, unit: a}\n  - {kind: file, path: /a, content: x, requires: ['service:a.service']}\n"
    )
    assert build(text)[1].requires == ("service:a",)


def test_a_number_may_come_from_a_name() -> None:
    (built,) = build(HEAD + "  - {kind: file, path: '/etc/{postgresql.version}/{node.name}', content: x}\n")
    assert built.id == "file:/etc/17/some-node"


def test_every_kind_can_be_written_as_far_as_its_fields_are_named() -> None:
    for kind in KINDS:
        assert f"unknown key 'nothing' in a resource of kind {kind}" in told(
            HEAD + f"  - {{kind: {kind}, nothing: 1}}\n"
        )


SECRET_FIELDS = [
    (kind, name, {"a": "hunter2"} if "dict" in str(field.annotation) else "hunter2")
    for kind, model in KINDS.items()
    for name, field in model.model_fields.items()
    if "Secret" in str(field.annotation)
]


def test_there_are_kinds_that_take_secrets() -> None:
    assert {("file", "secrets"), ("postgres_role", "password")} <= {(kind, name) for kind, name, _ in SECRET_FIELDS}


@pytest.mark.parametrize(("kind", "name", "value"), SECRET_FIELDS)
def test_no_kind_takes_a_secret_in_clear_text(kind: str, name: str, value: object) -> None:
    shown = told(HEAD + f"  - {{kind: {kind}, {name}: {json.dumps(value)}}}\n")
    assert "error[C040]" in shown
    assert "hunter2" not in shown


# ---- names in braces


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{node.name}", "some-node"),
        ("{cluster.name}:{postgresql.port}", "some-cluster:5432"),
        ("{{node.name}}", "{node.name}"),
        ("{{password}} {x} { node.name } {} {{}}", "{{password}} {x} { node.name } {} {{}}"),
        ('{"node": {"name": 1}}', '{"node": {"name": 1}}'),
        ("${node} $node.name {nodes.name}", "${node} $node.name {nodes.name}"),
    ],
)
def test_only_the_names_of_the_table_are_replaced(text: str, filled: str) -> None:
    assert fill(text, SAMPLE) == (filled, [])


def test_what_looks_like_one_of_the_names_and_is_none_is_missing_once() -> None:
    assert fill("{node.nmae} {node.nmae} {cluster.}", SAMPLE)[1] == ["node.nmae", "cluster."]


@pytest.mark.parametrize(("node", "role"), [("pg-node1", "data"), ("witness-node", "witness")])
def test_each_name_has_a_value_on_each_node(context_of: Callable[..., Context], node: str, role: str) -> None:
    context = context_of(node)
    values = values_of(context.cluster, context.node, context.facts)
    assert values.keys() == NAMES.keys() == SAMPLE.keys()
    assert (values["node.name"], values["node.role"], values["postgresql.version"]) == (node, role, "17")


# ---- what is wrong


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", [("C004", 0, 0)]),
        ("resources: [{kind: absent, path: /a}]\n", [("C003", 1, 1)]),
        ("schema: pgha/v1\nresources: [{kind: absent, path: /a}]\n", [("C006", 1, 9)]),
        ("schema: pgha/states/v1\n", [("C003", 1, 1)]),
        ("schema: pgha/states/v1\nresources: []\n", [("C002", 2, 12)]),
        ("schema: pgha/states/v1\nresources: {kind: absent}\n", [("C002", 2, 12)]),
        (HEAD + "  - {kind: absent, path: /a}\ntarget: 5\n", [("C002", 4, 9)]),
        (HEAD + "  - {kind: absent, path: /a}\ntraget: x\n", [("C001", 4, 1)]),
        (HEAD + "  - text\n", [("C002", 3, 5)]),
        (HEAD + "  - {path: /a}\n", [("C003", 3, 5)]),
        (HEAD + "  - {kind: fiel, path: /a}\n", [("S001", 3, 12)]),
        (HEAD + "  - {kind: [a], path: /a}\n", [("S001", 3, 12)]),
        (HEAD + "  - {kind: absent}\n", [("C003", 3, 5)]),
        (HEAD + "  - {kind: absent, path: /a, tere: true}\n", [("C001", 3, 30)]),
        (HEAD + "  - {kind: absent, path: /a, document: etcd}\n", [("C001", 3, 30)]),
        (HEAD + "  - {kind: absent, path: a}\n", [("C002", 3, 26)]),
        (HEAD + "  - {kind: absent, path: /a, tree: maybe}\n", [("C002", 3, 36)]),
        (HEAD + "  - {kind: absent, path: /a, requires: file:/a}\n", [("C002", 3, 40)]),
        (HEAD + "  - {kind: directory, path: /a, mode: 755}\n", [("C002", 3, 39)]),
        (HEAD + "  - {kind: directory, path: /a, mode: rwx}\n", [("C002", 3, 39)]),
        (HEAD + "  - {kind: absent, path: '/{node.nmae}'}\n", [("S005", 3, 28)]),
        (HEAD + "  - kind: file\n    path: /a\n    content: |\n      1\n      2 {node.x}\n", [("S005", 7, 9)]),
        (HEAD + "  - {kind: postgres_role, role: a, password: hunter2}\n", [("C040", 3, 46)]),
        (HEAD + "  - {kind: postgres_role, role: a, password: 12}\n", [("C040", 3, 46)]),
        (HEAD + "  - {kind: file, path: /a, content: x, secrets: {p: hunter2}}\n", [("C040", 3, 53)]),
        (HEAD + "  - {kind: absent, path: /a}\n  - {kind: absent, path: /a}\n", [("S002", 4, 5)]),
        (HEAD + "  - {kind: absent, path: /a}\n  - {kind: directory, path: /a/}\n", [("S002", 4, 5)]),
        (HEAD + "  - {kind: service, unit: a}\n  - {kind: service, unit: a.service}\n", [("S002", 4, 5)]),
        (HEAD + "  - {kind: absent, path: /a, requires: ['fiel:/b']}\n", [("S003", 3, 41)]),
        (HEAD + "  - {kind: absent, path: /a, watches: [b]}\n", [("S003", 3, 40)]),
        (HEAD + "  - {kind: absent, path: /a, requires: ['absent:/a']}\n", [("S004", 2, 1)]),
    ],
)
def test_a_mistake_is_told_with_its_code_and_place(text: str, problems: list[tuple[str, int, int]]) -> None:
    assert wrong(text) == problems


def test_all_mistakes_are_told_at_once() -> None:
    text = (
        "schema: x\ntraget: a\n"
        + "resources:\n  - {kind: fiel}\n  - {kind: absent, pth: /a}\n  - {kind: absent, path: b}\n"
    )
    assert [code for code, _, _ in wrong(text)] == ["C006", "C001", "S001", "C003", "C001", "C002"]


@pytest.mark.parametrize("name", ["Motd.yml", "9.yml", "a b.yml", "mo.td.yml", f"{'a' * 41}.yml"])
def test_a_file_whose_name_can_be_no_document_is_told(name: str) -> None:
    assert wrong(HEAD + "  - {kind: absent, path: /a}\n", f"/etc/pgha/states/{name}") == [("S007", 0, 0)]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (HEAD + "  - {kind: fiel}\n", "did you mean 'file'?"),
        (HEAD + "  - {kind: absent, pth: /a}\n", "did you mean 'path'?"),
        (HEAD + "  - {kind: absent, path: '/{cluster.nam}'}\n", "did you mean 'cluster.name'?"),
        (HEAD + "  - {kind: absent, path: /a, requires: ['servcie:x']}\n", "did you mean 'service'?"),
        (HEAD + "  - {kind: absent, path: /a, document: x}\n", "the document is this file: remove it"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(text: str, hint: str) -> None:
    assert hint in told(text)


def test_what_a_kind_has_against_a_value_is_told_in_its_own_words() -> None:
    shown = told(HEAD + "  - {kind: postgres_role, role: a, password: 'secret:a', attributes: [LOGON]}\n")
    assert "resources[1].attributes: 'LOGON' is no role attribute pgha knows; known: LOGIN" in shown


def test_a_circle_is_named_whole() -> None:
    text = HEAD + "".join(
        f"  - {{kind: absent, path: /{a}, requires: ['absent:/{b}']}}\n" for a, b in ("ab", "bc", "ca")
    )
    assert "absent:/a -> absent:/b -> absent:/c -> absent:/a" in told(text)


def test_a_password_in_clear_is_not_shown_where_it_is_told() -> None:
    shown = told(HEAD + "  - {kind: postgres_role, role: a, password: hunter2}\n")
    assert "hunter2" not in shown
    assert "password: ********" in shown


def test_a_secret_that_is_not_there_is_told_with_how_to_set_it() -> None:
    file = load("motd.yml", HEAD + "  - {kind: postgres_role, role: a, password: 'secret:app/pw'}\n")
    with pytest.raises(DefinitionError) as error:
        file.build({**SAMPLE, "cluster.name": "prod"}, nobody)
    (problem,) = error.value.problems
    assert (problem.code, problem.line) == ("S009", 3)
    assert "pgha-master secrets set prod/app/pw" in problem.hint


def test_where_there_is_no_master_its_names_are_told_with_their_place() -> None:
    file = load("motd.yml", HEAD + "  - {kind: absent, path: '/{node.name}{cluster.name}'}\n")
    with pytest.raises(DefinitionError) as error:
        file.build({**dict.fromkeys(NAMES), "node.name": "a"}, nobody)
    assert [(p.code, p.line, p.column) for p in error.value.problems] == [("S009", 3, 39)]


def test_a_requisite_that_is_nowhere_is_told_at_its_place_with_the_nearest() -> None:
    file = load("motd.yml", HEAD + "  - {kind: absent, path: /a, requires: ['service:haprxy']}\n")
    (problem,) = file.unknown(file.build(SAMPLE, nobody), {"service:haproxy", "absent:/a"}, "of pg-node1")
    assert (problem.code, problem.line, problem.column) == ("S003", 3, 41)
    assert problem.hint == "did you mean 'service:haproxy'?"


# ---- what is one thing


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("{kind: file, path: /a, content: x}", "{kind: absent, path: /a}", True),
        ("{kind: file, path: /a/b, content: x}", "{kind: symlink, path: /a//b, target: /c}", True),
        ("{kind: file, path: /a, content: x}", "{kind: block, path: /a, name: n, content: x}", False),
        ("{kind: service, unit: a}", "{kind: service, unit: a.service}", True),
        (
            "{kind: drop_in, unit: a.service, name: x, content: '[Service]'}",
            "{kind: file, path: /etc/systemd/system/a.service.d/x.conf, content: y}",
            True,
        ),
        ("{kind: service, unit: a}", "{kind: service, unit: a.timer}", False),
    ],
)
def test_a_thing_of_a_host_is_one_however_it_is_spelled(one: str, other: str, same: bool) -> None:
    (first,), (second,) = build(f"{HEAD}  - {one}\n"), build(f"{HEAD}  - {other}\n")
    assert bool({*claims(first)} & {*claims(second)}) == same
