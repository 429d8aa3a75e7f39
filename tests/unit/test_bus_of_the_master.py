"""What the master's end of the bus must keep up: after a restart, with a minion that lies, on a disk that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pgha.common.cluster import Cluster
from pgha.common.errors import BusError, HostError, Refused
from pgha.common.keys import load_or_create, new_key_pair, public_text
from pgha.common.messages import Event, Fetch, Message, NextKey, Running
from pgha.common.names import new_job_id
from pgha.common.signing import Signer
from pgha.master import resumption
from pgha.master.adhoc.runs import RunRequest
from pgha.master.bus.blobs import Blobs
from pgha.master.bus.credit import ALL, ALL_BYTES, LEAST_BYTES, Credits
from pgha.master.bus.flights import WORD_BYTES, Document, Flight, Flights, read_event
from pgha.master.bus.hub import Hub
from pgha.master.bus.intake import Intake
from pgha.master.bus.ledger import AWAY_S, LONGEST_S, OVERDUE_S, Ledger
from pgha.master.bus.peers import Peer
from pgha.master.bus.rotation import KeyFiles, Rotation
from pgha.master.operations.operations import Operations
from pgha.master.simulation.simulation import LoopClock, play
from pgha.master.store import MinionRow, Store

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


def nothing_open(operation: str) -> list[Flight]:
    return []


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


@pytest.mark.parametrize("kind", ["started", "interrupted", "cancelled", "expired"])
def test_a_reason_is_no_place_for_a_heap_of_json_to_be_read(kind: Any) -> None:
    body = b'{"reason":"' + b"x" * WORD_BYTES + b'"}'
    with pytest.raises(BusError, match="has a body of"):
        read_event(Event(epoch="e", seq=1, jid=new_job_id(), att=1, kind=kind, body=body))


def test_a_line_that_cannot_be_read_keeps_no_master_from_starting_and_hides_no_other_line(tmp_path: Path) -> None:
    run = RunRequest(target="x", function="cmd", arguments=("true",), nodes=("n1",))

    async def work(store: Store) -> tuple[list[resumption.Recalled], list[Any]]:
        await store.put_operation("OP", "run", "run x", "anna", "", 1.0, run.model_dump_json())
        await store.add_lines("OP", 0, ['{"kind":"started","id":"OP","what":"run x"}', ENDLESS])
        return await resumption.recall(store, nothing_open, 9.0), await Operations(store, LoopClock()).stored("OP")

    (one,), lines = using(tmp_path, work)
    assert one.request == run
    assert [line.kind for line in lines] == ["started", "note"]
    assert "cannot be read" in lines[1].text


# ---- what is overdue


class Hands:
    """A clock that is set by hand, and the connections of one minion."""

    def __init__(self) -> None:
        self.time, self.there, self.why = 1000.0, True, ""
        self.n1 = Peer("n1", key="k", route=b"r", version=2, heard=1000.0, beat=True)
        self.sent: list[Message] = []

    def now(self) -> float:
        return self.time + 10**9

    def monotonic(self) -> float:
        return self.time

    def peer(self, name: str) -> Peer | None:
        return self.n1

    def connected(self, name: str) -> bool:
        return self.there

    def send(self, peer: Peer, message: Message) -> None:
        self.sent.append(message)

    def held(self, name: str, what: str) -> str:
        return self.why

    def offend(self, peer: Peer, why: str) -> None:
        raise AssertionError(why)

    def charge(self, peer: Peer, cost: float) -> bool:
        return True


class Desk:
    """A ledger over a store, with the time and the connections in the test's hands."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.hands = store, Hands()
        self.flights = Flights(store, self.hands)
        self.signer = Signer(folder / "signing.key")
        self.ledger = Ledger(store, Plain(), self.signer, self.hands, self.hands, self.flights)
        self.intake = Intake(store, self.hands, self.flights, self.hands, self.ledger.push)

    async def order(self, *words: str, timeout_s: float = 5.0, query: bool = False) -> Flight:
        """A job that was ordered and sent, and to which those things happened."""
        (flight,) = await self.ledger.order(
            {"n1": Document.of({"x": 1})}, "call", what="cmd", operation="OP", timeout_s=timeout_s, query=query
        )
        for word in words:
            await self.flights.move(flight, word, "")
        return flight

    async def after(self, seconds: float) -> None:
        """So much later, with a tick each second; a minion that is there is heard all the time."""
        for _ in range(int(seconds)):
            self.hands.time += 1
            if self.hands.there:
                self.hands.n1.heard = self.hands.time
            await self.ledger.tick()


