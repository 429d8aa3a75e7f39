"""The file functions in a temporary folder: whole or not at all, and never out of the path that was named."""

from __future__ import annotations

import base64
import getpass
import grp
import hashlib
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest
from pgha.common.errors import ActionFailed, HostError, PghaError, UserError
from pgha.common.results import Outcome
from pgha.minion.functions import Blob, Call, Doors, call, files
from pgha.states.testing import FakeSystem

ME = getpass.getuser()
GROUP = grp.getgrgid(os.getgid()).gr_name
READERS = ("file.get", "file.stat", "file.tail")


@dataclass
class Caller:
    """`content` is what the master sends; `broken` breaks the transfer after its first half."""

    content: bytes = b"new\n"
    broken: bool = False
    cancelled: bool = False
    said: list[tuple[str, str]] = field(default_factory=list)
    fetched: int = 0

    def __call__(self, function: str, *arguments: str | Path, size: int | None = None) -> Outcome:
        self.said.clear()
        blob = None
        if function == "file.push":
            blob = Blob(
                sha256=hashlib.sha256(self.content).hexdigest(), size=len(self.content) if size is None else size
            )
        request = Call(function=function, arguments=tuple(map(str, arguments)), blob=blob)
        return call(
            request, Doors(FakeSystem(), lambda *said: self.said.append(said), lambda: self.cancelled, self.fetch)
        )

    def fetch(self, sha256: str, size: int, file: BinaryIO) -> None:
        self.fetched += 1
        file.write(self.content[: len(self.content) // 2] if self.broken else self.content)
        if self.broken:
            raise HostError("the master went away")

    @property
    def text(self) -> str:
        return "".join(text for stream, text in self.said if stream == "stdout")

    @property
    def brought(self) -> bytes:
        return b"".join(base64.b64decode(text, validate=True) for stream, text in self.said if stream == "bytes")


@pytest.fixture
def run() -> Caller:
    return Caller()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_arrives_with_owner_and_mode(run: Caller, folder: Path) -> None:
    run.content = bytes(range(256)) * 5000
    outcome = run("file.push", folder / "a", "mode=0640", f"owner={ME}", f"group={GROUP}")
    assert outcome.ok
    assert (folder / "a").read_bytes() == run.content
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o640
    assert (folder / "a").owner() == ME
    assert outcome.data["sha256"] == hashlib.sha256(run.content).hexdigest()
    assert names(folder) == ["a"]


def test_what_is_replaced_gives_its_mode_to_the_new_file(run: Caller, folder: Path) -> None:
    (folder / "a").write_text("old\n")
    (folder / "a").chmod(0o600)
    assert run("file.push", folder / "a").ok
    assert (folder / "a").read_text() == "new\n"
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600


def test_a_file_that_runs_as_its_owner_does_not_come_out_of_a_push(run: Caller, folder: Path) -> None:
    (folder / "a").write_text("old\n")
    (folder / "a").chmod(0o4755)
    assert run("file.push", folder / "a").ok
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o755
    with pytest.raises(UserError, match="mode="):
        run("file.push", folder / "a", "mode=4755")


def test_a_transfer_that_breaks_leaves_the_old_file_and_nothing_beside_it(run: Caller, folder: Path) -> None:
    (folder / "a").write_text("old\n")
    run.broken = True
    with pytest.raises(HostError, match="went away"):
        run("file.push", folder / "a")
    run.broken, run.cancelled = False, True
    with pytest.raises(ActionFailed, match="old one is untouched"):
        run("file.push", folder / "a")
    run.cancelled = False
    with pytest.raises(ActionFailed, match="old one is untouched"):
        run("file.push", folder / "a", size=3)
    assert (folder / "a").read_text() == "old\n"
    assert names(folder) == ["a"]


def test_a_new_file_is_nobodys_to_see_before_it_is_whole(folder: Path) -> None:
    class Curious(Caller):
        def fetch(self, sha256: str, size: int, file: BinaryIO) -> None:
            modes.extend(stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir())
            super().fetch(sha256, size, file)

    modes: list[int] = []
    assert Curious()("file.push", folder / "a", "mode=0644").ok
    assert modes == [0o600]


@pytest.mark.parametrize(
    "words",
    [
        ("mode=999",),
        ("mode=",),
        ("mode=0644", "mode=0600"),
        ("owner=-x",),
        ("group=a b",),
        ("check=rm",),
        ("x",),
        ("-f",),
    ],
)
def test_an_option_that_is_not_known_is_refused(run: Caller, folder: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"file\.push PATH \[mode=0644\]"):
        run("file.push", folder / "a", *words)
    assert names(folder) == [] and run.fetched == 0


def test_nothing_is_fetched_for_a_user_that_is_not_there(run: Caller, folder: Path) -> None:
    with pytest.raises(ActionFailed, match="no user nobody-of-that-name"):
        run("file.push", folder / "a", "owner=nobody-of-that-name")
    assert run.fetched == 0


def test_a_push_without_a_file_is_refused(folder: Path) -> None:
    request = Call(function="file.push", arguments=(str(folder / "a"),))
    with pytest.raises(UserError, match="no file to push"):
        call(request, Doors(FakeSystem(), lambda *said: None, lambda: False, Caller().fetch))


PATHS = [
    "",
    "a",
    "./a",
    "../a",
    "/",
    "//etc/hostname",
    "/etc/../etc/hostname",
    "/etc/./hostname",
    "/etc//hostname",
    "/etc/hostname/",
    "/etc/hostname/..",
    "-rf",
    "~/a",
    "$HOME/a",
    "/etc/host\nname",
    "/etc/host\tname",
    "/etc/\x1b[2J",
    "/etc/\u202ecod",
    "/" + "x" * 2000,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["file.push", *READERS])
def test_only_a_path_in_its_plainest_form_is_taken(run: Caller, name: str, path: str) -> None:
    with pytest.raises(UserError, match="plainest form"):
        run(name, path)
    assert run.fetched == 0


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/environ",
        "/proc/self/root/etc/hostname",
        "/proc",
        "/sys/power/state",
        "/dev/sda",
        "/dev/shm/x",
        "/etc/pgha/pki/minion.key",
        "/etc/pgha",
        "/var/lib/pgha/journal.db",
        "/run/pgha/admin.sock",
    ],
)
@pytest.mark.parametrize("name", ["file.push", *READERS])
def test_what_is_the_kernels_or_pghas_own_is_not_reached(run: Caller, name: str, path: str) -> None:
    with pytest.raises(UserError, match="not for file functions"):
        run(name, path)


