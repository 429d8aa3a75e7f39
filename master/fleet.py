"""Orders to several minions at once, and what comes back, as values. Knows documents and calls; knows no procedure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..common.errors import HostError
from ..common.results import Outcome, ResourceResult, Status
from ..states.kinds import encode
from ..states.resource import AnyResource
from .hub import Flight, Output
from .operations import Operation
from .progress import NodeDone, Resource
from .progress import Output as OutputLine
from .seams import Minions

PLAN = "plan"
STATE_TIMEOUT_S = 3600.0
STATE_SILENCE_S = 60.0
CALL_SILENCE_S = 15.0
NOT_SENT = "its minion is not connected; nothing was sent"


class Failed(HostError):
    """A step did not succeed. The text is the End's message."""


@dataclass
class Answer:
    """What one node said: `state` is the job's one true state, or "silent" while nobody knows better."""

    node: str
    state: str = "queued"
    results: list[ResourceResult] = field(default_factory=list)
    outcome: Outcome | None = None
    message: str = ""
    stdout: str = ""

    @property
    def ok(self) -> bool:
        return self.state == "done"

    def why(self) -> str:
        """The reason in one sentence, for a node that is not ok."""
        failed = [r for r in self.results if r.status.value == "failed"]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            return f"{failed[0].resource}: {failed[0].reason}{more}"
        if self.outcome and self.outcome.message:
            return self.outcome.message
        known = {
            "silent": "its minion has gone silent; the job may still run there",
            "unknown": "its minion was restarted in the middle; apply again",
            "expired": "the job's time was over before the minion took it",
        }
        return self.message or known.get(self.state, self.state)


class Fleet:
    def __init__(self, hub: Minions, operation: Operation) -> None:
        self._hub, self._operation = hub, operation

    async def converge(
        self,
        mode: str,
        resources: Mapping[str, Sequence[AnyResource]],
        documents: Mapping[str, Sequence[str]],
        step: str,
    ) -> dict[str, Answer]:
        """Plan or apply on all the given nodes side by side, on each its own of the documents."""
        return await self._all(
            {
                node: lambda node=node: self._hub.order(  # type: ignore[misc]
                    node,
                    mode,
                    {"documents": list(documents[node]), "resources": encode(resources[node])},
                    what=f"{mode} {step}",
                    operation=self._operation.id,
                    timeout_s=STATE_TIMEOUT_S,
                )
                for node in resources
            },
            step,
        )

    async def call(
        self,
        function: str,
        arguments: Mapping[str, Sequence[str]],
        timeout_s: float,
        *,
        show: bool = False,
        silence_s: float = CALL_SILENCE_S,
    ) -> dict[str, Answer]:
        """Call a function on the nodes that `arguments` names, side by side. `show`: lines go to who follows.

        A node that is not connected gets nothing, now or later: who is told "no answer" must not see it done at last.
        """
        absent = {node: Answer(node, "silent", message=NOT_SENT) for node in arguments if not self._hub.connected(node)}
        if show:
            for answer in absent.values():
                await self._operation.emit(_done(answer))
        return absent | await self._all(
            {
                node: lambda node=node: self._hub.order(  # type: ignore[misc]
                    node,
                    "call",
                    {"function": function, "arguments": list(arguments[node]), "timeout_s": timeout_s},
                    what=function,
                    operation=self._operation.id,
                    timeout_s=timeout_s + 30,
                )
                for node in arguments
                if node not in absent
            },
            "" if not show else "show",
            silence_s,
        )

    async def _all(
        self, orders: Mapping[str, Callable[[], Any]], step: str, silence_s: float = STATE_SILENCE_S
    ) -> dict[str, Answer]:
        answers = await asyncio.gather(*(self._one(node, order, step, silence_s) for node, order in orders.items()))
        return {answer.node: answer for answer in answers}

    async def _one(self, node: str, order: Callable[[], Any], step: str, silence_s: float) -> Answer:
        flight: Flight = await order()
        answer = Answer(node)
        async for news in self._hub.follow(flight, silence_s):
            if isinstance(news, ResourceResult):
                answer.results.append(news)
                if step != PLAN and news.status is not Status.SKIPPED:  # the Plan line shows both
                    await self._operation.emit(Resource(node=node, step=step, result=news))
            elif isinstance(news, Output):
                answer.stdout += news.text if news.stream == "stdout" else ""
                if step == "show":
                    stream: Any = "stderr" if news.stream == "stderr" else "stdout"
                    await self._operation.emit(OutputLine(node=node, stream=stream, text=news.text))
            elif isinstance(news, Outcome):
                answer.outcome, answer.state = news, flight.state
            else:
                answer.state, answer.message = news, flight.message
        if step == "show":
            await self._operation.emit(_done(answer))
        return answer


def _done(answer: Answer) -> NodeDone:
    outcome = answer.outcome or Outcome(ok=False)
    return NodeDone(
        node=answer.node,
        state=answer.state,
        exit_code=outcome.exit_code,
        message="" if answer.ok else answer.why(),
        data=outcome.data,
        seconds=outcome.seconds,
    )
