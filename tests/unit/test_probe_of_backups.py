"""A sample holds the newest that is known of backups, and no sample ever waits for the tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pgha.common import installation
from pgha.common.errors import HostError
from pgha.common.installation import Installation
from pgha.common.telemetry import Sample
from pgha.common.telemetry_backup import ArchiverSample, BackupRun, BackupSample, DrillSample, RepositorySample
from pgha.minion.backups.asking import Asking
from pgha.minion.backups.history import History
from pgha.minion.backups.run import BUSY
from pgha.minion.probes import archiver
from pgha.minion.probes.backup import Backups, tail
from pgha.minion.telemetry import changed
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem

SAID = Path(__file__).parent / "pgbackrest"
SYSTEM_ID = "7712285607058701439"


@dataclass
class Clock:
    at: float = 100.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.at

    def monotonic(self) -> float:
        return self.at


@dataclass
class Node(FakeSystem):
    """`info` is what the tool says of each repository; `asked` what programs were started."""

    info: str = "info-backups.json"
    system_id: str = SYSTEM_ID
    archive: Output = field(default_factory=lambda: Output(2, "", "no server"))
    asked: list[str] = field(default_factory=list)

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        assert argv[:5] == ("runuser", "-u", "postgres", "--", "pgbackrest")
        self.asked.append(argv[-1])
        return Output(0, (SAID / self.info).read_text())

    def sql(self, database: str, query: str) -> Output:
        self.asked.append("sql")
        return self.archive

    def patroni(self, path: str) -> tuple[int, str]:
        return 200, json.dumps({"role": "primary", "database_system_identifier": self.system_id})


@dataclass
class Later:
    """Begins nothing until it is told to."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def begin(self, work: Callable[[], None]) -> None:
        self.waiting.append(work)

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@dataclass
class Scene:
    folder: Path
    node: Node = field(default_factory=Node)
    clock: Clock = field(default_factory=Clock)
    later: Later = field(default_factory=Later)

    def __post_init__(self) -> None:
        self.history = History(self.folder)
        self.install()
        self.backups = Backups(self.node, self.clock, self.history, self.later.begin)

    def install(self, **update: Any) -> None:
        here = Installation(
            driver="pgbackrest",
            stanza="prod",
            node="pg-node1",
            operates=(1, 2),
            repositories=(1, 2),
            data=True,
            data_directory="/var/lib/postgresql/17/main",
            bin_dir="/usr/lib/postgresql/17/bin",
            port=5432,
            writes_port=5433,
            standby=True,
            data_nodes=("pg-node1", "pg-node2"),
            logs=str(self.folder),
        ).model_copy(update=update)
        text = here.model_dump_json()
        self.node.files[installation.PATH] = FileFacts("file", text, "root", "root", 0o644)

    def probe(self) -> BackupSample:
        sample = self.backups.probe()
        assert sample is not None
        return sample

    def settled(self) -> BackupSample:
        self.probe()
        self.later.run()
        self.node.asked.clear()
        return self.probe()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_node_without_backups_tells_nothing_of_them(scene: Scene) -> None:
    scene.node.files.clear()
    assert scene.backups.probe() is None
    assert scene.later.waiting == []


def test_a_damaged_file_of_its_part_is_an_error_and_no_exception(scene: Scene) -> None:
    scene.node.files[installation.PATH] = FileFacts("file", "{", "root", "root", 0o644)
    assert "cannot be read" in scene.probe().error


def test_a_sample_does_not_wait_for_the_tool_and_has_its_answer_when_it_came(scene: Scene) -> None:
    first = scene.probe()
    assert (first.repositories, scene.node.asked) == ((), [])
    scene.later.run()
    assert scene.node.asked == ["--repo=1", "--repo=2", "sql"]
    assert [(one.number, one.state, len(one.backups)) for one in scene.probe().repositories] == [
        (1, "ok", 2),
        (2, "ok", 1),
    ]


def test_while_the_tool_hangs_it_is_not_asked_again(scene: Scene) -> None:
    scene.probe()
    for _ in range(5):
        scene.clock.at += 100.0
        scene.probe()
    assert len(scene.later.waiting) == 2  # the tool and the archiver, once each


