"""A master and a minion over a line that loses, repeats and comes back late, both of which die: Hypothesis plays it.

Real are the parts that decide: the journal, the outbox, what a minion does with an order, the table of states, and what
the store does with events, on SQLite. Played are the line, the deaths, and the worker, which only counts what it began.
`PGHA_SEEDS=100` plays as many times more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pgha.common.messages import Accept, Ack, Event, Job, Lost, Message, Refuse, Resync
from pgha.common.names import new_job_id
from pgha.common.signing import Signer, Verifier
from pgha.common.sqlite import Connection, open_database
from pgha.master.store import EventRow, JobRow, Piece, transitions
from pgha.master.store.jobs import Jobs
from pgha.master.store.schema import STEPS
from pgha.minion.journal import Journal
from pgha.minion.orders import Orders
from pgha.minion.outbox import Outbox

EXAMPLES = 60 * max(1, int(os.environ.get("PGHA_SEEDS", "1")))
RAM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # fsync of a thousand transactions costs nothing there
ENDS_AGREE = {"done": "finished", "unknown": "interrupted", "cancelled": "cancelled"}


class Kept:
    """A value that is there already, for who would await it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class StoreNow(Jobs):
    """The store's own functions, each in a transaction of its own, at once."""

    def __init__(self, path: Path) -> None:
        self._db = open_database(path, "store", STEPS)

    def submit(self, work: Callable[[Connection], Any], *, lazy: bool = False) -> Any:
        self._db.execute("begin immediate")
        value = work(self._db)
        self._db.execute("commit")
        return Kept(value)

    def rows(self, query: str) -> list[Any]:
        return self._db.execute(query).fetchall()

    def high(self, epoch: str) -> int:
        row = self._db.execute("select hw from streams where node='n1' and epoch=?", (epoch,)).fetchone()
        return int(row[0]) if row else 0

    def shut(self) -> None:
        self._db.close()


class Hands:
    """A worker that takes one job after the other, when it is told to."""

    def __init__(self, journal: Journal, effects: Counter[str]) -> None:
        self.journal, self.effects = journal, effects
        self.waiting: deque[str] = deque()
        self.running = ""

    def insist_on_room(self) -> None: ...

    def submit(self, job: Job) -> None:
        self.waiting.append(job.jid)

    def has(self, jid: str, att: int) -> bool:
        return jid == self.running or jid in self.waiting

    def go_on(self, talk: bool) -> None:
        if not self.running and self.waiting:
            self.running = self.waiting.popleft()
            self.journal.start(self.running, 1)
            self.effects[self.running] += 1
        elif self.running and talk:
            self.journal.record(self.running, 1, "out", {"stream": "stdout", "text": "x"})
        elif self.running:
            self.journal.finish(self.running, 1, "done", {"ok": True})
            self.running = ""


class Line:
    """From one HELLO on. `settle_at`: what was open at the master and not at the minion is settled then."""

    def __init__(self, outbox: Outbox, settle_at: int, known: set[str]) -> None:
        self.outbox, self.settle_at, self.known = outbox, settle_at, known
        self.settled = False
        self.up: deque[Message] = deque()
        self.down: deque[Message] = deque()


