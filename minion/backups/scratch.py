"""A PostgreSQL server outside of Patroni on a restored data directory: for a drill, and before a cluster is founded.

Rules:
1. Nobody reaches it but this host's postgres and root: no network, a socket in a private folder, an hba of its own,
   whatever the restored settings say. It speaks to nobody either: no subscription is followed, no worker of an
   extension runs, and nothing is archived unless the caller wants it.
2. While it recovers it takes no connection at all (`hot_standby=off`): so it needs no more connections, workers and
   locks than it has, however many the lost server had, and never pauses for want of them.
3. How far it is, it tells in its processes' titles and in the last line of postmaster.pid, as pg_ctl reads it; so there
   is no failed login in its log, and each FATAL there is one.
4. What an interrupted attempt left is stopped by pg_ctl, and only if it says of itself that it was started here.

Source: PostgreSQL 14 to 18, src/include/utils/pidfile.h; xlogrecovery.c, CheckRequiredParameterValues.
"""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import HostError
from ...states.backups.driver import USER, Argv
from ...states.system import Output
from ..host import execute

MARK = "pgha-scratch"  # cluster_name, by which a server of ours is known
SHARED_BUFFERS = "64MB"  # enough, and had anywhere, where the restored settings are for another host
STALL_S = 600.0
TELL_S = 5.0
BORN_S, LATE = 30.0, "did not start in time"
STOP_S = 300.0
QUERY_S = 60.0
LAST = 15  # lines of the log
_NOT_LOWER = {  # what recovery needs as it was: prepared transactions come back into these
    "max_connections": "max_connections setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
_SEGMENT = re.compile(r"startup (?:recovering|waiting for) ([0-9A-F]{24})")
_FATAL = re.compile(r"\b(?:FATAL|PANIC):  (.*)")


@dataclass(frozen=True, slots=True)
class Place:
    """`data`: the restored data directory. `run`: a folder for socket and log, made anew; its path must be short.

    `port` only names the socket. `archive` False: it archives nothing, whatever its settings say.
    `shared_buffers`: in PostgreSQL's words; empty: as its settings say.
    """

    data: Path
    bin_dir: str
    run: Path
    port: int = 5432
    archive: bool = False
    shared_buffers: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """`segment`: of WAL that is replayed now, by its file name; empty before the first and after the last."""

    seconds: float
    segment: str = ""
    doing: str = ""


Tell = Callable[[Progress], None]
Execute = Callable[[Argv, float], Output]


class Scratch:
    """`execute(argv, timeout_s)` starts a program, as root. All raise HostError."""

    def __init__(
        self,
        place: Place,
        execute: Execute = execute,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.place = place
        self._execute, self._clock, self._sleep = execute, clock, sleep
        self._log = place.run / "server.log"

    def start(self, tell: Tell, stall_s: float = STALL_S) -> None:
        """Start it and wait until it has recovered and is open for writes; there is no deadline.

        `tell` hears of it every TELL_S; what it raises ends the waiting, and the server runs on. HostError: it ended by
        itself, with its own last word; or nothing has moved for `stall_s`.
        """
        self.clean()
        self._prepare()
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in self.options().items())
        where = ("-D", str(self.place.data), "-l", str(self._log))
        # without waiting for its pid file, one that has not come to write it cannot be told from one that has ended
        argv = (self._program("pg_ctl"), *where, "-o", options, "-w", "-t", f"{BORN_S:.0f}", "start")
        said = self._run(argv, BORN_S + 30.0)
        if said.rc and LATE not in said.stderr:
            raise HostError(f"the restored server cannot be started: {self._reason() or _last(said)}")
        self._wait(tell, stall_s)
        if self.query("select pg_is_in_recovery()") != "f":
            raise HostError(f"the restored server is still in recovery: {self.last_words()}")

    def query(self, sql: str, database: str = "postgres", timeout_s: float = QUERY_S) -> str:
        """Rows as lines, columns separated by a tab; as superuser."""
        argv = (self._program("psql"), *self.connection(), "-d", database, "-X", "-q", "-A", "-t", "-F", "\t")
        return self._must((*argv, "-v", "ON_ERROR_STOP=1", "-c", sql), "the restored server", timeout_s).strip()

    def connection(self) -> Argv:
        """The arguments by which PostgreSQL's programs, run as its user, find it."""
        return ("-h", str(self.place.run), "-p", str(self.place.port), "-U", USER)

    def stop(self, limit_s: float = STOP_S) -> bool:
        """Whether it ended in order; one that takes longer than `limit_s` is ended at once, without a checkpoint."""
        if not self.running():
            return True
        said = self._stop("fast", limit_s)
        if said.rc and self.running():
            said = self._stop("immediate", 60.0)
            if self.running():
                raise HostError(f"the server on {self.place.data} does not stop: {_last(said)}")
            return False
        return True

    def clean(self) -> None:
        """Stop what an interrupted attempt left on the data directory, and take away its folder and pid file.

        HostError: a server runs there that was not started here.
        """
        if self.running():
            self.stop()
        (self.place.data / "postmaster.pid").unlink(missing_ok=True)
        shutil.rmtree(self.place.run, ignore_errors=True)

    def running(self) -> bool:
        """HostError as for `clean`."""
        pid = self._pid()
        if pid == 0:
            return False
        said = self._execute(("ps", "-o", "args=", "-p", str(pid)), 15.0).stdout
        if f"-D {self.place.data}" not in said:
            return False  # another process has that number by now
        if f"cluster_name={MARK}" not in said:
            raise HostError(f"PostgreSQL runs on {self.place.data}, and pgha has not started it; stop it first")
        return True

    def control(self) -> dict[str, str]:
        """What pg_controldata says of the data directory, by its own names."""
        said = self._must((self._program("pg_controldata"), str(self.place.data)), "pg_controldata", 30.0)
        pairs = (line.partition(":") for line in said.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}

    def options(self) -> dict[str, str]:
        """The settings that are put over the restored ones."""
        place, control = self.place, self.control()
        return {
            "cluster_name": MARK,
            "listen_addresses": "",
            "unix_socket_directories": str(place.run),
            "unix_socket_permissions": "0700",
            "port": str(place.port),
            "hba_file": str(place.run / "hba.conf"),
            "ident_file": str(place.run / "ident.conf"),
            "ssl": "off",
            "hot_standby": "off",
            "primary_conninfo": "",
            "synchronous_standby_names": "",  # no commit would ever end
            "max_worker_processes": "0",
            "max_logical_replication_workers": "0",
            "autovacuum": "off",
            **({"shared_buffers": place.shared_buffers, "huge_pages": "off"} if place.shared_buffers else {}),
            **({} if place.archive else {"archive_mode": "off"}),
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_min_messages": "warning",
            "lc_messages": "C",
            "update_process_title": "on",
            **{name: control[told] for name, told in _NOT_LOWER.items() if control.get(told, "").isdigit()},
        }

    def last_words(self) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST:])
        except OSError:
            return "it has written no log"

    def _prepare(self) -> None:
        run = self.place.run
        try:
            run.mkdir(parents=True, mode=0o700)
            (run / "hba.conf").write_text(f"local all {USER} peer\n")
            (run / "ident.conf").write_text("")
            for path in (run, *run.iterdir()):
                shutil.chown(path, USER, USER)
        except (OSError, LookupError) as error:
            raise HostError(f"{run} cannot be made: {error}") from None

    def _wait(self, tell: Tell, stall_s: float) -> None:
        since = moved = told = self._clock()
        seen: tuple[str, int] = ("", 0)
        while True:
            pid, state = self._pid(), self._state()
            if state == "ready":
                return
            if not pid or not Path(f"/proc/{pid}").exists():
                raise HostError(f"the restored server has ended: {self._reason()}")
            now, (titles, written) = self._clock(), self._moves(pid)
            if (titles, written) != seen:
                seen, moved = (titles, written), now
            if now - moved > stall_s:
                raise HostError(
                    f"the restored server has not moved for {stall_s:.0f} s, at {titles or 'its start'}; "
                    f"the last lines of its log:\n{self.last_words()}"
                )
            if now - told >= TELL_S:
                told, match = now, _SEGMENT.search(titles)
                tell(Progress(now - since, match[1] if match else "", titles))
            self._sleep(0.2)

    def _moves(self, pid: int) -> tuple[str, int]:
        """What those of its processes that recover say they do, and what all of them have written, in bytes."""
        said = self._execute(("ps", "-o", "pid=,args=", "--ppid", str(pid)), 15.0).stdout
        rows = [line.strip().partition(" ") for line in said.splitlines()]
        titles = [args.split(f"{MARK}: ", 1)[-1].strip() for _, _, args in rows]
        busy = "; ".join(
            title for title in titles if title.startswith("startup") or "checkpoint" in title.split(" ", 1)[-1]
        )
        return busy, sum(_written(child) for child, _, _ in rows)

    def _reason(self) -> str:
        """PostgreSQL's own first FATAL line among the last ones; all of them when there is none."""
        text = self.last_words()
        match = _FATAL.search(text)
        return match[1] if match else text

    def _pid(self) -> int:
        first = self._pidfile()[:1]
        return int(first[0]) if first and first[0].strip().isdigit() else 0

    def _state(self) -> str:
        lines = self._pidfile()
        return lines[7].strip() if len(lines) > 7 else ""

    def _pidfile(self) -> list[str]:
        try:
            return (self.place.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _stop(self, mode: str, limit_s: float) -> Output:
        argv = (self._program("pg_ctl"), "-D", str(self.place.data), "-m", mode, "-t", f"{limit_s:.0f}", "-w", "stop")
        return self._run(argv, limit_s + 30.0)

    def _program(self, name: str) -> str:
        return f"{self.place.bin_dir}/{name}"

    def _must(self, argv: Argv, what: str, timeout_s: float) -> str:
        said = self._run(argv, timeout_s)
        if said.rc:
            raise HostError(f"{what}: {_last(said)}")
        return said.stdout

    def _run(self, argv: Argv, timeout_s: float) -> Output:
        return self._execute(("runuser", "-u", USER, "--", *argv), timeout_s)


def _written(pid: str) -> int:
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return int(next((line.split()[1] for line in text.splitlines() if line.startswith("write_bytes")), "0"))


def _last(said: Output) -> str:
    lines = [line for line in (said.stderr or said.stdout).splitlines() if line.strip()]
    return "; ".join(line.strip() for line in lines[-3:]) or f"exit code {said.rc}, and it said nothing"
