"""Functions on a host made of dicts: both tables agree, queries change nothing, arguments are never options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.common import functions as table
from pgha.common import installation
from pgha.common.errors import ActionFailed, PghaError, UserError
from pgha.common.installation import Installation
from pgha.common.results import Outcome
from pgha.minion import functions
from pgha.minion.functions import Blob, Call, Doors, call
from pgha.minion.functions.answer import ANSWER_LIMIT, Budget
from pgha.minion.functions.host import Process, largest
from pgha.minion.functions.packages import _SIMULATE, unasked
from pgha.minion.functions.postgres import literal, parsed
from pgha.minion.probe_write import write_probe
from pgha.states.action import InstallPackages, Unit
from pgha.states.system import FileFacts, Output, UnitFacts
from pgha.states.testing import FakeSystem
from pydantic import ValidationError

UPDATE = ("apt-get", "-q", "update", "-o", "APT::Update::Error-Mode=any")
MEMBERS = [{"name": "n1", "role": "leader", "state": "running", "timeline": 3}, {"name": "n2", "role": "replica"}]


INSTALLED = Installation(
    driver="pgbackrest",
    stanza="prod",
    node="pg-node1",
    operates=(1,),
    repositories=(1,),
    data=True,
    data_directory="/var/lib/postgresql/17/none",
    bin_dir="/usr/lib/postgresql/17/bin",
    port=5432,
    writes_port=5433,
    standby=True,
    data_nodes=("pg-node1",),
).model_dump_json()


@dataclass
class Told(FakeSystem):
    """Patroni's pages are given; every program that is asked is kept, and answers with nothing unless taught."""

    files: dict[str, FileFacts] = field(default_factory=lambda: {installation.PATH: FileFacts("file", INSTALLED)})
    rest: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def patroni(self, path: str) -> tuple[int, str]:
        return self.rest.get(path, (0, "connection refused"))

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        self.asked.append(argv)
        return self.answers.get(argv, Output(0, ""))


@dataclass
class Caller:
    system: Told = field(default_factory=Told)
    said: dict[str, str] = field(default_factory=dict)

    def __call__(self, function: str, *arguments: str) -> Outcome:
        self.said.clear()
        return call(Call(function=function, arguments=arguments, timeout_s=5), self.doors())

    def doors(self) -> Doors:
        def output(stream: str, text: str) -> None:
            self.said[stream] = self.said.get(stream, "") + text

        def fetch(sha256: str, size: int, file: BinaryIO) -> None:
            raise AssertionError("nothing is fetched here")

        return Doors(self.system, output, lambda: False, fetch)


@pytest.fixture
def run() -> Caller:
    return Caller()


def test_what_can_be_asked_for_is_what_there_is() -> None:
    assert set(functions.FUNCTIONS) == set(table.FUNCTIONS)


@pytest.mark.parametrize("name", table.FUNCTIONS)
def test_a_function_says_what_it_takes_in_one_line(name: str) -> None:
    known = table.find(name)
    assert known.name == name
    assert known.text and "\n" not in known.usage + known.text
    assert len(f"{known.name} {known.usage}") < 80


EXAMPLES: dict[str, tuple[str, ...]] = {
    "service.status": ("patroni",),
    "journal": ("patroni", "20"),
    "file.stat": ("/etc/hostname",),
    "file.tail": ("/etc/hostname", "3"),
    "postgres.query": ("select 1",),
    "processes": ("3",),
    "package.versions": ("patroni",),
}


@pytest.mark.parametrize("name", [name for name, known in table.FUNCTIONS.items() if known.query])
def test_a_query_performs_nothing_and_may_be_asked_twice(run: Caller, name: str) -> None:
    for _ in range(2):
        run(name, *EXAMPLES.get(name, ()))
    assert run.system.performed == []


def test_only_what_reads_is_for_viewers() -> None:
    assert [name for name, known in table.FUNCTIONS.items() if known.role == "viewer" and not known.query] == []


def test_an_unknown_function_is_refused_with_what_was_meant(run: Caller) -> None:
    with pytest.raises(UserError, match=r"did you mean service\.status"):
        run("service.statu", "x")
    for name in ("__init__", "call", "os.system", "", "cmd\n"):
        with pytest.raises(UserError, match="there is no function"):
            run(name)


FIXED = [
    name for name in table.FUNCTIONS if name not in ("cmd", "package.versions", "package.upgrade", "service.retire")
]


