"""Carries the public halves of the data nodes' SSH keys from each to the others, by way of the cluster's notes.

A half is what its node said last. It is asked for before a plan, and, where one was not there yet, again before the
stage that needs it. What to make of it, `states/documents/ssh.py` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from ...common.cluster import Cluster
from ...states.halves import PublicHalf
from ..orchestration.fleet import Answer, Failed, Fleet
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters

log = logging.getLogger("pgha.exchange")
NOTE = "ssh:"
ANSWER_S = 20.0


@dataclass
class Exchange:
    """`nodes`: those that are applied to. `missing`: of the data nodes among them whose half is not known, and why.

    `unplanned`: where the document cannot be planned, and is applied with what is known once the keys are made.
    """

    master: Headquarters
    fleet: Fleet
    cluster: Cluster
    report: Report
    nodes: Collection[str]
    missing: dict[str, str] = field(default_factory=dict)
    unplanned: list[str] = field(default_factory=list)

    async def before_plan(self) -> None:
        await self._ask()
        self.unplanned = self._data_nodes() if self.missing else []
        if self.missing:
            named = {
                why: [name for name, other in self.missing.items() if other == why] for why in self.missing.values()
            }
            whys = "; ".join(f"{', '.join(names)}: {why}" for why, names in named.items())
            await self.report.warn(
                f"an apply lets the data nodes in at each other by SSH once it knows their keys; not yet: {whys}"
            )

    async def before_stage(self) -> None:
        """Raises Failed when a key that must be there by now is not."""
        if not self.unplanned:
            return
        since = self.master.clock.monotonic()
        await self._ask()
        for name, why in self.missing.items():
            raise Failed(f"ssh: {name}: {why}")
        await self.report.step("ssh keys", "done", since=since, detail=f"known of {', '.join(self._data_nodes())}")

    def _data_nodes(self) -> list[str]:
        return [node.name for node in self.cluster.data_nodes if node.name in self.nodes]

    async def _ask(self) -> None:
        """Ask every data node that is connected, and keep what is said. Of one that is silent the last word counts."""
        if not self.cluster.system.ssh_between_data_nodes or not self.nodes:
            return
        names = [node.name for node in self.cluster.data_nodes if self.master.hub.connected(node.name)]
        answers = await self.fleet.call("ssh.public", dict.fromkeys(names, ()), ANSWER_S)
        notes, whys = await self.master.store.notes(self.cluster.name), {}
        for name, answer in answers.items():
            half, whys[name] = told(answer)
            if half is not None and (text := half.model_dump_json()) != notes.get(NOTE + name):
                notes[NOTE + name] = text
                await self.master.store.note(self.cluster.name, NOTE + name, text)
        known = halves(self.cluster, notes)
        self.missing = {name: whys.get(name, "it is away") for name in self._data_nodes() if name not in known}


def told(answer: Answer) -> tuple[PublicHalf | None, str]:
    """What a node said, None when that is nothing to go by; and why it is not all that is needed."""
    if not answer.ok or answer.outcome is None:
        return None, answer.why()
    try:
        half = PublicHalf.model_validate(answer.outcome.data)
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        return None, f"what it says of its public keys cannot be used: {why}"
    return half, half.missing()


def halves(cluster: Cluster, notes: Mapping[str, str]) -> dict[str, PublicHalf]:
    """By node, of the data nodes whose halves are both known. For `Context.ssh`."""
    found = {}
    for node in cluster.data_nodes:
        try:
            half = PublicHalf.model_validate_json(notes.get(NOTE + node.name, "{}"))
        except ValidationError:
            log.warning("the note of %s about its SSH keys cannot be read; it is asked for anew", node.name)
            continue
        if half.complete:
            found[node.name] = half
    return found
