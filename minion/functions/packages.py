"""Installed versions, and upgrades that are asked for by name.

An upgrade here changes files and restarts nothing: while apt runs, no package script may start or restart a service.
It moves what is installed, removes nothing, and takes nothing of the stack along that was not named.
"""

from __future__ import annotations

from ...common import functions
from ...common.errors import ActionFailed
from ...common.results import Outcome
from ...states.action import InstallPackages
from ...states.resources.packages import touched
from ..preflight import mirror
from .request import Call, Doors, arguments, packages

MAJORS = range(13, 21)
STACK = (
    "etcd",
    "etcd-server",
    "etcd-client",
    "haproxy",
    "patroni",
    "python3-etcd",
    "python3-psycopg2",
    "postgresql-common",
    *(f"postgresql-{major}" for major in MAJORS),
    *(f"postgresql-client-{major}" for major in MAJORS),
)
MOST = 100
_SIMULATE = ("apt-get", "-s", "-q", "-y", "--no-install-recommends", "install", "--")


def versions(call: Call, doors: Doors) -> Outcome:
    names = packages(call, arguments(call, 0, MOST))
    found = doors.system.packages(names or STACK)
    if not names:
        found = {name: version for name, version in found.items() if version}
    for name, version in found.items():
        doors.output("stdout", f"{name} {version or 'not installed'}\n")
    there = all(found.values())
    return Outcome(ok=there, exit_code=0 if there else 1, data={"versions": found})


def upgrade(call: Call, doors: Doors) -> Outcome:
    """Raises ActionFailed, with nothing changed, when apt would do more than was asked for."""
    names = packages(call, arguments(call, 1, MOST))
    before = doors.system.packages(names)
    if absent := [name for name in names if not before[name]]:
        raise ActionFailed(f"{', '.join(absent)}: not installed on this host, so there is nothing to upgrade")
    if why := mirror(doors.system):
        raise ActionFailed(f"the package lists cannot be refreshed: {why}")
    said = doors.system.ask((*_SIMULATE, *names), timeout_s=60.0)
    if said.rc != 0:
        raise ActionFailed(f"apt-get cannot say what an upgrade of {', '.join(names)} does", said.stderr.strip()[-800:])
    if why := unasked(said.stdout, names):
        raise ActionFailed(why)
    doors.system.perform(InstallPackages(names))
    after = doors.system.packages(names)
    moved = {name: (before[name], after[name]) for name in names if before[name] != after[name]}
    for name in names:
        change = f"{before[name]} -> {after[name]}" if name in moved else f"{after[name]}, the newest there is"
        doors.output("stdout", f"{name} {change}\n")
    if units := sorted(functions.find(call.function).disrupts(tuple(moved))):
        doors.output("stdout", f"not restarted, and so still the old version where it runs: {', '.join(units)}\n")
    return Outcome(ok=True, exit_code=0, data={"before": before, "after": after})


def unasked(simulation: str, names: tuple[str, ...]) -> str:
    """Why what apt would do is more than was asked for; empty when it is not."""
    removed = sorted(line.split()[1] for line in simulation.splitlines() if line.startswith("Remv "))
    if removed:
        return f"apt would remove {', '.join(removed)}, which no upgrade here may"
    if dragged := sorted(touched(simulation) & {*STACK} - {*names}):
        return f"apt would move {', '.join(dragged)} along; name them, too, if that is meant"
    return ""