class Plain:
    """A seal that hides nothing."""

    def seal(self, data: bytes, context: bytes = b"") -> bytes:
        return data

    def open(self, sealed: bytes, context: bytes = b"") -> bytes:
        return sealed


def at_a_desk(folder: Path, work: Callable[[Desk], Awaitable[T]]) -> T:
    return using(folder, lambda store: work(Desk(store, folder)))


def restored(desk: Desk, folder: Path) -> Awaitable[Desk]:
    """The desk of the next master over the same store."""

    async def open_() -> Desk:
        after = Desk(desk.store, folder)
        after.hands.time = desk.hands.time + 46
        after.hands.there, after.hands.n1 = False, Peer("n1")
        await after.ledger.open(2)
        return after

    return open_()


def test_a_restarted_master_gives_minions_time_to_tell_how_jobs_ended(tmp_path: Path) -> None:
    async def work(first: Desk) -> list[str]:
        await first.order("accept", "started")
        await first.order()
        desk = await restored(first, tmp_path)
        flights = desk.ledger.flights()
        await desk.after(AWAY_S - 2)
        states = [flight.state for flight in flights]
        await desk.after(4)
        return [*states, *(flight.state for flight in flights)]

    assert at_a_desk(tmp_path, work) == ["started", "queued", "unknown", "unknown"]


