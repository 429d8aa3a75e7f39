"""The CLI against a master and two minions, all of them real processes."""

from __future__ import annotations

import json
import signal
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Master


def end_of(said: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return value


def say(path: Path, text: bytes) -> dict[str, Any]:
    """The End that these bytes get from the local socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return end_of(stream.read())


def test_all_minions_answer_a_ping(pair: Master) -> None:
    said = pair.cli("run", "*", "ping")
    assert said.code == 0, said.text
    assert "2 ok, 0 failed, 0 no answer" in said.err


def test_the_two_streams_and_the_exit_code_arrive_apart(pair: Master) -> None:
    said = pair.cli("run", "n1", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert said.code == 1
    assert said.out == "n1  out\n"
    assert "n1  err\n" in said.err
    assert "exit code 3" in said.err


def test_a_command_that_fails_on_one_of_two_nodes_is_partly_failed(pair: Master) -> None:
    root = pair.minions["n1"].root
    pid = pair.minions["n1"].process.pid if pair.minions["n1"].process else 0
    assert root.is_dir()
    said = pair.cli("run", "*", "--", "sh", "-c", f"test $PPID -eq {pid}")
    assert said.code == 4
    assert "1 ok, 1 failed, 0 no answer" in said.err


def test_a_target_that_nothing_matches_is_its_own_exit_code(pair: Master) -> None:
    said = pair.cli("run", "nobody*", "ping")
    assert said.code == 5
    assert "nobody*" in said.err


def test_a_program_that_is_not_there_is_told_as_a_shell_would(pair: Master) -> None:
    said = pair.cli("run", "n1", "--", "no-such-program-here")
    assert said.code == 1
    assert "exit code 127" in said.err
    assert "no-such-program-here: command not found" in said.err


def test_a_timeout_ends_the_whole_process_group(pair: Master, until: Any, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = f"sleep 300 & echo $! > {told}; wait"
    said = pair.cli("run", "n1", "--timeout", "1", "--", "sh", "-c", script)
    assert said.code == 1
    assert "still running after 1 s, ended" in said.err
    pid = int(told.read_text())
    until("the sleeping child gone", lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_ten_megabytes_of_output_arrive_whole_and_in_order(pair: Master) -> None:
    """Far more events than a minion may have under way at once."""
    said = pair.cli("run", "n1", "--", "seq", "1", "1300000", seconds=80)
    assert said.code == 0, said.err[-500:]
    lines = said.out.splitlines()
    assert len(lines) == 1_300_000
    assert lines[0] == "n1  1"
    assert lines[-1] == "n1  1300000"
    assert all(line == f"n1  {number}" for number, line in enumerate(lines, 1))
    assert pair.answers("n2")


def test_ctrl_c_detaches_and_the_job_goes_on(pair: Master, until: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"echo begun; while [ ! -e {go} ]; do sleep 0.05; done; echo the rest"
    cli = pair.begin("run", "n1", "--", "sh", "-c", script)
    assert cli.stdout is not None
    while "begun" not in (line := cli.stdout.readline()):
        assert line, "it ended before it began"
    cli.send_signal(signal.SIGINT)
    _, err = cli.communicate(timeout=10)
    assert cli.returncode == 130
    identity = err.split("jobs show ")[1].split()[0]
    go.touch()
    shown = until("the rest", lambda: said if "the rest" in (said := pair.cli("jobs", "show", identity)).out else None)
    assert "n1  begun" in shown.out
    listed = until("its end", lambda: [j for j in _jobs(pair) if j["id"] == identity and j["state"] == "done"])
    assert listed[0]["nodes"] == 1


def _jobs(master: Master) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = master.ask("jobs.list", limit=50)[-1]["data"]["jobs"]
    return jobs


def test_jobs_list_shows_what_ran_newest_first(pair: Master) -> None:
    pair.cli("run", "n1", "--", "true")
    pair.cli("run", "n2", "--", "false")
    first, second = _jobs(pair)[:2]
    assert (first["what"], first["state"]) == ("run n2 -- false", "failed")
    assert (second["what"], second["state"]) == ("run n1 -- true", "done")
    assert "run n2 -- false" in pair.cli("jobs", "list").out


def test_an_unknown_job_is_a_sentence_and_usage(pair: Master) -> None:
    said = pair.cli("jobs", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert said.code == 2
    assert "no job has the id" in said.err


def test_the_stores_of_both_sides_are_for_their_owner_alone(pair: Master) -> None:
    for path in (pair.database, pair.minions["n1"].journal):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"17\n",
        b'{"args": {}}\n',
        b'{"verb": []}\n',
        b'{"verb": "keys.list", "args": 7}\n',
        b'{"verb": "no.such"}\n',
        b"[" * 100_000 + b"\n",
        b'{"verb": "run", "args": {"target": "n1", "surprise": 1}}\n',
        b'{"verb": "run", "args": {"target": "((", "function": "ping"}}\n',
    ],
    ids=[
        "newline",
        "nothing",
        "bytes",
        "list",
        "number",
        "noverb",
        "listverb",
        "args",
        "unknown",
        "deep",
        "extra",
        "dsl",
    ],
)
def test_garbage_on_the_local_socket_gets_an_end_with_a_message(pair: Master, garbage: bytes) -> None:
    end = say(pair.socket_path, garbage)
    assert end["kind"] == "end"
    assert end["exit"] == 2
    assert end["message"]
    assert "internal error" not in end["message"]


def test_a_request_without_end_is_refused_and_the_daemon_lives_on(pair: Master) -> None:
    try:
        end = say(pair.socket_path, b"x" * (9 * 1024 * 1024))
    except (ConnectionResetError, BrokenPipeError):
        pass  # it closed while more was coming, which is as good
    else:
        assert "4194304 bytes" in end["message"]
    assert pair.answers("n1")


def test_a_second_master_on_the_same_root_is_refused_with_a_sentence(pair: Master) -> None:
    said = pair.cli("serve", seconds=20)
    assert said.code == 1
    assert "another pgha-master serves already" in said.err
    assert "Traceback" not in said.text
    assert pair.answers("n1")


def test_a_secret_is_neither_in_the_store_nor_in_a_log_nor_in_a_listing(pair: Master) -> None:
    canary = "canary-4f1d0c9b"
    said = pair.cli("secrets", "set", "prod/postgresql/superuser", stdin=canary + "\n")
    assert said.code == 0, said.text
    assert pair.cli("secrets", "reveal", "prod/postgresql/superuser", "--yes").out == canary + "\n"
    assert canary not in pair.cli("secrets", "list", "prod").text
    for folder in (pair.root, *(one.root for one in pair.minions.values())):
        for path in folder.rglob("*"):
            if path.is_file():
                assert canary.encode() not in path.read_bytes(), path


def test_without_a_daemon_the_cli_says_what_to_do(tmp_path: Path, pair: Master) -> None:
    import dataclasses

    elsewhere = dataclasses.replace(pair, root=tmp_path)
    said = elsewhere.cli("run", "*", "ping")
    assert said.code == 8
    assert "Start it: " in said.err and "pgha-master serve" in said.err
    assert "Traceback" not in said.text