def test_repositories_are_asked_once_a_minute_and_at_once_after_a_run(scene: Scene) -> None:
    scene.settled()
    scene.clock.at += 30
    scene.probe()
    scene.later.run()
    assert scene.node.asked == ["sql"]
    scene.history.add_run(BackupRun(type="full", repository=1, began=1.0, ended=2.0, ok=True))
    scene.probe()
    scene.later.run()
    assert scene.node.asked == ["sql", "--repo=1", "--repo=2"]
    scene.clock.at += 60
    scene.probe()
    scene.later.run()
    assert scene.node.asked[3:] == ["--repo=1", "--repo=2", "sql"]


def test_another_part_in_backups_is_asked_about_at_once(scene: Scene) -> None:
    scene.settled()
    scene.install(repositories=(2,))
    scene.probe()
    scene.later.run()
    assert scene.node.asked == ["--repo=2", "sql"]


def test_a_run_of_its_own_is_told_with_how_far_it_is(scene: Scene) -> None:
    run = BackupRun(type="full", repository=1, began=scene.node.now() - 1)
    scene.settled()
    with scene.history.under_way(run):
        assert scene.probe().running == run
        scene.node.info = "info-running.json"
        scene.clock.at += 5
        scene.probe()
        scene.later.run()
        running = scene.probe().running
        assert running is not None
        assert (running.type, running.done, running.total) == ("full", 204996608, 228526236)
    scene.node.info = "info-backups.json"
    scene.clock.at += 5
    scene.probe()
    scene.later.run()
    assert scene.probe().running is None


def test_a_run_that_somebody_else_began_is_known_by_the_tools_lock(scene: Scene) -> None:
    scene.node.info = "info-running.json"
    running = scene.settled().running
    assert running is not None
    assert (running.type, running.repository, running.done) == ("", 0, 204996608)
    scene.clock.at += 5
    scene.probe()
    scene.later.run()
    again = scene.probe().running
    assert again is not None
    assert again.began == running.began


def test_a_run_that_died_does_not_run_for_ever(scene: Scene) -> None:
    with scene.history.under_way(BackupRun(type="full", repository=1, began=1.0)):
        pass
    assert scene.probe().running is None


def test_the_latest_runs_and_the_last_drill_are_told_without_those_that_gave_way(scene: Scene) -> None:
    for number in range(10):
        scene.history.add_run(BackupRun(type="diff", repository=1, began=number, ended=number + 1, ok=True))
    scene.history.add_run(BackupRun(type="full", repository=1, began=11, ended=12, error=BUSY))
    scene.history.add_drill(DrillSample(began=5.0, ok=False, seconds=1.0))
    scene.history.add_drill(DrillSample(began=6.0, ok=True, seconds=1.0))
    sample = scene.probe()
    assert [run.began for run in sample.runs] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert sample.drill is not None
    assert sample.drill.began == 6.0


def test_a_repository_of_another_database_is_told_as_that(scene: Scene) -> None:
    scene.node.system_id = "7400000000000000000"
    assert {one.state for one in scene.settled().repositories} == {"another cluster's"}
    assert SYSTEM_ID in scene.probe().repositories[0].why


def test_segments_that_were_thrown_away_are_read_from_the_end_of_the_tools_log(scene: Scene) -> None:
    log = scene.folder / "prod-archive-push-async.log"
    log.write_text("P00   WARN: dropped WAL file '000000010000000000000067' because archive queue exceeded 1MB\n" * 2)
    sample = scene.settled()
    assert (sample.dropped, sample.last_dropped) == (1, "000000010000000000000067")
    assert tail(log, 10) == "eeded 1MB\n"


# ---- the archiver

ROW: dict[str, Any] = {
    "archived_at": 1000.0,
    "failed_at": None,
    "failed_count": 0,
    "last_archived": "000000010000000000000005",
    "last_failed": "",
    "waiting": 0,
    "oldest_ready": None,
    "finished_at": 990.0,
    "wal_bytes": 0x6000100,
    "segment_bytes": 16 * 1024**2,
    "timeout_s": 60,
    "now": 1010.0,
}


def row(**update: Any) -> archiver.Row:
    return archiver.Row.model_validate({**ROW, **update})


