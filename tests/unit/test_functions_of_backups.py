"""The tool is asked on the node as the database's user, its words count and its exit code does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pgha.common import installation
from pgha.common.errors import HostError, UserError
from pgha.common.installation import Installation
from pgha.common.results import Outcome
from pgha.minion.functions import Call, Doors, backups, call
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem

SAID = Path(__file__).parent / "pgbackrest"
HERE = Installation(
    driver="pgbackrest",
    stanza="prod",
    node="witness-node",
    operates=(1,),
    repositories=(1,),
    data=False,
    data_directory="",
    bin_dir="",
    port=5432,
    writes_port=5433,
    standby=True,
    data_nodes=("pg-node1",),
)


class Node(FakeSystem):
    info = "info-backups.json"

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        assert "info" in argv
        return Output(0, (SAID / self.info).read_text())


def node(info: str = "info-backups.json") -> Node:
    made = Node()
    made.info = info
    made.files[installation.PATH] = FileFacts("file", HERE.model_dump_json(), "root", "root", 0o644)
    return made


def ask(system: FakeSystem, function: str, *words: str) -> Outcome:
    doors = Doors(system, lambda stream, text: None, lambda: False, lambda sha256, size, file: None)
    return call(Call(function=function, arguments=words), doors)


Says = Callable[[int, str], list[tuple[str, ...]]]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Says:
    """What the tool says when it is run; gives back the list of what was run."""

    def says(rc: int, text: str) -> list[tuple[str, ...]]:
        run: list[tuple[str, ...]] = []

        def stream(
            argv: tuple[str, ...], timeout_s: float, output: Callable[[str, str], None], cancelled: Callable[[], bool]
        ) -> tuple[int, str]:
            run.append(argv)
            output("stdout", text)
            return rc, ""

        monkeypatch.setattr(backups, "stream", stream)
        return run

    return says


def test_a_sound_repository_is_read_as_the_databases_user(tool: Says) -> None:
    run = tool(0, (SAID / "verify-sound-two.txt").read_text())
    outcome = ask(node(), "backup.verify", "1", "2")
    assert (outcome.ok, outcome.data) == (True, {"problems": [], "backups": 2})
    (argv,) = run
    assert argv[:5] == ("runuser", "-u", "postgres", "--", "pgbackrest")
    assert {"verify", "--repo=1", "--verbose", "--log-level-console=detail"} <= set(argv)


def test_a_problem_fails_although_the_tool_ends_with_zero(tool: Says) -> None:
    tool(0, (SAID / "verify-wal-gap.txt").read_text())
    outcome = ask(node(), "backup.verify", "1", "2")
    assert (outcome.ok, outcome.exit_code) == (False, 1)
    assert "WAL is missing between 000000010000000000000002 and 000000010000000000000004" in outcome.message


def test_a_repository_that_cannot_be_opened_is_not_read(tool: Says) -> None:
    run = tool(0, "")
    outcome = ask(node("info-unreachable.json"), "backup.verify", "1", "2")
    assert outcome.message.startswith("it is unreachable: [HostConnectError] unable to connect to")
    assert run == []


@pytest.mark.parametrize("words", [("2", "2"), ("1", "0"), ("x", "2"), ("1",)])
def test_what_is_no_repository_of_this_node_is_refused(tool: Says, words: tuple[str, ...]) -> None:
    run = tool(0, "")
    with pytest.raises(UserError, match=r"it is called as: backup\.verify REPOSITORY FULLS"):
        ask(node(), "backup.verify", *words)
    assert run == []


def test_a_check_that_fails_says_why_in_the_tools_words(tool: Says) -> None:
    tool(27, "P00  ERROR: [027]: pg and repo hosts cannot both be configured as remote\n")
    outcome = ask(node(), "backup.check")
    assert (outcome.ok, outcome.exit_code) == (False, 27)
    assert outcome.message == "[027] pg and repo hosts cannot both be configured as remote"
    tool(0, "P00   INFO: check command end: completed successfully\n")
    assert ask(node(), "backup.check").ok


def test_a_node_without_a_part_in_backups_says_so() -> None:
    with pytest.raises(HostError, match=r"no backups are made here: /etc/pgha/backup\.json is missing"):
        ask(FakeSystem(), "backup.check")
