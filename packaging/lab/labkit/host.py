"""The machine the lab runs on: programs, processes, locks, cgroups. The only place that starts programs.

A process is remembered as pid and start time together: a pid alone may belong to somebody else a second later,
and the lab sends SIGKILL.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .plan import LabError

RUN = Path("/run/pgha-lab")  # per boot: locks, and what the host's settings were before the first lab
CGROUP = Path("/sys/fs/cgroup")
PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "cp": "coreutils",
}


@dataclass(frozen=True)
class Process:
    """A process that cannot be taken for another one: `start` is its start time in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process `pid`; None when it is gone or a zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def load(cls, path: Path) -> Process | None:
        """The process written in `path`, if it is still the same living one."""
        try:
            raw = json.loads(path.read_text())
            process = cls(int(raw["pid"]), int(raw["start"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return process if process.alive() else None

    def save(self, path: Path) -> None:
        write(path, json.dumps({"pid": self.pid, "start": self.start}))

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: int) -> None:
        """Signals this very process; nothing when it is gone, even if the pid now belongs to another."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)


def run(
    argv: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """The finished command, its output as text.

    Raises: LabError with the command and its complaint when it fails (and check) or takes longer than timeout_s.
    """
    try:
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed; `lab doctor` says which package has it") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(argv)}` did not end within {timeout_s:.0f} s") from None
    if check and done.returncode:
        complaint = (done.stderr or done.stdout).strip()[-2000:]
        raise LabError(f"`{' '.join(argv)}` failed with {done.returncode}: {complaint}")
    return done


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Whether `condition` came true within timeout_s."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def write(path: Path, text: str) -> None:
    """Replaces `path` in one step: a reader sees the old text or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temp.write_text(text)
    temp.replace(path)


@contextmanager
def lock(path: Path, *, shared: bool = False, notice: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds `path` locked between processes. The lock dies with the process, so a crash never leaves one behind."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if notice:
                    notice()
                fcntl.flock(handle, kind)
            if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                continue  # whom we waited for removed the file: what we hold is no longer the lock
            yield
            return


def no_mightier_than(pid: int) -> list[str]:
    """The argv prefix that takes from a program every capability the process `pid` cannot have.

    Who enters a node from outside must not be mightier than the node: root of the host keeps CAP_SYS_TIME through
    nsenter, and the clock is the host's.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    bounding = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    beyond = ",".join(f"-cap_{number}" for number in range(last + 1) if not bounding >> number & 1)
    return ["setpriv", f"--bounding-set={beyond}"] if beyond else []


def hierarchies() -> list[Path]:
    """The cgroup trees that systemd in a node writes to: the v2 tree and, on older set-ups, the one named systemd.

    Raises: LabError when the machine has neither.
    """
    found = [path for path in (CGROUP, CGROUP / "unified") if (path / "cgroup.controllers").exists()]
    if (CGROUP / "systemd/cgroup.procs").exists():
        found.append(CGROUP / "systemd")
    if not found:
        raise LabError(
            "no cgroup tree for systemd is mounted: "
            "run `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"
        )
    return found


def join_cgroup(relative: str) -> None:
    """Moves the calling process into its own group, so that one node's systemd never sees another's processes."""
    for tree in hierarchies():
        group = tree / relative
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def cgroup_processes(relative: str) -> set[int]:
    """The pids in this group and all below it."""
    pids: set[int] = set()
    for tree in hierarchies():
        for group, _, _ in os.walk(tree / relative):
            try:
                pids.update(int(pid) for pid in (Path(group) / "cgroup.procs").read_text().split())
            except OSError:  # the group went away while we looked
                continue
    return pids - {0}


def kill_cgroup(relative: str) -> None:
    """Kills whatever is in this group and below: a process cannot leave it by itself, whoever started it.

    Raises: LabError when one of them does not die within 30 s.
    """
    deadline = time.monotonic() + 30
    while alive := [process for pid in cgroup_processes(relative) if (process := Process.of(pid))]:
        for process in alive:
            process.send(signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(f"processes do not die: {sorted(process.pid for process in alive)}")
        time.sleep(0.05)


def remove_cgroup(relative: str) -> bool:
    """Whether the group and all below it are gone; a group with processes stays."""
    gone = True
    for tree in hierarchies():
        groups = [str(path) for path, _, _ in os.walk(tree / relative, topdown=False)]
        for group in groups:
            try:
                os.rmdir(group)  # noqa: PTH106  Path.rmdir is the same call
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
    return gone


def mounts(wanted: Callable[[str, str], bool]) -> list[str]:
    """The mount points for which wanted(source, mount point) holds, innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        where = left.split()[4].replace("\\040", " ")
        if wanted(right.split()[1], where):
            found.append(where)
    return found[::-1]


def unmount(where: str) -> None:
    """Unmounts, at last by detaching it; with it goes the lock file nspawn keeps of every root it ever had."""
    with suppress(OSError):
        inode = Path(where).stat()
        Path(f"/run/systemd/nspawn/locks/inode-{inode.st_dev}:{inode.st_ino}").unlink()
    if run(["umount", where], check=False).returncode:
        run(["umount", "--lazy", where])


def missing_tools() -> list[str]:
    """The packages to install before a lab can be; empty when all are there."""
    return sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)})


def obstacles() -> list[str]:
    """What keeps this machine from having a lab, each with what to do; empty when nothing does."""
    found = []
    if os.geteuid():
        found.append("the lab makes namespaces and mounts, so it must be root: run it with sudo")
    if missing := missing_tools():
        found.append(f"missing tools: run `apt-get install {' '.join(missing)}`, or `lab doctor --install-missing`")
    if "overlay" not in Path("/proc/filesystems").read_text() and not _load_module("overlay"):
        found.append("the kernel has no overlayfs: run `modprobe overlay`, or take a kernel with CONFIG_OVERLAY_FS")
    for space in ("net", "pid", "mnt", "uts", "ipc", "cgroup"):
        if not Path(f"/proc/self/ns/{space}").exists():
            found.append(f"the kernel has no {space} namespaces: take a kernel with them (any distribution kernel has)")
    try:
        hierarchies()
    except LabError as error:
        found.append(str(error))
    if not os.geteuid() and shutil.which("nft") and run(["nft", "list", "tables"], check=False).returncode:
        found.append("nft cannot talk to the kernel: run `modprobe nf_tables`, or take a kernel with CONFIG_NF_TABLES")
    return found


def _load_module(name: str) -> bool:
    return shutil.which("modprobe") is not None and run(["modprobe", name], check=False).returncode == 0


def install_missing() -> None:
    """Installs the missing tools with apt.

    Raises: LabError when there is no apt, or it fails.
    """
    if missing := missing_tools():
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run(["apt-get", "update"], timeout_s=300)
        run(
            ["apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *missing],
            timeout_s=900,
        )
