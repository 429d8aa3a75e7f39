"""Clocks that are wrong by an hour, or jump by one: what may run runs, and what is over does not begin.

No clock of this host is set: a daemon's own `time.time` is shifted (`zygote.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgha.common.messages import Accept, Event, Job, Refuse, Welcome
from pgha.tests.bus.conftest import until
from pgha.tests.bus.history import broken
from pgha.tests.bus.quick import Nursery, Site, a_nursery
from pgha.tests.bus.rogue import Rogue

HOUR = 3600


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def site(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("clocks") / "site", nursery)
    try:
        yield site.start()
    finally:
        site.end()


@pytest.mark.parametrize("shift_s", [HOUR, -HOUR, 0])
@pytest.mark.parametrize("side", ["master", "minion"])
def test_a_clock_that_jumps_while_it_runs_changes_nothing(site: Site, side: str, shift_s: int) -> None:
    daemon = site.master if side == "master" else site.minions["n1"]
    token = site.begin(script="/bin/echo {token} >> {effects}; echo out of {token}; sleep 0.3; echo end of {token}")
    until("its effect", lambda: token in site.effects.read_text())
    daemon.shift(shift_s)
    site.wait()
    assert site.state(token) == {"n1": "done"}
    assert site.run()[-1]["exit"] == 0
    site.settled()
    assert broken(site.history()) == []


@pytest.mark.parametrize("shift_s", [HOUR, -HOUR, 0])
@pytest.mark.parametrize("side", ["master", "minion"])
def test_a_clock_that_is_wrong_from_the_start_changes_nothing(site: Site, side: str, shift_s: int) -> None:
    """Also not for a job that was ordered before the restart and is still open; a master set back is not an old one."""
    daemon = site.master if side == "master" else site.minions["n1"]
    daemon.kill()
    daemon.start_s = shift_s
    daemon.start()
    until("the minion back", lambda: site.run()[-1:] and site.run()[-1]["exit"] == 0)
    site.settled()
    assert broken(site.history()) == []


@pytest.mark.parametrize("shift_s", [HOUR, -HOUR])
def test_what_reaches_a_minion_after_its_deadline_is_refused_by_the_masters_time(
    nursery: Nursery, tmp_path: Path, shift_s: int
) -> None:
    """A job that waited in the kernel while the minion was stopped; the minion's own clock says that there is time."""
    site = Site(tmp_path / "site", nursery)
    site.trusts("n1")
    rogue, minion = Rogue(site), site.minions["n1"]
    site.dial("n1", rogue.port)
    minion.start_s = shift_s
    try:
        minion.start()
        until("a line", lambda: rogue.of("PING"))
        minion.signal(signal.SIGSTOP)
        over = rogue.now_ms() + 700
        late = rogue.signer.job(rogue.job(not_after_ms=over, ttl_ms=700))
        rogue.say(late)
        until("the deadline over", lambda: rogue.now_ms() > over + 500)
        minion.signal(signal.SIGCONT)
        refusal = until("its refusal", lambda: rogue.of("REFUSE"))[0]
        assert isinstance(refusal, Refuse)
        assert (refusal.jid, refusal.why) == (late.jid, "expired")
        fresh = rogue.signer.job(rogue.job(not_after_ms=rogue.now_ms() + 5000, ttl_ms=5000))
        rogue.say(fresh)
        until("the effect of a fresh one", lambda: site.count() == 1)
    finally:
        site.end()
        rogue.close()


def ends(rogue: Rogue) -> set[tuple[str, str]]:
    """Of which jobs it has heard the end, and which; events come again, as nobody acknowledges them."""
    return {(e.jid, e.kind) for e in rogue.of("EV") if isinstance(e, Event) and e.kind in ("done", "expired")}


def test_a_job_whose_time_was_over_while_it_waited_for_the_one_before_it_never_begins(
    nursery: Nursery, tmp_path: Path
) -> None:
    site = Site(tmp_path / "site", nursery)
    site.trusts("n1")
    rogue, minion = Rogue(site), site.minions["n1"]
    site.dial("n1", rogue.port)
    try:
        minion.start()
        until("a line", lambda: rogue.of("PING"))
        one = rogue.job("/bin/echo {token} >> {effects}; sleep 1", cls="state")
        two = rogue.job(cls="state", ttl_ms=300)
        for job in (one, two):
            assert isinstance(rogue.answer(rogue.signer.job(job)), Accept)
        until("the end of both", lambda: len(ends(rogue)) == 2)
        assert ends(rogue) == {(one.jid, "done"), (two.jid, "expired")}
        assert site.count() == 1
    finally:
        site.end()
        rogue.close()


def test_a_job_sent_again_has_only_the_time_that_is_left(site: Site) -> None:
    minion = site.minions["n1"]
    minion.kill()
    one = site.stranger("n1")
    try:
        assert isinstance(one.hello(speaks=2, epoch="e9"), Welcome)
        site.begin(timeout_s=60.0)
        jobs: list[Job] = []
        while len(jobs) < 2:
            message = one.hear(20)
            assert message is not None
            if isinstance(message, Job):
                jobs.append(message)
        first, second = jobs
        assert first.not_after_ms == second.not_after_ms
        assert second.ttl_ms < first.ttl_ms <= 90_000
    finally:
        one.close()
        minion.start()
        site.wait(90)
