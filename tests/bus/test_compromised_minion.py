"""A minion whose key is in the wrong hands hurts itself only: nothing of others is read, written, or held up."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pgha.common.codec import decode, encode
from pgha.common.keys import new_key_pair, public_from_text
from pgha.common.messages import (
    TO_MINION,
    Bye,
    Chunk,
    Event,
    Fetch,
    Hello,
    Job,
    Message,
    NextKey,
    NextKeyKnown,
    Ping,
    Pong,
    Sign,
    Signed,
    Telemetry,
    Welcome,
)
from pgha.common.names import new_job_id
from pgha.common.paths import Paths
from pgha.common.telemetry import Sample
from pgha.master.keeping.vault import Vault
from pgha.master.setup import master_key_path
from pgha.minion.survey import survey
from pgha.tests.bus.conftest import Master, Stranger, until
from pgha.tests.bus.fuzz import Frames, Others, hostile
from pgha.tests.bus.pulse import Pulse, patience, resident_bytes
from pgha.tests.bus.quick import Nursery, Site, a_nursery

EXAMPLES = int(os.environ.get("PGHA_TEST_FUZZ", "40"))
EVIL = [f"evil{number}" for number in range(EXAMPLES + 20)]
FILE = b"the file that is for n2 alone" * 100
P99_S = 1.0
GROWTH = 32 * 2**20


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


class Victim:
    """A master with the minion n1; n2, played here, has jobs that are open for ever; all others are hostile."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.site = Site(folder / "site", nursery, ("n1", "n2", *EVIL))
        self.master: Master = self.site.master
        self._fresh = iter(EVIL)
        self.master.start()
        self.site.minions["n1"].start()
        self.master.sees("n1", 30)
        self.n2 = self.site.stranger("n2")
        assert isinstance(self.n2.hello(speaks=2, epoch="epoch-of-n2"), Welcome)
        local = folder / "file"
        local.write_bytes(FILE)
        self.waiting = [
            self.master.begin("run", "n2", "--timeout", "1200", "--", "true"),
            self.master.begin("run", "n2", "--timeout", "1200", "file.push", "/srv/x", "--file", str(local)),
            self.master.begin("run", "n2", "--timeout", "1200", "ping"),
        ]
        self.jobs = [self._job() for _ in self.waiting]
        self.n2.event(1, epoch="epoch-of-n2", jid=self.jobs[0].jid)

    def _job(self) -> Job:
        seen = {job.jid for job in getattr(self, "jobs", [])}
        job = until("a job", lambda: next((m for m in [self.n2.hear()] if isinstance(m, Job)), None))
        while job.jid in seen or job.jid in getattr(self, "_seen", set()):
            job = until("a job", lambda: next((m for m in [self.n2.hear()] if isinstance(m, Job)), None))
        self._seen = {*getattr(self, "_seen", set()), job.jid}
        assert isinstance(job, Job)
        return job

    def alive(self) -> None:
        """n2 is still there."""
        self.n2.say(Ping(mono_ms=1))
        while self.n2.socket.poll(0):
            self.n2.socket.recv_multipart()

    def evil(self) -> Stranger:
        """Another minion in the wrong hands."""
        self.alive()
        self.name = next(self._fresh)
        return self.site.stranger(self.name)

    @property
    def others(self) -> Others:
        rows = self.master.rows("select public_key from minions where name in ('n1','n2')")
        return Others(
            jids=[job.jid for job in self.jobs],
            digests=[hashlib.sha256(FILE).hexdigest(), *(job.sha256 for job in self.jobs)],
            epochs=["epoch-of-n2", *(row[0] for row in self.master.rows("select epoch from streams"))],
            names=["n1", "n2", "prod"],
            machines=[survey().machine_id],
            keys=[public_from_text(row[0]) for row in rows],
            facts=survey().model_dump(),
        )

    def close(self) -> None:
        for process in self.waiting:
            process.kill()
            process.communicate(timeout=10)
        self.n2.close()
        self.site.end()


