"""Whose key waits, or was turned away, gets no further than the enrolment port, whatever it sends there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgpack
import pytest
import zmq
from pgha.common.codec import decode, encode
from pgha.common.keys import KeyPair, fingerprint, load_or_create, new_key_pair, public_from_text
from pgha.common.messages import FROM_MINION, TO_MINION, TO_STRANGER, Enrol, Enrolled, Message
from pgha.common.paths import Paths
from pgha.master.bus import knocks
from pgha.master.bus.enrolment import PENDING_CAP, PER_ADDRESS
from pgha.minion.enrol import ask as knock_as_a_minion
from pgha.minion.enrol import token_proof
from pgha.minion.settings import MinionPaths, Settings
from pgha.tests.bus.conftest import Master, Stranger, until
from pgha.tests.bus.pulse import Pulse, patience, resident_bytes
from pgha.tests.bus.quick import Nursery, Site, a_nursery

KEYS = int(os.environ.get("PGHA_TEST_KEYS", "600"))  # 10000 for a long look
P99_S = 1.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def site(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A master and its minion n1. Keys that knock here stay waiting: each test uses names of its own."""
    site = Site(tmp_path_factory.mktemp("door") / "site", nursery)
    try:
        yield site.start()
    finally:
        site.end()


def knocker(master: Master, keys: KeyPair | None = None) -> Stranger:
    return Stranger(master, keys, enrolment=True)


def answer(master: Master, request: Enrol, keys: KeyPair) -> Enrolled | None:
    """What the enrolment port says to that; None when it does not answer."""
    one = knocker(master, keys)
    try:
        one.say(request)
        told = one.hear(3)
        assert told is None or isinstance(told, Enrolled)
        return told
    finally:
        one.close()


def with_token(token: str, name: str, keys: KeyPair, **changed: Any) -> Enrol:
    identity, _, secret = token.partition(".")
    proof = token_proof(secret, keys.public, name, b"nonce")
    values = {"name": name, "machine_id": "m", "nonce": b"nonce", "token_id": identity, "proof": proof}
    return Enrol(**{**values, **changed})


def make_token(master: Master, **arguments: Any) -> str:
    made: str = master.ask("keys.token", **arguments)[-1]["data"]["token"]
    return made


# ---- what may be said there


@pytest.mark.parametrize("model", [*FROM_MINION, *TO_MINION, Enrolled], ids=lambda model: model.type)
def test_no_message_of_the_bus_is_understood_at_the_door(site: Site, model: type[Message]) -> None:
    """By its type alone, whatever its body: so a valid one is not either."""
    one = knocker(site.master)
    try:
        before = site.master.log.count("is not expected here")
        one.raw(msgpack.packb({"v": 2, "t": model.type}), b"\x80")
        until("it refused", lambda: site.master.log.count("is not expected here") > before)
        assert one.hear(0.05) is None
        assert site.master.rows("select count(*) from streams where node<>'n1'") == [(0,)]
    finally:
        one.close()


def test_a_frame_larger_than_the_door_is_cut_off_and_costs_nobody_else(site: Site) -> None:
    one, honest = knocker(site.master), knocker(site.master)
    try:
        one.raw(encode(Enrol(name="big", machine_id="m"))[0], b"x" * 5 * 1024)
        assert one.hear(0.5) is None
        honest.say(Enrol(name="small", machine_id="m"))
        assert isinstance(honest.hear(), Enrolled)
        assert not site.master.key("big")
    finally:
        one.close()
        honest.close()


def test_a_key_that_waits_is_not_let_in_at_the_bus(site: Site) -> None:
    keys = new_key_pair()
    assert knocker(site.master, keys).knock("waits").state == "pending"
    one = Stranger(site.master, keys)
    try:
        assert one.hello() is None
        assert site.master.rows("select facts from minions where name='waits'") == [("",)]
    finally:
        one.close()


# ---- who is accepted, and by what


def test_the_same_name_twice_is_two_keys_and_neither_gets_the_other_in(site: Site) -> None:
    real, liar = new_key_pair(), new_key_pair()
    for keys in (real, liar):
        assert knocker(site.master, keys).knock("twice").state == "pending"
    assert site.master.ask("keys.accept", name="twice", fingerprint=fingerprint(real.public))[-1]["exit"] == 0
    again = knocker(site.master, liar).knock("twice")
    assert again.state == "conflict"
    assert site.master.ask("keys.revoke", name="twice")[-1]["exit"] == 0
    assert {knocker(site.master, real).knock("twice").state, knocker(site.master, liar).knock("twice").state} == {
        "revoked",
        "pending",
    }


