"""Masters that are not what they were: restored from a backup, two of them, or one that only has stolen a key."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pgha.common.messages import Accept, Ack, Hello, Job, Refuse, Welcome
from pgha.common.paths import Paths
from pgha.master.setup import initialise
from pgha.tests.bus.conftest import until
from pgha.tests.bus.history import broken
from pgha.tests.bus.ports import another_port_pair
from pgha.tests.bus.proxy import Proxy
from pgha.tests.bus.quick import Nursery, QuickMaster, Site, a_nursery
from pgha.tests.bus.rogue import Rogue, foreign_signer

HELD = "/bin/echo {token} >> {effects}; echo out of {token}; while [ ! -e {effects}.go ]; do sleep 0.05; done; "
HELD += "echo end of {token}"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture
def site(nursery: Nursery, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", nursery)
    try:
        yield site
    finally:
        site.end()


# ---- restored from a backup


def back_up(site: Site) -> Path:
    """The store as it is, by way of a master that is killed and started again."""
    backup = site.folder / "backup"
    site.master.kill()
    shutil.copytree(site.master.database.parent, backup)
    site.master.start()
    site.sees()
    return backup


def restore(site: Site, backup: Path) -> None:
    site.master.kill()
    shutil.rmtree(site.master.database.parent)
    shutil.copytree(backup, site.master.database.parent)


def test_a_restored_master_gets_again_what_was_acknowledged_after_its_backup(site: Site) -> None:
    site.start()
    assert site.run()[-1]["exit"] == 0
    token = site.begin(script=HELD)
    until("the command begun", lambda: site.state(token) == {"n1": "started"})
    backup = back_up(site)
    (site.folder / "effects.go").touch()
    site.wait()
    for _ in range(3):
        assert site.run()[-1]["exit"] == 0
    site.settled()
    known = {job.jid: job.state for job in site.history().jobs}
    restore(site, backup)
    site.master.start()
    site.sees()
    assert site.run()[-1]["exit"] == 0
    site.settled()
    history = site.history()
    assert {job.jid: job.state for job in history.jobs if job.jid in known} == known
    assert set(known.values()) == {"done"}
    assert [job.token for job in history.jobs].count("") == 3, "what was ordered after the backup are strays"
    assert broken(history, restored=True) == []
    assert "LOST" not in {event.kind.upper() for event in history.events}


def test_what_the_ring_no_longer_has_is_recorded_as_lost_and_the_stream_goes_on(site: Site) -> None:
    site.start()
    assert site.run()[-1]["exit"] == 0
    site.settled()
    backup = back_up(site)
    for _ in range(3):
        assert site.run()[-1]["exit"] == 0
    site.settled()
    minion = site.minions["n1"]
    minion.kill()
    high = site.history().journals[0].highest
    with closing(sqlite3.connect(minion.journal)) as journal:
        journal.execute("delete from events where seq <= ?", (high - 2,))
        journal.commit()
    restore(site, backup)
    before = site.history().stored("n1", site.history().journals[0].epoch)
    site.master.start()
    minion.start()
    site.sees()
    assert site.run()[-1]["exit"] == 0
    site.settled()
    history = site.history()
    lost = [(event.seq, event.body) for event in history.events if event.kind == "lost"]
    assert lost == [(high - 2, f'{{"first":{before + 1},"last":{high - 2}}}')]
    assert history.stored("n1", history.journals[0].epoch) >= high + 3
    assert f"lost its events {before + 1} to {high - 2}" in site.master.log


# ---- two of them


def test_an_old_master_that_wakes_up_finds_its_minion_with_the_new_one_and_gives_no_orders(site: Site) -> None:
    proxy = Proxy(site.master.port)
    site.dial("n1", proxy.port)
    root = site.folder / "second"
    second = QuickMaster((), root, port=another_port_pair(), nursery=site.nursery)
    try:
        site.start()
        assert site.run()[-1]["exit"] == 0
        old = site.master
        old.signal(signal.SIGSTOP)
        shutil.copytree(old.root, root, ignore=shutil.ignore_patterns("admin.sock", "log"))
        initialise(Paths(root), f"127.0.0.1:{second.port}")
        second.start()
        second.fingerprint = old.fingerprint
        proxy.target = second.port
        proxy.cut()
        until("the minion at the second one", lambda: "n1" in second.connected(), 40)
        before = site.count()
        site.master = second
        assert site.run()[-1]["exit"] == 0
        site.master = old
        old.signal(signal.SIGCONT)
        proxy.target = old.port
        proxy.cut()
        until("the old one's words", lambda: "has obeyed a newer master" in old.log, 40)
        assert site.run()[-1]["exit"] != 0
        assert site.count() == before + 1
        proxy.target = second.port
        proxy.cut()
        until("the minion back at the second one", lambda: second.alive and "n1" in second.connected(), 40)
        site.master = second
        until("it works", lambda: site.run()[-1]["exit"] == 0)
        site.settled()
        assert broken(site.history()) == []
        site.master = old
    finally:
        if second.alive:
            second.kill()
        proxy.close()


# ---- one that has stolen a key


@pytest.fixture(scope="module")
def deceived(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rogue]:
    """A rogue master in the true one's place; the minion n1, which knows the true signing key, dials it.

    Its greeting is good, as if it passed on the true master's; its jobs are what the tests say.
    """
    site = Site(tmp_path_factory.mktemp("rogue") / "site", nursery)
    site.trusts("n1")
    rogue = Rogue(site)
    site.dial("n1", rogue.port)
    site.minions["n1"].start()
    try:
        until("a HELLO", lambda: rogue.of("PING"))
        yield rogue
    finally:
        site.end()
        rogue.close()


def again(rogue: Rogue) -> None:
    """The minion dies and comes back."""
    minion, pings = rogue.site.minions["n1"], len(rogue.of("PING"))
    minion.kill()
    minion.start()
    until("the minion back", lambda: len(rogue.of("PING")) > pings)


def refused(rogue: Rogue, job: Job, why: str) -> None:
    before = rogue.site.count()
    answer = rogue.answer(job)
    assert isinstance(answer, Refuse)
    assert answer.why == why
    good = rogue.signer.job(rogue.job())
    assert isinstance(rogue.answer(good), Accept)
    until("the effect of the good one", lambda: rogue.site.count() == before + 1)


LIES: dict[str, tuple[Callable[[Rogue, Path], Job], str]] = {
    "not signed": (lambda rogue, folder: rogue.job(), "bad_signature"),
    "signed by another": (lambda rogue, folder: foreign_signer(folder).job(rogue.job()), "bad_signature"),
    "given more time": (
        lambda rogue, folder: rogue.signer.job(rogue.job()).model_copy(update={"not_after_ms": 2**50}),
        "bad_signature",
    ),
    "a query made of a job": (
        lambda rogue, folder: rogue.signer.job(rogue.job()).model_copy(update={"query": True}),
        "bad_signature",
    ),
    "a job with the code of a query": (
        lambda rogue, folder: rogue.signer.job(rogue.job(query=True), rogue.session).model_copy(
            update={"query": False}
        ),
        "bad_signature",
    ),
    "a query of another session": (
        lambda rogue, folder: rogue.signer.job(rogue.job(query=True), b"s" * 32),
        "bad_signature",
    ),
    "another attempt": (
        lambda rogue, folder: rogue.signer.job(rogue.job()).model_copy(update={"att": 2}),
        "bad_signature",
    ),
    "another document": (
        lambda rogue, folder: rogue.signer.job(rogue.job()).model_copy(update={"document": b"{}"}),
        "bad_document",
    ),
    "another minion's": (lambda rogue, folder: rogue.signer.job(rogue.job(minion="n2")), "not_mine"),
    "another minion's, renamed": (
        lambda rogue, folder: rogue.signer.job(rogue.job(minion="n2")).model_copy(update={"minion": "n1"}),
        "bad_signature",
    ),
    "of an older run of the master": (lambda rogue, folder: rogue.signer.job(rogue.job(mepoch=5)), "stale_epoch"),
    "after its deadline": (
        lambda rogue, folder: rogue.signer.job(rogue.job(not_after_ms=rogue.now_ms() - 10_000)),
        "expired",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_job_that_the_true_master_does_not_order_now_is_refused(deceived: Rogue, tmp_path: Path, lie: str) -> None:
    make, why = LIES[lie]
    refused(deceived, make(deceived, tmp_path), why)


def test_a_job_that_is_played_again_is_accepted_again_and_not_started_again(deceived: Rogue) -> None:
    before = deceived.site.count()
    job = deceived.signer.job(deceived.job())
    for _ in range(3):
        assert isinstance(deceived.answer(job), Accept)
    until("its effect", lambda: deceived.site.count() > before)
    again(deceived)
    assert isinstance(deceived.answer(job), Accept)
    assert isinstance(deceived.answer(deceived.signer.job(deceived.job())), Accept)
    until("the effect of one after it", lambda: deceived.site.count() > before + 1)
    assert deceived.site.count() == before + 2


def test_a_job_that_was_forgotten_long_after_its_deadline_is_expired_when_it_is_played_again(deceived: Rogue) -> None:
    before, now_ms = deceived.site.count(), deceived.now_ms
    job = deceived.signer.job(deceived.job())
    assert isinstance(deceived.answer(job), Accept)
    until("its effect", lambda: deceived.site.count() > before)
    minion = deceived.site.minions["n1"]
    minion.kill()
    with closing(sqlite3.connect(minion.journal)) as journal:  # as `Journal.tidy` does it a day after the deadline
        journal.execute("delete from jobs where jid=?", (job.jid,))
        journal.commit()
    deceived.now_ms = lambda: now_ms() + 2 * 86400 * 1000
    try:
        again(deceived)
        refused(deceived, job, "expired")
    finally:
        deceived.now_ms = now_ms
        again(deceived)


@pytest.mark.parametrize("lie", ["an old one", "signed by another", "not signed", "of version 1", "of an older master"])
def test_a_welcome_that_is_not_the_true_masters_answer_to_this_hello_is_not_obeyed(
    deceived: Rogue, tmp_path: Path, lie: str
) -> None:
    kept = deceived.signer.welcome(deceived.welcome(), b"the nonce of a HELLO long ago"[:16])
    foreign = foreign_signer(tmp_path)

    def greet(hello: Hello) -> Welcome:
        if lie == "an old one":
            return kept
        if lie == "signed by another":
            return foreign.welcome(deceived.welcome(), hello.nonce)
        if lie == "of version 1":
            return deceived.signer.welcome(deceived.welcome(version=1), hello.nonce)
        if lie == "of an older master":
            return deceived.signer.welcome(deceived.welcome(mepoch=deceived.epoch - 1), hello.nonce)
        return deceived.welcome()

    minion, before = deceived.site.minions["n1"], deceived.site.count()
    minion.kill()
    pings, hellos, words = len(deceived.of("PING")), len(deceived.of("HELLO")), len(minion.log)
    deceived.greet = greet
    try:
        minion.start()
        until("another HELLO, as that WELCOME was none", lambda: len(deceived.of("HELLO")) > hellos + 1)
        deceived.say(deceived.signer.job(deceived.job()))
        until("one more", lambda: len(deceived.of("HELLO")) > hellos + 2)
        assert len(deceived.of("PING")) == pings
        assert deceived.site.count() == before
        said = minion.log[words:]
        assert "not obeyed" in said or "older than this minion" in said or "newer one" in said
    finally:
        deceived.greet = deceived.true_welcome
    until("the true one obeyed", lambda: len(deceived.of("PING")) > pings)


# ---- what a master settles when its minion is back


def test_a_job_ordered_after_hello_is_not_taken_for_one_that_its_minion_has_forgotten(site: Site) -> None:
    """The backlog of before HELLO is stored after the minion has accepted the job; it tells nothing of the job."""
    site.master.start()
    one = site.stranger("n1")
    said: list[dict[str, object]] = []
    try:
        welcome = one.hello(spool_hi=3, speaks=2)
        assert isinstance(welcome, Welcome)
        ordering = threading.Thread(target=lambda: said.extend(site.run()), daemon=True)
        ordering.start()
        while not isinstance(job := one.hear(10), Job):
            assert job is not None
        one.say(Accept(jid=job.jid, att=1))
        until("it accepted", lambda: site.master.rows("select 1 from jobs where state='accepted'"))
        for seq in (1, 2, 3):
            one.event(seq)
        until("the backlog stored", lambda: one.hear() == Ack(epoch="e1", seq=3))
        one.event(4, jid=job.jid)
        one.event(5, b'{"ok": true}', kind="done", jid=job.jid)
        until("its end stored", lambda: one.hear() == Ack(epoch="e1", seq=5))
        ordering.join(20)
        assert [line["state"] for line in said if line["kind"] == "node_done"] == ["done"]
    finally:
        one.close()
