from __future__ import annotations

import base64
import configparser
import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pgha.common import installation
from pgha.common.errors import UserError
from pgha.states.backups import received
from pgha.states.catalog import compile
from pgha.states.document import Context
from pgha.states.resources.files import File
from pgha.states.resources.firewall import Firewall
from pgha.states.resources.patroni import PatroniConfig
from pgha.states.resources.stanza import Stanza
from pgha.states.software import packages

Build = Callable[..., Context]
S3: dict[str, Any] = {"s3": {"bucket": "b", "path": "/prod", "credentials": {"key": "env:K", "secret": "env:S"}}}
POSIX: dict[str, Any] = {"posix": {"on": "witness-node"}}
MAIN, WIDE = "/etc/pgbackrest/pgbackrest.conf", "/etc/pgbackrest/backups.conf"


def file(context: Context, path: str) -> File:
    return next(r for r in compile(context) if isinstance(r, File) and r.path == path)


def settings(context: Context, path: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read_string(file(context, path).content)
    return {section: dict(parser[section]) for section in parser.sections()}


def named(context: Context, identity: str) -> Any:
    return next(resource for resource in compile(context) if resource.id == identity)


def ids(context: Context) -> list[str]:
    return [resource.id for resource in compile(context)]


def test_a_data_node_has_its_own_database_local_and_its_peer_over_tls(context_of: Build) -> None:
    told = settings(context_of("pg-node2", backup=S3), MAIN)["prod"]
    assert "pg1-host" not in told  # on the database's own host it would keep all WAL from the archive
    assert told["pg1-path"] == "/var/lib/postgresql/17/main"
    assert (told["pg2-host"], told["pg2-host-type"]) == ("pg-node1", "tls")


def test_a_file_never_has_a_database_and_a_repository_that_are_both_elsewhere(context_of: Build) -> None:
    context = context_of("pg-node1", backup={**S3, **POSIX})
    main, wide = settings(context, MAIN), settings(context, WIDE)
    assert main["global"]["repo2-host"] == "witness-node" and "pg2-host" not in main["prod"]
    assert "repo2-host" not in wide["global"] and wide["prod"]["pg2-host"] == "pg-node2"
    assert WIDE not in [r.path for r in compile(context_of("pg-node1", backup=POSIX)) if isinstance(r, File)]


def test_who_holds_a_repository_makes_its_backups_from_all_databases(context_of: Build) -> None:
    context = context_of("witness-node", backup=POSIX)
    told = settings(context, WIDE)
    assert (told["prod"]["pg1-host"], told["prod"]["pg2-host"]) == ("pg-node1", "pg-node2")
    assert told["global"]["repo1-path"] == "/var/lib/pgbackrest"
    assert "service:pgbackrest" in ids(context) and "pgbackrest" in packages(
        context.cluster, context.node, context.facts
    )
    known = json.loads(file(context, installation.PATH).content)
    assert (known["operates"], known["data"]) == ([1], False)


def test_backups_are_encrypted_and_no_secret_stands_in_the_text(context_of: Build) -> None:
    config = file(context_of(backup=S3), MAIN)
    assert "repo1-cipher-type=aes-256-cbc" in config.content
    assert set(config.secrets) == {"cipher1", "repo1-key", "repo1-secret"}
    assert "password-of" not in config.content and config.mode == 0o640
    assert "cipher" not in file(context_of(backup={**S3, "encryption": {"cipher": "none"}}), MAIN).content


BOTH = {**S3, **POSIX}


def test_of_two_repositories_each_can_be_opened_by_every_data_node(context_of: Build) -> None:
    told = settings(context_of("pg-node1", backup=BOTH), MAIN)["global"]
    assert told["repo2-host"] == "witness-node"
    assert told["repo1-cipher-type"] == told["repo2-cipher-type"] == "aes-256-cbc"


def test_one_repository_that_is_away_holds_up_the_archive_of_the_other_as_shortly_as_can_be(context_of: Build) -> None:
    assert settings(context_of(backup=BOTH), MAIN)["global:archive-push"] == {
        "io-timeout": "5",
        "job-retry": "0",
        "process-max": "8",
    }
    assert settings(context_of("witness-node", backup=BOTH), WIDE)["global:backup"] == {"archive-timeout": "300"}
    assert not [section for section in settings(context_of(backup=S3), MAIN) if section.startswith("global:")]


def test_wal_is_never_dropped_unless_the_definition_says_so(context_of: Build) -> None:
    assert "archive-push-queue-max" not in file(context_of(backup=S3), MAIN).content
    limited = settings(context_of(backup={**S3, "archive_push_queue_max": "4GiB"}), MAIN)
    assert limited["global"]["archive-push-queue-max"] == str(4 * 1024**3)


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"s3": {"bucket": "b"}}, {"repo1-s3-key-type": "auto", "repo1-s3-endpoint": "s3.us-east-1.amazonaws.com"}),
        (
            {"azure": {"container": "c", "account": "a", "credentials": {"key": "env:K"}}},
            {"repo1-type": "azure", "repo1-azure-key": "{{repo1-key}}"},
        ),
        (
            {"gcs": {"bucket": "b", "credentials": {"key": "env:K"}}},
            {"repo1-gcs-key": "/etc/pgbackrest/repo1.key", "repo1-gcs-key-type": "service"},
        ),
        (
            {"sftp": {"host": "h", "user": "u", "host_fingerprint": "a" * 64, "credentials": {"key": "env:K"}}},
            {"repo1-sftp-private-key-file": "/etc/pgbackrest/repo1.key", "repo1-sftp-host-fingerprint": "a" * 64},
        ),
        (
            {"s3": {"bucket": "b", "ca": "/etc/pgha/s3.crt", "port": 9000, "retention": {"full": 4, "archive": 2}}},
            {
                "repo1-storage-ca-file": "/etc/pgbackrest/repo1-ca.crt",
                "repo1-storage-port": "9000",
                "repo1-retention-full": "4",
                "repo1-retention-archive": "2",
            },
        ),
    ],
    ids=["s3 by role", "azure", "gcs", "sftp", "own authority"],
)
def test_each_kind_of_repository_has_the_options_of_its_tool(
    context_of: Build, section: dict[str, Any], wanted: dict[str, str]
) -> None:
    told = settings(context_of(backup=section), MAIN)["global"]
    assert {key: told.get(key) for key in wanted} == wanted


