"""New keys while work goes on: nothing is lost, the old key opens nothing, and nobody is left behind unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pgha.common.keys import load_or_create, public_text
from pgha.common.messages import Ping
from pgha.common.paths import Paths
from pgha.minion.settings import MinionPaths
from pgha.tests.bus.conftest import Stranger, until
from pgha.tests.bus.history import broken
from pgha.tests.bus.quick import Nursery, Site, a_nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture
def site(nursery: Nursery, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", nursery, ("n1", "n2"))
    try:
        yield site.start()
    finally:
        site.end()


def key(site: Site, name: str) -> str:
    """Of its file."""
    return public_text(load_or_create(MinionPaths(Paths(site.folder / name)).key).public)


def test_a_minion_gets_a_new_key_under_load_and_the_old_one_is_refused(site: Site) -> None:
    old_pair = load_or_create(MinionPaths(Paths(site.folder / "n1")).key)
    before = key(site, "n1")
    for _ in range(6):
        site.begin("n1")
    said = site.master.ask("keys.rotate", name="n1")[-1]
    assert said["exit"] == 0, said
    for _ in range(3):
        site.begin("n1")
    site.wait()
    site.settled()
    history = site.history()
    assert broken(history) == []
    assert {job.state for job in history.jobs} == {"done"}
    assert key(site, "n1") != before
    rows = dict(site.master.rows("select public_key, state from minions where name='n1'"))
    assert rows == {before: "retired", key(site, "n1"): "accepted"}
    thief = Stranger(site.master, old_pair)
    knocking = Stranger(site.master, old_pair, enrolment=True)
    try:
        thief.say(Ping(mono_ms=1))
        assert thief.hear(0.5) is None
        told = knocking.knock("n1")
        assert (told.state, "replaced by a newer one" in told.reason) == ("revoked", True)
        assert knocking.knock("another").state == "revoked"
    finally:
        thief.close()
        knocking.close()
    assert site.master.answers("n1")


def test_a_minion_that_is_away_is_not_rotated(site: Site) -> None:
    site.minions["n2"].kill()
    until("it gone", lambda: "n2" not in site.connected())
    said = site.master.ask("keys.rotate", name="n2")[-1]
    assert said["exit"] == 2
    assert "n2 is not connected" in said["message"]


def test_the_master_gets_new_keys_once_all_have_them_and_all_come_back(site: Site) -> None:
    """One is away: finishing is refused until it was there; then it comes back to the master with the new keys."""
    site.minions["n2"].kill()
    until("it gone", lambda: "n2" not in site.connected())
    begun = site.master.ask("keys.rotate_master")[-1]
    assert begun["data"]["missing"] == ["n2"]
    refused = site.master.ask("keys.rotate_master", finish=True)[-1]
    assert refused["exit"] != 0
    assert "n2 do not have the next keys yet" in refused["message"]
    site.master.kill()
    site.master.start()
    assert site.master.ask("keys.list")[-1]["data"]["master_fingerprint"] == site.master.fingerprint
    refused = site.master.ask("keys.rotate_master", finish=True)[-1]
    assert refused["exit"] != 0, "a restart forgets neither the next keys nor who is missing"
    site.minions["n2"].start()
    site.sees()
    again = site.master.ask("keys.rotate_master")[-1]
    assert again["data"] == {"master_fingerprint": begun["data"]["master_fingerprint"], "missing": []}
    finished = site.master.ask("keys.rotate_master", finish=True)[-1]
    assert finished["exit"] == 0, finished
    assert site.run("*"), "until the restart all goes on as before"
    site.master.stop()
    site.master.start()
    assert site.master.ask("keys.list")[-1]["data"]["master_fingerprint"] == begun["data"]["master_fingerprint"]
    site.sees(40)
    assert site.master.answers("n1") and site.master.answers("n2")
    site.minions["n2"].kill()
    site.minions["n2"].start()
    site.sees(40)


def test_who_has_the_old_name_and_a_new_key_does_not_have_the_masters_next_keys(site: Site) -> None:
    """What is known of a name is known of the key that it had then."""
    begun = site.master.ask("keys.rotate_master")[-1]
    assert begun["data"]["missing"] == []
    site.minions["n2"].kill()
    assert site.master.ask("keys.revoke", name="n2")[-1]["exit"] == 0
    heir = Stranger(site.master, enrolment=True)
    try:
        heir.knock("n2")
        assert site.master.ask("keys.accept", name="n2", fingerprint=heir.shown)[-1]["exit"] == 0
        said = site.master.ask("keys.rotate_master", finish=True)[-1]
        assert said["exit"] != 0
        assert "n2 do not have the next keys yet" in said["message"]
    finally:
        heir.close()