@pytest.fixture(scope="module")
def victim(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    victim = Victim(tmp_path_factory.mktemp("victim"), nursery)
    try:
        yield victim
    finally:
        victim.close()


def not_of_the_evil(master: Master) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of the store, but for those of a hostile minion itself."""
    with closing(sqlite3.connect(f"file:{master.database}?mode=ro", uri=True)) as database:
        names = [row[0] for row in database.execute("select name from sqlite_master where type='table'")]
        whole = {name: database.execute(f"select * from {name}").fetchall() for name in names}
    return {
        name: sorted((row for row in rows if not any(str(value).startswith("evil") for value in row)), key=repr)
        for name, rows in whole.items()
    }


def all_pings_ended(master: Master) -> bool:
    return {row[0] is None for row in master.rows("select ended from operations where what='run n1 ping'")} == {False}


def files(master: Master) -> set[str]:
    return {str(path) for path in master.root.rglob("*")}


def answers(one: Stranger, seconds: float = 2.0) -> list[Message]:
    """All that it is told until a PONG to what it says now."""
    mark, told = int(time.monotonic() * 1e6), []
    one.say(Ping(mono_ms=mark))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not one.socket.poll(100):
            continue
        told.append(decode(one.socket.recv_multipart(), TO_MINION))
        if told[-1] == Pong(mono_ms=mark):
            break
    return told


def innocent(told: list[Message], name: str) -> bool:
    """Nothing in it is somebody else's."""
    for message in told:
        if isinstance(message, Chunk):
            assert not message.data, "a piece of another's file or document"
        assert not isinstance(message, (Job, NextKeyKnown)), message
        assert not isinstance(message, Signed) or not message.certificate
        assert not isinstance(message, Welcome) or message.name == name
    return True


def test_whatever_it_says_touches_nothing_but_its_own_rows(victim: Victim) -> None:
    """The oracle is the whole store, row by row, the files beside it, and the memory of the master."""
    master = victim.master
    assert master.answers("n1")
    until("that ping written down", lambda: all_pings_ended(master))
    before, files_before, memory = not_of_the_evil(master), files(master), resident_bytes(master)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="PGHA_TEST_FUZZ" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(hostile(victim.others), min_size=20, max_size=40))
    def play(messages: list[Frames]) -> None:
        one = victim.evil()
        try:
            one.hello(speaks=2)
            for number, frames in enumerate(messages):
                one.raw(*frames)
                if number == len(messages) // 2:
                    assert innocent(answers(one, 0.3), victim.name)
            assert innocent(answers(one, 0.3), victim.name)
        finally:
            one.close()

    play()
    grown = resident_bytes(master) - memory
    print(f"{EXAMPLES} hostile connections: {grown / 2**20:.1f} MiB more")
    after = not_of_the_evil(master)
    for table, rows in before.items():
        if table == "lines":  # what an operator was told is written when there is time
            assert set(rows) <= set(after[table])
            assert not any("evil" in str(row) for row in after[table])
        else:
            assert after[table] == rows, table
    assert {path for path in files(master) - files_before if "pgha.db-" not in path} == set()
    assert grown < GROWTH
    assert "forged" not in "".join(line[:20] for line in master.log.splitlines())
    assert "internal error" not in master.log and "Traceback" not in master.log
    assert master.answers("n1")
    victim.alive()
    victim.n2.say(Ping(mono_ms=7))
    until("n2 heard", lambda: victim.n2.hear() == Pong(mono_ms=7))
    assert not Path("/tmp/owned").exists()


def test_a_document_or_file_of_another_is_not_given_out(victim: Victim) -> None:
    one = victim.evil()
    assert isinstance(one.hello(speaks=2), Welcome)
    try:
        for digest in victim.others.digests:
            one.say(Fetch(sha256=digest, offset=0, count=2))
            told = one.hear()
            assert isinstance(told, Chunk)
            assert (told.data, told.why) == (b"", "no open job of yours names it")
        victim.n2.hello(speaks=2, epoch="epoch-of-n2")
        victim.n2.say(Fetch(sha256=victim.others.digests[0], offset=0, count=1))
        got = until("the owner's own", lambda: next((m for m in [victim.n2.hear()] if isinstance(m, Chunk)), None))
        assert got.data == FILE
    finally:
        one.close()


