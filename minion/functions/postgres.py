"""SQL on the local PostgreSQL, as its superuser over the Unix socket: a query that only reads, or what an admin orders.

The text of a caller never reaches psql as psql's own language, nor a program's arguments: it goes through standard
input as a literal between marks that nobody can guess, and the server parses it.

What holds a query:
1. It is opened as a cursor, which the server does for exactly one statement that returns rows: no COMMIT, SET, COPY,
   DO or CALL, and nothing behind a semicolon.
2. The transaction is READ ONLY, cannot be made otherwise once its first snapshot is taken, and is rolled back.
3. Functions that act outside of transactions are refused by name. This stops slips, not intent: a function of the
   database's own may call them. Who may not change anything must not be an operator.
"""

from __future__ import annotations

import csv
import io
import re
import secrets

from ...common.results import Outcome
from .. import restapi
from ..spawn import stream
from .request import Call, Doors, arguments, options, wrong

ROWS_MAX = 1000
SQL_MAX = 64 * 1024
ANSWER_MAX = 1024 * 1024
GRACE_S = 5.0  # the server ends a statement at the deadline; psql gets a little longer to tell of it
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"  # nothing that psql would read as a connection string
ACTING = re.compile(
    r"\b(?:set_config|lo_(?:im|ex)port|lo_create?|lo_open|lo_put|lo_from_bytea|lo_unlink|lo_truncate\w*|loread|lowrite"
    r"|dblink\w*|pg_file_\w+|pg_notify|pg_(?:terminate|cancel)_backend|pg_promote|pg_reload_conf|pg_rotate_logfile\w*"
    r"|pg_switch_wal|pg_wal_replay_\w+|pg_(?:create|drop)_\w+|pg_copy_\w+_slot|pg_sync_replication_slots"
    r"|pg_replication_(?:slot_advance|origin_(?!status\b)\w+)|pg_logical_\w+|pg_(?:start|stop)_backup"
    r"|pg_backup_(?:start|stop)|pg_stat_reset\w*|pg_stat_statements_reset|pg_(?:try_)?advisory_\w+|pg_log_\w+"
    r"|pg_export_snapshot|pg_import_system_collations|pg_prewarm|autoprewarm\w*|brin_(?:de)?summarize\w*"
    r"|gin_clean_pending_list|pg_(?:restore|clear)_\w+_stats|pg_truncate_\w+)\b",
    re.IGNORECASE,
)


def query(call: Call, doors: Doors) -> Outcome:
    sql, database = _request(call)
    if found := ACTING.search(sql):
        raise wrong(
            call,
            f"{found[0]} acts outside of what a read-only transaction holds; postgres.execute takes it",
        )
    null = secrets.token_hex(16)
    script = query_script(sql, call.timeout_s)
    code, said, errors, full = _collect(call, doors, psql(database, "-q", "--csv", "-P", f"null={null}"), script)
    if code != 0 and not full:
        return _failed(code, errors)
    columns, rows = parsed(said, null)
    shown = (rows[:-1] if full else rows)[:ROWS_MAX]  # the last one of an answer that was cut may not be whole
    table: list[list[str | None]] = [[*columns], *shown] if columns else []
    doors.output("stdout", "".join("\t".join(_shown(value) for value in row) + "\n" for row in table))
    if more := full or len(rows) > ROWS_MAX:
        limits = f"{ROWS_MAX} rows, {ANSWER_MAX >> 20} MiB"
        doors.output("stderr", f"[pgha: only the first {len(shown)} rows; an answer may have {limits}]\n")
    return Outcome(ok=True, exit_code=0, data={"rows": len(shown), "more": more})


def _collect(call: Call, doors: Doors, argv: tuple[str, ...], script: str) -> tuple[int, str, str, bool]:
    """Exit code, stdout, stderr or why it was ended, and whether it was ended because it said too much."""
    said: dict[str, list[str]] = {"stdout": [], "stderr": []}
    size = 0

    def output(name: str, text: str) -> None:
        nonlocal size
        if size <= ANSWER_MAX:
            said[name].append(text)
        size += len(text)

    def ended() -> bool:
        return size > ANSWER_MAX or doors.cancelled()

    code, message = stream(argv, call.timeout_s + GRACE_S, output, ended, script)
    return code, "".join(said["stdout"]), message or "".join(said["stderr"]), size > ANSWER_MAX


