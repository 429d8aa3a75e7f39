"""What belongs to the stages of backups in an apply and is no resource: to look first, to recover, the first backup."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.cluster import Cluster
from ..health.gates_backup import backed_up
from ..orchestration.fleet import Fleet
from ..orchestration.gatekeeper import Gatekeeper
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters
from ..orchestration.stages import BACKUP, PGBACKREST, has_no_data
from .backing import Backing
from .restore_order import Wanted
from .restoring import Restoring

WHOLE = "applied_whole"  # the note with the digest of the definition that an apply of all has brought about
GATE, GATE_S = "WAL is archived and every repository holds a backup", 180.0


@dataclass
class BackupPart:
    """`recover`: a cluster that has no data gets that of its backups."""

    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    keeper: Gatekeeper
    recover: Wanted | None = None

    def __post_init__(self) -> None:
        self._backing = Backing(self.master, self.fleet, self.cluster, self.report)
        self._restoring = Restoring(self.master, self.fleet, self.cluster, self.report, self.keeper)

    async def under_way(self) -> list[str]:
        """Why nothing else may be changed now: a restore has begun, and this is not it."""
        begun = await self._restoring.begun()
        if begun is None or self.recover is not None:
            return []
        name = self.cluster.name
        return [f"a restore to {begun} has begun and not ended: pgha-master restore {name} --resume, or --cancel"]

    async def after(self, stage: str, *, changed: bool) -> None:
        """`changed`: this apply had something to do about backups. Raises Failed."""
        if self.cluster.backup is None:
            return
        if stage == PGBACKREST:
            await self._before_postgresql(changed)
        elif stage == BACKUP:
            await self._once_it_runs(changed)

    async def _before_postgresql(self, changed: bool) -> None:
        founding = has_no_data(self.keeper.health())
        if founding and self.recover is None:
            lived = WHOLE in await self.master.store.notes(self.cluster.name)
            self.recover = Wanted.first(self.cluster, lived=lived)
        anew = self.recover is None or (bool(self.recover.stanza) and await self._restoring.begun() is None)
        if changed or founding:
            await self._backing.reachable(founding=founding and anew)
        if self.recover is not None:
            if self.recover.stanza:
                self.master.take_over_secrets(self.cluster)
            self.recover = await self._restoring.bare(self.recover)

    async def _once_it_runs(self, changed: bool) -> None:
        assert self.cluster.backup is not None
        if self.recover is not None:
            await self._restoring.settle(self.recover)
        else:
            await self._backing.first(insist=changed)
        if changed:
            numbers = [number for number, _ in self.cluster.backup.repositories]
            await self.keeper.wait(BACKUP, GATE, lambda seen: backed_up(seen, numbers), GATE_S, ())
