"""The ground a cluster stands on, and the keys and certificates on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pgha.common.errors import UserError
from pgha.common.secret import Secret
from pgha.states.action import rendered
from pgha.states.document import Context
from pgha.states.documents import hardening, pki
from pgha.states.resource import AnyResource
from pgha.states.resources.block import Block, with_block
from pgha.states.resources.certificate import Certificate
from pgha.states.resources.files import Directory, File
from pgha.states.resources.kernel import Sysctl
from pgha.states.resources.packages import touched, upgradable
from pgha.states.resources.service import Service
from pgha.states.software import stack

Build = Callable[..., Context]


def by_id(resources: list[AnyResource]) -> dict[str, AnyResource]:
    return {resource.id: resource for resource in resources}


def content(resources: list[AnyResource], path: str) -> str:
    found = by_id(resources)[f"file:{path}"]
    assert isinstance(found, File)
    return found.content


def test_huge_pages_are_off_before_postgresql_starts_and_untouched_in_containers(context_of: Build) -> None:
    unit = content(hardening.build(context_of()), "/etc/systemd/system/disable-thp.service")
    assert "Before=patroni.service postgresql.service" in unit
    assert "ConditionVirtualization=!container" in unit
    assert "RemainAfterExit=yes" in unit
    assert "dbus" not in unit
    assert not [r for r in hardening.build(context_of(system={"thp": "keep"})) if isinstance(r, Service)]


def test_kernel_values_hold_now_and_after_a_reboot(context_of: Build) -> None:
    found = hardening.build(context_of(system={"sysctl": {"vm.swappiness": 1, "net.ipv4.tcp_keepalive_time": 60}}))
    assert "vm.swappiness = 1\nnet.ipv4.tcp_keepalive_time = 60\n" in content(found, "/etc/sysctl.d/60-pgha.conf")
    assert [(r.name, r.value) for r in found if isinstance(r, Sysctl)] == [
        ("vm.swappiness", "1"),
        ("net.ipv4.tcp_keepalive_time", "60"),
    ]


def test_time_servers_are_given_to_the_service_that_is_used(context_of: Build) -> None:
    servers = ["10.77.0.1", "10.77.0.2"]
    chrony = hardening.build(context_of(system={"time": {"servers": servers}}))
    assert "server 10.77.0.2 iburst" in content(chrony, "/etc/chrony/sources.d/pgha.sources")
    assert "file:/etc/chrony/sources.d/pgha.sources" in by_id(chrony)["time_sync:chrony"].watches
    other = hardening.build(context_of(system={"time": {"service": "timesyncd", "servers": servers}}))
    assert "NTP=10.77.0.1 10.77.0.2" in content(other, "/etc/systemd/timesyncd.conf.d/pgha.conf")


def test_every_node_knows_all_names(context_of: Build) -> None:
    block = next(r for r in hardening.build(context_of("witness-node")) if isinstance(r, Block))
    assert block.content == "10.77.1.11 pg-node1\n10.77.2.12 pg-node2\n10.77.3.13 witness-node\n"


def test_a_foreign_package_source_is_trusted_by_its_own_key_only(context_of: Build) -> None:
    context = replace(context_of(postgresql={"source": "pgdg"}), apt_key="KEY")
    found = hardening.build(context)
    sources = content(found, hardening.SOURCES)
    assert "Suites: trixie-pgdg\n" in sources
    assert f"Signed-By: {hardening.KEYRING}\n" in sources
    assert content(found, hardening.KEYRING) == "KEY"
    assert f"file:{hardening.SOURCES}" in by_id(found)["packages:base"].requires
    with pytest.raises(UserError, match="signing key"):
        hardening.build(context_of(postgresql={"source": "pgdg"}))


def test_a_block_touches_no_line_of_the_user() -> None:
    before = "127.0.0.1 localhost\n# pgha begin cluster prod\n10.0.0.9 old\n# pgha end cluster prod\n10.0.0.1 printer\n"
    after = with_block(before, "cluster prod", "10.0.0.2 new\n")
    assert after == before.replace("10.0.0.9 old", "10.0.0.2 new")


def test_a_block_that_stands_twice_stands_once_afterwards() -> None:
    one = "# pgha begin x\na\n# pgha end x\n"
    assert with_block(f"u\n{one}v\n{one}w\n", "x", "b\n") == "u\n# pgha begin x\nb\n# pgha end x\nv\nw\n"


def test_a_block_without_its_end_loses_no_line_below_it() -> None:
    torn = "u\n# pgha begin x\nmine\n# pgha begin x\nold\n# pgha end x\nyours\n"
    assert with_block(torn, "x", "new\n") == "u\n# pgha begin x\nnew\n# pgha end x\nmine\nyours\n"
    lone = "u\n# pgha begin x\nmine\n"
    assert with_block(lone, "x", "new\n") == "u\n# pgha begin x\nnew\n# pgha end x\nmine\n"


def test_each_services_keys_are_for_its_own_group(context_of: Build) -> None:
    found = pki.build(context_of())
    groups = {r.path: (r.group, r.mode) for r in found if isinstance(r, Directory)}
    assert groups == {
        "/etc/etcd/tls": ("etcd", 0o750),
        "/etc/patroni/tls": ("postgres", 0o750),
        "/etc/haproxy/tls": ("root", 0o750),
        "/etc/pgha/tls": ("root", 0o750),
    }
    for certificate in (r for r in found if isinstance(r, Certificate)):
        assert certificate.group == groups[certificate.directory][0]
        assert certificate.requires == (f"file:{certificate.directory}/ca.crt",)


def test_certificates_are_renewed_in_time_and_tied_to_the_clusters_authority(context_of: Build) -> None:
    context = context_of(tls={"renew_before": "10d"})
    wanted = next(r for r in pki.build(context) if isinstance(r, Certificate))
    assert wanted.renew_before_s == 10 * 86400
    assert wanted.ca_fingerprint == pki.fingerprint(context.ca_pem)
    assert len(wanted.ca_fingerprint) == 64
    with pytest.raises(UserError, match="no certificate authority"):
        pki.build(replace(context, ca_pem=""))


def test_only_postgresql_trusts_the_applications_authority(context_of: Build) -> None:
    context = context_of()
    found = pki.build(context)
    assert content(found, "/etc/patroni/tls/clients.crt") == context.ca_pem + context.client_ca_pem
    for directory in ("etcd", "patroni", "haproxy", "pgha"):
        assert content(found, f"/etc/{directory}/tls/ca.crt") == context.ca_pem


def test_the_probes_password_is_escaped_as_a_password_file_needs_it(context_of: Build) -> None:
    context = context_of("witness-node")
    context = replace(context, secrets={**context.secrets, "postgresql/probe": Secret("a:b\\c")})
    found = by_id(pki.build(context))["file:/etc/pgha/tls/probe.pgpass"]
    assert isinstance(found, File)
    assert found.mode == 0o600
    assert rendered(found.content, found.secrets.items()) == "*:*:postgres:pgha_probe:a\\:b\\\\c\n"


def test_the_systems_own_updates_leave_alone_what_only_a_procedure_may_move(context_of: Build) -> None:
    for node in ("pg-node1", "witness-node"):
        context = context_of(node)
        text = content(hardening.build(context), hardening.UNATTENDED)
        assert text.startswith("// managed by pgha")
        held = stack(context.cluster, context.node, context.facts)
        assert all(f'"^{name}$";' in text for name in held)
        assert ('"^patroni$";' in text) == (node == "pg-node1")


def test_an_extension_built_with_the_server_is_held_with_it_and_its_library_is_not() -> None:
    simulation = "".join(
        f"Inst {name} [{before}] ({after} Debian-Security:13/stable-security [amd64])\n"
        for name, before, after in (
            ("postgresql-17", "17.11-1", "17.12-1"),
            ("postgresql-plperl-17", "17.11-1", "17.12-1"),
            ("libpq5", "17.11-1", "17.12-1"),
            ("curl", "8.1-1", "8.2-1"),
        )
    )
    assert [p.name for p in upgradable(simulation, "security", ("postgresql-17",))] == ["libpq5", "curl"]
    assert touched("Remv foo [1]\nInst bar:amd64 [1] (2 x [amd64])\nConf bar\n") == {"foo", "bar"}
