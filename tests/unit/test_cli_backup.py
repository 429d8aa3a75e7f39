"""Backups as a person sees them."""

from __future__ import annotations

from typing import Any

from pgha.master.cli.screen import Look
from pgha.master.cli.show_backup import render_line, render_list

WIDE = Look(width=200)
FULL = {"label": "A", "type": "full", "ended": 1_800_000_000.0, "age_s": 7200.0, "seconds": 60.0}
REPOSITORY = {"number": 1, "where": "s3 b", "state": "ok", "full": FULL}
BACKUP: dict[str, Any] = {
    "repositories": [REPOSITORY, {**REPOSITORY, "number": 2, "full": {**FULL, "age_s": 60.0}}],
    "archiver": {"ok": True, "archived_s": 38.0, "waiting": 0},
    "lost_now": {"bytes": 1536, "seconds": 38.0},
    "drill": {"ok": True, "age_s": 4 * 86400.0},
    "running": [],
}


def test_the_line_tells_the_oldest_last_full_wal_the_proof_and_what_would_be_gone() -> None:
    line, lost = render_line(BACKUP)
    assert line.startswith("Backup    last full 20")
    assert line.endswith("(2 h 0 m), last WAL 38 s ago, drill ok 4 d 0 h ago")
    assert lost.strip() == "were every database lost now, what would be gone: 1.5 KiB, at most the last 38 s"


def test_a_cluster_without_backups_has_no_such_line() -> None:
    assert render_line(None) == []


def test_what_is_wrong_is_in_the_line_in_words() -> None:
    line, lost = render_line(
        {
            "repositories": [{"number": 2, "state": "no backups", "full": None}],
            "archiver": {"ok": False, "archived_s": None, "waiting": 5},
            "lost_now": None,
            "drill": None,
            "running": [{"node": "n", "type": "diff", "seconds": 4.0, "done_bytes": 1024, "total_bytes": 2048}],
        }
    )
    assert line == (
        "Backup    no full in repository 2: no backups, no WAL yet, ARCHIVING FAILS, 5 waiting, no drill yet, "
        "diff on n for 4.0 s: 1 KiB of 2 KiB"
    )
    assert lost.endswith("what would be gone: everything, there is no backup")
    nothing = {**BACKUP, "lost_now": {"bytes": 0, "seconds": 0.0}}
    assert render_line(nothing)[1].endswith("what would be gone: nothing")
    unknown = {**BACKUP, "lost_now": None, "repositories": [{"number": 1, "state": "damaged", "full": None}]}
    assert render_line(unknown)[1].endswith("what would be gone: unknown")
    failed = {**BACKUP, "drill": {"ok": False, "age_s": 60.0}}
    assert "drill FAILED 1 m 00 s ago" in render_line(failed)[0]


def test_the_list_has_a_row_for_each_backup_and_names_repositories_that_cannot_be_seen() -> None:
    lines = render_list(
        {
            "repositories": [REPOSITORY, {"number": 2, "where": "n:/p", "state": "unreachable", "why": "no route"}],
            "backups": [{"repository": 1, **FULL, "size": 2048, "repo_size": 1024, "damaged_pages": True}],
        },
        WIDE,
    )
    assert lines[0].split() == ["REPOSITORY", "LABEL", "TYPE", "WHEN", "TOOK", "SIZE", "IN", "REPOSITORY"]
    assert "1 s3 b" in lines[1]
    assert "full, damaged pages" in lines[1]
    assert lines[2] == "Repository 2 (n:/p): unreachable: no route"


def test_without_any_backup_the_list_says_so() -> None:
    answer = {"repositories": [{"number": 1, "where": "s3 b", "state": "unknown", "why": ""}], "backups": []}
    assert render_list(answer, WIDE) == ["No backup is known.", "Repository 1 (s3 b): unknown"]
