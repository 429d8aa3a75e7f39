"""Disks that refuse, on either side: nothing acknowledged is lost, work waits and says why, and goes on by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pgha.tests.bus.conftest import until
from pgha.tests.bus.history import broken, read_journal
from pgha.tests.bus.quick import Nursery, Site, a_nursery

TALK = "/bin/echo {token} >> {effects}; echo out of {token}; sleep 0.5; echo end of {token}"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def site(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("disks") / "site", nursery)
    try:
        yield site.start()
    finally:
        site.end()


def goes_on(site: Site) -> None:
    until("it works again", lambda: site.run()[-1]["exit"] == 0)
    site.wait()
    site.settled()
    assert broken(site.history()) == []


def trouble(site: Site) -> str:
    """What the minion says in its heartbeat is wrong with it, as the master tells it."""
    return str(site.master.key("n1").get("trouble", ""))


def test_a_store_that_takes_nothing_acknowledges_nothing_and_says_so(site: Site) -> None:
    token = site.begin(script=f"{TALK}; sleep 0.5")
    until("it begun", lambda: site.state(token) == {"n1": "started"})
    stored = site.history().stored("n1", site.history().journals[0].epoch)
    site.master.arm("store.commit.before=full")
    minion = site.minions["n1"]
    until("its end in the journal", lambda: read_journal("n1", minion.journal).events[-1].kind == "done")
    said = site.run()
    assert "the store does not take the write" in str(said[-1]), said
    until("events refused", lambda: "not acknowledged" in site.master.log)
    high = site.history().stored("n1", site.history().journals[0].epoch)
    assert stored <= high
    assert read_journal("n1", minion.journal).acked <= high, "written down with the end, after half a second for an ACK"
    site.master.arm("")
    until("the end stored", lambda: site.state(token) == {"n1": "done"})
    goes_on(site)


def test_a_journal_that_takes_nothing_refuses_the_job_and_nothing_runs(site: Site) -> None:
    before = site.count()
    site.minions["n1"].arm("journal.accept.before=full")
    said = site.run()
    assert said[-1]["exit"] != 0
    assert "the journal does not take the write" in str(said)
    assert site.count() == before
    site.minions["n1"].arm("")
    goes_on(site)


@pytest.mark.parametrize("step", ["start", "record", "finish"])
def test_a_journal_that_fills_up_in_the_middle_makes_the_work_wait_and_its_minion_tells_why(
    site: Site, step: str
) -> None:
    site.minions["n1"].arm(f"journal.{step}.before=full")
    token = site.begin(script=TALK)
    until("its minion telling why", lambda: "the journal does not take the write" in trouble(site))
    assert set(site.state(token).values()) <= {"queued", "accepted", "started"}
    site.minions["n1"].arm("")
    until("its end", lambda: site.state(token) == {"n1": "done"})
    until("no trouble any more", lambda: not trouble(site))
    goes_on(site)


@contextmanager
def small_disk(where: Path, size: str = "3m") -> Iterator[Path]:
    """A file system of 3 MiB, or of another size, on that folder; the file that fills it when somebody writes to it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(where)), check=True)
    try:
        yield where / "ballast"
    finally:
        subprocess.run(("umount", "-l", str(where)), check=True)


def fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


@pytest.mark.parametrize("side", ["minion", "master"])
def test_a_disk_that_is_really_full_costs_nothing_but_time(nursery: Nursery, tmp_path: Path, side: str) -> None:
    folder = tmp_path / "site"
    with small_disk(folder / ("n1" if side == "minion" else "master") / "var/lib/pgha") as ballast:
        site = Site(folder, nursery)
        try:
            site.start()
            assert site.run()[-1]["exit"] == 0
            token = site.begin(
                script="/bin/echo {token} >> {effects}; echo out of {token}; sleep 1; echo end of {token}"
            )
            until("it begun", lambda: token in site.effects.read_text())
            fill(ballast)
            before = site.count()
            said = site.run(script="head -c 300000 /dev/zero | tr '\\0' x; /bin/echo {token} >> {effects}", timeout_s=5)
            assert said[-1]["exit"] != 0
            assert site.master.alive
            assert site.minions["n1"].alive
            ballast.unlink()
            until("its end", lambda: site.state(token) == {"n1": "done"}, 40)
            site.wait()
            until("it works again", lambda: site.run()[-1]["exit"] == 0)
            site.settled(60)
            assert site.count() >= before + 1
            assert [one for one in broken(site.history()) if "what it said" not in one] == []
        finally:
            site.end()


@contextmanager
def failing_disk(backing: Path, where: Path) -> Iterator[Path]:
    """An ext4 file system whose device has less behind it than it says; the file that takes the rest of that away.

    What is written then fails with an error of the device, not for want of room.
    """
    with small_disk(backing, "12m") as ballast:
        image = backing / "disk.img"
        with image.open("wb") as file:
            file.truncate(24 * 1024 * 1024)
        for argv in (
            ("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", str(image)),
            ("mount", "-o", "loop,errors=continue,nodiscard", str(image), str(where)),
        ):
            where.mkdir(parents=True, exist_ok=True)
            subprocess.run(argv, check=True, capture_output=True)
        try:
            yield ballast
        finally:
            subprocess.run(("umount", "-l", str(where)), check=True)


def test_a_device_that_fails_is_told_as_what_it_is_and_nothing_runs_on_a_guess(
    nursery: Nursery, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    with failing_disk(tmp_path / "backing", folder / "n1/var/lib/pgha") as ballast:
        site = Site(folder, nursery)
        try:
            site.start()
            assert site.run()[-1]["exit"] == 0
            os.sync()
            fill(ballast)
            site.begin(script="/bin/echo {token} >> {effects}; head -c 6000000 /dev/zero | tr '\\0' '\\n'")
            until("an error of the device", lambda: failed(site), 40)
            assert set(site.state(site.tokens[-1]).values()) <= {"accepted", "started", "refused"}
            assert site.minions["n1"].alive
            assert [one for one in broken(site.history()) if " ran " in one] == []
        finally:
            site.end()


def failed(site: Site) -> bool:
    return "disk I/O error" in trouble(site) + str(site.master.rows("select message from jobs"))