@pytest.mark.parametrize("arguments", [{"name": "byname"}, {"name": "byname", "fingerprint": ""}, {}])
def test_a_name_alone_accepts_nobody(site: Site, arguments: dict[str, str]) -> None:
    if not site.master.key("byname"):
        knocker(site.master).knock("byname")
    said = site.master.ask("keys.accept", **arguments)[-1]
    assert said["exit"] == 2
    assert "accepted by its fingerprint" in said["message"]
    assert site.master.key("byname")["state"] == "pending"


def test_a_fingerprint_of_one_name_accepts_no_other_name(site: Site) -> None:
    keys = new_key_pair()
    knocker(site.master, keys).knock("mine")
    said = site.master.ask("keys.accept", name="other", fingerprint=fingerprint(keys.public))[-1]
    assert said["exit"] == 2
    assert site.master.key("mine")["state"] == "pending"


# ---- tokens


def test_a_proof_is_worth_nothing_with_another_key_or_name_or_nonce(site: Site) -> None:
    """As whoever could read it would replay it; inside CURVE nobody can, and it would be no use."""
    token, mine, other = make_token(site.master), new_key_pair(), new_key_pair()
    stolen = with_token(token, "t1", mine)
    told = [
        answer(site.master, stolen, other),
        answer(site.master, stolen.model_copy(update={"name": "t2"}), mine),
        answer(site.master, stolen.model_copy(update={"nonce": b"another"}), mine),
        answer(site.master, stolen.model_copy(update={"proof": b""}), mine),
        answer(site.master, stolen.model_copy(update={"proof": bytes(32)}), mine),
    ]
    assert [one.state for one in told if one] == ["pending"] * 5
    assert all("unknown, expired or for another node" in one.reason for one in told if one)
    assert answer(site.master, stolen, mine) == Enrolled(state="accepted", reason=f"token {token.split('.')[0]}")


def test_a_token_is_used_once_and_never_again(site: Site) -> None:
    token = make_token(site.master)
    first, second = new_key_pair(), new_key_pair()
    for keys, name, state in ((first, "u1", "accepted"), (second, "u2", "pending")):
        told = answer(site.master, with_token(token, name, keys), keys)
        assert told is not None and told.state == state
    assert site.master.ask("keys.revoke", name="u1")[-1]["exit"] == 0
    told = answer(site.master, with_token(token, "u1", first), first)
    assert told is not None and told.state == "revoked", "nor does it bring back who was revoked"


def test_a_token_ends(site: Site) -> None:
    keys = new_key_pair()
    told = answer(site.master, with_token(make_token(site.master, ttl_s=-1), "late", keys), keys)
    assert told is not None and told.state == "pending"
    for forever in (1e12, float("inf")):
        assert site.master.ask("keys.token", ttl_s=forever)[-1]["exit"] == 2


def test_a_token_has_256_bits_and_is_written_down_nowhere(site: Site) -> None:
    made = [make_token(site.master) for _ in range(20)]
    secrets = [token.split(".")[1] for token in made]
    assert len(set(secrets)) == 20
    assert all(len(secret) == 43 for secret in secrets), "32 bytes in base64"
    for path in site.master.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path


def test_a_token_that_was_lengthened_in_the_store_is_worth_nothing(nursery: Nursery, tmp_path: Any) -> None:
    """Its secret follows from what it is for and how long: who writes into the store makes another token of it."""
    site = Site(tmp_path / "site", nursery)
    site.start()
    try:
        token = make_token(site.master, name="n7", ttl_s=60)
        site.master.kill()
        with closing(sqlite3.connect(site.master.database)) as database:
            database.execute("update tokens set name='', expires=?", (time.time() + 1e6,))
            database.commit()
        site.master.start()
        for name in ("n7", "n8"):
            keys = new_key_pair()
            told = answer(site.master, with_token(token, name, keys), keys)
            assert told is not None and told.state == "pending"
    finally:
        site.end()


def test_who_was_let_in_by_a_token_stands_in_the_audit_trail_with_who_made_it(site: Site) -> None:
    token, keys = make_token(site.master, name="a1"), new_key_pair()
    assert answer(site.master, with_token(token, "a1", keys), keys)
    ((who, act, detail),) = site.master.rows("select who, act, detail from audit order by n desc limit 1")
    assert (who, act) == (f"token {token.split('.')[0]}", "keys.accept")
    assert f'"fingerprint":"{fingerprint(keys.public)}"' in detail
    assert '"name":"a1"' in detail
    assert '"who":"root"' in detail
    assert "the audit trail is whole" in site.master.cli("audit", "verify").out


