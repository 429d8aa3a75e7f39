"""What a person asked for and what they see of it: kept line by line, so that anybody can follow it, now or later.

One operation may change a cluster at a time; who asks for a second one gets to follow the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import TypeAdapter

from ..common.clock import Clock
from ..common.errors import PghaError, Refused, UserError
from ..common.names import new_job_id
from .progress import End, Line, Started

log = logging.getLogger("pgha.operations")

_LINE: TypeAdapter[Any] = TypeAdapter(Line)


class Archive(Protocol):
    """Where operations are kept; `store.Store` is one."""

    async def put_operation(self, operation: str, what: str, who: str, cluster: str, started: float) -> None: ...

    async def end_operation(self, operation: str, state: str, exit_code: int, message: str, ended: float) -> None: ...

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None: ...

    async def lines(self, operation: str) -> list[str]: ...


@dataclass
class Operation:
    id: str
    what: str
    cluster: str
    clock: Clock
    key: str = ""  # what exactly was asked for; the same request may follow, another may not
    lines: list[Any] = field(default_factory=list)  # of Line
    saved: int = 0
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def emit(self, line: Any) -> None:  # Any: a Line
        """Add a line and let everybody who follows have it."""
        self.lines.append(line.model_copy(update={"at": self.clock.now()}))
        async with self.news:
            self.news.notify_all()


class Operations:
    def __init__(self, store: Archive, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._running: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self,
        what: str,
        cluster: str,
        who: str,
        work: Callable[[Operation], Awaitable[End]],
        nodes: tuple[str, ...] = (),
        key: str = "",
    ) -> Operation:
        """Begin; `work` goes on whoever follows or leaves. Its error becomes the last line."""
        operation = Operation(new_job_id(), what, cluster, self._clock, key)
        self._running[operation.id] = operation  # before the first await: nobody may begin a second one meanwhile
        try:
            await self._store.put_operation(operation.id, what, who, cluster, self._clock.now())
        except PghaError:
            del self._running[operation.id]
            raise
        await operation.emit(Started(id=operation.id, what=what, nodes=nodes))
        task = asyncio.create_task(self._run(operation, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    def changing(self, cluster: str) -> Operation | None:
        """The running apply of that cluster."""
        return next((o for o in self._running.values() if o.cluster == cluster and o.what.startswith("apply")), None)

    async def follow(self, operation: Operation, *, joined: bool = False) -> AsyncIterator[Any]:
        """All lines from the first on, as they come; the last is the End."""
        sent = 0
        while True:
            while len(operation.lines) <= sent:
                async with operation.news:
                    await operation.news.wait()
            for line in operation.lines[sent:]:
                sent += 1
                yield line.model_copy(update={"joined": True}) if joined and isinstance(line, Started) else line
                if isinstance(line, End):
                    return

    async def replay(self, identity: str) -> AsyncIterator[Any]:
        """The lines of an operation, running or ended. Raises UserError when there is none of that id."""
        if operation := self._running.get(identity):
            async for line in self.follow(operation):
                yield line
            return
        stored = await self._store.lines(identity)
        if not stored:
            raise UserError(f"no job has the id {identity!r}; see: pgha-master jobs list")
        ended = False
        for text in stored:
            line = _LINE.validate_json(text)
            ended = isinstance(line, End)
            yield line
        if not ended:
            yield End(exit=1, message="the master was restarted while this ran; what its minions had begun they ended")

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, operation: Operation, work: Callable[[Operation], Awaitable[End]]) -> None:
        saver = asyncio.create_task(self._save_as_it_goes(operation))
        try:
            end = await work(operation)
        except asyncio.CancelledError:
            saver.cancel()
            raise
        except PghaError as error:
            end = End(exit=exit_code(error), message=str(error))
        except Exception as error:
            log.exception("%s broke", operation.what)
            end = End(exit=1, message=f"internal error: {type(error).__name__}: {error}; see the log of pgha-master")
        await operation.emit(end)
        saver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await saver
        await self._save(operation)
        state = "done" if end.exit in (0, 3) else "failed"
        await self._store.end_operation(operation.id, state, end.exit, end.message, self._clock.now())
        self._running.pop(operation.id, None)

    async def _save_as_it_goes(self, operation: Operation) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self._save(operation)

    async def _save(self, operation: Operation) -> None:
        fresh = operation.lines[operation.saved :]
        if fresh:
            first, operation.saved = operation.saved, len(operation.lines)
            await self._store.add_lines(operation.id, first, [line.model_dump_json() for line in fresh])


def exit_code(error: PghaError) -> int:
    """The CLI's exit code for it: docs/reference/exit-codes.md."""
    if isinstance(error, Refused):
        return 6
    return 2 if isinstance(error, UserError) else 1
