"""Who gets in: a key that was accepted by its fingerprint or by a token, and never a name that a stranger claims."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from pgha.common.codec import encode
from pgha.common.keys import fingerprint, load_or_create, new_key_pair, public_from_text, public_text
from pgha.common.messages import (
    Accept,
    Ack,
    Bye,
    Enrol,
    Enrolled,
    Event,
    Hello,
    Message,
    Ping,
    Pong,
    Refuse,
    Sign,
    Signed,
    Telemetry,
    Welcome,
)
from pgha.common.names import new_job_id
from pgha.common.telemetry import Sample
from pgha.minion.enrol import ask
from pgha.minion.settings import Settings
from pgha.minion.survey import survey

if TYPE_CHECKING:
    from .conftest import Master, Minion, Stranger

JID = new_job_id()
OF_THE_BUS: list[Message] = [
    Hello(epoch="e", spool_lo=1, spool_hi=0, acked=0, mepoch=0, facts=survey()),
    Accept(jid=JID, att=1),
    Refuse(jid=JID, att=1, why="busy"),
    Event(epoch="e", seq=1, jid=JID, att=1, kind="done", body=b'{"ok": true}'),
    Telemetry(sample=Sample(at=1.0)),
    Ping(mono_ms=1),
    Sign(request=1, cluster="prod", name="etcd-server", csr="x"),
    Welcome(name="n1", mepoch=1, hw=0, credit=1, now_ms=1),
    Ack(epoch="e", seq=1),
    Pong(mono_ms=1),
    Signed(request=1),
    Bye(reason="x"),
]


def test_a_key_that_nobody_accepted_is_shown_and_reached_by_nothing(
    pair: Master, host: Callable[[str], Minion], stranger: Callable[..., Stranger]
) -> None:
    newcomer = host("n3")
    asked = newcomer.enrol(pair)
    assert asked.returncode == 0
    assert "pending" in asked.stdout
    assert "pgha-master keys accept n3" in asked.stdout
    listed = pair.cli("keys", "list").out
    assert newcomer.shown in listed
    assert pair.key("n3")["state"] == "pending"
    own = load_or_create(newcomer.root / "etc/pgha/pki/minion.key")
    peer = stranger(pair, own)
    peer.say(OF_THE_BUS[0])
    assert "2 ok, 0 failed, 0 no answer" in pair.cli("run", "*", "ping").err
    assert pair.cli("run", "n3", "ping").code == 5
    assert peer.hear(0.3) is None
    assert pair.rows("select count(*) from streams where node='n3'") == [(0,)]


@pytest.mark.parametrize("message", OF_THE_BUS, ids=lambda message: message.type)
def test_the_enrolment_port_understands_nothing_but_enrolment(
    pair: Master, stranger: Callable[..., Stranger], message: Message
) -> None:
    peer = stranger(pair, enrolment=True)
    peer.say(message)
    peer.say(Enrol(name="knocker", machine_id="m"))
    answer = peer.hear()
    assert isinstance(answer, Enrolled)
    assert peer.hear(0.05) is None
    assert f"message type '{message.type}' is not expected here" in pair.log


def test_the_bus_port_understands_no_enrolment(master: Master, member: Callable[..., Stranger]) -> None:
    peer = member(master, "n9")
    peer.say(Enrol(name="n1", machine_id="m"))
    peer.say(Ping(mono_ms=5))
    assert peer.hear() == Pong(mono_ms=5)
    assert [key["name"] for key in master.known_keys()] == ["n9"]


@pytest.mark.parametrize("offset", [0, 1], ids=["bus", "enrolment"])
@pytest.mark.parametrize("mechanism", ["null", "plain"])
def test_a_peer_without_curve_is_not_heard(pair: Master, mechanism: str, offset: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    if mechanism == "plain":
        dealer.plain_username, dealer.plain_password = b"n1", b"n1"
    dealer.connect(f"tcp://127.0.0.1:{pair.port + offset}")
    try:
        dealer.send_multipart(encode(OF_THE_BUS[0] if not offset else Enrol(name="plain", machine_id="m")))
        assert pair.answers("n1")
        assert not dealer.poll(300)
        assert not pair.key("plain")
    finally:
        dealer.close(0)
        context.destroy(0)


@pytest.mark.parametrize("offset", [0, 1], ids=["bus", "enrolment"])
def test_bytes_that_are_no_protocol_disturb_nobody(pair: Master, offset: int) -> None:
    before = pair.known_keys()
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" + b"\0" * 8 + b"\x7f" + b"\x03" + b"x" * 600):
        with socket.create_connection(("127.0.0.1", pair.port + offset), 5) as connection:
            connection.sendall(garbage)
    assert pair.answers("n1")
    assert {key["name"] for key in before} == {key["name"] for key in pair.known_keys()}


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"", b""),
        (b"a", b"b", b"c"),
        (b"\x91" * 1020, b"\x80"),
        (b"\x82\xa1v\x01\xa1t" + b"\x91" * 1000 + b"\xc0", b"\x80"),
        (b"\x82\xa1v" + b"\x91" * 900 + b"\xc0\xa1t\xa4PING", b"\x80"),
        (b"\x82\xa1v\x01\xa1t\xa4PING", b"\x91" * 100_000),
        (b"\x82\xa1v\x01\xa1t\xa4PING", b"\xdd\xff\xff\xff\xff"),
        (b"\x82\xa1v\x63\xa1t\xa4PING", b"\x81\xa7mono_ms\x01"),
        (b"\x82\xa1v\x01\xa1t\xa4PING", b"\x82\xa7mono_ms\x01\xa3mid\xa2n1"),
    ],
    ids=["one", "empty", "three", "deep", "deeptype", "deepversion", "deepbody", "huge", "version", "extra"],
)
def test_an_accepted_peer_that_breaks_the_protocol_costs_itself_one_message(
    member_of_its_own: tuple[Master, Stranger], frames: tuple[bytes, ...]
) -> None:
    master, peer = member_of_its_own
    before = master.log.count("sent what it must not")
    peer.raw(*frames)
    peer.say(Ping(mono_ms=9))
    assert peer.hear() == Pong(mono_ms=9)
    assert master.log.count("sent what it must not") == before + 1


def test_a_wrong_fingerprint_accepts_nobody(master: Master, stranger: Callable[..., Stranger]) -> None:
    stranger(master).knock("n7")
    said = master.cli("keys", "accept", "n7", "--fingerprint", fingerprint(new_key_pair().public))
    assert said.code == 2
    assert "no waiting key matches" in said.err
    assert master.key("n7")["state"] == "pending"


def test_a_name_alone_does_not_choose_between_two_keys(master: Master, stranger: Callable[..., Stranger]) -> None:
    real, liar = stranger(master), stranger(master)
    assert [real.knock("n7").state, liar.knock("n7").state] == ["pending", "pending"]
    said = master.cli("keys", "accept", "n7", "--yes")
    assert said.code == 2
    assert "--fingerprint" in said.err
    assert "--fingerprint" in master.ask("keys.accept", name="n7")[-1]["message"]
    assert {key["state"] for key in master.known_keys()} == {"pending"}
    assert master.cli("keys", "accept", "n7", "--fingerprint", real.shown).code == 0
    assert {key["fingerprint"]: key["state"] for key in master.known_keys()} == {
        real.shown: "accepted",
        liar.shown: "pending",
    }
    assert "is accepted with another key" in master.cli("keys", "accept", "n7", "--fingerprint", liar.shown).err


def test_a_known_name_with_a_new_key_is_a_conflict_and_gets_nothing(
    master: Master, member: Callable[..., Stranger], stranger: Callable[..., Stranger]
) -> None:
    owner, liar = member(master, "n7"), stranger(master)
    answer = liar.knock("n7")
    assert answer.state == "conflict"
    assert "pgha-master keys revoke n7" in answer.reason
    liar.say(OF_THE_BUS[0])
    owner.say(Ping(mono_ms=3))
    assert owner.hear() == Pong(mono_ms=3)
    assert liar.hear(0.3) is None
    assert "conflict" in master.cli("keys", "list").out


def test_a_token_lets_in_one_minion_once(master: Master, host: Callable[[str], Minion], until: Any) -> None:
    token = master.ask("keys.token", name="n1", ttl_s=60)[-1]["data"]["token"]
    other, first, second = host("n2"), host("n1"), host("n1b")
    assert "pending" in other.enrol(master, "--token", token).stdout
    done = first.enrol(master, "--token", token)
    assert "accepted" in done.stdout
    assert "conflict" in second.enrol(master, "--token", token, name="n1").stdout
    first.start()
    until("n1 connected", lambda: "n1" in master.connected())
    assert master.answers("n1")
    assert token.split(".")[1] not in first.log + master.log


def test_a_token_for_anybody_lets_in_exactly_one(master: Master, host: Callable[[str], Minion]) -> None:
    token = master.ask("keys.token", ttl_s=60)[-1]["data"]["token"]
    assert "accepted" in host("n1").enrol(master, "--token", token).stdout
    late = host("n2").enrol(master, "--token", token).stdout
    assert "pending" in late
    assert "its token is unknown, expired or for another node" in late


def test_an_expired_token_lets_nobody_in(master: Master, host: Callable[[str], Minion]) -> None:
    token = master.ask("keys.token", ttl_s=-1)[-1]["data"]["token"]
    assert "pending" in host("n1").enrol(master, "--token", token).stdout


def test_a_rejected_key_is_told_so_and_stays_out(master: Master, host: Callable[[str], Minion]) -> None:
    one = host("n1")
    one.enrol(master)
    assert master.cli("keys", "reject", "n1", "--yes").code == 0
    again = one.enrol(master)
    assert again.returncode == 1
    assert "rejected" in again.stdout


async def wrong(port: int, fingerprint_of: bytes) -> Enrolled | None:
    settings = Settings(master=f"127.0.0.1:{port}", fingerprint=public_text(fingerprint_of), name="n8")
    return await ask(settings, new_key_pair(), 0.7)


def test_a_minion_with_another_fingerprint_of_the_master_trusts_nobody_there(pair: Master) -> None:
    assert asyncio.run(wrong(pair.port, new_key_pair().public)) is None
    assert not pair.key("n8")
    assert asyncio.run(wrong(pair.port, public_from_text(pair.fingerprint))) is not None


def test_a_revoked_minion_is_cut_off_says_so_and_comes_back_only_by_a_new_decision(
    master: Master, minion: Callable[[str], Minion], until: Any
) -> None:
    one = minion("n1")
    assert master.cli("keys", "revoke", "n1", "--yes").code == 0
    until("the minion's own words", lambda: "has not accepted this key: revoked" in one.log)
    assert master.cli("run", "n1", "ping").code == 5
    assert master.cli("keys", "accept", "n1", "--yes").code == 2
    assert master.key("n1")["state"] == "revoked"
    assert master.cli("keys", "accept", "n1", "--fingerprint", one.shown).code == 0
    until("n1 back", lambda: "n1" in master.connected(), 15)
    assert master.answers("n1")


def test_of_a_revoked_key_no_frame_is_heard_on_the_connection_it_still_has(
    master: Master, member: Callable[..., Stranger]
) -> None:
    revoked = member(master, "n1")
    revoked.event(1)
    assert revoked.hear() == Ack(epoch="e1", seq=1)
    assert master.cli("keys", "revoke", "n1", "--yes").code == 0
    farewell = revoked.hear()
    assert isinstance(farewell, Bye)
    assert "revoked" in farewell.reason
    revoked.event(2)
    revoked.say(Ping(mono_ms=1))
    revoked.say(OF_THE_BUS[0])
    honest = member(master, "n2")
    honest.say(Ping(mono_ms=2))
    assert honest.hear() == Pong(mono_ms=2)
    assert revoked.hear(1.0) is None
    assert master.rows("select seq from events where node='n1'") == [(1,)]
    assert master.rows("select hw from streams where node='n1'") == [(1,)]


def test_a_revoked_key_is_not_taken_for_its_successor_of_the_same_name(
    master: Master, member: Callable[..., Stranger]
) -> None:
    thief = member(master, "n1")
    assert master.cli("keys", "revoke", "n1", "--yes").code == 0
    assert isinstance(thief.hear(), Bye)
    successor = member(master, "n1")
    thief.say(OF_THE_BUS[0])
    thief.event(1, b'{"ok": true}', kind="done")
    successor.say(Ping(mono_ms=2))
    assert successor.hear() == Pong(mono_ms=2)
    assert thief.hear(0.5) is None
    assert master.rows("select * from events") == []


def test_a_minion_settles_no_job_but_its_own(master: Master, member: Callable[..., Stranger], until: Any) -> None:
    victim, liar = member(master, "n1"), member(master, "n2")
    cli = master.begin("run", "n1", "--", "true")
    job = until("the job", lambda: next(iter([m for m in [victim.hear()] if m is not None and m.type == "JOB"]), None))
    liar.say(Accept(jid=job.jid, att=1))
    liar.event(1, b'{"ok": true}', kind="done", jid=job.jid)
    assert liar.hear() == Ack(epoch="e1", seq=1)
    assert master.rows("select state from jobs where jid=?", job.jid) == [("queued",)]
    victim.say(Accept(jid=job.jid, att=1))
    victim.event(1, b'{"ok": false, "exit_code": 7}', kind="done", jid=job.jid)
    _, err = cli.communicate(timeout=10)
    assert cli.returncode == 1
    assert "exit code 7" in err
