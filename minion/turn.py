"""Whose turn it is to bring this host to a state: the daemon's jobs and `pgha-minion apply --local` never at once.

A lock on a file that the kernel gives back when its holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..common.errors import HostError


class Turn:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def take(self) -> bool:
        """False while another process has it. Raises HostError when the file cannot be made."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"cannot open {self._path}: {error.strerror}; run as root, with room on the disk") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
