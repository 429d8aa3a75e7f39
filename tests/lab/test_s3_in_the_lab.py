"""A store of the lab on a real node: pgBackRest trusts it, it keeps what it was given, and it can fail in every way.

In the order of this file: a PostgreSQL with its default cluster, backed up to the store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from labsite import STORE, Said, Site, wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="a lab needs systemd-nspawn: lab doctor"),
]

CONFIGURATION = """
[global]
repo1-type=s3
repo1-path=/backup
repo1-s3-bucket={bucket}
repo1-s3-endpoint={endpoint}
repo1-s3-region={region}
repo1-s3-key={key}
repo1-s3-key-secret={key_secret}
repo1-s3-uri-style=path
repo1-storage-port={port}
repo1-storage-ca-file=/etc/s3-ca.crt
repo1-retention-full=2
repo1-bundle=y
start-fast=y
io-timeout=2
db-timeout=60
protocol-timeout=61
[main]
pg1-path=/var/lib/postgresql/17/main
"""
INSTALL = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io install postgresql-17 pgbackrest
cat >> /etc/postgresql/17/main/postgresql.conf <<END
archive_mode = on
archive_command = 'pgbackrest --stanza=main archive-push %p'
END
systemctl restart postgresql@17-main
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lab = Site(f"b{os.getpid()}", tmp_path_factory.mktemp("store"))
    try:
        lab.boot([{"name": "db"}, STORE], "--without-pgha")
        lab.lab("push", "db", lab.store["ca_file"], "/etc/s3-ca.crt")
        configuration = lab.root / "pgbackrest.conf"
        configuration.write_text(CONFIGURATION.format(**lab.store))
        lab.ok("db", "sh", "-c", INSTALL)
        lab.lab("push", "db", str(configuration), "/etc/pgbackrest.conf")
        yield lab
    finally:
        lab.lab("down")


def pgbackrest(lab: Site, *words: str) -> Said:
    return lab.on("db", "runuser", "-u", "postgres", "--", "pgbackrest", "--stanza=main", *words)


def info(lab: Site) -> dict[str, Any]:
    said = pgbackrest(lab, "info", "--output=json")
    assert said.rc == 0, said.out + said.err
    stanza: dict[str, Any] = json.loads(said.out)[0]
    return stanza


def psql(lab: Site, sql: str) -> str:
    return lab.ok("db", "runuser", "-u", "postgres", "--", "psql", "-XAtc", sql).strip()


def archived(lab: Site, segment: str) -> bool:
    return psql(lab, "select coalesce(last_archived_wal, '') from pg_stat_archiver") >= segment


def failures(lab: Site) -> int:
    return int(psql(lab, "select failed_count from pg_stat_archiver"))


def switch(lab: Site) -> str:
    """The segment of WAL that is to be archived from now on."""
    return psql(lab, "create table if not exists t (); drop table t; select pg_walfile_name(pg_switch_wal())").split()[
        -1
    ]


def test_the_store_is_known_by_its_address_to_who_trusts_the_labs_authority_only(lab: Site) -> None:
    assert lab.nodes.keys() == {"db"}
    assert pgbackrest(lab, "stanza-create").rc == 0
    stranger = pgbackrest(lab, "info", "--repo1-storage-ca-file=/etc/ssl/certs/ca-certificates.crt")
    assert "unable to verify certificate presented by" in stranger.out + stranger.err
    assert info(lab)["status"]["message"] == "no valid backups"


def test_a_certificate_names_the_store_and_is_valid_since_yesterday(lab: Site) -> None:
    look = ("openssl", "x509", "-in", "/etc/s3/tls.crt", "-noout", "-ext", "subjectAltName")
    names = lab.ok("s3", *look).splitlines()[1]
    assert {name.strip() for name in names.split(",")} == {
        "DNS:s3",
        "DNS:s3.lab",
        f"IP Address:{lab.store['endpoint']}",
    }
    since = lab.ok("s3", "openssl", "x509", "-in", "/etc/s3/tls.crt", "-noout", "-startdate").partition("=")[2].strip()
    age = lab.ok("s3", "sh", "-c", f'echo $(( $(date +%s) - $(date +%s -d "{since}") ))')
    assert 86400 <= int(age) < 86400 + 3600


def test_a_backup_is_still_there_after_the_store_lost_power(lab: Site) -> None:
    backup = pgbackrest(lab, "backup", "--type=full")
    assert backup.rc == 0, backup.out + backup.err
    before = [taken["label"] for taken in info(lab)["backup"]]
    assert len(before) == 1
    lab.lab("kill", "s3")
    silent = pgbackrest(lab, "repo-ls", "--io-timeout=300ms")
    assert "timeout connecting to" in silent.out + silent.err
    lab.lab("start", "s3")
    assert [taken["label"] for taken in info(lab)["backup"]] == before


def test_an_object_is_there_whole_or_not_at_all_also_when_the_store_is_full(lab: Site) -> None:
    put = ("sh", "-c", "printf '%s' $1 | pgbackrest --io-timeout=300ms repo-put x/text", "sh")
    lab.ok("db", *put, "first")
    lab.ok("s3", "s3-space", "0")
    refused = lab.on("db", *put, "second")
    assert "[500] Internal Server Error" in refused.out + refused.err
    assert lab.ok("db", "pgbackrest", "repo-get", "x/text") == "first"
    lab.ok("s3", "s3-space", "1M")
    lab.ok("db", *put, "third")
    lab.ok("s3", "s3-space", "disk")
    assert lab.ok("db", "pgbackrest", "repo-get", "x/text") == "third"


def test_a_full_store_takes_nothing_until_it_has_room_again(lab: Site) -> None:
    lab.ok("s3", "s3-space", "0")
    too_much, known = switch(lab), failures(lab)
    wait_until("archiving fails", lambda: failures(lab) > known, 60)
    assert not archived(lab, too_much)
    assert len(info(lab)["backup"]) == 1
    lab.ok("s3", "s3-space", "disk")
    wait_until("what had no room is archived", lambda: archived(lab, too_much), 90)
    verified = pgbackrest(lab, "verify", "--output=text", "--verbose")
    assert verified.rc == 0 and "status: ok" in verified.out, verified.out + verified.err


def test_a_frozen_store_answers_nothing_and_goes_on_when_it_thaws(lab: Site) -> None:
    lab.ok("s3", "systemctl", "kill", "-s", "STOP", "s3rver")
    frozen = pgbackrest(lab, "repo-ls", "--io-timeout=300ms")
    assert "waiting for read" in frozen.out + frozen.err
    lab.ok("s3", "systemctl", "kill", "-s", "CONT", "s3rver")
    assert len(info(lab)["backup"]) == 1


def test_a_wiped_store_is_empty_and_still_trusted(lab: Site) -> None:
    lab.lab("wipe", "s3")
    assert pgbackrest(lab, "repo-ls").out == ""
    assert info(lab)["status"]["message"] == "missing stanza path"


def test_what_is_not_a_store_has_nothing_of_it_and_a_store_nothing_of_pgha(lab: Site) -> None:
    assert lab.on("db", "ls", "/opt/s3rver", "/etc/s3").out == ""
    assert lab.on("s3", "ls", "/opt").out.split() == ["s3rver"]
