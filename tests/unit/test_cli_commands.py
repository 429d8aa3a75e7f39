"""The command line against a daemon that plays canned lines over a real Unix socket."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pgha.common.results import ChangeView, Disruption, Impact, ResourceResult, Status
from pgha.master.cli import exits
from pgha.master.cli.client import reason
from pgha.master.cli.main import COMMANDS, cli
from pgha.master.cli.show_jobs import shortest
from pgha.master.cli.transfer import PIECE_BYTES
from pgha.master.operations.progress import End, Gate, NodeDone, NodePlan, Note, Output, Plan, Resource, Started, Step
from pydantic import BaseModel

GOOD = """\
schema: pgha/v1
cluster: prod
entrypoint: db.example.com
access: {admin: [192.0.2.200/32], clients: [0.0.0.0/0]}
nodes:
  pg-node1:     {address: 203.0.113.1,  region: eu-west}
  pg-node2:     {address: 198.51.100.2, region: us-east}
  witness-node: {address: 192.0.2.3,    region: us-west, role: witness}
"""


class Daemon:
    """Answers each request with the lines put there for its verb, and remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, list[BaseModel]] = {}
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.hold = False  # keep the connection open instead of ending it
        self.released = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                request = json.loads(stream.readline())
                self.asked.append((request["verb"], request["args"]))
                for line in self.answers.get(request["verb"], []):
                    stream.write(line.model_dump_json().encode() + b"\n")
                stream.flush()
                if self.hold:
                    self.released.wait(30)

    def close(self) -> None:
        self.released.set()
        self._socket.close()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGHA_ROOT", str(tmp_path))
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "run/pgha").mkdir(parents=True)
    (tmp_path / "etc/pgha/clusters").mkdir(parents=True)
    (tmp_path / "etc/pgha/clusters/prod.yml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def daemon(root: Path) -> Iterator[Daemon]:
    served = Daemon(root / "run/pgha/admin.sock")
    yield served
    served.close()


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=text, prog_name="pgha-master")


RELOAD = Disruption(impact=Impact.RELOAD, unit="haproxy")


def planned(*nodes: str) -> Plan:
    change = ChangeView(what="content", diff="--- a\n+++ b\n@@ x @@\n-old\n+new", disruption=RELOAD)
    result = ResourceResult(
        resource="file:/etc/haproxy/haproxy.cfg", document="haproxy", status=Status.PLANNED, changes=(change,)
    )
    return Plan(
        cluster="prod",
        definition="7f3a1c",
        nodes=tuple(NodePlan(node=node, role="replica", unchanged=10, results=(result,)) for node in nodes),
        order=("pg-node2", "pg-node1"),
        impact=("2 reloads, sessions kept",),
    )


STARTED = Started(id="01J0000000000000000000000A", what="apply prod", nodes=("pg-node1",))


