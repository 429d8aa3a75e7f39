"""File descriptors: when a person is told, and how often."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from pgha.master.bus.limits import Descriptors, Watch, alarmed, full, scarce, take_all


def seen(used: int, limit: int = 1000, most: int = 100_000) -> Descriptors:
    return Descriptors(used, limit, most)


@pytest.mark.parametrize(("used", "told"), [(0, False), (699, False), (700, True), (999, True), (1000, True)])
def test_at_seventy_percent_a_person_is_told(used: int, told: bool) -> None:
    assert bool(full(seen(used))) == told


def test_what_is_told_has_the_numbers_and_what_to_do() -> None:
    assert "700 of 1000 file descriptors" in full(seen(700)) and "LimitNOFILE" in full(seen(700))


@pytest.mark.parametrize(
    ("minions", "most", "told"), [(0, 64, False), (0, 63, True), (1000, 4064, False), (1000, 4063, True)]
)
def test_too_few_for_all_minions_at_once_is_told_before_it_happens(minions: int, most: int, told: bool) -> None:
    text = scarce(seen(5, most, most), minions)
    assert bool(text) == told
    assert not told or f"LimitNOFILE={4 * minions + 64}" in text


def test_the_alarm_stays_on_until_it_is_calm() -> None:
    alarm, heard = False, []
    for used in (600, 700, 690, 600, 599, 699, 700):
        alarm = alarmed(alarm, seen(used))
        heard.append(alarm)
    assert heard == [False, True, True, True, False, False, True]


def test_the_log_is_told_once_and_again_after_calm() -> None:
    told: list[str] = []
    watch = Watch(told.append)
    for used in (100, 710, 720, 650, 710, 500, 710):
        watch.see(seen(used), 10)
    assert [text.split()[0] for text in told] == ["710", "710"]


def test_scarcity_is_told_once_and_again_when_it_came_back() -> None:
    told: list[str] = []
    watch = Watch(told.append)
    for minions in (10, 1000, 1001, 10, 1000):
        watch.see(seen(1, 1024, 1024), minions)
    assert len(told) == 2
    assert all("LimitNOFILE=4064" in text for text in told)


def test_what_is_open_is_counted() -> None:
    """In a process where nothing else opens or closes anything."""
    script = """
import os
from pgha.master.bus.limits import look
before = look().used
opened = [os.open("/", os.O_RDONLY) for _ in range(5)]
print(look().used - before)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "5"


def test_all_that_the_system_allows_is_taken() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard) // 2, hard))
        take_all()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
