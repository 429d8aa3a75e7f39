from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pgha.states.backups.driver import Argv, Target
from pgha.states.backups.pgbackrest import PgBackRest

SETS = "--recovery-option=restore_command="


def restore(repository: int) -> Argv:
    return PgBackRest().restore("prod", Target(), "/data/new", archive=True, delta=False, repository=repository)


@pytest.mark.parametrize(("ended", "seen"), [(0, 0), (1, 1), (103, 255), (25, 255)])
def test_a_recovery_takes_only_a_segment_that_is_not_there_for_the_end_of_wal(
    ended: int, seen: int, tmp_path: Path
) -> None:
    """PostgreSQL goes on after 1 and gives up after 255."""
    tool = tmp_path / "pgbackrest"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit {ended}\n')
    tool.chmod(0o755)
    (command,) = [word.removeprefix(SETS) for word in restore(2) if word.startswith(SETS)]
    line = command.replace("%f", "000000010000000000000007").replace("%p", "pg_wal/RECOVERYXLOG")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["/bin/sh", "-c", line], env=path, check=False).returncode == seen
    asked = (tmp_path / "asked").read_text().split()
    assert {"--stanza=prod", "archive-get", "--repo=2", "--pg1-path=/data/new"} <= set(asked)
    assert asked[-2:] == ["000000010000000000000007", "pg_wal/RECOVERYXLOG"]


def test_from_whichever_repository_the_tool_writes_its_own_command() -> None:
    assert not [word for word in restore(0) if word.startswith((SETS, "--repo"))]