def execute(call: Call, doors: Doors) -> Outcome:
    sql, database = _request(call)
    errors: list[str] = []

    def output(name: str, text: str) -> None:
        if name == "stderr":
            errors.append(text)
        else:
            doors.output(name, text)

    script = execute_script(sql, call.timeout_s)
    code, message = stream(psql(database, "-A", "-F", "\t"), call.timeout_s + GRACE_S, output, doors.cancelled, script)
    if code != 0:
        return _failed(code, message or "".join(errors))
    if errors:
        doors.output("stderr", "".join(errors))
    return Outcome(ok=True, exit_code=0)


def psql(database: str, *options: str) -> tuple[str, ...]:
    port = str(restapi.settings().postgresql_port)
    fixed = ("-X", "-v", "ON_ERROR_STOP=1", "-P", "footer=off", "-p", port, "-d", database)
    return ("runuser", "-u", "postgres", "--", "psql", *fixed, *options)


def query_script(sql: str, timeout_s: float) -> str:
    """What psql is given: only the FETCH prints anything."""
    body = f"declare c refcursor := 'pgha'; begin open c for execute {literal(sql)}; end"
    return (
        f"set client_encoding = 'UTF8'; set statement_timeout = {_timeout_ms(timeout_s)};\n"
        f"start transaction read only;\ndo {literal(body)};\nfetch forward {ROWS_MAX + 1} from pgha;\nrollback;\n"
    )


def execute_script(sql: str, timeout_s: float) -> str:
    """psql sends what \\gexec gives it to the server as it is: no command and no variable of psql's in it."""
    quietly = f"\\set QUIET on\nset client_encoding = 'UTF8'; set statement_timeout = {_timeout_ms(timeout_s)};\n"
    return f"{quietly}\\set QUIET off\nselect {literal(sql)} \\gexec\n"


def literal(text: str) -> str:
    """The text as one SQL literal, whatever is in it: its mark is random, so the text cannot close it."""
    mark = f"$p{secrets.token_hex(16)}$"
    return f"{mark}{text}{mark}"


def parsed(answer: str, null: str) -> tuple[list[str], list[list[str | None]]]:
    """Columns and rows of psql's CSV."""
    csv.field_size_limit(2 * ANSWER_MAX)
    lines = list(csv.reader(io.StringIO(answer, newline="")))
    if not lines:
        return [], []
    return lines[0], [[None if value == null else value for value in row] for row in lines[1:]]


def _request(call: Call) -> tuple[str, str]:
    given = arguments(call, 1, 2)
    database = options(call, given[1:], {"database": _NAME}).get("database", "postgres")
    sql = given[0]
    if not sql.strip() or "\0" in sql or len(sql) > SQL_MAX:
        raise wrong(call, f"SQL is empty, longer than {SQL_MAX} characters, or holds a NUL character")
    return sql, database


def _timeout_ms(timeout_s: float) -> int:
    return max(1, int(timeout_s * 1000))


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _shown(value: str | None) -> str:
    """As COPY writes it: one row is one line, and NULL is \\N."""
    return "\\N" if value is None else value.translate(_ESCAPES)


def _failed(code: int, errors: str) -> Outcome:
    """PostgreSQL's own words, without the lines in which psql shows our script."""
    lines = [line for line in errors.splitlines() if re.search(r"\b(ERROR|FATAL|DETAIL|HINT|error):", line)]
    told = [re.sub(r"^psql:<stdin>:\d+: ", "", line) for line in lines[:6]]
    said = "\n".join(told) or errors.strip()[-300:] or f"psql ended with {code}"
    return Outcome(ok=False, exit_code=code, message=said)