@pytest.mark.parametrize("words", [["run", "x", "ping"], ["jobs", "list"], ["run", "--help"]])
def test_no_command_loads_what_is_slow_before_it_has_asked_the_daemon(words: list[str]) -> None:
    code = (
        f"import sys; from pgha.master.cli.main import cli\n"
        f"try: cli({words!r})\n"
        "except SystemExit: pass\n"
        "slow = {'pydantic', 'pydantic_core', 'zmq', 'cryptography', 'ruamel.yaml', 'msgpack'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command_without_loading_what_is_slow() -> None:
    code = (
        "import sys, time; from pgha.master.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'pydantic', 'zmq', 'cryptography', 'ruamel.yaml', 'msgpack'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "help"])
def test_every_command_explains_itself(name: str) -> None:
    assert f"pgha-master {name}" in run(name, "--help").output
    assert run("help", name).exit_code == 0


def test_the_help_on_exit_codes_names_all_of_them() -> None:
    output = run("help", "exit-codes").output
    assert all(f"{code}  {meaning}" in output for code, meaning in exits.MEANING.items())


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant() -> None:
    result = run("statsu")
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.stderr


def test_a_valid_definition_is_told_without_a_daemon() -> None:
    result = run("validate", "prod")
    assert result.exit_code == 0
    assert "the cluster prod is valid (3 nodes, 2 with data, 3 etcd voters)" in result.stdout
    assert "pgha-master plan prod" in result.stderr


def test_a_wrong_definition_shows_its_line_and_exits_with_two(root: Path) -> None:
    path = root / "wrong.yml"
    path.write_text(GOOD.replace("{address: 198", "{adress: 198"))
    result = run("validate", str(path))
    assert result.exit_code == 2
    assert "error[C001]" in result.stderr
    assert f"{path}:7:18  unknown key 'adress' in nodes.pg-node2" in result.stderr
    assert "     |                  ^^^^^^  did you mean 'address'?" in result.stderr
    assert "Traceback" not in result.output


def test_a_password_in_a_definition_is_not_shown_again(root: Path) -> None:
    (root / "etc/pgha/clusters/prod.yml").write_text(GOOD + "patroni: {password: hunter2}\n")
    result = run("validate", "prod")
    assert result.exit_code == 2
    assert "C040" in result.output
    assert "hunter2" not in result.output


def test_validate_gives_the_problems_as_json(root: Path) -> None:
    (root / "etc/pgha/clusters/prod.yml").write_text(GOOD + "rto: slow\n")
    result = run("validate", "prod", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert document["data"]["valid"] is False
    assert [p["code"] for p in document["data"]["problems"]] == ["C002"]


def test_without_a_daemon_the_way_to_start_it_is_told_and_the_exit_code_is_eight(root: Path) -> None:
    result = run("status")
    assert result.exit_code == 8
    assert f"Start it: PGHA_ROOT={root} pgha-master serve" in result.stderr


def test_the_service_is_started_by_systemd_unless_the_master_has_a_folder_of_its_own() -> None:
    told = reason(Path("/run/pgha/admin.sock"), FileNotFoundError())
    assert "systemctl start pgha-master, or set PGHA_ROOT" in told
    assert "systemctl" not in reason(Path("/a b/run/pgha/admin.sock"), ConnectionRefusedError())
    assert "PGHA_ROOT='/a b' pgha-master serve" in reason(Path("/a b/run/pgha/admin.sock"), FileNotFoundError())


@pytest.mark.parametrize("command", ["validate", "plan", "apply"])
def test_a_file_that_describes_another_cluster_is_refused(daemon: Daemon, root: Path, command: str) -> None:
    path = root / "etc/pgha/clusters/test.yml"
    path.write_text(GOOD)
    result = run(command, "test")
    assert result.exit_code == 2
    assert f"{path} describes the cluster 'prod', not 'test'" in result.stderr
    assert daemon.asked == []
    assert run("validate", str(path)).exit_code == 0


def test_init_tells_what_a_person_needs(root: Path) -> None:
    lines = run("init").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["fingerprint", "listen", "clusters"]


def test_a_socket_nobody_listens_on_is_told_apart_from_none(root: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(root / "run/pgha/admin.sock"))
    dead.close()
    result = run("status")
    assert result.exit_code == 8
    assert "does not answer" in result.stderr


def test_a_master_that_goes_away_in_the_middle_is_told(daemon: Daemon) -> None:
    daemon.answers["apply"] = [STARTED]
    result = run("apply", "prod")
    assert result.exit_code == 8
    assert "pgha-master jobs list" in result.stderr


def test_plan_shows_changes_and_says_what_next(daemon: Daemon) -> None:
    daemon.answers["plan"] = [planned("pg-node1", "pg-node2"), End()]
    result = run("plan", "prod", "--node", "pg-node1,pg-node2", "--only", "haproxy")
    assert result.exit_code == 0
    verb, arguments = daemon.asked[0]
    assert (verb, arguments["text"], arguments["nodes"]) == ("plan", GOOD, ["pg-node1", "pg-node2"])
    assert arguments["only"] == ["haproxy"]
    assert "~ file      /etc/haproxy/haproxy.cfg  content  reload haproxy" in result.stdout
    assert "      +new" in result.stdout
    assert "1 change, same as pg-node1" in result.stdout
    assert "Order    pg-node2 -> pg-node1" in result.stdout
    assert result.stdout.rstrip().endswith("Plan: 2 to change, 20 unchanged.")
    assert result.stderr.rstrip().endswith("Run:  pgha-master apply prod --node pg-node1,pg-node2 --only haproxy")


@pytest.mark.parametrize(("nodes", "code"), [(("pg-node1",), 3), ((), 0)])
def test_plan_exits_with_three_for_changes_only_when_asked(daemon: Daemon, nodes: tuple[str, ...], code: int) -> None:
    daemon.answers["plan"] = [planned(*nodes), End()]
    assert run("plan", "prod").exit_code == 0
    assert run("plan", "prod", "--detailed-exitcode").exit_code == code


def test_a_plan_that_was_kept_is_applied_as_it_was_shown(daemon: Daemon, tmp_path: Path) -> None:
    daemon.answers["plan"] = [planned("pg-node1"), End()]
    daemon.answers["apply"] = [STARTED, End(message="Applied prod.")]
    out = str(tmp_path / "prod.plan")
    result = run("plan", "prod", "--only", "haproxy", "-o", out)
    assert result.stderr.rstrip().endswith(f"Run:  pgha-master apply {out}")
    assert run("apply", out).exit_code == 0
    _, arguments = daemon.asked[-1]
    assert (arguments["text"], arguments["only"]) == (GOOD, ["haproxy"])
    assert isinstance(expected := arguments["expect"], dict)
    assert Plan.model_validate(expected["plan"]) == planned("pg-node1")
    refused = run("apply", out, "--node", "pg-node1")
    assert (refused.exit_code, "leave out --node" in refused.stderr) == (2, True)


def test_plan_gives_one_json_document(daemon: Daemon) -> None:
    daemon.answers["plan"] = [Note(text="looking"), planned("pg-node1"), End()]
    document = json.loads(run("plan", "prod", "--json").stdout)
    assert document["schema"] == "pgha.plan/v1"
    assert document["cluster"] == "prod"
    assert document["data"]["nodes"][0]["results"][0]["resource"] == "file:/etc/haproxy/haproxy.cfg"
    assert set(document) == {"schema", "version", "generated_at", "cluster", "data", "findings"}


def test_plan_does_not_ask_the_daemon_about_a_wrong_definition(daemon: Daemon, root: Path) -> None:
    (root / "etc/pgha/clusters/prod.yml").write_text(GOOD + "rto: slow\n")
    assert run("plan", "prod").exit_code == 2
    assert daemon.asked == []


def test_apply_prints_an_event_a_line_and_its_end(daemon: Daemon) -> None:
    changed = ResourceResult(resource="file:/etc/x", document="haproxy", status=Status.CHANGED)
    daemon.answers["apply"] = [
        STARTED,
        Gate(at=1.0, step="etcd", gate="quorum", state="open", reason="3/3"),
        Step(at=1.0, step="haproxy", node="pg-node1", state="started"),
        Resource(at=2.0, node="pg-node1", step="haproxy", result=changed),
        Step(at=3.0, step="haproxy", node="pg-node1", state="done", detail="1 changed", seconds=2.0),
        End(message="Applied prod in 1 m 22 s: 1 changed, 9 unchanged, 0 failed.", data={"cluster": "prod"}),
    ]
    result = run("apply", "prod")
    assert result.exit_code == 0
    assert result.stdout == "Applied prod in 1 m 22 s: 1 changed, 9 unchanged, 0 failed.\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("apply prod started   job 01J0000000000000000000000A")
    assert lines[3].endswith("pg-node1      haproxy       changed    file:/etc/x")
    assert lines[4].split()[1:] == ["pg-node1", "haproxy", "done", "1", "changed", "2.0", "s"]
    assert lines[-1] == "See:  pgha-master status prod"
    assert "\x1b" not in result.output


def test_apply_follows_one_that_runs_already(daemon: Daemon) -> None:
    daemon.answers["apply"] = [STARTED.model_copy(update={"joined": True}), End(message="Applied.")]
    assert "runs already; following" in run("apply", "prod").stderr


def test_apply_that_fails_says_why_and_has_the_exit_code_of_its_end(daemon: Daemon) -> None:
    daemon.answers["apply"] = [STARTED, End(exit=6, message="the gate etcd_quorum is closed")]
    result = run("apply", "prod")
    assert result.exit_code == 6
    assert "error: the gate etcd_quorum is closed" in result.stderr
    assert result.stdout == ""


def test_apply_shows_timings_the_slowest_first(daemon: Daemon) -> None:
    rows = [{"step": "etcd", "node": "a", "seconds": 2.0}, {"step": "patroni", "node": "b", "seconds": 61.0}]
    daemon.answers["apply"] = [
        STARTED,
        End(message="Applied.", data={"timings": rows, "critical_path_s": 63.0, "seconds": 69.3}),
    ]
    lines = run("apply", "prod", "--timings").stdout.splitlines()
    assert lines[1].split() == ["patroni", "b", "1", "m", "01", "s"]
    assert lines[3] == "Critical path: 1 m 03 s, of each step its slowest node; the whole took 1.10 x"


def test_apply_with_json_gives_the_lines_as_they_come(daemon: Daemon) -> None:
    daemon.answers["apply"] = [STARTED, End(message="Applied.")]
    kinds = [json.loads(line)["kind"] for line in run("apply", "prod", "--json").stdout.splitlines()]
    assert kinds == ["started", "end"]


def test_a_detached_apply_says_how_to_follow_it(daemon: Daemon) -> None:
    daemon.answers["apply"], daemon.hold = [STARTED], True
    result = run("apply", "prod", "--detach")
    assert result.exit_code == 0
    assert "pgha-master jobs show 01J0000000000000000000000A --follow" in result.stderr


def test_an_interrupt_detaches_and_says_how_to_follow(daemon: Daemon, root: Path) -> None:
    daemon.answers["apply"], daemon.hold = [STARTED], True
    command = [sys.executable, "-c", "from pgha.master.cli.main import main; main()", "apply", "prod"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr is not None
        assert "started" in process.stderr.readline()
        process.send_signal(2)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Detached; the work goes on" in rest
    assert "pgha-master jobs show 01J0000000000000000000000A --follow" in rest
    assert "Traceback" not in rest


STATUS = {
    "cluster": "prod",
    "verdict": "degraded",
    "as_of_s": 1.0,
    "postgresql": "17.6",
    "patroni": "4.0.7",
    "etcd": "3.5.16",
    "timeline": 7,
    "leader": "pg-node1",
    "leader_since": "2026-11-20T09:14:00Z",
    "rpo": {"now_bytes": 0, "objective_bytes": 1048576},
    "nodes": [
        {"name": "pg-node1", "region": "eu", "role": "leader", "state": "running", "lag_bytes": None, "timeline": 7}
        | {"etcd": "follower", "haproxy_rw": "up->pg-node1", "haproxy_ro": "none", "minion": "ok", "seen_s": 0.2}
        | {"cert_days": 61, "disk_percent": 41.2},
        {"name": "pg-node2", "region": "us", "role": "replica", "state": "streaming", "lag_bytes": 2048},
    ],
    "quorum": {"voters": 3, "healthy": 2, "tolerates": 0},
    "findings": [{"severity": "warning", "text": "etcd on w is down", "fix": "systemctl start etcd"}],
}


def test_status_shows_a_cluster_node_by_node(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    daemon.answers["status"] = [End(data=STATUS)]
    result = run("status", "prod")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].startswith("prod   PostgreSQL 17.6   Patroni 4.0.7   etcd 3.5.16   degraded, 1 warning")
    assert lines[1] == "TL 7   leader pg-node1 since 2026-11-20T09:14:00Z   RPO now 0 B   objective 1 MiB"
    assert lines[4].split()[:4] == ["pg-node1", "eu", "leader", "running"]
    assert "2 KiB" in lines[5]
    assert "Quorum    etcd 2/3 voters, tolerates 0" in lines
    assert lines[-1].strip() == "fix: systemctl start etcd"


def test_several_warnings_are_told_as_several(daemon: Daemon) -> None:
    finding = {"severity": "warning", "text": "x"}
    daemon.answers["status"] = [End(data={**STATUS, "findings": [finding, finding]})]
    assert "degraded, 2 warnings   as of" in run("status", "prod").stdout


def test_status_without_a_cluster_has_a_row_for_each(daemon: Daemon) -> None:
    daemon.answers["status"] = [End(data={"clusters": [STATUS, {**STATUS, "cluster": "test", "verdict": "not built"}]})]
    lines = run("status").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["CLUSTER", "prod", "test"]
    assert "not built" in lines[2]


def test_status_as_json_holds_the_findings(daemon: Daemon) -> None:
    daemon.answers["status"] = [End(data=STATUS)]
    document = json.loads(run("status", "prod", "--json").stdout)
    assert document["data"]["leader"] == "pg-node1"
    assert document["findings"][0]["severity"] == "warning"


ANSWERS = [
    Started(id="01J0000000000000000000000B", what="run * -- uptime", nodes=("a", "b", "c")),
    Output(node="a", stream="stdout", text="up\n"),
    Output(node="b", stream="stdout", text="up\n"),
    NodeDone(node="a", state="done", exit_code=0, seconds=0.1),
    NodeDone(node="b", state="done", exit_code=0, seconds=0.31),
    NodeDone(node="c", state="unknown", message="the minion is silent", seconds=0.2),
    End(exit=4, data={"seconds": 0.31}),
]


def test_run_sends_the_command_as_it_stands_after_the_dashes(daemon: Daemon) -> None:
    daemon.answers["run"] = list(ANSWERS)
    result = run("run", "*", "--timeout", "5", "--", "df", "-h", "--timeout", "9")
    assert daemon.asked[0][1]["argv"] == ["df", "-h", "--timeout", "9"]
    assert daemon.asked[0][1]["timeout_s"] == 5.0
    assert result.exit_code == 4
    assert result.stdout == "a  up\nb  up\n"
    assert result.stderr.splitlines()[-2] == "2 ok, 0 failed, 1 no answer (0.31 s)"
    assert result.stderr.splitlines()[-1].endswith("pgha-master run --rerun 01J0000000000000000000000B --failed")
    assert "the minion is silent" in result.stderr


def test_run_folds_equal_answers_when_asked(daemon: Daemon) -> None:
    daemon.answers["run"] = list(ANSWERS)
    assert "a, b: (2 nodes, same answer)\n  up\n" in run("run", "*", "--fold", "--", "uptime").stdout


def test_run_calls_a_function_with_its_arguments(daemon: Daemon) -> None:
    done = NodeDone(node="a", state="done", data={"active": "active", "pid": 7})
    daemon.answers["run"] = [done, End()]
    result = run("run", "a", "service.status", "patroni")
    assert daemon.asked[0][1]["function"] == "service.status"
    assert daemon.asked[0][1]["args"] == ["patroni"]
    assert result.stdout == "a  active: active\na  pid: 7\n"


def test_run_says_once_that_a_node_failed(daemon: Daemon) -> None:
    failed = NodeDone(node="a", state="failed", exit_code=1, message="failed")
    daemon.answers["run"] = [failed, failed.model_copy(update={"node": "b", "message": "no such unit"}), End(exit=1)]
    lines = run("run", "*", "ping").stderr.splitlines()
    assert lines[:2] == ["a  failed, exit code 1", "b  failed, exit code 1: no such unit"]


@pytest.mark.parametrize("fold", [[], ["--fold"]])
def test_a_function_that_prints_its_answer_is_not_told_twice(daemon: Daemon, fold: list[str]) -> None:
    done = NodeDone(node="a", state="done", exit_code=0, data={"members": [1]})
    daemon.answers["run"] = [Output(node="a", stream="stdout", text="m1 leader\n"), done, End()]
    shown = run("run", "*", "patroni.list", *fold).stdout
    assert "m1 leader" in shown
    assert "members" not in shown


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["*", "uptime"], "-- uptime"),
        (["*", "pnig"], "Did you mean 'ping'?"),
        (["*"], "-- COMMAND"),
        (["*", "ping", "--", "uptime"], "not both"),
    ],
)
def test_run_refuses_what_is_neither_command_nor_function(daemon: Daemon, arguments: list[str], hint: str) -> None:
    result = run("run", *arguments)
    assert result.exit_code == 2
    assert hint in result.stderr
    assert daemon.asked == []


def test_a_target_that_matches_nothing_is_no_success(daemon: Daemon) -> None:
    daemon.answers["run"] = [End(exit=5, message="no accepted minion matches 'x'")]
    result = run("run", "x", "ping")
    assert result.exit_code == 5
    assert result.stderr.count("no accepted minion matches 'x'") == 1


KEYS = {
    "master_fingerprint": "8f2c:11d0",
    "keys": [
        {"name": "db-9", "state": "pending", "fingerprint": "41aa:9c02", "seen_s": 12, "address": "198.51.100.9"},
        {"name": "pg-node1", "state": "accepted", "fingerprint": "77b1:0000", "seen_s": 0.2, "address": "203.0.113.1"},
    ],
}


def test_keys_are_listed_with_their_fingerprints(daemon: Daemon) -> None:
    daemon.answers["keys.list"] = [End(data=KEYS)]
    result = run("keys", "list")
    assert result.stdout.splitlines()[1].split()[:3] == ["db-9", "pending", "41aa:9c02"]
    assert "8f2c:11d0" in result.stderr


def test_a_key_is_not_accepted_without_a_person_or_a_flag(daemon: Daemon) -> None:
    daemon.answers["keys.list"] = [End(data=KEYS)]
    result = run("keys", "accept", "db-9")
    assert result.exit_code == 6
    assert "41aa:9c02" in result.stderr
    assert [verb for verb, _ in daemon.asked] == ["keys.list"]


@pytest.mark.parametrize(
    ("options", "fingerprint"),
    [(["db-9", "--yes"], "41aa:9c02"), (["--all", "--yes"], "41aa:9c02"), (["db-9", "--fingerprint", "41aa"], "41aa")],
)
def test_a_key_is_accepted_by_the_fingerprint_that_was_shown(
    daemon: Daemon, options: list[str], fingerprint: str
) -> None:
    daemon.answers = {"keys.list": [End(data=KEYS)], "keys.accept": [End(message="db-9 accepted")]}
    result = run("keys", "accept", *options)
    assert result.exit_code == 0
    assert daemon.asked[1] == ("keys.accept", {"name": "db-9", "fingerprint": fingerprint})
    assert result.stdout == "db-9 accepted\n"


def test_a_name_that_is_not_pending_is_told_with_its_state(daemon: Daemon) -> None:
    daemon.answers["keys.list"] = [End(data=KEYS)]
    assert "is accepted, not pending" in run("keys", "accept", "pg-node1", "--yes").stderr
    assert "did you mean 'db-9'?" in run("keys", "accept", "db9", "--yes").stderr


def test_a_token_is_printed_as_the_line_to_run(daemon: Daemon) -> None:
    daemon.answers["keys.token"] = [End(data={"token": "t", "command": "pgha-minion enrol --token t"})]
    result = run("keys", "token", "--ttl", "30m", "--name", "db-9")
    assert daemon.asked[0][1] == {"name": "db-9", "ttl_s": 1800.0}
    assert result.stdout == "pgha-minion enrol --token t\n"
    assert run("keys", "token", "--ttl", "soon").exit_code == 2


JOB = {"id": "01J0000000000000000000000B", "when": 0.0, "who": "ops", "what": "apply prod", "state": "done"} | {
    "nodes": 5,
    "done": 3,
    "seconds": 82,
}


def test_jobs_are_listed_with_how_many_nodes_are_done(daemon: Daemon) -> None:
    daemon.answers["jobs.list"] = [End(data={"jobs": [JOB]})]
    row = run("jobs", "list").stdout.splitlines()[1]
    assert row.startswith("01J0000000  ")
    assert row.endswith("done   3/5    1 m 22 s")


def test_ids_are_shown_as_short_as_they_can_be_told_apart() -> None:
    short = shortest(["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW", "01BX5ZZKBKACTAV9WEVGEMMVRZ"])
    assert list(short.values()) == ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW", "01BX5ZZKBK"]


NODES = [
    {"node": "a", "state": "done", "seconds": 0.1, "exit": 0, "message": ""},
    {"node": "b", "state": "started", "step": "patroni-primary", "step_seconds": 1860.0, "seconds": 1900.0},
]


def test_a_job_is_shown_with_what_it_said_and_how_each_node_stands(daemon: Daemon) -> None:
    daemon.answers["jobs.show"] = [STARTED, *ANSWERS[1:2], End(data={"job": JOB, "nodes": NODES})]
    result = run("jobs", "show", "01J")
    assert daemon.asked == [("jobs.show", {"id": "01J", "follow": False})]
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "a  up"
    assert lines[2].startswith("01J0000000000000000000000B   apply prod   done   by ops")
    assert lines[4].split() == ["a", "done", "0.1", "s", "0"]
    assert lines[5].startswith("b     started: patroni-primary, 31 m 00 s  31 m 40 s  -")


def test_a_job_that_still_runs_is_shown_as_far_as_it_is(daemon: Daemon) -> None:
    daemon.answers["jobs.show"] = [STARTED, End(data={"job": {**JOB, "state": "started"}, "nodes": []})]
    result = run("jobs", "show", "01J")
    assert result.exit_code == 0
    assert "It still runs. Follow it:  pgha-master jobs show 01J --follow" in result.stderr


def test_watching_a_job_is_showing_it_to_its_end(daemon: Daemon) -> None:
    daemon.answers["jobs.show"] = [STARTED, *ANSWERS[1:3], End(message="Applied prod.")]
    for words in (["watch", "01J"], ["show", "01J", "--follow"]):
        assert run("jobs", *words).stdout == "a  up\nb  up\nApplied prod.\n"
        assert daemon.asked[-1] == ("jobs.show", {"id": "01J", "follow": True})


def test_the_log_of_a_job_has_the_time_of_each_line(daemon: Daemon) -> None:
    lines = [line.model_copy(update={"at": 0.25}) for line in ANSWERS[:5]]
    daemon.answers["jobs.log"] = [
        *lines,
        End(data={"job": JOB, "nodes": [{"node": "a", "state": "done", "ended": 1.5}]}),
    ]
    result = run("jobs", "log", "01J", "--node", "a")
    assert daemon.asked == [("jobs.log", {"id": "01J", "node": "a"})]
    shown = result.stdout.splitlines()
    assert shown[1].split(maxsplit=1)[1] == "a  stdout  up"
    assert shown[1].split(" ")[0].endswith(":00.250")
    assert shown[3].split(maxsplit=1)[1] == "a  done"
    assert shown[-1].split()[0] == "a"
    assert shown[-1].split()[-2].endswith(":01.500")


@pytest.mark.parametrize(
    ("words", "verb", "arguments"),
    [
        (["jobs", "cancel", "01J"], "jobs.cancel", {"id": "01J"}),
        (["jobs", "resume", "01J"], "jobs.resume", {"id": "01J"}),
        (["jobs", "rerun", "01J", "--failed"], "jobs.rerun", {"id": "01J", "failed": True}),
        (["run", "--rerun", "01J"], "jobs.rerun", {"id": "01J", "failed": False}),
        (["run", "--rerun", "01J", "--failed"], "jobs.rerun", {"id": "01J", "failed": True}),
    ],
)
def test_a_job_is_ended_and_started_again_by_its_id(
    daemon: Daemon, words: list[str], verb: str, arguments: dict[str, object]
) -> None:
    daemon.answers[verb] = [*ANSWERS[:2], End(exit=6, message="no")]
    result = run(*words)
    assert daemon.asked == [(verb, arguments)]
    assert result.exit_code == 6
    assert "a  up" in result.stdout
    assert "error: no" in result.stderr


@pytest.mark.parametrize("words", [["list"], ["show", "x"], ["log", "x"], ["cancel", "x"], ["resume", "x"]])
def test_every_jobs_command_writes_json(daemon: Daemon, words: list[str]) -> None:
    verb = f"jobs.{words[0]}"
    daemon.answers[verb] = [End(data={"jobs": [JOB], "job": JOB, "nodes": NODES})]
    result = run("jobs", *words, "--json")
    assert result.exit_code == 0
    assert "apply prod" in json.dumps([json.loads(line) for line in result.stdout.splitlines()])


# ---- run: strategies and files


def test_run_sends_its_strategy(daemon: Daemon) -> None:
    daemon.answers["run"] = list(ANSWERS)
    run("run", "*", "--batch", "25%", "--canary", "--max-fail", "2", "--force-unsafe", "ping")
    sent = daemon.asked[0][1]
    assert (sent["batch"], sent["canary"], sent["max_fail"], sent["force_unsafe"]) == ("25%", True, "2", True)


def test_nodes_that_were_not_begun_are_counted_by_themselves(daemon: Daemon) -> None:
    left = NodeDone(node="d", state="cancelled", message="not begun: c is not done")
    daemon.answers["run"] = [*ANSWERS[:6], left, End(exit=4, message="c is not done; 1 node was not begun")]
    result = run("run", "*", "--batch", "3", "--", "uptime")
    assert "2 ok, 0 failed, 1 no answer, 1 cancelled (0.31 s)" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: c is not done; 1 node was not begun"
    assert result.exit_code == 4


@pytest.mark.parametrize("state", ["queued", "accepted", "started", "unknown", "expired"])
def test_a_node_whose_end_nobody_knows_has_given_no_answer(daemon: Daemon, state: str) -> None:
    daemon.answers["run"] = [NodeDone(node="a", state=state, message="silent since 13:11:02"), End(exit=1)]
    result = run("run", "a", "ping")
    assert f"a  {state}: silent since 13:11:02" in result.stderr
    assert "0 ok, 0 failed, 1 no answer" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--rerun", "01J", "*", "ping"], "--rerun does what the job did"),
        (["--rerun", "01J", "--batch", "1"], "--rerun does what the job did"),
        (["--rerun", "01J", "--", "uptime"], "--rerun does what the job did"),
        (["*", "--failed", "ping"], "--failed goes with --rerun"),
        ([], "Say where to run it"),
        (["*", "file.get", "/etc/hosts"], "--into DIR"),
        (["*", "ping", "--into", "x"], "--into DIR"),
        (["*", "file.get", "/etc/hosts", "--into", "x", "--detach"], "cannot --detach"),
        (["*", "file.push", "/tmp/x"], "--file LOCAL"),
        (["*", "ping", "--file", "x"], "--file LOCAL"),
    ],
)
def test_options_of_run_that_do_not_go_together_are_refused(daemon: Daemon, arguments: list[str], hint: str) -> None:
    result = run("run", *arguments)
    assert result.exit_code == 2
    assert hint in " ".join(result.stderr.split())
    assert daemon.asked == []


