"""The entry of `make fuzz`, shortly: whatever bytes come, it is a value or the one error."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgha.tests.bus.fuzz import BODIES, Others, hostile, seeds
from pgha.tests.fuzz.fuzz_codec import one_input

QUIET = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def test_every_seed_is_read() -> None:
    for seed in seeds():
        one_input(seed)


@QUIET
@given(hostile(Others(facts={"hostname": "x"})))
def test_hostile_messages(frames: tuple[bytes, ...]) -> None:
    header, body = frames[0], b"".join(frames[1:])
    one_input(len(header).to_bytes(2, "big") + header + body)


@QUIET
@given(st.sampled_from(seeds()), st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=3)), max_size=6))
def test_seeds_with_bytes_changed_or_gone(seed: bytes, changes: list[tuple[int, bytes]]) -> None:
    changed = bytearray(seed)
    for at, piece in changes:
        place = at % (len(changed) + 1)
        changed[place : place + 1] = piece
    one_input(bytes(changed))


@QUIET
@given(st.sampled_from(BODIES), st.binary(max_size=40))
def test_bodies_with_a_tail(body: bytes, tail: bytes) -> None:
    one_input(b"\0\0" + body + tail)


@QUIET
@given(st.recursive(st.none() | st.floats() | st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_bodies_of_any_json(value: object) -> None:
    one_input(b"\0\0" + json.dumps({"ok": True, "data": {"x": value}, "reason": value}).encode())
