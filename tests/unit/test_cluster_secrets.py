"""With what a cluster's documents are built, also when its first data is another cluster's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pgha.common.cluster import Cluster
from pgha.common.errors import UserError
from pgha.common.secret import Secret
from pgha.master.keeping.cluster_secrets import ClusterSecrets
from pgha.master.keeping.vault import Vault, create_key
from pgha.states import catalog

SUPERUSER = "postgresql/superuser"


@pytest.fixture
def held(tmp_path: Path) -> ClusterSecrets:
    create_key(tmp_path / "master.key")
    return ClusterSecrets(Vault(tmp_path / "master.key", tmp_path / "secrets"))


def cluster(name: str, stanza: str = "") -> Cluster:
    nodes = [{"name": f"n{n}", "address": f"10.0.0.{n}"} for n in (1, 2, 3)]
    more: dict[str, Any] = {"bootstrap": {"from_backup": {"stanza": stanza}}} if stanza else {}
    return Cluster.model_validate({"cluster": name, "nodes": nodes, "backup": {"s3": {"bucket": "x"}}, **more})


def test_what_is_missing_is_made_once_and_a_secret_of_the_users_own_is_there_too(held: ClusterSecrets) -> None:
    held.vault.set("prod", "own/one", Secret("mine"))
    made = held.of(cluster("prod"), lived=False)
    assert set(made) == {*catalog.secrets(cluster("prod")), "own/one"}
    assert held.of(cluster("prod"), lived=True) == made


def test_another_clusters_data_is_opened_with_its_secrets_which_are_kept_once_it_is_taken(held: ClusterSecrets) -> None:
    theirs = held.of(cluster("prod"), lived=True)
    copy = cluster("copy", "prod")
    planned = held.of(copy, lived=False)
    assert {name for name, secret in planned.items() if secret == theirs[name]} == set(catalog.IN_BACKUPS)
    assert not set(held.vault.names("copy")) & set(catalog.IN_BACKUPS), "a plan takes nothing over"
    held.take_over(copy)
    held.vault.set("prod", SUPERUSER, Secret("another since"))
    assert held.of(copy, lived=True) == planned


def test_a_cluster_that_lives_has_its_own_whatever_it_might_have_begun_with(held: ClusterSecrets) -> None:
    theirs = held.of(cluster("prod"), lived=True)
    assert held.of(cluster("copy", "prod"), lived=True)["backup/cipher"] != theirs["backup/cipher"]


def test_what_nobody_knows_and_what_is_not_clear_is_refused_with_what_to_do(held: ClusterSecrets) -> None:
    copy = cluster("copy", "prod")
    with pytest.raises(UserError, match=r"no secret prod/postgresql/superuser.*secrets set copy/postgresql/superuser"):
        held.of(copy, lived=False)
    held.of(cluster("prod"), lived=True)
    held.vault.set("copy", SUPERUSER, Secret("made before"))
    with pytest.raises(UserError, match=r"not that of prod.*secrets reveal prod/postgresql/superuser \| pgha-master"):
        held.of(copy, lived=False)
