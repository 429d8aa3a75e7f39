"""The part of a rollout that is about documents of the user's own: which there are, who gets them, and a last look.

They are read once, when the rollout begins. Who gets them is decided for the plan, and again when their stage begins:
until then somebody may have come to lead, and what they would restart may have come to run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from ..common.cluster import Cluster
from ..common.errors import UserError
from ..common.results import ResourceResult, Status
from ..states.catalog import DOCUMENTS
from ..states.resource import AnyResource
from .fleet import PLAN, Failed, Fleet
from .report import Report
from .seams import Headquarters
from .stages import Stage, concerned, stages_with
from .targeting import of_cluster
from .userstates import UserStates

Compiled = dict[str, list[AnyResource]]
Results = Mapping[str, Sequence[ResourceResult]]


@dataclass
class OwnPart:
    """`only`: what was asked for; empty: all. Raises UserError for what cannot be used or is not there."""

    master: Headquarters
    cluster: Cluster
    only: tuple[str, ...]

    def __post_init__(self) -> None:
        self.states = self.master.user_states()
        self._left_out = self.states.insist(self.only)
        self.names = (*DOCUMENTS, *self.states.names)
        self.stages = stages_with(self.states.names)
        self._asked = not self.only or bool(set(self.only) & set(self.states.names))
        if wrong := sorted(set(self.only) - set(self.names)):
            raise UserError(f"there is no document {wrong[0]!r}; there are {', '.join(self.names)}")

    async def compiled(self, compile: Callable[[], Awaitable[Compiled]], report: Report) -> Compiled:
        """For the plan. Documents that nobody asked for do not stand in the way of those that somebody did."""
        for text in self._left_out:
            await report.warn(text)
        self._choose()
        try:
            return await compile()
        except UserError as error:
            if self._asked or not self.states.documents:
                raise
            self.states = UserStates()
            found = await compile()
            await report.warn(f"documents of your own cannot be built and are left out: {error}")
            return found

    async def again(
        self,
        stage: Stage,
        results: Results,
        nodes: Sequence[str],
        compile: Callable[[], Awaitable[Compiled]],
        fleet: Fleet,
    ) -> Results:
        """The plans of that stage as they are after all others. Raises Failed where there is none."""
        if not self._asked or not (concerned(stage, results) or self.states.moves(self.only)):
            return results
        self._choose()
        documents = [d for d in stage.documents if not self.only or d in self.only]
        answers = await fleet.converge("plan", await compile(), dict.fromkeys(nodes, documents), PLAN)
        for node, answer in answers.items():
            if answer.outcome is None or any(r.status is Status.FAILED for r in answer.results):
                raise Failed(f"{stage.name}: {node}: no plan: {answer.why()}")
        return {node: answer.results for node, answer in answers.items()}

    def _choose(self) -> None:
        self.states = self.states.choose(of_cluster(self.master, self.cluster))
