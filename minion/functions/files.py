"""Files of this host for `file.push`, `file.get`, `file.stat` and `file.tail`: one path, never more than was meant.

Rules:
1. A path is absolute and in its plainest form: no `..`, no `//`, no control characters.
2. No symbolic link is followed, not even above the file: every folder on the way is opened by itself. A link planted
   by somebody else therefore leads nowhere.
3. What is the kernel's or pgha's own (keys, journal) is not touched and not read.
4. A file is replaced whole or not at all: made beside the old one, synced, renamed.
"""

from __future__ import annotations

import base64
import grp
import hashlib
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ...common.errors import ActionFailed, UserError
from ...common.paths import Paths
from ...common.results import Outcome
from .request import Blob, Call, Doors, arguments, number, options, wrong

GET_MAX = 16 * 1024 * 1024
HASHED_MAX = 64 * 1024 * 1024
CHUNK = 12 * 1024  # 16 KiB as base64
LINES, LINES_MAX = 50, 1000
_TAIL_BYTES = 256 * 1024
_BARRED = ("/proc", "/sys", "/dev", "/etc/pgha", "/var/lib/pgha", "/run/pgha")
_OPTIONS = {"mode": r"0?[0-7]{3}", "owner": r"[A-Za-z0-9_][A-Za-z0-9._-]*", "group": r"[A-Za-z0-9_][A-Za-z0-9._-]*"}
_KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink"))


def push(call: Call, doors: Doors) -> Outcome:
    given = arguments(call, 1, 4)
    path, asked = _path(call, given[0]), options(call, given[1:], _OPTIONS)
    if call.blob is None:
        raise wrong(call, "there is no file to push")
    with _told("write", path), _folder(path) as folder:
        name = _name(path)
        there = _stat(folder, name)
        if there and not stat.S_ISREG(there.st_mode):
            raise ActionFailed(f"cannot write {path}: it is a {_kind(there)}, and only a file is replaced")
        uid = _uid(asked["owner"]) if "owner" in asked else there.st_uid if there else 0
        gid = _gid(asked["group"]) if "group" in asked else there.st_gid if there else 0
        mode = int(asked["mode"], 8) if "mode" in asked else there.st_mode & 0o777 if there else 0o644
        _replace(folder, name, call.blob, doors, (uid, gid, mode))
    doors.output("stdout", f"{path}: {call.blob.size} bytes\n")
    data: dict[str, object] = {"path": path, "size": call.blob.size, "sha256": call.blob.sha256}
    return Outcome(ok=True, exit_code=0, data=data)


def _replace(folder: int, name: str, blob: Blob, doors: Doors, attributes: tuple[int, int, int]) -> None:
    """`attributes`: user, group, mode; they are set before anybody can see the file under its name."""
    uid, gid, mode = attributes
    temporary = f".{name[:200]}.{secrets.token_hex(6)}.pgha-new"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=folder), "w+b") as file:
            doors.fetch(blob.sha256, blob.size, file)
            file.flush()
            if os.fstat(file.fileno()).st_size != blob.size or doors.cancelled():
                raise ActionFailed("the file did not arrive whole; the old one is untouched")
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
    os.fsync(folder)


def get(call: Call, doors: Doors) -> Outcome:
    path = _path(call, arguments(call, 1, 1)[0])
    digest, size = hashlib.sha256(), 0
    with _told("read", path), _folder(path) as folder, _regular(folder, path) as file:
        seen = os.fstat(file.fileno())
        if seen.st_size > GET_MAX:
            raise ActionFailed(f"{path} has {seen.st_size} bytes, and file.get brings at most {GET_MAX >> 20} MiB")
        while size < seen.st_size and (piece := file.read(min(CHUNK, seen.st_size - size))):
            if doors.cancelled():
                return Outcome(ok=False, exit_code=124, message="cancelled")
            digest.update(piece)
            size += len(piece)
            doors.output("bytes", base64.b64encode(piece).decode())
    data: dict[str, object] = {"path": path, "size": size, "sha256": digest.hexdigest()}
    return Outcome(ok=True, exit_code=0, data={**data, "mode": f"{seen.st_mode & 0o7777:04o}"})