# ---- how much of it there may be


def many(master: Master, count: int, source: str) -> None:
    """So many keys of their own knock, from an address of this host's own, each once."""
    server = public_from_text(master.fingerprint)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = 300
    try:
        for begin in range(0, count, 100):
            dealers = []
            for number in range(begin, min(begin + 100, count)):
                keys = new_key_pair()
                dealers.append(dealer := context.socket(zmq.DEALER))
                dealer.setsockopt(zmq.LINGER, 0)
                dealer.curve_serverkey = server
                dealer.curve_secretkey, dealer.curve_publickey = keys.private, keys.public
                dealer.connect(f"tcp://{source}:0;127.0.0.1:{master.port + 1}")
                dealer.send_multipart(encode(Enrol(name=f"x{number}", machine_id="m")), zmq.NOBLOCK)
            deadline = time.monotonic() + 1
            for dealer in dealers:
                dealer.poll(max(0, int((deadline - time.monotonic()) * 1000)))
                dealer.close(0)
    finally:
        context.destroy(0)


def test_a_crowd_at_the_door_is_bounded_and_keeps_nobody_out(nursery: Nursery, tmp_path: Any) -> None:
    site = Site(tmp_path / "site", nursery)
    site.start()
    try:
        assert site.master.answers("n1")
        before = resident_bytes(site.master)
        with Pulse(site.master, "n1") as pulse:
            many(site.master, KEYS, "127.0.0.2")
        grown = resident_bytes(site.master) - before
        waiting = site.master.rows("select count(*) from minions where state='pending'")[0][0]
        print(f"{KEYS} keys from one address: {waiting} wait, {grown / 2**20:.1f} MiB more, {pulse}")
        assert waiting == PER_ADDRESS
        assert grown < 32 * 2**20
        assert pulse.p99_s < P99_S * patience()
        for number in range(3, 8):
            many(site.master, 60, f"127.0.0.{number}")
        waiting = site.master.rows("select count(*) from minions where state in ('pending','conflict')")[0][0]
        assert waiting == PENDING_CAP
        keys = new_key_pair()
        late = answer(site.master, Enrol(name="late", machine_id="m"), keys)
        assert late is not None and "too many keys are waiting" in late.reason
        told = answer(site.master, with_token(make_token(site.master, name="late"), "late", keys), keys)
        assert told is not None and told.state == "accepted", "a token comes in past the crowd"
    finally:
        site.end()


def test_one_who_knocks_without_end_is_answered_seldom_and_others_are(site: Site) -> None:
    loud = knocker(site.master)
    frames = encode(Enrol(name="loud", machine_id="m"))
    sent = heard = 0
    began = time.monotonic()
    try:
        loud.socket.setsockopt(zmq.RCVHWM, 10_000)
        with Pulse(site.master, "n1") as pulse:
            while time.monotonic() - began < 3:
                if loud.socket.poll(20, zmq.POLLOUT):
                    loud.raw(*frames)
                    sent += 1
                while loud.socket.poll(0):
                    assert decode(loud.socket.recv_multipart(), TO_STRANGER)
                    heard += 1
        took = time.monotonic() - began
        print(f"{sent} knocks in {took:.1f} s, {heard} answered: {pulse}")
        assert sent > 5 * heard
        assert heard <= knocks.BURST + knocks.PER_S * took
        assert pulse.p99_s < P99_S * patience()
        where = Settings(master=f"127.0.0.1:{site.master.port}", fingerprint=site.master.fingerprint, name="quiet")
        quiet = new_key_pair()

        def let_in() -> bool:
            return asyncio.run(knock_as_a_minion(where, quiet, 1.0)) is not None

        until("an honest one behind the same address heard, once the loud one is quiet", let_in)
    finally:
        loud.close()


def test_a_minion_that_runs_is_told_nothing_else_at_the_door(site: Site) -> None:
    """An accepted key may ask there, and is told so; it cannot get itself another name that way."""
    keys = load_or_create(MinionPaths(Paths(site.folder / "n1")).key)
    knock = Enrol(name="another", machine_id="m")
    told = until("that it is heard, after the loud one before it", lambda: answer(site.master, knock, keys))
    assert told.state == "accepted"
    assert not site.master.key("another")
    assert site.master.key("n1")["state"] == "accepted"