@pytest.mark.parametrize("name", FIXED)
def test_more_arguments_than_a_function_takes_are_refused_and_not_passed_on(run: Caller, name: str) -> None:
    with pytest.raises(UserError):
        run(name, *EXAMPLES.get(name, ()), *["more"] * 6)
    assert run.system.performed == [] and run.system.asked == []


def test_a_wrong_argument_is_answered_with_the_synopsis(run: Caller) -> None:
    with pytest.raises(UserError, match=r"file\.tail: .*called as: file\.tail PATH \[LINES\]"):
        run("file.tail", "/var/log/syslog", "many")


@pytest.mark.parametrize("name", list(table.FUNCTIONS))
def test_no_argument_holds_a_nul(run: Caller, name: str) -> None:
    with pytest.raises(UserError, match="NUL"):
        run(name, "patroni\0")


INJECTIONS = [
    "-h",
    "--root=/elsewhere",
    "--now",
    "-o",
    "*",
    "post*",
    "p?troni",
    "[a-z]*",
    "$(reboot)",
    "`reboot`",
    "a;reboot",
    "a b",
    "a\nb",
    "a\n",
    "../etc/passwd",
    "/etc/passwd",
    "a|b",
    "a&b",
    "a'b",
    'a"b',
    "",
    "é",
    "x" * 300,
]


@pytest.mark.parametrize("word", INJECTIONS)
@pytest.mark.parametrize("name", ["status", "start", "stop", "restart", "reload"])
def test_what_is_no_units_name_reaches_no_program(run: Caller, name: str, word: str) -> None:
    with pytest.raises(UserError, match="no name of a systemd unit"):
        run(f"service.{name}", word)
    assert run.system.performed == [] and run.system.asked == []


@pytest.mark.parametrize("word", INJECTIONS)
def test_a_journal_is_asked_for_by_a_units_name_alone(run: Caller, word: str) -> None:
    with pytest.raises(UserError):
        run("journal", word)
    with pytest.raises(UserError, match="no number from 1 to 1000"):
        run("journal", "patroni", word or "x")
    assert run.system.asked == []


@pytest.mark.parametrize(
    "word",
    [*INJECTIONS, "haproxy-", "haproxy=2.0-1", "haproxy/sid", "haproxy:amd64", "^haproxy$", "./x.deb", "HAProxy"],
)
@pytest.mark.parametrize("name", ["package.versions", "package.upgrade"])
def test_what_is_no_packages_name_reaches_no_program(run: Caller, name: str, word: str) -> None:
    with pytest.raises(UserError, match="no name of a package"):
        run(name, "patroni", word)
    assert run.system.performed == [] and run.system.asked == []


@pytest.mark.parametrize("name", ["reboot.target", "rescue.target", "tmp.mount", "system.slice", "session-1.scope"])
def test_targets_and_mounts_are_no_services(run: Caller, name: str) -> None:
    with pytest.raises(UserError, match="none of the kinds"):
        run("service.start", name)


@pytest.mark.parametrize("unit", ["patroni", "patroni.service", "postgresql@17-main", "apt-daily.timer", "dbus.socket"])
@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_a_service_verb_is_given_to_systemd_for_that_unit(run: Caller, verb: str, unit: str) -> None:
    outcome = run(f"service.{verb}", unit)
    assert outcome.ok
    assert run.system.performed == [Unit(verb, unit)]
    assert outcome.data["active"] == ("inactive" if verb == "stop" else "active")


def test_a_service_that_refuses_is_told_in_systemds_words(run: Caller) -> None:
    with pytest.raises(ActionFailed, match="reload patroni"):
        run("service.reload", "patroni")


def test_the_minion_does_not_end_itself(run: Caller) -> None:
    for verb in ("stop", "restart"):
        for unit in ("pgha-minion", "pgha-minion.service"):
            with pytest.raises(UserError, match="cannot answer from a service that it ends itself"):
                run(f"service.{verb}", unit)
    assert run.system.performed == []


def test_a_service_that_does_not_run_has_the_exit_code_of_systemctl(run: Caller) -> None:
    run.system.units["haproxy.service"] = UnitFacts("loaded", "failed", "enabled")
    outcome = run("service.status", "haproxy")
    assert (outcome.ok, outcome.exit_code) == (False, 3)
    assert run.said["stdout"] == "loaded failed enabled\n"


def test_a_journal_is_asked_without_a_word_that_could_be_an_option(run: Caller) -> None:
    run("journal", "patroni", "7")
    assert run.system.asked[0][-2:] == ("--lines=7", "--unit=patroni")


