"""One node's life: its root, its supervisor, power on and off, and a way in.

A node is systemd-nspawn under a small supervisor of its own, a detached process: a container's reboot is the end of its
nspawn (exit code 133), and somebody must start it again. The supervisor is its power supply: each boot gets a fresh
cable, and when the machine is off, for whatever reason, the cable is dead.

Ugly: power loss is the death of every process, but the kernel and its page cache live on. What a node wrote without
fsync is still there after `start`; a test of fsync needs a virtual machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import host, image, net
from .host import Process, run, wait_until, write
from .plan import LabError, Names, Node

if TYPE_CHECKING:
    from tarfile import TarInfo

REBOOT = 133
POWER_OFF = signal.SIGRTMIN + 4  # to systemd as PID 1: systemctl poweroff
BOOT_S = 60.0
STOP_S = 120.0
ENVIRONMENT = (
    "HOME=/root",
    "USER=root",
    "LOGNAME=root",
    "SHELL=/bin/bash",
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
_DOOR = Path(__file__).resolve().parents[1] / "lab"


@dataclass(frozen=True)
class Machine:
    """A node with its folder and the layers it boots from. Holds no state: what is true is read from the machine."""

    names: Names
    node: Node
    folder: Path
    lowers: tuple[Path, ...]

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def own(self) -> Path:
        """Files that this node alone has, from its first boot on and after each `wipe`."""
        return self.folder / "own"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def cgroup(self) -> str:
        return f"{self.names.prefix}/{self.node.name}"

    def supervisor(self) -> Process | None:
        return Process.load(self.folder / "supervisor.json")

    def nspawn(self) -> Process | None:
        return Process.load(self.folder / "nspawn.json")

    def is_on(self) -> bool:
        return self.supervisor() is not None or self.nspawn() is not None

    def init(self) -> Process | None:
        """The node's PID 1 as the host sees it; None when there is none (yet)."""
        parent = self.nspawn()
        if parent is None:
            return None
        try:
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            for child in children:
                status = Path(f"/proc/{child}/status").read_text()
                inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
                if inner == "1" and Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return Process.of(int(child))
        except (OSError, StopIteration):
            pass  # it went away while we looked
        return None

    # --- root -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the node's root: the image with a layer of its own on top. Nothing when it is there already."""
        upper, work = self.folder / "upper", self.folder / "work"
        fresh = not upper.exists()
        for path in (upper, work, self.root):
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        if not self.root.is_mount():
            if gone := [str(path) for path in self.lowers if not path.exists()]:
                raise LabError(
                    f"the image of {self.node.name} is gone from the cache ({gone[0]}): run `lab down`, then `lab up`"
                )
            lower = ":".join(str(path) for path in self.lowers)
            options = f"lowerdir={lower},upperdir={upper},workdir={work}"
            run(["mount", "-t", "overlay", self.names.machine(self.node.name), "-o", options, str(self.root)])
        if fresh or not (self.root / "etc/hostname").exists():
            write(self.root / "etc/resolv.conf", image.resolv_conf())
            write(
                self.root / "etc/hosts",
                f"127.0.0.1\tlocalhost\n127.0.1.1\t{self.node.name}\n::1\tlocalhost ip6-localhost\n",
            )
            write(self.root / "etc/hostname", f"{self.node.name}\n")
            if self.own.exists():
                run(["cp", "-a", f"{self.own}/.", str(self.root)])

    def unmount(self) -> None:
        if self.root.is_mount():
            host.unmount(str(self.root))

    def erase(self) -> None:
        """Empties the node's own layer: it boots bare again. Only when it is off."""
        self.unmount()
        for name in ("upper", "work"):
            image.remove_tree(self.folder / name)

    # --- power ------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Starts the supervisor, which boots the node; does not wait for the boot."""
        self.prepare()
        with self.console.open("a") as log:
            child = subprocess.Popen(
                [sys.executable, str(_DOOR), "--name", self.names.lab, "supervise", self.node.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        if not wait_until(lambda: self.supervisor() is not None or child.poll() is not None, 20):
            raise LabError(f"the supervisor of {self.node.name} did not start; see {self.console}")

    def supervise(self) -> None:
        """The supervisor: boots the node until it ends otherwise than by a reboot."""
        me = Process.of(os.getpid())
        assert me is not None
        host.join_cgroup(f"{self.cgroup}/supervisor")
        me.save(self.folder / "supervisor.json")
        code = REBOOT
        while code == REBOOT:
            net.attach(self.names, self.node)
            child = subprocess.Popen(self._nspawn_argv(), env=self._nspawn_environment(), preexec_fn=self._enter_cgroup)
            if started := Process.of(child.pid):
                started.save(self.folder / "nspawn.json")
            code = child.wait()
            net.cut_power(self.names, self.node)
            print(f"--- nspawn of {self.node.name} ended with {code}", flush=True)
        for name in ("nspawn.json", "supervisor.json"):
            (self.folder / name).unlink(missing_ok=True)

    def _enter_cgroup(self) -> None:
        host.join_cgroup(f"{self.cgroup}/run")

    def _nspawn_argv(self) -> list[str]:
        return [
            "systemd-nspawn",
            "--register=no",
            "--keep-unit",
            f"--directory={self.root}",
            f"--machine={self.names.machine(self.node.name)}",
            f"--hostname={self.node.name}",
            f"--network-namespace-path=/run/netns/{self.names.netns(self.node.name)}",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--capability=CAP_NET_ADMIN",
            "--drop-capability=CAP_SYS_TIME",  # the clock is the host's
            "--console=read-only",
            "--boot",
        ]

    def _nspawn_environment(self) -> dict[str, str]:
        """Sysctls: net.* are the node's own and writable; vm.* and kernel.* are the host's and not."""
        return {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}

    def kill(self) -> None:
        """Power loss: the network is dead first, so that no dying process gets a word out, then everything at once.

        Raises: LabError when the node's processes do not die within 30 s.
        """
        net.cut_power(self.names, self.node)
        deadline = time.monotonic() + 10
        while self.is_on() and time.monotonic() < deadline:
            if init := self.init():
                init.send(signal.SIGKILL)
            time.sleep(0.02)  # again: pulled in the middle of a reboot, it may be in its next life already
        self.end_processes()
        net.cut_power(self.names, self.node)

    def end_processes(self) -> None:
        """Kills whatever is left of the node, also without its PID 1 or its supervisor."""
        host.kill_cgroup(self.cgroup)

    def stop(self) -> None:
        """Orderly power-off.

        Raises: LabError when it takes longer than STOP_S.
        """
        if not wait_until(lambda: self.init() is not None or not self.is_on(), BOOT_S):
            raise LabError(f"{self.node.name} has no PID 1; `lab kill {self.node.name}` ends it")
        if init := self.init():
            init.send(POWER_OFF)
        if not wait_until(lambda: not self.is_on(), STOP_S):
            raise LabError(
                f"{self.node.name} did not power off within {STOP_S:.0f} s; `lab kill {self.node.name}` ends it"
            )

    def reboot(self) -> None:
        """Orderly reboot from inside; returns when the next life has begun.

        Raises: LabError when the node is off or does not go down within STOP_S.
        """
        before = self.nspawn()
        if before is None:
            raise LabError(f"{self.node.name} is off: `lab start {self.node.name}`")
        self.call(["systemctl", "reboot"])
        if not wait_until(lambda: self.nspawn() not in (before, None) or not self.is_on(), STOP_S):
            raise LabError(f"{self.node.name} did not reboot within {STOP_S:.0f} s; see {self.console}")

    def wait_booted(self) -> str:
        """The state "running" or "degraded", once systemd says that the boot is over.

        Raises: LabError with the end of the console when it goes off, or that is not within BOOT_S.
        """
        deadline = time.monotonic() + BOOT_S
        failure = f"did not boot within {BOOT_S:.0f} s"
        while time.monotonic() < deadline:
            state = self.boot_state()
            if state in ("running", "degraded"):
                return state
            if not self.is_on():
                failure = "went off while it booted"
                break
            time.sleep(0.1)
        tail = self.console.read_text(errors="replace").splitlines()[-25:] if self.console.exists() else []
        raise LabError(f"{self.node.name} {failure}. The end of {self.console}:\n" + "\n".join(tail))

    def boot_state(self) -> str:
        """What `systemctl is-system-running` says; "off" without a PID 1, "starting" before systemd can answer."""
        if self.init() is None:
            return "starting" if self.is_on() else "off"
        try:
            return self.call(["systemctl", "is-system-running"], check=False).stdout.strip() or "starting"
        except LabError:
            return "starting"

    # --- a way in ---------------------------------------------------------------------------------------------

    def entry(self, argv: Sequence[str], *, term: str = "dumb") -> list[str]:
        """The argv that runs `argv` in the node as root, with no more capabilities than the node has.

        The command dies with the one who asked for it (pdeathsig), so a caller's timeout leaves nothing in the node.
        Raises: LabError when the node is off.
        """
        init = self.init()
        if init is None:
            raise LabError(f"{self.node.name} is off: run `lab --name {self.names.lab} start {self.node.name}`")
        try:
            limits = host.no_mightier_than(init.pid)
        except OSError:
            raise LabError(f"{self.node.name} went off just now") from None
        enter = [*limits, "nsenter", f"--target={init.pid}", "--all", "setpriv", "--pdeathsig=TERM"]
        return [*enter, "env", "--ignore-environment", "--chdir=/root", *ENVIRONMENT, f"TERM={term}", *argv]

    def call(self, argv: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The finished command in the node."""
        return run(self.entry(argv), check=check)

    def replace_process(self, argv: Sequence[str], *, term: str = "dumb") -> None:
        """Becomes the command in the node: standard streams, terminal and exit code are simply its own."""
        entry = self.entry(argv, term=term)
        sys.stdout.flush()
        os.execvp(entry[0], entry)

    def push(self, source: Path, target: str) -> None:
        """Copies a file or folder of the host to the path `target` in the node, owned by root."""
        if not source.exists():
            raise LabError(f"there is no {source} to copy")
        folder, _, name = target.rpartition("/")
        import tarfile  # here: every other order is quicker without it

        entry = self.entry(["sh", "-c", 'mkdir -p "$1" && exec tar -x -C "$1"', "sh", folder or "/"])
        with subprocess.Popen(entry, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as unpack:
            assert unpack.stdin is not None and unpack.stderr is not None
            with tarfile.open(fileobj=unpack.stdin, mode="w|") as archive:
                archive.add(source, arcname=name or source.name, filter=_owned_by_root)
            unpack.stdin.close()
            complaint = unpack.stderr.read().decode(errors="replace").strip()
        if unpack.returncode:
            raise LabError(f"cannot copy {source} to {self.node.name}:{target}: {complaint}")


def _owned_by_root(member: TarInfo) -> TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
