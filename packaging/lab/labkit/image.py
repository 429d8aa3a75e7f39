"""What a node boots from: read-only layers, made once and kept in the cache.

    base   a bare Debian with systemd, sshd and Python; what a provider hands over, nothing of pgha's stack
    debs   the packages a cluster will ask apt for, downloaded but not installed, so that ten installs are one download
    packages   the first group of these installed, nothing of it enabled: an image that somebody prepared
    deps, code   pgha's minion and what it needs (see program.py)

Rules kept here:
1. A layer's name holds a hash of its recipe and of the layer below it. A recipe is never edited in place.
2. A layer is made under another name and renamed when complete: a crash leaves no half layer that looks whole.
3. Programs of a layer run in a mount and pid namespace of their own, which takes their mounts and processes with it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .host import lock, mounts, run
from .plan import LabError

SUITE = "trixie"
PYTHON = "3.13"  # of that suite
RECIPE = 1  # raise it when the code below makes something else of the same inputs
INCLUDE = """
    systemd systemd-sysv dbus openssh-server python3 python3-venv iproute2 iputils-ping ca-certificates procps less
    nftables netbase
"""
# What conflicts with each other is asked for apart; the first group also without what is merely recommended.
DOWNLOADS = (
    """
    postgresql-17 postgresql-client-17 patroni python3-etcd python3-psycopg2 python3-urllib3 etcd-server etcd-client
    haproxy ufw pgbackrest curl wget python3-pip jq acl sudo rsync gnupg
    """,
    "chrony",
    "systemd-timesyncd",
)
# A database that Debian made is gone again, and no unit of these starts at boot: an image of somebody who knows pgha.
_PREPARE = f"""
set -eu
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q -y --no-download --no-install-recommends install {" ".join(DOWNLOADS[0].split())}
rm /usr/sbin/policy-rc.d
pg_dropcluster 17 main
systemctl disable etcd haproxy patroni pgbackrest postgresql rsync ufw
"""
_MASKED = (
    "systemd-networkd-wait-online.service",  # the lab makes the network from outside
    "systemd-modules-load.service",  # a container may not load modules: it would fail, and the node be "degraded"
    "apt-daily.timer",  # would hold apt's lock at a moment nobody chose
    "apt-daily-upgrade.timer",
)
_SSH_KEYS_UNIT = """\
[Unit]
Description=Make this node's own SSH host keys
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service ssh.socket

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""
_ENTER = """
set -eu
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount -t proc proc "$2/root/proc"
mount --bind /dev "$2/root/dev"
mount -t tmpfs tmpfs "$2/root/run"
mount --bind "$3" "$2/root/mnt"
root="$2/root"
shift 3
exec chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""
_UNREACHABLE = re.compile(
    r"Could not (resolve|connect)|Failed to fetch|Unable to connect|Temporary failure|No route to host", re.I
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cache:
    """The folder of all layers. Several labs, and several `lab up`, share it."""

    folder: Path
    say: Say

    def layer(self, kind: str, recipe: Sequence[str], make: Callable[[Path], None]) -> Path:
        """The folder of this layer; `make` is called with an empty one when it is not there yet."""
        path = self.folder / f"{kind}-{digest([str(RECIPE), kind, *recipe])}"
        with lock(self.folder / f"{kind}.lock", notice=lambda: self.say(f"waiting for another lab that makes {kind}")):
            if not path.exists():
                self.say(f"making {kind} (kept in {self.folder})")
                for stale in self.folder.glob(f".making-{kind}-*"):  # of a crash: we hold the lock
                    remove_tree(stale)
                temp = Path(tempfile.mkdtemp(prefix=f".making-{kind}-", dir=self.folder))
                temp.chmod(0o755)  # apt gives up root to download
                try:
                    made = temp / "layer"
                    made.mkdir(mode=0o755)
                    make(made)
                    made.rename(path)
                finally:
                    remove_tree(temp)
            os.utime(path)
            self._forget_old(kind, path)
        return path

    def _forget_old(self, kind: str, current: Path) -> None:
        """Removes layers nobody has mounted, but the newest few."""
        used = Path("/proc/self/mountinfo").read_text()
        unused = [p for p in self.folder.glob(f"{kind}-*") if p.is_dir() and p != current and str(p) not in used]
        unused.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for path in unused[2:]:
            remove_tree(path)

    def forget(self) -> None:
        """Removes every layer, so that the next lab gets today's packages.

        Raises: LabError while a lab has one mounted.
        """
        if mounts(lambda source, _: source.startswith("pgha-lab-")):
            raise LabError("a lab is up and stands on the cached layers: run `lab down` first")
        for path in self.folder.glob("*"):
            if path.is_dir():
                remove_tree(path)


def digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def remove_tree(path: Path) -> None:
    """Removes the folder but nothing mounted below it. rm is quicker here than shutil, by far."""
    if path.exists():
        run(["rm", "-rf", "--one-file-system", str(path)], timeout_s=300)


def debian(cache: Cache) -> list[Path]:
    """The layers of a bare Debian host, lowest last, as overlayfs wants them."""
    mirror = os.environ.get("PGHA_LAB_MIRROR", "http://deb.debian.org/debian")
    security = os.environ.get("PGHA_LAB_SECURITY_MIRROR", "http://deb.debian.org/debian-security")
    sources = [
        f"deb {mirror} {SUITE} main",
        f"deb {mirror} {SUITE}-updates main",
        f"deb {security} {SUITE}-security main",
    ]
    proxy = _apt_proxy()
    base = cache.layer(
        "base", [*sources, INCLUDE, *proxy, *_MASKED, _SSH_KEYS_UNIT], lambda made: _make_base(made, sources, proxy)
    )
    debs = cache.layer("debs", [base.name, *DOWNLOADS], lambda made: _download(made, base))
    return [debs, base]


def prepared(cache: Cache, below: Sequence[Path]) -> Path:
    """The layer with a cluster's packages, on top of `debian`'s."""

    def make(made: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_in(made, below, Path(folder), ["sh", "-c", _PREPARE])

    return cache.layer("packages", [below[0].name, _PREPARE], make)


def _apt_proxy() -> list[str]:
    """The host's apt proxy settings, as apt options: a node reaches the mirrors the way its host does."""
    if not shutil.which("apt-config"):
        return []
    dump = run(["apt-config", "dump", '--format=%f "%v";%n'], check=False).stdout
    return [line for line in dump.splitlines() if re.match(r'Acquire::https?::proxy "\S+";', line, re.I)]


