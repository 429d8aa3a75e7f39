from __future__ import annotations

from pathlib import Path

import pytest
from pgha.common.cluster import Cluster
from pgha.common.errors import UserError
from pgha.master.definition import references

NODES = [{"name": "a", "address": "10.0.0.1"}]


def cluster(**backup: object) -> Cluster:
    return Cluster.model_validate({"cluster": "prod", "nodes": NODES, "backup": backup})


def test_a_secret_comes_from_a_private_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("AKIA\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("PGHA_TEST_SECRET", "s3cret")
    wanted = cluster(
        s3={"bucket": "b", "credentials": {"key": f"file:{tmp_path}/key", "secret": "env:PGHA_TEST_SECRET"}},
        encryption={"pass": "env:PGHA_TEST_SECRET"},
    )
    found = {name: secret.reveal() for name, secret in references.secrets(wanted).items()}
    assert found == {"backup/cipher": "s3cret", "backup/repo1-key": "AKIA", "backup/repo1-secret": "s3cret"}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("env:PGHA_NOT_THERE", "has no PGHA_NOT_THERE in its environment"),
        ("file:/nowhere/key", "there is no file /nowhere/key on the master"),
        ("vault:kv/x#y", "cannot be read yet; use env:NAME or file:PATH"),
    ],
)
def test_one_that_cannot_be_had_names_its_key_and_what_to_do(reference: str, said: str) -> None:
    with pytest.raises(UserError, match=r"backup\.credentials\.key: ") as caught:
        references.secrets(cluster(azure={"container": "c", "account": "a"}, credentials={"key": reference}))
    assert said in str(caught.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(UserError, match="others can get at it"):
        references.resolve("backup.credentials.key", f"file:{tmp_path}/key")


def test_an_empty_secret_is_none(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(UserError, match="gives nothing"):
        references.resolve("backup.credentials.key", f"file:{tmp_path}/key")


def test_the_authority_of_a_repository_is_read_on_the_master(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("PEM")
    assert references.files(cluster(s3={"bucket": "b", "ca": f"{tmp_path}/ca"})) == {f"{tmp_path}/ca": "PEM"}
    with pytest.raises(UserError, match=r"backup\.s3\.ca: /nowhere cannot be read"):
        references.files(cluster(s3={"bucket": "b", "ca": "/nowhere"}))
