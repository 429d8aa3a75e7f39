"""pgha itself in the image: what a node has after its packages were installed, and nothing configured.

Two layers, because they change at different speeds: `deps` is the virtualenv with what pyproject.toml asks for, `code`
is the wheel of this checkout. The wheels of both come from the host's pip, so that it alone knows how to reach an
index; they are installed by the node's own Python without a network.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .host import run
from .image import PYTHON, Cache, architecture, digest, run_in
from .plan import LabError

CHECKOUT = Path(__file__).resolve().parents[3]
SOURCES = ("common", "states", "minion", "master", "__init__.py", "pyproject.toml", "README.md")
UNIT = Path("minion/pgha-minion.service")
_GLIBC = range(17, 42)  # trixie has 2.41; pip wants every older tag by name
_INSTALL_DEPS = """
set -eu
python3 -m venv /opt/pgha
/opt/pgha/bin/pip install -q --no-index --find-links /mnt -r /mnt/requirements.txt
"""
_INSTALL_CODE = """
set -eu
/opt/pgha/bin/pip install -q --no-index --no-deps /mnt/*.whl
ln -s /opt/pgha/bin/pgha-minion /usr/bin/pgha-minion
if [ -e /mnt/pgha-minion.service ]; then install -m 0644 /mnt/pgha-minion.service /usr/lib/systemd/system/; fi
"""


def layers(cache: Cache, below: Sequence[Path]) -> list[Path]:
    """The layers of pgha on top of `below`, highest first.

    Raises: LabError when there is no checkout around the lab, or its wheel cannot be built.
    """
    if not (CHECKOUT / "pyproject.toml").exists():
        raise LabError(f"{CHECKOUT} is no checkout of pgha; run the lab from one, or with --without-pgha")
    wanted, backend = requirements((CHECKOUT / "pyproject.toml").read_text())
    deps = cache.layer("deps", [below[0].name, PYTHON, *wanted], lambda made: _make_deps(made, below, wanted))
    files = list(_files())
    hashes = [f"{path.relative_to(CHECKOUT)}:{digest([path.read_bytes().hex()])}" for path in files]
    code = cache.layer(
        "code", [deps.name, *hashes], lambda made: _make_code(made, [deps, *below], _builder(cache, backend))
    )
    return [code, deps]


def requirements(pyproject: str) -> tuple[list[str], list[str]]:
    """What the project needs to run, and what it needs to be built.

    Python 3.10 has no reader of TOML, and the lab needs nothing installed: this reads just these two lists of strings.
    Raises: LabError when one of them is not there.
    """
    found = []
    for table, key in (("project", "dependencies"), ("build-system", "requires")):
        body = re.search(rf"^\[{table}\]$(.*?)(?=^\[|\Z)", pyproject, re.M | re.S)
        listed = re.search(rf"^{key}\s*=\s*\[(.*?)\]\s*$", body[1], re.M | re.S) if body else None
        if listed is None:
            raise LabError(f"pyproject.toml has no list {table}.{key}")
        found.append(re.findall(r"""^\s*["']([^"'\n]+)["']|(?<=,)\s*["']([^"'\n]+)["']""", listed[1], re.M))
    dependencies, build = ([a or b for a, b in pairs] for pairs in found)
    return dependencies, build


def _files() -> Iterator[Path]:
    """The sources of the wheel, in a steady order."""
    for name in SOURCES:
        path = CHECKOUT / name
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in inside if p.is_file() and "__pycache__" not in p.parts)


def _pip() -> list[str]:
    """A pip of the host.

    Raises: LabError that says how to get one.
    """
    for python in (sys.executable, "/usr/bin/python3"):
        argv = [python, "-m", "pip"]
        if Path(python).exists() and run([*argv, "--version"], check=False).returncode == 0:
            return argv
    raise LabError(
        "no pip on this machine to fetch pgha's dependencies: `apt-get install python3-pip`, or `lab up --without-pgha`"
    )


def wheels(cache: Cache) -> Path:
    """A folder with the wheels that pgha needs on a node, for a node's Python. Raises: LabError."""
    wanted, _ = requirements((CHECKOUT / "pyproject.toml").read_text())
    return cache.layer("wheels", [PYTHON, architecture(), *wanted], lambda made: _fetch_wheels(made, wanted))


def _fetch_wheels(folder: Path, wanted: Sequence[str]) -> None:
    machine = architecture()
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms += [f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"]
    target = [f"--python-version={PYTHON}", "--implementation=cp", "--only-binary=:all:", *platforms]
    fetch = [*_pip(), "download", "-q", "-d", str(folder), *target, *wanted]
    _or_say("cannot fetch what pgha needs; check this machine's network and pip's index settings", fetch)


def _make_deps(made: Path, below: Sequence[Path], wanted: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _fetch_wheels(Path(folder), wanted)
        (Path(folder) / "requirements.txt").write_text("\n".join(wanted) + "\n")
        run_in(made, below, Path(folder), ["sh", "-c", _INSTALL_DEPS])


def _or_say(what: str, argv: Sequence[str]) -> None:
    try:
        run(argv, timeout_s=900)
    except LabError as error:
        raise LabError(f"{what}; `lab up --without-pgha` boots nodes without it.\n{error}") from None


def _builder(cache: Cache, backend: Sequence[str]) -> Path:
    """A folder with what builds the wheel: fetched once, where pip's own isolation fetches it at every build."""
    return cache.layer("builder", [sys.version, *backend], lambda made: _fetch_builder(made, backend))


def _fetch_builder(made: Path, backend: Sequence[str]) -> None:
    run([*_pip(), "install", "-q", "--target", str(made), *backend], timeout_s=600)


def _make_code(made: Path, below: Sequence[Path], builder: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        out.mkdir()
        for path in _files():  # setuptools writes beside the sources: never into the checkout
            target = source / path.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        python_path = {"PYTHONPATH": str(builder), "PYTHONDONTWRITEBYTECODE": "1"}
        environment = ["env", *(f"{key}={value}" for key, value in python_path.items())]
        build = [*_pip(), "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
        _or_say("cannot build the wheel of this checkout", [*environment, *build])
        if (source / UNIT).exists():
            shutil.copyfile(source / UNIT, out / UNIT.name)
        os.chmod(out, 0o755)  # noqa: PTH101
        run_in(made, below, out, ["sh", "-c", _INSTALL_CODE])
