from __future__ import annotations

import json
import threading

import pytest
from pgha.common.errors import HostError
from pgha.states.backups.driver import Argv
from pgha.states.backups.told import ask
from pgha.states.backups.tools import driver
from pgha.states.system import Output

TOOL = driver("pgbackrest")


def number_of(argv: Argv) -> int:
    return next(int(word.removeprefix("--repo=")) for word in argv if word.startswith("--repo="))


def test_repositories_are_asked_at_once_and_answer_in_their_order() -> None:
    """Each answer waits for the other question, so one after the other there would be none."""
    both = threading.Barrier(2, timeout=10)

    def run(argv: Argv) -> Output:
        both.wait()
        number = number_of(argv)
        if number == 1:
            return Output(103, "", "ERROR: [103]: it is away")
        told = {"name": "prod", "repo": [{"key": 2, "cipher": "none", "status": {"code": 2, "message": "said"}}]}
        return Output(0, json.dumps([told]))

    told = ask(TOOL, "prod", (1, 2), run, lambda: 5.0)
    assert [(one.number, one.state) for one in told.repositories] == [(1, "unreachable"), (2, "no backups")]
    assert told.at == 5.0


def test_what_keeps_one_from_being_asked_is_raised() -> None:
    def run(argv: Argv) -> Output:
        raise HostError("no room for another process")

    with pytest.raises(HostError, match="no room"):
        ask(TOOL, "prod", (1, 2), run, lambda: 5.0)


def test_nothing_to_ask_is_answered_too() -> None:
    assert ask(TOOL, "prod", (), lambda argv: Output(0), lambda: 5.0).repositories == ()
