"""Unit files, drop-ins and timers: facts -> changes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pgha.common.errors import HostError
from pgha.common.results import Impact, Status
from pgha.states.action import Action, Remove, Unit, WriteFile
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resource import Change
from pgha.states.resources.service import Service
from pgha.states.resources.units import DropIn, Timer, TimerFacts, UnitFile, UnitFileFacts, quoted_word, verify
from pgha.states.system import FileFacts, Output, UnitFacts
from pgha.states.testing import FakeSystem

CONTENT = "[Service]\nExecStart=/bin/true\n"
APP = UnitFile(name="app.service", content=CONTENT)
PATH = "/etc/systemd/system/app.service"
RUNS = UnitFacts("loaded", "active", "enabled", 1.0)
STOPPED = UnitFacts("loaded", "inactive", "enabled")
RELOAD = Unit("daemon-reload")


def on(content: str) -> FileFacts:
    return FileFacts("file", content, "root", "root", 0o644)


def actions(changes: list[Change]) -> list[Action]:
    return [change.action for change in changes]


def written(path: str, content: str, whole: bool) -> WriteFile:
    return WriteFile(path, content, check=verify(path.removeprefix("/etc/systemd/system/"), whole))


@pytest.mark.parametrize(
    ("unit", "facts", "expected"),
    [
        (APP, UnitFileFacts(FileFacts(), UnitFacts()), [written(PATH, CONTENT, True), RELOAD]),
        (APP, UnitFileFacts(on(CONTENT), RUNS), []),
        (APP, UnitFileFacts(on(CONTENT), replace(RUNS, needs_daemon_reload=True)), [RELOAD]),
        (APP, UnitFileFacts(on("[Unit]\n"), RUNS), [written(PATH, CONTENT, True), RELOAD]),
        (UnitFile(name="app.service", absent=True), UnitFileFacts(FileFacts(), UnitFacts()), []),
        (
            UnitFile(name="app.service", absent=True),
            UnitFileFacts(on(CONTENT), STOPPED),
            [Unit("disable", "app.service"), Remove(PATH), RELOAD],
        ),
    ],
)
def test_a_unit_file_is_written_and_read_again(unit: UnitFile, facts: UnitFileFacts, expected: list[Action]) -> None:
    assert actions(unit.plan(facts)) == expected


def test_the_file_of_a_unit_that_runs_is_not_taken_away() -> None:
    with pytest.raises(HostError, match="stop it first"):
        UnitFile(name="app.service", absent=True).plan(UnitFileFacts(on(CONTENT), RUNS))


def test_a_new_unit_file_disturbs_nobody_until_a_service_that_watches_it_restarts() -> None:
    service = Service(unit="app.service", watches=(APP.id,))
    system = FakeSystem(files={PATH: on("[Unit]\n")}, units={"app.service": RUNS})
    unit, restart = converge([APP, service], system, MemoryDebts())
    assert {change.disruption.impact for change in unit.changes} == {Impact.NONE}
    assert [str(change.disruption) for change in restart.changes] == ["restart app.service"]


def test_a_unit_file_without_a_line_break_at_its_end_gets_one() -> None:
    (write, _) = UnitFile(name="app.service", content=CONTENT.rstrip()).plan(UnitFileFacts(FileFacts(), UnitFacts()))
    assert write.action == written(PATH, CONTENT, True)


def test_a_drop_in_is_a_file_in_a_folder_of_its_unit() -> None:
    drop_in = DropIn(unit="app.service", name="limits", content="[Service]\nLimitNOFILE=1\n")
    path = f"{PATH}.d/limits.conf"
    facts = UnitFileFacts(FileFacts(), RUNS)
    assert actions(drop_in.plan(facts)) == [written(path, "[Service]\nLimitNOFILE=1\n", False), RELOAD]
    gone = DropIn(unit="app.service", name="limits", absent=True)
    assert actions(gone.plan(replace(facts, file=on("x")))) == [Remove(path), RELOAD]
    assert gone.plan(facts) == []


def test_the_state_of_a_template_is_not_asked_for() -> None:
    class Deaf(FakeSystem):
        def unit(self, name: str) -> UnitFacts:
            raise HostError(f"systemd knows no state of {name}")

    drop_in = DropIn(unit="postgresql@.service", content="[Service]\nLimitNOFILE=1\n")
    for resource in (drop_in, UnitFile(name="app@.service", content=CONTENT)):
        assert resource.observe(Deaf()).unit == UnitFacts()


JOB = Timer(name="job", on_calendar="daily", command=("/bin/a", "b c"), user="app", randomized_delay_s=60)
SERVICE_TEXT = (
    "[Unit]\nDescription=job, at its time\n\n[Service]\nType=oneshot\nUser=app\n" + 'ExecStart=/bin/a "b c"\n'
)
TIMER_TEXT = (
    "[Unit]\nDescription=job, at its time\n\n[Timer]\nOnCalendar=daily\nPersistent=true\nRandomizedDelaySec=60\n\n"
    "[Install]\nWantedBy=timers.target\n"
)
FILES = (on(TIMER_TEXT), on(SERVICE_TEXT))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (TimerFacts(*FILES, RUNS, UnitFacts()), []),
        (TimerFacts(*FILES, replace(RUNS, needs_daemon_reload=True), UnitFacts()), [RELOAD]),
        (TimerFacts(*FILES, STOPPED, UnitFacts()), [Unit("start", "job.timer")]),
        (TimerFacts(*FILES, replace(RUNS, enabled="disabled"), UnitFacts()), [Unit("enable", "job.timer")]),
        (
            TimerFacts(on("x"), on(SERVICE_TEXT), RUNS, UnitFacts()),
            [written("/etc/systemd/system/job.timer", TIMER_TEXT, True), RELOAD],
        ),
        (
            TimerFacts(FileFacts(), FileFacts(), UnitFacts(), UnitFacts()),
            [
                written("/etc/systemd/system/job.service", SERVICE_TEXT, True),
                written("/etc/systemd/system/job.timer", TIMER_TEXT, True),
                RELOAD,
                Unit("enable", "job.timer"),
                Unit("start", "job.timer"),
            ],
        ),
    ],
)
def test_a_timer_is_two_files_and_runs(facts: TimerFacts, expected: list[Action]) -> None:
    assert actions(JOB.plan(facts)) == expected


def test_a_timer_that_goes_is_stopped_first() -> None:
    gone = Timer(name="job", absent=True)
    assert actions(gone.plan(TimerFacts(*FILES, RUNS, UnitFacts()))) == [
        Unit("stop", "job.timer"),
        Unit("disable", "job.timer"),
        Remove("/etc/systemd/system/job.timer"),
        Remove("/etc/systemd/system/job.service"),
        RELOAD,
    ]
    assert gone.plan(TimerFacts(FileFacts(), FileFacts(), UnitFacts(), UnitFacts())) == []


@pytest.mark.parametrize(("rc", "status"), [(1, Status.FAILED), (127, Status.PLANNED), (0, Status.PLANNED)])
def test_a_time_is_refused_when_systemd_says_so(rc: int, status: Status) -> None:
    asked = ("systemd-analyze", "calendar", "--", "daily")
    system = FakeSystem(answers={asked: Output(rc, "", "Failed to parse calendar specification")})
    (result,) = converge([JOB], system, MemoryDebts(), dry_run=True)
    assert result.status is status
    assert ("on_calendar: expected a time" in result.reason) == (status is Status.FAILED)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("/bin/a", "/bin/a"),
        ("--x=1,2", "--x=1,2"),
        ("a b", '"a b"'),
        ("", '""'),
        ("100%", "100%%"),
        ("$HOME", '"$$HOME"'),
        ('"\\', '"\\"\\\\"'),
        ("a\nb", '"a\\nb"'),
        ("-", "-"),
        (";", '";"'),
    ],
)
def test_a_word_reaches_the_program_as_it_is(word: str, expected: str) -> None:
    assert quoted_word(word) == expected


def test_a_unit_with_a_time_that_systemd_does_not_know_is_refused_in_the_plan() -> None:
    text = "[Unit]\nDescription=t\n\n[Timer]\nOnCalendar=Sunn 02:00\n"
    asked = ("systemd-analyze", "calendar", "--", "Sunn 02:00")
    system = FakeSystem(answers={asked: Output(1, "", "Failed to parse calendar specification")})
    unit = UnitFile(name="backup.timer", content=text)
    template = UnitFile(name="backup@.timer", content=text.replace("Sunn 02:00", "%i"))
    assert template.plan(template.observe(system))  # what it will be only systemd knows
    with pytest.raises(HostError, match=r"OnCalendar: expected a time .* Sunn 02:00: Failed to parse"):
        unit.plan(unit.observe(system))