def pieces(node: str, data: bytes, size: int = 4) -> list[BaseModel]:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return [Output(node=node, stream="bytes", text=base64.b64encode(part).decode()) for part in parts]


def test_a_file_that_comes_is_written_under_its_node_for_its_owner_alone(daemon: Daemon, root: Path) -> None:
    daemon.answers["run"] = [
        *pieces("a", b"content of a"),
        *pieces("b", b"half of"),
        NodeDone(node="a", state="done"),
        NodeDone(node="b", state="failed", message="it went away"),
        NodeDone(node="c", state="done"),
        End(exit=4),
    ]
    into = root / "into"
    result = run("run", "*", "file.get", "/etc/some/hosts", "--into", str(into))
    assert (into / "a/hosts").read_bytes() == b"content of a"
    assert (into / "a/hosts").stat().st_mode & 0o777 == 0o600
    assert (into / "c/hosts").read_bytes() == b""
    assert sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()) == ["a/hosts", "c/hosts"]
    assert result.exit_code == 4
    assert str(into / "a/hosts") in result.stdout


def test_with_json_a_file_is_written_as_well_and_stdout_is_json_only(daemon: Daemon, root: Path) -> None:
    daemon.answers["run"] = [*pieces("a", b"content of a"), NodeDone(node="a", state="done"), End()]
    result = run("run", "*", "file.get", "/etc/hosts", "--into", str(root / "into"), "--json")
    assert (root / "into/a/hosts").read_bytes() == b"content of a"
    assert [json.loads(line)["kind"] for line in result.stdout.splitlines()][-2:] == ["node_done", "end"]
    assert result.exit_code == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_file_that_could_not_be_written_here_is_no_success(daemon: Daemon, root: Path, options: list[str]) -> None:
    daemon.answers["run"] = [*pieces("a", b"content of a"), NodeDone(node="a", state="done"), End()]
    (root / "into").mkdir()
    (root / "into/a").touch()
    result = run("run", "*", "file.get", "/etc/hosts", "--into", str(root / "into"), *options)
    assert result.exit_code == 4
    assert "a: the file was not written" in result.stderr


