"""Two hosts that use one key: whoever of them is the thief, it gets nothing to do and nothing to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pgha.common.messages import (
    Chunk,
    Fetch,
    Hello,
    Message,
    NextKey,
    Rotate,
    Sign,
    Signed,
    Welcome,
)
from pgha.minion.survey import survey
from pgha.tests.bus.conftest import Master, Stranger, until

M = TypeVar("M", bound=Message)


def heard(one: Stranger, kind: type[M], seconds: float = 10.0) -> M:
    message: M = until(
        f"a {kind.type}", lambda: next((m for m in [one.hear(1.0)] if isinstance(m, kind)), None), seconds
    )
    return message


def greeted(one: Stranger, host: str) -> Welcome:
    facts = survey().model_copy(update={"machine_id": host, "boot_id": host})
    values: dict[str, Any] = {"epoch": "e1", "spool_lo": 1, "spool_hi": 0, "acked": 0, "mepoch": 0, "speaks": 2}
    one.say(Hello(**values, nonce=b"n" * 16, facts=facts))
    return heard(one, Welcome)


def test_a_twin_gets_no_job_no_certificate_no_file_and_no_key(
    master: Master, member: Callable[..., Stranger], stranger: Callable[..., Stranger]
) -> None:
    first = member(master, "n9")
    greeted(first, "right")
    rotating = master.begin("keys", "rotate", "n9")
    try:
        heard(first, Rotate)
        nothing_for_twins(master, first, stranger(master, first.keys))
    finally:
        rotating.kill()
        rotating.wait(10)


def nothing_for_twins(master: Master, first: Stranger, second: Stranger) -> None:
    greeted(second, "thief")
    greeted(first, "right")  # the one that was there before is alive, too
    first.say(Sign(request=1, cluster="prod", name="etcd", csr="x"))
    assert "two hosts use its key" in heard(first, Signed).why
    first.say(Fetch(sha256="0" * 64, offset=0, count=1))
    assert "two hosts use its key" in heard(first, Chunk).why
    first.say(NextKey(public=b"k" * 32))
    until("that it is told to the operator", lambda: "NEXT_KEY of 127.0.0.1 is not taken: two hosts" in master.log)
    assert {key["state"] for key in master.known_keys() if key["name"] == "n9"} == {"accepted"}
