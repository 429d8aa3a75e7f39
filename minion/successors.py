"""Keys that follow those in use, this minion's own and its master's: written down first, used from the next line on."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..common.errors import BusError, PghaError
from ..common.messages import NextKey, NextKeyKnown, Rotate, Successor, SuccessorKnown
from .line import Line
from .settings import Settings
from .trust import Identity, MasterKeys, Trust

log = logging.getLogger("pgha.minion")


@dataclass(frozen=True)
class Successors:
    """What becomes of the messages that change keys."""

    settings: Settings
    identity: Identity
    trust: Trust

    async def remind(self, line: Line) -> None:
        """Tell the master what it may not have heard of yet."""
        if self.identity.next is not None:
            await line.send(NextKey(public=self.identity.next.public))
        if self.trust.next is not None:
            await line.send(SuccessorKnown(server_key=self.trust.next.server))

    async def take(self, message: Rotate | NextKeyKnown | Successor, line: Line) -> bool:
        """True when this minion's next key is known to the master, so that the next line should be made with it.

        A disk that refuses changes nothing: the master tells it again on the next line, and the present keys are good.
        Raises BusError when the master's next keys are not signed.
        """
        if isinstance(message, Successor) and not line.verifier.successor(message):
            raise BusError("the master's next keys are not signed with the key it has")
        try:
            if isinstance(message, NextKeyKnown):
                return self.identity.next_is_known(message.public)
            await line.send(self._written(message))
        except (PghaError, OSError) as error:
            log.error("keys cannot be changed now: %s", error)
        return False

    def _written(self, message: Rotate | Successor) -> NextKey | SuccessorKnown:
        """What to say now that the keys are on the disk. Raises HostError or OSError when they are not."""
        if isinstance(message, Rotate):
            return NextKey(public=self.identity.make_next().public)
        if self.trust.next != MasterKeys(message.server_key, message.signing_key):
            self.trust.succeed(message, self.settings.server_key)
        return SuccessorKnown(server_key=message.server_key)
