"""The proof that a cluster works: a write through this node's own HAProxy, read back from a replica.

It connects as any client would: port 5433, TLS with the server's name checked, client certificate and password.
psql gets the password by a file that only root can read; argv holds none.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from ..common.errors import UserError
from ..common.names import is_node_name
from ..common.results import Outcome
from .spawn import stream

TLS = "/etc/pgha/tls"
PASSFILE = f"{TLS}/probe.pgpass"
_NUMBER = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")

# a checked node name and hex digits are all that is filled in
_WRITE = (
    "insert into pgha.probe(node, token, at) values ('{node}', '{token}', now()) "
    "on conflict (node) do update set token=excluded.token, at=excluded.at returning host(inet_server_addr())"
)
_READ = "select host(inet_server_addr()), pg_is_in_recovery() from pgha.probe where node='{node}' and token='{token}'"


def write_probe(arguments: tuple[str, ...]) -> Outcome:
    """Arguments: NODE RW_PORT RO_PORT READ_BACK ("yes" or "no") TIMEOUT_S. Data: milliseconds, server addresses."""
    if len(arguments) != 5:
        raise UserError("write_probe takes NODE RW_PORT RO_PORT yes|no TIMEOUT_S")
    node, rw_port, ro_port, read_back, timeout_s = arguments
    if not is_node_name(node):
        raise UserError(f"{node!r} is no node name")
    for number in (rw_port, ro_port, timeout_s):  # a port is filled into psql's connection string
        if not _NUMBER.fullmatch(number):
            raise UserError(f"{number!r} is no port and no number of seconds")
    token, deadline = secrets.token_hex(8), time.monotonic() + float(timeout_s)
    write = _WRITE.format(node=node, token=token)
    since = time.monotonic()
    code, said = _until(deadline, rw_port, write, lambda text: bool(text.strip()))
    wrote_ms = (time.monotonic() - since) * 1000
    if code != 0:
        return Outcome(ok=False, exit_code=1, message=f"no write through port {rw_port}: {said}")
    data: dict[str, object] = {"primary": said.strip().splitlines()[0], "write_ms": round(wrote_ms, 1)}
    if read_back == "yes":
        read = _READ.format(node=node, token=token)
        code, said = _until(deadline, ro_port, read, lambda text: text.strip().endswith("|t"))
        if code != 0:
            return Outcome(ok=False, exit_code=1, message=f"not read back through port {ro_port}: {said}", data=data)
        data["replica"] = said.strip().split("|")[0]
    return Outcome(ok=True, exit_code=0, data=data)


def _until(deadline: float, port: str, query: str, enough: Callable[[str], bool]) -> tuple[int, str]:
    """Ask until the answer is `enough` or time is up: exit code 0 and the answer, or 1 and what was said last."""
    while True:
        lines: list[str] = []
        code, _ = stream(_psql(port, query), 5.0, _collect(lines), lambda: False)
        said = "".join(lines)
        if code == 0 and enough(said):
            return 0, said
        if time.monotonic() > deadline:
            return 1, said.strip()[-300:] or "no row"
        time.sleep(0.2)


def _collect(lines: list[str]) -> Callable[[str, str], None]:
    return lambda _name, text: lines.append(text)


def _psql(port: str, query: str) -> tuple[str, ...]:
    parameters = (
        f"host=127.0.0.1 port={port} dbname=postgres user=pgha_probe connect_timeout=3 application_name=pgha-probe "
        f"sslmode=verify-full sslrootcert={TLS}/ca.crt sslcert={TLS}/pgha-probe.crt sslkey={TLS}/pgha-probe.key "
        f"passfile={PASSFILE}"
    )
    return ("psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", query, parameters)
