"""Databases and extensions: facts -> statements, what is refused, and what is never done by itself."""

from __future__ import annotations

import pytest
from pgha.common.errors import HostError
from pgha.common.results import Status
from pgha.states.action import RunSql
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resource import AnyResource, Change
from pgha.states.resources.databases import DatabaseFacts, ExtensionFacts, PostgresDatabase, PostgresExtension
from pgha.states.system import Output
from pgha.states.testing import FakeSystem

APP = DatabaseFacts(answered=True, exists=True, owner="app", encoding="UTF8", locale="C.UTF-8")
NONE = DatabaseFacts(answered=True)


def statements(changes: list[Change]) -> list[tuple[str, str]]:
    """(database, statement) of each change."""
    found = []
    for change in changes:
        assert isinstance(change.action, RunSql)
        found.append((change.action.database, change.action.statements.reveal()))
    return found


@pytest.mark.parametrize(
    ("wanted", "facts", "statement"),
    [
        (PostgresDatabase(database="app"), NONE, 'create database "app";'),
        (PostgresDatabase(database="app"), DatabaseFacts(), 'create database "app";'),  # performing says why not
        (
            PostgresDatabase(database='a"b', owner="o", encoding="UTF8", locale="C.UTF-8"),
            NONE,
            'create database "a""b" owner "o" template template0 encoding \'UTF8\' locale \'C.UTF-8\';',
        ),
        (PostgresDatabase(database="app", owner="app", encoding="utf-8", locale="C.utf8"), APP, ""),
        (PostgresDatabase(database="app"), APP, ""),
        (PostgresDatabase(database="app", owner="b"), APP, 'alter database "app" owner to "b";'),
        (PostgresDatabase(database="app", absent=True, destroy=True), NONE, ""),
        (PostgresDatabase(database="app", absent=True, destroy=True), APP, 'drop database "app";'),
    ],
)
def test_a_database_is_changed_by_what_differs(wanted: PostgresDatabase, facts: DatabaseFacts, statement: str) -> None:
    assert statements(wanted.plan(facts)) == ([("postgres", statement)] if statement else [])


@pytest.mark.parametrize(
    ("wanted", "facts", "said"),
    [
        (PostgresDatabase(database="app", encoding="LATIN1"), APP, "has encoding UTF8, not LATIN1"),
        (PostgresDatabase(database="app", locale="de_DE.UTF-8"), APP, "given once"),
        (PostgresDatabase(database="app", absent=True, destroy=True), DatabaseFacts(), "cannot be seen"),
    ],
)
def test_what_cannot_be_changed_or_seen_is_refused(wanted: PostgresDatabase, facts: DatabaseFacts, said: str) -> None:
    with pytest.raises(HostError, match=said):
        wanted.plan(facts)


@pytest.mark.parametrize(
    ("version", "facts", "statement"),
    [
        ("", ExtensionFacts(False, True, "", "1.3"), 'create extension "pgcrypto";'),
        ("1.2", ExtensionFacts(False, True, "", "1.3"), 'create extension "pgcrypto" version "1.2";'),
        ("latest", ExtensionFacts(False, True, "", "1.3"), 'create extension "pgcrypto" version "1.3";'),
        ("latest", ExtensionFacts(False, True, "1.2", "1.3"), 'alter extension "pgcrypto" update to "1.3";'),
        ("1.3", ExtensionFacts(False, True, "1.2", "1.4"), 'alter extension "pgcrypto" update to "1.3";'),
        ("1.3", ExtensionFacts(False, True, "1.3", "1.4"), ""),
        ("", ExtensionFacts(False, True, "1.2", "1.4"), ""),
        ("latest", ExtensionFacts(False, True, "1.2", ""), ""),  # its package is gone; what is there works on
    ],
)
def test_an_extension_is_made_and_updated(version: str, facts: ExtensionFacts, statement: str) -> None:
    wanted = PostgresExtension(extension="pgcrypto", database="app", version=version)
    assert statements(wanted.plan(facts)) == ([("app", statement)] if statement else [])


def test_an_extension_is_dropped_only_on_purpose_and_never_with_what_depends_on_it() -> None:
    wanted = PostgresExtension(extension="pgcrypto", database="app", absent=True, destroy=True)
    assert statements(wanted.plan(ExtensionFacts(False, True, "1.3", "1.3"))) == [("app", 'drop extension "pgcrypto";')]
    with pytest.raises(HostError, match="cannot be seen"):
        wanted.plan(ExtensionFacts())


def test_an_extension_of_a_database_that_is_not_there_is_absent() -> None:
    wanted = PostgresExtension(extension="pgcrypto", database="gone", absent=True, destroy=True)
    (result,) = converge([wanted], FakeSystem(server=True), MemoryDebts())
    assert result.status is Status.UNCHANGED


def test_a_replica_leaves_databases_and_extensions_to_the_leader() -> None:
    wanted: list[AnyResource] = [
        PostgresDatabase(database="app"),
        PostgresDatabase(database="old", absent=True, destroy=True),
        PostgresExtension(extension="pgcrypto", database="app"),
    ]
    system = FakeSystem(server=True, replica=True)
    results = list(converge(wanted, system, MemoryDebts()))
    assert {result.status for result in results} == {Status.SKIPPED}
    assert system.performed == []


def test_an_error_of_the_server_is_no_absence() -> None:
    class Broken(FakeSystem):
        def sql(self, database: str, query: str) -> Output:
            return Output(3, "", "ERROR: out of memory") if "pg_database" in query else super().sql(database, query)

    (result,) = converge([PostgresDatabase(database="app")], Broken(server=True), MemoryDebts())
    assert result.status is Status.FAILED
    assert "out of memory" in result.reason
