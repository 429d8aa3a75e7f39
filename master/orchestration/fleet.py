"""Orders to several minions at once, and what comes back, as values. Knows documents and calls; knows no procedure.

Rule: a node's state is always the job's own. That nobody has heard of a minion for a while is said in the message, and
changes no state: the job may still run there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from ...common.errors import HostError, PghaError
from ...common.functions import FUNCTIONS
from ...common.messages import Mode
from ...common.results import Outcome, ResourceResult, Status
from ...states.kinds import encode
from ...states.resource import AnyResource
from ..bus.flights import Document, Flight, News, Output, is_last
from ..bus.following import SILENT
from ..operations.operations import Operation
from ..operations.progress import NodeDone, Resource
from ..operations.progress import Output as OutputLine
from ..store.transitions import OPEN
from .seams import Minions

PLAN, SHOW = "plan", "show"  # a step of that name: what is found is for the plan; every line is for who follows
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
    heard: float = 0.0
    """When something last came from there in this matter: monotonic s of this host."""

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
        mode: Mode,
        resources: Mapping[str, Sequence[AnyResource]],
        documents: Mapping[str, Sequence[str]],
        step: str,
        allow_destroy: Sequence[str] = (),
    ) -> dict[str, Answer]:
        """Plan or apply on all the given nodes side by side, on each its own of the documents."""
        self._insist()
        named = {"allow_destroy": list(allow_destroy)} if allow_destroy else {}
        flights = await self._order(
            {
                node: Document.of({"documents": list(documents[node]), "resources": encode(resources[node]), **named})
                for node in resources
            },
            mode,
            what=f"{mode} {step}",
            operation=self._operation.id,
            timeout_s=STATE_TIMEOUT_S,
        )
        return await self._follow([(Answer(flight.node), flight) for flight in flights], step, STATE_SILENCE_S)

    async def call(
        self,
        function: str,
        arguments: Mapping[str, Sequence[str]],
        timeout_s: float,
        *,
        show: bool = False,
        silence_s: float = CALL_SILENCE_S,
        blob: Blob = ("", 0),
        begun: asyncio.Event | None = None,
    ) -> dict[str, Answer]:
        """Call a function on the nodes that `arguments` names, side by side. `show`: lines go to who follows.

        `begun` is set at the first line that any of them says.

        A node that is not connected gets nothing, now or later: what was given up here must not be done at last there.
        """
        file = {"blob": {"sha256": blob[0], "size": blob[1]}} if blob[0] else {}

        @cache
        def document(words: tuple[str, ...]) -> Document:
            return Document.of({"function": function, "arguments": words, "timeout_s": timeout_s, **file})

        self._insist()
        left_out = self._left_out(function, arguments, refuse=show)
        asked = {node: document(tuple(words)) for node, words in arguments.items() if node not in left_out}
        about: Any = {"what": function, "operation": self._operation.id, "timeout_s": timeout_s + GRACE_S, "blob": blob}
        try:
            flights = await self._order(asked, "call", query=FUNCTIONS[function].query, **about)
        except PghaError as error:
            if not show:
                raise
            flights = []
            left_out |= {node: Answer(node, "refused", message=str(error)) for node in asked}
        if show:
            for answer in left_out.values():
                await self._operation.emit(answer.line())
        answers = [(Answer(flight.node), flight) for flight in flights]
        return left_out | await self._follow(answers, SHOW if show else "", silence_s, begun)

    def _left_out(self, function: str, nodes: Iterable[str], *, refuse: bool) -> dict[str, Answer]:
        """Nodes that get nothing; those that are held among them when they are to be refused one by one."""
        answers = {}
        for node in nodes:
            if not self._hub.connected(node):
                answers[node] = Answer(node, "cancelled", message=NOT_SENT)
            elif refuse and (why := self._hub.held(node, function)):
                answers[node] = Answer(node, "refused", message=f"{node}: {why}")
        return answers

    async def attach(self, under_way: Sequence[tuple[Answer, Flight]], silence_s: float) -> dict[str, Answer]:
        """Go on with jobs that were ordered before this master was started, as `call` does with `show`."""
        return await self._follow(under_way, SHOW, silence_s)

    async def _order(self, documents: Mapping[str, Document], mode: Mode, **about: Any) -> list[Flight]:
        return await self._hub.ledger.order(documents, mode, wanted=lambda: not self._operation.cancelled_by, **about)

    def _insist(self) -> None:
        """Raises Failed when nothing more is to begin."""
        if self._operation.cancelled_by:
            raise Failed(f"cancelled by {self._operation.cancelled_by}; what had been done stays")

    async def _follow(
        self, jobs: Sequence[tuple[Answer, Flight]], step: str, silence_s: float, begun: asyncio.Event | None = None
    ) -> dict[str, Answer]:
        """All of them to their ends, side by side."""
        answers = {flight.key: answer for answer, flight in jobs}
        clock = self._operation.clock
        for answer in answers.values():
            answer.heard = clock.monotonic()
        async for flight, news in self._hub.ledger.follow([flight for _, flight in jobs], silence_s):
            answer = answers[flight.key]
            if news != SILENT:
                answer.heard = clock.monotonic()
            if begun is not None and isinstance(news, Output):
                begun.set()
            await self._take(answer, flight, news, step)
            if news == SILENT or is_last(news):
                answer.state = flight.state
                if flight.state in OPEN:
                    answer.message = self._silent(answer)
                if step == SHOW:
                    await self._operation.emit(answer.line())
        return {answer.node: answer for answer, _ in jobs}

    async def _take(self, answer: Answer, flight: Flight, news: News, step: str) -> None:
        if isinstance(news, ResourceResult):
            answer.results.append(news)
            if step != PLAN and news.status is not Status.SKIPPED:  # the Plan line shows both
                await self._operation.emit(Resource(node=answer.node, step=step, result=news))
        elif isinstance(news, Output):
            if step == SHOW:
                await self._operation.emit(output(answer.node, news))
        elif isinstance(news, Outcome):
            answer.outcome = news
        elif is_last(news):
            answer.message = flight.message

    def _silent(self, answer: Answer) -> str:
        """What is told is this host's time of day."""
        peer, clock = self._hub.peers.get(answer.node), self._operation.clock
        heard = max(answer.heard, peer.heard if peer else 0.0)
        at = datetime.fromtimestamp(clock.now() - clock.monotonic() + heard)
        return f"its minion has been silent since {at.astimezone():%H:%M:%S}; the job may still run there"


def output(node: str, news: Output) -> OutputLine:
    known: Any = news.stream if news.stream in ("stderr", "bytes") else "stdout"
    return OutputLine(node=node, stream=known, text=news.text)
