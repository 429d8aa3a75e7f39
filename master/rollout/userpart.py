"""The part of a rollout that is about documents of the user's own: which there are, who gets them, and a last look.

They are read once, when the rollout begins. Who gets them is decided for the plan, and again when their stage begins:
until then somebody may have come to lead, and what they would restart may have come to run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from ...common.cluster import Cluster
from ...common.errors import UserError
from ...common.results import ResourceResult, Status
from ...states.catalog import DOCUMENTS
from ...states.resource import AnyResource
from ..orchestration.fleet import PLAN, Failed, Fleet
from ..orchestration.report import Report
from ..orchestration.seams import Headquarters
from ..orchestration.stages import Stage, concerned, stages_with
from ..targeting.targeting import of_cluster
from ..userstates.states import UserStates

Compiled = dict[str, list[AnyResource]]
Results = Mapping[str, Sequence[ResourceResult]]


@dataclass
class OwnPart:
    """`only`: what was asked for; empty: all. Raises UserError for what cannot be used or is not there.

    `applied`: nothing but what is still as it was applied last; what was written since then is nobody's drift.
    """

    master: Headquarters
    cluster: Cluster
    only: tuple[str, ...]
    applied: bool = False

    def __post_init__(self) -> None:
        self.states = self.master.user_states()
        self._left_out = [] if self.applied else self.states.insist(self.only)
        self.names = (*DOCUMENTS, *self.states.names)
        self.stages = stages_with(self.states.names)
        self._asked = not self.only or bool(set(self.only) & set(self.states.names))
        if wrong := sorted(set(self.only) - set(self.names)):
            raise UserError(f"there is no document {wrong[0]!r}; there are {', '.join(self.names)}")

    async def compiled(self, build: Callable[[], Awaitable[Compiled]], report: Report) -> Compiled:
        """For the plan. Documents that nobody asked for do not stand in the way of those that somebody did."""
        for text in self._left_out:
            await report.warn(text)
        if self.applied:
            self.states = self.states.as_applied(await self.master.store.notes(self.cluster.name))
        self._choose()
        try:
            return await build()
        except UserError as error:
            if self._asked or not self.states.documents:
                raise
            self.states = UserStates()
            found = await build()
            await report.warn(f"documents of your own cannot be built and are left out: {error}")
            return found

    async def again(
        self,
        stage: Stage,
        results: Results,
        nodes: Sequence[str],
        build: Callable[[], Awaitable[Compiled]],
        fleet: Fleet,
    ) -> Results:
        """The plans of that stage as they are after all others. Raises Failed where there is none."""
        if not self._asked or not (concerned(stage, results) or self.states.moves(self.only)):
            return results
        self._choose()
        documents = [d for d in stage.documents if not self.only or d in self.only]
        answers = await fleet.converge("plan", await build(), dict.fromkeys(nodes, documents), PLAN)
        for node, answer in answers.items():
            if answer.outcome is None or any(r.status is Status.FAILED for r in answer.results):
                raise Failed(f"{stage.name}: {node}: no plan: {answer.why()}")
        return {node: answer.results for node, answer in answers.items()}

    async def remember(self) -> None:
        """They have been applied, on all nodes."""
        for key, digest in self.states.applied(self.only).items():
            await self.master.store.note(self.cluster.name, key, digest)

    def _choose(self) -> None:
        self.states = self.states.choose(of_cluster(self.master, self.cluster))


def beyond(now: Results, then: Results, documents: Sequence[str]) -> list[str]:
    """What would be changed in these documents now and was not to be changed then, as `NODE: RESOURCE`."""

    def planned(results: Results) -> list[tuple[str, str]]:
        return [
            (node, r.resource)
            for node, found in results.items()
            for r in found
            if r.status is Status.PLANNED and r.document in documents
        ]

    known = set(planned(then))
    return [f"{node}: {resource}" for node, resource in planned(now) if (node, resource) not in known]
