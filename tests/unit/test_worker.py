"""Jobs on a host made of dicts: each runs once, in its turn, and its end is in the journal."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pgha.common.errors import HostError
from pgha.common.messages import Answer, Job
from pgha.common.names import new_job_id
from pgha.minion import worker as worker_module
from pgha.minion.journal import Journal
from pgha.minion.worker import Worker
from pgha.states.kinds import encode
from pgha.states.resources.files import File
from pgha.states.system import FileFacts
from pgha.states.testing import FakeSystem

WAIT_S = 10


class Held(FakeSystem):
    """Looks at no file before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def file(self, path: str) -> FileFacts:
        self.reached.set()
        assert self.go.wait(WAIT_S)
        return super().file(path)


@dataclass
class Bench:
    journal: Journal
    system: Held = field(default_factory=Held)
    files: dict[str, bytes] = field(default_factory=dict)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.worker = Worker(self.journal, self.system, lambda: None, self.ended.release, self.fetch)

    def fetch(self, sha256: str, size: int, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        file.write(self.files[sha256])

    def submit(self, job: Job) -> Job:
        assert self.journal.accept(job.jid, job.att, job.cls, job.not_after_ms)
        self.worker.submit(job)
        return job

    def wait(self, jobs: int = 1) -> None:
        self.system.go.set()
        for _ in range(jobs):
            assert self.ended.acquire(timeout=WAIT_S)

    def events(self, job: Job) -> list[tuple[str, dict[str, Any]]]:
        return [(e.kind, json.loads(e.body)) for e in self.journal.events_after(0, 1000) if e.jid == job.jid]

    def outcome(self, job: Job) -> dict[str, Any]:
        kind, body = self.events(job)[-1]
        assert kind == "done"
        return body


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(Journal(tmp_path / "journal.db"))
    yield bench
    bench.system.go.set()
    bench.worker.close()


def order(document: object, mode: Any = "apply", ttl_ms: int = 60_000) -> Job:
    text = json.dumps(document, separators=(",", ":")).encode()
    return Job(
        jid=new_job_id(),
        att=1,
        mepoch=1,
        cls="call" if mode == "call" else "state",
        mode=mode,
        not_after_ms=10**15,
        ttl_ms=ttl_ms,
        sha256=hashlib.sha256(text).hexdigest(),
        document=text,
    )


def files(*names: str, mode: Any = "apply", ttl_ms: int = 60_000) -> Job:
    resources = [File(document="doc", path=f"/etc/{name}", content="x\n") for name in names]
    return order({"documents": ["doc"], "resources": encode(resources)}, mode, ttl_ms)


def test_an_applied_document_is_told_resource_by_resource(bench: Bench) -> None:
    job = bench.submit(files("a", "b"))
    bench.wait()
    assert [kind for kind, _ in bench.events(job)] == ["started", "res", "res", "done"]
    assert bench.outcome(job)["ok"] is True
    assert bench.outcome(job)["changed"] == 2
    assert bench.system.files["/etc/a"].content == "x\n"


def test_what_did_not_change_is_counted_and_not_told(bench: Bench) -> None:
    bench.submit(files("a"))
    bench.wait()
    again = bench.submit(files("a"))
    bench.wait()
    assert [kind for kind, _ in bench.events(again)] == ["started", "done"]
    assert bench.outcome(again)["unchanged"] == 1


def test_a_plan_changes_nothing(bench: Bench) -> None:
    job = bench.submit(files("a", mode="plan"))
    bench.wait()
    assert bench.outcome(job)["planned"] == 1
    assert bench.system.performed == []


def test_documents_run_one_after_the_other_and_calls_beside_them(bench: Bench) -> None:
    first, second = bench.submit(files("a")), bench.submit(files("b"))
    assert bench.system.reached.wait(WAIT_S)
    call = bench.submit(order({"function": "ping"}, "call"))
    assert bench.ended.acquire(timeout=WAIT_S)
    assert bench.outcome(call)["ok"] is True
    assert bench.events(second) == []
    assert {one.jid for one in bench.worker.running()} == {first.jid, second.jid}
    bench.wait(2)
    assert [e.jid for e in bench.journal.events_after(0, 99) if e.kind == "done"] == [call.jid, first.jid, second.jid]
    assert bench.worker.running() == ()


def test_a_job_cancelled_before_it_began_touches_nothing(bench: Bench) -> None:
    bench.submit(files("a"))
    assert bench.system.reached.wait(WAIT_S)
    waiting = bench.submit(files("b"))
    bench.worker.cancel(waiting.jid, 1)
    bench.wait(2)
    assert [kind for kind, _ in bench.events(waiting)] == ["cancelled"]
    assert "/etc/b" not in bench.system.files


def test_a_job_cancelled_in_the_middle_stops_after_the_resource_it_was_at(bench: Bench) -> None:
    job = bench.submit(files("a", "b"))
    assert bench.system.reached.wait(WAIT_S)
    bench.worker.cancel(job.jid, 1)
    bench.wait()
    kind, body = bench.events(job)[-1]
    assert kind == "cancelled"
    assert "while it ran" in body["reason"]
    assert "/etc/b" not in bench.system.files


def test_nothing_begins_after_its_deadline(bench: Bench) -> None:
    bench.submit(files("a"))
    assert bench.system.reached.wait(WAIT_S)
    late = bench.submit(files("b", ttl_ms=0))
    bench.wait(2)
    assert [kind for kind, _ in bench.events(late)] == ["expired"]
    assert "/etc/b" not in bench.system.files


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (order({"function": "rm"}, "call"), "there is no function 'rm'"),
        (order({"documents": ["doc"], "resources": [{"kind": "magic"}]}), "no resource kind 'magic'"),
        (order({"documents": []}), "what was ordered cannot be read: resources: Field required"),
        (order([1, 2], "call"), "internal error: ValidationError"),
    ],
)
def test_a_job_that_cannot_run_says_why_and_the_next_one_runs(bench: Bench, job: Job, why: str) -> None:
    bench.submit(job)
    bench.wait()
    assert bench.outcome(job)["ok"] is False
    assert why in bench.outcome(job)["message"]
    after = bench.submit(files("a"))
    bench.wait()
    assert bench.outcome(after)["ok"] is True


