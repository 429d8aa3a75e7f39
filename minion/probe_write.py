"""The proof that a cluster works: a write through this node's own HAProxy, read back from a replica.

It connects as any client would: port 5433, TLS with the server's name checked, client certificate and password.
psql gets the password by a file that only root can read; argv holds none.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..common.errors import HostError, UserError
from ..common.names import is_node_name
from ..common.results import Outcome
from .spawn import stream

TLS = "/etc/pgha/tls"
WATCH_S, QUIET_S = 0.2, 2.0
STUCK_S = 1.0  # a write that takes longer counts as one that was refused first
PASSFILE = f"{TLS}/probe.pgpass"
_NUMBER = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")

# a checked node name and hex digits are all that is filled in
_WRITE = (
    "insert into pgha.probe(node, token, at) values ('{node}', '{token}', now()) "
    "on conflict (node) do update set token=excluded.token, at=excluded.at returning host(inet_server_addr())"
)
_WATCH = (
    "insert into pgha.probe(node, token, at) values ('{node}/watch', '{token}', now()) on conflict (node) do update "
    "set token=excluded.token, at=excluded.at "
    "returning host(inet_server_addr()) || ' ' || extract(epoch from pg_postmaster_start_time())"
)
# less the header of a segment: in one that was just begun there is nothing yet, so it is not archived either
_SEGMENT = "select pg_walfile_name(pg_current_wal_insert_lsn() - 40)"
_READ = "select host(inet_server_addr()), pg_is_in_recovery() from pgha.probe where node='{node}' and token='{token}'"


def write_probe(arguments: tuple[str, ...]) -> Outcome:
    """Arguments: NODE RW_PORT RO_PORT READ_BACK ("yes" or "no") TIMEOUT_S. Data: milliseconds, server addresses."""
    if len(arguments) != 5:
        raise UserError("write_probe takes NODE RW_PORT RO_PORT yes|no TIMEOUT_S")
    node, rw_port, ro_port, read_back, timeout_s = arguments
    _check(node, rw_port, ro_port, timeout_s)
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


@dataclass(frozen=True, slots=True)
class Mark:
    """A row of pgha.probe by which a restored database is known. `segment`: the WAL file that has it at the latest."""

    key: str
    nonce: str
    segment: str


def mark(node: str, rw_port: int, timeout_s: float) -> Mark:
    """Write one. Raises HostError when no write comes through in time."""
    _check(node, str(rw_port), str(timeout_s))
    key, token, deadline = f"{node}/drill", secrets.token_hex(8), time.monotonic() + timeout_s
    for query in (_WRITE.format(node=key, token=token), _SEGMENT):  # apart: the commit is in the WAL, too
        code, said = _until(deadline, str(rw_port), query, lambda text: bool(text.strip()))
        if code:
            raise HostError(f"no write through port {rw_port}: {said}")
    return Mark(key, token, said.strip())


def watch(node: str, rw_port: str, timeout_s: str, begun: Callable[[], None], cancelled: Callable[[], bool]) -> Outcome:
    """Write every WATCH_S until writes have come through to another server than at first, for some while; or cancelled.

    `begun` is called once, after the first write. Another server is another address, or another start of PostgreSQL.
    Data: `refused_s`, from the last write before
    the longest gap to the first one after it, 0.0 when none was refused; `writes`, `refused`: how many.
    """
    _check(node, rw_port, timeout_s)
    seen = Gaps()
    deadline = time.monotonic() + float(timeout_s)
    query = _WATCH.format(node=node, token=secrets.token_hex(8))
    while time.monotonic() < deadline and not cancelled() and not seen.over:
        since, lines = time.monotonic(), list[str]()
        code, _ = stream(_psql(rw_port, query), 5.0, _collect(lines), cancelled)
        server = "".join(lines).strip() if code == 0 else ""
        seen.took(since, time.monotonic(), server)
        if server and seen.writes == 1:
            begun()
        time.sleep(max(0.0, WATCH_S - (time.monotonic() - since)))
    data: dict[str, object] = {"refused_s": round(seen.longest_s, 1), "writes": seen.writes, "refused": seen.refused}
    return Outcome(ok=seen.writes > 0, exit_code=0 if seen.writes else 1, data=data)


@dataclass
class Gaps:
    """What became of one write after the other."""

    first: str = ""  # the server of the first write
    last_at: float | None = None  # when the newest write that came through was begun
    other_since: float | None = None  # since when another server than the first takes them, without a break
    gap: bool = False
    longest_s: float = 0.0
    writes: int = 0
    refused: int = 0

    @property
    def over(self) -> bool:
        return self.other_since is not None and (self.last_at or 0.0) - self.other_since >= QUIET_S

    def took(self, since: float, until: float, server: str) -> None:
        """A write that began and ended then (s); `server` is empty when it was refused."""
        if not server:
            self.refused, self.gap, self.other_since = self.refused + 1, True, None
            return
        if (self.gap or until - since > STUCK_S) and self.last_at is not None:
            self.longest_s = max(self.longest_s, until - self.last_at)
        self.first = self.first or server
        self.other_since = (self.other_since or since) if server != self.first else None
        self.gap, self.last_at, self.writes = False, since, self.writes + 1


def _check(node: str, *numbers: str) -> None:
    """What is filled into a query or a connection string. Raises UserError."""
    if not is_node_name(node):
        raise UserError(f"{node!r} is no node name")
    for number in numbers:
        if not _NUMBER.fullmatch(number):
            raise UserError(f"{number!r} is no port and no number of seconds")


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
