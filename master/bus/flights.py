"""A job on its way: what was ordered of one minion, how it stands, and what has been heard of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...common.clock import Clock
from ...common.errors import BusError, PghaError
from ...common.messages import Event, Job
from ...common.results import Outcome, ResourceResult
from ..store import Store, transitions

log = logging.getLogger("pgha.flights")

WORD_BYTES = 64 * 1024  # of an event that says no more than a state and its reason


@dataclass(frozen=True, slots=True)
class Output:
    stream: str
    text: str


News = ResourceResult | Output | Outcome | str  # str: the job's new state


@dataclass(frozen=True, slots=True)
class Document:
    """What a job is about, as JSON, and the SHA-256 of that: made once, however many minions get it."""

    text: bytes
    sha256: str

    @classmethod
    def of(cls, value: object) -> Document:
        text = json.dumps(value, separators=(",", ":")).encode()
        return cls(text, hashlib.sha256(text).hexdigest())


@dataclass(slots=True)
class Flight:
    """A job that has not ended. What arrives is `told`, in order; the last is an Outcome or an ended state.

    `resend`: it goes out again until it is accepted; not so when whoever ordered it is gone.
    """

    node: str
    job: Job
    state: str = "queued"
    message: str = ""
    operation: str = ""
    what: str = ""  # as `held` is asked for it
    blob: str = ""  # SHA-256 of a file that its call may fetch
    deadline: float = float("inf")  # monotonic
    named: float = float("-inf")  # monotonic; its minion said then that it was there
    next_send: float = 0.0
    sent: bool = False  # it may have reached its minion, now or ever
    resend: bool = True
    cancelled: bool = False  # somebody asked for its end
    output_bytes: int = 0
    answered: bool = False  # a query's answer is being stored
    told: deque[News] = field(default_factory=deque)  # what nobody has read yet
    readers: list[Reader] = field(default_factory=list)
    key: tuple[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.job.jid, self.job.att

    def tell(self, news: News) -> None:
        """Whoever follows it gets this, now or when somebody does."""
        if not self.readers:
            self.told.append(news)
        for reader in self.readers:
            reader(self, news)

    def read(self, reader: Reader) -> None:
        """From now on it is told there, too; and first what nobody has read yet."""
        self.readers.append(reader)
        while self.told:
            reader(self, self.told.popleft())

    def leave(self, reader: Reader) -> None:
        self.readers.remove(reader)


Reader = Callable[[Flight, News], None]


def is_last(news: News) -> bool:
    """Whether nothing comes after that."""
    return isinstance(news, Outcome) or news in transitions.ENDED


class Flights:
    """What has not ended, by job and by node, and the one way in which its state moves: stored first, then told."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._by_key: dict[tuple[str, int], Flight] = {}
        self._by_node: defaultdict[str, dict[tuple[str, int], Flight]] = defaultdict(dict)
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, jid: str, att: int, node: str) -> Flight | None:
        """That job, if it is one of that node's."""
        flight = self._by_key.get((jid, att))
        return flight if flight is not None and flight.node == node else None

    def all(self) -> list[Flight]:
        return list(self._by_key.values())

    def of(self, node: str) -> list[Flight]:
        return list(self._by_node[node].values()) if node in self._by_node else []

    def add(self, flight: Flight) -> None:
        self._by_key[flight.key] = self._by_node[flight.node][flight.key] = flight

    def remove(self, flight: Flight) -> None:
        self._by_key.pop(flight.key, None)
        self._by_node[flight.node].pop(flight.key, None)

    def move(self, flight: Flight, word: str, message: str) -> asyncio.Future[str]:
        """Something happened that no event tells of. Submitted at once; when the future is done, it is stored and told.

        A callback and no task, so that moves and events are told in the order they were stored in.
        """
        jid, att = flight.key
        stored = self._store.move_job(jid, att, flight.node, word, message, self._clock.now())
        stored.add_done_callback(partial(self._moved, flight, message))
        return stored

    def _moved(self, flight: Flight, message: str, stored: asyncio.Future[str]) -> None:
        if stored.cancelled():
            return
        if (error := stored.exception()) is not None:
            log.warning("not stored, so not told: %s", error)
        elif (after := stored.result()) and after != flight.state:
            flight.state, flight.message = after, message
            self.settled(flight)
            flight.tell(after)

    def settled(self, flight: Flight) -> None:
        """Its state may have become an end."""
        if flight.state in transitions.ENDED:
            self.remove(flight)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done. What the store does not take is logged, and not acknowledged: it comes again."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.WARNING if isinstance(error, PghaError) else logging.ERROR
            log.log(level, "not stored, so not acknowledged: %s", error, exc_info=level == logging.ERROR and error)


def payload(document: Document, query: bool, blob: str) -> bytes:
    """What the store keeps, sealed, so that a master that was restarted can send the job again."""
    kept = {"document": document.text.decode(), "query": query, "blob": blob}
    return json.dumps(kept, separators=(",", ":")).encode()


def _finite(word: str) -> float:
    if math.isfinite(number := float(word)):
        return number
    raise ValueError(f"{word} is no JSON, or larger than any number")


_decode = json.JSONDecoder(parse_constant=_finite, parse_float=_finite).decode


def read_json(text: str) -> Any:
    """Raises ValueError, also for what breaks whoever is shown or stores it, and RecursionError when it is deep."""
    value = _decode(text)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be shown or stored
    return value


def read_event(event: Event) -> tuple[str, News]:
    """The event's body as text, and what it says; for a change of state that is the reason, maybe empty.

    Raises BusError for a body that is not what its kind has: whoever is told of it later could break on it.
    """
    if event.kind not in ("res", "out", "done") and len(event.body) > WORD_BYTES:
        raise BusError(f"event {event.seq} ({event.kind}) has a body of {len(event.body)} bytes")
    try:
        text = event.body.decode() or "{}"
        body = read_json(text)
        if event.kind == "res":
            return text, ResourceResult.model_validate(body)
        if event.kind == "done":
            return text, Outcome.model_validate(body)
        if event.kind == "out":
            return text, Output(str(body["stream"]), str(body["text"]))
        return text, str(body.get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BusError(f"event {event.seq} ({event.kind}) has a body that cannot be read") from None