def test_a_failed_resource_fails_its_job(bench: Bench) -> None:
    resources = [File(document="doc", path="/etc/a", content="x", check=("no-such-check", "%s"))]
    bench.system.broken["WriteFile"] = "disk full"
    job = bench.submit(order({"documents": ["doc"], "resources": encode(resources)}))
    bench.wait()
    assert (bench.outcome(job)["ok"], bench.outcome(job)["failed"]) == (False, 1)


def test_a_command_gives_its_lines_and_its_exit_code(bench: Bench) -> None:
    job = bench.submit(order({"function": "cmd", "arguments": ["sh", "-c", "echo é; echo no >&2; exit 3"]}, "call"))
    bench.wait()
    said = {(body["stream"], body["text"]) for kind, body in bench.events(job) if kind == "out"}
    assert said == {("stdout", "é\n"), ("stderr", "no\n")}
    assert bench.outcome(job)["exit_code"] == 3


def test_a_command_that_never_stops_talking_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "OUTPUT_LIMIT", 100_000)
    job = bench.submit(order({"function": "cmd", "arguments": ["seq", "1", "100000"]}, "call"))
    bench.wait()
    said = "".join(body["text"] for kind, body in bench.events(job) if kind == "out")
    assert 100_000 <= len(said) < 150_000
    assert "the rest of the output is left out" in said
    assert bench.outcome(job)["ok"] is True


def test_a_large_document_is_fetched_before_its_job_begins_to_change_anything(bench: Bench) -> None:
    whole = files("a")
    bench.files[whole.sha256] = whole.document
    job = bench.submit(whole.model_copy(update={"document": b"", "size": len(whole.document)}))
    bench.wait()
    assert bench.outcome(job)["changed"] == 1


def test_a_query_is_answered_and_leaves_nothing_in_the_journal(bench: Bench) -> None:
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    job = order({"function": "disk"}, "call").model_copy(update={"query": True})
    bench.worker.ask(job, answers.put)
    answer = answers.get(timeout=WAIT_S)
    assert (answer.jid, json.loads(answer.outcome)["ok"]) == (job.jid, True)
    assert bench.journal.highest() == 0
    assert not bench.journal.seen(job.jid, 1)


def test_a_query_that_waits_for_nothing_is_answered_at_once(bench: Bench) -> None:
    answer = bench.worker.ask(order({"function": "ping"}, "call").model_copy(update={"query": True}), _unwanted)
    assert answer is not None
    assert json.loads(answer.outcome)["data"] == {"pong": True}


def _unwanted(answer: Answer) -> None:
    raise AssertionError(f"{answer} came twice")


@pytest.mark.parametrize("function", ["cmd", "service.stop", "no.such"])
def test_what_changes_something_is_not_answered_as_a_query(bench: Bench, function: str) -> None:
    """A query is not journaled, so it could be made to run twice."""
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    job = order({"function": function, "arguments": ["true"]}, "call").model_copy(update={"query": True})
    bench.worker.ask(job, answers.put)
    assert json.loads(answers.get(timeout=WAIT_S).outcome)["ok"] is False
    assert bench.system.performed == []


