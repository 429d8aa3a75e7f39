"""What the master's end of the bus must keep up: after a restart, with a minion that lies, on a disk that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pgha.common.errors import BusError
from pgha.common.messages import Event
from pgha.common.names import new_job_id
from pgha.master import resumption
from pgha.master.flights import read_event
from pgha.master.operations import Operations
from pgha.master.runs import RunRequest
from pgha.master.simulation import LoopClock
from pgha.master.store import Store

T = TypeVar("T")
ENDLESS = '{"kind":"node_done","node":"n1","state":"done","data":{},"seconds":null}'  # as infinity was once written


def using(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store, do the work, close it: a master's life."""

    async def live() -> T:
        store = Store(path / "pgha.db")
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(live())


# ---- numbers that are none


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("done", b'{"ok":true,"seconds":1e999}'),
        ("done", b'{"ok":true,"seconds":-1}'),
        ("done", b'{"ok":true,"data":{"deep":[-1e999]}}'),
        ("done", b'{"ok":true,"data":{"deep":NaN}}'),
        ("res", b'{"resource":"a","document":"b","status":"changed","seconds":1e999}'),
        ("res", b'{"resource":"a","document":"b","status":"changed","seconds":-0.5}'),
    ],
)
def test_a_number_that_no_line_could_hold_is_refused_of_a_minion(kind: Any, body: bytes) -> None:
    with pytest.raises(BusError, match="cannot be read"):
        read_event(Event(epoch="e", seq=1, jid=new_job_id(), att=1, kind=kind, body=body))


def test_a_line_that_cannot_be_read_keeps_no_master_from_starting_and_hides_no_other_line(tmp_path: Path) -> None:
    run = RunRequest(target="x", function="cmd", arguments=("true",), nodes=("n1",))

    async def work(store: Store) -> tuple[list[resumption.Recalled], list[Any]]:
        await store.put_operation("OP", "run", "run x", "anna", "", 1.0, run.model_dump_json())
        await store.add_lines("OP", 0, ['{"kind":"started","id":"OP","what":"run x"}', ENDLESS])
        return await resumption.recall(store, 9.0), await Operations(store, LoopClock()).stored("OP")

    (one,), lines = using(tmp_path, work)
    assert one.request == run
    assert [line.kind for line in lines] == ["started", "note"]
    assert "cannot be read" in lines[1].text
