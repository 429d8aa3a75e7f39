"""A line that drops, delays, dribbles, tears frames and dies without a word: every job ends in its one true state."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from pgha.common.messages import Ack, Welcome
from pgha.tests.bus.conftest import Stranger, until
from pgha.tests.bus.history import broken
from pgha.tests.bus.proxy import Proxy, Way
from pgha.tests.bus.quick import Nursery, Site, a_nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def line(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Proxy]]:
    """A master, and a minion that reaches it over a bad line, for one test after the other."""
    site = Site(tmp_path_factory.mktemp("line") / "site", nursery)
    proxy = Proxy(site.master.port)
    site.dial("n1", proxy.port)
    try:
        yield site.start(), proxy
    finally:
        site.end()
        proxy.close()


def true_in_the_end(site: Site, proxy: Proxy) -> None:
    proxy.heal()
    until("the minion back", partial(answers, site, "n1"), 30)
    site.wait()
    site.settled()
    history = site.history()
    assert broken(history) == []
    assert {job.state for job in history.jobs} <= {"done", "cancelled"}, "nobody has died: nothing is unknown"


def was_cut(way: Way, before: int) -> bool:
    return way.cuts > before


@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_is_cut_in_the_middle_of_frames_loses_and_repeats_nothing(
    line: tuple[Site, Proxy], seed: int
) -> None:
    site, proxy = line
    chance = random.Random(seed)
    for _ in range(3):
        way = chance.choice((proxy.up, proxy.down))
        cuts = way.cuts
        way.cut_after = way.seen + chance.randrange(20, 1500)
        site.begin()
        site.begin()
        until("a cut", partial(was_cut, way, cuts), 30)
        site.sees()
    true_in_the_end(site, proxy)


def test_a_slow_line_only_takes_its_time(line: tuple[Site, Proxy]) -> None:
    site, proxy = line
    proxy.up.delay_s = proxy.down.delay_s = 0.2
    token = site.begin()
    site.wait()
    assert site.state(token) == {"n1": "done"}
    true_in_the_end(site, proxy)


BAD: dict[str, Callable[[Proxy], None]] = {
    "dribbles-up": lambda proxy: setattr(proxy.up, "bytes_per_s", 1.0),
    "dribbles-down": lambda proxy: setattr(proxy.down, "bytes_per_s", 1.0),
    "half-open-up": lambda proxy: setattr(proxy.up, "hold", True),
    "half-open-down": lambda proxy: setattr(proxy.down, "hold", True),
}
"""How a line goes bad without ending. Half open: no byte goes that way any more, as when a firewall forgets it."""


def test_a_line_that_no_longer_carries_is_thrown_away_and_what_was_on_it_comes_again(
    nursery: Nursery, tmp_path: Path
) -> None:
    site = Site(tmp_path / "site", nursery, list(BAD))
    proxies = {name: Proxy(site.master.port) for name in BAD}
    try:
        for name, proxy in proxies.items():
            site.dial(name, proxy.port)
        site.start()
        before = {name: len(proxy.recordings) for name, proxy in proxies.items()}
        for name, proxy in proxies.items():
            BAD[name](proxy)
        site.begin()
        until("new connections of all", lambda: all(len(proxies[n].recordings) > before[n] for n in BAD), 40)
        for proxy in proxies.values():
            proxy.heal()
        for name in BAD:
            until(f"{name} back", partial(answers, site, name), 90)
        site.wait()
        site.settled()
        history = site.history()
        assert broken(history) == []
        assert {job.state for job in history.jobs if job.token} <= {"done", "cancelled"}
    finally:
        site.end()
        for proxy in proxies.values():
            proxy.close()


def answers(site: Site, name: str) -> bool:
    said = site.run(name, timeout_s=5)
    return bool(said) and said[-1]["exit"] == 0


def test_a_recording_of_an_old_connection_is_worth_nothing(line: tuple[Site, Proxy]) -> None:
    """Every byte that a minion has sent, its HELLO and events among them, played again: keys are of one connection."""
    site, proxy = line
    token = site.begin()
    site.wait()
    before = site.history()
    longest = max(range(len(proxy.recordings)), key=lambda n: len(proxy.recordings[n]))
    assert len(proxy.recordings[longest]) > 2000
    proxy.replay(longest)
    until("the minion still connected", lambda: "n1" in site.connected())
    assert site.state(token) == {"n1": "done"}
    after = site.history()
    assert replace(after, journals=()) == replace(before, journals=())
    true_in_the_end(site, proxy)


def test_fifty_minions_that_come_back_at_once_lose_no_event(nursery: Nursery, tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(50)]
    site = Site(tmp_path / "site", nursery, names)
    strangers: dict[str, Stranger] = {}
    try:
        site.master.start()
        told = dict.fromkeys(names, 0)
        for _ in range(3):
            threads = []
            for name in names:
                strangers[name] = site.stranger(name)
                threads.append(threading.Thread(target=come_back, args=(strangers[name], told, name)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            for stranger in strangers.values():
                stranger.close()
        assert set(told.values()) == {15}
        rows = site.master.rows("select node, count(*), min(seq), max(seq) from events group by node")
        assert {row[0]: row[1:] for row in rows} == dict.fromkeys(names, (15, 1, 15))
    finally:
        site.end()


def come_back(stranger: Stranger, told: dict[str, int], name: str) -> None:
    """HELLO, five events, and their ACK; the socket belongs to this thread while it runs."""
    welcome = stranger.hello(spool_hi=told[name], acked=told[name], speaks=2)
    assert isinstance(welcome, Welcome)
    assert welcome.hw == told[name]
    for seq in range(told[name] + 1, told[name] + 6):
        stranger.event(seq)
    while not (isinstance(message := stranger.hear(30), Ack) and message.seq == told[name] + 5):
        assert message is not None
    told[name] += 5