@pytest.mark.parametrize("name", ["..", ".", "../../x", "/etc", "a/b", "", "A", "a\n"])
def test_no_name_from_the_wire_becomes_part_of_a_path(daemon: Daemon, root: Path, name: str) -> None:
    daemon.answers["run"] = [*pieces(name, b"evil"), NodeDone(node=name, state="done"), End()]
    before = {path for path in root.rglob("*") if path.is_file()}
    run("run", "*", "file.get", "/etc/hosts", "--into", str(root / "into"))
    assert {path for path in root.rglob("*") if path.is_file()} == before


def test_a_file_is_not_written_through_a_link_that_stands_at_its_place(daemon: Daemon, root: Path) -> None:
    victim = root / "victim"
    victim.write_text("mine")
    (root / "into/a").mkdir(parents=True)
    (root / "into/a/hosts").symlink_to(victim)
    daemon.answers["run"] = [*pieces("a", b"new"), NodeDone(node="a", state="done"), End()]
    run("run", "*", "file.get", "/etc/hosts", "--into", str(root / "into"))
    assert victim.read_text() == "mine"
    assert (root / "into/a/hosts").read_bytes() == b"new"


@pytest.mark.parametrize("path", ["", "/", "..", "/etc/.."])
def test_a_path_without_a_last_part_is_refused(daemon: Daemon, root: Path, path: str) -> None:
    assert run("run", "*", "file.get", path, "--into", str(root / "into")).exit_code == 2
    assert daemon.asked == []


