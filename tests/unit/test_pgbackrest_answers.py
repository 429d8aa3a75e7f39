"""What a real pgBackRest 2.55.1 said, and what becomes of it. The texts in `pgbackrest/` are its own, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest
from pgha.common.telemetry_backup import BackupSet, RepositorySample
from pgha.states.backups.pgbackrest import PgBackRest
from pgha.states.backups.pgbackrest_answers import dropped, repository, running, why
from pgha.states.backups.pgbackrest_verify import verified

SAID = Path(__file__).parent / "pgbackrest"


def said(name: str) -> str:
    return (SAID / name).read_text()


def info(name: str, *numbers: int) -> list[RepositorySample]:
    return [repository("prod", number, 0, said(f"info-{name}.json"), "", 5.0) for number in numbers or (1,)]


def test_each_repository_has_its_own_backups_wal_and_cipher() -> None:
    one, two = info("backups", 1, 2)
    assert (one.state, one.encrypted, one.system_id, one.version) == ("ok", True, "7712285607058701439", "17")
    assert (one.wal_min, one.wal_max) == ("000000010000000000000001", "000000010000000000000007")
    assert [(b.label, b.type, b.size, b.repo_size) for b in one.backups] == [
        ("20261126-012727F", "full", 23382430, 2799576),
        ("20261126-012727F_20261126-012745D", "diff", 23382430, 408),
    ]
    assert (one.backups[0].began, one.backups[0].ended, one.backups[0].error) == (1795656447.0, 1795656450.0, False)
    assert (two.state, two.encrypted, [b.label for b in two.backups]) == ("ok", False, ["20261126-012731F"])


@pytest.mark.parametrize(
    ("name", "state", "why_it_is"),
    [
        ("no-stanza", "no stanza", ""),
        ("no-backups", "no backups", ""),
        (
            "wrong-passphrase",
            "damaged",
            "if it is encrypted, compare backup.encryption with what it was made with: [FormatError]",
        ),
        ("not-encrypted", "damaged", "if it is encrypted, compare backup.encryption"),
        ("archive-info-gone", "damaged", "[FileMissingError] unable to load info file"),
        (
            "unreachable",
            "unreachable",
            "[HostConnectError] unable to connect to '10.167.0.99:443': [113] No route to host",
        ),
        (
            "clock-off",
            "unreachable",
            "compare this node's clock with the right time: [ProtocolError] HTTP request failed with 403 (Forbidden): "
            "RequestTimeTooSkewed: The difference between the request time and the current time is too",
        ),
        (
            "wrong-key",
            "unreachable",
            "[ProtocolError] HTTP request failed with 403 (Forbidden): InvalidAccessKeyId: The AWS Access Key Id you",
        ),
        ("forbidden", "unreachable", "[PathOpenError] unable to list file info for path '/r6/backup': [13] Permission"),
    ],
)
def test_what_keeps_a_repository_from_being_used_is_told_in_the_tools_words(
    name: str, state: str, why_it_is: str
) -> None:
    (one,) = info(name)
    assert (one.state, one.backups) == (state, ())
    assert one.why.startswith(why_it_is)
    assert bool(one.why) == bool(why_it_is)
    assert "\ufffd" not in one.why


def test_a_repository_that_cannot_be_opened_takes_nothing_from_another() -> None:
    _, two = info("wrong-passphrase", 1, 2)
    assert (two.state, len(two.backups)) == ("ok", 1)


def test_what_follows_an_exchange_with_one_repository_is_told_of_the_others() -> None:
    dialogue = "*** Path/Query ***:\nGET /x\n*** Response Headers ***:\ndate: now"
    text = "ERROR: [103]: unable to find a valid repository:\n  repo1: [ProtocolError] HTTP request failed with 503:\n"
    text += "".join(f"  {line}\n" for line in dialogue.split("\n")) + "  repo2: [HostConnectError] timeout\n"
    told = why(103, text, "")
    assert told.endswith("repo1: [ProtocolError] HTTP request failed with 503: repo2: [HostConnectError] timeout")


def test_an_answer_of_a_store_that_has_no_end_is_read_at_once() -> None:
    pairs = "<Code>a</Code><Message>b</Message>" * 2000
    text = f"ERROR: [103]: failed:\n  *** Path/Query ***:\n  *** Response Content ***:\n  <?xml?>\n  <Error>{pairs}"
    assert "a: b" in why(103, text, "")


def test_the_tools_own_error_124_is_not_taken_for_a_deadline() -> None:
    assert why(124, "", "ERROR: [124]: something unhandled") == "[124] something unhandled"


def test_a_repository_that_has_not_answered_at_the_deadline_is_unreachable_and_told_with_the_seconds() -> None:
    one = repository("prod", 1, 124, "", "runuser did not end within 15 s and was killed", 5.0)
    assert (one.state, one.why) == ("unreachable", "no answer within 15 s")


@pytest.mark.parametrize(("rc", "out"), [(0, "no JSON"), (0, "[]"), (124, ""), (127, "")])
def test_a_tool_that_says_nothing_leaves_a_repository_unreachable(rc: int, out: str) -> None:
    assert repository("prod", 1, rc, out, "it is gone", 5.0).state == "unreachable"


def test_a_repository_of_which_nothing_is_said_is_not_configured() -> None:
    (one,) = info("backups", 3)
    assert (one.state, one.why) == ("unreachable", "it is not configured on this node")


def test_a_running_backup_is_known_by_its_lock_with_how_far_it_is() -> None:
    assert running(said("info-running.json")) == (204996608, 228526236)
    assert running(said("info-backups.json")) is None


def test_an_error_is_one_line_without_what_is_no_text() -> None:
    told = why(29, said("backup-wrong-passphrase.txt"), "")
    assert told.startswith(
        "[029] if it is encrypted, compare backup.encryption with what it was made with: unable to load"
    )
    assert told.count("FormatError") == 1
    assert told.endswith("HINT: has a stanza-create been performed?")
    assert why(50, said("backup-busy.txt"), "") == (
        "[050] unable to acquire lock on file '/tmp/pgbackrest/prod-backup-1.lock': Resource temporarily unavailable "
        "HINT: is another pgBackRest process running?"
    )
    assert PgBackRest.busy == (50,)


def test_dropped_segments_are_counted_once_each() -> None:
    line = "P00   WARN: dropped WAL file '0000000100000000000000{}' because archive queue exceeded 1MB\n"
    assert dropped(line.format("67") * 2 + line.format("68")) == (
        "000000010000000000000067",
        "000000010000000000000068",
    )


# ---- verify

FULL = BackupSet(
    label="20261126-014254F",
    type="full",
    began=1.0,
    ended=2.0,
    size=1,
    repo_size=1,
    wal_first="000000010000000000000008",
    wal_last="000000010000000000000008",
)
FIRST = FULL.model_copy(
    update={
        "label": "20261126-012727F",
        "wal_first": "000000010000000000000002",
        "wal_last": "000000010000000000000003",
    }
)
DIFF = FIRST.model_copy(
    update={
        "label": "20261126-012727F_20261126-012745D",
        "type": "diff",
        "wal_first": "000000010000000000000006",
        "wal_last": "000000010000000000000007",
    }
)


def problems(name: str, *backups: BackupSet, fulls: int = 2) -> tuple[str, ...]:
    return verified(0, said(f"verify-{name}.txt"), "", backups, fulls).problems


def test_what_is_sound_has_no_problem() -> None:
    assert problems("sound", FULL) == ()
    assert problems("sound-two", FIRST, DIFF) == ()
    assert problems("empty") == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (
            "file-damaged",
            (
                "backup 20261126-014254F is invalid: 975 of 976 files are valid",
                "backup 20261126-014254F: 1 checksum invalid",
                "invalid checksum '20261126-014254F/bundle/3'",
            ),
        ),
        ("manifest-gone", ("backup 20261126-014254F is manifest missing: 0 of 0 files are valid",)),
        ("backup-gone", ("backup 20261126-014254F is listed, and its files are gone",)),
        ("no-archive-info", ("No usable archive.info file",)),
    ],
)
def test_a_damaged_backup_is_found(name: str, found: tuple[str, ...]) -> None:
    assert set(found) <= set(problems(name, FULL))


def test_a_bundle_that_is_gone_is_one_file_however_much_was_in_it() -> None:
    found = problems("bundle-gone", FULL)
    assert sum("bundle" in one for one in found) == 1
    assert any(one.startswith("backup 20261126-014254F is invalid") for one in found)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("wal-damaged", "WAL of 17-1: 1 checksum invalid"),
        ("wal-truncated", "WAL of 17-1: 1 other"),
        ("wrong-passphrase", "No usable backup.info file"),
    ],
)
def test_damage_that_the_tool_counts_is_told(name: str, found: str) -> None:
    assert found in problems(name)


@pytest.mark.parametrize("name", ["wal-needed-gone", "no-wal"])
def test_a_backup_whose_own_wal_is_gone_is_no_backup_although_the_tool_is_content(name: str) -> None:
    assert "status: ok" in said(f"verify-{name}.txt")
    (found,) = problems(name, FULL)
    assert found.startswith("backup 20261126-014254F cannot be restored: of its WAL, 000000010000000000000008 to")


def test_wal_that_is_missing_between_two_segments_is_found_although_the_tool_is_content() -> None:
    assert "status: ok" in said("verify-wal-gap.txt")
    assert problems("wal-gap", DIFF, FIRST)[-1] == (
        "WAL is missing between 000000010000000000000002 and 000000010000000000000004"
    )


def test_wal_that_has_expired_before_the_full_backups_for_which_it_is_kept_is_not_missing() -> None:
    later = {"wal_first": "000000010000000000000006", "wal_last": "000000010000000000000007"}
    assert problems("wal-gap", FIRST.model_copy(update=later), DIFF, fulls=1) == ()


def ranges(*pairs: tuple[str, str]) -> str:
    lines = [f"P00 DETAIL: archiveId: 17-1, wal start: {a:0>24}, wal stop: {b:0>24}" for a, b in pairs]
    return "\n".join(
        [*lines, "status: ok", f"  backup: {FIRST.label}, status: valid, total files checked: 1, " + VALID]
    )


VALID = "total valid files: 1"
TL1, TL2 = "00000001000000000000000", "00000002000000000000000"
LAST_OF_LOG, NEXT_LOG = "0000000100000000000000FF", "000000020000000100000000"


@pytest.mark.parametrize(
    ("pairs", "whole"),
    [
        ([(TL1 + "1", TL1 + "7"), (TL2 + "7", TL2 + "9")], True),
        ([(TL1 + "1", TL1 + "7"), (TL2 + "8", TL2 + "9")], True),
        ([(TL1 + "1", TL1 + "7"), (TL2 + "4", TL2 + "9")], True),
        ([(TL1 + "1", LAST_OF_LOG), (NEXT_LOG, NEXT_LOG)], True),
        ([(TL1 + "1", TL1 + "5"), (TL2 + "8", TL2 + "9")], False),
        ([(TL1 + "1", TL1 + "7"), (TL2 + "7", TL2 + "7"), (TL2 + "9", TL2 + "9")], False),
    ],
)
def test_a_new_timeline_goes_on_where_an_old_one_has_come_to(pairs: list[tuple[str, str]], whole: bool) -> None:
    found = verified(0, ranges(*pairs), "", (FIRST,), 2).problems
    assert [one for one in found if one.startswith("WAL is missing")] == ([] if whole else list(found))
    assert bool(found) != whole


def test_an_answer_that_says_nothing_is_no_proof() -> None:
    (found,) = problems("too-quiet")
    assert found.startswith("pgBackRest says nothing that could be read")
    assert verified(56, "P00  ERROR: [056]: unable to find primary\n", "", (), 2).problems == (
        "[056] unable to find primary",
    )
