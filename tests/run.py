"""All tests, in two streams side by side: nodes mostly wait for each other, and the tests of the bus for time to pass.

    python tests/run.py

The first stream is shown as it goes, the second when it has ended. Ends with 1 when either has failed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "--ignore=tests/bench")
BESIDE = (  # the longest of those on nodes, and some more so that both streams end at about the same time
    "tests/lab/test_bus_on_real_nodes.py",
    "tests/lab/test_cluster_life.py",
    "tests/lab/test_enrol_over_ssh.py",
    "tests/lab/test_ssh_between_data_nodes.py",
    "tests/lab/test_the_lab_itself.py",
)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "beside").open("w+") as said:
        started, streams = time.monotonic(), [pytest("-m", "lab", *BESIDE, out=said)]
        try:
            streams.append(pytest("-m", "not lab", f"--basetemp={folder}/t"))
            failed = streams[-1].wait()
            streams.append(pytest("-m", "lab", *(f"--ignore={path}" for path in BESIDE), "tests/lab"))
            failed += streams[-1].wait() + streams[0].wait()
        except KeyboardInterrupt:
            for stream in streams:
                stream.send_signal(signal.SIGINT)  # once: tests take down what they have made
            for stream in streams:
                stream.wait()
            return 130
        said.seek(0)
        print(f"\n---- beside that: {' '.join(BESIDE)}\n{said.read()}", flush=True)
    print(f"both streams took {(time.monotonic() - started) / 60:.1f} min: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


def pytest(*options: str, out: TextIO | None = None) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a Ctrl-C reaches it by us and not twice."""
    print("+ pytest", *options, flush=True)
    about = None if out is None else subprocess.STDOUT
    return subprocess.Popen((*PYTEST, *options), cwd=ROOT, stdout=out, stderr=about, start_new_session=True)


if __name__ == "__main__":
    sys.exit(main())
