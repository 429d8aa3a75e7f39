"""Parameters that PostgreSQL itself is asked about, and what a change of Patroni's file costs."""

from __future__ import annotations

import pytest
from pgha.common.results import Status
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resources.files import File
from pgha.states.resources.patroni import PENDING, PatroniConfig
from pgha.states.resources.patroni_file import PatroniFile
from pgha.states.resources.postgres_parameters import complaints, configuration, lasting, refused
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem

BIN = "/usr/lib/postgresql/17/bin"
PATH = "/etc/patroni/config.yml"
SAID = f"""\
2026-11-25 22:09:41.946 GMT [10790] LOG:  skipping missing configuration file "{BIN}/postgresql.auto.conf"
2026-11-25 22:09:41.946 GMT [10790] LOG:  0 is outside the valid range for parameter "max_connections" (1 .. 262143)
2026-11-25 22:09:41.946 GMT [10790] LOG:  invalid value for parameter "work_mem": "1GBB"
2026-11-25 22:09:41.946 GMT [10790] HINT:  Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".
2026-11-25 22:09:41.946 GMT [1] LOG:  unrecognized configuration parameter "shared_bufferz" in file "/dev/stdin" line 4
2026-11-25 22:09:41.946 GMT [10790] FATAL:  configuration file "/dev/stdin" contains errors
"""
WORDS = (
    '0 is outside the valid range for parameter "max_connections" (1 .. 262143)',
    'invalid value for parameter "work_mem": "1GBB"'
    ' (Valid units for this parameter are "B", "kB", "MB", "GB", and "TB")',
    'unrecognized configuration parameter "shared_bufferz"',
)


def test_every_complaint_is_told_in_the_servers_words_with_its_hint() -> None:
    assert complaints(SAID) == WORDS


def test_a_server_that_would_start_complains_of_nothing() -> None:
    assert refused(FakeSystem(), BIN, {"work_mem": "8MB"}) == ()
    assert refused(FakeSystem(complaints=SAID), BIN, {}) == ()


class Asked(FakeSystem):
    """postgres answers with this."""

    answer = Output(0)

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        return self.answer


@pytest.mark.parametrize("answer", [Output(127, "", "postgres is not installed"), Output(126)])
def test_where_postgresql_is_not_installed_yet_nothing_is_known(answer: Output) -> None:
    system = Asked()
    system.answer = answer
    assert refused(system, BIN, {"work_mem": "8MB"}) == ()


def test_a_server_that_ends_without_a_complaint_is_no_consent() -> None:
    system = Asked()
    system.answer = Output(1, "", "Segmentation fault")
    assert refused(system, BIN, {"work_mem": "8MB"}) == ("postgres -C ended with 1: Segmentation fault",)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "on"),
        (8, "8"),
        ("it's", "it''s"),
        ("C:\\x", "C:\\\\x"),
        ("a\nb", "a\\nb"),
        ('"$user", public', '"$user", public'),
    ],
)
def test_a_value_arrives_at_the_server_as_it_is(value: bool | int | str, text: str) -> None:
    assert configuration({"x": value}) == f"x = '{text}'\n"


def test_a_refused_parameter_fails_the_plan_and_nothing_is_sent() -> None:
    wanted = PatroniConfig(settings={"postgresql": {"parameters": {"max_connections": 0}}}, bin_dir=BIN)
    system = FakeSystem(patroni_config={}, complaints=SAID)
    (result,) = converge([wanted], system, MemoryDebts())
    assert result.status is Status.FAILED
    assert result.reason.startswith(f"PostgreSQL refuses these parameters: {WORDS[0]}; ")
    assert system.performed == []


def test_an_old_parameter_that_postgresql_would_refuse_does_not_block_another_change() -> None:
    settings = {"postgresql": {"parameters": {"max_connections": 0, "jit": "off"}}}
    there = {"postgresql": {"parameters": {"max_connections": 0}}}
    system = FakeSystem(patroni_config=there, complaints=SAID.replace("work_mem", "max_connections"))
    system.complaints = "\n".join(line for line in system.complaints.splitlines() if "bufferz" not in line)
    (result,) = converge([PatroniConfig(settings=settings, bin_dir=BIN)], system, MemoryDebts())
    assert result.status is Status.CHANGED, result.reason


def test_what_depends_on_the_process_or_on_what_will_be_installed_is_not_asked_about() -> None:
    class Counting(FakeSystem):
        told = ""

        def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
            self.told = stdin or ""
            return Output(0)

    system = Counting()
    refused(system, BIN, {"max_stack_depth": "16MB", "lc_messages": "de_DE.UTF-8", "work_mem": "8MB"})
    assert system.told == "work_mem = '8MB'\n"


def local(parameters: str, listen: str = "10.0.0.1:5432") -> str:
    return f"postgresql:\n  listen: {listen}\n  parameters: {parameters}\n  authentication: {{password: secret}}\n"


def changes(before: str, after: str, **about: object) -> list[tuple[str, str, str]]:
    system = FakeSystem(files={PATH: FileFacts("file", before, "root", "root", 0o644)}, server=True)
    wanted = PatroniFile(file=File(path=PATH, content=after), bin_dir=BIN, parameters={"x": 1})
    found = wanted.plan(wanted.observe(system))
    assert len({change.action for change in found}) == (1 if found else 0)
    return [(change.what, change.before, change.after) for change in found if change.what.endswith(PENDING)]


def test_a_local_parameter_that_takes_a_restart_is_told_by_name_and_one_that_does_not_is_a_line_of_the_diff() -> None:
    told = changes(local("{shared_buffers: 1GB, work_mem: 4MB}"), local("{shared_buffers: 2GB, work_mem: 8MB}"))
    assert told == [(f"postgresql.parameters.shared_buffers{PENDING}", "1GB", "2GB")]
    assert changes(local("{}"), local("{max_files_per_process: 500}")) == [
        (f"postgresql.parameters.max_files_per_process{PENDING}", "absent", "500")
    ]


def test_another_address_to_listen_on_takes_a_restart() -> None:
    assert changes(local("{}"), local("{}", "0.0.0.0:5432")) == [
        (f"postgresql.listen{PENDING}", "10.0.0.1:5432", "0.0.0.0:5432")
    ]


def test_a_file_that_is_no_yaml_or_has_nothing_of_postgresql_is_only_replaced() -> None:
    assert changes("{", local("{shared_buffers: 2GB}")) == []
    assert changes("x: 1\n", local("{shared_buffers: 2GB}")) == []


def test_what_takes_a_restart_is_what_the_running_server_says() -> None:
    class Running(FakeSystem):
        def sql(self, database: str, query: str) -> Output:
            return Output(0, "pg_stat_statements.max\nshared_buffers\n")

    assert lasting(Running()) == {"pg_stat_statements.max", "shared_buffers"}
    assert lasting(FakeSystem()) == frozenset()
