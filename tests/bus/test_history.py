"""The checker of histories finds every kind of lie; a checker that finds nothing would make all its tests green."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pgha.tests.bus.conftest import until
from pgha.tests.bus.history import History, KeptEvent, KeptJob, KeptJournal, broken
from pgha.tests.bus.quick import Nursery, Site, a_nursery

SEEDS = int(os.environ.get("PGHA_SEEDS", "2"))
ONE, TWO = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW"
OUT = '{"stream":"stdout","text":"out of T0001T\\nend of T0001T\\n"}'
KINDS = (("started", "{}"), ("out", OUT), ("done", '{"ok":true}'))
AT_MINION = tuple(KeptEvent(seq, ONE, kind, body) for seq, (kind, body) in enumerate(KINDS, 1))
AT_MASTER = tuple(replace(event, node="n1", epoch="e") for event in AT_MINION)
JOURNAL = KeptJournal("n1", "e", 3, {(ONE, 1): "finished"}, AT_MINION)
TRUE = History(("T0001T",), (KeptJob(ONE, 1, "n1", "done", "T0001T"),), AT_MASTER, {("n1", "e"): 3}, (JOURNAL,))
JOB = TRUE.jobs[0]


def journal(**changed: Any) -> History:
    return replace(TRUE, journals=(replace(JOURNAL, **changed),))


def unknown(**changed: Any) -> History:
    """A minion that died in the middle, told truly."""
    events = (AT_MINION[0], KeptEvent(2, ONE, "interrupted"))
    stored = tuple(replace(event, node="n1", epoch="e") for event in events)
    kept = replace(JOURNAL, acked=2, events=events, jobs={(ONE, 1): "interrupted"})
    return replace(
        TRUE,
        jobs=(replace(JOB, state="unknown"),),
        events=stored,
        streams={("n1", "e"): 2},
        journals=(kept,),
        **changed,
    )


def test_a_true_history_is_found_true() -> None:
    assert broken(TRUE) == []
    assert broken(History()) == []
    assert broken(unknown()) == []
    assert broken(unknown(effects=())) == []


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        pytest.param(replace(TRUE, effects=("T0001T", "T0001T")), "ran 2 times", id="an effect twice"),
        pytest.param(unknown(effects=("T0001T", "T0001T")), "ran 2 times", id="an interrupted job run again"),
        pytest.param(replace(TRUE, effects=()), "done on 1 nodes and ran 0", id="done without its effect"),
        pytest.param(replace(TRUE, jobs=(replace(JOB, state="expired"),)), "never began", id="expired, and it ran"),
        pytest.param(replace(TRUE, jobs=(replace(JOB, state="started"),)), "has not ended", id="a job that hangs"),
        pytest.param(replace(TRUE, jobs=(replace(JOB, state="unknown"),)), "unknown at the master", id="a guess"),
        pytest.param(replace(TRUE, jobs=()), "known to its minion only", id="a job nobody ordered"),
        pytest.param(replace(TRUE, events=AT_MASTER[1:]), "missing below", id="no start stored"),
        pytest.param(replace(TRUE, events=(AT_MASTER[0], AT_MASTER[2])), "missing below", id="output lost"),
        pytest.param(
            replace(TRUE, events=(*AT_MASTER[:2], replace(AT_MASTER[2], kind="res"))), "was done", id="another event"
        ),
        pytest.param(
            replace(TRUE, events=(*AT_MASTER, replace(AT_MASTER[0], seq=4))), "above the high water", id="ahead"
        ),
        pytest.param(replace(TRUE, streams={("n1", "e"): 2}), "for acknowledged, stored are 2", id="ACK came first"),
        pytest.param(replace(TRUE, streams={("n1", "e"): 9}), "has made 3 events", id="a high water from nowhere"),
        pytest.param(journal(jobs={(ONE, 1): "started"}), "started at its minion", id="done while it runs"),
        pytest.param(journal(jobs={}), "not known at its minion", id="done, and its minion does not know"),
        pytest.param(
            journal(events=(AT_MINION[0], AT_MINION[2])), "not numbered one by one", id="a gap in the journal"
        ),
        pytest.param(
            journal(events=(AT_MINION[0], replace(AT_MINION[0], seq=2), *AT_MINION[2:])),
            "more than once",
            id="two starts",
        ),
        pytest.param(
            journal(events=(AT_MINION[0], replace(AT_MINION[2], seq=2), replace(AT_MINION[1], seq=3))),
            "goes on after its end",
            id="output after the end",
        ),
    ],
)  # fmt: skip
def test_a_lie_is_found(lie: History, word: str) -> None:
    assert any(word in found for found in broken(lie)), broken(lie)


def test_what_a_master_knows_that_was_restored_is_not_held_against_it() -> None:
    behind = replace(TRUE, streams={("n1", "e"): 2}, events=AT_MASTER[:2])
    assert any("acknowledged" in found for found in broken(behind))
    assert not any("acknowledged" in found for found in broken(behind, restored=True))


# ---- histories that deaths and pauses at random have made


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


def has_done(site: Site, effects: int) -> bool:
    return site.count() >= effects or site.idle()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_deaths_and_pauses_at_random_leave_a_true_history(nursery: Nursery, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    site = Site(tmp_path / "site", nursery, ("n1", "n2", "n3"))
    try:
        site.start()
        for _ in range(6):
            for _ in range(3):
                site.begin()
            daemon = chance.choice([site.master, *site.minions.values()])
            pause = chance.random() < 0.4
            until("some effects", partial(has_done, site, site.count() + chance.randrange(6)), 20)
            if pause:
                daemon.signal(signal.SIGSTOP)
                site.begin()
                until("the others going on", lambda: True)
                daemon.signal(signal.SIGCONT)
            else:
                daemon.kill()
                daemon.start()
        site.sees()
        site.wait()
        assert site.run()[-1]["exit"] == 0
        site.settled()
        assert broken(site.history()) == []
    finally:
        site.end()
