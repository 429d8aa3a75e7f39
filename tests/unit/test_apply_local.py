"""`pgha-minion apply --local`: what it does on a made-up host, what it says, and that it never works beside another."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Semaphore

import pytest
from click.testing import CliRunner, Result
from pgha.common.errors import ActionFailed, DefinitionError, HostError
from pgha.common.messages import Job
from pgha.common.names import new_job_id
from pgha.common.paths import Paths
from pgha.common.results import ResourceResult, Status
from pgha.minion import local
from pgha.minion.cli import main
from pgha.minion.journal import Journal
from pgha.minion.local_show import error_lines, resource_lines, summary
from pgha.minion.settings import MinionPaths
from pgha.minion.turn import Turn
from pgha.minion.worker import Worker
from pgha.states.action import Guarded, IssueCertificate, Unit
from pgha.states.system import UnitFacts
from pgha.states.testing import FakeSystem

STATE = """\
schema: pgha/states/v1
resources:
  - {kind: file, path: /etc/app.conf, content: "of {node.name}\\n"}
  - {kind: service, unit: app, on_change: reload, watches: ["file:/etc/app.conf"]}
"""


@pytest.fixture
def paths(tmp_path: Path) -> MinionPaths:
    return MinionPaths(Paths(tmp_path))


@pytest.fixture
def wanted(tmp_path: Path) -> local.Wanted:
    return read(tmp_path, STATE)


def read(folder: Path, text: str) -> local.Wanted:
    (folder / "app.yml").write_text(text)
    return local.read(folder / "app.yml", "host1")


def running() -> FakeSystem:
    return FakeSystem(units={"app.service": UnitFacts("loaded", "active", enabled="enabled", started_at=1.0)})


def statuses(results: list[ResourceResult]) -> list[str]:
    return [f"{result.resource} {result.status.value}" for result in results]


def apply(wanted: local.Wanted, paths: MinionPaths, system: FakeSystem) -> list[ResourceResult]:
    told: list[ResourceResult] = []
    local.apply(wanted, paths, told.append, system)
    return told


# ---- what it does


def test_it_brings_the_host_to_the_file_and_a_second_time_changes_nothing(
    wanted: local.Wanted, paths: MinionPaths
) -> None:
    system = running()
    assert statuses(apply(wanted, paths, system)) == ["file:/etc/app.conf changed", "service:app changed"]
    assert system.files["/etc/app.conf"].content == "of host1\n"
    assert Unit("reload", "app") in system.performed
    system.performed.clear()
    assert statuses(apply(wanted, paths, system)) == ["file:/etc/app.conf unchanged", "service:app unchanged"]
    assert system.performed == []


def test_a_plan_changes_nothing_and_writes_nothing(wanted: local.Wanted, paths: MinionPaths) -> None:
    system, told = running(), list[ResourceResult]()
    outcome = local.plan(wanted, paths, told.append, system)
    assert statuses(told) == ["file:/etc/app.conf planned", "service:app planned"]
    assert (outcome.ok, system.performed, paths.paths.state.exists()) == (True, [], False)


class Killed(BaseException):
    """As a kill: nothing catches it."""


def test_a_reload_that_is_owed_survives_the_end_of_the_process(wanted: local.Wanted, paths: MinionPaths) -> None:
    system = running()

    def die(result: ResourceResult) -> None:
        raise Killed

    with pytest.raises(Killed):
        local.apply(wanted, paths, die, system)
    assert system.files["/etc/app.conf"].content == "of host1\n"
    assert Unit("reload", "app") not in system.performed
    told: list[ResourceResult] = []
    local.plan(wanted, paths, told.append, system)
    assert statuses(told) == ["file:/etc/app.conf unchanged", "service:app planned"]
    assert statuses(apply(wanted, paths, system)) == ["file:/etc/app.conf unchanged", "service:app changed"]
    assert Unit("reload", "app") in system.performed


def test_the_daemons_journal_is_left_alone(wanted: local.Wanted, paths: MinionPaths) -> None:
    daemon = Journal(paths.journal)
    daemon.owe("service:app")
    apply(wanted, paths, running())
    assert set(daemon.debts()) == {"service:app"}
    daemon.close()


def test_a_resource_that_fails_is_told_and_the_rest_is_done(tmp_path: Path, paths: MinionPaths) -> None:
    wanted = read(tmp_path, STATE + "  - {kind: directory, path: /srv/app}\n")
    system = running()
    system.broken["WriteFile"] = "the disk is full"
    told: list[ResourceResult] = []
    outcome = local.apply(wanted, paths, told.append, system)
    assert [result.status for result in told] == [Status.FAILED, Status.SKIPPED, Status.CHANGED]
    assert not outcome.ok
    assert summary(wanted, outcome, plan=False).endswith("1 changed, 0 unchanged, 1 failed, 1 skipped.")


def test_an_interrupt_ends_after_the_resource_that_is_under_way(wanted: local.Wanted, paths: MinionPaths) -> None:
    stop, told = Event(), list[ResourceResult]()

    def tell(result: ResourceResult) -> None:
        told.append(result)
        stop.set()

    outcome = local.apply(wanted, paths, tell, running(), stop.is_set)
    assert [result.status for result in told] == [Status.CHANGED, Status.SKIPPED]
    assert not outcome.ok
    assert summary(wanted, outcome, plan=False).startswith("Interrupted ")


# ---- one at a time


def test_a_second_apply_is_refused_while_one_runs(wanted: local.Wanted, paths: MinionPaths) -> None:
    other = Turn(paths.turn)
    assert other.take()
    system = running()
    with pytest.raises(HostError, match="is being brought to a state right now"):
        apply(wanted, paths, system)
    assert system.performed == []
    other.release()
    assert len(apply(wanted, paths, system)) == 2


def test_a_turn_that_cannot_be_taken_for_the_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"cannot open .*apply\.lock: .*; run as root"):
        Turn(tmp_path / "file/apply.lock").take()


@pytest.fixture
def worker(paths: MinionPaths) -> Iterator[tuple[Worker, Journal, FakeSystem, Semaphore]]:
    journal, system, ended = Journal(paths.journal), FakeSystem(), Semaphore(0)
    made = Worker(journal, system, lambda: None, ended.release, lambda *arguments: None, Turn(paths.turn))
    yield made, journal, system, ended
    made.close()
    journal.close()


def order(journal: Journal, mode: str) -> Job:
    resources = [{"kind": "directory", "path": "/srv/app", "document": "app"}]
    document = json.dumps({"documents": ["app"], "resources": resources}).encode()
    about = {"att": 1, "mepoch": 1, "cls": "state", "mode": mode, "not_after_ms": 2**50, "ttl_ms": 60_000}
    job = Job.model_validate({**about, "jid": new_job_id(), "sha256": "0" * 64, "document": document})
    journal.accept(job.jid, job.att, "state", 2**50)
    return job


def test_an_apply_of_the_daemon_waits_for_the_local_one_and_a_plan_does_not(
    worker: tuple[Worker, Journal, FakeSystem, Semaphore], paths: MinionPaths
) -> None:
    work, journal, system, ended = worker
    mine = Turn(paths.turn)
    assert mine.take()
    work.submit(order(journal, "plan"))
    assert ended.acquire(timeout=10)
    job = order(journal, "apply")
    work.submit(job)
    assert not ended.acquire(timeout=0.3)
    assert [running.resource for running in work.running()] == ["waiting for an apply --local on this host to end"]
    assert system.performed == []
    mine.release()
    assert ended.acquire(timeout=10)
    assert len(system.performed) == 1


def test_an_apply_of_the_daemon_that_waits_can_be_cancelled(
    worker: tuple[Worker, Journal, FakeSystem, Semaphore], paths: MinionPaths
) -> None:
    work, journal, system, ended = worker
    mine = Turn(paths.turn)
    assert mine.take()
    job = order(journal, "apply")
    work.submit(job)
    work.cancel(job.jid, job.att)
    assert ended.acquire(timeout=10)
    assert system.performed == []
    assert [event.kind for event in journal.events_after(0, 10)][-1] == "cancelled"
    mine.release()


# ---- what only a master can do


def test_without_a_master_no_certificate_is_asked_for_and_nothing_is_done_that_may_cut_the_host_off() -> None:
    host = local.LocalHost()
    with pytest.raises(ActionFailed, match="the certificate web must be signed by the master"):
        host.perform(IssueCertificate("web", "prod", "/etc/web", "web", "root", "root"))
    with pytest.raises(ActionFailed, match="may cut the host off"):
        host.perform(Guarded((Unit("stop", "no-such-unit"),), ()))


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (STATE.replace("{node.name}", "{cluster.name}"), "S009", "{cluster.name} is known only to the master"),
        (STATE.replace("file:/etc/app", "file:/etc/ap"), "S003", "which is in none of the documents here"),
        (STATE + "  - {kind: postgres_role, role: a, password: secret:pw}\n", "S009", "the secret pw is known only"),
        (STATE.replace("kind: file", "kind: fiel"), "S001", "there is no resource kind 'fiel'; did you mean 'file'?"),
    ],
)
def test_a_file_that_this_host_cannot_use_is_told_with_its_place(
    tmp_path: Path, text: str, code: str, told: str
) -> None:
    with pytest.raises(DefinitionError) as error:
        read(tmp_path, text)
    (line,) = error_lines(error.value)
    assert line.startswith(f"error[{code}]  {tmp_path}/app.yml:")
    assert told in line


# ---- what it says


def test_a_change_is_shown_with_its_diff_and_what_it_disturbs(wanted: local.Wanted, paths: MinionPaths) -> None:
    file, service = apply(wanted, paths, running())
    lines = list(resource_lines(wanted, file))
    assert lines[0].split()[1:] == ["host1", "app", "changed", "file:/etc/app.conf"]
    assert lines[1:] == ["    file", "      @@ -1,0 +1,1 @@", "      +of host1"]
    assert "reload app" in next(resource_lines(wanted, service))


def test_what_a_file_holds_gives_no_orders_to_a_terminal(tmp_path: Path, paths: MinionPaths) -> None:
    wanted = read(tmp_path, STATE.replace("of {node", "\\e[31m {node"))
    (file, _) = apply(wanted, paths, running())
    assert not any("\x1b" in line for line in resource_lines(wanted, file))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this machine that a file may be written to, and pgha's own files under it, too."""
    monkeypatch.setenv("PGHA_ROOT", str(tmp_path / "root"))
    folder = tmp_path / "here"
    folder.mkdir()
    whose = f"owner: {folder.owner()}, group: {folder.group()}"
    item = f"  - {{kind: directory, path: {folder}, mode: 0750, {whose}}}\n"
    (tmp_path / "app.yml").write_text(f"schema: pgha/states/v1\ntarget: role:data\nresources:\n{item}")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["apply", "--local", *words], prog_name="pgha-minion")


