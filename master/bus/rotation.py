"""New keys, without anybody having to go to a host: a minion's, and the master's own.

A minion makes its next key itself and tells the public half on its present connection; both are good until the new one
has said HELLO. The master's next keys are made here, signed with the signing key it has, and told to every minion; they
are used once all of them have them, or an operator says that the rest may be enrolled anew.

Two files change their names for that. The signing key is made first and put in place first, so that what is there after
a crash says how far it came: a next CURVE key without a next signing key has only to be put in place, too.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...common.errors import HostError, Refused, UserError
from ...common.keys import load_or_create, public_text, rename
from ...common.messages import Message, NextKey, NextKeyKnown, Rotate, Successor, SuccessorKnown
from ...common.signing import Signer
from ..store import MinionRow, Store
from .peers import Peer

log = logging.getLogger("pgha.rotation")

_KNOWN = "successor:"  # + name of a minion: its own key, and the text of the next server key it has


class Lines(Protocol):
    """What rotation needs of the hub."""

    @property
    def peers(self) -> dict[str, Peer]: ...

    def connected(self, name: str) -> bool: ...

    def send(self, peer: Peer, message: Message) -> None: ...

    async def reload_keys(self) -> None: ...


@dataclass(frozen=True)
class KeyFiles:
    """Where the master's keys are; the next ones are beside them. The methods raise HostError when the disk refuses."""

    curve: Path
    signing: Path

    @property
    def next_curve(self) -> Path:
        return self.curve.with_name(self.curve.name + ".next")

    @property
    def next_signing(self) -> Path:
        return self.signing.with_name(self.signing.name + ".next")

    def settle(self) -> None:
        """End a change that a crash has cut in two; to be done before the keys are read."""
        if self.next_curve.exists() and not self.next_signing.exists():
            _rename(self.next_curve, self.curve)

    def change(self) -> None:
        """Put the next keys in place."""
        if self.next_signing.exists():
            _rename(self.next_signing, self.signing)
        _rename(self.next_curve, self.curve)


def _rename(path: Path, to: Path) -> None:
    try:
        rename(path, to)
    except OSError as error:
        raise HostError(f"cannot put {path} in place of {to.name}: {error.strerror}") from None


class Rotation:
    def __init__(self, store: Store, signer: Signer, files: KeyFiles, lines: Lines) -> None:
        self._store, self._signer, self._files, self._lines = store, signer, files, lines
        self._asked: set[str] = set()
        self._successor: Successor | None = self._load() if files.next_curve.exists() else None

    # ---- a minion's key

    def ask(self, name: str) -> None:
        """Have that minion make itself a new key. Raises UserError when it is not there to do so."""
        peer = self._lines.peers.get(name)
        if peer is None or not self._lines.connected(name):
            raise UserError(f"{name} is not connected; its key can be rotated when it is")
        if peer.version < Rotate.first:
            raise UserError(f"the minion of {name} is too old for that: pgha-master run {name} self.upgrade")
        self._asked.add(name)
        self._lines.send(peer, Rotate())

    def forget(self, name: str) -> None:
        """Its key was revoked: who has that name next was not asked."""
        self._asked.discard(name)

    async def next_key(self, peer: Peer, message: NextKey) -> None:
        """Accept the next key beside the present one, if an operator asked for it."""
        text = public_text(message.public)
        rows = await self._store.minions()
        known = next((row for row in rows if row.public_key == text), None)
        if known is not None and (known.name, known.state) == (peer.name, "next"):
            self._lines.send(peer, NextKeyKnown(public=message.public))
            return
        if peer.name not in self._asked or known is not None:
            log.warning("%s told a next key that nobody asked for", peer.name)
            return
        now = time.time()
        machine = peer.facts.machine_id if peer.facts else ""
        row = MinionRow(peer.name, text, "next", peer.address, machine, "rotated", now, now, "")
        if not await self._store.put_next_key(row, peer.key):
            log.warning("%s told a next key, and its present one is accepted no more", peer.name)
            return
        await self._lines.reload_keys()
        self._asked.discard(peer.name)
        self._lines.send(peer, NextKeyKnown(public=message.public))

    # ---- the master's keys

    def _load(self) -> Successor:
        signing = Signer(self._files.next_signing).public
        return self._signer.successor(load_or_create(self._files.next_curve).public, signing)

    def begin(self) -> str:
        """Make the next keys, or go on with those made before, and tell everybody. The next fingerprint.

        Raises Refused while new keys are in place that this process does not use yet: those would be passed over.
        """
        if Signer(self._files.signing).public != self._signer.public:
            raise Refused("new keys are in place and not used yet; first: systemctl restart pgha-master")
        self._successor = self._load()
        for peer in self._lines.peers.values():
            self.greeted(peer)
        return public_text(self._successor.server_key)

    def greeted(self, peer: Peer) -> None:
        """It has connected: tell it what it may have missed."""
        if self._successor is not None:
            self._lines.send(peer, self._successor)
        if peer.name in self._asked and not peer.twin:
            self._lines.send(peer, Rotate())

    async def successor_known(self, peer: Peer, message: SuccessorKnown) -> None:
        if self._successor is not None and message.server_key == self._successor.server_key:
            await self._store.note("", _KNOWN + peer.name, f"{peer.key} {public_text(message.server_key)}")

    async def missing(self) -> list[str]:
        """Accepted minions that do not have the next keys yet."""
        if self._successor is None:
            return []
        notes, text = await self._store.notes(""), public_text(self._successor.server_key)
        rows = await self._store.minions()
        return sorted(
            row.name
            for row in rows
            if row.state == "accepted" and notes.get(_KNOWN + row.name) != f"{row.public_key} {text}"
        )

    async def finish(self, force: bool) -> str:
        """Put the next keys in place; they are used when the master is started again. The new fingerprint.

        Raises UserError when no rotation was begun, Refused while minions would be left behind, HostError.
        """
        if self._successor is None:
            raise UserError("no rotation of the master's keys has begun; begin it: pgha-master keys rotate --master")
        missing = await self.missing()
        if missing and not force:
            raise Refused(
                f"{', '.join(missing)} do not have the next keys yet and could not come back: wait until they have "
                "been connected, or give --force and enrol them anew afterwards"
            )
        self._files.change()
        text, self._successor = public_text(self._successor.server_key), None
        return text
