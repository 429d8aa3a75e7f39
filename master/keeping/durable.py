"""Writing what must survive a power cut, and what nobody else may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...common.errors import HostError


def write(path: Path, data: bytes, mode: int = 0o600, *, once: bool = False) -> bool:
    """Write a file whole or not at all: temporary file, fsync, then its name. Gives True when this call wrote it.

    With `once` an existing file is never replaced, even when two do this at the same moment.

    Raises:
        HostError: the filesystem refuses (full, read-only, no right).
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            return _name(Path(name), path, once)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}; check space and rights of {path.parent}") from error


def _name(temporary: Path, path: Path, once: bool) -> bool:
    if once:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    else:
        temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def read_private(path: Path) -> bytes | None:
    """The bytes of a file that only its owner may touch; None when there is none.

    Raises:
        HostError: others may read or write it, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077:
                mode = status.st_mode & 0o777
                raise HostError(f"{path} has mode {mode:04o}: others can get at it; run: chmod go= {path}")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