@pytest.mark.parametrize("name", ["file.push", *READERS])
def test_the_place_where_pgha_lives_is_barred_wherever_it_is(
    run: Caller, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHA_ROOT", str(folder))
    (folder / "etc/pgha/pki").mkdir(parents=True)
    (folder / "etc/pgha/pki/minion.key").write_text("secret")
    with pytest.raises(UserError, match="not for file functions"):
        run(name, folder / "etc/pgha/pki/minion.key")
    assert run("file.stat", folder / "etc").ok


@pytest.fixture
def linked(folder: Path) -> Path:
    """A folder with links that somebody planted: one to a folder, one to a file, one to nothing."""
    (folder / "real").mkdir()
    (folder / "real/secret").write_text("secret\n")
    (folder / "to-folder").symlink_to("real")
    (folder / "to-file").symlink_to("real/secret")
    (folder / "to-nothing").symlink_to("/nowhere/at/all")
    return folder


@pytest.mark.parametrize("path", ["to-folder/secret", "to-folder/new", "to-file", "to-nothing"])
def test_a_push_goes_through_no_link(run: Caller, linked: Path, path: str) -> None:
    with pytest.raises(ActionFailed, match=r"symlink|symbolic link"):
        run("file.push", linked / path)
    assert names(linked / "real") == ["secret"]
    assert (linked / "real/secret").read_text() == "secret\n"
    assert run.fetched == 0


@pytest.mark.parametrize("path", ["to-folder/secret", "to-file", "to-nothing"])
@pytest.mark.parametrize("name", ["file.get", "file.tail"])
def test_nothing_is_read_through_a_link(run: Caller, linked: Path, name: str, path: str) -> None:
    with pytest.raises(ActionFailed, match=r"symlink|symbolic link"):
        run(name, linked / path)
    assert run.said == []


def test_who_named_a_link_is_told_the_place_itself(run: Caller, linked: Path) -> None:
    with pytest.raises(ActionFailed, match=f"name the place itself: {linked}/real/secret"):
        run("file.get", linked / "to-folder/secret")


def test_a_link_is_described_and_not_followed(run: Caller, linked: Path) -> None:
    data = run("file.stat", linked / "to-file").data
    assert (data["type"], data["target"]) == ("symlink", "real/secret")
    assert "sha256" not in data


@pytest.fixture
def odd(folder: Path) -> Callable[[str], Path]:
    """What is no file, by its kind."""

    def make(kind: str) -> Path:
        path = folder / kind
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as line:
                line.bind(str(path))
        else:
            path.mkdir()
        return path

    return make


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
@pytest.mark.parametrize("name", ["file.push", "file.get", "file.tail"])
def test_what_is_no_file_is_neither_opened_nor_replaced(
    run: Caller, odd: Callable[[str], Path], name: str, kind: str
) -> None:
    path = odd(kind)
    with pytest.raises(ActionFailed, match="only a file is"):
        run(name, path)
    assert not path.is_file()


@pytest.mark.parametrize("name", ["file.push", "file.get", "file.tail"])
def test_what_is_not_there_is_told_with_its_name(run: Caller, folder: Path, name: str) -> None:
    with pytest.raises(ActionFailed, match=f"{folder}/no/such: No such file"):
        run(name, folder / "no/such")
    assert not run("file.stat", folder / "nothing").ok


def test_a_file_is_brought_byte_by_byte_in_small_pieces(run: Caller, folder: Path) -> None:
    content = os.urandom(100_001)
    (folder / "a").write_bytes(content)
    outcome = run("file.get", folder / "a")
    assert run.brought == content
    assert max(len(text) for _, text in run.said) <= 16 * 1024
    assert (outcome.data["size"], outcome.data["sha256"]) == (100_001, hashlib.sha256(content).hexdigest())


def test_an_empty_file_is_brought_too(run: Caller, folder: Path) -> None:
    (folder / "a").touch()
    assert run("file.get", folder / "a").data["size"] == 0


def test_a_file_that_is_too_large_is_refused_before_a_byte_of_it(run: Caller, folder: Path) -> None:
    with (folder / "a").open("wb") as file:
        file.truncate(files.GET_MAX + 1)
    with pytest.raises(ActionFailed, match="at most 16 MiB"):
        run("file.get", folder / "a")
    assert run.said == []


def test_a_transfer_ends_when_nobody_waits_for_it(run: Caller, folder: Path) -> None:
    (folder / "a").write_bytes(b"x" * 100_000)
    run.cancelled = True
    assert run("file.get", folder / "a").message == "cancelled"
    assert run.brought == b""


def test_a_file_is_described(run: Caller, folder: Path) -> None:
    (folder / "a").write_text("hello\n")
    (folder / "a").chmod(0o640)
    data = run("file.stat", folder / "a").data
    assert data.pop("mtime") == pytest.approx((folder / "a").stat().st_mtime)
    digest = hashlib.sha256(b"hello\n").hexdigest()
    assert data == {"type": "file", "mode": "0640", "owner": ME, "group": GROUP, "size": 6, "sha256": digest}


def test_a_tail_is_the_last_lines(run: Caller, folder: Path) -> None:
    (folder / "log").write_text("".join(f"line {n}\n" for n in range(100)))
    run("file.tail", folder / "log", "3")
    assert run.text == "line 97\nline 98\nline 99\n"
    run("file.tail", folder / "log")
    assert len(run.text.splitlines()) == 50
    (folder / "log").write_bytes(b"no end of line \xff")
    run("file.tail", folder / "log", "1000")
    assert run.text == "no end of line �"


def test_a_tail_of_a_huge_file_reads_its_end_alone(run: Caller, folder: Path) -> None:
    with (folder / "log").open("wb") as file:
        file.truncate(50 * 1024**3)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    run("file.tail", folder / "log", "1")
    assert run.text == "last\n"


@pytest.mark.parametrize("lines", ["0", "-1", "1001", "x", "1e3", "", " 5", "٣"])
def test_a_number_of_lines_is_a_number(run: Caller, lines: str) -> None:
    with pytest.raises(PghaError, match="from 1 to 1000"):
        run("file.tail", "/etc/hostname", lines)
