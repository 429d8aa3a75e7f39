"""What lives inside PostgreSQL: roles, and anything else that a query can check and statements can make so.

Only the primary is changed; a replica gets it by replication and says so. A role's password is compared with the
stored SCRAM verifier and set as a verifier computed here, so its text reaches neither the server nor its log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import unicodedata
from dataclasses import dataclass
from typing import Literal

from pydantic import field_validator

from ...common.secret import Secret
from ..action import RunSql
from ..resource import Change, Resource
from ..system import Look

ITERATIONS = 4096  # PostgreSQL's own scram_iterations
IN_RECOVERY = "select pg_is_in_recovery()"
REPLICA = "a replica gets it from the leader"
FLAGS = {
    "LOGIN": "rolcanlogin",
    "SUPERUSER": "rolsuper",
    "CREATEDB": "rolcreatedb",
    "CREATEROLE": "rolcreaterole",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
    "INHERIT": "rolinherit",
}
LIMIT = "CONNECTION LIMIT "


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """`attributes`: as CREATE ROLE spells them, LOGIN or NOLOGIN and so on. `salt`: fresh, for a new verifier."""

    replica: bool = False
    exists: bool = False
    password_right: bool = False
    attributes: frozenset[str] = frozenset()
    salt: bytes = b""


class PostgresRole(Resource[RoleFacts]):
    """A role with this password. Attributes that are not named are left as they are, or PostgreSQL's default."""

    kind: Literal["postgres_role"] = "postgres_role"
    role: str
    password: Secret
    attributes: tuple[str, ...] = ("LOGIN",)

    @field_validator("attributes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for attribute in value:
            number = attribute.removeprefix(LIMIT)
            limit = number != attribute and number.removeprefix("-").isdigit()
            if not limit and attribute not in FLAGS and attribute.removeprefix("NO") not in FLAGS:
                raise ValueError(f"{attribute!r} is no role attribute pgha knows; known: {', '.join(FLAGS)}, {LIMIT}n")
        return value

    def key(self) -> str:
        return self.role

    def observe(self, look: Look) -> RoleFacts:
        if is_replica(look):
            return RoleFacts(replica=True)
        answer = look.sql("postgres", role_query(self.role))
        columns = answer.stdout.rstrip("\n").split("\t")
        if answer.rc != 0 or len(columns) != len(FLAGS) + 2:
            return RoleFacts(salt=os.urandom(16))
        flags = {word if on == "t" else f"NO{word}" for word, on in zip(FLAGS, columns[2:], strict=True)}
        return RoleFacts(
            exists=True,
            password_right=verifies(columns[0], self.password),
            attributes=frozenset({*flags, LIMIT + columns[1]}),
            salt=os.urandom(16),
        )

    def plan(self, facts: RoleFacts) -> list[Change]:
        attributes = " ".join(self.attributes)
        verb = "alter" if facts.exists else "create"
        made = verifier(self.password, facts.salt)
        action = RunSql("postgres", Secret(f"{verb} role {quoted(self.role)} with {attributes} password '{made}';"))
        if not facts.exists:
            return [Change("role", action, "absent", attributes or "present")]
        changes = [
            Change(attribute, action, "no", "yes") for attribute in self.attributes if attribute not in facts.attributes
        ]
        if not facts.password_right:
            changes.append(Change("password", action, "another one, or none", "as wanted"))
        return changes

    def skip(self, facts: RoleFacts) -> str:
        return REPLICA if facts.replica else ""


@dataclass(frozen=True, slots=True)
class SqlFacts:
    """`answer`: what the check printed, or the last line of its error."""

    replica: bool = False
    right: bool = False
    answer: str = ""


class Sql(Resource[SqlFacts]):
    """`check` prints t when `database` is as wanted; else `statements` are run, and must make it so."""

    kind: Literal["sql"] = "sql"
    name: str
    database: str = "postgres"
    check: str
    statements: str

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> SqlFacts:
        if is_replica(look):
            return SqlFacts(replica=True)
        answer = look.sql(self.database, self.check)
        said = (answer.stdout if answer.rc == 0 else answer.stderr).strip()
        return SqlFacts(right=answer.rc == 0 and said == "t", answer=said.splitlines()[-1] if said else "nothing")

    def plan(self, facts: SqlFacts) -> list[Change]:
        if facts.right:
            return []
        action = RunSql(self.database, Secret(self.statements))
        digest = hashlib.sha256(self.statements.encode()).hexdigest()[:8]
        return [Change(f"check in {self.database}", action, facts.answer, f"t, by statements {digest}")]

    def skip(self, facts: SqlFacts) -> str:
        return REPLICA if facts.replica else ""


def is_replica(look: Look) -> bool:
    """False also where no server answers: then the change is planned, and performing it says what is wrong."""
    return look.sql("postgres", IN_RECOVERY).stdout.strip() == "t"


def role_query(role: str) -> str:
    columns = ", ".join(FLAGS.values())
    literal = role.replace("'", "''")
    return f"select coalesce(rolpassword, ''), rolconnlimit, {columns} from pg_authid where rolname = '{literal}'"  # noqa: S608


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def verifier(password: Secret, salt: bytes, iterations: int = ITERATIONS) -> str:
    """What PostgreSQL stores for the password. Source: RFC 5803; PostgreSQL, catalog pg_authid."""
    stored, server = _keys(password, salt, iterations)
    return f"SCRAM-SHA-256${iterations}:{_b64(salt)}${_b64(stored)}:{_b64(server)}"


def verifies(stored: str, password: Secret) -> bool:
    """Whether a stored verifier is that of the password; False for md5, none, or anything damaged."""
    try:
        scheme, parameters, keys = stored.split("$")
        iterations, salt = parameters.split(":")
        wanted = verifier(password, base64.b64decode(salt, validate=True), int(iterations))
    except ValueError:
        return False
    return scheme == "SCRAM-SHA-256" and hmac.compare_digest(wanted.rsplit("$", 1)[1], keys)


def _keys(password: Secret, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    text = password.reveal()
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)  # what SASLprep does to ordinary text
    salted = hashlib.pbkdf2_hmac("sha256", text.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return stored, hmac.digest(salted, b"Server Key", "sha256")


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()
