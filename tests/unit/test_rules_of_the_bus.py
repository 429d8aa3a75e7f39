"""Rules that end whole classes of holes, held over the source itself: who breaks one has to say so here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pgha
import pytest
from pgha.common.cluster import Cluster
from pgha.common.errors import UserError
from pgha.common.functions import FUNCTIONS
from pgha.common.messages import FROM_MINION, FROM_STRANGER, OLDEST, TO_MINION, TO_STRANGER, VERSION
from pgha.common.names import is_cluster_name, is_node_name
from pgha.master.bus.blobs import Blobs
from pgha.master.setup import Settings
from pgha.master.verbs import VERBS
from pydantic import ValidationError

ROOT = Path(pgha.__file__).parent
LAYERS = ("common", "states", "master", "minion")
ON_DISK = {
    *("read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir", "rmdir", "rmtree", "rename", "touch"),
    *("symlink_to", "hardlink_to", "iterdir", "glob", "rglob", "mkstemp", "mkdtemp", "copyfile", "copytree", "chmod"),
    *("Path", "write_private", "load_or_create", "load_private"),
}


def sources(*layers: str) -> Iterator[tuple[str, ast.Module]]:
    for layer in layers or LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """(name as it is written, the call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def told_apart(file: str) -> set[str]:
    """The message types that a module tells apart."""
    tree = ast.parse((ROOT / file).read_text())
    known = {model.__name__ for model in (*FROM_MINION, *TO_MINION, *FROM_STRANGER, *TO_STRANGER)}
    found: set[str] = set()
    for name, call in calls(tree):
        if name == "isinstance":
            found |= {node.id for node in ast.walk(call.args[1]) if isinstance(node, ast.Name)}
    return found & known


# ---- no dispatch by name


def test_the_master_handles_exactly_the_messages_of_a_minion() -> None:
    assert told_apart("master/bus/hub.py") == {model.__name__ for model in FROM_MINION}


def test_a_minion_handles_exactly_the_messages_of_a_master() -> None:
    found = set().union(*(told_apart(f"minion/{file.name}") for file in (ROOT / "minion").glob("*.py")))
    assert {model.__name__ for model in TO_MINION} <= found
    assert found - {model.__name__ for model in TO_MINION} <= {"Enrolled", "Event"}, (
        "the answer at the door; what it sends"
    )


def test_at_the_door_there_is_one_message() -> None:
    assert told_apart("master/bus/enrol_desk.py") == {"Enrol"}


def test_what_the_daemon_can_be_asked_and_a_minion_can_run_are_tables() -> None:
    for name, (verb, _) in VERBS.items():
        assert callable(verb), name
        assert verb.__module__.startswith("pgha.master.verbs."), name
    assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", name) for name in (*VERBS, *FUNCTIONS))


def test_no_attribute_is_looked_up_by_a_name_that_came_from_elsewhere() -> None:
    """`getattr(x, name)` with a name that is no constant is how a message becomes a method."""
    allowed = {
        "common/cluster.py",  # settings of Patroni by the fixed list of their names
        "master/definition/rules.py",  # as above, and sections of the definition
        "master/simulation/testing.py",  # for tests
        "minion/functions/host.py",  # fields of a process, by a fixed list
    }
    found = set()
    for file, tree in sources():
        for name, call in calls(tree):
            if name in ("getattr", "setattr", "globals", "vars", "__import__", "operator.attrgetter", "import_module"):
                constant = len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
                if not constant and file not in allowed:
                    found.add(f"{file}:{call.lineno} {ast.unparse(call)}")
    assert found == set()


# ---- no word of the wire becomes a path


def test_who_reads_messages_opens_no_files_but_by_fixed_names() -> None:
    allowed = {
        "master/bus/blobs.py": "by a digest that was checked to be one; see the next test",
        "master/setup.py": "its own settings and key files; of the messages it takes the versions",
        "master/bus/rotation.py": "the two key files of the master",
        "common/signing.py": "the signing key",
        "minion/enrol.py": "/etc/machine-id",
        "minion/trust.py": "the key files of the minion",
    }
    found = {}
    for file, tree in sources("common", "master", "minion"):
        if not any(name.endswith("common.messages") or name == "messages" for name in imports(tree)):
            continue
        used = {name for name, _ in calls(tree) if name == "open" or name.rsplit(".", 1)[-1] in ON_DISK}
        if used and file not in allowed:
            found[file] = used
    assert found == {}


@pytest.mark.parametrize(
    "word",
    [
        "",
        ".",
        "..",
        "../x",
        "0" * 63,
        "0" * 65,
        "0" * 64 + "\n",
        "G" * 64,
        "A" * 64,
        "0" * 32 + "/" + "0" * 31,
        "\0" * 64,
    ],
)
def test_a_file_is_found_by_a_digest_or_not_at_all(tmp_path: Path, word: str) -> None:
    class Clear:
        def seal(self, data: bytes, context: bytes = b"") -> bytes:
            return data

        def open(self, sealed: bytes, context: bytes = b"") -> bytes:
            return sealed

    with pytest.raises(UserError, match="SHA-256"):
        Blobs(tmp_path / "blobs", Clear()).read(word, 0)


@pytest.mark.parametrize(
    "word", ["", ".", "..", "a/b", "/a", "a\n", "a\0", "-a", "a b", "A", "ä", "a" * 64, "~", "a.b"]
)
def test_a_name_that_could_lead_elsewhere_is_no_name(word: str) -> None:
    assert not is_node_name(word)
    assert not is_cluster_name(word)


def test_a_job_is_named_by_26_letters_and_digits() -> None:
    from pgha.common.messages import Accept

    for word in ("../" + "0" * 23, "0" * 25 + "\n", "0" * 27, "0" * 25 + "/", "0" * 26 + "\n"):
        with pytest.raises(ValidationError):
            Accept(jid=word, att=1)


# ---- data is data


def test_nothing_that_is_read_can_make_objects_or_run() -> None:
    banned = {
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "jsonpickle",
        "yaml",
        "jinja2",
        "mako",
        "xml.etree.ElementTree",
        "code",
    }
    for file, tree in sources():
        assert not imports(tree) & banned, file
        for name, call in calls(tree):
            assert name not in ("eval", "exec", "compile", "builtins.eval", "pickle.loads"), f"{file}:{call.lineno}"
            if name.rsplit(".", 1)[-1] == "YAML":
                typ = next((ast.unparse(k.value) for k in call.keywords if k.arg == "typ"), "'rt'")
                assert typ in ("'safe'", "'rt'"), f"{file}:{call.lineno}: {typ}"


def test_nothing_is_given_to_a_shell() -> None:
    for file, tree in sources():
        for name, call in calls(tree):
            where = f"{file}:{call.lineno} {name}"
            assert name not in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), where
            assert "subprocess_shell" not in name, where
            for keyword in call.keywords:
                shell = keyword.arg == "shell" and "subprocess" in name
                assert not (shell and ast.unparse(keyword.value) != "False"), where


