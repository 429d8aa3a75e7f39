"""All tests, three parts at a time: nodes mostly wait for each other, the tests of the bus for time to pass.

    python tests/run.py

A part is what runs without nodes, or one file of the tests on nodes. What it said is shown when it has ended, and what
failed once more at the end. Ends with 1 when one of them has failed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "--ignore=tests/bench")
AT_A_TIME = 3
LONGEST = (
    "backups",
    "cluster_life",
    "backups_drill",
    "bus_on_real_nodes",
    "taking_a_node_out",
    "plan_you_can_trust",
    "enrol_over_ssh",
)
"""These begin first, so that no long one is left alone at the end."""


@dataclass
class Part:
    """Some tests in a process of their own, in a session of its own: a Ctrl-C reaches it by us and not twice."""

    name: str
    options: tuple[str, ...]
    said: TextIO
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        print("+ pytest", *self.options, flush=True)
        argv = (*PYTEST, *self.options)
        self.process = subprocess.Popen(argv, cwd=ROOT, stdout=self.said, stderr=self.said, start_new_session=True)

    def show(self) -> None:
        self.said.seek(0)
        minutes = (time.monotonic() - self.began) / 60
        print(f"\n---- {self.name}, {minutes:.1f} min\n{self.said.read()}", flush=True)

    def failures(self) -> str:
        """Its name and pytest's own lines of what failed; without such lines, as after a crash, its last ones."""
        self.said.seek(0)
        lines = self.said.read().splitlines()
        told = [line[:300] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        return "\n  ".join((self.name, *(told[:20] or lines[-10:])))


def parts(folder: Path) -> Iterator[Part]:
    """Each is begun as it is asked for."""

    def said(name: str) -> TextIO:
        return (folder / f"{name}.said").open("w+")

    yield Part("without nodes", ("-m", "not lab", f"--basetemp={folder}/t"), said("without-nodes"))
    names = [path.stem.removeprefix("test_") for path in sorted((ROOT / "tests/lab").glob("test_*.py"))]
    for name in (*LONGEST, *(name for name in names if name not in LONGEST)):
        yield Part(f"on nodes: {name}", ("-m", "lab", f"tests/lab/test_{name}.py"), said(name))


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in the background would ignore it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    began, running, failed = time.monotonic(), list[Part](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        waiting = parts(Path(folder))
        try:
            while True:
                running += islice(waiting, AT_A_TIME - len(running))
                if not running:
                    break
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    one.show()
                    failed += [one.failures()] if one.process.returncode else []
                time.sleep(0.2)
        except KeyboardInterrupt:
            for one in running:
                one.process.send_signal(signal.SIGINT)  # once: tests take down what they have made
            for one in running:
                one.process.wait()
            return 130
    told = f"{len(failed)} FAILED" if failed else "all passed"
    print("", *failed, f"{told}, in {(time.monotonic() - began) / 60:.1f} min", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
