"""Documents of the user's own on the master: found or told why not, chosen for nodes, and never beside another one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pgha.common.errors import DefinitionError, UserError
from pgha.master.cli.main import cli
from pgha.master.simulation import usercheck
from pgha.master.simulation.testing import three_nodes
from pgha.master.userstates import python as userpython
from pgha.master.userstates import states as userstates
from pgha.master.userstates.folder import discover
from pgha.states.catalog import DOCUMENTS
from pgha.states.document import Context
from pgha.states.resources.files import File

MOTD = "schema: pgha/states/v1\ntarget: {target}\nresources:\n  - {{kind: file, path: {path}, content: x}}\n"


def motd(target: str = "all", path: str = "/etc/motd") -> str:
    return MOTD.format(target=target, path=path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The master's folder of states, for the command line, too."""
    monkeypatch.setenv("PGHA_ROOT", str(tmp_path))
    found = tmp_path / "etc/pgha/states"
    found.mkdir(parents=True)
    return found


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`package(code, name="acme_states:build")`: installed, as far as Python can tell."""
    site = tmp_path / "site"
    info = site / "acme_states-1.2.dist-info"
    info.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(site))

    def install(code: str, **points: str) -> None:
        (site / "acme_states.py").write_text(code)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-states\nVersion: 1.2\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[{userpython.GROUP}]\n{lines}")

    yield install
    sys.modules.pop("acme_states", None)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="pgha-master")


# ---- files


def test_files_are_found_by_their_name_and_others_are_left_alone(folder: Path) -> None:
    (folder / "motd.yml").write_text(motd())
    for name in (".motd.yml", "motd.yml~", "README", "motd.yml.bak"):
        (folder / name).write_text("not ours")
    own = discover(folder)
    assert (list(own.documents), dict(own.faults)) == (["motd"], {})


def test_where_there_is_no_folder_there_are_none(tmp_path: Path) -> None:
    assert discover(tmp_path / "states").names == ()


def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "states").write_text("a file")
    with pytest.raises(UserError, match="states cannot be read: Not a directory"):
        discover(tmp_path / "states")


@pytest.mark.parametrize(
    ("files", "name", "told"),
    [
        ({"motd.yaml": motd()}, "motd", "rename it to motd.yml"),
        ({"motd.yml": motd(), "motd.yaml": motd()}, "motd", "there is a document motd already"),
        ({"haproxy.yml": motd()}, "haproxy", "'haproxy' is a document of pgha's own"),
        ({"Motd.yml": motd()}, "Motd", "'Motd' cannot be the name of a document"),
        ({"motd.yml": "schema: x\n"}, "motd", "this pgha reads only the schema"),
        ({"motd.yml": "\t"}, "motd", "not valid YAML"),
    ],
)
def test_what_cannot_be_used_is_a_fault_with_its_name(
    folder: Path, files: dict[str, str], name: str, told: str
) -> None:
    for file, text in files.items():
        (folder / file).write_text(text)
    own = discover(folder)
    assert own.documents == {}
    assert told in str(own.faults[name])
    with pytest.raises(UserError):
        own.insist(())
    assert told in own.insist(("etcd",))[0]


# ---- targets


@pytest.mark.parametrize(
    ("target", "column", "told"),
    [
        ("role:replica and regoin:eu", 26, "unknown key 'regoin', did you mean region"),
        ("'role:replica and'", 26, "expected a name"),
        ("state:connected", 9, "only nodes that are connected are planned"),
        ("prod and lag>10MB", 18, "a document cannot ask for lag"),
        ("not disk > 80%", 13, "a document cannot ask for disk"),
    ],
)
def test_a_target_that_cannot_be_used_is_told_at_its_place(folder: Path, target: str, column: int, told: str) -> None:
    (folder / "motd.yml").write_text(motd(target))
    fault = discover(folder).faults["motd"]
    assert isinstance(fault, DefinitionError)
    (problem,) = fault.problems
    assert (problem.code, problem.line, problem.column) == ("S006", 2, column)
    assert told in problem.message


@pytest.mark.parametrize("target", ["all", "cpus>2 and ram>=1GB", "pgha=0.1", "tag:nofailover", "not role:leader"])
def test_a_target_may_ask_for_what_lasts_and_for_roles(folder: Path, target: str) -> None:
    (folder / "motd.yml").write_text(motd(target))
    assert discover(folder).faults == {}


@pytest.mark.parametrize(
    ("target", "moving"), [("role:leader", True), ("not role:replica,sync", True), ("role:data", False)]
)
def test_a_target_follows_a_role_of_the_moment_only_where_it_names_one(folder: Path, target: str, moving: bool) -> None:
    (folder / "motd.yml").write_text(motd(target))
    assert discover(folder).moves(()) == moving


# ---- Python


BUILD = """
from pgha.states.resources.files import File

