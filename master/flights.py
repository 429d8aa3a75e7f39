"""A job on its way: what was ordered of one minion, how it stands, and what has been heard of it. Values only."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from ..common.errors import BusError
from ..common.messages import Event, Job
from ..common.results import Outcome, ResourceResult


@dataclass(frozen=True, slots=True)
class Output:
    stream: str
    text: str


News = ResourceResult | Output | Outcome | str  # str: the job's new state


@dataclass
class Flight:
    """A job that has not ended. `news` is what arrives, in order; the last is an Outcome or an ended state.

    `resend`: it goes out again until it is accepted; not so when whoever ordered it is gone.
    """

    node: str
    job: Job
    state: str = "queued"
    message: str = ""
    operation: str = ""
    blob: str = ""  # SHA-256 of a file that its call may fetch
    deadline: float = float("inf")  # monotonic
    next_send: float = 0.0
    sent: bool = False  # it may have reached its minion
    resend: bool = True
    cancelled: bool = False  # somebody asked for its end
    output_bytes: int = 0
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)

    @property
    def key(self) -> tuple[str, int]:
        return self.job.jid, self.job.att


def payload(flight: Flight) -> bytes:
    """What the store keeps, sealed, so that a master that was restarted can send the job again."""
    kept = {"document": flight.job.document.decode(), "query": flight.job.query, "blob": flight.blob}
    return json.dumps(kept, separators=(",", ":")).encode()


def read_event(event: Event) -> tuple[str, News]:
    """The event's body as text, and what it says; for a change of state that is the reason, maybe empty.

    Raises BusError for a body that is not what its kind has: whoever is told of it later could break on it.
    """
    try:
        text = event.body.decode() or "{}"
        body = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair cannot be shown or stored
        if event.kind == "res":
            return text, ResourceResult.model_validate(body)
        if event.kind == "done":
            return text, Outcome.model_validate(body)
        if event.kind == "out":
            return text, Output(str(body["stream"]), str(body["text"]))
        return text, str(body.get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BusError(f"event {event.seq} ({event.kind}) has a body that cannot be read") from None
