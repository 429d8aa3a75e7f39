"""Reading a cluster's definition: every mistake is told at its place, all at once, and none hides another."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pgha.common.cluster import Cluster, Role
from pgha.common.errors import DefinitionError, Problem, UserError
from pgha.common.yamltext import read_file
from pgha.master.definition import inventory, parameters

TODAY = date(2026, 11, 22)

GOOD = """\
schema: pgha/v1
cluster: prod
postgresql: {version: 18}
access: {admin: [192.0.2.200/32], clients: [0.0.0.0/0]}
nodes:
  pg-node1:     {address: 203.0.113.1,  region: eu-west}
  pg-node2:     {address: 198.51.100.2, region: us-east}
  witness-node: {address: 192.0.2.3,    region: us-west, role: witness}
"""


def problems(text: str) -> list[Problem]:
    """All problems of a definition, errors or not."""
    try:
        return inventory.load("prod.yml", text, TODAY)[1]
    except DefinitionError as error:
        return error.problems


def only(text: str, code: str) -> Problem:
    found = [p for p in problems(text) if p.code == code]
    assert len(found) == 1, problems(text)
    return found[0]


def with_lines(*lines: str) -> str:
    return GOOD + "".join(f"{line}\n" for line in lines)


def load(text: str) -> Cluster:
    return inventory.load("prod.yml", text, TODAY)[0]


def test_a_good_definition_gives_the_cluster_and_no_problem() -> None:
    cluster, warnings = inventory.load("prod.yml", GOOD, TODAY)
    assert warnings == []
    assert [node.name for node in cluster.nodes] == ["pg-node1", "pg-node2", "witness-node"]
    assert cluster.node("witness-node").role == (Role.WITNESS,)
    assert cluster.access.admin == ("192.0.2.200/32",)


def test_defaults_are_laid_under_each_node() -> None:
    cluster = load(with_lines("defaults: {zone: rack1, region: lost}"))
    assert {node.zone for node in cluster.nodes} == {"rack1"}
    assert cluster.node("pg-node1").region == "eu-west"


def test_an_unknown_key_is_told_with_the_key_it_resembles() -> None:
    problem = only(GOOD.replace("{address: 198", "{adress: 198"), "C001")
    assert (problem.line, problem.column, problem.length) == (7, 18, 6)
    assert problem.message == "unknown key 'adress' in nodes.pg-node2"
    assert problem.hint == "did you mean 'address'?"


def test_an_unknown_key_that_resembles_none_is_told_with_all_there_are() -> None:
    problem = only(with_lines("tls: {zzzz: 1}"), "C001")
    assert problem.hint == "known here: leaf_days, renew_before, min_version, client_auth"


def test_every_mistake_is_told_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("cluster: prod", "cluster: Prod").replace("{address: 198", "{adress: 198")
    found = problems(text + "rto: slow\nhaproxy: {rw_port: 5432}\npostgresq: {}\n")
    assert [p.code for p in found] == ["C002", "C003", "C001", "C002", "C030", "C001"]
    assert [p.line for p in found] == sorted(p.line for p in found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rto: slow", "rto: expected 'fast', 'norm', 'safe', 'wide' or 'guide', found 'slow'"),
        ("rpo: some", "rpo: expected 'zero' or a size such as 1MiB, 256MB or 2GiB, found 'some'"),
        ("haproxy: {rw_port: abc}", "haproxy.rw_port: expected a whole number, found 'abc'"),
        ("haproxy: {rw_port: 70000}", "haproxy.rw_port: expected a number of at most 65535, found 70000"),
        ("patroni: {failsafe_mode: 7}", "patroni.failsafe_mode: expected true or false, found 7"),
        ("tls:", "tls: expected keys and values, found nothing"),
        ("etcd: [1]", "etcd: expected keys and values, found a list"),
        ("haproxy: {timeouts: {check: fast}}", "expected a duration such as 500ms, 5s, 10m, 2h or 30d, found 'fast'"),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_what_was_found(line: str, message: str) -> None:
    problem = only(with_lines(line), "C002")
    assert message in problem.message
    assert problem.line == 9


def test_an_address_that_is_none_is_told_at_the_value() -> None:
    problem = only(GOOD.replace("203.0.113.1", "203.0.113.1000"), "C002")
    assert problem.message == "nodes.pg-node1.address: expected an IP address such as 10.0.1.11, found '203.0.113.1000'"
    assert (problem.line, problem.column) == (6, 27)


def test_a_mistake_in_defaults_is_told_once_and_there() -> None:
    problem = only(with_lines("defaults: {role: boss}"), "C002")
    assert problem.line == 9


def test_an_unknown_key_in_defaults_is_told_even_without_nodes() -> None:
    text = "schema: pgha/v1\ncluster: prod\nnodes: {}\ndefaults: {regoin: x}\n"
    assert only(text, "C001").hint == "did you mean 'region'?"


def test_a_missing_key_is_told_at_what_lacks_it() -> None:
    problem = only(GOOD.replace("{address: 198.51.100.2, ", "{"), "C003")
    assert problem.message == "the key 'address' is missing in nodes.pg-node2"
    assert problem.line == 7


@pytest.mark.parametrize("missing", ["schema", "cluster", "nodes"])
def test_a_required_key_cannot_be_left_out(missing: str) -> None:
    kept = GOOD.split("nodes:")[0] if missing == "nodes" else GOOD
    text = "\n".join(line for line in kept.splitlines() if not line.startswith(missing))
    assert f"'{missing}' is missing" in only(text, "C003").message


def test_another_schema_is_refused_before_anything_else_is_judged() -> None:
    found = problems(GOOD.replace("pgha/v1", "pgha/v9") + "nonsense: 1\n")
    assert [p.code for p in found] == ["C006"]


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a:\n\tb: 1\n", 2, "no tabs"),
        ("a: [1, 2\nb: 3\n", 2, "not closed"),
        ("a: one: two\n", 1, "quotes"),
        ("a: 'one\n", 2, "quote is not closed"),
        ("---\na: 1\n---\nb: 1\n", 3, "one document"),
        ("a: *b\n", 1, "quotes"),
        ("a: !!python/name:os.system x\n", 1, "remove it"),
        ("- a\n", 1, "key: value"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line_and_what_to_do(text: str, line: int, hint: str) -> None:
    problem = only(text, "C004")
    assert problem.line == line
    assert hint in problem.hint


def test_an_empty_file_is_told_as_such() -> None:
    assert only("# nothing\n", "C004").message == "the file is empty"


def test_a_file_that_nests_without_end_is_refused() -> None:
    assert "nested too deeply" in only("a: " + "[" * 40 + "]" * 40, "C004").message


def test_aliases_that_unfold_to_millions_are_refused() -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True):
        text += f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    assert "unfolds to more than" in problems(text)[0].message


def test_a_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yml"
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(DefinitionError, match="larger than 1024 KiB"):
        read_file(path)


def test_a_file_in_another_encoding_is_told_with_the_line_of_the_first_wrong_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yml"
    path.write_bytes("schema: pgha/v1\ndescription: Köln\n".encode("latin-1"))
    with pytest.raises(DefinitionError) as caught:
        read_file(path)
    problem = caught.value.problems[0]
    assert (problem.code, problem.line, problem.column) == ("C004", 2, 15)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "bom.yml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(read_file(path)).cluster == "prod"


def test_a_key_that_stands_twice_is_told_with_both_lines() -> None:
    problem = only(with_lines("  pg-node1: {address: 203.0.113.9}"), "C005")
    assert problem.line == 9
    assert "first in line 6" in problem.message


def test_two_nodes_cannot_have_one_address() -> None:
    problem = only(GOOD.replace("198.51.100.2", "203.0.113.1"), "C010")
    assert problem.message == "nodes.pg-node2 has the address 203.0.113.1 of pg-node1"
    assert problem.line == 7


def test_a_node_name_must_be_a_host_name() -> None:
    problem = only(GOOD.replace("pg-node2: ", "PG_node2: "), "C011")
    assert (problem.line, problem.column, problem.length) == (7, 3, 8)


def test_two_voters_are_too_few() -> None:
    text = "\n".join(line for line in GOOD.splitlines() if "witness" not in line)
    assert only(text, "C012").message == "etcd would have 2 voters: no failure is survivable"


def test_an_even_number_of_voters_is_a_warning() -> None:
    assert only(with_lines("  pg-node3: {address: 203.0.113.9, region: ap}"), "C012").warning


def test_a_region_that_holds_the_majority_is_refused() -> None:
    problem = only(GOOD.replace("us-west", "eu-west"), "C013")
    assert problem.message == "losing region 'eu-west' takes 2 of 3 etcd voters (pg-node1, witness-node)"
    assert not problem.warning


def test_a_cluster_within_one_region_is_no_mistake() -> None:
    assert problems(GOOD.replace("us-west", "eu-west").replace("us-east", "eu-west")) == []


def test_a_cluster_without_data_nodes_is_refused_and_with_one_is_warned_of() -> None:
    one = GOOD.replace("us-east}", "us-east, role: witness}")
    assert only(one, "C014").warning
    assert not only(one.replace("eu-west}", "eu-west, role: witness}"), "C014").warning


def test_losing_nothing_needs_two_data_nodes() -> None:
    text = with_lines("rpo: zero").replace("us-east}", "us-east, role: witness}")
    assert only(text, "C015").line == 9


@pytest.mark.parametrize("written", ["zero", "0", "0MiB"])
def test_no_loss_is_synchronous_however_it_is_written(written: str) -> None:
    cluster, _ = inventory.load("prod.yml", with_lines(f"rpo: {written}"))
    assert (cluster.rpo, cluster.synchronous_mode) == ("zero", "on")
    assert cluster.maximum_lag_on_failover > 0


def test_no_loss_and_asynchronous_replication_contradict_each_other() -> None:
    assert (
        "loses what was acknowledged"
        in only(with_lines("rpo: zero", "patroni: {synchronous_mode: off}"), "C017").message
    )


@pytest.mark.parametrize("etcd", ["heartbeat_interval: 300", "election_timeout: 400", "election_timeout: 60000"])
def test_timers_with_which_etcd_does_not_start_are_refused(etcd: str) -> None:
    assert "etcd.election_timeout" in only(with_lines(f"etcd: {{{etcd}}}"), "C022").message


def test_a_source_of_replication_must_be_another_data_node() -> None:
    text = GOOD.replace("us-east}", "us-east, tags: {replicatefrom: witness-node}}")
    assert only(text, "C016").hint == "data nodes are: pg-node1"


def test_the_leader_key_must_outlive_the_retries() -> None:
    problem = only(with_lines("patroni: {ttl: 20, loop_wait: 10, retry_timeout: 10}"), "C021")
    assert problem.message == "patroni.ttl: 20 is less than loop_wait 10 + 2 x retry_timeout 10 = 30"
    assert problem.hint == "raise ttl to 30, or use rto instead of raw timers"


def test_timers_under_the_minimum_are_refused() -> None:
    found = problems(with_lines("patroni: {ttl: 19, loop_wait: 0, retry_timeout: 2}"))
    assert [p.message for p in found] == [
        "patroni.ttl: 19 is less than Patroni's minimum 20",
        "patroni.loop_wait: 0 is less than Patroni's minimum 1",
        "patroni.retry_timeout: 2 is less than Patroni's minimum 3",
    ]


def test_two_programs_of_a_node_cannot_share_a_port() -> None:
    problem = only(with_lines("postgresql_port_is_below: 1", "haproxy: {rw_port: 5432}"), "C030")
    assert problem.message == "haproxy.rw_port: port 5432 is also postgresql.port on pg-node1"
    assert problem.line == 10


def test_ports_of_programs_that_never_meet_on_a_node_may_be_alike() -> None:
    text = GOOD.replace("role: witness", "role: etcd").replace("region: eu-west", "region: eu-west, role: data")
    assert problems(text + "etcd: {client_port: 2379, peer_port: 2381}\n") == []


def test_nobody_may_be_shut_out_of_the_nodes() -> None:
    text = GOOD.replace("admin: [192.0.2.200/32], ", "")
    assert "nobody could log in by SSH any more" in only(text, "C031").message
    assert problems(text + "firewall: {backend: none}\n") == []


def test_a_cluster_without_clients_is_a_warning() -> None:
    assert only(GOOD.replace(", clients: [0.0.0.0/0]", ""), "C032").warning


@pytest.mark.parametrize(
    "line",
    [
        "patroni: {password: hunter2}",
        "superuser_secret: hunter2",
        "backup: {credentials: {key: hunter2}}",
        "postgresql: {version: 18, parameters: {app.conninfo: 'host=x password=hunter2'}}",
        "tls: {passphrase: 22}",
    ],
)
def test_a_password_in_clear_is_refused_and_not_repeated(line: str) -> None:
    text = GOOD.replace("postgresql: {version: 18}\n", "") + line + "\n"
    assert only(text, "C040").line == 8
    assert not any("hunter2" in f"{p.message}{p.hint}" for p in problems(text))


@pytest.mark.parametrize("value", ["env:AWS_KEY", "file:/etc/pgha/secrets/s3", "vault:kv/s3#key", "generated"])
def test_a_reference_to_a_secret_is_accepted(value: str) -> None:
    assert problems(with_lines(f'backup: {{s3: {{bucket: b}}, encryption: {{pass: "{value}"}}}}')) == []


def test_the_encryption_of_passwords_is_no_password() -> None:
    assert problems(GOOD.replace("18}", "18, password_encryption: scram-sha-256}")) == []


@pytest.mark.parametrize("version", [9, 13, 19])
def test_a_major_that_is_not_supported_is_refused(version: int) -> None:
    assert only(GOOD.replace("18}", f"{version}}}"), "C050").hint == "supported are 14 to 18"


def test_a_parameter_postgresql_does_not_know_is_told_with_the_one_it_resembles() -> None:
    problem = only(GOOD.replace("18}", "18, parameters: {shared_bufers: 1GB}}"), "C055")
    assert problem.message == "postgresql.parameters.shared_bufers is not a PostgreSQL 18 parameter"
    assert problem.hint == "did you mean 'shared_buffers'?"
    assert (problem.line, problem.column, problem.length) == (3, 40, 13)


@pytest.mark.parametrize(
    ("version", "name", "known"),
    [
        (17, "io_method", False),
        (18, "io_method", True),
        (16, "old_snapshot_threshold", True),
        (17, "old_snapshot_threshold", False),
        (14, "pg_stat_statements.max", True),
        (18, "ssl_ecdh_curve", True),
    ],
)
def test_parameters_are_known_by_the_major(version: int, name: str, known: bool) -> None:
    assert (parameters.unknown(name, version) is None) is known


@pytest.mark.parametrize(
    "setting",
    [
        "listen_addresses: '*'",
        "port: 5432",
        "ssl_cert_file: /x",
        "hot_standby: on",
        "cluster_name: x",
        "wal_level: minimal",
        "recovery_target_time: x",
        "password_encryption: md5",
    ],
)
def test_a_parameter_that_pgha_or_patroni_owns_is_refused(setting: str) -> None:
    assert only(GOOD.replace("18}", f"18, parameters: {{{setting}}}}}"), "C056").hint


def test_a_parameter_that_must_be_alike_everywhere_is_no_local_one() -> None:
    problem = only(GOOD.replace("18}", "18, local_parameters: {max_connections: 10}}"), "C056")
    assert problem.hint == "it must be the same on every node: set postgresql.parameters.max_connections"


@pytest.mark.parametrize(
    ("setting", "fine"),
    [
        ("max_connections: 300", True),
        ("max_connections: many", False),
        ("max_connections: true", False),
        ("work_mem: 64MB", True),
        ("work_mem: 64 parsecs", False),
        ("autovacuum: off", True),
        ("autovacuum: maybe", False),
        ("random_page_cost: 1.1", True),
        ("wal_level: logical", True),
        ("shared_preload_libraries: pg_stat_statements", True),
    ],
)
def test_a_parameter_takes_values_of_its_type(setting: str, fine: bool) -> None:
    found = [p.code for p in problems(GOOD.replace("18}", f"18, parameters: {{{setting}}}}}"))]
    assert found == ([] if fine else ["C057"])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{retention: {full: 2}}", "no repository"),
        ("{posix: {on: pg-node9}}", "'pg-node9' is no node"),
        ("{posix: {on: pg-node1}}", "has a database"),
        ("{posix: [{on: witness-node}, {on: witness-node}]}", "same folder"),
        ("{azure: {container: c, account: a}}", "credentials"),
        ("{s3: {bucket: b, credentials: {key: 'env:K'}}}", "credentials"),
        ("{s3: {bucket: b}, drill: {on: pg-node9}}", "'pg-node9' is no node"),
    ],
)
def test_a_backup_section_that_could_not_work_is_refused_with_what_is_missing(section: str, said: str) -> None:
    problem = only(with_lines(f"backup: {section}"), "C060")
    assert said in problem.message
    assert problem.hint


def test_a_major_past_its_end_of_life_is_a_warning() -> None:
    text = GOOD.replace("version: 18", "version: 14")
    assert only(text, "C070").message == "PostgreSQL 14 ended on 2026-11-12; no more security fixes"
    assert inventory.load("prod.yml", text, date(2026, 11, 12))[1] == []


def test_a_cluster_is_found_by_its_name_and_a_file_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "prod.yml").write_text(GOOD)
    assert inventory.find("prod", tmp_path) == tmp_path / "prod.yml"
    assert inventory.find("./x.yml", tmp_path) == Path("x.yml")
    with pytest.raises(UserError, match="Did you mean 'prod'"):
        inventory.find("prd", tmp_path)
    with pytest.raises(UserError, match="Write it, or give the path"):
        inventory.find("prod", tmp_path / "none")


def test_a_definition_that_is_not_there_is_told_with_the_way_to_another_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="or set PGHA_ROOT if its files are elsewhere"):
        inventory.find("no-such-cluster", Path("/etc/pgha/clusters"))
    with pytest.raises(UserError) as caught:
        inventory.find("no-such-cluster", tmp_path)
    assert "PGHA_ROOT" not in str(caught.value)
