"""What `store.Store` keeps of a rollout and its operation, in dicts."""

from __future__ import annotations

from ..store import MinionRow


class MemoryStore:
    """What `store.Store` keeps of a rollout, in dicts."""

    def __init__(self, rows: list[MinionRow]) -> None:
        self.rows = rows
        self.noted: dict[tuple[str, str], str] = {}
        self.kept: dict[str, list[str]] = {}
        self.states: dict[str, str] = {}

    async def minions(self) -> list[MinionRow]:
        return self.rows

    async def notes(self, cluster: str) -> dict[str, str]:
        return {key: value for (name, key), value in self.noted.items() if name == cluster}

    async def note(self, cluster: str, key: str, value: str | None) -> None:
        self.noted.pop((cluster, key), None)
        if value is not None:
            self.noted[cluster, key] = value

    async def put_operation(
        self,
        operation: str,
        kind: str,
        what: str,
        who: str,
        cluster: str,
        started: float,
        request: str,
        *,
        lazy: bool = False,
    ) -> None:
        self.kept[operation], self.states[operation] = [], "started"

    async def end_operation(
        self, operation: str, state: str, exit_code: int, message: str, ended: float, first: int, lines: list[str]
    ) -> None:
        await self.add_lines(operation, first, lines)
        self.states[operation] = state

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None:
        assert first == len(self.kept[operation]), "lines are kept in order, each once"
        self.kept[operation] += lines

    async def lines(self, operation: str, first: int = 0, limit: int = -1) -> list[str]:
        kept = self.kept.get(operation, [])[first:]
        return kept if limit < 0 else kept[:limit]
