"""A stream of events as the master takes it: in the order it came in, and of one epoch on each connection."""

from __future__ import annotations

import signal
from collections.abc import Callable

from pgha.common.messages import Ack, Lost, Message, Resync, Welcome
from pgha.tests.bus.conftest import Master, Stranger, until


def acknowledged(one: Stranger, seq: int) -> list[Message]:
    """All that is said until that event is acknowledged."""
    said: list[Message] = []

    def heard() -> bool:
        if (message := one.hear(1.0)) is not None:
            said.append(message)
        return isinstance(message, Ack) and message.seq == seq

    until(f"event {seq} acknowledged", heard)
    return said


def test_what_is_lost_is_lost_after_the_events_that_came_before_that_word(
    master: Master, member: Callable[[Master, str], Stranger]
) -> None:
    one = member(master, "n9")
    assert isinstance(one.hello(epoch="e1", speaks=2, nonce=b"n" * 16), Welcome)
    master.signal(signal.SIGSTOP)  # so that all of it is there at once
    one.event(1)
    one.event(2)
    one.say(Lost(epoch="e1", first_seq=3, last_seq=6))
    one.event(7)
    master.signal(signal.SIGCONT)
    assert not any(isinstance(message, Resync) for message in acknowledged(one, 7))
    lost = master.rows("select seq, body from events where kind='lost'")
    assert lost == [(6, '{"first":3,"last":6}')]


def test_an_event_of_another_epoch_than_its_hello_is_no_event(
    master: Master, member: Callable[[Master, str], Stranger]
) -> None:
    one = member(master, "n9")
    one.event(1, epoch="e2")
    one.say(Lost(epoch="e3", first_seq=1, last_seq=6))
    one.event(1, epoch="e1")
    acknowledged(one, 1)
    assert master.rows("select epoch, hw from streams") == [("e1", 1)]
    assert master.log.count("another epoch than that of its HELLO") == 2
