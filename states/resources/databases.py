"""Databases and extensions of PostgreSQL. Only the primary is changed; a replica gets it by replication and says so.

Rules:
1. What a database is made with (encoding, locale) is given once; another one than is there is refused.
2. Nothing is dropped unless `destroy` says so besides `absent`, and then without force: while somebody is connected, or
   something depends on an extension, PostgreSQL refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator, model_validator

from ...common.errors import HostError
from ...common.secret import Secret
from ..action import RunSql
from ..resource import Change, Resource
from ..system import Look
from .postgres import REPLICA, is_replica, quoted

_NAME_BYTES = 63
_SYSTEM = ("postgres", "template0", "template1")
_CONNECTION = 2  # psql's rc: no server, or no such database
LATEST = "latest"


def _identifier(value: str) -> str:
    if not 0 < len(value.encode()) <= _NAME_BYTES or not value.isprintable():
        raise ValueError(f"expected a name of 1 to {_NAME_BYTES} bytes, not {value!r}")
    return value


def _dropped_on_purpose(absent: bool, destroy: bool, what: str) -> None:
    if absent and not destroy:
        raise ValueError(f"absent: this drops {what}; say destroy: true besides, if it may be lost")
    if destroy and not absent:
        raise ValueError("destroy: it goes with absent: true only")


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """`answered`: a server did. What is empty is not known, because there is no such database."""

    replica: bool = False
    answered: bool = False
    exists: bool = False
    owner: str = ""
    encoding: str = ""
    locale: str = ""


class PostgresDatabase(Resource[DatabaseFacts]):
    """`owner` empty: left as it is. `encoding`, `locale` empty: those of the server, when the database is made."""

    kind: Literal["postgres_database"] = "postgres_database"
    database: str
    owner: str = ""
    encoding: str = ""
    locale: str = ""
    absent: bool = False
    destroy: bool = False

    @field_validator("database")
    @classmethod
    def _named(cls, value: str) -> str:
        return _identifier(value)

    @field_validator("encoding", "locale")
    @classmethod
    def _word(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.@-]*", value):
            raise ValueError(f"expected one word as PostgreSQL has it, such as UTF8 or C.UTF-8, not {value!r}")
        return value

    @model_validator(mode="after")
    def _on_purpose(self) -> PostgresDatabase:
        _dropped_on_purpose(self.absent, self.destroy, "the database with all that is in it")
        if self.absent and self.database in _SYSTEM:
            raise ValueError(f"absent: {self.database} is PostgreSQL's own and stays")
        return self

    def key(self) -> str:
        return self.database

    def observe(self, look: Look) -> DatabaseFacts:
        if is_replica(look):
            return DatabaseFacts(replica=True)
        said = look.sql("postgres", database_query(self.database))
        if said.rc not in (0, _CONNECTION):
            raise HostError(f"PostgreSQL cannot say whether there is a database {self.database}: {said.stderr.strip()}")
        columns = said.stdout.rstrip("\n").split("\t")
        if said.rc != 0 or len(columns) != 3:
            return DatabaseFacts(answered=said.rc == 0)
        return DatabaseFacts(False, True, True, *columns)

    def plan(self, facts: DatabaseFacts) -> list[Change]:
        name = quoted(self.database)
        if self.absent:
            if not facts.answered:
                raise HostError("no PostgreSQL server answers on this host, so what is in it cannot be seen")
            drop = RunSql("postgres", Secret(f"drop database {name};"))
            if not facts.exists:
                return []
            lost = f"the database {self.database}"
            return [Change("database", drop, f"owned by {facts.owner}", "dropped", destroys=lost)]
        if not facts.exists:
            create = RunSql("postgres", Secret(f"create database {name}{self._options()};"))
            return [Change("database", create, "absent", f"owned by {self.owner}" if self.owner else "there")]
        self._refuse(facts)
        if self.owner in ("", facts.owner):
            return []
        alter = RunSql("postgres", Secret(f"alter database {name} owner to {quoted(self.owner)};"))
        return [Change("owner", alter, facts.owner, self.owner)]

    def _options(self) -> str:
        options = f" owner {quoted(self.owner)}" if self.owner else ""
        if self.encoding or self.locale:
            options += " template template0"  # the only one that may be copied into another encoding or locale
        options += f" encoding '{self.encoding}'" if self.encoding else ""
        return options + (f" locale '{self.locale}'" if self.locale else "")

    def _refuse(self, facts: DatabaseFacts) -> None:
        wanted = (("encoding", self.encoding, facts.encoding), ("locale", self.locale, facts.locale))
        for what, want, have in wanted:
            if want and _folded(want) != _folded(have):
                raise HostError(
                    f"database {self.database} has {what} {have}, not {want}, which is given once, when it is made; "
                    "dump it, make a new one and restore into it"
                )

    def skip(self, facts: DatabaseFacts) -> str:
        return REPLICA if facts.replica else ""


@dataclass(frozen=True, slots=True)
class ExtensionFacts:
    """`answered`: the database did. `installed`, `default`: versions; empty for none, and for not available."""

    replica: bool = False
    answered: bool = False
    installed: str = ""
    default: str = ""


class PostgresExtension(Resource[ExtensionFacts]):
    """`version` empty: whichever is there; `latest`: what the installed package offers; else exactly this one."""

    kind: Literal["postgres_extension"] = "postgres_extension"
    extension: str
    database: str
    version: str = ""
    schema_name: str = ""
    absent: bool = False
    destroy: bool = False

    @field_validator("extension", "database")
    @classmethod
    def _named(cls, value: str) -> str:
        return _identifier(value)

    @model_validator(mode="after")
    def _on_purpose(self) -> PostgresExtension:
        _dropped_on_purpose(self.absent, self.destroy, "the extension with its functions and types")
        return self

    def key(self) -> str:
        return f"{self.database}/{self.extension}"

    def observe(self, look: Look) -> ExtensionFacts:
        if is_replica(look):
            return ExtensionFacts(replica=True)
        said = look.sql(self.database, extension_query(self.extension))
        if said.rc not in (0, _CONNECTION):
            raise HostError(f"database {self.database} cannot say what extensions it has: {said.stderr.strip()}")
        columns = said.stdout.rstrip("\n").split("\t")
        if said.rc == _CONNECTION:  # no server, or only no such database
            there = look.sql("postgres", database_query(self.database))
            return ExtensionFacts(answered=there.rc == 0 and not there.stdout.strip())
        if len(columns) != 2:
            raise HostError(f"database {self.database} says of {self.extension}: {said.stdout.strip()!r}")
        return ExtensionFacts(False, True, *columns)

    def plan(self, facts: ExtensionFacts) -> list[Change]:
        name = quoted(self.extension)
        if self.absent:
            if not facts.answered:
                raise HostError(f"no database {self.database} answers on this host, so what is in it cannot be seen")
            drop = self._run(f"drop extension {name};")
            lost = f"the extension {self.extension} with all that it keeps"
            return [Change("extension", drop, facts.installed, "dropped", destroys=lost)] if facts.installed else []
        wanted = facts.default if self.version == LATEST else self.version
        if not facts.installed:
            options = f" schema {quoted(self.schema_name)}" if self.schema_name else ""
            options += f" version {quoted(wanted)}" if wanted else ""
            return [Change("extension", self._run(f"create extension {name}{options};"), "absent", wanted or "there")]
        if wanted in ("", facts.installed):
            return []
        update = self._run(f"alter extension {name} update to {quoted(wanted)};")
        return [Change("version", update, facts.installed, wanted)]

    def _run(self, statement: str) -> RunSql:
        return RunSql(self.database, Secret(statement))

    def skip(self, facts: ExtensionFacts) -> str:
        return REPLICA if facts.replica else ""


def database_query(name: str) -> str:
    return (
        "select pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate from pg_database "  # noqa: S608
        f"where datname = {_literal(name)}"
    )


def extension_query(name: str) -> str:
    literal = _literal(name)
    return (
        "select coalesce((select extversion from pg_extension "  # noqa: S608
        f"where extname = {literal}), ''), "
        f"coalesce((select default_version from pg_available_extensions where name = {literal}), '')"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _folded(word: str) -> str:
    """UTF8 and utf-8 are one encoding, C.UTF-8 and C.utf8 one locale."""
    return word.lower().replace("-", "").replace("_", "")
