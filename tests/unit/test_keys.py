"""Keys: made once, kept from others, and shown so that two people can compare them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from pgha.common.errors import UserError
from pgha.common.keys import (
    fingerprint,
    load_or_create,
    new_key_pair,
    public_from_text,
    public_text,
    rename,
    write_private,
)


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "pki/minion.key"
    first = load_or_create(path)
    assert load_or_create(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "minion.key"
    load_or_create(path)
    path.chmod(mode)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        load_or_create(path)


@pytest.mark.parametrize("text", ["", "hello", "a" * 51, "0" * 52, "a" * 104])
def test_a_file_that_holds_no_key_is_told_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "minion.key"
    write_private(path, text)
    with pytest.raises(UserError, match="does not hold a pgha key"):
        load_or_create(path)
    assert path.read_text() == text


def test_a_file_that_a_full_disk_did_not_take_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "minion.key"
    write_private(path, "before")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_private(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    write_private(path, "after")
    assert path.read_text() == "after"


def test_what_a_process_left_that_died_while_it_wrote_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "minion.key"
    (tmp_path / f".{path.name}.{os.getpid()}").write_text("half a k")
    write_private(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("change", ["written", "renamed"])
def test_a_file_is_forced_to_the_disk_with_the_folder_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, to, forced, fsync = tmp_path / "minion.key.next", tmp_path / "minion.key", list[str](), os.fsync
    write_private(path, "key")

    def told(handle: int) -> None:
        forced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", told)
    write_private(to, "key") if change == "written" else rename(path, to)
    assert to.read_text() == "key"
    assert forced[-1] == str(tmp_path)
    assert len(forced) == (2 if change == "written" else 1)


def test_the_public_key_survives_being_written_down() -> None:
    public = new_key_pair().public
    assert len(public_text(public)) == 52
    assert public_from_text(f" {public_text(public).upper()}\n") == public


@pytest.mark.parametrize("text", ["", "x", "a" * 51, "a" * 60, "1" * 52, "é" * 52])
def test_what_is_no_fingerprint_of_a_master_is_told(text: str) -> None:
    with pytest.raises(UserError, match="52 letters and digits"):
        public_from_text(text)


def test_fingerprints_differ_and_stay() -> None:
    one, two = new_key_pair().public, new_key_pair().public
    assert fingerprint(one) == fingerprint(one) != fingerprint(two)
    assert [len(group) for group in fingerprint(one).split(":")] == [4] * 8
    assert fingerprint(bytes(32)) == "d379:69a3:267d:2d3d:57ac:a0be:d4d3:9a3c"


def test_a_key_pair_is_never_printed_whole() -> None:
    pair = new_key_pair()
    assert repr(pair) == f"KeyPair({fingerprint(pair.public)})"
