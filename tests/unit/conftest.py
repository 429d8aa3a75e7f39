"""The guide's cluster of three nodes, and what the documents are built from on each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pgha.common.cluster import Cluster
from pgha.common.facts import HostFacts
from pgha.common.secret import Secret
from pgha.master.definition import references
from pgha.master.keeping.authority import Authority
from pgha.states.catalog import secrets
from pgha.states.document import Context


@pytest.fixture(scope="session")
def authority_of_prod(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "prod", b"test")


@pytest.fixture
def context_of(authority_of_prod: Authority) -> Callable[..., Context]:
    """`context_of("pg-node1", facts={"container": True}, rpo="zero", ...)`: the rest goes into the definition."""

    def make(node: str = "pg-node1", facts: dict[str, Any] | None = None, **definition: Any) -> Context:
        cluster = Cluster.model_validate(
            {
                "cluster": "prod",
                "entrypoint": "postgres.example.internal",
                "access": {"admin": ["10.77.0.1"], "clients": ["0.0.0.0/0"], "monitoring": ["10.77.9.0/24"]},
                "nodes": [
                    {"name": "pg-node1", "address": "10.77.1.11", "region": "eu-west"},
                    {"name": "pg-node2", "address": "10.77.2.12", "region": "us-east"},
                    {"name": "witness-node", "address": "10.77.3.13", "region": "us-west", "role": "witness"},
                ],
                **definition,
            }
        )
        return Context(
            cluster=cluster,
            node=cluster.node(node),
            facts=_facts(node, **(facts or {})),
            secrets={name: Secret(f"password-of-{name}") for name in (*secrets(cluster), *references.wanted(cluster))},
            ca_pem=authority_of_prod.ca_pem,
            client_ca_pem=authority_of_prod.client_ca_pem,
            files=dict.fromkeys(references.paths(cluster), authority_of_prod.ca_pem),
        )

    return make


def _facts(node: str, **changed: Any) -> HostFacts:
    values: dict[str, Any] = {
        "hostname": node,
        "machine_id": node,
        "boot_id": "1",
        "os_id": "debian",
        "os_version": "13",
        "os_codename": "trixie",
        "architecture": "amd64",
        "kernel": "6.12",
        "python": "3.13",
        "cpus": 2,
        "memory_bytes": 4 * 1024**3,
        "disk_free_bytes": 50 * 1024**3,
        "container": False,
        "virtualization": "kvm",
        "addresses": (),
        "pgha_version": "0.1.0",
    }
    return HostFacts(**{**values, **changed})
