"""What happened between a master and its minions, read from what all of them kept, and the rules that it must obey.

The checker is a pure function over rows, so that it can be tested with histories that must fail.

A command of a test is known by its token, a word in it that it appends to the file of effects when it runs, behind the
name of nobody: one line for each start on each node.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(r"T\d{4}T")
BEGAN, OVER = "started", ("done", "interrupted", "cancelled", "expired")
AGREES = {
    "done": {"finished"},
    "failed": {"finished"},
    "unknown": {"interrupted"},
    "cancelled": {"cancelled", ""},
    "expired": {"expired", ""},
    "refused": {""},
}
"""State of a job at its end, as the master has it -> states that its minion's journal may have; "" for no row."""


@dataclass(frozen=True)
class KeptJob:
    """A job as the master has it."""

    jid: str
    att: int
    node: str
    state: str
    token: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class KeptEvent:
    """An event as the master, or a minion (then without `node` and `epoch`), has it."""

    seq: int
    jid: str
    kind: str
    body: str = "{}"
    node: str = ""
    epoch: str = ""


@dataclass(frozen=True)
class KeptJournal:
    node: str
    epoch: str
    acked: int
    jobs: Mapping[tuple[str, int], str]
    events: tuple[KeptEvent, ...]

    @property
    def highest(self) -> int:
        return max((event.seq for event in self.events), default=self.acked)


@dataclass(frozen=True)
class History:
    effects: tuple[str, ...] = ()
    jobs: tuple[KeptJob, ...] = ()
    events: tuple[KeptEvent, ...] = ()
    streams: Mapping[tuple[str, str], int] = field(default_factory=dict)
    journals: tuple[KeptJournal, ...] = ()

    def stored(self, node: str, epoch: str) -> int:
        return self.streams.get((node, epoch), 0)


def broken(history: History, *, lost_journals: bool = False, restored: bool = False) -> list[str]:
    """Every rule that was broken, in words; [] for a true history.

    `lost_journals`: a minion was set up anew. `restored`: the master goes on from an older copy of its store.
    """
    return [
        *_effects(history),
        *_ends(history, lost_journals),
        *_outputs(history),
        *_streams(history, restored),
        *_orders(history),
    ]


def _effects(history: History) -> Iterator[str]:
    """Rule 1: each job starts at most once, and what has not started has no effect."""
    counted = Counter(history.effects)
    by_token: dict[str, list[KeptJob]] = {}
    for job in history.jobs:
        if job.token:
            by_token.setdefault(job.token, []).append(job)
    for token, times in counted.items():
        found = by_token.get(token, [])
        if times > len({job.node for job in found}) and found:
            yield f"{token} ran {times} times on {len(found)} nodes"
    for token, found in by_token.items():
        done = sum(job.state == "done" for job in found)
        never = sum(job.state in ("refused", "expired") for job in found)
        if counted[token] < done:
            yield f"{token} is done on {done} nodes and ran {counted[token]} times"
        if counted[token] > len(found) - never:
            yield f"{token} ran {counted[token]} times, though {never} of its {len(found)} jobs never began"


def _ends(history: History, lost_journals: bool) -> Iterator[str]:
    """Rule 2: every job has ended, and its minion's journal agrees with how."""
    known = {(journal.node, *key): state for journal in history.journals for key, state in journal.jobs.items()}
    nodes = {journal.node for journal in history.journals}
    answered = {event.jid for event in history.events if event.epoch == event.jid}
    for job in history.jobs:
        if job.state not in AGREES:
            yield f"{job.jid} of {job.node} has not ended: {job.state}"
            continue
        if job.node not in nodes or job.jid in answered:
            continue
        told = known.get((job.node, job.jid, job.att), "")
        if told not in AGREES[job.state] and not (lost_journals and not told):
            yield f"{job.jid} of {job.node} is {job.state} at the master and {told or 'not known'} at its minion"
    ordered = {(job.node, job.jid, job.att) for job in history.jobs}
    for key in known.keys() - ordered:
        yield f"{key[1]} of {key[0]} is known to its minion only"


def _outputs(history: History) -> Iterator[str]:
    """Rule 3: what is done has said all of its lines, in order, between its one start and its one end."""
    of: dict[str, list[KeptEvent]] = {}
    for event in sorted(history.events, key=lambda one: (one.epoch, one.seq)):
        of.setdefault(event.jid, []).append(event)
    for job in history.jobs:
        if job.state != "done" or not job.token:
            continue
        found = of.get(job.jid, [])
        kinds = [event.kind for event in found]
        if kinds[:1] != [BEGAN] or kinds[-1:] != ["done"] or kinds.count(BEGAN) + kinds.count("done") != 2:
            yield f"{job.jid} is done and its events are {kinds}"
        said = "".join(json.loads(event.body)["text"] for event in found if event.kind == "out")
        if said != f"out of {job.token}\nend of {job.token}\n":
            yield f"{job.jid} is done and what it said is {said!r}"