def test_a_job_that_waits_for_its_turn_is_told_as_over_before_that_turn_comes(bench: Bench) -> None:
    bench.submit(files("a"))
    assert bench.system.reached.wait(WAIT_S)
    late, unwanted, good = bench.submit(files("b", ttl_ms=0)), bench.submit(files("c")), bench.submit(files("d"))
    bench.worker.cancel(unwanted.jid, 1)
    bench.worker.give_up()
    assert [kind for kind, _ in bench.events(late)] == ["expired"]
    assert [kind for kind, _ in bench.events(unwanted)] == ["cancelled"]
    assert bench.events(good) == []
    assert not bench.worker.has(late.jid, 1)
    bench.wait(4)
    assert bench.outcome(good)["ok"] is True
    assert [len(bench.events(job)) for job in (late, unwanted)] == [1, 1]
    assert set(bench.system.files) == {"/etc/a", "/etc/d"}


def test_what_runs_is_not_given_up_when_its_deadline_comes(bench: Bench) -> None:
    job = bench.submit(files("a", ttl_ms=200))
    assert bench.system.reached.wait(WAIT_S)
    while time.clock_gettime(time.CLOCK_BOOTTIME) - bench.worker._current[job.jid, 1].came < 0.3:
        bench.worker.give_up()
    bench.worker.give_up()
    bench.wait()
    assert bench.outcome(job)["ok"] is True


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_job_that_must_not_begin_when_the_disk_takes_its_start_at_last_never_begins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(worker_module, "RETRY_S", 0.01)
    refused, full, start = threading.Event(), threading.Event(), bench.journal.start
    full.set()
    job = files("a", ttl_ms=1500 if end == "expired" else 60_000)

    def refuse(jid: str, att: int) -> None:
        if full.is_set():
            refused.set()
            raise HostError("the journal does not take the write: disk full")
        start(jid, att)

    monkeypatch.setattr(bench.journal, "start", refuse)
    bench.submit(job)
    assert refused.wait(WAIT_S)
    if end == "cancelled":
        bench.worker.cancel(job.jid, 1)
    bench.wait()
    full.clear()
    assert [kind for kind, _ in bench.events(job)] == [end]
    assert bench.system.files == {}


def test_a_job_that_must_not_begin_when_its_start_is_written_at_last_has_no_effect(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk took its time for it."""
    start = bench.journal.start

    def slow(jid: str, att: int) -> None:
        start(jid, att)
        bench.worker.cancel(jid, att)

    monkeypatch.setattr(bench.journal, "start", slow)
    job = bench.submit(files("a"))
    bench.wait()
    assert [kind for kind, _ in bench.events(job)] == ["started", "cancelled"]
    assert bench.system.files == {}


def test_a_large_document_that_comes_after_the_deadline_is_not_applied(bench: Bench) -> None:
    whole = files("a", ttl_ms=200)
    asked = threading.Event()

    def slow(sha256: str, size: int, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        asked.set()
        while not cancelled():
            asked.wait(0.01)
        file.write(whole.document)

    bench.worker._fetch = slow
    job = bench.submit(whole.model_copy(update={"document": b"", "size": len(whole.document)}))
    bench.wait()
    assert asked.is_set()
    assert [kind for kind, _ in bench.events(job)] == ["expired"]
    assert bench.system.files == {}


def test_a_large_document_that_cannot_be_had_fails_its_job(bench: Bench) -> None:
    whole = files("a")

    def refuse(sha256: str, size: int, file: BinaryIO, cancelled: Callable[[], bool]) -> None:
        raise HostError("the master does not give its file: gone")

    bench.worker._fetch = refuse
    job = bench.submit(whole.model_copy(update={"document": b"", "size": len(whole.document)}))
    bench.wait()
    assert [kind for kind, _ in bench.events(job)] == ["started", "done"]
    assert (bench.outcome(job)["ok"], bench.outcome(job)["message"]) == (
        False,
        "the master does not give its file: gone",
    )


def test_work_waits_for_a_disk_that_refuses_and_goes_on_when_it_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "RETRY_S", 0.01)
    refused, full = threading.Event(), threading.Event()
    full.set()
    start, tries = bench.journal.start, iter(range(10**6))

    def refuse(jid: str, att: int) -> None:
        if full.is_set():
            if next(tries):
                refused.set()
            raise HostError("the journal does not take the write: disk full")
        start(jid, att)

    monkeypatch.setattr(bench.journal, "start", refuse)
    job = bench.submit(files("a"))
    assert refused.wait(WAIT_S)
    assert bench.events(job) == []
    assert "disk full" in bench.worker.trouble
    full.clear()
    bench.wait()
    assert bench.outcome(job)["ok"] is True
    assert bench.worker.trouble == ""
