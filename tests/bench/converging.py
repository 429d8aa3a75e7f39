"""A process that brings files to what one JSON document wants: pgha's engine does it, or the plainest script.

    converging.py engine|script FOLDER PASSES  ->  one JSON line: {"first": [s], "again": [s, ...]}

FOLDER/order.json is what is wanted, as the master sends it. The first pass finds none of the files; the others find
all of them as they should be. Starting Python and its imports are not counted; reading the document is, for both.

Rules of the script, so that it does the same work: it compares owner, group, mode and content of every file and tells
each difference; it writes beside, sets owner and mode, syncs, renames, and syncs the folder. It looks up each name
once, before the first file.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgha.common.errors import HostError
from pgha.common.paths import Paths
from pgha.minion.host import Host
from pgha.minion.journal import Journal
from pgha.states.converge import converge
from pgha.states.kinds import encode, read_order
from pgha.states.resources.files import File

DOCUMENT = "bench"


def files(folder: Path, count: int, size: int = 1024) -> list[File]:
    """Files of that size in the folder, none like another."""
    owner, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    return [
        File(
            path=f"{folder}/{number:05}.conf",
            content=(f"# file {number}\n" + "option = value of it\n" * (size // 21 + 1))[: size - 1] + "\n",
            owner=owner,
            group=group,
            mode=0o640,
            document=DOCUMENT,
        )
        for number in range(count)
    ]


def order(folder: Path, count: int) -> bytes:
    """As a job has it."""
    document = {"documents": [DOCUMENT], "resources": encode(files(folder, count))}
    return json.dumps(document, separators=(",", ":")).encode()


def engine(folder: Path, document: bytes) -> Callable[[], int]:
    """One pass; how many were changed. The debts are those of a real journal, as on a minion."""

    def refuse(*_: object) -> Any:
        raise HostError("there is no master here")

    paths = Paths(folder)
    paths.state.mkdir(parents=True)
    journal, host = Journal(paths.state / "journal.db"), Host(refuse, refuse, paths)

    def once() -> int:
        results = [r.status.value for r in converge(read_order(document).resources, host, journal)]
        assert set(results) <= {"changed", "unchanged"}, results
        return results.count("changed")

    return once


def script(folder: Path, document: bytes) -> Callable[[], int]:
    def once() -> int:
        changed = 0
        ids: dict[tuple[str, str], tuple[int, int]] = {}
        for want in json.loads(document)["resources"]:
            names = want["owner"], want["group"]
            if names not in ids:
                ids[names] = pwd.getpwnam(names[0]).pw_uid, grp.getgrnam(names[1]).gr_gid
            data = want["content"].encode()
            if differences(want, data, *ids[names]):
                write(want, data, *ids[names])
                changed += 1
        return changed

    return once


def differences(want: dict[str, Any], data: bytes, uid: int, gid: int) -> list[str]:
    try:
        seen = os.lstat(want["path"])
        with open(want["path"], "rb") as file:
            there = file.read()
    except FileNotFoundError:
        return ["absent"]
    found = []
    if there != data:
        found.append("content")
    if (seen.st_uid, seen.st_gid) != (uid, gid):
        found.append("owner")
    if stat.S_IMODE(seen.st_mode) != want["mode"]:
        found.append("mode")
    return found


def write(want: dict[str, Any], data: bytes, uid: int, gid: int) -> None:
    folder = os.path.dirname(want["path"])  # noqa: PTH120 - the floor is as low as it can be
    fd, temporary = tempfile.mkstemp(dir=folder)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchown(fd, uid, gid)
        os.fchmod(fd, want["mode"])
        os.fsync(fd)
    os.rename(temporary, want["path"])  # noqa: PTH104
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(above)
    os.close(above)


def main() -> None:
    how, folder, passes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    document = (folder / "order.json").read_bytes()
    once = {"engine": engine, "script": script}[how](folder, document)
    taken = []
    for number in range(1 + passes):
        since = time.perf_counter()
        changed = once()
        taken.append(time.perf_counter() - since)
        assert (changed > 0) == (number == 0), f"pass {number} changed {changed} files"
    print(json.dumps({"first": taken[:1], "again": taken[1:]}))


if __name__ == "__main__":
    main()