def test_a_job_is_not_overdue_before_a_heartbeat_of_this_connection_and_all_it_held(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[str]:
        flight, peer, states = await desk.order("accept", "started"), desk.hands.n1, []
        for trouble in ({"beat": False}, {"caught_up_at": 7}, {"spool": 3}, {"storing": 900}):
            before = {name: getattr(peer, name) for name in trouble}
            vars(peer).update(trouble)
            await desk.after(100)
            states.append(flight.state)
            vars(peer).update(before)
        await desk.after(1)
        return [*states, flight.state]

    assert at_a_desk(tmp_path, work) == ["started"] * 4 + ["unknown"]


def test_what_its_minion_names_is_never_overdue_and_what_it_no_longer_names_soon_is(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[str]:
        flight, peer = await desk.order("accept", "started"), desk.hands.n1
        peer.running = (Running(jid=flight.job.jid, att=1, resource="", seconds=1.0),)
        await desk.after(500)
        states = [flight.state]
        peer.running = ()
        await desk.after(OVERDUE_S - 1)
        states.append(flight.state)
        await desk.after(3)
        return [*states, flight.state]

    assert at_a_desk(tmp_path, work) == ["started", "started", "unknown"]


def test_a_minion_that_is_silent_for_a_while_may_come_back_with_the_end_of_its_job(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[str]:
        flights = [await desk.order("accept", "started"), await desk.order()]
        await desk.after(14)
        desk.hands.there = False
        desk.hands.n1.leave()
        await desk.after(AWAY_S - 1)
        states = [flight.state for flight in flights]
        await desk.after(3)
        return [*states, *(flight.state for flight in flights)]

    assert at_a_desk(tmp_path, work) == ["started", "queued", "unknown", "unknown"]


def test_a_master_that_stood_still_has_heard_nobody_meanwhile(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[str]:
        flight = await desk.order("accept", "started")
        await desk.after(2)
        desk.hands.there = False
        desk.hands.time += 3600
        await desk.after(AWAY_S - 1)
        states = [flight.state]
        await desk.after(3)
        return [*states, flight.state]

    assert at_a_desk(tmp_path, work) == ["started", "unknown"]


def test_what_was_never_sent_and_what_may_be_asked_again_end_with_their_time(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[str]:
        asked = await desk.order(query=True)
        desk.hands.there = False
        unsent = await desk.order()
        await desk.after(6)
        return [asked.state, unsent.state]

    assert at_a_desk(tmp_path, work) == ["unknown", "expired"]


# ---- what a restarted master goes on with


class Office:
    """As much of a master as a run that goes on needs."""

    def __init__(self, desk: Desk) -> None:
        self.hub, self.clock, self.ledger = self, desk.hands, desk.ledger
        self.peers, self.telemetry = {"n1": desk.hands.n1}, asyncio.Condition()
        self.operations = Operations(desk.store, desk.hands)
        self.clusters: dict[str, Cluster] = {}
        self.connected, self.held = desk.hands.connected, desk.hands.held

    def facts(self, name: str) -> None:
        return None

    def accepted(self) -> frozenset[str]:
        return frozenset({"n1"})

    def health(self, cluster: Cluster) -> Any:
        raise AssertionError("it has no clusters")


def test_what_ends_between_the_start_of_the_bus_and_of_its_run_is_told_as_it_ended(tmp_path: Path) -> None:
    run = RunRequest(target="x", function="cmd", arguments=("true",), nodes=("n1",))
    bodies = {"started": b"{}", "out": b'{"stream":"stdout","text":"late"}', "done": b'{"ok":true}'}

    async def work(first: Desk) -> list[Any]:
        await first.store.put_operation("OP", "run", "run x", "anna", "", 1.0, run.model_dump_json())
        await first.store.add_lines("OP", 0, ['{"kind":"started","id":"OP","what":"run x"}'])
        jid = (await first.order("accept", timeout_s=600)).job.jid
        desk = await restored(first, tmp_path)
        desk.hands.there = True
        recalled = await resumption.recall(desk.store, desk.ledger.resume, 9.0)
        kinds: list[Any] = list(bodies)
        events = [Event(epoch="e", seq=n, jid=jid, att=1, kind=k, body=bodies[k]) for n, k in enumerate(kinds, 1)]
        desk.intake.streams([(desk.hands.n1, events)])
        while desk.ledger.flights():
            await asyncio.sleep(0)
        office = Office(desk)
        resumption.go_on(office, recalled)
        return [line async for line in office.operations.replay("OP")]

    lines = at_a_desk(tmp_path, work)
    assert [line.text for line in lines if line.kind == "output"] == ["late"]
    assert [line.state for line in lines if line.kind == "node_done"] == ["done"]
    assert lines[-1].exit == 0


# ---- who gets nothing to do


def test_a_job_that_was_queued_before_its_minion_was_held_is_kept_back(tmp_path: Path) -> None:
    async def work(first: Desk) -> list[Any]:
        first.hands.there = False
        flight = await first.order(timeout_s=600)
        desks = [first, await restored(first, tmp_path)]
        sent: list[Any] = []
        for desk in desks:
            desk.ledger.resume("OP")
            desk.hands.there, desk.hands.why = True, "two hosts use its key"
            await desk.after(20)
            sent.append([message.type for message in desk.hands.sent])
            desk.hands.why = ""
            await desk.after(20)
            sent.append(desk.hands.sent[0].type)
        return [*sent, flight.what, desks[1].ledger.flights()[0].what]

    assert at_a_desk(tmp_path, work) == [[], "JOB", [], "JOB", "cmd", "cmd"]


def test_a_job_that_is_cancelled_while_its_minion_is_held_is_cancelled_there(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[str]:
        flight = await desk.order("accept", timeout_s=600)
        desk.hands.why = "two hosts use its key"
        await desk.ledger.cancel(flight)
        return [message.type for message in desk.hands.sent]

    assert at_a_desk(tmp_path, work) == ["JOB", "CANCEL"]


# ---- what must never stand still


def test_a_round_that_breaks_is_told_and_the_next_one_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        nothing: Any = None
        store, keys = Store(tmp_path / "pgha.db"), new_key_pair()
        files = KeyFiles(tmp_path / "curve.key", tmp_path / "signing.key")
        signer, blobs = Signer(files.signing), Blobs(tmp_path / "blobs", Plain())
        hub = Hub(store, nothing, keys, signer, blobs, "127.0.0.1", 0, LoopClock(), nothing, print, 1, files)
        rounds = []

        async def broken() -> None:
            rounds.append(1)
            raise KeyError("no such thing")

        vars(hub.ledger)["tick"] = broken
        ticker = asyncio.create_task(hub._tick())
        await asyncio.sleep(4.5)
        assert (len(rounds), ticker.done()) == (4, False)
        ticker.cancel()
        store.close()

    play(body())
    assert "a round of the bus broke" in caplog.text


# ---- new keys


class Lines:
    """A master without minions, or with one."""

    def __init__(self, *peers: Peer) -> None:
        self.peers = {peer.name: peer for peer in peers}

    def connected(self, name: str) -> bool:
        return True

    def send(self, peer: Peer, message: Message) -> None: ...

    async def reload_keys(self) -> None: ...


def rotation_of(folder: Path, store: Any = None, *peers: Peer) -> tuple[Rotation, KeyFiles]:
    """As a master that is started over these files has it."""
    files = KeyFiles(folder / "curve.key", folder / "signing.key")
    files.settle()
    load_or_create(files.curve)
    return Rotation(store, Signer(files.signing), files, Lines(*peers)), files


def keys_in(files: KeyFiles) -> tuple[bytes, bytes]:
    return load_or_create(files.curve).public, Signer(files.signing).public


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_crash_while_new_keys_are_put_in_place_leaves_one_pair_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    rotation, files = rotation_of(tmp_path)
    old = keys_in(files)
    told = rotation.begin()
    new = (load_or_create(files.next_curve).public, Signer(files.next_signing).public)
    assert told == public_text(new[0])
    done: list[Path] = []

    def dies(path: Path, to: Path) -> None:
        if len(done) == renames:
            raise OSError(28, "No space left on device")
        done.append(path.replace(to))

    monkeypatch.setattr("pgha.master.bus.rotation.rename", dies)

    async def finish(store: Store) -> str:
        return await rotation_of(tmp_path, store)[0].finish(force=True)

    if renames < 2:
        with pytest.raises(HostError, match="cannot put"):
            using(tmp_path, finish)
        assert renames == len(done)
    else:
        assert using(tmp_path, finish) == told
    monkeypatch.undo()
    after, files = rotation_of(tmp_path)
    assert keys_in(files) == (old if renames == 0 else new)
    if renames == 0:
        assert after.begin() == told
        using(tmp_path, finish)
        assert keys_in(files) == new


def test_no_next_keys_are_made_while_new_ones_wait_for_a_restart(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        rotation, files = rotation_of(tmp_path, store)
        rotation.begin()
        await rotation.finish(force=True)
        with pytest.raises(Refused, match="restart pgha-master"):
            rotation.begin()
        assert not files.next_curve.exists()
        assert not files.next_signing.exists()
        rotation_of(tmp_path, store)[0].begin()

    using(tmp_path, work)


def test_a_next_key_that_races_with_the_revocation_lets_nobody_back_in(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[str, str]]:
        await store.put_minion(MinionRow("n1", "k1", "accepted", "", "", "", 0.0, 0.0, ""))
        peer = Peer("n1", key="k1", version=2)
        rotation, _ = rotation_of(tmp_path, store, peer)
        rotation.ask("n1")
        telling = asyncio.create_task(rotation.next_key(peer, NextKey(public=b"k" * 32)))
        await asyncio.sleep(0)  # it has asked the store who is known, and the revocation comes right after that
        await store.put_minion(MinionRow("n1", "k1", "revoked", "", "", "", 0.0, 0.0, ""))
        await telling
        return [(row.public_key, row.state) for row in await store.minions()]

    assert using(tmp_path, work) == [("k1", "revoked")]


# ---- bounds


def test_an_order_that_is_cancelled_while_it_is_stored_leaves_nothing_queued(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[tuple[str, str]]:
        ordering = asyncio.create_task(desk.order())
        await asyncio.sleep(0)
        ordering.cancel()
        await asyncio.gather(ordering, return_exceptions=True)
        assert ordering.cancelled()
        return [(state, message) for _, state, message, _ in await desk.store.jobs("OP")]

    assert at_a_desk(tmp_path, work) == [("cancelled", "cancelled before it was sent")]


def test_jobs_that_nobody_wants_any_more_when_they_are_stored_are_not_sent(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[Any]:
        about: Any = {"what": "cmd", "operation": "OP", "timeout_s": 5.0, "wanted": lambda: False}
        flights = await desk.ledger.order({"n1": Document.of({})}, "call", **about)
        news = [news async for _, news in desk.ledger.follow(flights)]
        return [news, desk.hands.sent, desk.ledger.flights(), [row[1] for row in await desk.store.jobs("OP")]]

    assert at_a_desk(tmp_path, work) == [["cancelled"], [], [], ["cancelled"]]


def test_a_job_that_fits_no_message_is_refused_and_the_others_are_sent(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[Any]:
        def send(peer: Peer, message: Message) -> None:
            if peer.name == "n2":
                raise BusError("JOB has 600000 bytes")
            sent.append(peer.name)

        sent: list[str] = []
        peers = {name: Peer(name, heard=1000.0) for name in ("n1", "n2", "n3")}
        vars(desk.hands).update(send=send, peer=peers.get)
        documents = dict.fromkeys(peers, Document.of({}))
        flights = await desk.ledger.order(documents, "call", what="cmd", operation="OP", timeout_s=5.0)
        news = [news async for _, news in desk.ledger.follow([flights[1]])]
        return [sent, news, flights[1].message, [flight.node for flight in desk.ledger.flights()]]

    assert at_a_desk(tmp_path, work) == [["n1", "n3"], ["refused"], "JOB has 600000 bytes", ["n1", "n3"]]


def test_who_waits_for_a_silent_minion_is_told_though_the_store_refuses_to_write(tmp_path: Path) -> None:
    async def work(desk: Desk) -> list[Any]:
        desk.hands.there = False
        desk.hands.n1.leave()
        flight = await desk.order(timeout_s=600)

        def refuse(*args: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(HostError("the disk is full"))
            return future

        vars(desk.store)["move_job"] = refuse

        async def wait() -> list[Any]:
            return [news async for _, news in desk.ledger.follow([flight], 5.0)]

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await desk.after(10)
        return await asyncio.wait_for(waiting, 5)

    assert at_a_desk(tmp_path, work) == ["silent"]


def test_a_deadline_of_a_clock_that_was_years_ahead_is_no_reason_to_wait_for_years(tmp_path: Path) -> None:
    async def work(first: Desk) -> bool:
        await first.order("accept", timeout_s=10 * 365 * 86400)
        desk = await restored(first, tmp_path)
        return desk.ledger.flights()[0].deadline - desk.hands.time <= LONGEST_S

    assert at_a_desk(tmp_path, work)


@pytest.mark.parametrize("peers", [1, 20, 500, 5000])
def test_credit_is_bounded_in_events_and_in_bytes(peers: int) -> None:
    events, size = Credits().first(peers)
    assert events * peers <= ALL
    assert size * peers <= ALL_BYTES or size == LEAST_BYTES


def test_a_fetch_beyond_the_largest_file_is_no_fetch() -> None:
    with pytest.raises(ValueError, match="offset"):
        Fetch(sha256="0" * 64, offset=2**63 - 2**17, count=1)
