"""SQL functions against a real PostgreSQL server on a socket of its own; without a server on this machine, skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from pgha.common.errors import UserError
from pgha.common.results import Outcome
from pgha.minion import restapi
from pgha.minion.functions import Call, Doors, call
from pgha.states.testing import FakeSystem

BIN = Path(max(map(str, Path("/usr/lib/postgresql").glob("*/bin")), default="/nowhere"))
SOCKETS = Path("/var/run/postgresql")
AS_POSTGRES = ("runuser", "-u", "postgres", "--")
PORT = 20000 + os.getpid() % 900


@dataclass
class Server:
    folder: Path

    def make(self, folder: Path) -> None:
        options = "-c listen_addresses= -c fsync=off -c max_connections=20"
        run(*AS_POSTGRES, str(BIN / "initdb"), "-N", "-E", "UTF8", "-A", "peer", "-D", str(folder))
        log = str(self.folder / "log")
        run(
            *AS_POSTGRES, str(BIN / "pg_ctl"), "-w", "-D", str(folder), "-l", log, "-o", f"-p {PORT} {options}", "start"
        )
        table = "create table t as values (1, 'one'), (2, null), (3, E'a\\tb\\nc\\\\d')"
        rename = "alter table t rename column1 to n; alter table t rename column2 to word"
        run(*AS_POSTGRES, "psql", "-p", str(PORT), "-d", "postgres", "-c", f"{table}; {rename}")

    def stop(self) -> None:
        run(*AS_POSTGRES, str(BIN / "pg_ctl"), "-w", "-m", "immediate", "-D", str(self.folder / "data"), "stop")


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode(errors="replace")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if os.geteuid() != 0 or not (BIN / "initdb").exists() or not SOCKETS.is_dir():
        pytest.skip("needs root and a PostgreSQL server installed from a package")
    folder = Path(tempfile.mkdtemp(prefix="pgha-sql-", dir="/var/tmp"))
    shutil.chown(folder, "postgres", "postgres")
    server = Server(folder)
    try:
        server.make(folder / "data")
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@dataclass
class Heard:
    outcome: Outcome
    out: str
    err: str


class Caller:
    """Calls a function on a host whose PostgreSQL is the test's server."""

    def __call__(self, function: str, *arguments: str, timeout_s: float = 20.0) -> Heard:
        said: dict[str, list[str]] = {"stdout": [], "stderr": []}

        def fetch(sha256: str, size: int, file: BinaryIO) -> None:
            raise AssertionError("SQL fetches nothing")

        doors = Doors(FakeSystem(), lambda stream, text: said[stream].append(text), lambda: False, fetch)
        outcome = call(Call(function=function, arguments=arguments, timeout_s=timeout_s), doors)
        return Heard(outcome, "".join(said["stdout"]), "".join(said["stderr"]))


@pytest.fixture
def sql(server: Server, monkeypatch: pytest.MonkeyPatch) -> Caller:
    monkeypatch.setattr(restapi, "settings", lambda: restapi.PatroniSettings(postgresql_port=PORT))
    return Caller()


def what_is_there(sql: Caller) -> str:
    tables = "string_agg(relname, ',' order by relname) from pg_class where relnamespace = 'public'::regnamespace"
    return sql("postgres.query", f"select (select string_agg(t::text, ',' order by n) from t), {tables}").out


@pytest.fixture
def scratch(sql: Caller) -> Iterator[Caller]:
    """`sql` with a table u of three rows that a test may change."""
    assert sql("postgres.execute", "create table u as select n from generate_series(1, 3) n").outcome.ok
    yield sql
    assert sql("postgres.execute", "drop table u").outcome.ok


def test_rows_are_lines_under_their_columns_and_null_is_not_empty(sql: Caller) -> None:
    heard = sql("postgres.query", "select n, word, '' as nothing from t order by n")
    assert heard.outcome.ok
    assert heard.out == "n\tword\tnothing\n1\tone\t\n2\t\\N\t\n3\ta\\tb\\nc\\\\d\t\n"
    assert heard.outcome.data == {"rows": 3, "more": False}


@pytest.mark.parametrize(
    "text",
    [
        "values (1), (2)",
        "show server_version",
        "table t",
        "with w as (select 1) select * from w;",
        "explain select * from t",
        "select 1 -- and a comment",
        "select ':name', $$ it's $1 $$, '\\!', \"word\" from t",
        "select * from pg_stat_replication, pg_replication_slots",
    ],
)
def test_what_only_reads_is_answered(sql: Caller, text: str) -> None:
    heard = sql("postgres.query", text)
    assert heard.outcome.ok, heard.outcome.message
    assert heard.out