def _make_base(made: Path, sources: Sequence[str], proxy: Sequence[str]) -> None:
    options = ['Acquire::Languages "none";', *proxy]
    argv = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--skip=cleanup/apt/lists",
        f"--include={','.join(INCLUDE.split())}",
    ]
    if Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        argv.append("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg")
    argv += [f"--aptopt={option}" for option in options]
    _or_unreachable(
        lambda: run([*argv, "--dpkgopt=force-unsafe-io", SUITE, str(made), *sources], timeout_s=1800), sources[0]
    )
    (made / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").rename(made / "etc/dpkg/dpkg.cfg.d/lab")
    units = made / "etc/systemd/system"
    for name in _MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    for key in (made / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (units / "lab-ssh-keys.service").write_text(_SSH_KEYS_UNIT)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "lab-ssh-keys.service").symlink_to("/etc/systemd/system/lab-ssh-keys.service")
    (made / "etc/machine-id").write_text("")
    for name in ("etc/resolv.conf", "etc/hostname"):
        (made / name).unlink(missing_ok=True)


def _download(made: Path, base: Path) -> None:
    script = ["set -eu", "cat /mnt/resolv.conf > /etc/resolv.conf", "apt-get -q update"]
    for group in DOWNLOADS:
        script.append(f"apt-get -q -y --download-only install {' '.join(group.split())}")
    script.append(f"apt-get -q -y --download-only --no-install-recommends install {' '.join(DOWNLOADS[0].split())}")
    script.append("rm -f /etc/resolv.conf")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "resolv.conf").write_text(resolv_conf())
        _or_unreachable(
            lambda: run_in(made, [base], Path(folder), ["sh", "-c", "\n".join(script)]), "the package mirror"
        )


def _or_unreachable(action: Callable[[], object], mirror: str) -> None:
    try:
        action()
    except LabError as error:
        if _UNREACHABLE.search(str(error)):
            end = "\n".join(str(error).splitlines()[-6:])
            raise LabError(
                f"cannot download from {mirror}. Check this machine's network, name server and apt proxy, or name "
                f"another mirror in PGHA_LAB_MIRROR and PGHA_LAB_SECURITY_MIRROR.\n{end}"
            ) from None
        raise


def run_in(made: Path, lowers: Sequence[Path], shared: Path, argv: Sequence[str]) -> None:
    """Runs argv in the lowers with the host's network; what it writes ends in `made`. `shared` is seen as /mnt.

    Raises: LabError when it fails.
    """
    temp = made.parent
    for name in ("work", "root"):
        (temp / name).mkdir(exist_ok=True)
    (temp / "upper").symlink_to(made)
    lower = ":".join(str(path) for path in lowers)
    isolated = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        _ENTER,
        "sh",
    ]
    run([*isolated, lower, str(temp), str(shared), *argv], timeout_s=1800)


def resolv_conf() -> str:
    """The name servers as a node can use them: a stub on the host's loopback is none for it."""
    texts = [
        path.read_text()
        for path in map(Path, ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"))
        if path.exists()
    ]
    for text in texts:
        if re.search(r"^\s*nameserver\s+(?!127\.|::1)", text, re.M):
            return text
    return texts[0] if texts else ""


def architecture() -> str:
    """The machine's name in Python's wheel tags."""
    return platform.machine()