def build(context):
    return [File(path="/etc/motd", content=context.node.name)]
"""


def test_a_function_of_an_installed_package_is_a_document(
    folder: Path, package: Callable[..., None], context_of: Callable[..., Context]
) -> None:
    package(BUILD, motd="acme_states:build")
    own = discover(folder, userpython.found())
    document = own.documents["motd"]
    assert document.path == "acme_states:build of acme-states 1.2"
    assert isinstance(document, userpython.PythonDocument)
    assert document.build(context_of()) == [File(path="/etc/motd", content="pg-node1", document="motd")]


@pytest.mark.parametrize(
    ("code", "value", "told"),
    [
        ("import no_such_module", "acme_states:build", "cannot be loaded: ModuleNotFoundError"),
        ("raise SystemExit(3)", "acme_states:build", "cannot be loaded: SystemExit: 3"),
        ("1 / 0", "acme_states:build", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("", "acme_states:build", "cannot be loaded: AttributeError"),
        ("build = 3", "acme_states:build", "is no function but int"),
        ("def (", "acme_states:build", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_package_that_does_not_load_is_a_fault_that_names_it(
    folder: Path, package: Callable[..., None], code: str, value: str, told: str
) -> None:
    package(code, motd=value)
    fault = str(discover(folder, userpython.found()).faults["motd"])
    assert "the document motd (acme_states:build of acme-states 1.2)" in fault
    assert told in fault


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('x')", "its build raised KeyError: 'x'"),
        ("raise SystemExit(1)", "its build raised SystemExit: 1"),
        ("return None", "its build returned NoneType, expected a list of resources"),
        ("return ['file:/a']", "item 1 that its build returned is no resource but str"),
        (
            "return [type('Own', (File,), {})(path='/a', content='')]",
            "item 1 that its build returned is no resource but Own",
        ),
    ],
)
def test_a_build_that_fails_or_returns_no_resources_is_told_with_the_node(
    context_of: Callable[..., Context], body: str, told: str
) -> None:
    made: dict[str, Callable[[Context], object]] = {}
    exec(f"from pgha.states.resources.files import File\ndef build(context):\n    {body}\n", made)
    document = userpython.PythonDocument("motd", "acme_states:build", made["build"])
    with pytest.raises(UserError, match="cannot be built for pg-node1") as error:
        document.build(context_of())
    assert told in str(error.value)


def test_two_documents_of_one_name_are_a_fault_that_names_both(folder: Path, package: Callable[..., None]) -> None:
    (folder / "motd.yml").write_text(motd())
    package(BUILD, motd="acme_states:build")
    own = discover(folder, userpython.found())
    assert own.documents == {}
    assert "acme_states:build of acme-states 1.2" in str(own.faults["motd"])
    assert str(folder / "motd.yml") in str(own.faults["motd"])


def test_an_entry_point_may_not_take_a_name_of_pghas(folder: Path) -> None:
    point = EntryPoint("etcd", "acme_states:build", userpython.GROUP)
    assert "'etcd' is a document of pgha's own" in str(discover(folder, [point]).faults["etcd"])


# ---- beside the built-in ones


def test_a_thing_that_python_wants_and_a_built_in_document_too_is_told_with_both(
    context_of: Callable[..., Context],
) -> None:
    wanted = File(path="/etc/haproxy/haproxy.cfg", content="x")
    document = userpython.PythonDocument("mine", "acme_states:build", lambda context: [wanted])
    own = userstates.UserStates({"mine": document}, {}, {"pg-node1": frozenset({"mine"})})
    with pytest.raises(UserError, match=r"haproxy\.cfg of mine is wanted by haproxy, too"):
        userstates.compile(own, context_of())


def test_a_requisite_of_python_that_is_nowhere_is_told_with_the_node(context_of: Callable[..., Context]) -> None:
    wanted = File(path="/etc/x", content="x", requires=("service:no",))
    document = userpython.PythonDocument("mine", "acme_states:build", lambda context: [wanted])
    own = userstates.UserStates({"mine": document}, {}, {"pg-node1": frozenset({"mine"})})
    with pytest.raises(UserError, match="requires service:no, which is in none of the documents of pg-node1"):
        userstates.compile(own, context_of())


def test_a_node_that_no_document_selects_gets_the_built_in_ones_only(
    folder: Path, context_of: Callable[..., Context]
) -> None:
    (folder / "motd.yml").write_text(motd())
    assert {r.document for r in userstates.compile(discover(folder), context_of())} == set(DOCUMENTS)


def test_what_two_files_of_yours_want_both_is_told(folder: Path) -> None:
    (folder / "a.yml").write_text(motd())
    (folder / "b.yml").write_text(motd())
    own = usercheck.check(discover(folder), [three_nodes()])
    assert "file:/etc/motd of b is wanted by a, too" in str(own.faults["b"])


def test_a_requisite_of_one_node_alone_is_no_mistake_before_a_plan(folder: Path) -> None:
    text = motd().replace("content: x", "content: x, requires: ['service:patroni.service']")
    (folder / "a.yml").write_text(text)
    assert usercheck.check(discover(folder), [three_nodes()]).faults == {}


# ---- the command line, without a daemon


def test_check_says_that_all_is_well(folder: Path) -> None:
    (folder / "motd.yml").write_text(motd())
    said = run("states", "check")
    assert (said.exit_code, said.stdout) == (0, f"{folder}/motd.yml: the document motd is valid.\n")


def test_check_shows_every_mistake_of_every_file_with_its_line_and_ends_with_2(folder: Path) -> None:
    (folder / "a.yml").write_text(motd("regoin:x"))
    (folder / "b.yml").write_text(motd(path="/etc/haproxy/haproxy.cfg"))
    (folder / "c.yml").write_text(motd())
    said = run("states", "check")
    assert said.exit_code == 2
    assert "a.yml:2:9  target: unknown key" in said.stderr
    assert "   2 | target: regoin:x" in said.stderr
    assert "b.yml:4:5  file:/etc/haproxy/haproxy.cfg of b is wanted by haproxy, too" in said.stderr
    assert said.stdout == f"{folder}/c.yml: the document c is valid.\n"


def test_check_takes_a_file_that_lies_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.yml").write_text(motd().replace("content: x", "content: x, requires: ['service:haprxy']"))
    (folder / "broken.yml").write_text("no")
    said = run("states", "check", str(tmp_path / "new.yml"), "--json")
    assert said.exit_code == 2
    (document,) = json.loads(said.stdout)["data"]["documents"]
    assert (document["name"], document["valid"]) == ("new", False)
    (problem,) = document["problems"]
    assert (problem["code"], problem["line"], problem["hint"]) == ("S003", 4, "did you mean 'service:haproxy'?")


def test_check_of_a_file_that_is_not_there_is_told(folder: Path) -> None:
    said = run("states", "check", str(folder / "none.yml"))
    assert said.exit_code == 2
    assert "none.yml does not exist" in said.stderr


def test_list_without_a_daemon_shows_what_lies_here_and_no_nodes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (folder / "motd.yml").write_text(motd("role:data"))
    (folder / "broken.yml").write_text("no")
    said = run("states", "list")
    assert said.exit_code == 0
    heads, broken, fine = (line.split() for line in said.stdout.splitlines())
    assert heads == ["NAME", "TARGET", "RESOURCES", "NODES", "FROM"]
    assert broken[0] == "broken"
    assert fine == ["motd", "role:data", "1", "-", f"{folder}/motd.yml"]
    assert "C004" in said.stderr
    assert "The master does not run here" in said.stderr


def test_show_needs_the_daemon(folder: Path) -> None:
    (folder.parent / "clusters").mkdir()
    nodes = "".join(f"  {name}: {{address: 192.0.2.{n}, region: {name}}}\n" for n, name in enumerate("abc", 1))
    text = "schema: pgha/v1\ncluster: prod\nentrypoint: db\naccess: {admin: [192.0.2.200/32]}\n"
    (folder.parent / "clusters/prod.yml").write_text(f"{text}nodes:\n{nodes}")
    assert run("states", "show", "motd", "prod").exit_code == 8