def test_temporary_files_have_names_that_nobody_can_guess() -> None:
    for file, tree in sources():
        for name, call in calls(tree):
            assert not name.endswith("mktemp"), f"{file}:{call.lineno}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"/(var/)?tmp/[a-z]", node.value), f"{file}:{node.lineno} {node.value[:60]}"


# ---- versions, targets, secrets


def test_the_oldest_version_is_the_masters_decision_and_within_what_it_speaks() -> None:
    assert VERSION - OLDEST <= 1
    assert Settings().min_protocol == OLDEST
    for version in (OLDEST - 1, VERSION + 1):
        with pytest.raises(ValidationError):
            Settings(min_protocol=version)


def test_what_proves_something_is_compared_in_constant_time() -> None:
    """`==` tells by the time it takes how much of a guess was right."""
    telling = re.compile(r"\b(proof|hmac|passphrase|password|secret)\b")
    harmless = {
        ("states/", "password"),  # what PostgreSQL says a role has, and flags
    }
    found = set()
    for file, tree in sources("common", "master"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
                sides = [node.left, *node.comparators]
                if any(isinstance(side, ast.Constant) for side in sides):
                    continue
                text = " ".join(ast.unparse(side) for side in sides)
                if telling.search(text) and not any(file.startswith(a) and b in text for a, b in harmless):
                    found.add(f"{file}:{node.lineno} {ast.unparse(node)}")
    assert found == set()
    assert "hmac.compare_digest" in (ROOT / "master/bus/enrolment.py").read_text()


def test_a_field_that_holds_a_secret_is_not_printed() -> None:
    """It is a Secret, or left out of the repr, or its class prints itself another way."""
    telling = re.compile(r"^(secret|password|passphrase|private|token|private_key)$")
    found = set()
    for file, tree in sources("common", "master", "minion"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            own = any(isinstance(part, ast.FunctionDef) and part.name == "__repr__" for part in node.body)
            for part in node.body:
                if not isinstance(part, ast.AnnAssign) or not telling.match(ast.unparse(part.target)):
                    continue
                plain = re.match(r"(str|bytes)\b", ast.unparse(part.annotation))
                hidden = part.value is not None and "repr=False" in ast.unparse(part.value)
                if plain and not hidden and not own:
                    found.add(f"{file} {node.name}.{ast.unparse(part.target)}")
    assert found == set()


def test_a_cluster_definition_is_data_all_the_way_down() -> None:
    """Nothing in it names a module, a class or a template: its schema has no such field."""
    words = {"module", "class_", "template", "plugin", "import_", "eval"}
    seen: set[type] = set()

    def look(model: type) -> None:
        if model in seen or not hasattr(model, "model_fields"):
            return
        seen.add(model)
        for name, field in model.model_fields.items():
            assert name not in words, f"{model.__name__}.{name}"
            if isinstance(field.annotation, type):
                look(field.annotation)

    look(Cluster)
    assert seen
