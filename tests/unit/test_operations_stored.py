"""What the store remembers of operations, and files that come to the master piece by piece."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from pgha.common.errors import UserError
from pgha.master import resumption
from pgha.master.adhoc.runs import RunRequest
from pgha.master.adhoc.uploads import MOST, STALE_S, Uploads
from pgha.master.bus.blobs import Blobs
from pgha.master.bus.flights import Flight
from pgha.master.operations.operations import LINE
from pgha.master.operations.progress import End, NodeDone, Note, Output, Started
from pgha.master.simulation.simulation import LoopClock, play
from pgha.master.store import Store
from pydantic import BaseModel

T = TypeVar("T")
A, B = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW"
RUN = RunRequest(target="x", function="cmd", arguments=("true",), nodes=("n1", "n2", "n3"))


def using(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    async def live() -> T:
        store = Store(path / "pgha.db")
        try:
            return await work(store)
        finally:
            store.close()

    return asyncio.run(live())


async def put(store: Store, identity: str = A, kind: str = "run", request: str = "", *lines: BaseModel) -> None:
    await store.put_operation(identity, kind, f"{kind} x", "anna", "", 1.0, request)
    await store.add_lines(identity, 0, [line.model_dump_json() for line in lines])


async def job(store: Store, jid: str, node: str, state: str, *, operation: str = A) -> None:
    values = (jid, node, operation, state)
    text = "insert into jobs (jid, att, node, operation, mode, what, state, created, not_after_ms)"
    await store.write(lambda db: db.execute(f"{text} values (?,1,?,?,'call','cmd',?,1.0,0)", values))


def nothing_open(operation: str) -> list[Flight]:
    return []


async def said(store: Store, jid: str, node: str, *texts: str) -> None:
    rows = [
        (node, "e", n, jid, "out", f'{{"stream": "stdout", "text": "{text}"}}', 2.0) for n, text in enumerate(texts)
    ]
    await store.write(lambda db: db.executemany("insert into events values (?,?,?,?,?,?,?)", rows))


def test_a_node_is_done_when_its_newest_job_is(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[int, int]:
        await put(store)
        for jid, node, state in (
            ("1", "n1", "failed"),
            ("2", "n1", "done"),
            ("3", "n2", "done"),
            ("4", "n2", "unknown"),
        ):
            await job(store, jid, node, state)
        row = (await store.operations(5))[0]
        return row.done, row.nodes

    assert using(tmp_path, work) == (1, 2)


def test_ids_are_found_by_their_beginning(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[str]]:
        await put(store, A)
        await put(store, B)
        return [await store.operation_ids(text) for text in ("01A", A, "02", "")]

    assert using(tmp_path, work) == [[B, A], [A], [], [B, A]]


def test_lines_are_read_back_in_pages(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[str], int, int]:
        await put(store, A)
        await store.add_lines(A, 0, [f"{number}" for number in range(10)])
        return await store.lines(A, 7, 2), await store.count_lines(A), await store.count_lines(B)

    assert using(tmp_path, work) == (["7", "8"], 10, 0)


def test_the_end_and_the_state_become_true_together(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[str, int | None, list[str]]:
        await put(store, A)
        await store.end_operation(A, "failed", 4, "why", 9.0, 0, ["a", "b"])
        row = await store.operation(A)
        assert row is not None
        return row.state, row.exit, await store.lines(A)

    assert using(tmp_path, work) == ("failed", 4, ["a", "b"])
    assert using(tmp_path, lambda store: store.open_operations()) == []


def test_a_run_is_recalled_with_the_output_that_nobody_was_told_of(tmp_path: Path) -> None:
    async def work(store: Store) -> list[resumption.Recalled]:
        told = (
            Started(id=A, what="run x"),
            Output(node="n1", stream="stdout", text="one"),
            Output(node="n2", stream="stdout", text="uno"),
            NodeDone(node="n2", state="done"),
        )
        await put(store, A, "run", RUN.model_dump_json(), *told)
        await job(store, "J1", "n1", "started")
        await job(store, "J2", "n2", "done")
        await said(store, "J1", "n1", "one", "two", "three")
        await said(store, "J2", "n2", "uno")
        return await resumption.recall(store, nothing_open, 9.0)

    (one,) = using(tmp_path, work)
    assert one.request == RUN
    assert one.count == 4
    assert [(node, output.text) for node, output in one.untold] == [("n1", "two"), ("n1", "three")]
    assert one.told == {"n2"}


@pytest.mark.parametrize(("kind", "request_text"), [("apply", "{}"), ("plan", ""), ("run", ""), ("run", '{"x": 1}')])
def test_what_cannot_go_on_ends_as_unknown_with_what_to_do(tmp_path: Path, kind: str, request_text: str) -> None:
    async def work(store: Store) -> tuple[str, int | None, End]:
        await put(store, A, kind, request_text, Started(id=A, what=kind), Note(text="x"))
        assert await resumption.recall(store, nothing_open, 9.0) == []
        row = await store.operation(A)
        assert row is not None
        return row.state, row.exit, LINE.validate_json((await store.lines(A))[-1])

    state, code, end = using(tmp_path, work)
    assert (state, code, end.exit) == ("unknown", 1, 1)
    assert end.message.endswith(f"resume: pgha-master jobs resume {A}")


@pytest.mark.parametrize(("code", "state"), [(0, "done"), (4, "failed")])
def test_an_end_that_was_stored_before_its_state_is_taken_for_it(tmp_path: Path, code: int, state: str) -> None:
    async def work(store: Store) -> tuple[str, int]:
        await put(store, A, "run", RUN.model_dump_json(), Started(id=A, what="run"), End(exit=code))
        assert await resumption.recall(store, nothing_open, 9.0) == []
        row = await store.operation(A)
        assert row is not None
        return row.state, await store.count_lines(A)

    assert using(tmp_path, work) == (state, 2)


# ---- uploads


class Plain:
    """A seal that hides nothing."""

    def seal(self, data: bytes, context: bytes = b"") -> bytes:
        return data

    def open(self, sealed: bytes, context: bytes = b"") -> bytes:
        return sealed


def uploading(folder: Path, body: Callable[[Uploads, Blobs], Awaitable[None]]) -> None:
    async def whole() -> None:
        blobs = Blobs(folder, Plain())
        await body(Uploads(blobs, LoopClock()), blobs)

    play(whole())


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_file_in_pieces_is_known_by_its_digest_when_it_is_whole(tmp_path: Path) -> None:
    async def body(uploads: Uploads, blobs: Blobs) -> None:
        uploads.add("u1", 0, text(b"one "))
        uploads.add("u2", 0, text(b"other"))
        uploads.add("u1", 4, text(b"two"))
        digest, size = uploads.end("u1")
        assert (digest, size) == (hashlib.sha256(b"one two").hexdigest(), 7)
        assert blobs.read(digest, 0) == b"one two"
        assert uploads.end("nothing came")[1] == 0

    uploading(tmp_path, body)


@pytest.mark.parametrize(("offset", "data"), [(3, text(b"x")), (5, text(b"x")), (4, "no base64!"), (4, "")])
def test_a_piece_that_does_not_fit_ends_the_upload(tmp_path: Path, offset: int, data: str) -> None:
    async def body(uploads: Uploads, blobs: Blobs) -> None:
        uploads.add("u1", 0, text(b"four"))
        with pytest.raises(UserError, match="do not fit"):
            uploads.add("u1", offset, data)
        assert list(tmp_path.iterdir()) == []

    uploading(tmp_path, body)


def test_uploads_that_nobody_ends_make_room_after_a_while(tmp_path: Path) -> None:
    async def body(uploads: Uploads, blobs: Blobs) -> None:
        for number in range(MOST):
            uploads.add(f"u{number}", 0, text(b"x"))
        with pytest.raises(UserError, match="already"):
            uploads.add("one more", 0, text(b"x"))
        await asyncio.sleep(STALE_S + 1)
        uploads.add("one more", 0, text(b"x"))
        assert len(list(tmp_path.iterdir())) == 1

    uploading(tmp_path, body)
