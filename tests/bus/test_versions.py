"""The version before this one, on the other end: served, or told to upgrade where the settings say so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
from pgha.common.codec import encode
from pgha.common.messages import Accept, Ack, Event, Hello, Job, Message, Welcome
from pgha.minion.survey import survey
from pgha.tests.bus.conftest import Stranger, until
from pgha.tests.bus.history import broken
from pgha.tests.bus.quick import Nursery, Site, a_nursery

SOAK_S = float(os.environ.get("PGHA_SOAK", "0"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


class OldMinion:
    """Speaks version 1: no `speaks`, no nonce, nothing signed. `frames` are what it got, as bytes."""

    def __init__(self, site: Site, name: str) -> None:
        self.stranger: Stranger = site.stranger(name)
        self.frames: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def say(self, message: Message) -> None:
        self.stranger.raw(*encode(message, 1))

    def hello(self, **changed: Any) -> None:
        values = {"epoch": "old", "spool_lo": 1, "spool_hi": 0, "acked": 0, "mepoch": 0, **changed}
        self.say(Hello(**values, facts=survey()))

    def hear(self, kind: str, seconds: float = 15) -> dict[str, Any]:
        """The body of the next message of that kind, as it was on the wire."""
        found: dict[str, Any] = until(f"a {kind}", lambda: self._next(kind), seconds)
        return found

    def _next(self, kind: str) -> dict[str, Any] | None:
        if not self.stranger.socket.poll(50):
            return None
        header, body = (msgpack.unpackb(frame) for frame in self.stranger.socket.recv_multipart())
        self.frames.append((header, body))
        return body if header["t"] == kind else None


@pytest.fixture
def site(nursery: Nursery, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", nursery, ("n1", "n2"))
    try:
        yield site
    finally:
        site.end()


def ordered(site: Site, **args: Any) -> tuple[list[Any], threading.Thread]:
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.extend(site.master.ask("run", target="n1", **args)), daemon=True)
    thread.start()
    return said, thread


def test_a_minion_of_the_version_before_is_served_in_its_own_words(site: Site) -> None:
    site.master.start()
    old = OldMinion(site, "n1")
    try:
        old.hello()
        welcome = old.hear("WELCOME")
        assert set(welcome) == set(Welcome.model_fields) - set(Welcome.since)
        said, thread = ordered(site, argv=["true"])
        job = old.hear("JOB")
        assert set(job) == set(Job.model_fields) - set(Job.since)
        assert b'"cmd"' in job["document"]
        old.say(Accept(jid=job["jid"], att=1))
        for seq, (kind, body) in enumerate((("started", b"{}"), ("done", b'{"ok":true}')), 1):
            event: Any = {"epoch": "old", "seq": seq, "jid": job["jid"], "att": 1, "kind": kind, "body": body}
            old.say(Event(**event))
            assert old.hear("ACK") == Ack(epoch="old", seq=seq).model_dump()
        thread.join(20)
        assert said[-1]["exit"] == 0
        assert {header["v"] for header, _ in old.frames} == {1}
    finally:
        old.stranger.close()


def test_where_version_2_is_wanted_an_old_minion_is_told_to_upgrade_and_does_nothing_else(site: Site) -> None:
    settings = site.master.root / "etc/pgha/master.yml"
    settings.write_text(settings.read_text() + "min_protocol: 2\n")
    site.master.start()
    site.minions["n2"].start()
    old = OldMinion(site, "n1")
    try:
        old.hello()
        old.hear("WELCOME")
        until("n2 connected", lambda: "n2" in site.connected())
        said = site.master.ask("run", target="n1", argv=["true"])
        assert said[-1]["exit"] != 0
        assert "self.upgrade" in str(said)
        assert [header["t"] for header, _ in old.frames] == ["WELCOME"]
        _, thread = ordered(site, function="ping", timeout_s=5)
        job = old.hear("JOB")
        assert b'"ping"' in job["document"]
        until("the new one at work", lambda: site.run("n2")[-1]["exit"] == 0)
        thread.join(1)
    finally:
        old.stranger.close()


def test_an_old_minion_whose_stream_has_lost_its_beginning_goes_on_where_it_can(site: Site) -> None:
    """It cannot say LOST: the gap is in its HELLO."""
    site.master.start()
    old = OldMinion(site, "n1")
    try:
        old.hello(spool_lo=5, spool_hi=6, acked=6)
        assert old.hear("WELCOME")["hw"] == 4
        event: Any = {"epoch": "old", "seq": 5, "jid": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "att": 1, "kind": "started"}
        old.say(Event(**event))
        assert old.hear("ACK") == {"epoch": "old", "seq": 5}
    finally:
        old.stranger.close()


@pytest.mark.skipif(not SOAK_S, reason="PGHA_SOAK=SECONDS runs it")
def test_memory_does_not_grow_however_long_it_runs(site: Site) -> None:
    """RSS of the master and a minion after the first tenth of the time, and at its end."""
    site.start()
    daemons = [site.master.process, site.minions["n1"].process]
    processes = [psutil.Process(daemon.pid) for daemon in daemons if daemon is not None]
    since, early = time.monotonic(), [0, 0]
    while (gone := time.monotonic() - since) < SOAK_S:
        assert site.run()[-1]["exit"] == 0
        if gone < SOAK_S / 10:
            early = [process.memory_info().rss for process in processes]
    late = [process.memory_info().rss for process in processes]
    site.settled()
    assert broken(site.history()) == []
    assert all(after - before < 16 * 1024 * 1024 for before, after in zip(early, late, strict=True)), (early, late)
