"""apt: install what is missing, upgrade what is outdated, and say plainly why it does not work.

While packages are installed, a policy-rc.d forbids their scripts to start anything: Debian's etcd and PostgreSQL
would otherwise come up with data and settings of their own, on the very ports the cluster is about to use.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.errors import ActionFailed
from ..states.resources.packages import LISTS_PARTIAL, LISTS_STAMP, SIMULATE, touched, upgradable
from ..states.system import Output

Runner = Callable[[tuple[str, ...], float], Output]  # argv, deadline in s

APT = (
    "apt-get",
    "-q",
    "-y",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "DPkg::Lock::Timeout=300",
)
CONFIGURE = ("dpkg", "--configure", "-a", "--force-confold", "--force-confdef")
LISTS_FRESH_S = 3600.0
DEADLINE_S = 1800.0
POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# pgha installs packages; it starts their services itself\nexit 101\n"
_STALE = re.compile(
    r"Unable to locate package|404 +Not Found|has no installation candidate|Version '.+' for '.+' was not"
)
_CAUSES = (
    ("No space left on device", "the disk is full; free some space and apply again"),
    ("dpkg was interrupted", "an earlier package run was cut off; run `dpkg --configure -a` on this host, apply again"),
    ("Could not get lock", "another program holds apt's lock for more than 5 minutes; wait for it, apply again"),
    ("is not signed", "a package source is not signed by a key this host trusts; check its Signed-By"),
    ("NO_PUBKEY", "a package source is signed by a key this host does not have; check its Signed-By"),
    ("Unable to locate package", "no package source of this host has that package; check the source and the version"),
    (
        "' was not found",
        "no package source of this host has that version; apt-cache madison NAME lists those there are",
    ),
    (
        "Packages need to be removed but remove is disabled",
        "it contradicts what is installed, and nothing is removed along; apt-get -s install NAME says what would go",
    ),
    ("held broken packages", "the packages contradict what is installed or held; apt-mark showhold lists what is held"),
)
_NETWORK = re.compile(
    r"Could not resolve|Temporary failure resolving|Unable to connect|Cannot initiate the connection|"
    r"Could not connect|Connection timed out|Connection failed|Failed to fetch"
)


class Simulation:
    """What an upgrade would do. It takes apt a second to say, so its answer is kept while its inputs are unchanged."""

    INPUTS = (
        "/var/lib/dpkg/status",
        "/var/lib/apt/extended_states",
        "/var/lib/apt/lists",
        LISTS_PARTIAL,
        LISTS_STAMP,
        "/etc/apt",
        "/etc/apt/preferences.d",
        "/etc/apt/sources.list.d",
        "/etc/apt/apt.conf.d",
    )

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, ...], Output] = ((), Output(1))

    def ask(self, run: Runner, timeout_s: float) -> Output:
        inputs = tuple(_changed_ns(path) for path in self.INPUTS)
        if self._kept[0] != inputs or self._kept[1].rc != 0:
            self._kept = (inputs, run(SIMULATE, timeout_s))
        return self._kept[1]


def _changed_ns(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def install(run: Runner, names: tuple[str, ...], recommends: bool, options: tuple[str, ...] = ()) -> None:
    """Install in one transaction. Lists older than an hour are refreshed first; stale ones are refreshed once more.

    What an earlier run left half-configured is configured first.
    """
    if _lists_age_s() > LISTS_FRESH_S:
        refreshed = update(run)
        if refreshed.rc != 0 and not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
            raise failure("apt-get update", refreshed)
    recommended = "--install-recommends" if recommends else "--no-install-recommends"
    argv = (*APT, "install", recommended, *options, "--", *names)
    with services_kept_off():
        said = run(argv, DEADLINE_S)
        if said.rc != 0 and "dpkg was interrupted" in said.stdout + said.stderr:  # by a power loss, say
            run(CONFIGURE, DEADLINE_S)
            said = run(argv, DEADLINE_S)
        if said.rc != 0 and _STALE.search(said.stdout + said.stderr):
            update(run)
            said = run(argv, DEADLINE_S)
    if said.rc != 0:
        raise failure(f"installing {', '.join(names)}", said)


def upgrade(run: Runner, scope: str, hold: tuple[str, ...]) -> None:
    """Refresh the lists and upgrade what the scope names. Upgraded services are restarted by their own packages.

    Raises ActionFailed, with nothing upgraded, when apt would move a held package along.
    """
    refreshed = update(run)
    if refreshed.rc != 0:
        raise failure("apt-get update", refreshed)
    said = run(SIMULATE, 60.0)
    if said.rc != 0:
        raise failure("apt-get upgrade --simulate", said)
    names = tuple(package.name for package in upgradable(said.stdout, scope, hold))
    if names:
        argv = (*APT, "install", "--only-upgrade", "--no-remove", "--no-install-recommends", *names)
        if dragged := sorted(touched(run((*argv, "-s"), 60.0).stdout) & {*hold}):
            raise ActionFailed(
                f"apt would upgrade {', '.join(dragged)} along with the rest, which no package run may; find out what "
                f"needs it with: {' '.join((SIMULATE[0], '-s', 'install', *names[:5]))}, or set "
                "system.packages.upgrade: none"
            )
        said = run(argv, DEADLINE_S)
    if said.rc != 0:
        raise failure(f"upgrading {', '.join(names)}", said)


def update(run: Runner) -> Output:
    said = run((*APT, "-o", "APT::Update::Error-Mode=any", "update"), 300.0)
    if said.rc == 0:
        Path(LISTS_STAMP).parent.mkdir(0o755, parents=True, exist_ok=True)
        Path(LISTS_STAMP).touch()
    return said


def let_services_start(policy: Path = POLICY) -> None:
    """Take away the policy of a run that was killed: it would keep every service of the host from being restarted."""
    if _left_by_us(policy):
        policy.unlink(missing_ok=True)


def _left_by_us(policy: Path) -> bool:
    try:
        return policy.read_text(errors="replace") == _POLICY_TEXT
    except OSError:
        return False


@contextmanager
def services_kept_off(policy: Path = POLICY) -> Iterator[None]:
    """No package script starts a service within. A policy of the user's stays; one left by a killed run is ours."""
    ours = not policy.exists() or _left_by_us(policy)
    if ours:
        policy.write_text(_POLICY_TEXT)
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink(missing_ok=True)


def failure(what: str, said: Output) -> ActionFailed:
    """The cause that the output names, what to do about it, and the output's last lines."""
    text = said.stdout + said.stderr
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:", "dpkg: error"))]
    shown = "\n".join((errors or lines)[-8:])
    for sign, cause in _CAUSES:
        if sign in text:
            return ActionFailed(f"{what} failed: {cause}", shown)
    if _NETWORK.search(text):
        advice = "check this host's DNS, its route, and a proxy in /etc/apt/apt.conf.d"
        return ActionFailed(f"{what} failed: cannot reach the package mirror; {advice}", shown)
    return ActionFailed(f"{what} failed", shown)


def _lists_age_s() -> float:
    ages = [time.time() - path.stat().st_mtime for path in map(Path, (LISTS_STAMP, LISTS_PARTIAL)) if path.exists()]
    return min(ages, default=float("inf"))
