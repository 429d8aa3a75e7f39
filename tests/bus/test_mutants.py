"""A test of the tests: each rule of the bus is broken in a copy of the package, and those who watch it must turn red.

A mutant is a textual patch that fits exactly once. The copy stands before the real package on the path, so that the
tests, and the daemons they start, are of the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("common", "states", "master", "minion", "tests/bus", "tests/unit", "packaging/install")
AT_ONCE = 3
MARK = "PGHA_IS_A_MUTANT"
FAILPOINTS, RESTORED = "tests/bus/test_failpoints.py", "tests/bus/test_restored_and_doubled_masters.py"
FULL, JOURNAL = "tests/bus/test_full_disks.py", "tests/unit/test_journal.py"


@dataclass(frozen=True)
class Mutant:
    """`tests` are what must turn red."""

    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = {
    "what was running when the minion died is forgotten, and so is run again": Mutant(
        "minion/journal.py",
        'self.finish(jid, att, "interrupted", {"reason": "the minion was restarted while the job ran"})',
        'db.execute("delete from jobs where jid=? and att=?", (jid, att))',
        (JOURNAL, "-k", "interrupted_once"),
    ),
    "ACK before the commit": Mutant(
        "master/bus/intake.py",
        "            future.add_done_callback(partial(self._kept, arrivals",
        "            for one in arrivals:\n"
        "                self._exchange.send(one.peer, Ack(epoch=one.piece.epoch, seq=one.events[-1].seq))\n"
        "            future.add_done_callback(partial(self._kept, arrivals",
        (FULL, "-k", "takes_nothing_acknowledges"),
    ),
    "ACCEPT before the journal has the job": Mutant(
        "minion/orders.py",
        "            if self.journal.accept(job.jid, job.att, job.cls, job.not_after_ms):\n"
        "                self.worker.submit(job)\n",
        "            later = lambda: self.journal.accept(job.jid, job.att, job.cls, job.not_after_ms) "
        "and self.worker.submit(job)\n"
        "            __import__('threading').Timer(0.3, later).start()\n",
        (FAILPOINTS, "-k", "journal.accept.before"),
    ),
    "a job that comes again replaces itself": Mutant(
        "minion/journal.py",
        "\"insert or ignore into jobs (jid, att, cls, state, not_after_ms) values (?,?,?,'accepted',?)\"",
        "\"insert or replace into jobs (jid, att, cls, state, not_after_ms) values (?,?,?,'accepted',?)\"",
        (JOURNAL,),
    ),
    "no deadline is checked": Mutant(
        "minion/orders.py", "if now_ms > job.not_after_ms:", "if False:", (RESTORED, "-k", "deadline")
    ),
    "what waited past its time begins": Mutant(
        "minion/underway.py",
        "current.cancelled.is_set() or _too_late(current)",
        "current.cancelled.is_set()",
        ("tests/bus/test_clocks.py", "-k", "waited"),
    ),
    "a gap in a stream is passed over": Mutant(
        "master/store/jobs.py",
        "if event.seq != high + 1:",
        "if event.seq <= high:",
        ("tests/bus/test_what_survives.py", "-k", "gap"),
    ),
    "a job that nobody has signed is taken": Mutant(
        "minion/orders.py", "if not verifier.job(job):", "if False:", (RESTORED, "-k", "order_now")
    ),
    "the key of a session orders more than queries": Mutant(
        "common/signing.py", "if job.query and self._session:", "if self._session:", ("tests/unit/test_signing.py",)
    ),
    "a WELCOME of another HELLO is taken": Mutant(
        "common/signing.py",
        'b"pgha welcome", nonce, welcome.name',
        'b"pgha welcome", b"", welcome.name',
        (RESTORED, "-k", "welcome and old"),
    ),
    "an older run of the master is obeyed": Mutant(
        "minion/orders.py", "if job.mepoch < self.journal.master_epoch:", "if False:", (RESTORED, "-k", "order_now")
    ),
    "the journal is not forced to the disk": Mutant(
        "common/sqlite.py",
        "pragma synchronous=full",
        "pragma synchronous=off",
        ("tests/bus/test_power_loss.py", "-k", "accepted_and_told"),
    ),
}


def copy_to(folder: Path) -> Path:
    """The package as `folder/pgha`, the path to import it from."""
    package = folder / "pgha"
    for name in COPIED:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "py.typed", "pyproject.toml"):
        shutil.copy(ROOT / name, package / name)
    return package


def run(package: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), MARK: "1", "PGHA_SEEDS": "1"}
    argv = (sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider", *tests)
    return subprocess.run(argv, cwd=package, env=environment, capture_output=True, text=True, timeout=240)


pytestmark = pytest.mark.skipif(MARK in os.environ, reason="this is the copy")


Done = subprocess.CompletedProcess[str]


def broken_run(folder: Path, mutant: Mutant) -> Done:
    package = copy_to(folder)
    path = package / mutant.path
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"the patch of {mutant.path} no longer fits; write it anew"
    path.write_text(text.replace(mutant.old, mutant.new))
    compile(path.read_text(), str(path), "exec")
    return run(package, mutant.tests)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Done]]]:
    """All mutants, a few at a time: most of what each does is wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            name: pool.submit(broken_run, tmp_path_factory.mktemp("mutant"), mutant) for name, mutant in MUTANTS.items()
        }


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_broken_turns_its_tests_red(runs: dict[str, Future[Done]], name: str) -> None:
    done = runs[name].result()
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1, done.stdout
    assert " failed" in last, done.stdout
    assert "error" not in last, done.stdout


def test_the_copy_without_a_patch_is_what_is_tested_and_is_green(tmp_path: Path) -> None:
    package = copy_to(tmp_path)
    done = run(package, (RESTORED, "-k", "order_now"))
    assert done.returncode == 0, done.stdout
    where = (sys.executable, "-c", "import pgha.minion.orders as one; print(one.__file__)")
    shown = subprocess.run(
        where, cwd=package, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert Path(shown.stdout.strip()) == package / "minion/orders.py"
