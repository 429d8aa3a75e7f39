"""Patroni's configuration file, and what is kept in the cluster's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pgha.common.secret import Secret
from pgha.states.action import rendered
from pgha.states.document import Context
from pgha.states.documents.database import build as build_database
from pgha.states.documents.patroni import build, dynamic_settings
from pgha.states.hba import lines
from pgha.states.resources.files import File
from pgha.states.resources.patroni import PatroniConfig
from pgha.states.resources.patroni_file import PatroniFile
from pgha.states.resources.service import Service
from ruamel.yaml import YAML

Build = Callable[..., Context]


def file(context: Context, path: str = "/etc/patroni/config.yml") -> File:
    found = next(r for r in build(context) if r.key() == path)
    found = found.file if isinstance(found, PatroniFile) else found
    assert isinstance(found, File)
    return found


def configuration(context: Context) -> dict[str, Any]:
    """As Patroni reads it: YAML 1.1, where a bare `on` is a boolean."""
    config = file(context)
    yaml = YAML(typ="safe")
    yaml.version = (1, 1)
    loaded: dict[str, Any] = yaml.load(rendered(config.content, config.secrets.items()))
    return loaded


def settings(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = dict(dynamic_settings(context.cluster))
    return found


def test_every_role_that_dials_postgresql_has_a_certificate_of_its_own(context_of: Build) -> None:
    found = configuration(context_of())["postgresql"]["authentication"]
    for login, role in (("superuser", "postgres"), ("replication", "replicator"), ("rewind", "rewind_user")):
        assert found[login]["username"] == role
        assert found[login]["password"] == f"password-of-postgresql/{login}"
        assert found[login]["sslcert"] == f"/etc/patroni/tls/{role}.crt"
        assert found[login]["sslkey"] == f"/etc/patroni/tls/{role}.key"
        assert found[login]["sslmode"] == "verify-ca"


@pytest.mark.parametrize("password", ['quote " and \\ backslash', "it's: #{x}", "on", "0123", "{{restapi}}", "ü"])
def test_any_password_arrives_as_it_is(context_of: Build, password: str) -> None:
    context = context_of()
    changed = replace(context, secrets={**context.secrets, "postgresql/superuser": Secret(password)})
    assert configuration(changed)["postgresql"]["authentication"]["superuser"]["password"] == password


def test_only_patroni_can_read_the_file_with_the_passwords(context_of: Build) -> None:
    config = file(context_of())
    assert (config.owner, config.group, config.mode) == ("root", "postgres", 0o640)
    assert "password-of-" not in config.content


def test_etcd_is_spoken_to_in_its_third_version_over_tls(context_of: Build) -> None:
    found = configuration(context_of())
    assert "etcd" not in found
    assert found["etcd3"]["protocol"] == "https"
    assert found["etcd3"]["hosts"] == ["10.77.1.11:2379", "10.77.2.12:2379", "10.77.3.13:2379"]


def test_the_rest_api_has_tls_and_a_password(context_of: Build) -> None:
    found = configuration(context_of())["restapi"]
    assert found["connect_address"] == "10.77.1.11:8008"
    assert found["authentication"] == {"username": "patroni", "password": "password-of-patroni/restapi"}
    assert found["certfile"] == "/etc/patroni/tls/api.crt"
    assert found["verify_client"] == "optional"


def test_the_data_lies_where_the_distribution_has_it(context_of: Build) -> None:
    found = configuration(context_of())["postgresql"]
    assert found["data_dir"] == "/var/lib/postgresql/17/main"
    assert found["bin_dir"] == "/usr/lib/postgresql/17/bin"
    newer = configuration(context_of(postgresql={"source": "pgdg"}))["postgresql"]
    assert newer["bin_dir"] == "/usr/lib/postgresql/18/bin"


def test_a_folder_of_ones_own_is_made_for_the_data(context_of: Build) -> None:
    context = context_of(nodes=[{"name": "pg-node1", "address": "10.77.1.11", "data_dir": "/data/pg"}])
    assert configuration(context)["postgresql"]["data_dir"] == "/data/pg"
    assert "directory:/data/pg" in [resource.id for resource in build(context)]


def test_losing_nothing_means_synchronous_replication_and_a_short_wait_for_a_lost_replica(context_of: Build) -> None:
    found = settings(context_of(rpo="zero"))
    assert found["synchronous_mode"] is True
    assert found["postgresql"]["parameters"]["wal_sender_timeout"] == "10s"
    usual = settings(context_of())
    assert usual["synchronous_mode"] is False
    assert "wal_sender_timeout" not in usual["postgresql"]["parameters"]
    assert usual["maximum_lag_on_failover"] == 1024**2
    assert settings(context_of(patroni={"synchronous_mode": "quorum"}))["synchronous_mode"] == "quorum"


def test_the_definitions_parameters_win_and_are_the_same_at_bootstrap_and_afterwards(context_of: Build) -> None:
    context = context_of(
        rpo="zero", postgresql={"parameters": {"max_connections": 300, "wal_sender_timeout": "20s", "jit": False}}
    )
    at_bootstrap = configuration(context)["bootstrap"]["dcs"]
    kept = next(r for r in build_database(context) if isinstance(r, PatroniConfig))
    assert at_bootstrap == kept.settings
    parameters = at_bootstrap["postgresql"]["parameters"]
    assert (parameters["max_connections"], parameters["wal_sender_timeout"], parameters["jit"]) == (300, "20s", False)
    assert (parameters["hot_standby"], parameters["wal_level"]) == ("on", "replica")


def test_timers_come_from_the_promised_recovery_time(context_of: Build) -> None:
    found = settings(context_of(rto="wide"))
    assert (found["ttl"], found["loop_wait"], found["retry_timeout"]) == (120, 20, 30)
    assert found["failsafe_mode"] is True


def test_a_watchdog_is_used_on_hosts_and_never_in_containers(context_of: Build) -> None:
    drop_in = "/etc/systemd/system/patroni.service.d/pgha.conf"
    on_host = context_of(patroni={"watchdog": {"mode": "required"}})
    assert configuration(on_host)["watchdog"]["mode"] == "required"
    assert "modprobe softdog" in file(on_host, drop_in).content
    inside = context_of(facts={"container": True}, patroni={"watchdog": {"mode": "required"}})
    assert configuration(inside)["watchdog"] == {"mode": "off"}
    assert "ExecStartPre" not in file(inside, drop_in).content
    assert "modprobe" not in file(context_of(), drop_in).content


def test_the_nodes_place_and_its_tags_reach_patroni(context_of: Build) -> None:
    assert configuration(context_of("pg-node2"))["tags"]["region"] == "us-east"
    nodes = [{"name": "pg-node1", "address": "10.77.1.11", "tags": {"failover_priority": 2, "nosync": True}}]
    tags = configuration(context_of(nodes=nodes))["tags"]
    assert (tags["failover_priority"], tags["nosync"]) == (2, True)
    assert "nofailover" not in tags


def test_the_distributions_own_service_is_off_and_cannot_be_started(context_of: Build) -> None:
    services = {r.unit: r for r in build(context_of()) if isinstance(r, Service)}
    assert (services["postgresql"].running, services["postgresql"].enabled) == (False, False)
    assert services["postgresql@17-main"].masked
    assert services["patroni"].on_change == "reload"
    assert "certificate:postgres-server" in services["patroni"].watches


def test_initdb_makes_checksums_and_takes_the_users_options(context_of: Build) -> None:
    assert "data-checksums" in configuration(context_of())["bootstrap"]["initdb"]
    found = configuration(context_of(postgresql={"initdb": {"data_checksums": False, "wal_segsize": 64}}))
    options = found["bootstrap"]["initdb"]
    assert "data-checksums" not in options
    assert {"wal-segsize": "64"} in options


def test_nobody_comes_over_the_network_without_tls_and_a_password(context_of: Build) -> None:
    found = lines(context_of().cluster)
    for line in found:
        kind, *_, last = line.split()
        assert "trust" not in line
        assert kind in ("local", "hostssl") or last == "reject"
    assert found[-1] == "hostssl all all all scram-sha-256 clientcert=verify-ca"


def test_pghas_own_roles_come_from_where_they_belong_and_from_nowhere_else(context_of: Build) -> None:
    found = lines(context_of().cluster)
    full = "scram-sha-256 clientcert=verify-full"
    assert f"hostssl replication replicator 10.77.2.12/32 {full}" in found
    assert not [line for line in found if "10.77.3.13" in line]
    reject = found.index("host all replicator,rewind_user,pgha_probe all reject")
    assert found.index(f"hostssl postgres pgha_probe all {full}") < reject
    assert found.index(f"hostssl all rewind_user 10.77.1.11/32 {full}") < reject


def test_the_superuser_needs_a_certificate_even_where_applications_do_not(context_of: Build) -> None:
    found = lines(context_of(tls={"client_auth": "none"}).cluster)
    assert found[-1] == "hostssl all all all scram-sha-256"
    assert "hostssl all postgres all scram-sha-256 clientcert=verify-ca" in found


def test_the_users_lines_stand_right_before_the_one_for_everybody(context_of: Build) -> None:
    own = "hostssl shop shop 10.77.3.13/32 scram-sha-256"
    found = lines(context_of(postgresql={"pg_hba": [own]}).cluster)
    assert found[-2] == own


def test_postgresql_trusts_the_applications_authority_and_patroni_does_not(context_of: Build) -> None:
    found = configuration(context_of())
    assert found["postgresql"]["parameters"]["ssl_ca_file"] == "/etc/patroni/tls/clients.crt"
    assert found["restapi"]["cafile"] == "/etc/patroni/tls/ca.crt"