def test_a_certificate_of_another_is_not_signed(victim: Victim) -> None:
    one = victim.evil()
    assert isinstance(one.hello(speaks=2), Welcome)
    try:
        for cluster in ("prod", "n1"):
            one.say(Sign(request=1, cluster=cluster, name="etcd-server", csr="x"))
            told = one.hear()
            assert isinstance(told, Signed)
            assert told.certificate == ""
            assert "is no node of the cluster" in told.why
    finally:
        one.close()


@pytest.mark.parametrize("whose", ["its own new one", "another's", "the one it has"])
def test_a_next_key_that_nobody_asked_for_changes_nothing(victim: Victim, whose: str) -> None:
    one = victim.evil()
    assert isinstance(one.hello(speaks=2), Welcome)
    keys = {"another's": victim.others.keys[0], "the one it has": one.keys.public}
    before = victim.master.rows("select * from minions where name not like 'evil%' order by 1, 2")
    count = victim.master.rows("select count(*) from minions")
    try:
        one.say(NextKey(public=keys.get(whose, new_key_pair().public)))
        assert [m.type for m in answers(one)] == ["PONG"]
        assert victim.master.rows("select count(*) from minions") == count
        assert victim.master.rows("select * from minions where name not like 'evil%' order by 1, 2") == before
    finally:
        one.close()


# ---- too much of it


def big_telemetry() -> list[bytes]:
    units = {f"unit-{number}": "x" * 190 for number in range(900)}
    return encode(Telemetry(sample=Sample(at=1.0, units=units)))


def deep_telemetry() -> list[bytes]:
    """Every byte an empty map: 64 bytes of memory each, were it taken."""
    header = encode(Telemetry(sample=Sample(at=1.0)))[0]
    return [header, b"\x81\xa6sample" + b"\xdc\x00\x32" + (b"\xdc\x27\x10" + b"\x80" * 10_000) * 50]


def floods() -> dict[str, Callable[[int], list[bytes]]]:
    hello = encode(Hello(epoch="e1", spool_lo=1, spool_hi=0, acked=0, mepoch=0, speaks=2, facts=survey()))
    telemetry, deep = big_telemetry(), deep_telemetry()

    def event(seq: int, body: bytes) -> list[bytes]:
        return encode(Event(epoch="e1", seq=seq, jid=JID, att=1, kind="started", body=body))

    text = json.dumps({"reason": "x" * 200_000}).encode()
    return {
        "HELLO": lambda n: hello,
        "big TEL": lambda n: telemetry,
        "deep TEL": lambda n: deep,
        "PING": lambda n: encode(Ping(mono_ms=n)),
        "FETCH": lambda n: encode(Fetch(sha256="0" * 64, offset=0, count=2)),
        "SIGN": lambda n: encode(Sign(request=n, cluster="prod", name="x", csr="x" * 8000)),
        "NEXT_KEY": lambda n: encode(NextKey(public=n.to_bytes(32, "big"))),
        "the same EV": lambda n: event(1, b""),
        "EV after a gap": lambda n: event(n + 10, b""),
        "big EV": lambda n: event(n + 10, text),
        "frames that are nothing": lambda n: [b"", b""],
    }


JID = new_job_id()


@pytest.mark.parametrize("kind", list(floods()))
def test_who_floods_is_cut_off_and_everybody_else_is_heard(victim: Victim, kind: str) -> None:
    make = floods()[kind]
    one = victim.evil()
    assert isinstance(one.hello(speaks=2), Welcome)
    assert victim.master.answers("n1")
    memory = worst = resident_bytes(victim.master)
    one.socket.setsockopt(zmq.RCVHWM, 10)
    sent = 0
    said = f"{victim.name} is cut off"
    try:
        with Pulse(victim.master, "n1") as pulse:
            deadline = time.monotonic() + 20
            while said not in victim.master.log and time.monotonic() < deadline:
                for _ in range(50):
                    if one.socket.poll(5, zmq.POLLOUT):
                        one.raw(*make(sent))
                        sent += 1
                worst = max(worst, resident_bytes(victim.master))
            until("some pings", lambda: len(pulse.seconds) >= 10)
        worst = max(worst, resident_bytes(victim.master))
        print(f"{kind}: {sent} sent, {(worst - memory) / 2**20:.1f} MiB more at worst, {pulse}")
        assert said in victim.master.log
        assert pulse.p99_s < P99_S * patience()
        assert worst - memory < GROWTH
        assert victim.master.rows("select count(*) from jobs where node=?", victim.name)[0][0] <= 1
    finally:
        one.close()


