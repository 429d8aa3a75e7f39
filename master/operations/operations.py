"""What a person asked for and what they see of it: kept line by line, so that anybody can follow it, now or later.

Rules:
1. One operation may change a cluster at a time; who asks for a second one gets to follow the first.
2. Its state is one word of those a job has. It is `started` until its End, and after a restart of the master until
   `resumption.py` has taken it up.
3. Memory holds the newest lines only; who is behind reads the older ones from the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from ...common.clock import Clock
from ...common.errors import DefinitionError, PghaError, Refused, UserError
from ...common.names import new_job_id
from .operation import Operation
from .progress import End, Line, Note, Started

__all__ = ["Archive", "Operation", "Operations", "exit_code"]

log = logging.getLogger("pgha.operations")

CHANGING = ("apply", "restore", "reinit")
PAGE = 500  # lines read back at once
SAVE_S, STOP_S = 1.0, 2.0
RESTARTED = "the master was restarted; what its minions had begun they end"

LINE: TypeAdapter[Any] = TypeAdapter(Line)
Work = Callable[[Operation], Awaitable[End]]


class Archive(Protocol):
    """Where operations are kept; `store.Store` is one."""

    def put_operation(
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
    ) -> Awaitable[object]: ...

    async def end_operation(
        self, operation: str, state: str, exit_code: int, message: str, ended: float, first: int, lines: list[str]
    ) -> None: ...

    async def add_lines(self, operation: str, first: int, lines: list[str]) -> None: ...

    async def lines(self, operation: str, first: int = 0, limit: int = -1) -> list[str]: ...


class Operations:
    def __init__(self, store: Archive, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._running: dict[str, Operation] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(
        self,
        what: str,
        cluster: str,
        who: str,
        work: Work,
        nodes: tuple[str, ...] = (),
        key: str = "",
        *,
        request: str = "",
        blob: str = "",
        at_once: bool = False,
    ) -> Operation:
        """Begin; `work` goes on whoever follows or leaves. Its error becomes the last line.

        The kind is the first word of `what`. `at_once`: for work that only asks, begin while the row is being stored.
        """
        kind, now = what.split()[0], self._clock.now()
        operation = Operation(new_job_id(), what, cluster, self._clock, key, kind, now, blob)
        self._running[operation.id] = operation  # before the first await: nobody may begin a second one meanwhile
        writing = self._store.put_operation(operation.id, kind, what, who, cluster, now, request, lazy=at_once)
        operation.stored = asyncio.ensure_future(writing)
        if not at_once:
            try:
                await operation.stored
            except PghaError:
                del self._running[operation.id]
                raise
        operation.add(Started(id=operation.id, what=what, nodes=nodes))
        operation.task = asyncio.create_task(self._run(operation, work))
        return operation

    def go_on(self, operation: Operation, work: Work) -> None:
        """Take up one that a master before this one had begun."""
        self._running[operation.id] = operation
        operation.task = asyncio.create_task(self._run(operation, work))

    def changing(self, cluster: str) -> Operation | None:
        """The running operation that may change that cluster: there is one at most."""
        return next((o for o in self._running.values() if o.cluster == cluster and o.kind in CHANGING), None)

    def running(self, identity: str) -> Operation | None:
        operation = self._running.get(identity)
        return None if operation is None or operation.ended else operation

    def stop(self, operation: Operation, who: str, idle: Callable[[], bool]) -> None:
        """It begins nothing any more. When it is `idle`, and does not end by itself, its work is broken off."""
        operation.cancelled_by = who

        async def when_idle() -> None:
            while not operation.ended:
                await asyncio.sleep(STOP_S)
                if idle() and operation.task is not None and not operation.ended:
                    operation.task.cancel()
                    return

        task = asyncio.create_task(when_idle())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def blobs(self) -> set[str]:
        """SHA-256 of the files that running operations are still going to send."""
        return {operation.blob for operation in self._running.values() if operation.blob}

    async def follow(self, operation: Operation, *, joined: bool = False, first: int = 0) -> AsyncIterator[Any]:
        """All lines from the first on, as they come; the last is the End. Nothing is told before its row is stored."""
        if operation.stored is not None:
            await asyncio.shield(operation.stored)
        sent = first
        with operation.watched() as news:
            while True:
                news.clear()
                for line in await self._after(operation, sent):
                    sent += 1
                    yield line.model_copy(update={"joined": True}) if joined and isinstance(line, Started) else line
                    if isinstance(line, End):
                        return
                if operation.count <= sent:
                    await news.wait()

    async def _after(self, operation: Operation, number: int) -> list[Any]:
        if number >= operation.first:
            return operation.since(number)
        lines = await self.stored(operation.id, number)
        lost = operation.first - number
        return (
            lines or [Note(level="warning", text=f"{lost} lines could not be kept: the store did not take them")] * lost
        )

    async def stored(self, identity: str, first: int = 0) -> list[Any]:
        """A page of its stored lines."""
        return [read_line(text) for text in await self._store.lines(identity, first, PAGE)]

    async def replay(self, identity: str) -> AsyncIterator[Any]:
        """The lines of an operation, running or ended. Raises UserError when there is none of that id."""
        if operation := self._running.get(identity):
            async for line in self.follow(operation):
                yield line
            return
        count, ended = 0, False
        while lines := await self.stored(identity, count):
            count += len(lines)
            ended = isinstance(lines[-1], End)
            for line in lines:
                yield line
        if not count:
            raise UserError(f"no job has the id {identity!r}; see: pgha-master jobs list")
        if not ended:
            yield End(exit=1, message=RESTARTED)

    async def so_far(self, identity: str) -> AsyncIterator[Any]:
        """What has been said of it, but its End, and without waiting for more."""
        operation = self._running.get(identity)
        count, most = 0, operation.count if operation else None
        while most is None or count < most:
            lines = await (self._after(operation, count) if operation else self.stored(identity, count))
            count += len(lines)
            for line in lines:
                if not isinstance(line, End):
                    yield line
            if not lines:
                return

    async def close(self) -> None:
        tasks = [operation.task for operation in self._running.values() if operation.task is not None]
        tasks += self._stopping
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, operation: Operation, work: Work) -> None:
        saver = asyncio.create_task(self._save_as_it_goes(operation))
        try:
            end = await _ended(operation, work)
        except asyncio.CancelledError:
            await _stop(saver)
            await self._save(operation)
            raise
        await _stop(saver)
        operation.add(end)
        try:
            if operation.stored is not None:
                await operation.stored
            state = _state(operation, end)
            first, lines = operation.fresh()
            await self._store.end_operation(operation.id, state, end.exit, end.message, self._clock.now(), first, lines)
        except PghaError as error:
            log.error("the end of %s (%s) is not stored: %s", operation.id, operation.what, error)
        finally:
            self._running.pop(operation.id, None)

    async def _save_as_it_goes(self, operation: Operation) -> None:
        """Every second, and when there is much. Not by `wait_for`, which may swallow that it was cancelled."""
        while True:
            timer = asyncio.get_running_loop().call_later(SAVE_S, operation.full.set)
            try:
                await operation.full.wait()
            finally:
                timer.cancel()
            await self._save(operation)

    async def _save(self, operation: Operation) -> None:
        first, lines = operation.fresh()
        try:
            if lines:
                await self._store.add_lines(operation.id, first, lines)
        except PghaError as error:
            log.error("%d lines of %s are lost: %s", len(lines), operation.id, error)
        finally:
            operation.kept()


async def _ended(operation: Operation, work: Work) -> End:
    """What became of the work. Raises CancelledError only when the master ends."""
    try:
        return await work(operation)
    except asyncio.CancelledError:
        if not operation.cancelled_by:
            raise
        return End(exit=1, message=f"cancelled by {operation.cancelled_by}; what had been done stays")
    except PghaError as error:
        return failure(error)
    except Exception as error:
        log.exception("%s broke", operation.what)
        return End(exit=1, message=f"internal error: {type(error).__name__}: {error}; see the log of pgha-master")


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def read_line(text: str) -> Any:  # a Line
    """As it was stored. One that cannot be read is told as that: the others are still worth to be read."""
    try:
        return LINE.validate_json(text)
    except ValidationError:
        return Note(level="warning", text="a line of this was stored that cannot be read")


def _state(operation: Operation, end: End) -> str:
    """The word for what became of it."""
    if end.exit in (0, 3):
        return "done"
    if operation.cancelled_by:
        return "cancelled"
    return "refused" if end.exit == 6 else "failed"


def failure(error: PghaError) -> End:
    """The end that it makes. Of a file's mistakes it has each, but not the text: that may hold a secret in clear."""
    if not isinstance(error, DefinitionError):
        return End(exit=exit_code(error), message=str(error))
    problems = [asdict(problem) for problem in error.problems]
    return End(exit=exit_code(error), message=str(error), data={"path": error.path, "problems": problems})


def exit_code(error: PghaError) -> int:
    """The CLI's exit code for it: docs/reference/exit-codes.md."""
    if isinstance(error, Refused):
        return 6
    return 2 if isinstance(error, UserError) else 1
