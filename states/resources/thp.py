"""Thp: transparent huge pages, now and after each boot, by a unit of their own that runs before PostgreSQL does.

They are a setting of the kernel: in a container it belongs to the host, and there it is never tried. The unit is the
one that the hardening document writes; its comments do not count, so the two do not fight over the first line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..action import Unit, WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look, UnitFacts
from .files import unified

THP_UNIT = "disable-thp.service"
SYSFS = "/sys/kernel/mm/transparent_hugepage"
_PATH = f"/etc/systemd/system/{THP_UNIT}"
_CHOSEN = re.compile(r"\[([a-z+]+)\]")
Word = Literal["always", "madvise", "never"]


def unit_text(word: str) -> str:
    return (
        "[Unit]\n"
        f"Description=Set transparent huge pages to {word}\n"
        "DefaultDependencies=no\n"
        "After=sysinit.target local-fs.target\n"
        "Before=patroni.service postgresql.service\n"
        "ConditionVirtualization=!container\n"
        f"ConditionPathExists={SYSFS}/enabled\n"
        "\n[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        f'ExecStart=/bin/sh -c "echo {word} > {SYSFS}/enabled"\n'
        f'ExecStart=/bin/sh -c "echo {word} > {SYSFS}/defrag"\n'
        "\n[Install]\n"
        "WantedBy=multi-user.target\n"
    )


@dataclass(frozen=True, slots=True)
class ThpFacts:
    """`enabled`, `defrag`: the word the kernel has chosen; empty where it has no such file."""

    file: FileFacts
    unit: UnitFacts
    enabled: str
    defrag: str
    container: str


class Thp(Resource[ThpFacts]):
    kind: Literal["thp"] = "thp"
    value: Word = "never"

    def key(self) -> str:
        return "kernel"

    def observe(self, look: Look) -> ThpFacts:
        enabled, defrag = (_chosen(look.file(f"{SYSFS}/{name}").content) for name in ("enabled", "defrag"))
        return ThpFacts(look.file(_PATH), look.unit(THP_UNIT), enabled, defrag, look.container())

    def plan(self, facts: ThpFacts) -> list[Change]:
        changes: list[Change] = []
        old, new = facts.file.content or "", unit_text(self.value)
        if _uncommented(old) != new:
            diff = unified(old.splitlines(), new.splitlines(), new.splitlines())
            changes.append(Change("unit file", WriteFile(_PATH, new), diff=diff))
        if changes or facts.unit.needs_daemon_reload:
            changes.append(Change("unit file", Unit("daemon-reload"), "changed on disk", "loaded"))
        if not facts.unit.enabled.startswith("enabled"):
            before = facts.unit.enabled or "disabled"
            changes.append(Change("at boot", Unit("enable", THP_UNIT), before, "enabled"))
        restart = Unit("restart", THP_UNIT)  # it has run and remains; only a restart sets the value once more
        changes += [
            Change(what, restart, before, self.value)
            for what, before in (("enabled", facts.enabled), ("defrag", facts.defrag))
            if before != self.value
        ]
        return changes

    def skip(self, facts: ThpFacts) -> str:
        if facts.container != "none":
            return f"in a container ({facts.container}) transparent huge pages belong to the host"
        return "" if facts.enabled else "this kernel has no transparent huge pages"


def _chosen(text: str | None) -> str:
    """`always [madvise] never` -> madvise."""
    found = _CHOSEN.search(text or "")
    return found[1] if found else ""


def _uncommented(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
