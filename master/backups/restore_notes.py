"""What the master remembers of restores: the one that is under way, and the stretches of time that were left."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ...common.clock import iso, moment
from ..orchestration.seams import Notes as Store
from .restore_order import Left, Wanted

NOTE, LEFT = "restore", "restores_left"
MOST = 20


@dataclass(frozen=True)
class Notes:
    store: Store
    cluster: str

    async def noted(self) -> Wanted | None:
        """The restore that has begun and not ended."""
        text = (await self.store.notes(self.cluster)).get(NOTE)
        return None if text is None else Wanted.model_validate_json(text)

    async def note(self, wanted: Wanted) -> Wanted:
        await self.store.note(self.cluster, NOTE, wanted.model_dump_json())
        return wanted

    async def clear(self) -> None:
        await self.store.note(self.cluster, NOTE, None)

    async def left(self) -> list[Left]:
        """Oldest first."""
        text = (await self.store.notes(self.cluster)).get(LEFT, "[]")
        return [Left.model_validate(one) for one in json.loads(text)]

    async def remember(self, wanted: Wanted, ended: float) -> None:
        """That what was written between its time and `ended`, Unix seconds, is on a timeline that was left."""
        if wanted.kind != "time":
            return
        told = [*(await self.left()), Left(back_to=wanted.value, ended=moment(iso(ended)))][-MOST:]
        await self.store.note(self.cluster, LEFT, json.dumps([one.model_dump() for one in told]))
