"""Who waits for what becomes of jobs gets all of it, whoever else waits, and is not told that a minion is silent which
has spoken meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pgha.common.messages import Job
from pgha.common.names import new_job_id
from pgha.common.results import Outcome
from pgha.master.bus.flights import Flight, News, Output
from pgha.master.bus.following import SILENT, Following

END = Outcome(ok=True)
LINE = Output("stdout", "a line")


def flight(node: str = "n1") -> Flight:
    values = {"jid": new_job_id(), "att": 1, "mepoch": 1, "cls": "call", "mode": "call", "not_after_ms": 1, "ttl_ms": 1}
    return Flight(node, Job.model_validate({**values, "sha256": "0" * 64, "document": b""}), "started")


def live(body: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        await asyncio.wait_for(body(), 5)

    asyncio.run(in_time())


async def rest(following: Following) -> list[News]:
    found = []
    while not following.over:
        found.append((await following.next())[1])
    return found


def test_what_came_before_anybody_followed_is_told_to_the_first_who_does() -> None:
    async def body() -> None:
        one = flight()
        one.tell(LINE)
        following = Following([one], 0.0, 60.0)
        one.tell(END)
        assert await rest(following) == [LINE, END]

    live(body)


def test_two_who_follow_the_same_job_are_both_told_its_end_whoever_came_first() -> None:
    async def body() -> None:
        one = flight()
        first, second = Following([one], 0.0, 60.0), Following([one], 0.0, 60.0)
        one.tell(LINE)
        one.tell(END)
        assert await rest(first) == await rest(second) == [LINE, END]

    live(body)


def test_one_who_leaves_takes_nothing_from_another() -> None:
    async def body() -> None:
        one = flight()
        first, second = Following([one], 0.0, 60.0), Following([one], 0.0, 60.0)
        first.close()
        one.tell(END)
        assert await rest(second) == [END]
        one.tell(LINE)
        assert list(one.told) == [LINE], "nobody follows it any more"

    live(body)


def test_a_minion_whose_words_are_not_read_yet_is_not_silent() -> None:
    async def body() -> None:
        one, two = flight("n1"), flight("n2")
        following = Following([one, two], 0.0, 60.0)
        one.tell(LINE)
        assert following.waiting() == [two]
        following.tell(two, SILENT)
        two.tell(LINE)
        two.tell(END)
        one.tell(END)
        assert [(which.node, news) for which, news in [await following.next() for _ in range(4)]] == [
            ("n1", LINE),
            ("n2", LINE),
            ("n2", END),
            ("n1", END),
        ]
        assert following.over

    live(body)


def test_after_silence_no_more_comes_of_that_job_and_the_others_go_on() -> None:
    async def body() -> None:
        one, two = flight("n1"), flight("n2")
        following = Following([one, two], 0.0, 60.0)
        following.tell(one, SILENT)
        assert await following.next() == (one, SILENT)
        one.tell(END)
        two.tell(END)
        assert await following.next() == (two, END)
        assert following.over
        assert list(one.told) == [END], "for who follows it next"

    live(body)
