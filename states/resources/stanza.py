"""Stanza: the repositories know this cluster's database, and its WAL arrives in them.

Rules:
1. Made and upgraded only where the database is open for writes, or on a host of the repository without a database.
2. A repository that already serves a database of the same major version with another identity holds somebody's
   backups. It is refused: to go on there would put two histories into one place.
3. A repository that does not answer is left for the next time: it must not keep anything else from being changed.
4. Who archives WAL through a host of the repository locks it there for as long; it is waited for.
5. After each change the whole road is tried: a WAL segment is switched, archived and found in every repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...common.errors import HostError
from ...common.telemetry_backup import RepositorySample
from ..action import Run
from ..backups.driver import USER
from ..backups.told import ask
from ..backups.tools import driver
from ..resource import Change, Resource
from ..system import Look
from .postgres import IN_RECOVERY

IDENTITY = "select system_identifier, current_setting('server_version_num')::int / 10000 from pg_control_system()"
MUTE = ("unreachable", "damaged")
NOT_HERE = "the leader's node does it"
CHECK_S = 240.0
ASK_S = 15.0  # a plan waits for it; the tool itself gives a repository that does not answer up after 48 s


@dataclass(frozen=True, slots=True)
class StanzaFacts:
    """`system_id` and `version` of the database on this host; empty where there is none."""

    replica: bool = False
    system_id: str = ""
    version: str = ""
    repositories: tuple[RepositorySample, ...] = ()


class Stanza(Resource[StanzaFacts]):
    """`local`: the host has the database itself. The command lines are the tool's, for user postgres."""

    kind: Literal["stanza"] = "stanza"
    stanza: str
    driver: str
    numbers: tuple[int, ...]
    create: tuple[str, ...]
    upgrade: tuple[str, ...]
    check: tuple[str, ...]
    local: bool = True

    def key(self) -> str:
        return self.stanza

    def observe(self, look: Look) -> StanzaFacts:
        replica, system_id, version = False, "", ""
        if self.local:
            if look.sql("postgres", IN_RECOVERY).stdout.strip() != "f":
                return StanzaFacts(replica=True)
            answer = look.sql("postgres", IDENTITY)
            system_id, _, version = answer.stdout.strip().partition("\t") if answer.rc == 0 else ("", "", "")
        tool = driver(self.driver)
        if None in look.packages(tool.packages()).values():
            missing = tuple(RepositorySample(number=n, state="no stanza", at=look.now()) for n in self.numbers)
            return StanzaFacts(replica, system_id, version, missing)
        told = ask(tool, self.stanza, self.numbers, lambda argv: look.ask(argv, timeout_s=ASK_S), look.now)
        return StanzaFacts(replica, system_id, version, told.repositories)

    def plan(self, facts: StanzaFacts) -> list[Change]:
        changes: list[Change] = []
        for one in facts.repositories:
            where = f"repository {one.number}"
            if one.state == "no stanza":
                changes.append(Change(where, self._run(self.create), "does not know the cluster", "ready"))
            elif facts.system_id and one.system_id and one.system_id != facts.system_id:
                self._insist(facts, one, where)
                changes.append(Change(where, self._run(self.upgrade), f"PostgreSQL {one.version}", facts.version))
            elif facts.version and one.version and one.version != facts.version:
                changes.append(Change(where, self._run(self.upgrade), f"PostgreSQL {one.version}", facts.version))
        if not changes:
            return []
        return [*changes, Change("a WAL segment", self._run(self.check), "not tried", "archived and found")]

    def _insist(self, facts: StanzaFacts, one: RepositorySample, where: str) -> None:
        if one.version == facts.version:
            raise HostError(
                f"{where} holds backups of another database, system identifier {one.system_id}; this one has "
                f"{facts.system_id}. To have that database back: pgha-master restore {self.stanza}. To begin anew, "
                "give the repository another path in the definition"
            )

    def skip(self, facts: StanzaFacts) -> str:
        if facts.replica:
            return NOT_HERE
        return next((f"repository {r.number} is {r.state}: {r.why}" for r in facts.repositories if r.state in MUTE), "")

    def _run(self, argv: tuple[str, ...]) -> Run:
        return Run(argv, user=USER, timeout_s=CHECK_S, busy=driver(self.driver).busy)
