"""Whom this minion obeys, and who it is: the master's keys, its own, and the next ones of both while they change.

    /etc/pgha/pki/master.trust     the master's keys, JSON; written when they become known or change
    /etc/pgha/pki/minion.key       the private key; .next beside it while it is being rotated

The master's CURVE key comes by hand, with the enrolment. Its signing key is taken from the first WELCOME under that key
and from then on only changes by a successor that it has signed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common.errors import HostError, UserError
from ..common.keys import KeyPair, load_or_create, public_from_text, public_text, rename, write_private
from ..common.messages import Successor


@dataclass(frozen=True, slots=True)
class MasterKeys:
    """`signing` is empty until the first WELCOME."""

    server: bytes
    signing: bytes = b""


@dataclass
class Trust:
    path: Path
    now: MasterKeys
    next: MasterKeys | None = None
    origin: bytes = b""  # the key that this host was enrolled with, when this was written
    _unsaved: bool = False

    @classmethod
    def load(cls, path: Path, enrolled: bytes) -> Trust:
        """What is written there, as long as it is about the master that this host was enrolled with.

        It is, too, when the host was enrolled anew with a key that the master it knew has taken since.
        Raises UserError when the file cannot be read.
        """
        if not path.exists():
            return cls(path, MasterKeys(enrolled))
        try:
            kept = json.loads(path.read_text())
            origin = public_from_text(kept["enrolled"])
            trust = cls(path, _keys(kept["now"]), _keys(kept["next"]) if kept.get("next") else None, origin)
        except (OSError, ValueError, KeyError, TypeError, UserError):
            raise UserError(f"{path} cannot be read; remove it, and the master's keys are learnt anew") from None
        return trust if public_text(enrolled) in trust.names else cls(path, MasterKeys(enrolled))

    @property
    def names(self) -> set[str]:
        """The keys that this master is known by here."""
        return {public_text(key) for key in (self.origin, *(keys.server for keys in self.candidates())) if key}

    def candidates(self) -> list[MasterKeys]:
        return [self.now] if self.next is None else [self.now, self.next]

    def greeted(self, by: MasterKeys, signing: bytes, enrolled: bytes) -> None:
        """A WELCOME under these keys was good: they are the present ones.

        Raises HostError when that cannot be written down; it holds for now, and is written at the next WELCOME.
        """
        now = replace(by, signing=signing)
        if now != self.now:
            self.now, self.next = now, None if by is not self.now else self.next
            self._unsaved = True
        if self._unsaved:
            self._save(enrolled)

    def succeed(self, successor: Successor, enrolled: bytes) -> None:
        """Raises HostError when it cannot be written down; then it is as if it had not been told."""
        before, self.next = self.next, MasterKeys(successor.server_key, successor.signing_key)
        try:
            self._save(enrolled)
        except HostError:
            self.next = before
            raise

    def _save(self, enrolled: bytes) -> None:
        kept = {"enrolled": public_text(enrolled), "now": _text(self.now)}
        if self.next is not None:
            kept["next"] = _text(self.next)
        try:
            write_private(self.path, json.dumps(kept) + "\n")
        except OSError as error:
            raise HostError(f"cannot write {self.path}: {error.strerror}") from None
        self._unsaved = False


@dataclass
class Identity:
    """This minion's key pairs. The next one is used only after the master has said that it knows it."""

    path: Path
    now: KeyPair = field(init=False)
    next: KeyPair | None = None
    known: bool = False

    def __post_init__(self) -> None:
        self.now = load_or_create(self.path)
        if self._known_path.exists():
            self.next, self.known = load_or_create(self._known_path), True
        elif self._next_path.exists():
            self.next = load_or_create(self._next_path)

    def candidates(self) -> list[KeyPair]:
        return [self.next, self.now] if self.next is not None and self.known else [self.now]

    def make_next(self) -> KeyPair:
        """The next key; the one that was begun with, if there is one."""
        self.next = load_or_create(self._known_path if self.known else self._next_path)
        return self.next

    def next_is_known(self, public: bytes) -> bool:
        """True when the master has told so of the key that is the next one here."""
        if self.next is None or self.next.public != public:
            return False
        if not self.known:
            rename(self._next_path, self._known_path)
            self.known = True
        return True

    def greeted(self, by: KeyPair) -> None:
        """A WELCOME came under that key."""
        if self.known and self.next is not None and by.public == self.next.public:
            rename(self._known_path, self.path)
            self.now, self.next, self.known = self.next, None, False

    @property
    def _next_path(self) -> Path:
        return self.path.with_name(self.path.name + ".next")

    @property
    def _known_path(self) -> Path:
        return self.path.with_name(self.path.name + ".known")


def _text(keys: MasterKeys) -> dict[str, str]:
    return {"server": public_text(keys.server), "signing": public_text(keys.signing) if keys.signing else ""}


def _keys(kept: dict[str, str]) -> MasterKeys:
    signing = kept["signing"]
    return MasterKeys(public_from_text(kept["server"]), public_from_text(signing) if signing else b"")
