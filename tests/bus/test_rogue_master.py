"""Who holds the master's CURVE key and not its signing key gives no orders, no new keys, and learns no job.

Jobs and WELCOME itself are tried in `test_restored_and_doubled_masters.py`; here it is the keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from pgha.common.keys import load_or_create, new_key_pair
from pgha.common.messages import Hello, NextKeyKnown, Rotate, Signed, Successor, Welcome
from pgha.common.paths import Paths
from pgha.minion.settings import MinionPaths
from pgha.tests.bus.conftest import until
from pgha.tests.bus.quick import Nursery, Site, a_nursery
from pgha.tests.bus.rogue import Rogue, foreign_signer


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture
def rogue(nursery: Nursery, tmp_path: Path) -> Iterator[Rogue]:
    """The minion n1 knows its true master's signing key, and finds the rogue where its master was."""
    site = Site(tmp_path / "site", nursery)
    site.trusts("n1")
    rogue = Rogue(site)
    site.dial("n1", rogue.port)
    try:
        yield rogue
    finally:
        site.end()
        rogue.close()


def paths(rogue: Rogue) -> MinionPaths:
    return MinionPaths(Paths(rogue.site.folder / "n1"))


def came_again(rogue: Rogue, count: int) -> bool:
    return len(rogue.of("HELLO")) > count


def begin(rogue: Rogue) -> None:
    rogue.site.minions["n1"].start()
    until("its hello", lambda: rogue.of("HELLO"))


@pytest.mark.parametrize("lie", ["no signature", "another's signature", "with the key it names itself"])
def test_new_master_keys_that_the_true_one_did_not_sign_are_not_written_down(
    rogue: Rogue, tmp_path: Path, lie: str
) -> None:
    foreign = foreign_signer(tmp_path)
    server, signing = new_key_pair().public, foreign.public
    true = Successor(server_key=server, signing_key=signing, signature=b"")
    lies = {
        "no signature": true,
        "another's signature": foreign.successor(server, signing),
        "with the key it names itself": foreign.successor(server, foreign.public),
    }
    before = paths(rogue).trust.read_text()
    begin(rogue)
    until("a line", lambda: rogue.of("PING"))
    rogue.say(lies[lie])
    until("it hung up", lambda: len(rogue.of("HELLO")) > 1)
    assert not rogue.of("SUCCESSOR_KNOWN")
    assert paths(rogue).trust.read_text() == before


def test_new_master_keys_that_the_true_one_signed_are(rogue: Rogue) -> None:
    """So that the test above can fail."""
    begin(rogue)
    until("a line", lambda: rogue.of("PING"))
    server = new_key_pair().public
    rogue.say(rogue.signer.successor(server, rogue.signer.public))
    until("it knows", lambda: rogue.of("SUCCESSOR_KNOWN"))
    assert "next" in json.loads(paths(rogue).trust.read_text())


def test_without_a_signed_welcome_nothing_else_is_heard(rogue: Rogue, tmp_path: Path) -> None:
    foreign = foreign_signer(tmp_path)
    kept = paths(rogue).key.read_bytes()

    def greet(hello: Hello) -> Welcome:
        return foreign.welcome(rogue.welcome(), hello.nonce)

    rogue.greet = greet
    begin(rogue)
    for _ in range(3):
        count = len(rogue.of("HELLO"))
        rogue.say(Rotate())
        rogue.say(foreign.job(rogue.job()))
        until("it came again", partial(came_again, rogue, count))
    assert {message.type for message in rogue.heard} == {"HELLO"}, "no event, no sample, no key"
    assert rogue.site.count() == 0
    assert paths(rogue).key.read_bytes() == kept
    assert not paths(rogue).key.with_name("minion.key.next").exists()


def test_a_key_is_not_changed_because_somebody_says_that_it_is_known(rogue: Rogue) -> None:
    """Only the next key that this minion made itself."""
    begin(rogue)
    until("a line", lambda: rogue.of("PING"))
    mine = load_or_create(paths(rogue).key).public
    rogue.say(NextKeyKnown(public=new_key_pair().public))
    rogue.say(NextKeyKnown(public=mine))
    rogue.say(Signed(request=1, certificate="x"))
    count = len(rogue.of("PING"))
    until("it goes on", lambda: len(rogue.of("PING")) > count + 1)
    assert len(rogue.of("HELLO")) == 1
    assert load_or_create(paths(rogue).key).public == mine
