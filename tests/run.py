"""All tests, in three streams side by side: nodes mostly wait for each other, the tests of the bus for time to pass.

    python tests/run.py

The first stream is shown as it goes, the others when they have ended. Ends with 1 when one of them has failed.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "--ignore=tests/bench")
BESIDE = (  # the longest of those on nodes, so that all streams end at about the same time
    (
        "tests/lab/test_bus_on_real_nodes.py",
        "tests/lab/test_cluster_life.py",
        "tests/lab/test_the_lab_itself.py",
    ),
    (
        "tests/lab/test_backups.py",
        "tests/lab/test_backups_drill.py",
        "tests/lab/test_enrol_over_ssh.py",
    ),
)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as files:
        started, said = (
            time.monotonic(),
            [files.enter_context((Path(folder) / f"beside{number}").open("w+")) for number in range(len(BESIDE))],
        )
        streams = [pytest("-m", "lab", *paths, out=out) for paths, out in zip(BESIDE, said, strict=True)]
        try:
            streams.append(pytest("-m", "not lab", f"--basetemp={folder}/t"))
            failed = streams[-1].wait()
            elsewhere = (f"--ignore={path}" for paths in BESIDE for path in paths)
            streams.append(pytest("-m", "lab", *elsewhere, "tests/lab"))
            failed += sum(stream.wait() for stream in (streams[-1], *streams[: len(BESIDE)]))
        except KeyboardInterrupt:
            for stream in streams:
                stream.send_signal(signal.SIGINT)  # once: tests take down what they have made
            for stream in streams:
                stream.wait()
            return 130
        for paths, out in zip(BESIDE, said, strict=True):
            out.seek(0)
            print(f"\n---- beside that: {' '.join(paths)}\n{out.read()}", flush=True)
    print(f"all streams took {(time.monotonic() - started) / 60:.1f} min: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


def pytest(*options: str, out: TextIO | None = None) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a Ctrl-C reaches it by us and not twice."""
    print("+ pytest", *options, flush=True)
    about = None if out is None else subprocess.STDOUT
    return subprocess.Popen((*PYTEST, *options), cwd=ROOT, stdout=out, stderr=about, start_new_session=True)


if __name__ == "__main__":
    sys.exit(main())