def look(call: Call, doors: Doors) -> Outcome:
    path = _path(call, arguments(call, 1, 1)[0])
    with _told("look at", path), _folder(path) as folder:
        seen = _stat(folder, _name(path))
        if seen is None:
            return Outcome(ok=False, exit_code=1, message=f"there is nothing at {path}")
        data: dict[str, object] = {
            "type": _kind(seen),
            "mode": f"{seen.st_mode & 0o7777:04o}",
            "owner": _user(seen.st_uid),
            "group": _group(seen.st_gid),
            "size": seen.st_size,
            "mtime": seen.st_mtime,
        }
        if stat.S_ISREG(seen.st_mode) and seen.st_size <= HASHED_MAX:
            with _regular(folder, path) as file:
                data["sha256"] = _checksum(file)
        elif stat.S_ISLNK(seen.st_mode):
            data["target"] = os.readlink(_name(path), dir_fd=folder)
    return Outcome(ok=True, exit_code=0, data=data)


def tail(call: Call, doors: Doors) -> Outcome:
    given = arguments(call, 1, 2)
    path = _path(call, given[0])
    lines = number(call, given[1], LINES_MAX) if len(given) > 1 else LINES
    with _told("read", path), _folder(path) as folder, _regular(folder, path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    kept = text.splitlines(keepends=True)
    if size > _TAIL_BYTES and len(kept) <= lines:
        doors.output("stderr", f"[pgha: only the last {_TAIL_BYTES >> 10} KiB of {path} were looked at]\n")
    doors.output("stdout", "".join(kept[-lines:]))
    return Outcome(ok=True, exit_code=0, data={"size": size})


def _path(call: Call, text: str) -> str:
    """The path in its plainest form. Raises UserError for any other form, and for what nobody may reach this way."""
    plain = text.startswith("/") and text == os.path.normpath(text) and text.isprintable() and len(text) < 1000
    if not plain or text == "/" or text.startswith("//"):
        raise wrong(call, f"{text!r} is no absolute path in its plainest form, such as /etc/haproxy/haproxy.cfg")
    own = Paths.from_environment()
    for barred in (*_BARRED, *(os.path.normpath(path) for path in (own.etc, own.state, own.run))):
        if text == barred or text.startswith(f"{barred}/"):
            raise UserError(f"{call.function}: {barred} and what is in it is not for file functions")
    return text


@contextmanager
def _folder(path: str) -> Iterator[int]:
    """The folder that holds the path, every folder above it opened by itself so that none can be a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open("/", flags)
    above = ""
    try:
        for name in path.split("/")[1:-1]:
            above = f"{above}/{name}"
            try:
                inner = os.open(name, flags, dir_fd=opened)
            except OSError:
                seen = _stat(opened, name)
                if seen and stat.S_ISLNK(seen.st_mode):
                    raise ActionFailed(
                        f"{above} is a symbolic link, which is not followed; name the place itself: "
                        f"{os.path.realpath(above)}{path[len(above) :]}"
                    ) from None
                raise
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _regular(folder: int, path: str) -> Iterator[BinaryIO]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    name = _name(path)
    seen = _stat(folder, name)
    if seen and not stat.S_ISREG(seen.st_mode):  # a device must not even be opened
        raise ActionFailed(f"{path} is a {_kind(seen)}, and only a file is read")
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ActionFailed(f"{path} is no longer a file")
        yield file


@contextmanager
def _told(verb: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ActionFailed(f"cannot {verb} {path}: {error.strerror}") from None


def _stat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _kind(seen: os.stat_result) -> str:
    return next((kind for test, kind in _KINDS if test(seen.st_mode)), "device, pipe or socket")


def _checksum(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1024 * 1024):
        digest.update(piece)
    return digest.hexdigest()


def _uid(owner: str) -> int:
    try:
        return int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ActionFailed(f"this host has no user {owner}") from None


def _gid(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ActionFailed(f"this host has no group {group}") from None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