ESCAPES = [
    "delete from t",
    "delete from t returning n",
    "with gone as (delete from t returning n) select * from gone",
    "explain analyze delete from t",
    "select * from t for update",
    "truncate t",
    "commit; delete from t",
    "select 1; delete from t",
    "rollback; begin; delete from t; commit",
    "select 1; commit; delete from t; select 2",
    "set transaction_read_only = off",
    "set transaction read write",
    "set session characteristics as transaction read write",
    "do $$ begin delete from t; end $$",
    "copy t to program 'touch {file}'",
    "copy (select 1) to '{file}'",
    "create table {table} as select 1",
    "select 1 into {table}",
    "execute anything",
    "prepare p as delete from t",
    "declare c cursor for select 1",
    "vacuum",
    "alter system set work_mem = '5MB'",
    "create database {table}",
    "\\! touch {file}",
    "select 1 \\g {file}",
    "select 1 \\gexec\n\\! touch {file}",
    "select 'touch {file}' \\g |sh",
    "\\copy t to '{file}'",
    "'; delete from t; --",
    "$$; delete from t; --",
    "; delete from t",
    "end; commit; delete from t; --",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_a_query_cannot_change_anything(sql: Caller, server: Server, text: str) -> None:
    before, file = what_is_there(sql), server.folder / "touched"
    heard = sql("postgres.query", text.format(file=file, table="escaped"))
    assert not heard.outcome.ok, heard.out
    assert heard.outcome.message
    assert what_is_there(sql) == before
    assert not file.exists()


def test_what_the_server_lets_through_in_a_read_only_transaction_is_rolled_back(sql: Caller) -> None:
    before = what_is_there(sql)
    assert sql("postgres.query", "explain analyze create table escaped as select 1").outcome.ok
    assert what_is_there(sql) == before


@pytest.mark.parametrize(
    "text",
    [
        "select set_config('transaction_read_only', 'off', true)",
        "select set_config('default_transaction_read_only', 'off', false)",
        "select pg_terminate_backend(pid) from pg_stat_activity",
        "select PG_PROMOTE()",
        "select pg_catalog.lo_export(1, '/tmp/x')",
        'select "pg_reload_conf"()',
        "select pg_drop_replication_slot/**/('s')",
        "select pg_switch_wal()",
        "select * from dblink('dbname=postgres', 'delete from t') as t(n int)",
    ],
)
def test_functions_that_act_outside_of_transactions_are_refused_by_name(sql: Caller, text: str) -> None:
    with pytest.raises(UserError, match=r"acts outside .* postgres\.execute"):
        sql("postgres.query", text)


def test_a_function_that_turns_the_transaction_around_finds_it_closed(sql: Caller) -> None:
    """What a database's own function does is not seen in the text; the server still refuses."""
    body = "begin perform set_config('transaction_read_only', 'off', true); delete from t; return 1; end"
    made = sql("postgres.execute", f"create function sly() returns int language plpgsql as $${body}$$")
    assert made.outcome.ok, made.outcome.message
    before = what_is_there(sql)
    heard = sql("postgres.query", "select sly()")
    assert not heard.outcome.ok
    assert "read-write mode" in heard.outcome.message
    assert what_is_there(sql) == before


def test_an_error_is_the_servers_own_words_and_shows_nothing_of_the_script(sql: Caller) -> None:
    heard = sql("postgres.query", "select nothing from nowhere")
    assert not heard.outcome.ok
    assert 'relation "nowhere" does not exist' in heard.outcome.message
    assert "refcursor" not in heard.outcome.message


def test_more_rows_than_the_limit_are_left_out_and_told(sql: Caller) -> None:
    heard = sql("postgres.query", "select g from generate_series(1, 100000) g")
    assert heard.outcome.data == {"rows": 1000, "more": True}
    assert len(heard.out.splitlines()) == 1001
    assert "only the first 1000 rows" in heard.err


def test_an_answer_of_many_megabytes_is_cut_and_told(sql: Caller) -> None:
    heard = sql("postgres.query", "select repeat('x', 100000) from generate_series(1, 1000)")
    assert heard.outcome.ok
    assert "left out" in heard.err
    assert len(heard.out) + len(heard.err) < 200 * 1024


def test_a_statement_that_takes_too_long_is_ended_by_the_server(sql: Caller) -> None:
    heard = sql("postgres.query", "select pg_sleep(60)", timeout_s=0.5)
    assert not heard.outcome.ok
    assert "statement timeout" in heard.outcome.message


def test_another_database_is_named_and_a_connection_string_is_not_taken_for_one(sql: Caller) -> None:
    heard = sql("postgres.query", "select current_database()", "database=template1")
    assert heard.out == "current_database\ntemplate1\n"
    for name in ("postgres://elsewhere/x", "host=elsewhere", "-h", "", "a b"):
        with pytest.raises(UserError, match="database="):
            sql("postgres.query", "select 1", f"database={name}")


def test_an_execute_changes_and_says_what_it_did(scratch: Caller) -> None:
    heard = scratch("postgres.execute", "delete from u where n > 1; select n, n + 1 as m from u")
    assert heard.outcome.ok
    assert heard.out == "DELETE 2\nn\tm\n1\t2\n"
    assert scratch("postgres.query", "table u").out == "n\n1\n"


def test_an_execute_is_the_servers_language_and_not_psqls(sql: Caller, server: Server) -> None:
    file = server.folder / "touched"
    for text in (f"\\! touch {file}", f"select 1 \\g {file}", "select :DBNAME"):
        heard = sql("postgres.execute", text)
        assert not heard.outcome.ok
        assert "syntax error" in heard.outcome.message
    assert not file.exists()


def test_an_execute_that_fails_in_the_middle_changes_nothing(scratch: Caller) -> None:
    heard = scratch("postgres.execute", "delete from u; select 1/0")
    assert not heard.outcome.ok
    assert "division by zero" in heard.outcome.message
    assert scratch("postgres.query", "select count(*) from u").out == "count\n3\n"


def test_no_server_is_told_as_such(sql: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restapi, "settings", lambda: restapi.PatroniSettings(postgresql_port=1))
    heard = sql("postgres.query", "select 1")
    assert not heard.outcome.ok
    assert "connection to server" in heard.outcome.message
