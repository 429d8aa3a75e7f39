"""`self.upgrade` on a host that is played: nothing changes before it may, and there is always a way back."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest
from pgha.common import wheel
from pgha.common.errors import ActionFailed, HostError, PghaError, UserError
from pgha.common.messages import Job
from pgha.common.names import new_job_id
from pgha.common.results import Outcome
from pgha.minion import functions
from pgha.minion.functions import Blob, Call, Doors
from pgha.minion.functions.upgrade import GUARD, SERVICE, UNIT, Place, Upgrade, settle
from pgha.minion.journal import Journal
from pgha.minion.worker import Worker
from pgha.states.action import Action, Run, Unit
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem

ABOUT = "Metadata-Version: 2.4\nName: pgha\nVersion: {}\nRequires-Dist: click>=8.1\n"
ENTRY = "[console_scripts]\npgha-minion = pgha.minion.cli:main\n"


def release(version: str, unit: str = "[Unit]\n") -> wheel.Wheel:
    files = {"__init__.py": f"v = '{version}'".encode(), f"minion/{SERVICE}": unit.encode()}
    return wheel.made(files, ABOUT.format(version), ENTRY)


OLD, NEW = release("0.1.0"), release("0.2.0", "[Unit]\nDescription=new\n")


@dataclass
class Host(FakeSystem):
    """A host with a pgha that pip replaces.

    `missing`: pip does not find what is needed; `breaks`: the version that cannot run; `after_pip` is called when the
    new one is installed.
    """

    version: str = "0.1.0"
    missing: bool = False
    breaks: str = ""
    pip_fails: bool = False
    after_pip: Callable[[], object] = bool
    timers: list[str] = field(default_factory=list)
    said: list[tuple[str, ...]] = field(default_factory=list)

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        broken = self.version == self.breaks
        if argv[-1] == "--version":
            return Output(1, "", "Traceback") if broken else Output(0, f"pgha-minion, version {self.version}\n")
        return Output(0)

    def _run(self, argv: tuple[str, ...]) -> None:
        self.said.append(argv)
        match argv:
            case (_, "-m", "pip", *words) if "--force-reinstall" in words:
                if self.pip_fails and "0.2.0" in words[-1]:
                    raise ActionFailed("pip failed")
                self.version = wheel.opened(Path(words[-1]).read_bytes()).version
                self.after_pip()
            case (_, "-m", "pip", *_):
                if self.missing:
                    raise ActionFailed("pip failed", "No matching distribution found for click>=9")
            case ("systemctl", "start", timer):
                self.timers.append(timer)
            case ("systemctl", "stop", timer):
                if timer not in self.timers:
                    raise ActionFailed(f"{timer} is not loaded")
                self.timers.remove(timer)
            case ("systemctl", "daemon-reload"):
                pass
            case _:
                raise AssertionError(argv)


@dataclass
class Case:
    host: Host
    place: Place
    offered: bytes
    others: tuple[str, ...] = ()
    output: list[str] = field(default_factory=list)

    def run(self, old: wheel.Wheel = OLD) -> Outcome:
        blob = Blob(sha256=hashlib.sha256(self.offered).hexdigest(), size=len(self.offered))
        return self.call(Call(function="self.upgrade", blob=blob), old)

    def call(self, call: Call, old: wheel.Wheel = OLD) -> Outcome:
        def fetch(sha256: str, size: int, file: BinaryIO) -> None:
            file.write(self.offered)

        doors = Doors(
            self.host, lambda stream, text: self.output.append(text), lambda: False, fetch, lambda: self.others
        )
        return Upgrade(self.place, doors).run(call, old)

    @property
    def changes(self) -> list[Action]:
        """All that was done but for asking pip whether all is there."""
        asked = self.place.satisfied(NEW.requires)
        return [action for action in self.host.performed if not (isinstance(action, Run) and action.argv == asked)]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    host = Host(files={str(UNIT): FileFacts("file", "[Unit]\n", "root", "root", 0o644)})
    return Case(host, Place(tmp_path / "upgrade", tmp_path / "venv", tmp_path / "units"), NEW.data)


def test_the_new_one_is_installed_and_the_restart_comes_last(case: Case) -> None:
    outcome = case.run()
    assert outcome.ok
    assert outcome.data == {"from": "0.1.0", "to": "0.2.0", "restarts": True}
    assert "0.1.0 -> 0.2.0" in case.output[0]
    assert case.host.version == "0.2.0"
    assert case.changes[-1] == Unit("restart", SERVICE, wait=False)
    assert case.host.files[str(UNIT)].content == "[Unit]\nDescription=new\n"


def test_a_timer_that_puts_the_old_one_back_runs_before_and_after_pip(case: Case) -> None:
    case.run()
    assert case.host.timers == [f"{GUARD}.timer"]
    words = [" ".join(argv) for argv in case.host.said]
    armed = [i for i, text in enumerate(words) if text == f"systemctl start {GUARD}.timer"]
    (installed,) = [i for i, text in enumerate(words) if "--force-reinstall" in text]
    assert armed[0] < installed < armed[1]
    service = (case.place.units / f"{GUARD}.service").read_text()
    for word in ("old/pgha-0.1.0-py3-none-any.whl", f"old/{SERVICE}", "put-back", f'"restart" "{SERVICE}"'):
        assert word in service
    assert "OnActiveSec=90s" in (case.place.units / f"{GUARD}.timer").read_text()
    assert wheel.opened((case.place.folder / "old" / OLD.name).read_bytes()) == OLD
    assert (case.place.folder / "old" / SERVICE).read_text() == "[Unit]\n"


def test_what_is_there_already_is_not_installed_again(case: Case) -> None:
    outcome = case.run(NEW)
    assert outcome.ok
    assert outcome.data["restarts"] is False
    assert case.host.performed == []


@pytest.mark.parametrize("others", [("apply",), ("cmd", "apply")])
def test_beside_other_jobs_it_is_busy_and_changes_nothing(case: Case, others: tuple[str, ...]) -> None:
    case.others = others
    with pytest.raises(ActionFailed, match=r"busy: .*apply"):
        case.run()
    assert case.host.performed == []


def test_a_job_that_came_meanwhile_is_not_cut_short(case: Case) -> None:
    def meanwhile() -> None:
        case.others = ("apply",)

    case.host.after_pip = meanwhile
    with pytest.raises(ActionFailed, match="busy"):
        case.run()
    assert case.host.version == "0.1.0"
    assert case.host.timers == []
    assert not any(isinstance(action, Unit) and action.verb == "restart" for action in case.changes)


def test_an_older_one_is_refused(case: Case) -> None:
    with pytest.raises(UserError, match="upgrade the master"):
        case.run(release("0.3.0"))
    assert case.host.performed == []


def _refuses(case: Case, error: type[PghaError], words: str) -> None:
    with pytest.raises(error, match=words):
        case.run()
    assert case.host.version == "0.1.0"
    assert case.host.timers == []


def test_what_is_no_wheel_is_refused(case: Case) -> None:
    case.offered = b"MZ"
    _refuses(case, UserError, "no wheel")
    assert case.host.performed == []


def test_without_a_wheel_it_says_that_the_master_is_too_old(case: Case) -> None:
    with pytest.raises(UserError, match="too old"):
        case.call(Call(function="self.upgrade"))


def test_a_package_that_is_not_there_is_named_and_nothing_is_changed(case: Case) -> None:
    case.host.missing = True
    _refuses(case, ActionFailed, r"bin/pip install 'click>=8\.1'")
    assert case.changes == []


def test_a_requirement_that_is_an_option_never_reaches_pip(case: Case) -> None:
    case.offered = wheel.made({}, ABOUT.format("0.2.0") + "Requires-Dist: --index-url=http://x\n", ENTRY).data
    _refuses(case, UserError, "no name of a package")
    assert case.host.performed == []


def test_when_pip_fails_the_old_one_is_back(case: Case) -> None:
    case.host.pip_fails = True
    _refuses(case, ActionFailed, "pip failed")
    assert [argv[-1] for argv in case.host.said if "--force-reinstall" in argv][-1].endswith(OLD.name)


def test_a_new_one_that_does_not_run_never_replaces_the_old(case: Case) -> None:
    case.host.breaks = "0.2.0"
    _refuses(case, ActionFailed, "does not run here; the old one is back")
    assert case.host.files[str(UNIT)].content == "[Unit]\n"
    assert not case.place.pending.exists()


# ---- after the restart


def runner(said: list[tuple[str, ...]]) -> Callable[[tuple[str, ...], float], Output]:
    def run(argv: tuple[str, ...], timeout_s: float) -> Output:
        said.append(argv)
        return Output(0)

    return run


def test_a_welcome_confirms_it_and_the_timer_goes(case: Case) -> None:
    case.run()
    said: list[tuple[str, ...]] = []
    settle(lambda seconds: True, runner(said), case.place)
    assert said[0] == ("systemctl", "stop", f"{GUARD}.timer")
    assert list(case.place.units.iterdir()) == []
    assert not case.place.pending.exists()


def test_without_a_welcome_the_timer_stays(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.run()
    said: list[tuple[str, ...]] = []
    settle(lambda seconds: False, runner(said), case.place)
    assert said == []
    assert (case.place.units / f"{GUARD}.timer").exists()
    assert "puts the pgha before 0.2.0 back" in caplog.text


def test_the_old_one_says_that_it_was_put_back(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.run()
    case.place.pending.rename(case.place.put_back)
    said: list[tuple[str, ...]] = []
    settle(lambda seconds: pytest.fail("there is nothing to confirm"), runner(said), case.place)
    assert "the upgrade to pgha 0.2.0 was put back" in caplog.text
    assert not case.place.put_back.exists()
    assert said[0] == ("systemctl", "stop", f"{GUARD}.timer")  # else the next upgrade's would not start


def test_where_nothing_is_pending_nothing_is_done(case: Case) -> None:
    said: list[tuple[str, ...]] = []
    settle(lambda seconds: pytest.fail("there is nothing to confirm"), runner(said), case.place)
    assert said == []


# ---- beside other jobs


def order(function: str) -> Job:
    document = json.dumps({"function": function, "arguments": [], "timeout_s": 60.0}).encode()
    return Job(
        jid=new_job_id(),
        att=1,
        minion="n1",
        mepoch=1,
        cls="call",
        mode="call",
        not_after_ms=2**50,
        ttl_ms=60_000,
        sha256=hashlib.sha256(document).hexdigest(),
        document=document,
    )


def test_a_minion_takes_no_other_job_while_one_has_it_for_itself_and_takes_them_again_when_it_did_not_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, seen, go = threading.Semaphore(0), list[tuple[str, ...]](), threading.Event()

    def alone(call: Call, doors: Doors) -> Outcome:
        seen.append(doors.others())
        asked.release()
        assert go.wait(10)
        if len(seen) == 2:
            raise ActionFailed("it did not work")
        return Outcome(ok=True)

    def beside(call: Call, doors: Doors) -> Outcome:
        asked.release()
        assert go.wait(10)
        return Outcome(ok=True)

    monkeypatch.setitem(functions.FUNCTIONS, "self.upgrade", alone)
    monkeypatch.setitem(functions.FUNCTIONS, "file.push", beside)
    journal = Journal(tmp_path / "journal.db")
    ended = threading.Semaphore(0)
    worker = Worker(journal, FakeSystem(), lambda: None, ended.release, lambda *arguments: None)

    def begin(function: str) -> None:
        worker.insist_on_room()
        job = order(function)
        assert journal.accept(job.jid, job.att, job.cls, job.not_after_ms)
        worker.submit(job)
        assert asked.acquire(timeout=10)

    begin("file.push")
    begin("self.upgrade")
    assert seen == [("file.push",)]
    worker.insist_on_room()
    go.set()
    assert ended.acquire(timeout=10)
    assert ended.acquire(timeout=10)
    go.clear()
    begin("self.upgrade")
    assert seen[1:] == [()]
    with pytest.raises(HostError, match="being upgraded"):
        begin("file.push")
    go.set()
    assert ended.acquire(timeout=10)
    begin("self.upgrade")  # the one before has failed: nothing restarts
    assert ended.acquire(timeout=10)
    with pytest.raises(HostError, match="being upgraded"):  # the restart that was asked for comes now
        begin("file.push")
    worker.close()
    journal.close()
