"""What crosses the wire comes out as it went in, and whatever else arrives is one BusError."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgha.common.codec import BODY_LIMIT, HEADER_LIMIT, decode, encode
from pgha.common.errors import BusError
from pgha.common.facts import HostFacts
from pgha.common.messages import (
    FROM_MINION,
    FROM_STRANGER,
    OLDEST,
    TO_MINION,
    TO_STRANGER,
    VERSION,
    Accept,
    Ack,
    Answer,
    Bye,
    Cancel,
    Chunk,
    Credit,
    Enrol,
    Enrolled,
    Event,
    Fetch,
    Hello,
    Job,
    Lost,
    Message,
    NextKey,
    NextKeyKnown,
    OpenJob,
    Ping,
    Pong,
    Refuse,
    Resync,
    Rotate,
    Running,
    Sign,
    Signed,
    Successor,
    SuccessorKnown,
    Telemetry,
    Welcome,
)
from pgha.common.telemetry import EtcdMember, EtcdSample, Sample

JID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
FACTS = HostFacts(
    hostname="n1",
    machine_id="m",
    boot_id="b",
    os_id="debian",
    os_version="13",
    os_codename="trixie",
    architecture="amd64",
    kernel="6",
    python="3.13",
    cpus=2,
    memory_bytes=1,
    disk_free_bytes=1,
    container=False,
    virtualization="none",
    addresses=("10.77.0.1", "::1"),
    pgha_version="0.1.0",
)
ALL = (*FROM_MINION, *FROM_STRANGER, *TO_MINION, *TO_STRANGER)
ONE_OF_EACH: list[Message] = [
    Enrol(name="n1", machine_id="m", nonce=b"\0\xff", token_id="t", proof=b"p" * 32),
    Enrolled(state="conflict", reason="two keys"),
    Hello(
        epoch="e",
        spool_lo=1,
        spool_hi=2,
        acked=1,
        mepoch=7,
        open=(OpenJob(jid=JID, att=1, state="started"),),
        facts=FACTS,
    ),
    Welcome(name="n1", mepoch=1, hw=2**62, credit=1, now_ms=0),
    Job(
        jid=JID,
        att=1,
        mepoch=1,
        cls="state",
        mode="apply",
        not_after_ms=1,
        ttl_ms=1,
        sha256="0" * 64,
        document="é".encode(),
    ),
    Accept(jid=JID, att=1),
    Refuse(jid=JID, att=1, why="busy", detail="d"),
    Answer(jid=JID, att=1, out=(("stdout", "x"),), outcome=b"{}"),
    Fetch(sha256="0" * 64, offset=1, count=1),
    Chunk(sha256="0" * 64, offset=1, data=b"\0"),
    Event(epoch="e", seq=1, jid=JID, att=1, kind="out", body=b"\0"),
    Lost(epoch="e", first_seq=1, last_seq=2),
    Credit(events=1, bytes=2),
    Rotate(),
    NextKey(public=b"k" * 32),
    NextKeyKnown(public=b"k" * 32),
    Successor(server_key=b"k" * 32, signing_key=b"l" * 32, signature=b"s" * 64),
    SuccessorKnown(server_key=b"k" * 32),
    Ack(epoch="e", seq=0),
    Resync(epoch="e", from_seq=1),
    Telemetry(sample=Sample(at=1.5, etcd=EtcdSample(members=(EtcdMember(id="a"),)), units={"etcd": "active"})),
    Ping(mono_ms=1, running=(Running(jid=JID, att=1, resource="file:/x", seconds=0.5),)),
    Pong(mono_ms=1),
    Cancel(jid=JID, att=1),
    Sign(request=1, cluster="prod", name="etcd-server", csr="pem"),
    Signed(request=1, certificate="pem"),
    Bye(reason="over"),
]


def frames(header: object, body: object) -> list[bytes]:
    return [msgpack.packb(header), msgpack.packb(body)]


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: message.type)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode(encode(message), ALL) == message


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: message.type)
def test_what_the_version_before_knows_is_said_to_it_without_the_newer_fields(message: Message) -> None:
    if message.first > OLDEST:
        with pytest.raises(BusError, match="must be upgraded"):
            encode(message, OLDEST)
        return
    header, body = encode(message, OLDEST)
    assert msgpack.unpackb(header)["v"] == OLDEST
    assert not set(msgpack.unpackb(body)) & set(message.since)
    assert type(decode([header, body], ALL)) is type(message)


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in ONE_OF_EACH} == set(ALL)


def test_no_message_of_a_minion_names_its_sender() -> None:
    """Who a peer is, its key says; a field for it would sooner or later be believed."""
    for model in FROM_MINION:
        assert not {"mid", "minion", "node", "sender", "peer", "fingerprint", "public_key"} & set(model.model_fields)


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: message.type)
def test_a_message_where_it_is_not_expected_is_refused(message: Message) -> None:
    others = [model for model in ALL if model is not type(message)]
    with pytest.raises(BusError, match="is not expected here"):
        decode(encode(message), others)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_bytes_that_are_no_message_are_one_kind_of_error(data: list[bytes]) -> None:
    with pytest.raises(BusError):
        decode(data, ALL)


_plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary()
_values = _plain | st.lists(_plain, max_size=3) | st.dictionaries(st.text(max_size=3), _plain, max_size=3)


@settings(max_examples=60)
@given(st.sampled_from(ALL), st.data())
def test_a_body_of_any_values_is_a_message_or_one_kind_of_error(model: type[Message], data: st.DataObject) -> None:
    fields = list(model.model_fields)
    body = data.draw(st.dictionaries(st.sampled_from([*fields, "surprise"]), _values))
    try:
        message = decode(frames({"v": VERSION, "t": model.type}, body), [model])
    except BusError:
        return
    assert type(message) is model
    assert set(body) <= set(fields)


@settings(max_examples=60)
@given(st.sampled_from(ONE_OF_EACH), st.integers(0, 10_000), st.integers(0, 255))
def test_one_flipped_byte_is_a_message_or_one_kind_of_error(message: Message, at: int, byte: int) -> None:
    header, body = encode(message)
    changed = bytearray(body)
    changed[at % len(changed)] = byte
    try:
        decode([header, bytes(changed)], ALL)
    except BusError:
        pass


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        ({"v": VERSION + 1, "t": "PONG"}, {"mono_ms": 1}, "upgrade the older one"),
        ({"t": "PONG"}, {"mono_ms": 1}, "upgrade the older one"),
        ({"v": VERSION, "t": ["PONG"]}, {"mono_ms": 1}, "is not expected"),
        ([], {}, "not a map"),
        ({"v": VERSION, "t": "PONG"}, [], "not a map"),
        ({"v": VERSION, "t": "PONG"}, {"mono_ms": 1, "mid": "n1"}, "PONG: mid: Extra inputs"),
        ({"v": VERSION, "t": "PONG"}, {"mono_ms": -1}, "PONG: mono_ms"),
        ({"v": VERSION, "t": "PONG"}, {"mono_ms": 2**63}, "PONG: mono_ms"),
        ({"v": VERSION, "t": "ACCEPT"}, {"jid": "../../etc/passwd", "att": 1}, "ACCEPT: jid"),
    ],
)
def test_the_error_says_what_is_wrong(header: object, body: object, why: str) -> None:
    with pytest.raises(BusError, match=why):
        decode(frames(header, body), ALL)


def test_a_message_larger_than_a_receiver_takes_is_refused_at_home() -> None:
    with pytest.raises(BusError, match="more than the"):
        encode(Event(epoch="e", seq=1, jid=JID, att=1, kind="out", body=b"x" * BODY_LIMIT))


def test_frames_over_their_limits_are_not_parsed() -> None:
    with pytest.raises(BusError, match=f"{HEADER_LIMIT} are allowed"):
        decode([b"x" * (HEADER_LIMIT + 1), b""], ALL)
    with pytest.raises(BusError, match=f"{BODY_LIMIT} are allowed"):
        decode([encode(Pong(mono_ms=1))[0], b"x" * (BODY_LIMIT + 1)], ALL)


@pytest.mark.parametrize("depth", [400, 900, 1010])
def test_a_header_nested_deep_breaks_nobody(depth: int) -> None:
    nested = b"\x91" * depth + b"\xc0"
    for header in (nested, b"\x82\xa1v\x01\xa1t" + nested, b"\x82\xa1v" + nested + b"\xa1t\xa4PONG"):
        with pytest.raises(BusError):
            decode([header, b"\x80"], ALL)
