"""Files that a document manages, and which of them somebody has touched since the last look at them.

Kept in memory: after a restart of the minion nothing counts as touched until the master has looked at this node again.
For threads: the worker keeps it up to date, the sampler asks.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection

Signature = tuple[int, ...]  # empty: not there
ELSEWHERE = ("/proc/", "/sys/", "/dev/", "/run/")  # what stands there has no times of its own, or is nobody's to keep
MOST = 20  # are told at once; who looks then sees them all


class Watched:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Signature] = {}
        self._busy = False

    def pause(self) -> None:
        """Documents are being applied or looked at: what is touched now is no news."""
        with self._lock:
            self._busy = True

    def resume(self, looked_at: Collection[str], others: Collection[str] = ()) -> None:
        """They were: these paths are watched as they are now; `others` of the same node as they were when looked at."""
        now = {path: signature(path) for path in (*looked_at, *others) if not path.startswith(ELSEWHERE)}
        with self._lock:
            kept = {path: self._seen[path] for path in others if path in self._seen and path not in looked_at}
            self._seen, self._busy = now | kept, False

    def touched(self) -> tuple[str, ...]:
        """At most MOST, sorted."""
        with self._lock:
            if self._busy:
                return ()
            seen = dict(self._seen)
        return tuple(sorted(path for path, known in seen.items() if signature(path) != known))[:MOST]


def signature(path: str) -> Signature:
    """Of a folder its owner and mode only: what comes and goes in it is others' business."""
    try:
        found = os.lstat(path)
    except OSError:
        return ()
    if stat.S_ISDIR(found.st_mode):
        return (found.st_ino, found.st_uid, found.st_gid, found.st_mode)
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
