"""A server on a restored folder: whom it lets in, when it counts as stuck or ended, and what is left of an attempt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgha.common.errors import HostError
from pgha.minion.backups.scratch import Place, Progress, Scratch
from pgha.states.backups.driver import Argv
from pgha.states.system import Output

CONTROL = """\
Data page checksum version:           1
max_connections setting:              300
max_prepared_xacts setting:           7
max_locks_per_xact setting:           64
"""
OURS = "postgres -D {data} -c cluster_name=pgha-scratch"


class Host:
    """Programs by the last part of their name; `titles` of the server's processes, one answer after the other."""

    def __init__(self, data: Path) -> None:
        self.data, self.ran = data, list[Argv]()
        self.args, self.started = OURS.format(data=data), Output(0)
        self.titles: Iterator[str] = iter(())
        self.states: Iterator[str] = iter(())
        self.log = ""

    def __call__(self, argv: Argv, timeout_s: float) -> Output:
        self.ran.append(argv)
        names = [word.rsplit("/", 1)[-1] for word in argv]
        if "pg_controldata" in names:
            return Output(0, CONTROL)
        if "ps" in names:
            return Output(0, self.args if "-p" in argv else next(self.titles, ""))
        if "stop" in names:
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        if "start" in names:
            self.write("starting")
            (self.data.parent / "run/server.log").write_text(self.log)
            return self.started
        return Output(0, "f\n")

    def write(self, state: str) -> None:
        (self.data / "postmaster.pid").write_text(f"{os.getpid()}\n" + "-\n" * 6 + f"{state}\n")

    def said(self, word: str) -> list[Argv]:
        return [argv for argv in self.ran if word in argv]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr("shutil.chown", lambda *of: None)  # only root can
    (tmp_path / "data").mkdir()
    return Host(tmp_path / "data")


def server(host: Host, archive: bool = False, buffers: str = "") -> Scratch:
    place = Place(host.data, "/bin", host.data.parent / "run", archive=archive, shared_buffers=buffers)
    clock = iter(range(0, 10**6, 20))

    def sleep(seconds: float) -> None:
        if state := next(host.states, ""):
            host.write(state)

    return Scratch(place, host, lambda: float(next(clock)), sleep)


def test_nobody_reaches_it_and_it_reaches_nobody_whatever_was_restored(host: Host) -> None:
    options = server(host).options()
    assert options["listen_addresses"] == options["synchronous_standby_names"] == ""
    assert options["unix_socket_permissions"] == "0700"
    assert options["archive_mode"] == options["hot_standby"] == "off"
    assert options["max_worker_processes"] == options["max_logical_replication_workers"] == "0"
    assert (options["max_connections"], options["max_prepared_transactions"]) == ("300", "7")
    assert "shared_buffers" not in options and "shared_preload_libraries" not in options


def test_it_archives_when_it_is_to_become_the_cluster(host: Host) -> None:
    options = server(host, archive=True, buffers="64MB").options()
    assert "archive_mode" not in options
    assert options["shared_buffers"] == "64MB"


def test_while_it_recovers_it_tells_which_segment_and_then_it_is_open(host: Host) -> None:
    titles = [f"  77 postgres: pgha-scratch: startup recovering 0000000100000000000000{n:02X}\n" for n in range(3)]
    host.titles, host.states, heard = iter(titles), iter(["standby", "standby", "ready"]), list[Progress]()
    server(host).start(heard.append)
    assert [one.segment for one in heard] == [f"0000000100000000000000{n:02X}" for n in range(3)]
    (started,) = host.said("start")
    assert started[:4] == ("runuser", "-u", "postgres", "--")


def test_one_that_does_not_move_is_an_error_with_the_last_lines_of_its_log(host: Host) -> None:
    host.titles = iter(["77 postgres: pgha-scratch: startup recovering 000000010000000000000001"] * 10**4)

    host.log = "restored log file 1\n"
    with pytest.raises(HostError, match=r"not moved for 600 s, at startup recovering 0+1.*\n.*restored log file 1"):
        server(host).start(lambda progress: None)


def test_one_that_never_comes_up_says_postgresqls_own_reason(host: Host) -> None:
    host.started = Output(1, "", "pg_ctl: could not start server")
    host.log = "[1] FATAL:  recovery ended before configured recovery target was reached\n[1] LOG:  shut down\n"
    with pytest.raises(HostError, match=r"started: recovery ended before configured recovery target was reached$"):
        server(host).start(lambda progress: None)


def test_what_the_caller_raises_ends_the_waiting_and_leaves_it_running(host: Host) -> None:
    def enough(progress: Progress) -> None:
        raise HostError("enough")

    with pytest.raises(HostError, match="enough"):
        server(host).start(enough)
    assert host.said("stop") == []
    assert server(host).running()


def test_a_server_of_an_interrupted_attempt_is_stopped_by_pg_ctl(host: Host) -> None:
    host.write("ready")
    server(host).clean()
    (stopped,) = host.said("stop")
    assert "fast" in stopped
    assert not (host.data / "postmaster.pid").exists()


def test_a_pid_that_is_another_process_by_now_is_left_alone(host: Host) -> None:
    host.write("ready")
    host.args = "postgres -D /somewhere/else"
    server(host).clean()
    assert host.said("stop") == []
    assert not (host.data / "postmaster.pid").exists()


def test_a_server_that_somebody_else_started_is_refused_and_left_running(host: Host) -> None:
    host.write("ready")
    host.args = f"postgres -D {host.data} --config-file={host.data}/postgresql.conf"
    with pytest.raises(HostError, match="pgha has not started it; stop it first"):
        server(host).start(lambda progress: None)
    assert host.said("stop") == []
    assert (host.data / "postmaster.pid").exists()