def test_a_file_to_push_is_handed_over_in_pieces_and_named_by_its_digest(daemon: Daemon, root: Path) -> None:
    (root / "local").write_bytes(b"x" * (PIECE_BYTES + 5))
    daemon.answers = {"run.upload": [End(data={"sha256": "ab" * 32, "size": 0})], "run": list(ANSWERS)}
    run("run", "*", "file.push", "/tmp/there", "mode=0600", "--file", str(root / "local"))
    assert [verb for verb, _ in daemon.asked] == ["run.upload", "run.upload", "run.upload", "run"]
    first, second, last, sent = (arguments for _, arguments in daemon.asked)
    assert (first["offset"], second["offset"], last["offset"], last["data"]) == (0, PIECE_BYTES, PIECE_BYTES + 5, "")
    assert base64.b64decode(str(second["data"])) == b"xxxxx"
    assert len({str(one["upload"]) for one in (first, second, last)}) == 1
    assert sent["blob"] == ["ab" * 32, PIECE_BYTES + 5]
    assert sent["args"] == ["/tmp/there", "mode=0600"]


def test_a_file_that_is_not_there_is_told_before_anything_is_asked(daemon: Daemon, root: Path) -> None:
    result = run("run", "*", "file.push", "/tmp/there", "--file", str(root / "absent"))
    assert result.exit_code == 2
    assert "absent: No such file or directory" in result.stderr
    assert daemon.asked == []


