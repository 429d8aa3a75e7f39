"""The vault: a secret stays what it is, and nobody reads it without the right key and the right cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pgha.common.errors import HostError, Refused, UserError
from pgha.common.secret import Secret
from pgha.master.keeping.vault import Vault, create_key
from pgha.master.verbs.secrets import MADE_WITH_THE_CLUSTER, refuse_what_lives_in_the_database


def vault(tmp_path: Path) -> Vault:
    create_key(tmp_path / "master.key")
    return Vault(tmp_path / "master.key", tmp_path / "secrets")


def test_a_secret_is_made_once_and_stays_for_the_next_process(tmp_path: Path) -> None:
    first = vault(tmp_path).get_or_create("prod", "postgresql/superuser")
    assert vault(tmp_path).get_or_create("prod", "postgresql/superuser") == first
    assert len(first.reveal()) >= 43


def test_two_names_and_two_clusters_never_share_a_secret(tmp_path: Path) -> None:
    held = vault(tmp_path)
    values = {held.get_or_create(cluster, name).reveal() for cluster in ("prod", "test") for name in ("a/one", "a/two")}
    assert len(values) == 4
    assert held.names("prod") == ("a/one", "a/two")
    assert held.names("other") == ()


def test_the_file_on_disk_holds_neither_a_name_nor_a_value_and_is_private(tmp_path: Path) -> None:
    value = vault(tmp_path).get_or_create("prod", "postgresql/superuser").reveal()
    path = tmp_path / "secrets/prod.secrets"
    assert value.encode() not in path.read_bytes()
    assert b"superuser" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o400
    assert sorted(p.name for p in path.parent.iterdir()) == ["prod.secrets"]


def test_init_never_replaces_a_master_key(tmp_path: Path) -> None:
    assert create_key(tmp_path / "master.key")
    before = (tmp_path / "master.key").read_bytes()
    assert not create_key(tmp_path / "master.key")
    assert (tmp_path / "master.key").read_bytes() == before


def test_a_file_copied_over_another_clusters_is_refused(tmp_path: Path) -> None:
    held = vault(tmp_path)
    held.get_or_create("prod", "x")
    data = (tmp_path / "secrets/prod.secrets").read_bytes()
    (tmp_path / "secrets/test.secrets").write_bytes(data)
    (tmp_path / "secrets/test.secrets").chmod(0o600)
    with pytest.raises(HostError, match="belongs to another cluster"):
        held.get("test", "x")


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, position: int) -> None:
    held = vault(tmp_path)
    held.get_or_create("prod", "x")
    path = tmp_path / "secrets/prod.secrets"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(HostError, match=r"prod\.secrets cannot be decrypted"):
        held.get_or_create("prod", "x")


def test_another_master_key_opens_nothing(tmp_path: Path) -> None:
    first = vault(tmp_path)
    first.get_or_create("prod", "x")
    sealed = first.seal(b"job")
    (tmp_path / "master.key").unlink()
    second = vault(tmp_path)
    with pytest.raises(HostError, match="another key"):
        second.get("prod", "x")
    with pytest.raises(HostError, match="cannot be decrypted"):
        second.open(sealed)


def test_a_sealed_payload_opens_only_in_its_own_context(tmp_path: Path) -> None:
    held = vault(tmp_path)
    assert held.open(held.seal(b"resources", b"job-1"), b"job-1") == b"resources"
    assert held.seal(b"resources") != held.seal(b"resources")
    for sealed, context in ((held.seal(b"resources", b"job-1"), b"job-2"), (b"", b""), (os.urandom(80), b"")):
        with pytest.raises(HostError):
            held.open(sealed, context)


@pytest.mark.parametrize("name", ["master.key", "secrets/prod.secrets"])
def test_a_file_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path, name: str) -> None:
    vault(tmp_path).get_or_create("prod", "x")
    (tmp_path / name).chmod(0o644)
    with pytest.raises(HostError, match="chmod go="):
        vault(tmp_path).get("prod", "x")


@pytest.mark.parametrize(("text", "says"), [(None, "does not exist"), ("short", "damaged"), ("?" * 44, "damaged")])
def test_a_key_file_that_is_missing_or_damaged_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "master.key"
    if text is not None:
        path.write_text(text)
        path.chmod(0o400)
    with pytest.raises(HostError, match=f"master.key.*{says}"):
        Vault(path, tmp_path)


def test_a_value_of_the_user_replaces_the_made_one(tmp_path: Path) -> None:
    held = vault(tmp_path)
    held.get_or_create("prod", "postgresql/superuser")
    held.set("prod", "postgresql/superuser", Secret('it\'s "mine": {{x}}'))
    assert vault(tmp_path).get("prod", "postgresql/superuser") == Secret('it\'s "mine": {{x}}')


@pytest.mark.parametrize("value", ["", "two\nlines", "nul\0"])
def test_a_value_no_configuration_file_can_carry_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match="printable"):
        vault(tmp_path).set("prod", "x", Secret(value))


@pytest.mark.parametrize("name", ["../x", "/x", "x//y", "X", "", "x/../y"])
def test_names_of_secrets_and_clusters_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        vault(tmp_path).get_or_create("prod", name)
    with pytest.raises(UserError):
        vault(tmp_path).get(name, "x")


def test_passphrases_are_stable_and_differ_by_purpose(tmp_path: Path) -> None:
    held = vault(tmp_path)
    assert held.passphrase("authority/prod") == vault(tmp_path).passphrase("authority/prod")
    assert held.passphrase("authority/prod") != held.passphrase("authority/test")


@pytest.mark.parametrize("name", MADE_WITH_THE_CLUSTER)
def test_a_password_that_lives_in_the_database_is_not_changed_in_the_vault_alone(name: str) -> None:
    with pytest.raises(Refused, match="replicas could not connect any more"):
        refuse_what_lives_in_the_database("prod", name, applied=True)
    refuse_what_lives_in_the_database("prod", name, applied=False)
    refuse_what_lives_in_the_database("prod", "postgresql/probe", applied=True)
