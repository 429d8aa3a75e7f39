"""`pgha-minion apply --local FILE`: brings this host to a state file without a master, a daemon or an enrolment.

Rules:
1. It is the same engine: observe, plan, perform, look again; a refresh that is owed is written down before the change.
2. It has a journal of its own: the daemon's belongs to the daemon. Of the two only one applies at a time.
3. What only a master can answer for is not done: certificates, and changes that may cut the host off.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.errors import ActionFailed, HostError
from ..common.failpoint import reach
from ..common.results import ResourceResult, Status
from ..common.yamltext import read_file
from ..states.action import Action, Guarded, IssueCertificate
from ..states.converge import Debts, MemoryDebts, converge
from ..states.placeholders import NAMES
from ..states.resource import AnyResource
from ..states.statefile import EVERYWHERE, StateFile, load
from ..states.system import System
from .host import Host
from .journal import Journal
from .settings import MinionPaths
from .turn import Turn

BUSY = "this host is being brought to a state right now, by the master or by another apply --local; try again later"


class LocalHost(Host):
    """The host without a master: what needs one is refused before anything of it is done."""

    def __init__(self) -> None:
        super().__init__(_nobody_signs, lambda seconds: False)

    def perform(self, action: Action) -> None:
        if isinstance(action, IssueCertificate):
            _nobody_signs(action.cluster, action.name, "")
        if isinstance(action, Guarded):
            raise ActionFailed(
                "this may cut the host off, so it is done only where a master can confirm that it still reaches it; "
                "apply it by the master"
            )
        super().perform(action)


def _nobody_signs(cluster: str, name: str, request: str) -> str:
    raise ActionFailed(f"the certificate {name} must be signed by the master; apply it by the master")


@dataclass(frozen=True)
class Wanted:
    """A file, read and built for this host. `notes`: what a person should know of it."""

    file: StateFile
    resources: Sequence[AnyResource]
    node: str
    notes: tuple[str, ...] = ()


@dataclass
class Outcome:
    counts: Counter[Status] = field(default_factory=Counter)
    cancelled: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.counts[Status.FAILED] and not self.cancelled


def read(path: Path, node: str = "") -> Wanted:
    """Raises UserError, DefinitionError: with all that is wrong with the file, or that a host alone does not know."""
    node = node or socket.gethostname().split(".")[0]
    file = load(str(path), read_file(path))
    resources = file.build({**dict.fromkeys(NAMES), "node.name": node}, lambda name: None)
    if unknown := file.unknown(resources, {resource.id for resource in resources}, "here: there is only this file"):
        raise file.error(unknown)
    notes = (
        () if file.target == EVERYWHERE else (f"target: {file.target}  is for the master; it is not looked at here",)
    )
    return Wanted(file, resources, node, notes)


def plan(wanted: Wanted, paths: MinionPaths, tell: Callable[[ResourceResult], None], system: System) -> Outcome:
    """What an apply would do now. Raises HostError when the journal cannot be read."""
    owed: dict[str, float] = {}
    try:
        there = paths.local_journal.exists()
    except OSError as error:
        raise HostError(f"{paths.local_journal} cannot be read: {error.strerror}; run as root") from None
    if there:
        journal = Journal(paths.local_journal)
        owed = journal.debts()
        journal.close()
    return _converge(wanted, system, MemoryDebts(owed), tell, True, lambda: False)


def apply(
    wanted: Wanted,
    paths: MinionPaths,
    tell: Callable[[ResourceResult], None],
    system: System,
    cancelled: Callable[[], bool] = lambda: False,
    allow_destroy: Sequence[str] = (),
) -> Outcome:
    """`tell` hears of each resource when it is done. Raises HostError: it is not our turn, or the disk refuses."""
    turn = Turn(paths.turn)
    if not turn.take():
        raise HostError(BUSY)
    try:
        journal = Journal(paths.local_journal)
        try:
            return _converge(wanted, system, journal, tell, False, cancelled, allow_destroy)
        finally:
            journal.close()
    finally:
        turn.release()


def _converge(
    wanted: Wanted,
    system: System,
    debts: Debts,
    tell: Callable[[ResourceResult], None],
    dry_run: bool,
    cancelled: Callable[[], bool],
    allow_destroy: Sequence[str] = (),
) -> Outcome:
    outcome, since = Outcome(), time.monotonic()
    for result in converge(
        wanted.resources, system, debts, dry_run=dry_run, allow_destroy=allow_destroy, cancelled=cancelled
    ):
        outcome.counts[result.status] += 1
        tell(result)
        reach("local.res.after")
    outcome.cancelled, outcome.seconds = cancelled(), time.monotonic() - since
    return outcome