def test_a_fingerprint_is_taken_as_ssh_keygen_writes_it(context_of: Build) -> None:
    written = "SHA256:ecRs7RqTGvqfMH9DpQaAQGVbQMhyqqnOPqEUeQ0xZ4Y"
    section = {"sftp": {"host": "h", "user": "u", "host_fingerprint": written, "credentials": {"key": "env:K"}}}
    told = settings(context_of(backup=section), MAIN)["global"]["repo1-sftp-host-fingerprint"]
    assert base64.b64encode(bytes.fromhex(told)).decode().rstrip("=") == written.removeprefix("SHA256:")


def test_patroni_archives_restores_and_makes_replicas_with_the_tool(context_of: Build) -> None:
    context = context_of(backup=S3)
    dynamic = next(r for r in compile(context) if isinstance(r, PatroniConfig)).settings["postgresql"]
    assert dynamic["parameters"]["archive_mode"] == "on"
    assert dynamic["recovery_conf"]["restore_command"].startswith("timeout 20 pgbackrest")
    text = named(context, "patroni_file:/etc/patroni/config.yml").file.content
    assert "remove_data_directory_on_rewind_failure: true" in text and "keep_data: true" in text
    kept = context_of(backup=S3, patroni={"on_rewind_failure": "keep"})
    text = named(kept, "patroni_file:/etc/patroni/config.yml").file.content
    assert "remove_data_directory_on_rewind_failure: false" in text


class Standby:
    """A data directory in which these segments count as archived, and a server that has received WAL up to `end`."""

    def __init__(self, folder: Path, context: Context, segments: Sequence[str], end: str) -> None:
        self.folder, self.status = folder, folder / "pg_wal/archive_status"
        self.status.mkdir(parents=True)
        for name in segments:
            (self.status / f"{name}.done").touch()
            (self.status.parent / name).touch()
        self.script = _executable(folder / "script", file(context, received.PATH).content)
        _executable(folder / "psql", f"#!/bin/sh\necho '{16 * MIB} {end.lower()}'\n")

    def take_over(self, most: int = received.MOST) -> list[str]:
        """The names of what is to be archived then."""
        subprocess.run([str(self.script), str(self.folder), str(self.folder), "5432", str(most)], check=True)
        return sorted(path.stem for path in self.status.glob("*.ready"))


MIB = 1024**2


def _executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_who_takes_over_archives_the_newest_whole_segments_that_it_has_received(
    context_of: Build, tmp_path: Path
) -> None:
    names = [f"0000000200000001{number:08X}" for number in range(0xE0, 0x110)]
    standby = Standby(tmp_path, context_of(backup=S3), names, end=names[-1][8:])
    (standby.status / f"{names[5]}.00000028.backup.done").touch()
    assert standby.take_over(20 * 16 * MIB) == names[-21:-1]  # of the last one only a part is there