class Bus(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=RAM))
        self.signer = Signer(self.folder / "signing.key")
        self.verifier = Verifier(self.signer.public)
        self.effects: Counter[str] = Counter()
        self.ordered: dict[str, Job] = {}
        self.line: Line | None = None
        self.late: list[Message] = []  # frames of connections that are no more
        self.store = StoreNow(self.folder / "pgha.db")
        self.wake_minion()

    def wake_minion(self) -> None:
        self.journal = Journal(self.folder / "journal.db")
        self.hands = Hands(self.journal, self.effects)
        worker: Any = self.hands
        self.orders = Orders("n1", self.journal, worker, lambda answer: None)

    def teardown(self) -> None:
        try:
            self.comes_to_rest()
        finally:
            self.journal.close()
            self.store.shut()
            shutil.rmtree(self.folder)

    # ---- what happens

    @precondition(lambda self: len(self.ordered) < 5)
    @rule()
    def order(self) -> None:
        text = b"{}"
        values: dict[str, Any] = {
            "cls": "call",
            "mode": "call",
            "not_after_ms": 10**6,
            "ttl_ms": 10**6,
            "size": 2,
            "document": text,
        }
        sha256 = hashlib.sha256(text).hexdigest()
        job = self.signer.job(Job(jid=new_job_id(), att=1, minion="n1", mepoch=1, sha256=sha256, **values))
        self.store.put_jobs([JobRow(job.jid, 1, "n1", "o", "call", "call", "x", "queued", 10**6, b"")], 1.0)
        self.ordered[job.jid] = job
        if self.line is None:
            self.connect()
        else:
            self.line.down.append(job)

    @precondition(lambda self: self.line is None)
    @rule()
    def connect(self) -> None:
        open_jobs, high = self.journal.open_jobs(), self.journal.highest()
        stored = self.store.high(self.journal.epoch)
        self.journal.acknowledge(stored)
        outbox = Outbox(self.journal, stored, 4, 0)
        self.line = Line(outbox, high, {job.jid for job in open_jobs})
        self.settle(stored)

    @precondition(lambda self: self.line is not None)
    @rule(keep=st.integers(0, 3))
    def break_the_line(self, keep: int) -> None:
        """What was on its way to the master is lost, or comes when another connection is there already."""
        assert self.line is not None
        self.late = [*self.late, *list(self.line.up)[:keep]][-6:]
        self.line = None

    @precondition(lambda self: self.line is not None)
    @rule()
    def send_jobs(self) -> None:
        """What is queued is sent, as often as the master likes."""
        assert self.line is not None
        for jid, state in self.store.rows("select jid, state from jobs"):
            if state == "queued":
                self.line.down.append(self.ordered[jid])

    @precondition(lambda self: self.line is not None)
    @rule()
    def heartbeat(self) -> None:
        assert self.line is not None
        self.line.outbox.beat()
        self.send_events()

    @precondition(lambda self: self.line is not None and self.line.down)
    @rule(times=st.integers(1, 4))
    def minion_hears(self, times: int) -> None:
        assert self.line is not None
        for _ in range(min(times, len(self.line.down))):
            self.hear_at_minion()

    @precondition(lambda self: self.line is not None and self.line.up)
    @rule(times=st.integers(1, 4))
    def master_hears(self, times: int) -> None:
        assert self.line is not None
        for _ in range(min(times, len(self.line.up))):
            self.hear(self.line.up.popleft())

    @precondition(lambda self: self.line is not None and any(isinstance(one, Event) for one in self.line.up))
    @rule()
    def master_hears_and_its_store_refuses_the_first_event(self) -> None:
        """That is answered with nothing; what comes after it is not refused any more."""
        assert self.line is not None
        heard, self.line.up = list(self.line.up), deque()
        heard.remove(next(one for one in heard if isinstance(one, Event)))
        for message in heard:
            self.hear(message)

    def send_events(self) -> None:
        if self.line is not None:
            for message in self.line.outbox.next():
                self.line.up.append(message)
                self.line.outbox.took(message)

    def hear_at_minion(self) -> None:
        assert self.line is not None
        message = self.line.down.popleft()
        if isinstance(message, Job):
            answer = self.orders.take(message, self.verifier, 5)
            assert isinstance(answer, Accept), answer
            self.line.up.append(answer)
        elif isinstance(message, Ack):
            self.journal.acknowledge(message.seq)
            self.line.outbox.acknowledge(message.seq)
        elif isinstance(message, Resync):
            self.line.outbox.resync(message.from_seq)

    @precondition(lambda self: self.late)
    @rule()
    def master_hears_late(self) -> None:
        self.hear(self.late.pop(0))

    @precondition(lambda self: self.hands.running or self.hands.waiting)
    @rule(talk=st.lists(st.booleans(), min_size=1, max_size=4))
    def minion_works(self, talk: list[bool]) -> None:
        for one in talk:
            self.hands.go_on(one)
        self.send_events()

    @rule()
    def minion_dies(self) -> None:
        self.journal.close()
        self.line = None
        self.wake_minion()

    @rule()
    def master_dies(self) -> None:
        self.store.shut()
        self.line = None
        self.store = StoreNow(self.folder / "pgha.db")

    # ---- as `master/bus/intake.py` does it

    def hear(self, message: Message) -> None:
        if isinstance(message, Accept):
            self.store.move_job(message.jid, 1, "n1", "accept", "", 1.0)
            self.know(message.jid)
        elif isinstance(message, Event):
            if self.line is not None and message.seq > self.line.settle_at:
                self.know(message.jid)
            word = transitions.arrived(message.kind, message.body)
            row = EventRow(message.seq, message.jid, 1, message.kind, message.body.decode(), word)
            kept: Any = self.store.add_pieces([Piece("n1", message.epoch, [row])], 1.0)
            high = kept.value[0].hw
            if high < message.seq - 1:
                self.say(Resync(epoch=message.epoch, from_seq=high + 1))
            else:
                self.say(Ack(epoch=message.epoch, seq=high))
                self.settle(high)
        elif isinstance(message, Lost):
            raise AssertionError("nothing was ever forgotten, and something is told as lost")
        else:
            assert not isinstance(message, Refuse)

    def say(self, message: Message) -> None:
        if self.line is not None:
            self.line.down.append(message)

    def know(self, jid: str) -> None:
        if self.line is not None and not self.line.settled:
            self.line.known.add(jid)

    def settle(self, high: int) -> None:
        line = self.line
        if line is None or line.settled or high < line.settle_at:
            return
        line.settled = True
        for jid, state in self.store.rows("select jid, state from jobs"):
            if state in ("accepted", "started") and jid not in line.known:
                self.store.move_job(jid, 1, "n1", "absent", "", 1.0)

    # ---- what must hold

    @invariant()
    def each_job_begins_at_most_once_and_only_as_ordered(self) -> None:
        assert all(times == 1 and jid in self.ordered for jid, times in self.effects.items()), self.effects

    @invariant()
    def what_is_acknowledged_is_stored_once_and_in_order(self) -> None:
        high = self.store.high(self.journal.epoch)
        assert self.journal.acked <= high <= self.journal.highest()
        stored = self.store.rows("select seq, jid, kind from events order by seq")
        held = [(event.seq, event.jid, event.kind) for event in self.journal.events_after(0, 10_000)]
        assert stored == held[:high]

    @invariant()
    def what_is_told_is_true(self) -> None:
        for jid, state in self.store.rows("select jid, state from jobs"):
            assert state in ("queued", "accepted", "started", "done", "unknown", "cancelled")
            if state == "done":
                assert self.effects[jid] == 1
            if state == "cancelled":
                assert self.effects[jid] == 0, "it is said not to have begun"
            if state == "unknown":
                assert not self.hands.has(jid, 1), "it is called unknown and runs"

    def comes_to_rest(self) -> None:
        """Everything works again: every job ends, and both sides agree how."""
        for _ in range(40):
            if self.line is None:
                self.connect()
            assert self.line is not None
            for jid, state in self.store.rows("select jid, state from jobs"):
                if state == "queued":
                    self.line.down.append(self.ordered[jid])
            while self.line.down or self.line.up or self.hands.waiting or self.hands.running:
                while self.line.down:
                    self.hear_at_minion()
                while self.line.up:
                    self.hear(self.line.up.popleft())
                self.hands.go_on(False)
                self.send_events()
            self.line.outbox.beat()
            self.send_events()
        self.each_job_begins_at_most_once_and_only_as_ordered()
        self.what_is_acknowledged_is_stored_once_and_in_order()
        self.what_is_told_is_true()
        assert self.store.high(self.journal.epoch) == self.journal.highest()
        at_minion = dict(self.journal._db.execute("select jid, state from jobs"))
        for jid, state in self.store.rows("select jid, state from jobs"):
            assert ENDS_AGREE.get(state) == at_minion.get(jid), (state, at_minion.get(jid))


Bus.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    database=None,
    phases=(Phase.generate,) if "PGHA_IS_A_MUTANT" in os.environ else tuple(Phase),
)
test_whatever_the_line_and_deaths_do_the_five_promises_hold = Bus.TestCase
