"""Files of this host: looked at without following what is not ours to follow, and replaced whole or not at all.

A new version is made beside the old one, gets owner and mode before anybody can see it, is checked and synced, and is
renamed into place. What pgha did not write is kept once as PATH.pgha-orig; a marker per path in `kept` remembers that.
"""

from __future__ import annotations

import errno
import grp
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..common.errors import ActionFailed, HostError
from ..states.system import FileFacts

MAX_BYTES = 1024 * 1024
PIECE = 64 * 1024
ORIGINAL = ".pgha-orig"
KEPT_S = 1.0
_KINDS: dict[int, Literal["file", "directory", "symlink", "other"]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
}


class Names:
    """Names of users and groups by their ids, each kept for at most `KEPT_S` and until `forget`.

    A thousand files have a handful of owners, and every question goes through files or a directory service. Only how
    a name is shown and compared comes from here: what is written asks anew. An id without a name is never kept.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._until = now, 0.0
        self._users, self._groups = dict[int, str](), dict[int, str]()

    def forget(self) -> None:
        """Something was done that may have made or renamed some."""
        self._users, self._groups = {}, {}

    def of(self, seen: os.stat_result) -> tuple[str, str]:
        """The names of the owner and the group; the number where there is none."""
        if self._now() >= self._until:
            self.forget()
            self._until = self._now() + KEPT_S
        users, groups = self._users, self._groups  # as they are now: another thread may forget them
        user, group = users.get(seen.st_uid), groups.get(seen.st_gid)
        try:
            if user is None:
                user = users[seen.st_uid] = pwd.getpwuid(seen.st_uid).pw_name
        except KeyError:
            user = str(seen.st_uid)
        try:
            if group is None:
                group = groups[seen.st_gid] = grp.getgrgid(seen.st_gid).gr_name
        except KeyError:
            group = str(seen.st_gid)
        return user, group


def look(path: str, names: Names, *, read: bool) -> FileFacts:
    """What is at the path itself. Raises HostError when the host will not say."""
    try:
        seen = os.lstat(path)
        kind = _KINDS.get(stat.S_IFMT(seen.st_mode), "other")
        content = _read(path, seen.st_size) if read and kind == "file" else None
        target = str(Path(path).readlink()) if kind == "symlink" else ""
    except (FileNotFoundError, NotADirectoryError):
        return FileFacts()
    except OSError as error:
        raise HostError(f"cannot look at {path}: {error.strerror}") from None
    return FileFacts(kind, content, *names.of(seen), stat.S_IMODE(seen.st_mode), target, seen.st_mtime)


def _read(path: str, size: int) -> str | None:
    """`size` is only what to expect: a file may grow meanwhile, and one in /proc says 0."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        data = os.read(fd, min(size, MAX_BYTES) + 1)  # one byte more than expected: less is the end
        while len(data) != size and len(data) <= MAX_BYTES and (piece := os.read(fd, PIECE)):
            data += piece
    finally:
        os.close(fd)
    try:
        return data.decode() if len(data) <= MAX_BYTES else None
    except UnicodeDecodeError:
        return None


def names(directory: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(entry.name for entry in Path(directory).iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise HostError(f"cannot list {directory}: {error.strerror}") from None


@dataclass(frozen=True)
class Disk:
    """`kept`: the folder of markers, one for each path that pgha has written."""

    kept: Path

    def write(
        self,
        path: str,
        text: str,
        owner: str,
        group: str,
        mode: int,
        check: Callable[[str], None] = lambda temporary: None,
    ) -> None:
        """Replace a file. `check` gets the new version's temporary path and raises ActionFailed to refuse it."""
        uid, gid = _uid(owner), _gid(group)
        with _explained("write", path):
            if stat.S_ISDIR(_mode(path)):
                raise ActionFailed(f"cannot write {path}: there is a folder of that name; remove or rename it")
            fd, temporary = _beside(Path(path))
            try:
                with open(fd, "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fchown(fd, uid, gid)
                    os.fchmod(fd, mode)
                    os.fsync(fd)
                check(temporary)
                self._keep_original(path)
                Path(temporary).rename(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            sync_directory(path)

    def symlink(self, path: str, target: str) -> None:
        with _explained("link", path):
            Path(path).parent.mkdir(0o755, parents=True, exist_ok=True)
            temporary = Path(path).with_name(f".{Path(path).name}.pgha-new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            try:
                self._keep_original(path)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(path)

    def remove(self, path: str, tree: bool) -> None:
        with _explained("remove", path):
            mode = _mode(path)
            if not mode:
                return
            if not stat.S_ISDIR(mode):
                self._keep_original(path)
                Path(path).unlink()
            elif not tree:
                Path(path).rmdir()
            elif len(Path(path).parts) < 4:
                raise ActionFailed(f"{path} is too near the root to be removed with all that is in it; do it by hand")
            else:
                shutil.rmtree(path)
            sync_directory(path)

    def _keep_original(self, path: str) -> None:
        """A hard link, so the original keeps owner, mode and times; none when pgha itself wrote what is there."""
        marker = self.kept / hashlib.sha256(path.encode()).hexdigest()
        if os.path.lexists(marker):
            return
        mode = _mode(path)
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            try:
                os.link(path, path + ORIGINAL, follow_symlinks=False)
            except FileExistsError:
                pass  # kept by an earlier installation; the oldest is the original
        try:
            marker.symlink_to(path)  # never followed: one call, and no block of its own that the next fsync waits for
        except FileNotFoundError:
            marker.parent.mkdir(0o700, parents=True, exist_ok=True)
            marker.symlink_to(path)


def _beside(path: Path) -> tuple[int, str]:
    """A new file in the same folder, which is made if need be: open for writing, and its path."""
    prefix, suffix = f".{path.name}.", ".pgha-new"
    try:
        return tempfile.mkstemp(suffix, prefix, path.parent)
    except FileNotFoundError:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        return tempfile.mkstemp(suffix, prefix, path.parent)


def make_directory(path: str, owner: str, group: str, mode: int) -> None:
    _uid(owner), _gid(group)  # nobody's folder is not begun
    with _explained("make the folder", path):
        Path(path).parent.mkdir(0o755, parents=True, exist_ok=True)
        Path(path).mkdir(0o700, exist_ok=True)
        set_attributes(path, owner, group, mode)
        sync_directory(path)


def set_attributes(path: str, owner: str, group: str, mode: int) -> None:
    uid, gid = _uid(owner), _gid(group)
    with _explained("set owner and mode of", path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


def sync_directory(path: str) -> None:
    """Make the rename or removal of `path` itself durable."""
    fd = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _explained(verb: str, path: str) -> Iterator[None]:
    hints = {
        errno.ENOSPC: "; the disk is full: free some space and apply again",
        errno.EROFS: "; the file system is read-only: see dmesg, then remount it",
        errno.ENOTEMPTY: "; the folder is not empty",
        errno.ELOOP: "; it is a symbolic link, which pgha does not follow",
    }
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise ActionFailed(f"cannot {verb} {path}: {error.strerror}{hints.get(number, '')}") from None


def _mode(path: str) -> int:
    """The mode of what is at the path itself, 0 when there is nothing."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _uid(owner: str) -> int:
    try:
        return int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ActionFailed(f"this host has no user {owner}; the package that brings it is not installed") from None


def _gid(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ActionFailed(f"this host has no group {group}; the package that brings it is not installed") from None
