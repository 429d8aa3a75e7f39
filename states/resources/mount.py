"""Mount: an entry of /etc/fstab, and the file system mounted there now.

Rules:
1. Every other line of fstab stays as it is.
2. What is busy is never unmounted, and nothing is stopped for it; what is mounted from elsewhere is not replaced.
3. Nothing is mounted over files that are there: they would be hidden, and a database would start empty.
4. In a container only what needs no device can be mounted: tmpfs, overlay, and binds.

Sources: fstab(5); proc_pid_mounts(5): spaces, tabs, line breaks and backslashes are octal in both files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator, model_validator

from ...common.errors import HostError
from ..action import MakeDirectory, Run, Unit, WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .fields import AbsolutePath, OneLine
from .files import unified

FSTAB = "/etc/fstab"
MOUNTS = "/proc/self/mounts"
# what a remount changes and /proc shows in the same words
FLAGS = frozenset({"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"})
WITHOUT_DEVICE = ("tmpfs", "overlay")
_SYSTEM = ("/", "/usr", "/etc", "/proc", "/sys", "/dev", "/run")


@dataclass(frozen=True, slots=True)
class Mounted:
    source: str
    fstype: str
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class MountFacts:
    """`mounted`: what is on top at the path. `hidden`: names that a mount would hide.

    `same_source`: what is mounted comes from the wanted source, by whichever of its names.
    """

    fstab: FileFacts
    mounted: Mounted | None
    folder: FileFacts
    hidden: tuple[str, ...]
    container: str
    same_source: bool = False


class Mount(Resource[MountFacts]):
    """`options` as in fstab, separated by commas. A mount that must not stop the boot has `nofail`."""

    kind: Literal["mount"] = "mount"
    path: AbsolutePath
    source: OneLine = ""
    fstype: str = ""
    options: str = "defaults"
    dump: Literal[0, 1] = 0
    passno: Literal[0, 1, 2] = 0
    absent: bool = False

    @field_validator("path")
    @classmethod
    def _no_system_folder(cls, value: str) -> str:
        if value in _SYSTEM:
            raise ValueError(f"{value} is the system's own and no mount for pgha to change")
        return value

    @field_validator("fstype", "options")
    @classmethod
    def _word(cls, value: str) -> str:
        if value.split() not in ([], [value]) or value == "swap":
            raise ValueError(f"expected one word as in fstab, and no swap, not {value!r}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Mount:
        if not self.absent and not (self.source and self.fstype and self.options):
            raise ValueError("source, fstype, options: expected a value for each, unless absent: true")
        return self

    def key(self) -> str:
        return self.path

    def observe(self, look: Look) -> MountFacts:
        fstab, mounts = look.file(FSTAB), look.file(MOUNTS)
        if fstab.kind != "absent" and fstab.content is None:
            raise HostError(f"{FSTAB} is a {fstab.kind} that is not plain text; no entry can be kept in it")
        found = [Mounted(f[0], f[2], frozenset(f[3].split(","))) for f in _entries(mounts.content) if f[1] == self.path]
        if mounts.content is None:
            raise HostError(f"{MOUNTS} cannot be read, so what is mounted is not known")
        folder, mounted = look.attributes(self.path), found[-1] if found else None
        hidden = look.names(self.path) if folder.kind == "directory" and not found else ()
        same = mounted is not None and not self.absent and self._same(look, mounted)
        return MountFacts(fstab, mounted, folder, hidden, look.container(), same)

    def _same(self, look: Look, mounted: Mounted) -> bool:
        if mounted.source == self.source:
            return True
        return _device(look, mounted.source) == _device(look, self.source)

    def plan(self, facts: MountFacts) -> list[Change]:
        fstab = self._fstab(facts.fstab)
        reload = [Change("units of fstab", Unit("daemon-reload"), "as before", "loaded")] if fstab else []
        if self.absent:
            unmount = Run(("umount", self.path))
            mounted = [Change("mount", unmount, facts.mounted.source, "not mounted")] if facts.mounted else []
            return [*mounted, *fstab, *reload]
        return [*self._folder(facts), *fstab, *reload, *self._mount(facts)]

    def _folder(self, facts: MountFacts) -> list[Change]:
        if facts.folder.kind not in ("absent", "directory"):
            raise HostError(f"{self.path} is a {facts.folder.kind}; only on a folder can be mounted")
        if facts.folder.kind == "absent":
            return [Change("folder", MakeDirectory(self.path), "absent", "directory")]
        return []

    def _mount(self, facts: MountFacts) -> list[Change]:
        if facts.mounted is None:
            if facts.hidden:
                raise HostError(
                    f"{self.path} holds {', '.join(facts.hidden[:3])}, which a mount would hide; move what is there "
                    "into the new file system, then apply again"
                )
            return [Change("mount", Run(("mount", self.path)), "not mounted", self.source)]
        is_, bind = facts.mounted, self._is_bind()
        same_type = self.fstype in ("auto", is_.fstype) or (self.fstype, is_.fstype) == ("nfs", "nfs4")
        if not bind and not (same_type and facts.same_source):
            raise HostError(
                f"{self.path} is mounted from {is_.source} ({is_.fstype}), not from {self.source} ({self.fstype}); "
                f"pgha does not unmount it. When nothing uses it any more: umount {self.path}, then apply again"
            )
        missing = sorted((FLAGS & {*self.options.split(",")}) - is_.options)
        return [Change(f"option {flag}", Run(("mount", "-o", "remount", self.path)), "no", "yes") for flag in missing]

    def _is_bind(self) -> bool:
        return bool({"bind", "rbind"} & {*self.options.split(",")})

    def _fstab(self, facts: FileFacts) -> list[Change]:
        old = (facts.content or "").split("\n")
        at = [number for number, line in enumerate(old) if fields_of(line)[1:2] == [self.path]]
        if len(at) > 1 and not self.absent:
            raise HostError(f"{FSTAB} has {len(at)} entries for {self.path}; leave the one that is right")
        fields = (self.source, self.path, self.fstype, self.options, str(self.dump), str(self.passno))
        if self.absent:
            new = [line for number, line in enumerate(old) if number not in at]
        elif at and [*fields_of(old[at[0]]), "0", "0"][:6] == [*fields]:
            return []
        else:
            entry = " ".join(map(_escaped, fields))
            last = len(old) - 1 if old[-1] == "" else len(old)
            new = [*old[: at[0]], entry, *old[at[0] + 1 :]] if at else [*old[:last], entry, ""]
        if new == old:
            return []
        there = facts.kind == "file"
        owner, group, mode = (facts.owner, facts.group, facts.mode) if there else ("root", "root", 0o644)
        return [
            Change(
                "fstab", WriteFile(FSTAB, "\n".join(new), owner, group, mode), diff=unified(old, new, new, context=0)
            )
        ]

    def files(self) -> tuple[str, ...]:
        """Never the mounted folder itself: a look at one whose server is gone does not come back."""
        return (FSTAB,)

    def skip(self, facts: MountFacts) -> str:
        if facts.container == "none" or self.absent or self._is_bind() or self.fstype in WITHOUT_DEVICE:
            return ""
        return f"in a container ({facts.container}) {self.source} cannot be mounted; its host can"


def _device(look: Look, source: str) -> str:
    """The device itself, for UUID=, LABEL= and the links in /dev; another source as it is."""
    if re.match(r"[A-Z]+=", source):
        said = look.ask(("findfs", source))
        source = said.stdout.strip() if said.rc == 0 else source
    if source.startswith("/dev/"):
        said = look.ask(("readlink", "-f", source))
        source = said.stdout.strip() if said.rc == 0 else source
    return source


def _entries(text: str | None) -> list[list[str]]:
    return [fields for line in (text or "").splitlines() if len(fields := fields_of(line)) >= 4]


def fields_of(line: str) -> list[str]:
    """The fields of an entry, unescaped; none of a comment."""
    words = [] if line.lstrip().startswith("#") else line.split()
    return [re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), word) for word in words]


def _escaped(value: str) -> str:
    return re.sub(r"[\\ \t]", lambda found: f"\\{ord(found[0]):03o}", value)
