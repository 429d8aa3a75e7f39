"""What is wrong with a cluster's backups, each with what to do about it. A cluster that wants none has no findings.

None of them says that the cluster works worse now, so none degrades it. Nothing is said of what no fresh node tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...common.backup import BACKUP_TYPES, Backup, Repository
from ...common.cluster import Cluster
from ...common.telemetry_backup import BackupRun, RepositorySample
from .backups_seen import COPYABLE, Seen, Told, newest, place, seen
from .observed import ClusterHealth, Finding, Severity

WAITING_WARNING, WAITING_CRITICAL = 16, 256  # segments
DRILL_GRACE_S = 86400.0  # it is asked for once a day
HOUR_S, DAY_S = 3600.0, 86400.0


def check(cluster: Cluster, health: ClusterHealth) -> Iterator[Finding]:
    backup, known = cluster.backup, seen(health)
    if backup is None:
        return
    if not known.told:
        if any(node.fresh and node.role for node in health.data_nodes):
            text = "no node tells of backups: the definition has them, and they are not set up"
            yield _finding("warning", text, f"pgha-master apply {cluster.name}")
        return
    if kept := [told.node.name for told in known.told if told.backup.kept]:
        text = f"what a restore has put aside is kept on {', '.join(kept)}, and until then no backup is expired"
        yield _finding("warning", text, f"pgha-master restore {cluster.name} --commit")
    for number, repository in backup.repositories:
        for judge in _OF_A_REPOSITORY:
            yield from judge(cluster.name, backup, known, (number, repository))
    for judge_all in _OF_ALL:
        yield from judge_all(cluster.name, backup, known)
    for told in known.told:
        if told.backup.error:
            yield _finding("warning", f"{told.node.name}: {told.backup.error}", f"pgha-master apply {cluster.name}")


def _finding(severity: Severity, text: str, fix: str) -> Finding:
    return Finding(severity, text, fix, degrades=False)


def _name(one: tuple[int, Repository]) -> str:
    return f"repository {one[0]} ({place(one[1])})"


# ---- of one repository


def _state(name: str, backup: Backup, known: Seen, one: tuple[int, Repository]) -> Iterator[Finding]:
    """What keeps it from being used, once for all the nodes that see it so.

    Who asked before it was made ready says for a minute that it knows no cluster; another's word tells better.
    """
    bad: dict[tuple[str, str], list[str]] = {}
    for told, view in known.views(one[0]):
        if view.state not in COPYABLE and not (view.state == "no stanza" and _ready_since(known, told, view)):
            bad.setdefault((view.state, view.why), []).append(told.node.name)
    for (state, why), nodes in bad.items():
        word = {
            "another cluster's": "holds another cluster's backups",
            "no stanza": "does not know this cluster yet",
        }.get(state, f"is {state}")
        fix = f"pgha-master backup check {name}"
        fix = f"pgha-master apply {name}" if state == "no stanza" else fix
        fix = f"pgha-master backup list {name}" if state == "another cluster's" else fix
        critical = state in ("damaged", "another cluster's")
        told_of = f"{_name(one)} {word}, as {', '.join(nodes)} {'sees' if len(nodes) == 1 else 'see'} it"
        yield _finding("critical" if critical else "warning", f"{told_of}{': ' if why else ''}{why}", fix)


def _ready_since(known: Seen, told: Told, view: RepositorySample) -> bool:
    """Another node has seen it ready, and no backup in it that was there when this one asked."""
    asked_s = told.age_s(view.at)
    return any(
        one.state in COPYABLE and all(other.age_s(b.ended) < asked_s for b in one.backups)
        for other, one in known.views(view.number)
    )


def _age(name: str, backup: Backup, known: Seen, one: tuple[int, Repository]) -> Iterator[Finding]:
    found = known.repository(one[0])
    if found is None or found[1].state not in COPYABLE:
        return
    told, view = found
    fix = f"pgha-master backup now {name} --type full"
    latest = newest(view)
    if latest is None:
        if not known.running():
            yield _finding("warning", f"{_name(one)} holds no backup yet", fix)
        return
    age = told.age_s(latest.ended)
    if age > backup.max_age:
        text = f"the newest backup in {_name(one)} is {_span(age)} old, wanted is {_span(backup.max_age)} at most"
        yield _finding("critical" if age > 2 * backup.max_age else "warning", text, fix)


def _unsound(name: str, backup: Backup, known: Seen, one: tuple[int, Repository]) -> Iterator[Finding]:
    found = known.repository(one[0])
    if found is None or found[1].state not in COPYABLE:
        return
    view = found[1]
    if backup.encryption.cipher != "none" and not view.encrypted:
        text = f"{_name(one)} is not encrypted, the definition wants {backup.encryption.cipher}"
        yield _finding("warning", text, f"give it another path in the definition, then pgha-master apply {name}")
    latest = newest(view)
    if latest is not None and latest.error:
        text = f"backup {latest.label} in {_name(one)} has pages with a wrong checksum"
        made = next((told.node.name for told, run in known.runs() if run.label == latest.label), found[0].node.name)
        fix = f"pgha-master run {made} -- journalctl -u 'pgha-backup@*' -g checksum"
        yield _finding("critical", text, fix)


def _runs(name: str, backup: Backup, known: Seen, one: tuple[int, Repository]) -> Iterator[Finding]:
    """The last run of each type, when it failed and no backup of that type, or of a fuller one, came after it."""
    found = known.repository(one[0])
    last: dict[str, tuple[Told, BackupRun]] = {}
    for told, run in known.runs():
        if run.repository == one[0]:
            last[run.type] = (told, run)
    for kind, (told, run) in last.items():
        if run.ok or (found and _made_since(found[0], found[1], kind, told.age_s(run.began))):
            continue
        text = f"the last {kind} backup to {_name(one)}, {_span(told.age_s(run.began))} ago on {told.node.name}, failed"
        yield _finding("warning", f"{text}: {run.error}", f"pgha-master backup now {name} --type {kind}")


def _made_since(told: Told, view: RepositorySample, kind: str, failed_s: float) -> bool:
    rank: dict[str, int] = {word: place for place, word in enumerate(BACKUP_TYPES)}
    return any(rank[b.type] <= rank.get(kind, len(rank)) and told.age_s(b.ended) < failed_s for b in view.backups)


# ---- of the archive of WAL


def _archiver(name: str, backup: Backup, known: Seen) -> Iterator[Finding]:
    archiver, leading = known.archiver, known.leading
    if archiver is None or leading is None:
        return
    check = f"pgha-master backup check {name}"
    if archiver.error:
        yield _finding("warning", f"{leading.node.name} does not tell how far WAL is archived: {archiver.error}", "")
        return
    if archiver.failing:
        text = f"WAL is not archived: the command fails for {archiver.last_failed}"
        yield _finding(_queue(archiver.waiting) or "warning", f"{text}, {archiver.waiting} segments wait", check)
    elif (severity := _queue(archiver.waiting)) is not None:
        yield _finding(severity, f"{archiver.waiting} segments of WAL wait to be archived", check)
    elif (archiver.behind_s or 0.0) > 3 * backup.archive_timeout:
        text = f"the archive of WAL is {_span(archiver.behind_s or 0.0)} behind, {archiver.waiting} segments wait"
        yield _finding("warning", text, check)


def _queue(waiting: int) -> Severity | None:
    return "critical" if waiting > WAITING_CRITICAL else "warning" if waiting > WAITING_WARNING else None


def _dropped(name: str, backup: Backup, known: Seen) -> Iterator[Finding]:
    """Until each repository has a backup that began behind the gap."""
    count, last = known.dropped()
    behind = [number for number, _ in backup.repositories if not known.begun_after(number, last)]
    if count and behind:
        text = f"{count} segments of WAL were thrown away because the queue was full, the last {last}"
        text += "; no time after them can be restored without a new full backup"
        yield _finding("critical", text, f"pgha-master backup now {name} --type full")


# ---- of the proof


def _drill(name: str, backup: Backup, known: Seen) -> Iterator[Finding]:
    last, every = known.drill(), backup.drill.every
    fix = f"pgha-master backup drill {name}"
    if last is not None and not last[1].ok:
        text = f"the last restore for the proof failed {_span(last[0].age_s(last[1].began))} ago: {last[1].error}"
        yield _finding("critical", text, fix)
        return
    if every is None:
        return
    ages = [told.age_s(b.ended) for told, view in known.views() for b in view.backups]
    age = last[0].age_s(last[1].began) if last else max(ages, default=0.0)
    if age > every + DRILL_GRACE_S:
        text = (
            f"the last restore for the proof is {_span(age)} old"
            if last
            else "no backup was ever restored for the proof"
        )
        yield _finding("warning", f"{text}, wanted is one every {_span(every)}", fix)


def _span(seconds: float) -> str:
    if seconds >= 2 * DAY_S:
        return f"{seconds / DAY_S:.0f} days"
    if seconds >= 2 * HOUR_S:
        return f"{seconds / HOUR_S:.0f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"


_OF_A_REPOSITORY: tuple[Callable[[str, Backup, Seen, tuple[int, Repository]], Iterator[Finding]], ...] = (
    _state,
    _age,
    _unsound,
    _runs,
)
_OF_ALL: tuple[Callable[[str, Backup, Seen], Iterator[Finding]], ...] = (_archiver, _dropped, _drill)
