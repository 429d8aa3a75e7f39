"""Sysctl: a kernel parameter as it is now. That it stays so over a reboot is a File in /etc/sysctl.d.

In a container everything outside `net.` is the host's: writing it would change a machine that is not ours to change,
and on a container with a writable /proc the write succeeds. So it is never tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..action import Run
from ..resource import Change, Resource
from ..system import FileFacts, Look


@dataclass(frozen=True, slots=True)
class SysctlFacts:
    file: FileFacts
    container: str


class Sysctl(Resource[SysctlFacts]):
    kind: Literal["sysctl"] = "sysctl"
    name: str
    value: str

    def key(self) -> str:
        return self.name

    @property
    def path(self) -> str:
        return "/proc/sys/" + self.name.replace(".", "/")

    def observe(self, look: Look) -> SysctlFacts:
        return SysctlFacts(look.file(self.path), look.container())

    def plan(self, facts: SysctlFacts) -> list[Change]:
        before = " ".join((facts.file.content or "").split())
        wanted = " ".join(self.value.split())
        if before == wanted:
            return []
        return [Change("value", Run(("sysctl", "-qw", f"{self.name}={wanted}")), before, wanted)]

    def skip(self, facts: SysctlFacts) -> str:
        if facts.container != "none" and not self.name.startswith("net."):
            return f"not namespaced: in a container ({facts.container}) it belongs to the host"
        if facts.file.kind == "absent":
            return f"this kernel has no {self.name}"
        return ""