def test_a_master_that_takes_no_file_is_told_in_its_own_words(daemon: Daemon, root: Path) -> None:
    (root / "local").write_bytes(b"x")
    daemon.answers = {"run.upload": [End(exit=1, message="cannot keep the file on the master: No space left")]}
    result = run("run", "*", "file.push", "/tmp/there", "--file", str(root / "local"))
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert len(daemon.asked) == 1


def test_a_client_certificate_leaves_its_key_here_and_nowhere_else(daemon: Daemon, root: Path) -> None:
    entry = {"hosts": ["db.example.com"], "port": 5433}
    daemon.answers["certs.client"] = [End(data={"certificate": "CERT\n", "ca": "CA\n", **entry})]
    out = root / "app"
    result = run("certs", "client", "prod", "app", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "app.key").stat().st_mode & 0o777 == 0o600
    assert (out / "app.crt").read_text() == "CERT\n"
    assert "PRIVATE KEY" in (out / "app.key").read_text()
    assert "PRIVATE KEY" not in json.dumps(daemon.asked[0][1])
    assert str(daemon.asked[0][1]["csr"]).startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert result.stdout.startswith('psql "host=db.example.com port=5433 dbname=postgres user=app sslmode=verify-full')
    key = (out / "app.key").read_bytes()
    assert run("certs", "client", "prod", "app", "--out", str(out)).exit_code == 0
    assert (out / "app.key").read_bytes() == key