@pytest.mark.parametrize(
    ("name", "arguments", "units"),
    [
        ("service.stop", ("patroni.service",), {"patroni"}),
        ("service.restart", ("etcd",), {"etcd"}),
        ("service.reload", ("patroni",), set()),
        ("service.start", ("patroni",), set()),
        ("service.start", ("systemd-poweroff.service",), {"*"}),
        ("service.stop", (), set()),
        ("package.upgrade", ("postgresql-17", "libpq5"), {"patroni", "postgresql"}),
        ("package.upgrade", ("etcd-server", "haproxy"), {"etcd", "haproxy"}),
        ("package.upgrade", ("curl", "postgresql-client-17"), set()),
        ("file.push", ("/etc/x",), set()),
        ("ping", (), set()),
    ],
)
def test_what_a_call_takes_down_is_known_before_it_is_made(
    name: str, arguments: tuple[str, ...], units: set[str]
) -> None:
    assert table.find(name).disrupts(arguments) == units


@pytest.fixture
def stack(run: Caller) -> Caller:
    run.system.installed = {"haproxy": "2.6.1", "patroni": "4.0", "postgresql-17": "17.4"}
    run.system.answers = {
        UPDATE: Output(0),
        (*_SIMULATE, "haproxy"): Output(0, "Inst haproxy [2.6.1] (2.6.2 Debian:12 [amd64])\nConf haproxy\n"),
    }
    return run


def test_an_upgrade_takes_the_lists_anew_and_then_only_what_was_named(stack: Caller) -> None:
    outcome = stack("package.upgrade", "haproxy")
    assert outcome.ok
    assert stack.system.asked[0] == UPDATE
    assert stack.system.performed == [InstallPackages(("haproxy",))]
    assert outcome.data == {"before": {"haproxy": "2.6.1"}, "after": {"haproxy": "1.0"}}
    assert "not restarted" in stack.said["stdout"] and "haproxy" in stack.said["stdout"]


def test_what_is_not_installed_is_not_upgraded_into_being(stack: Caller) -> None:
    with pytest.raises(ActionFailed, match="telnetd: not installed"):
        stack("package.upgrade", "haproxy", "telnetd")
    assert stack.system.performed == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Remv patroni [4.0]", "would remove patroni"),
        ("Inst postgresql-17 [17.4] (17.5 PGDG [amd64])", "would move postgresql-17 along"),
    ],
)
def test_an_upgrade_that_would_do_more_is_refused_before_it_begins(stack: Caller, line: str, why: str) -> None:
    stack.system.answers[(*_SIMULATE, "haproxy")] = Output(0, f"Inst haproxy [2.6.1] (2.6.2 D [amd64])\n{line}\n")
    with pytest.raises(ActionFailed, match=why):
        stack("package.upgrade", "haproxy")
    assert stack.system.performed == []


def test_a_library_may_come_along() -> None:
    assert unasked("Inst haproxy [1] (2 D)\nInst libssl3 [1] (2 D)\nConf libssl3\n", ("haproxy",)) == ""


def test_versions_of_the_stack_are_those_that_are_there(stack: Caller) -> None:
    assert stack("package.versions").data == {
        "versions": {"haproxy": "2.6.1", "patroni": "4.0", "postgresql-17": "17.4"}
    }
    outcome = stack("package.versions", "patroni", "etcd-server")
    assert (outcome.ok, stack.said["stdout"]) == (False, "patroni 4.0\netcd-server not installed\n")


def test_the_members_and_the_history_of_patroni(run: Caller) -> None:
    run.system.rest = {
        "/cluster": (200, json.dumps({"members": MEMBERS})),
        "/history": (200, json.dumps([[1, 100, "no recovery target", "2026-01-01T00:00:00+00:00", "n2"], [2], "odd"])),
    }
    assert run("patroni.list").data == {"members": MEMBERS}
    assert run("patroni.history").ok
    assert run.said["stdout"].splitlines() == [
        "TL 1 ended  2026-01-01T00:00:00+00:00  new leader n2  at 100  no recovery target",
        "TL 2 ended  -  new leader -  at -  -",
    ]


@pytest.mark.parametrize("page", [(0, "connection refused"), (503, "{}"), (200, "<html>")])
def test_a_patroni_that_says_nothing_of_use_is_a_failure_with_a_reason(run: Caller, page: tuple[int, str]) -> None:
    run.system.rest = {"/cluster": page, "/history": page}
    for name in ("patroni.list", "patroni.history"):
        outcome = run(name)
        assert (outcome.ok, outcome.exit_code) == (False, 1)
        assert "Patroni" in outcome.message