SERVE = """
from pgha.common.paths import Paths
from pgha.master import daemon
from pgha.master.bus import roster
roster.QUARANTINE_S = 4.0
daemon.serve(Paths.from_environment())
"""


def test_who_was_cut_off_is_let_in_again_after_its_time(nursery: Nursery, tmp_path: Path) -> None:
    """A minute in earnest. Twenty bad messages are one too many; before its time not even HELLO is heard."""
    site = Site(tmp_path / "site", nursery, ("n1", "bad"))
    with (site.master.root / "log").open("ab") as log:
        site.master.process = subprocess.Popen(
            (sys.executable, "-c", SERVE), env=site.master.environment, stdout=log, stderr=log
        )
    try:
        until("a master that listens", lambda: "listening on" in site.master.log)
        site.minions["n1"].start()
        site.master.sees("n1", 30)
        one = site.stranger("bad")
        assert isinstance(one.hello(speaks=2), Welcome)
        for _ in range(19):
            one.raw(b"bad", b"bad")
        assert [m.type for m in answers(one)] == ["PONG"], "nineteen are not too many"
        began = time.monotonic()
        one.raw(b"bad", b"bad")
        until("it cut off", lambda: "bad is cut off" in site.master.log)
        assert one.hello(speaks=2) is None or time.monotonic() - began > 3.5
        assert site.master.answers("n1")
        one.close()
        again = site.stranger("bad")
        assert until("it back", lambda: isinstance(again.hello(speaks=2), Welcome), 15)
        assert time.monotonic() - began > 3.5
        again.close()
    finally:
        site.end()


# ---- revoked while connected


def gone(one: Stranger, monitor: zmq.Socket[bytes]) -> bool:
    """Its connection has ended, as its own end of it sees."""
    return bool(monitor.poll(0))


def test_revoked_it_is_deaf_mute_and_disconnected_within_a_second(victim: Victim) -> None:
    """On every connection it has: the newest, an older one, and one that has never said a word."""
    newest = victim.evil()
    name = victim.name
    older, silent = victim.site.stranger(name), victim.site.stranger(name)
    monitors: list[zmq.Socket[bytes]] = []
    try:
        assert isinstance(older.hello(speaks=2), Welcome)
        assert isinstance(newest.hello(speaks=2), Welcome)
        monitors = [one.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for one in (newest, older, silent)]
        assert victim.master.ask("keys.revoke", name=name)[-1]["exit"] == 0
        until("both hung up on", lambda: gone(newest, monitors[0]) and gone(older, monitors[1]), 1.0)
        told = newest.hear(0.1)
        assert isinstance(told, Bye) and "revoked" in told.reason
        silent.say(Ping(mono_ms=1))
        until("the silent one hung up on at its first word", lambda: gone(silent, monitors[2]), 2.0)
        for one in (newest, older, silent):
            one.event(1, b'{"ok": true}', kind="done")
            assert one.hear(0.2) is None
        assert victim.master.rows("select count(*) from events where node=?", name) == [(0,)]
        assert not established(victim.master, name)
    finally:
        for one in (newest, older, silent):
            one.socket.disable_monitor()
        for monitor in monitors:
            monitor.close(0)
        for one in (newest, older, silent):
            one.close()


def established(master: Master, name: str) -> bool:
    return name in master.connected()


