"""What pgBackRest says, read. Pure; nothing here starts it.

Source: the answers of pgBackRest 2.55.1, some of them in tests/unit/pgbackrest. Its console log is on stdout, around an
answer as text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...common.telemetry_backup import SET_LIMIT, BackupSet, RepositorySample

_STATES = {0: "ok", 1: "no stanza", 2: "no backups", 3: "no stanza", 5: "another cluster's"}
_ERROR = re.compile(r"ERROR: \[(\d{3})\]: (.*)")
KILLED = 124  # at the deadline of who asked
_PATIENCE = re.compile(r"within [\d.]+ s")
_DROPPED = re.compile(r"dropped WAL file '([0-9A-F]{24})'")
_NEXT_ENTRY = re.compile(r"P\d\d +(INFO|WARN|ERROR|DETAIL)")
_UNREADABLE = re.compile(r"(key/value found outside of section at line \d+):.*")  # then what it read, in binary
_WRONG_PASS = re.compile(r"key/value found outside of section|unable to flush|CryptoError|cipher header", re.I)
_HINTS = (
    (_WRONG_PASS, "if it is encrypted, compare backup.encryption with what it was made with"),
    (re.compile(r"RequestTimeTooSkewed"), "compare this node's clock with the right time"),
)
_DIALOGUE = re.compile(r":?\n\*{3} Path/Query \*{3}:.*?(\*{3} Response Content \*{3}:\n|(?=\nrepo\d+: )|\Z)", re.DOTALL)
_CONTENT = re.compile(r"<\?xml[^\n]*\n?[^\n]*<Code>([^<]*)</Code>\s*<Message>([^<]*)</Message>[^\n]*")
_DAMAGED = re.compile(r"FormatError|CryptoError|ChecksumError|FileMissingError|unable to load info file", re.I)


def repository(stanza: str, number: int, rc: int, out: str, err: str, now: float) -> RepositorySample:
    """One that the answer does not tell of counts as unreachable."""
    told = _stanza(stanza, out) if rc == 0 else None
    if told is None:
        said = why(rc, out, err) if rc else "pgBackRest's answer cannot be read"
        return RepositorySample(number=number, state=_cause(said), why=said, at=now)
    return _repository(told, number, now)


def running(out: str) -> tuple[int, int] | None:
    """(bytes done, bytes in all) of the backup that runs under this node's lock; zeros when it does not tell yet."""
    for told in _objects(out):
        lock = _at(told, "status", "lock", "backup")
        if isinstance(lock, dict) and lock.get("held"):
            return int(lock.get("size-cplt") or 0), int(lock.get("size") or 0)
    return None


def dropped(log: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_DROPPED.findall(log)))


def why(rc: int, out: str, err: str) -> str:
    """Its first error with what follows it on the same matter, in one line."""
    if rc == KILLED and not _ERROR.search(out + err):
        return f"no answer {patience[0]}" if (patience := _PATIENCE.search(err)) else "no answer in time"
    text = err if _ERROR.search(err) else out if _ERROR.search(out) else err or out
    match = _ERROR.search(text)
    if match is None:
        last = [line for line in text.splitlines() if line.strip()]
        return f"pgbackrest ended with {rc}: {last[-1].strip() if last else 'it said nothing'}"
    first, *rest = text[match.start(2) :].split("\n")  # no splitlines: what it quotes may be binary
    told = [first]
    for line in rest:
        if re.match(r"\s+\S", line) is None or _NEXT_ENTRY.search(line):
            break
        told.append(line)
    return f"[{match[1]}] {_sentence(told)}"


def _sentence(lines: list[str]) -> str:
    """Lines of one error as one, each said once, without what is no text, and with what to do where that is known.

    Of an exchange with a store stays what the store has said.
    """
    plain = "\n".join(_UNREADABLE.sub(r"\1", line.strip()) for line in lines)
    plain = _CONTENT.sub(r"\1: \2", _DIALOGUE.sub(":\n", plain))
    said = " ".join(dict.fromkeys(line for line in plain.split("\n") if line))
    return next((f"{hint}: {said}" for pattern, hint in _HINTS if pattern.search(said)), said)


def _repository(told: dict[str, Any], number: int, now: float) -> RepositorySample:
    entry = next((r for r in _list(told, "repo") if r.get("key") == number), None)
    if entry is None:
        return RepositorySample(number=number, state="unreachable", why="it is not configured on this node", at=now)
    code, message = _at(entry, "status", "code"), _sentence(str(_at(entry, "status", "message") or "").split("\n"))
    state = _STATES.get(code, _cause(message)) if isinstance(code, int) else "damaged"
    databases = [d for d in _list(told, "db") if d.get("repo-key") == number]
    newest = max(databases, key=lambda d: d.get("id", 0), default={})
    archives = [a for a in _list(told, "archive") if _at(a, "database", "repo-key") == number]
    latest = max(archives, key=lambda a: _at(a, "database", "id") or 0, default={})
    backups = [b for b in _list(told, "backup") if _at(b, "database", "repo-key") == number]
    return RepositorySample(
        number=number,
        state=state,
        why="" if state in ("ok", "no backups", "no stanza") else message,
        at=now,
        system_id=str(newest.get("system-id") or ""),
        version=str(newest.get("version") or ""),
        wal_min=str(latest.get("min") or ""),
        wal_max=str(latest.get("max") or ""),
        encrypted=entry.get("cipher", "none") != "none",
        backups=tuple(_backup(b) for b in backups[-SET_LIMIT:]),
    )


def _backup(told: dict[str, Any]) -> BackupSet:
    return BackupSet(
        label=told["label"],
        type=told["type"],
        began=told["timestamp"]["start"],
        ended=told["timestamp"]["stop"],
        size=_at(told, "info", "size") or 0,
        repo_size=_at(told, "info", "repository", "delta") or 0,
        wal_first=str(_at(told, "archive", "start") or ""),
        wal_last=str(_at(told, "archive", "stop") or ""),
        error=bool(told.get("error")),
    )


def _cause(message: str) -> str:
    return "damaged" if _DAMAGED.search(message) else "unreachable"


def _stanza(stanza: str, out: str) -> dict[str, Any] | None:
    return next((told for told in _objects(out) if told.get("name") == stanza), None)


def _objects(out: str) -> list[dict[str, Any]]:
    try:
        answer = json.loads(out, strict=False)  # what it could not decrypt it quotes with its control characters
    except ValueError:
        return []
    return [told for told in answer if isinstance(told, dict)] if isinstance(answer, list) else []


def _list(told: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = told.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _at(told: dict[str, Any], *path: str) -> Any:  # Any: JSON
    value: Any = told
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