def test_of_a_segment_in_which_a_timeline_ended_only_the_later_one_is_archived(
    context_of: Build, tmp_path: Path
) -> None:
    """PostgreSQL takes the part that it received of the earlier one for archived, too."""
    first, second = "000000010000000000000007", "000000020000000000000007"
    names = ["000000010000000000000006", first, second, "000000020000000000000008"]
    standby = Standby(tmp_path, context_of(backup=S3), names, end="0000000000000009")
    assert standby.take_over() == [names[0], second, names[3]]


def test_who_takes_over_archives_histories_so_that_a_recovery_finds_all_timelines(
    context_of: Build, tmp_path: Path
) -> None:
    standby = Standby(tmp_path, context_of(backup=S3), [], end="0000000000000009")
    (standby.status / "00000002.history.done").touch()
    assert standby.take_over() == ["00000002.history"]


def test_it_is_never_as_much_as_makes_the_tool_throw_wal_away(context_of: Build) -> None:
    context = context_of(backup={**S3, "archive_push_queue_max": f"{256 * MIB}"})
    assert shlex.split(received.command(context.cluster, "/d", "/b"))[-1] == str(128 * MIB)


@pytest.mark.parametrize("broken", ["exit 1", "sleep 60"], ids=["fails", "hangs"])
def test_a_member_leads_whatever_comes_of_that(
    broken: str, context_of: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = context_of(backup=S3).cluster
    script = _executable(tmp_path / "script", f"#!/bin/sh\n{broken}\n")
    monkeypatch.setattr(received, "LIMIT_S", 0.2)
    for name in (script, tmp_path / "missing"):
        monkeypatch.setattr(received, "PATH", str(name))
        words = shlex.split(received.command(cluster, "/data", "/bin"))
        assert subprocess.run(words, stderr=subprocess.DEVNULL, timeout=20).returncode == 0


def test_patroni_has_it_done_by_who_is_about_to_lead(context_of: Build) -> None:
    text = named(context_of(backup=S3), "patroni_file:/etc/patroni/config.yml").file.content
    (line,) = [line for line in text.splitlines() if "pre_promote" in line]
    assert received.PATH in line
    assert "pre_promote" not in named(context_of(), "patroni_file:/etc/patroni/config.yml").file.content


def test_without_backups_nothing_is_archived_and_nothing_of_them_stays(context_of: Build) -> None:
    context = context_of()
    dynamic = next(r for r in compile(context) if isinstance(r, PatroniConfig)).settings["postgresql"]
    assert "archive_mode" not in dynamic["parameters"] and "recovery_conf" not in dynamic
    assert "absent:/etc/pgha/backup.json" in ids(context) and "pgbackrest" not in packages(
        context.cluster, context.node, context.facts
    )
    assert named(context, "timer:pgha-backup-full").absent


@pytest.mark.parametrize(("node", "numbers"), [("pg-node1", (1,)), ("witness-node", (2,))])
def test_a_node_makes_repositories_ready_that_it_reaches_itself(
    context_of: Build, node: str, numbers: tuple[int, ...]
) -> None:
    (stanza,) = [r for r in compile(context_of(node, backup={**S3, **POSIX})) if isinstance(r, Stanza)]
    assert stanza.numbers == numbers


def test_the_firewall_lets_in_those_with_a_database_or_a_repository(context_of: Build) -> None:
    def sources(node: str, backup: dict[str, Any]) -> set[str]:
        (wall,) = [r for r in compile(context_of(node, backup=backup)) if isinstance(r, Firewall)]
        return {rule.source for rule in wall.rules if rule.port == 8432}

    assert sources("pg-node1", S3) == {"10.77.2.12"}
    assert sources("pg-node1", POSIX) == {"10.77.2.12", "10.77.3.13"}
    assert sources("witness-node", S3) == set()


def test_a_type_without_a_time_has_no_timer(context_of: Build) -> None:
    context = context_of(backup={**S3, "schedule": {"full": "Sat 03:00", "diff": None, "timezone": "Europe/Berlin"}})
    full = named(context, "unit:pgha-backup-full.timer")
    assert "OnCalendar=Sat 03:00 Europe/Berlin" in full.content and "Persistent=true" in full.content
    assert named(context, "timer:pgha-backup-diff").absent


def test_what_an_older_pgbackrest_does_not_know_is_left_out_or_told(context_of: Build) -> None:
    old = {"os_id": "debian", "os_version": "12", "os_codename": "bookworm"}
    told = settings(context_of("pg-node1", old, backup=S3), MAIN)["global"]
    assert "repo1-block" not in told and told["repo1-bundle"] == "y"
    sftp = {"sftp": {"host": "h", "user": "u", "host_fingerprint": "a" * 64, "credentials": {"key": "env:K"}}}
    with pytest.raises(UserError, match=r"needs pgBackRest 2\.46, and this system carries 2\.45"):
        compile(context_of("pg-node1", old, backup=sftp))
