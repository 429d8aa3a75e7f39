"""Orders to several minions at once, and what comes back, as values. Knows documents and calls; knows no procedure.

Rule: a node's state is always the job's own. That nobody has heard of a minion for a while is said in the message, and
changes no state: the job may still run there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..common.errors import HostError, PghaError
from ..common.functions import FUNCTIONS
from ..common.results import Outcome, ResourceResult, Status
from ..states.kinds import encode
from ..states.resource import AnyResource
from . import jobs
from .hub import Flight, Output
from .operations import Operation
from .progress import NodeDone, Resource
from .progress import Output as OutputLine
from .seams import Minions

PLAN = "plan"
STATE_TIMEOUT_S = 3600.0
STATE_SILENCE_S = 60.0
CALL_SILENCE_S = 15.0
GRACE_S = 30.0  # a minion ends a command by itself at its time; the job's own deadline comes later
NOT_SENT = "its minion is not connected; nothing was sent"
Blob = tuple[str, int]  # SHA-256 and size of a file that goes with a call


class Failed(HostError):
    """A step did not succeed. The text is the End's message."""


@dataclass
class Answer:
    """What one node said: `state` is the job's one true state, or what became of it when there was none."""

    node: str
    state: str = "queued"
    results: list[ResourceResult] = field(default_factory=list)
    outcome: Outcome | None = None
    message: str = ""

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
            "unknown": "its minion was restarted in the middle, nobody knows how far it came",
            "expired": "the job's time was over before the minion took it",
        }
        return self.message or known.get(self.state, self.state)

    def line(self) -> NodeDone:
        outcome = self.outcome or Outcome(ok=False)
        return NodeDone(
            node=self.node,
            state=self.state,
            exit_code=outcome.exit_code,
            message="" if self.ok else self.why(),
            data=outcome.data,
            seconds=outcome.seconds,
        )


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
                node: lambda node=node: self._hub.ledger.order(  # type: ignore[misc]
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
            STATE_SILENCE_S,
        )

    async def call(
        self,
        function: str,
        arguments: Mapping[str, Sequence[str]],
        timeout_s: float,
        *,
        show: bool = False,
        silence_s: float = CALL_SILENCE_S,
        blob: Blob = ("", 0),
    ) -> dict[str, Answer]:
        """Call a function on the nodes that `arguments` names, side by side. `show`: lines go to who follows.

        A node that is not connected gets nothing, now or later: what was given up here must not be done at last there.
        """
        absent = {
            node: Answer(node, "cancelled", message=NOT_SENT) for node in arguments if not self._hub.connected(node)
        }
        if show:
            for answer in absent.values():
                await self._operation.emit(answer.line())
        file = {"blob": {"sha256": blob[0], "size": blob[1]}} if blob[0] else {}
        orders = {
            node: lambda node=node: self._hub.ledger.order(
                node,
                "call",
                {"function": function, "arguments": list(arguments[node]), "timeout_s": timeout_s, **file},
                what=function,
                operation=self._operation.id,
                timeout_s=timeout_s + GRACE_S,
                query=FUNCTIONS[function].query,
                blob=blob,
            )
            for node in arguments
            if node not in absent
        }
        return absent | await self._all(orders, "show" if show else "", silence_s)

    async def attach(self, answers: Mapping[str, tuple[Answer, Flight]], silence_s: float) -> dict[str, Answer]:
        """Go on with jobs that were ordered before this master was started, as `call` does with `show`."""
        waiting = (self._follow(flight, answer, "show", silence_s) for answer, flight in answers.values())
        return {answer.node: answer for answer in await asyncio.gather(*waiting)}

    async def _all(self, orders: Mapping[str, Callable[[], Any]], step: str, silence_s: float) -> dict[str, Answer]:
        if self._operation.cancelled_by:
            raise Failed(f"cancelled by {self._operation.cancelled_by}; what had been done stays")
        waiting = [self._one(node, order, step, silence_s) for node, order in orders.items()]
        # a single one is ordered in this very turn, so that its row is stored together with that of the operation
        answers = [await waiting[0]] if len(waiting) == 1 else await asyncio.gather(*waiting)
        return {answer.node: answer for answer in answers}

    async def _one(self, node: str, order: Callable[[], Any], step: str, silence_s: float) -> Answer:
        answer = Answer(node)
        try:
            flight: Flight = await order()
        except PghaError as error:
            if step != "show":
                raise
            answer.state, answer.message = "refused", str(error)
            await self._operation.emit(answer.line())
            return answer
        return await self._follow(flight, answer, step, silence_s)

    async def _follow(self, flight: Flight, answer: Answer, step: str, silence_s: float) -> Answer:
        clock = self._operation.clock
        heard = clock.monotonic()
        async for news in self._hub.ledger.follow(flight, silence_s):
            heard = heard if news == "silent" else clock.monotonic()
            if isinstance(news, ResourceResult):
                answer.results.append(news)
                if step != PLAN and news.status is not Status.SKIPPED:  # the Plan line shows both
                    await self._operation.emit(Resource(node=answer.node, step=step, result=news))
            elif isinstance(news, Output):
                if step == "show":
                    await self._operation.emit(output(answer.node, news))
            elif isinstance(news, Outcome):
                answer.outcome = news
            elif news in jobs.ENDED:
                answer.message = flight.message
        answer.state = flight.state
        if flight.state in jobs.OPEN:
            answer.message = self._silent(answer.node, heard)
        if step == "show":
            await self._operation.emit(answer.line())
        return answer

    def _silent(self, node: str, heard: float) -> str:
        """`heard` is monotonic; what is told is this host's time of day."""
        peer, clock = self._hub.peers.get(node), self._operation.clock
        at = datetime.fromtimestamp(clock.now() - clock.monotonic() + max(heard, peer.heard if peer else heard))
        return f"its minion has been silent since {at.astimezone():%H:%M:%S}; the job may still run there"


def output(node: str, news: Output) -> OutputLine:
    known: Any = news.stream if news.stream in ("stderr", "bytes") else "stdout"
    return OutputLine(node=node, stream=known, text=news.text)
