"""The power goes: what was accepted or acknowledged before is on the block device, not only in the page cache.

The journal, or the store, is on an ext4 image of its own. Its process is killed and the image file copied at once: the
copy has what the file system had written to the device by then. It is checked, mounted, and asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pgha.tests.bus.conftest import until
from pgha.tests.bus.history import read_history, read_journal
from pgha.tests.bus.quick import Nursery, Site, a_nursery

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


def command(*argv: str, good: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode in good, f"{argv}: {done.stdout}{done.stderr}"


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[None]:
    where.mkdir(parents=True, exist_ok=True)
    command("mount", "-o", "loop", str(image), str(where))
    try:
        yield
    finally:
        command("umount", "-l", str(where))


@contextmanager
def disk(folder: Path, where: Path) -> Iterator[Path]:
    """An ext4 file system on that folder; its image."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(24 * 1024 * 1024)
    command("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", str(image))
    with mounted(image, where):
        yield image


@contextmanager
def after_the_power_is_back(image: Path, folder: Path) -> Iterator[Path]:
    """Where what was on the device is found."""
    copy, where = folder / "copy.img", folder / "after"
    shutil.copyfile(image, copy)
    command("e2fsck", "-fy", str(copy), good=(0, 1, 2))
    with mounted(copy, where):
        yield where


def test_what_a_minion_has_accepted_and_told_is_in_its_journal_when_the_power_goes(
    nursery: Nursery, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    with disk(tmp_path, folder / "n1/var/lib/pgha") as image:
        site = Site(folder, nursery)
        try:
            site.start()
            os.sync()  # the empty journal is there; what comes now is what may be lost
            for _ in range(3):
                assert site.run()[-1]["exit"] == 0
            token = site.begin(script="/bin/echo {token} >> {effects}; sleep 5")
            until("it begun, as the master knows", lambda: site.state(token) == {"n1": "started"})
            site.minions["n1"].kill()
            with after_the_power_is_back(image, tmp_path) as where:
                journal = read_journal("n1", where / "journal.db")
            at_master = site.history()
            told = {(job.jid, job.att) for job in at_master.jobs}
            assert len(told) == 4
            assert told <= journal.jobs.keys()
            high = at_master.stored("n1", journal.epoch)
            assert high >= 10
            assert journal.highest >= high
            assert [event.seq for event in journal.events] == list(range(1, journal.highest + 1))
        finally:
            site.end()


def test_what_a_master_has_acknowledged_is_in_its_store_when_the_power_goes(nursery: Nursery, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    with disk(tmp_path, folder / "master/var/lib/pgha") as image:
        site = Site(folder, nursery)
        try:
            site.start()
            os.sync()
            for _ in range(4):
                assert site.run()[-1]["exit"] == 0
            site.master.kill()
            with after_the_power_is_back(image, tmp_path) as where:
                journals = {"n1": site.minions["n1"].journal}
                history = read_history(site.effects, where / "pgha.db", journals)
            journal = history.journals[0]
            assert journal.acked >= 9
            assert history.stored("n1", journal.epoch) >= journal.acked
            assert {job.jid for job in history.jobs} >= {jid for jid, _ in journal.jobs}
        finally:
            site.end()
