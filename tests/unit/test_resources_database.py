"""Patroni's dynamic configuration, roles and statements: who changes them, what is a difference, what is never seen."""

from __future__ import annotations

import base64
import hmac
import json

import pytest
from pgha.common.results import Impact, Status
from pgha.common.secret import Secret
from pgha.states.action import PatchPatroni, RunSql
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resource import AnyResource
from pgha.states.resources.packages import Upgradable, upgradable
from pgha.states.resources.patroni import PatroniConfig, PatroniFacts, same
from pgha.states.resources.postgres import PostgresRole, RoleFacts, Sql, verifier, verifies
from pgha.states.testing import FakeSystem
from pydantic import ValidationError

ROLE = PostgresRole(role="pgha_probe", password=Secret("pencil"))


@pytest.mark.parametrize(("is_", "wanted"), [("on", True), ("100", 100), (1, 1.0), ("OFF", False), ("256MB", "256MB")])
def test_values_that_mean_the_same_are_no_difference(is_: object, wanted: object) -> None:
    assert same(is_, wanted)


@pytest.mark.parametrize(("is_", "wanted"), [("on", False), (1, True), ("replica", "logical"), (None, 0)])
def test_values_that_mean_something_else_are_a_difference(is_: object, wanted: object) -> None:
    assert not same(is_, wanted)


def test_a_parameter_that_needs_a_restart_says_that_it_waits_for_one_and_restarts_nothing() -> None:
    wanted = PatroniConfig(settings={"postgresql": {"parameters": {"max_connections": 200, "work_mem": "8MB"}}})
    changes = wanted.plan(PatroniFacts(True, True, {}))
    assert [change.disruption.impact for change in changes] == [Impact.RELOAD, Impact.RELOAD]
    assert ["pending" in change.what for change in changes] == [True, False]


def test_only_what_differs_is_sent_in_one_patch() -> None:
    wanted = PatroniConfig(settings={"ttl": 30, "loop_wait": 10, "postgresql": {"parameters": {"work_mem": None}}})
    is_ = {"ttl": 20, "loop_wait": 10, "other": 1, "postgresql": {"parameters": {"work_mem": "4MB"}}}
    changes = wanted.plan(PatroniFacts(True, True, is_))
    assert len({change.action for change in changes}) == 1
    action = changes[0].action
    assert isinstance(action, PatchPatroni)
    assert json.loads(action.patch) == {"ttl": 30, "postgresql": {"parameters": {"work_mem": None}}}


def test_what_was_taken_out_of_a_whole_section_goes_and_other_sections_are_left_alone() -> None:
    settings = {"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB"}}}
    wanted = PatroniConfig(settings=settings, whole=("postgresql.parameters",))
    is_ = {"ttl": 30, "pause": True, "postgresql": {"use_slots": True, "parameters": {"work_mem": "4MB", "jit": "off"}}}
    (change,) = wanted.plan(PatroniFacts(True, True, is_))
    assert (change.what, change.before, change.after) == ("postgresql.parameters.jit", "off", "absent")
    assert isinstance(change.action, PatchPatroni)
    assert json.loads(change.action.patch) == {"postgresql": {"parameters": {"jit": None}}}


def test_a_replica_leaves_the_configuration_and_the_database_to_the_leader() -> None:
    system = FakeSystem(patroni_config={}, patroni_role="replica", server=True, replica=True)
    wanted: list[AnyResource] = [
        PatroniConfig(settings={"ttl": 30}),
        ROLE,
        Sql(name="x", check="select false", statements="select 1"),
    ]
    results = list(converge(wanted, system, MemoryDebts()))
    assert {result.status for result in results} == {Status.SKIPPED}
    assert all("leader" in result.reason for result in results)


def test_a_node_whose_patroni_does_not_answer_fails_with_the_reason() -> None:
    (result,) = converge([PatroniConfig(settings={"ttl": 30})], FakeSystem(), MemoryDebts())
    assert result.status is Status.FAILED
    assert "Patroni does not answer" in result.reason


def test_a_verifier_holds_the_server_key_of_the_standards_example() -> None:
    """Source: RFC 7677, section 3."""
    made = verifier(Secret("pencil"), base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    server_key = base64.b64decode(made.rpartition(":")[2])
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    said = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    signature = base64.b64encode(hmac.digest(server_key, said.encode(), "sha256"))
    assert signature == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_verifier_is_of_one_password_only() -> None:
    made = verifier(Secret("pencil"), b"salt")
    assert verifies(made, Secret("pencil"))
    assert not verifies(made, Secret("Pencil"))


@pytest.mark.parametrize("stored", ["", "md5abc", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$4096:!!$a:b"])
def test_a_verifier_that_cannot_be_read_verifies_nothing(stored: str) -> None:
    assert not verifies(stored, Secret("pencil"))


def test_the_password_of_a_role_is_in_no_statement() -> None:
    for facts in (RoleFacts(salt=b"salt"), RoleFacts(exists=True, salt=b"salt", attributes=frozenset({"LOGIN"}))):
        (change,) = ROLE.plan(facts)
        assert isinstance(change.action, RunSql)
        assert "pencil" not in change.action.statements.reveal()
        assert "SCRAM" not in repr(change)


def test_an_attribute_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="is no role attribute"):
        PostgresRole(role="x", password=Secret("y"), attributes=("LOGIN; drop table x",))


SIMULATION = """\
Inst libssl3 [3.0.11-1] (3.0.15-1 Debian-Security:12/stable-security [amd64])
Inst tzdata [2024a-0] (2025b-0 Debian:13/stable [all])
Inst bash [5.1] (5.2 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
Inst linux-image-6.1.0-30 (6.1.124-1 Debian-Security:12/stable-security [amd64])
Inst patroni [4.0.6] (4.0.7 Debian-Security:12/stable-security [all])
Conf libssl3 (3.0.15-1 Debian-Security:12/stable-security [amd64])
"""


def test_security_takes_only_what_a_security_archive_offers_and_nothing_held() -> None:
    names = [package.name for package in upgradable(SIMULATION, "security", ("patroni",))]
    assert names == ["libssl3", "bash"]
    assert Upgradable("tzdata", "2024a-0", "2025b-0") in upgradable(SIMULATION, "all", ())