@pytest.mark.parametrize("word", ["-", "--help", "-x"])
def test_a_members_name_is_no_option_of_etcdctl(run: Caller, word: str) -> None:
    with pytest.raises(UserError, match="dash"):
        run("etcd.replace", "abc", word, "https://10.0.0.1:2380")
    assert run.system.asked == []


@pytest.mark.parametrize("port", ["5433 host=10.9.9.9", "-1", "x", "", "5433\n"])
def test_a_port_of_the_write_probe_is_a_number(port: str) -> None:
    with pytest.raises(UserError, match="is no port"):
        write_probe(("n1", port, "5434", "no", "1"))


def test_the_processes_shown_are_the_largest_of_both_kinds_once() -> None:
    running = [Process(n, f"p{n}", "root", n * 100, (10 - n) * 1.0) for n in range(1, 10)]
    assert [process.pid for process in largest(running, 2)] == [1, 2, 8, 9]


def test_an_answer_of_a_query_ends_at_its_limit_and_says_so(run: Caller) -> None:
    argv = ("journalctl", "--no-pager", "--quiet", "--output=short-iso", "--lines=1000", "--unit=patroni")
    run.system.answers[argv] = Output(0, "".join(f"{n:06} {'x' * 400}\n" for n in range(1000)))
    outcome = run("journal", "patroni", "1000")
    assert len(json.dumps(run.said)) + len(outcome.model_dump_json()) < ANSWER_LIMIT + 1024
    lines = run.said["stdout"].splitlines()
    assert all(len(line) == 407 for line in lines)
    left = 408 * (1000 - len(lines))
    assert f"{left} more bytes are left out" in run.said["stderr"]


@given(texts=st.lists(st.text(max_size=3000), max_size=8), limit=st.integers(1000, 5000))
def test_no_answer_is_larger_than_its_limit_and_nothing_is_lost_in_silence(texts: list[str], limit: int) -> None:
    said: list[str] = []
    budget = Budget(lambda stream, text: said.append(text), limit)
    for text in texts:
        budget.output("stdout", text)
    budget.close(Outcome(ok=True))
    assert sum(len(json.dumps(text)) for text in said) <= limit
    whole = "".join(texts)
    kept = "".join(text for text in said if not text.startswith("\n[pgha: "))
    assert whole.startswith(kept)
    assert (kept == whole) != any(text.startswith("\n[pgha: ") for text in said)


def test_data_that_does_not_fit_is_left_out_and_told(run: Caller) -> None:
    members = [{"name": "n" * 1000, "role": "replica", "state": "running", "timeline": 1}] * 150
    run.system.rest["/cluster"] = (200, json.dumps({"members": members}))
    outcome = run("patroni.list")
    assert outcome.data == {}
    assert "left out" in outcome.message


@given(text=st.text())
def test_no_text_closes_the_literal_it_is_in(text: str) -> None:
    quoted = literal(text)
    mark = quoted[: quoted.index("$", 1) + 1]
    assert quoted == f"{mark}{text}{mark}"
    assert mark not in text


def test_null_and_empty_are_told_apart_in_an_answer() -> None:
    assert parsed('a,b\nNIL,""\n"x\ny",1\n', "NIL") == (["a", "b"], [[None, ""], ["x\ny", "1"]])
    assert parsed("", "NIL") == ([], [])


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"sha256": "../" + "0" * 61},
        {"sha256": "0" * 64 + "\n"},
        {"size": -1},
        {"size": 1024**3 + 1},
        {"path": "/etc/passwd"},
    ],
)
def test_content_is_named_by_its_checksum_and_nothing_else(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Blob.model_validate({"sha256": "0" * 64, "size": 1, **changed})


@given(
    name=st.sampled_from(sorted(set(table.FUNCTIONS) - {"cmd", "write_probe", "processes", "facts", "preflight"})),
    words=st.lists(st.text(max_size=40), max_size=5),
)
def test_whatever_is_asked_ends_in_an_answer_or_a_sentence(name: str, words: list[str]) -> None:
    caller = Caller()
    if name.startswith("postgres."):
        words = ["", *words]  # a text that is no SQL: nothing is started
    try:
        caller(name, *words)
    except PghaError as error:
        assert str(error)


def test_every_function_is_described_as_it_is_where_one_looks_it_up() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/reference/functions.md").read_text().replace("\\|", "/")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    told = {cells[0].strip("`"): (cells[2], cells[3] == "yes") for cells in rows}
    functions = map(table.find, table.public())
    assert told == {f"{f.name} {f.usage}".strip().replace("|", "/"): (f.role, f.query) for f in functions}