@pytest.mark.parametrize(
    ("update", "bytes_", "seconds"),
    [
        ({}, 0x100, 20.0),
        ({"wal_bytes": 0x6000000}, 0, 0.0),
        ({"now": 5000.0}, 0x100, 60.0),  # nothing waits, so the open segment is not older than archive_timeout
        ({"now": 5000.0, "waiting": 1}, 0x100, 4010.0),
        ({"now": 5000.0, "failed_at": 1001.0}, 0x100, 4010.0),
        ({"finished_at": None}, 0x100, 10.0),
        ({"last_archived": "000000010000000000000005.00000028.backup"}, 0x100, 20.0),
        ({"last_archived": "000000010000000000000005.partial"}, 0x1000100, 20.0),
        ({"last_archived": "00000002.history"}, None, 20.0),
        ({"last_archived": "", "archived_at": None, "finished_at": None}, None, None),
        (
            {"last_archived": "", "archived_at": None, "finished_at": None, "waiting": 2, "oldest_ready": 900.0},
            None,
            110,
        ),
        ({"last_archived": "0000000100000001000000FF", "wal_bytes": 0x200000010}, 0x10, 20.0),
    ],
)
def test_what_no_repository_has_is_what_was_written_behind_the_last_segment(
    update: dict[str, Any], bytes_: int | None, seconds: float | None
) -> None:
    told = archiver.sample(row(**update))
    assert (told.behind_bytes, told.behind_s) == (bytes_, seconds)


@pytest.mark.parametrize("said", [Output(2, "", "no server"), Output(0, "")])
def test_only_a_server_that_leads_tells_of_its_archiver(scene: Scene, said: Output) -> None:
    scene.node.archive = said
    assert scene.settled().archiver is None


def test_the_archiver_is_told_as_the_server_has_it(scene: Scene) -> None:
    scene.node.archive = Output(0, json.dumps({**ROW, "failed_at": 1005.5, "last_failed": "X", "waiting": 3}))
    told = scene.settled().archiver
    assert told is not None
    assert (told.failing, told.waiting, told.last_archived) == (True, 3, "000000010000000000000005")


@pytest.mark.parametrize("said", [Output(1, "", "ERROR:  it hangs"), Output(0, "no JSON")])
def test_a_server_that_cannot_be_asked_is_an_error_and_no_exception(scene: Scene, said: Output) -> None:
    scene.node.archive = said
    told = scene.settled().archiver
    assert told is not None
    assert told.error


# ---- asking, and what is told at once


def test_a_question_that_could_not_be_asked_forgets_the_old_answer_and_is_asked_again() -> None:
    clock, later, answers, seen = Clock(), Later(), ["one"], list[str | None]()

    def ask(about: str) -> str:
        if not answers:
            raise HostError("no program can be started")
        return answers.pop()

    asking = Asking(ask, clock, later.begin)
    for _ in range(2):
        asking.again("x", 10)
        later.run()
        seen.append(asking.newest)
        asking.again("x", 10)
        assert later.waiting == []  # it is not time yet
        clock.at += 10
    assert seen == ["one", None]
    asking.again("x", 10)
    assert len(later.waiting) == 1


BEFORE = BackupSample(
    driver="pgbackrest",
    repositories=(RepositorySample(number=1, state="ok", at=1.0),),
    archiver=ArchiverSample(archived_at=5.0, waiting=1),
)


@pytest.mark.parametrize(
    ("update", "at_once"),
    [
        ({"running": BackupRun(type="full", repository=1, began=1.0)}, True),
        ({"runs": (BackupRun(type="full", repository=1, began=1.0, ended=2.0),)}, True),
        ({"repositories": (RepositorySample(number=1, state="unreachable", at=2.0),)}, True),
        ({"archiver": ArchiverSample(archived_at=5.0, failed_at=6.0)}, True),
        ({"drill": DrillSample(began=1.0, ok=True, seconds=1.0)}, True),
        ({"archiver": ArchiverSample(archived_at=6.0, waiting=7)}, False),
        ({"repositories": (RepositorySample(number=1, state="ok", at=2.0, wal_max="B"),)}, False),
    ],
)
def test_events_are_told_at_once_and_numbers_when_their_time_has_come(update: dict[str, Any], at_once: bool) -> None:
    old = Sample(at=1.0, backup=BEFORE)
    assert changed(old, Sample(at=2.0, backup=BEFORE.model_copy(update=update))) is at_once


def test_the_progress_of_a_run_is_a_number() -> None:
    run = BackupRun(type="full", repository=1, began=1.0)
    old = Sample(at=1.0, backup=BEFORE.model_copy(update={"running": run}))
    further = run.model_copy(update={"done": 5, "total": 9})
    assert not changed(old, Sample(at=2.0, backup=BEFORE.model_copy(update={"running": further})))
