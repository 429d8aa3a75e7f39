"""What holds the project together and what no module can check of itself: packaging, walls, a quick start."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("common", "states", "minion", "master")
OWNERS = {
    "subprocess": {"minion/host.py"},
    "zmq": {f"common/bus/{name}.py" for name in ("dialer", "options", "router", "zap")},
    "sqlite3": {"common/sqlite.py"},
}
"""Module -> the only files that import it. The lab and the tests are no part of the product."""


def sources() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level names of the absolute imports, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def listed_packages() -> set[str]:
    body = re.search(r"^packages = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert body is not None
    return set(re.findall(r'"([^"]+)"', body[1]))


def tracked_texts() -> Iterator[tuple[str, str]]:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"git cannot read this checkout: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            yield name, (ROOT / name).read_text(errors="replace")


def test_every_package_of_the_source_is_in_the_wheel() -> None:
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert listed_packages() == {"pgha", *(f"pgha.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in folders)}


def test_every_folder_with_code_is_a_package() -> None:
    assert [path for path in sources() if not (path.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("module", sorted(OWNERS))
def test_a_module_that_acts_has_one_room(module: str) -> None:
    importers = {str(path.relative_to(ROOT)) for path in sources() if module in imported(path)}
    assert importers == OWNERS[module]


def test_sources_import_each_other_relatively() -> None:
    assert [str(path) for path in sources() if "pgha" in imported(path)] == []


@pytest.mark.parametrize("module", ["pgha.master.cli.main", "pgha.minion.cli"])
def test_help_is_quick_because_it_imports_nothing_heavy(module: str) -> None:
    script = (
        f"import sys; sys.argv[1:] = ['--help']; from {module} import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({'pydantic', 'zmq', 'cryptography', 'sqlite3', 'msgpack', 'ruamel'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    home = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|tmp/v)/|\.pyenv|/opt/(?:pypi|wheels)")
    found = [
        f"{name}: {match[0]}"
        for name, text in tracked_texts()
        if name != "tests/unit/test_project.py"
        for match in home.finditer(text)
    ]
    assert found == []


def test_scripts_can_be_run() -> None:
    for name in (".ci/run", "packaging/lab/lab", "packaging/lab/demo"):
        mode = (ROOT / name).stat().st_mode
        assert mode & stat.S_IXUSR, f"{name} is not executable"


def test_the_lock_pins_every_dependency_exactly() -> None:
    lines = [line for line in (ROOT / "requirements-dev.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.match(r"^[a-z0-9-]+==[0-9.]+( ; .+)?$", line)] == []
    pinned = {line.split("==")[0] for line in lines}
    lists = re.findall(r"^(?:dependencies|dev) = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert len(lists) == 2
    wanted = {re.split(r"[<>=]", name)[0] for text in lists for name in re.findall(r'"([^"]+)"', text)}
    assert {name.replace(".", "-") for name in wanted} <= pinned


def test_ci_runs_what_the_readme_says() -> None:
    commands = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make test"]
    assert "\nmake test\n" in (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the wheel, built from a copy: setuptools writes beside the sources."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or newer; `make venv` has it")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "__init__.py", "py.typed"):
        shutil.copy(ROOT / name, source)
    for name in (*ROOMS, "tests", "packaging"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    argv = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PIP_NO_INPUT": "1"})
    assert done.returncode == 0, done.stderr
    return set(zipfile.ZipFile(next(folder.glob("*.whl"))).namelist())


def test_the_wheel_holds_all_of_the_product(wheel: set[str]) -> None:
    assert {f"pgha/{path.relative_to(ROOT)}" for path in sources()} <= wheel
    assert "pgha/py.typed" in wheel


def test_the_wheel_holds_nothing_but_the_product(wheel: set[str]) -> None:
    beside = {name for name in wheel if ".dist-info/" not in name and not name.startswith("pgha/")}
    assert beside == set()
    assert [name for name in wheel if name.startswith(("pgha/tests", "pgha/packaging", "pgha/docs"))] == []