def test_an_application_is_told_every_way_in(daemon: Daemon, root: Path) -> None:
    entry = {"hosts": ["203.0.113.1", "198.51.100.2"], "port": 6433}
    daemon.answers["certs.client"] = [End(data={"certificate": "CERT\n", "ca": "CA\n", **entry})]
    shown = run("certs", "client", "prod", "app", "--out", str(root)).stdout
    assert "host=203.0.113.1,198.51.100.2 port=6433 " in shown
    assert " target_session_attrs=read-write " in shown


@pytest.mark.parametrize("name", ["../x", ".x", "a b", "a;b", "", "x" * 64, "k\u00f6ln", "app\n", "a'b"])
def test_a_role_that_is_no_plain_name_gets_no_certificate(daemon: Daemon, root: Path, name: str) -> None:
    result = run("certs", "client", "prod", name, "--out", str(root / "out"))
    assert result.exit_code == 2
    assert "cannot be the name of a role and of a file" in result.stderr
    assert daemon.asked == []
    assert not (root / "out").exists()


def test_a_secret_is_revealed_only_to_a_person_or_with_a_flag(daemon: Daemon) -> None:
    daemon.answers["secrets.reveal"] = [End(data={"value": "hunter2"})]
    assert run("secrets", "reveal", "prod/postgresql/superuser").exit_code == 6
    assert daemon.asked == []
    assert run("secrets", "reveal", "prod/postgresql/superuser", "--yes").stdout == "hunter2\n"
    assert daemon.asked[0][1] == {"cluster": "prod", "name": "postgresql/superuser"}


def test_a_secret_is_set_from_stdin_or_a_file_and_never_shown(daemon: Daemon, root: Path) -> None:
    daemon.answers["secrets.set"] = [End()]
    (root / "value").write_text("from-file\n")
    first = run("secrets", "set", "prod/x", text="from-stdin\n")
    second = run("secrets", "set", "prod/x", "--from-file", str(root / "value"))
    assert [arguments["value"] for _, arguments in daemon.asked] == ["from-stdin", "from-file"]
    assert "from-" not in first.output + second.output
    assert run("secrets", "set", "prod/x", text="").exit_code == 2