def test_the_command_says_what_it_did_and_that_the_target_is_for_the_master(here: Path) -> None:
    (here / "here").chmod(0o700)
    planned, done = run(str(here / "app.yml"), "--plan"), run(str(here / "app.yml"))
    assert (planned.exit_code, done.exit_code) == (0, 0)
    assert planned.stdout.splitlines()[-1] == f"Plan of {here}/app.yml: 1 to change, 0 unchanged, 0 failed."
    assert "    mode: 0700 -> 0750" in done.stdout.splitlines()
    assert "note: target: role:data" in done.stderr
    assert (here / "here").stat().st_mode & 0o777 == 0o750
    assert "0 changed, 1 unchanged, 0 failed" in run(str(here / "app.yml")).stdout


def test_json_is_a_line_for_each_change_and_an_end(here: Path) -> None:
    (here / "here").chmod(0o700)
    said = run(str(here / "app.yml"), "--json")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["resource", "end"]
    assert lines[0]["result"]["status"] == "changed"
    assert (lines[1]["exit"], lines[1]["data"]["changed"]) == (0, 1)


def test_a_bad_file_ends_with_2_and_is_told_in_json_too(here: Path) -> None:
    (here / "app.yml").write_text("schema: pgha/states/v1\nresources:\n  - {kind: directori}\n")
    said = run(str(here / "app.yml"), "--json")
    assert said.exit_code == 2
    (end,) = (json.loads(line) for line in said.stdout.splitlines())
    assert (end["exit"], end["data"]["problems"][0]["line"]) == (2, 3)
    assert "app.yml:3:12  there is no resource kind 'directori'; did you mean 'directory'?" in said.stderr
    assert run(str(here / "none.yml")).exit_code == 2


def test_what_fails_ends_with_1(here: Path) -> None:
    (here / "app.yml").write_text(f"schema: pgha/states/v1\nresources:\n  - {{kind: absent, path: {here}/here}}\n")
    (here / "here/file").write_text("x")
    said = run(str(here / "app.yml"))
    assert said.exit_code == 1
    assert "failed" in said.stdout
