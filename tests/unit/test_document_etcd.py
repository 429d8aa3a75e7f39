"""etcd's configuration file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pgha.states.document import Context
from pgha.states.documents.etcd import build
from pgha.states.resources.files import File
from pgha.states.resources.service import Service
from ruamel.yaml import YAML

Build = Callable[..., Context]


def configuration(context: Context) -> dict[str, Any]:
    file = next(r for r in build(context) if r.id == "file:/etc/etcd/etcd.conf.yml")
    assert isinstance(file, File)
    loaded: dict[str, Any] = YAML(typ="safe").load(file.content)
    return loaded


def test_clients_and_peers_both_need_a_certificate(context_of: Build) -> None:
    found = configuration(context_of())
    for section in ("client-transport-security", "peer-transport-security"):
        assert found[section]["client-cert-auth"] is True
        assert found[section]["trusted-ca-file"] == "/etc/etcd/tls/ca.crt"
        assert found[section]["key-file"] == "/etc/etcd/tls/etcd-server.key"


def test_all_members_are_named_alike_on_every_node(context_of: Build) -> None:
    found = [configuration(context_of(node)) for node in ("pg-node1", "pg-node2", "witness-node")]
    assert {c["initial-cluster"] for c in found} == {
        "pg-node1=https://10.77.1.11:2380,pg-node2=https://10.77.2.12:2380,witness-node=https://10.77.3.13:2380"
    }
    assert [c["name"] for c in found] == ["pg-node1", "pg-node2", "witness-node"]
    assert {c["initial-cluster-token"] for c in found} == {"pgha-prod"}


def test_the_packages_own_data_is_never_used(context_of: Build) -> None:
    assert configuration(context_of())["data-dir"] == "/var/lib/etcd/pgha"
    assert not [resource for resource in build(context_of()) if resource.kind == "absent"]


def test_a_replaced_member_joins_what_exists(context_of: Build) -> None:
    assert configuration(context_of())["initial-cluster-state"] == "new"
    assert configuration(replace(context_of(), etcd_joins=True))["initial-cluster-state"] == "existing"


def test_times_and_sizes_come_from_the_definition(context_of: Build) -> None:
    found = configuration(
        context_of(etcd={"heartbeat_interval": 250, "election_timeout": 2500, "quota_backend_bytes": "4GiB"})
    )
    assert (found["heartbeat-interval"], found["election-timeout"]) == (250, 2500)
    assert found["quota-backend-bytes"] == 4 * 1024**3


def test_a_new_configuration_restarts_etcd_and_a_renewed_certificate_does_not(context_of: Build) -> None:
    service = next(r for r in build(context_of()) if isinstance(r, Service))
    assert service.on_change == "restart"
    assert not service.wait  # alone, a member is never ready
    assert "file:/etc/etcd/etcd.conf.yml" in service.watches
    assert "certificate:etcd-server" in service.requires
    assert "certificate:etcd-server" not in service.watches


def test_addresses_of_ipv6_are_written_in_brackets(context_of: Build) -> None:
    nodes = [{"name": "pg-node1", "address": "fd00::1"}]
    found = configuration(context_of(nodes=nodes))
    assert found["advertise-client-urls"] == "https://[fd00::1]:2379"
    assert found["listen-client-urls"] == "https://[::]:2379"
