"""Packages: what must be installed, and what must not be left without its updates.

One apt transaction for all that is missing, because every apt run costs seconds. Upgrades never touch what `hold`
names: the database, etcd and the proxy are moved by procedures that know the cluster, not by a package run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ...common.errors import HostError
from ..action import InstallPackages, UpgradePackages
from ..resource import Change, Resource
from ..system import Look

SIMULATE = ("apt-get", "-s", "-q", "--with-new-pkgs", "upgrade")
LISTS_STAMP = "/var/lib/pgha/apt-updated"  # touched by each successful `apt-get update` of pgha's
LISTS_PARTIAL = "/var/lib/apt/lists/partial"  # changed by anybody's
LISTS_MAX_AGE_S = 24 * 3600.0
_INST = re.compile(r"^Inst (\S+) \[([^\]]+)\] \((\S+) ([^\[)]*)", re.MULTILINE)


class Packages(Resource[dict[str, str | None]]):
    """These packages are installed, in whatever version. `name` labels the set, such as "base"."""

    kind: Literal["packages"] = "packages"
    name: str
    names: tuple[str, ...]
    recommends: bool = False

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> dict[str, str | None]:
        return look.packages(self.names)

    def plan(self, facts: dict[str, str | None]) -> list[Change]:
        missing = tuple(name for name in dict.fromkeys(self.names) if facts.get(name) is None)
        if not missing:
            return []
        return [Change("packages", InstallPackages(missing, self.recommends), "not installed", ", ".join(missing))]


@dataclass(frozen=True, slots=True)
class Upgradable:
    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class UpgradeFacts:
    """`lists_age_s` is None when the lists have never been fetched."""

    upgradable: tuple[Upgradable, ...] = ()
    lists_age_s: float | None = None
    reboot_needed: bool = False


FRESH = "fresh; what they then name is updated, too"  # it cannot be known before


class Upgrade(Resource[UpgradeFacts]):
    """Nothing installed waits for an update of this scope, as far as package lists of at most a day know."""

    kind: Literal["upgrade"] = "upgrade"
    scope: Literal["security", "all"]
    hold: tuple[str, ...] = ()

    def key(self) -> str:
        return self.scope

    def observe(self, look: Look) -> UpgradeFacts:
        said = look.ask(SIMULATE, timeout_s=60.0)
        if said.rc != 0:
            raise HostError(f"apt-get cannot say what it would upgrade: {said.stderr.strip() or said.stdout.strip()}")
        fetched = max(look.attributes(path).mtime for path in (LISTS_STAMP, LISTS_PARTIAL))
        return UpgradeFacts(
            upgradable(said.stdout, self.scope, self.hold),
            max(0.0, look.now() - fetched) if fetched else None,
            look.attributes("/run/reboot-required").kind != "absent",
        )

    def plan(self, facts: UpgradeFacts) -> list[Change]:
        action = UpgradePackages(self.scope, self.hold)
        changes = [Change(package.name, action, package.before, package.after) for package in facts.upgradable]
        if facts.lists_age_s is None:
            changes.append(Change("package lists", action, "never fetched", FRESH))
        elif facts.lists_age_s > LISTS_MAX_AGE_S:
            changes.append(Change("package lists", action, f"{facts.lists_age_s / 3600:.0f} hours old", FRESH))
        return changes

    def note(self, facts: UpgradeFacts) -> str:
        return "an earlier upgrade waits for a reboot of this host" if facts.reboot_needed else ""


def upgradable(simulation: str, scope: str, hold: tuple[str, ...]) -> tuple[Upgradable, ...]:
    """What an apt-get simulation would upgrade: installed packages only, without those held.

    What moves from the same version to the same version as a held package is built from its source, and mostly asks
    for exactly that version of it (postgresql-plperl-17 for postgresql-17): it is held, too. A library is not: it
    never needs the server.

    Source: apt-get(8) -s: `Inst NAME [OLD] (NEW ORIGIN:VERSION/ARCHIVE, ... [ARCH])`.
    """
    found = [(name.split(":")[0], name, before, after, far) for name, before, after, far in _INST.findall(simulation)]
    moves = {(before, after) for short, _, before, after, _ in found if short in hold}
    return tuple(
        Upgradable(name, before, after)
        for short, name, before, after, archives in found
        if short not in hold
        and ((before, after) not in moves or short.startswith("lib"))
        and (scope == "all" or "-security" in archives)
    )


def touched(simulation: str) -> frozenset[str]:
    """Every package that an apt-get simulation would install, upgrade or remove, without its architecture."""
    return frozenset(re.findall(r"^(?:Inst|Remv) ([^\s:]+)", simulation, re.MULTILINE))
