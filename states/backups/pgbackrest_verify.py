"""What `pgbackrest verify` found, and what it does not look for. Pure.

Its exit code is 0 whatever it finds, and "status: ok" is no proof: it misses WAL segments that are not there, backups
whose manifests or folders are gone. So its answer is held against the backups that `info` lists, and against the ranges
of WAL that it tells at log level detail.

Source: the answers of pgBackRest 2.55.1, some of them in tests/unit/pgbackrest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...common.telemetry_backup import BackupSet
from .driver import Verified
from .pgbackrest_answers import why

_RANGE = re.compile(r"archiveId: (\S+), wal start: ([0-9A-F]{24}), wal stop: ([0-9A-F]{24})")
_STATUS = re.compile(r"^status: (\w+)", re.MULTILINE)
_ARCHIVE = re.compile(r"^  archiveId: ([^,]+), total WAL checked: (\d+), total valid WAL: (\d+)")
_BACKUP = re.compile(r"^  backup: ([^,]+), status: ([^,]+), total files checked: (\d+), total valid files: (\d+)")
_COUNTS = re.compile(r"(missing|checksum invalid|size invalid|other): (\d+)")
_FILE = re.compile(r"P\d\d +(?:INFO|WARN|ERROR): (?:\[\d+\]: )?((?:file missing|invalid \w+) \S+)")
_FINE = ("valid", "in-progress")
FILES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Range:
    """Consecutive segments of one timeline."""

    archive: str
    first: str
    last: str

    @property
    def timeline(self) -> str:
        return self.first[:8]

    def holds(self, first: str, last: str) -> bool:
        return self.first <= first and last <= self.last


def verified(rc: int, out: str, err: str, backups: Sequence[BackupSet], fulls: int) -> Verified:
    """`backups` that the repository had before it was read. All WAL is kept for the newest `fulls` full ones."""
    if rc:
        return Verified((why(rc, out, err),), out.strip() or err.strip())
    status = _STATUS.search(out)
    if status is None:
        said = (out.strip() or err.strip())[-200:] or "no output"
        return Verified((f"pgBackRest says nothing that could be read: {said}",), out.strip())
    ranges = [Range(*found) for found in dict.fromkeys(_RANGE.findall(out))]
    report = out[status.start() :]
    problems = [*_counted(report), *_gone(report, backups), *_missing(ranges, backups, fulls), *_files(out)]
    if status[1] != "ok" and not problems:
        problems = ["pgBackRest reports an error and does not say which"]
    return Verified(tuple(dict.fromkeys(problems)), report.strip())


def _counted(report: str) -> Iterator[str]:
    """What pgBackRest itself has counted as wrong."""
    about, lacking = "", 0
    for line in report.splitlines():
        if line.strip().startswith("No usable"):
            yield line.strip()
        elif found := _ARCHIVE.match(line):
            about, lacking = f"WAL of {found[1]}", int(found[2]) - int(found[3])
            if lacking:
                yield f"{about}: {lacking} of {found[2]} segments are not valid"
        elif found := _BACKUP.match(line):
            about, lacking = f"backup {found[1]}", int(found[3]) - int(found[4])
            if found[2] not in _FINE or lacking:
                yield f"{about} is {found[2]}: {found[4]} of {found[3]} files are valid"
        else:
            wrong = [f"{count} {what}" for what, count in _COUNTS.findall(line) if int(count)]
            if wrong:
                yield f"{about}: {', '.join(wrong)}"


def _gone(report: str, backups: Sequence[BackupSet]) -> Iterator[str]:
    there = {found[1] for line in report.splitlines() if (found := _BACKUP.match(line))}
    for backup in backups:
        if backup.label not in there:
            yield f"backup {backup.label} is listed, and its files are gone"


def _missing(ranges: Sequence[Range], backups: Sequence[BackupSet], fulls: int) -> Iterator[str]:
    """A backup cannot be restored without the WAL that was written while it was made, nor a time behind a gap."""
    for backup in backups:
        if backup.wal_first and not any(one.holds(backup.wal_first, backup.wal_last) for one in ranges):
            yield (
                f"backup {backup.label} cannot be restored: of its WAL, {backup.wal_first} to {backup.wal_last}, "
                "segments are missing"
            )
    firsts = [backup.wal_first[8:] for backup in backups if backup.type == "full" and backup.wal_first]
    if not firsts:
        return
    since = firsts[-fulls:][0]
    for archive in dict.fromkeys(one.archive for one in ranges):
        yield from _gaps([one for one in ranges if one.archive == archive], since)


def _gaps(ranges: list[Range], since: str) -> Iterator[str]:
    """`since`: position before which expiring may have made gaps. Positions are names without the timeline."""
    ranges.sort(key=lambda one: one.first)
    for before, after in pairwise(ranges):
        if after.first[8:] <= since:
            continue
        if before.timeline == after.timeline:
            yield f"WAL is missing between {before.last} and {after.first}"
        else:
            reached = max(one.last[8:] for one in ranges if one.timeline < after.timeline)
            if not _follows(reached, after.first[8:]):
                yield f"WAL is missing between {before.last} and {after.first}"


def _follows(reached: str, first: str) -> bool:
    """Whether a timeline that begins with `first` has its root in what another has reached."""
    if first <= reached:
        return True
    log, segment = int(reached[:8], 16), int(reached[8:], 16)
    return (int(first[:8], 16), int(first[8:], 16)) in ((log, segment + 1), (log + 1, 0))


def _files(out: str) -> list[str]:
    """The files that are wrong; of a bundle that is gone each file in it is told."""
    found = Counter(_FILE.findall(out))
    shown = [f"{text} ({count} times)" if count > 1 else text for text, count in found.most_common(FILES_SHOWN)]
    more = len(found) - len(shown)
    return [*shown, f"and {more} more files"] if more > 0 else shown