def test_revoked_during_a_rotation_its_next_key_is_no_key_either(victim: Victim) -> None:
    """Else who has the next key would be let in, and take the name back from whoever has it then."""
    one = victim.evil()
    name, following, successor = victim.name, new_key_pair(), new_key_pair()
    knocking, thief = Stranger(victim.master, successor, enrolment=True), Stranger(victim.master, following)
    heir = Stranger(victim.master, successor)
    try:
        assert isinstance(one.hello(speaks=2), Welcome)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(victim.master.socket_path))
            asking.sendall(json.dumps({"verb": "keys.rotate", "args": {"name": name}}).encode() + b"\n")
            until("it asked to", lambda: next((m for m in [one.hear()] if m is not None and m.type == "ROTATE"), None))
            one.say(NextKey(public=following.public))
            until("its next key known", lambda: isinstance(one.hear(), NextKeyKnown))
        assert victim.master.ask("keys.revoke", name=name)[-1]["exit"] == 0
        knocking.knock(name)
        assert victim.master.ask("keys.accept", name=name, fingerprint=knocking.shown)[-1]["exit"] == 0
        heir.close()
        heir = Stranger(victim.master, successor)
        assert isinstance(heir.hello(speaks=2), Welcome)
        assert thief.hello(speaks=2) is None
        assert [m.type for m in answers(heir)] == ["PONG"], "and it is not asked for what another was asked for"
    finally:
        for stranger in (one, knocking, heir, thief):
            stranger.close()


def test_a_name_that_is_given_to_another_key_starts_from_nothing(victim: Victim) -> None:
    one = victim.evil()
    name = victim.name
    liar = survey().model_copy(update={"os_id": "plan9", "pgha_version": "9.9"})
    one.say(Hello(epoch="e1", spool_lo=1, spool_hi=0, acked=0, mepoch=0, speaks=2, facts=liar))
    assert isinstance(one.hear(), Welcome)
    one.say(Telemetry(sample=Sample(at=1.0, data_directory_present=True)))
    one.say(Ping(mono_ms=1, trouble="the trouble of before"))
    assert one.hear() == Pong(mono_ms=1)
    command = victim.master.begin("run", name, "--", "true")
    until("its job", lambda: isinstance(one.hear(), Job))
    assert victim.master.ask("keys.revoke", name=name)[-1]["exit"] == 0
    command.communicate(timeout=20)
    assert command.returncode != 0, "what it was to do is over"
    heir = Stranger(victim.master, enrolment=True)
    heir.knock(name)
    assert victim.master.ask("keys.accept", name=name, fingerprint=heir.shown)[-1]["exit"] == 0
    assert victim.master.rows("select facts from minions where name=? and state='accepted'", name) == [("",)]
    new = Stranger(victim.master, heir.keys)
    try:
        assert name not in victim.master.connected()
        told = new.hello(speaks=2, epoch="e2")
        assert isinstance(told, Welcome) and told.hw == 0
        assert [m.type for m in answers(new)] == ["PONG"], "no job of before"
    finally:
        for stranger in (one, heir, new):
            stranger.close()


# ---- two hosts with one key


def test_two_hosts_with_one_key_are_flagged_and_get_nothing_until_somebody_has_looked(victim: Victim) -> None:
    real, copy = victim.evil(), victim.site.stranger(victim.name)
    name = victim.name

    def hello(one: Stranger, machine: str) -> None:
        facts = survey().model_copy(update={"machine_id": machine, "boot_id": f"boot of {machine}"})
        one.say(Hello(epoch=f"e-{machine}", spool_lo=1, spool_hi=0, acked=0, mepoch=0, speaks=2, facts=facts))
        until("a welcome", lambda: isinstance(one.hear(), Welcome))

    try:
        hello(real, "real")
        hello(copy, "copy")
        assert f"{name}: two hosts use its key" not in victim.master.log, "a host may be set up anew"
        hello(real, "real")
        assert f"{name}: two hosts use its key" in victim.master.log
        said = victim.master.cli("run", name, "--", "true")
        assert said.code != 0
        assert "two hosts use its key" in said.text
        assert f"keys revoke {name}" in said.text
        for one in (real, copy):
            assert not any(isinstance(m, Job) for m in answers(one, 0.5))
    finally:
        real.close()
        copy.close()


def test_the_documents_that_wait_in_the_store_are_sealed(victim: Victim) -> None:
    """What a thief of the store would read of the jobs of others: nothing without the master key."""
    root = Paths(victim.master.root)
    vault = Vault(master_key_path(root), root.state / "secrets")
    rows = victim.master.rows("select jid, payload from jobs where node='n2' and length(payload) > 0")
    assert rows
    for jid, payload in rows:
        assert b"file.push" not in payload and b"argv" not in payload
        assert b"function" in vault.open(payload, jid.encode())