def _streams(history: History, restored: bool) -> Iterator[str]:
    """Rule 4: what a minion holds for acknowledged is stored, each event once, as the minion has it."""
    at_master = {(event.node, event.epoch, event.seq): event for event in history.events}
    ended_otherwise = {job.jid for job in history.jobs if job.state not in ("done", "failed")}
    for journal in history.journals:
        high = history.stored(journal.node, journal.epoch)
        if journal.acked > high and not restored:
            yield f"{journal.node} holds {journal.acked} for acknowledged, stored are {high}"
        if high > max(journal.highest, journal.acked):
            yield f"{journal.node} has made {journal.highest} events, stored are {high}"
        for event in journal.events:
            if event.seq > high:
                continue
            stored = at_master.get((journal.node, journal.epoch, event.seq))
            if stored is None:
                if event.jid not in ended_otherwise:
                    yield f"event {event.seq} of {journal.node} ({event.kind}) is missing below {high}"
            elif (stored.jid, stored.kind, stored.body) != (event.jid, event.kind, event.body):
                yield f"event {event.seq} of {journal.node} is stored as {stored.kind}, and was {event.kind}"
    for node, epoch, seq in at_master:
        if epoch and (node, epoch) in history.streams and seq > history.stored(node, epoch):
            yield f"event {seq} of {node} is stored above the high water {history.stored(node, epoch)}"


def _orders(history: History) -> Iterator[str]:
    """Rule 5: at its minion, too, a job begins at most once and ends at most once, and nothing comes after its end."""
    for journal in history.journals:
        seqs = [event.seq for event in journal.events]
        if seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else []):
            yield f"the events of {journal.node} are not numbered one by one"
        of: dict[str, list[str]] = {}
        for event in journal.events:
            of.setdefault(event.jid, []).append(event.kind)
        for jid, kinds in of.items():
            if kinds.count(BEGAN) > 1 or sum(kind in OVER for kind in kinds) > 1:
                yield f"{jid} of {journal.node} has begun or ended more than once: {kinds}"
            if any(kind in OVER for kind in kinds[:-1]):
                yield f"{jid} of {journal.node} goes on after its end: {kinds}"
        for (jid, _), state in journal.jobs.items():
            if state == "finished" and of.get(jid, ["done"])[-1] != "done":
                yield f"{jid} of {journal.node} is finished and its last event is {of[jid][-1]}"


# ---- reading it


def read_history(effects: Path, store: Path, journals: Mapping[str, Path]) -> History:
    """As it is in the files now; the daemons may run."""
    with contextlib.closing(_open(store)) as db:
        db.execute("begin")
        jobs = tuple(
            KeptJob(jid, att, node, state, _token(what), outcome)
            for jid, att, node, state, what, outcome in db.execute(
                "select jid, att, node, jobs.state, coalesce(operations.what, ''), outcome"
                " from jobs left join operations on operations.id = jobs.operation"
            )
        )
        rows = db.execute("select seq, jid, kind, body, node, epoch from events").fetchall()
        streams = {(node, epoch): hw for node, epoch, hw in db.execute("select node, epoch, hw from streams")}
    kept = tuple(read_journal(node, path) for node, path in journals.items() if path.exists())
    return History(
        tuple(_token(line) or line for line in effects.read_text().split("\n") if line),
        jobs,
        tuple(KeptEvent(*row) for row in rows),
        streams,
        kept,
    )


def read_journal(node: str, path: Path) -> KeptJournal:
    with contextlib.closing(_open(path)) as db:
        db.execute("begin")
        meta = dict(db.execute("select key, value from meta").fetchall())
        jobs = {(jid, att): state for jid, att, state in db.execute("select jid, att, state from jobs")}
        rows = db.execute("select seq, jid, kind, body from events order by seq").fetchall()
    events = tuple(KeptEvent(seq, jid, kind, body.decode() or "{}") for seq, jid, kind, body in rows)
    return KeptJournal(node, meta.get("epoch", ""), int(meta.get("acked", 0)), jobs, events)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=10)


def _token(text: str) -> str:
    found = TOKEN.search(text)
    return found.group() if found else ""
