"""The catalog: every node's documents hang together, on every supported system, and keep their secrets."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from pgha.common.errors import UserError
from pgha.common.facts import DISTRIBUTION_POSTGRESQL
from pgha.common.results import Status
from pgha.states.catalog import DOCUMENTS, compile, packages, postgresql_major, secrets
from pgha.states.converge import MemoryDebts, converge
from pgha.states.document import Context
from pgha.states.kinds import decode, encode, encode_redacted
from pgha.states.resources.packages import Packages, Upgrade
from pgha.states.testing import FakeSystem

Build = Callable[..., Context]
NODES = ("pg-node1", "pg-node2", "witness-node")


def ids(context: Context, *documents: str) -> list[str]:
    return [resource.id for resource in compile(context, documents or None)]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("system", sorted(DISTRIBUTION_POSTGRESQL))
def test_every_node_compiles_on_every_supported_system(context_of: Build, node: str, system: tuple[str, str]) -> None:
    context = context_of(node, facts={"os_id": system[0], "os_version": system[1]})
    resources = compile(context)
    seen: set[str] = set()
    for resource in resources:
        assert {*resource.requires, *resource.watches} <= seen, f"{resource.id} comes before what it needs"
        seen.add(resource.id)
    assert f"postgresql-client-{DISTRIBUTION_POSTGRESQL[system]}" in packages(
        context.cluster, context.node, context.facts
    )


def test_documents_stand_in_the_order_in_which_a_cluster_is_built(context_of: Build) -> None:
    order = list(dict.fromkeys(resource.document for resource in compile(context_of())))
    built = ["hardening", "pki", "firewall", "etcd", "pgbackrest", "patroni", "ssh", "haproxy", "database", "backup"]
    assert order == built == list(DOCUMENTS)


def test_the_witness_gets_nothing_of_postgresql_but_a_client(context_of: Build) -> None:
    context = context_of("witness-node")
    assert not [i for i in ids(context) if "patroni" in i or "postgresql" in i]
    installed = packages(context.cluster, context.node, context.facts)
    assert [name for name in installed if "postgres" in name] == ["postgresql-client-17"]
    assert not {resource.document for resource in compile(context)} & {"patroni", "ssh", "database"}


def test_one_document_alone_drops_only_the_requisites_that_are_left_out(context_of: Build) -> None:
    alone = compile(context_of(), ["etcd"])
    assert [resource.document for resource in alone] == ["etcd"] * len(alone)
    service = next(resource for resource in alone if resource.id == "service:etcd")
    assert "file:/etc/etcd/etcd.conf.yml" in service.watches
    assert not any(needed.startswith(("certificate:", "packages:")) for needed in service.requires)


def test_an_unknown_document_is_named_with_those_there_are(context_of: Build) -> None:
    with pytest.raises(UserError, match="no document etdc; there are hardening"):
        compile(context_of(), ["etdc"])


@pytest.mark.parametrize("node", NODES)
def test_what_is_stored_and_shown_holds_no_secret_and_what_travels_does(context_of: Build, node: str) -> None:
    context = context_of(node)
    resources = compile(context)
    redacted, clear = json.dumps(encode_redacted(resources)), json.dumps(encode(resources))
    assert "password-of-" not in redacted
    names = secrets(context.cluster)
    expected = set(names) if node != "witness-node" else {"postgresql/probe"}
    assert {name for name in names if f"password-of-{name}" in clear} == expected


@pytest.mark.parametrize("node", NODES)
def test_the_minion_reads_back_what_the_master_compiled(context_of: Build, node: str) -> None:
    resources = compile(context_of(node))
    assert decode(json.loads(json.dumps(encode(resources)))) == resources


def test_no_plan_of_a_bare_host_shows_a_secret(context_of: Build) -> None:
    for resource in compile(context_of(facts={"container": True}), ["pki", "patroni", "haproxy"]):
        if resource.kind not in ("certificate", "service", "directory", "symlink"):
            for change in resource.plan(resource.observe(FakeSystem())):
                assert "password-of-" not in repr(change.view())


def test_files_of_a_node_converge_and_a_second_run_changes_nothing(context_of: Build) -> None:
    context = context_of("witness-node", tls={"client_auth": "none"})
    plain = [r for r in compile(context) if r.kind in ("file", "directory", "block", "symlink", "packages")]
    alone = [r.model_copy(update={"requires": (), "watches": ()}) for r in plain]
    host = FakeSystem()
    first = list(converge(alone, host, MemoryDebts()))
    second = list(converge(alone, host, MemoryDebts()))
    assert {result.status for result in first} == {Status.CHANGED}
    assert {result.status for result in second} == {Status.UNCHANGED}


def test_one_apt_transaction_installs_everything_after_postgresql_was_told_not_to_start(context_of: Build) -> None:
    resources = compile(context_of())
    assert [resource.id for resource in resources if isinstance(resource, Packages)] == ["packages:base"]
    installed = next(resource for resource in resources if isinstance(resource, Packages))
    assert {"postgresql-17", "patroni", "python3-etcd", "etcd-server", "haproxy", "ufw", "chrony"} <= {*installed.names}
    assert installed.requires == ("file:/etc/postgresql-common/createcluster.conf",)


def test_updates_never_touch_the_database_etcd_and_the_proxy(context_of: Build) -> None:
    upgrade = next(resource for resource in compile(context_of()) if isinstance(resource, Upgrade))
    assert {"postgresql-17", "patroni", "etcd-server", "haproxy"} <= {*upgrade.hold}
    assert "curl" not in upgrade.hold
    without = context_of(system={"packages": {"upgrade": "none"}})
    assert not [resource for resource in compile(without) if isinstance(resource, Upgrade)]


def test_the_newest_postgresql_of_the_source_is_taken_unless_one_is_named(context_of: Build) -> None:
    def major(**postgresql: object) -> int:
        context = context_of(postgresql=postgresql)
        return postgresql_major(context.cluster, context.facts)

    own = {"uri": "http://10.77.0.1/debian", "suite": "trixie", "key": "/etc/pgha/apt.asc"}
    assert major() == 17
    assert major(source="pgdg") == 18
    assert major(source="pgdg", version=16) == 16
    assert major(source=own) == 17
    assert major(source=own, version=18) == 18
    with pytest.raises(UserError, match="debian 13, which carries PostgreSQL 17, not 16"):
        major(version=16)


def test_a_system_pgha_does_not_know_is_refused_with_a_way_out(context_of: Build) -> None:
    context = context_of(facts={"os_id": "ubuntu", "os_version": "26.04"})
    with pytest.raises(UserError, match=r"ubuntu 26\.04.*source: pgdg"):
        compile(context)
