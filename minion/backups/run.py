"""Make one backup to every repository of this node, one after the other, and write down what became of each.

Started by systemd, by a timer or for `pgha-master backup now`; the master is not needed. What the tool says goes to the
journal as it comes. A repository that fails does not keep the next one from its backup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from ...common import installation
from ...common.backup import BackupType
from ...common.errors import HostError
from ...common.installation import Installation
from ...common.telemetry_backup import BackupRun
from ...states.backups.driver import Argv, Driver
from ...states.backups.told import as_user, ask
from ...states.backups.tools import driver
from ...states.system import Look, Output
from .history import History

Execute = Callable[[Argv], Output]
BUSY = "another run of the tool is at work on this repository"


def installed(look: Look) -> Installation:
    """Raises HostError: the document `pgbackrest` was not applied here, or the file is damaged."""
    path = installation.PATH
    seen = look.file(path)
    if seen.kind == "absent":
        raise HostError(f"no backups are made here: {path} is missing; apply the cluster's definition first")
    try:
        return Installation.model_validate_json(seen.content or "")
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise HostError(f"{path} cannot be read: {why}; apply the cluster's definition again") from None


@dataclass(frozen=True)
class Runner:
    """`execute` runs a program for as long as it takes; `now` is Unix time."""

    here: Installation
    execute: Execute
    now: Callable[[], float]
    history: History

    def make(self, kind: BackupType, *, standby: bool, expire: bool = True) -> tuple[BackupRun, ...]:
        """The runs, one for each repository. `expire`: older backups may go by their retention."""
        return tuple(self._one(kind, number, standby, expire) for number in self.here.operates)

    def _one(self, kind: BackupType, number: int, standby: bool, expire: bool) -> BackupRun:
        tool, began = driver(self.here.driver), self.now()
        before = self._newest(tool, number)

        def once(from_standby: bool) -> Output:
            argv = tool.backup(self.here.stanza, kind, number, standby=from_standby, expire=expire)
            return self.execute(as_user(argv))

        with self.history.under_way(BackupRun(type=kind, repository=number, began=began)):
            said = once(standby)
            if standby and tool.no_standby(said.rc, said.stdout, said.stderr):  # preferred, not demanded
                said = once(False)
        error = "" if said.rc == 0 else BUSY if said.rc in tool.busy else tool.why(said.rc, said.stdout, said.stderr)
        label = self._newest(tool, number) if said.rc == 0 else ""
        if said.rc == 0 and label == before:
            error = "the tool reports success, and no new backup is in the repository"
        came = {"ok": error == "", "label": "" if error else label, "error": error}
        run = BackupRun(type=kind, repository=number, began=began, ended=self.now(), **came)
        self.history.add_run(run)
        return run

    def _newest(self, tool: Driver, number: int) -> str:
        (one,) = ask(tool, self.here.stanza, (number,), self.execute, self.now).repositories
        return one.backups[-1].label if one.backups else ""
