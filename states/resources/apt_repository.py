"""AptRepository: a package source in deb822 form, with the one key that may sign for it.

The package lists are fetched anew when the source or its key is newer than they are, so that a run which was cut off
between writing and fetching fetches on the next one.

Sources: sources.list(5), "DEB822-STYLE FORMAT"; RFC 9580, 6.2: armor and its checksum.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator, model_validator

from ..action import Remove, Run
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .fields import Label, OneLine
from .files import File
from .packages import LISTS_PARTIAL, LISTS_STAMP

UPDATE = (
    "sh",
    "-c",
    "apt-get -q -o DPkg::Lock::Timeout=300 -o APT::Update::Error-Mode=any update"
    f" && mkdir -p {posixpath.dirname(LISTS_STAMP)} && touch {LISTS_STAMP}",
)
_ARMOR = re.compile(
    r"\s*-----BEGIN PGP PUBLIC KEY BLOCK-----\n(?:[A-Za-z]+: [^\n]*\n)*\n([A-Za-z0-9+/=\n]+?)\n?"
    r"(?:=([A-Za-z0-9+/]{4})\n)?-----END PGP PUBLIC KEY BLOCK-----\s*"
)
_PUBLIC_KEY_TAGS = (0x98, 0x99, 0x9A, 0xC6)  # the first byte of a public key packet, in the old and the new form


@dataclass(frozen=True, slots=True)
class RepositoryFacts:
    """`lists_at`: when package lists were last fetched, 0.0 for never. Both times are Unix time."""

    source: FileFacts
    signing_key: FileFacts
    lists_at: float = 0.0
    now: float = 0.0


class AptRepository(Resource[RepositoryFacts]):
    """`/etc/apt/sources.list.d/NAME.sources` and `/etc/apt/keyrings/NAME.asc`. `signed_by` is the armored key."""

    kind: Literal["apt_repository"] = "apt_repository"
    name: Label
    uris: tuple[OneLine, ...] = ()
    suites: tuple[OneLine, ...] = ()
    components: tuple[OneLine, ...] = ()
    architectures: tuple[OneLine, ...] = ()
    types: tuple[Literal["deb", "deb-src"], ...] = ("deb",)
    signed_by: str = ""
    absent: bool = False

    @field_validator("signed_by")
    @classmethod
    def _armored(cls, value: str) -> str:
        if value and (wrong := wrong_with_key(value)):
            raise ValueError(wrong)
        return value

    @model_validator(mode="after")
    def _whole(self) -> AptRepository:
        if self.absent:
            return self
        if not self.uris or not self.suites or not self.types:
            raise ValueError("uris, suites, types: expected at least one of each")
        if not self.signed_by:
            raise ValueError("signed_by: expected the armored key; without it apt would trust nothing from there")
        flat = {suite.endswith("/") for suite in self.suites}
        if flat != {not self.components}:
            raise ValueError("components: expected some, such as [main]; and none where a suite ends with '/'")
        for value in (*self.uris, *self.suites, *self.components, *self.architectures):
            if not value or value.split() != [value]:
                raise ValueError(f"expected a word without spaces, not {value!r}")
        return self

    def key(self) -> str:
        return self.name

    @property
    def _source_path(self) -> str:
        return f"/etc/apt/sources.list.d/{self.name}.sources"

    @property
    def _key_path(self) -> str:
        return f"/etc/apt/keyrings/{self.name}.asc"

    def _text(self) -> str:
        fields = {
            "Types": self.types,
            "URIs": self.uris,
            "Suites": self.suites,
            "Components": self.components,
            "Architectures": self.architectures,
            "Signed-By": (self._key_path,),
        }
        return "".join(f"{name}: {' '.join(words)}\n" for name, words in fields.items() if words)

    def observe(self, look: Look) -> RepositoryFacts:
        fetched = max(look.attributes(path).mtime for path in (LISTS_STAMP, LISTS_PARTIAL))
        return RepositoryFacts(look.file(self._source_path), look.file(self._key_path), fetched, look.now())

    def plan(self, facts: RepositoryFacts) -> list[Change]:
        changes = self._gone(facts) if self.absent else self._there(facts)
        newest = max(facts.source.mtime, facts.signing_key.mtime)
        behind = facts.lists_at < newest <= facts.now  # what is dated in the future says nothing
        if changes or behind:
            before = "from before the change" if facts.lists_at else "never fetched"
            changes.append(Change("package lists", Run(UPDATE, timeout_s=300.0), before, "fresh"))
        return changes

    def _there(self, facts: RepositoryFacts) -> list[Change]:
        signing = File(path=self._key_path, content=self.signed_by.strip() + "\n").plan(facts.signing_key)
        source = File(path=self._source_path, content=self._text()).plan(facts.source)
        return [*_named("key", signing), *_named("source", source)]

    def _gone(self, facts: RepositoryFacts) -> list[Change]:
        both = (("source", self._source_path, facts.source), ("key", self._key_path, facts.signing_key))
        return [
            Change(what, Remove(path), found.kind, "absent") for what, path, found in both if found.kind != "absent"
        ]


def _named(what: str, changes: list[Change]) -> list[Change]:
    return [Change(f"{what}: {c.what}", c.action, c.before, c.after, c.diff, c.disruption) for c in changes]


def wrong_with_key(text: str) -> str:
    """What keeps the text from being an armored OpenPGP public key; empty when it looks like one."""
    if "PRIVATE KEY BLOCK" in text:
        return "this is a private key; a package source needs the public one only"
    armor = _ARMOR.fullmatch(text.replace("\r\n", "\n"))
    if armor is None:
        return "expected an armored key, from -----BEGIN PGP PUBLIC KEY BLOCK----- to its END line"
    try:
        data = base64.b64decode(armor[1].replace("\n", ""), validate=True)
        checksum = base64.b64decode(armor[2], validate=True) if armor[2] else None
    except (binascii.Error, ValueError):
        return "the armored key is damaged: it is not valid base64"
    if checksum is not None and checksum != _crc24(data).to_bytes(3, "big"):
        return "the armored key is damaged: its checksum is wrong"
    if not data or data[0] not in _PUBLIC_KEY_TAGS:
        return "what is armored there is no public key"
    return ""


def _crc24(data: bytes) -> int:
    value = 0xB704CE
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= 0x1864CFB
    return value
