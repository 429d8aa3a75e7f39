"""Functions through a real master and real minions on this very host; those that need no cluster."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Master, Said

PASSWORD = "a-password-in-an-argument"


def ended(master: Master, function: str, *args: str, **more: Any) -> dict[str, Any]:
    """How the function ended on n1, and in `out` and `err` what it said."""
    lines = master.ask("run", target="n1", function=function, args=list(args), **more)
    done = next(line for line in lines if line["kind"] == "node_done")
    said = [line for line in lines if line["kind"] == "output"]
    for name, stream in (("out", "stdout"), ("err", "stderr")):
        done[name] = "".join(line["text"] for line in said if line["stream"] == stream)
    return done


def run(master: Master, *argv: str) -> Said:
    return master.cli("run", "n1", *argv)


def test_facts_are_those_of_this_host(pair: Master) -> None:
    assert ended(pair, "facts")["data"]["hostname"] == os.uname().nodename


def test_the_file_system_of_the_root_is_shown(pair: Master) -> None:
    done = ended(pair, "disk")
    assert done["data"]["file_systems"]["/"]["total_bytes"] == shutil.disk_usage("/").total
    assert "  /  " in done["out"]


@pytest.fixture
def secretive() -> Iterator[subprocess.Popen[bytes]]:
    """A large process with a password in its arguments and in its environment."""
    script = "held = bytearray(b'x') * 400_000_000; print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, PASSWORD],
        env={**os.environ, "PGPASSWORD": PASSWORD},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_largest_processes_are_shown_without_their_arguments(
    pair: Master, secretive: subprocess.Popen[bytes]
) -> None:
    assert PASSWORD in Path(f"/proc/{secretive.pid}/cmdline").read_text()
    done = ended(pair, "processes", "100")
    mine = next(p for p in done["data"]["processes"] if p["pid"] == secretive.pid)
    assert mine["memory_bytes"] > 300_000_000
    assert mine["name"].startswith("python")
    assert PASSWORD not in str(done)


def test_an_installed_package_has_a_version(pair: Master) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("no Debian host")
    done = ended(pair, "package.versions", "dpkg", "no-such-package-here")
    version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "dpkg"], capture_output=True, text=True).stdout
    assert done["data"]["versions"] == {"dpkg": version, "no-such-package-here": None}
    assert done["exit_code"] == 1


def test_a_file_is_described_and_its_end_shown(pair: Master, tmp_path: Path) -> None:
    path = tmp_path.resolve() / "log"
    path.write_text("one\ntwo\nthree\n")
    assert ended(pair, "file.stat", str(path))["data"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run(pair, "file.tail", str(path), "2").out == "n1  two\nn1  three\n"


@pytest.mark.parametrize("letter", ["x", "é", "\x01", '"'])
def test_the_largest_answer_of_a_query_arrives_and_says_what_is_left_out(
    pair: Master, tmp_path: Path, letter: str
) -> None:
    path = tmp_path.resolve() / "log"
    path.write_text(f"{letter * 120}\n" * 1000 if letter == "é" else f"{letter * 250}\n" * 1000)
    done = ended(pair, "file.tail", str(path), "1000")
    assert done["state"] == "done", done["message"]
    lines = done["out"].splitlines()
    assert 100 < len(lines) < 1000
    assert set(map(len, lines)) == {len(lines[0])}
    left = path.stat().st_size - len("".join(f"{line}\n" for line in lines).encode())
    assert f"{left} more bytes are left out" in done["err"]


def test_the_minions_own_key_does_not_leave_by_a_file_function(pair: Master) -> None:
    key = pair.minions["n1"].root / "etc/pgha/pki/minion.key"
    assert key.exists()
    for function in ("file.stat", "file.tail", "file.get"):
        assert "not for file functions" in ended(pair, function, str(key))["message"]
        assert "symbolic link" in ended(pair, function, str(_linked_to(key)))["message"]


def _linked_to(key: Path) -> Path:
    """The key by another way, through a link that was planted beside pgha's folder."""
    link = key.parents[3] / "innocent"
    if not link.is_symlink():
        link.symlink_to(key.parent)
    return link / key.name


def test_an_argument_that_is_an_option_of_a_program_is_refused_with_the_synopsis(pair: Master) -> None:
    for function, word in (
        ("service.stop", "--no-block"),
        ("journal", "--file=/etc/shadow"),
        ("package.upgrade", "-o"),
        ("file.tail", "/etc/../etc/shadow"),
        ("postgres.query", ""),
    ):
        done = ended(pair, function, word)
        assert done["state"] == "failed"
        assert f"it is called as: {function} " in done["message"]


def test_a_file_goes_there_and_comes_back_byte_by_byte(pair: Master, tmp_path: Path) -> None:
    content, sent, there = os.urandom(300_000), tmp_path / "sent", tmp_path.resolve() / "there"
    sent.write_bytes(content)
    said = run(pair, "file.push", str(there), "mode=0600", "--file", str(sent))
    assert said.code == 0, said.text
    assert there.read_bytes() == content
    said = run(pair, "file.get", str(there), "--into", str(tmp_path / "back"))
    assert said.code == 0, said.text
    assert (tmp_path / "back/n1/there").read_bytes() == content
