"""All kinds as one tagged union: the form in which resources travel from master to minion, and are kept.

A kind that is not listed here does not exist. Decoding is strict: an unknown kind or field is an error, because a
minion that leaves out what it does not understand would report a host as converged that is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError

from ..common.errors import UserError
from .resource import AnyResource
from .resources.accounts import Group, User
from .resources.apt_repository import AptRepository
from .resources.authorized_keys import AuthorizedKeys
from .resources.block import Block
from .resources.certificate import Certificate
from .resources.command import Command
from .resources.databases import PostgresDatabase, PostgresExtension
from .resources.files import Absent, Directory, File, Symlink
from .resources.firewall import Firewall
from .resources.hosts import Hosts
from .resources.kernel import Sysctl
from .resources.limits import Limits
from .resources.line import Line
from .resources.mount import Mount
from .resources.package import Package
from .resources.packages import Packages, Upgrade
from .resources.patroni import PatroniConfig
from .resources.patroni_file import PatroniFile
from .resources.postgres import PostgresRole, Sql
from .resources.service import Service
from .resources.ssh import AuthorizedKey, SshKey
from .resources.sshd import Sshd
from .resources.thp import Thp
from .resources.time_sync import TimeSync
from .resources.units import DropIn, Timer, UnitFile

AnyKind = (
    Absent
    | AptRepository
    | AuthorizedKey
    | AuthorizedKeys
    | Block
    | Certificate
    | Command
    | Directory
    | DropIn
    | File
    | Firewall
    | Group
    | Hosts
    | Limits
    | Line
    | Mount
    | Package
    | Packages
    | PatroniConfig
    | PatroniFile
    | PostgresDatabase
    | PostgresExtension
    | PostgresRole
    | Service
    | Sql
    | Sshd
    | SshKey
    | Symlink
    | Sysctl
    | Thp
    | TimeSync
    | Timer
    | UnitFile
    | Upgrade
    | User
)
KINDS: dict[str, type[AnyResource]] = {kind.model_fields["kind"].default: kind for kind in get_args(AnyKind)}
_ADAPTER: TypeAdapter[list[AnyKind]] = TypeAdapter(list[Annotated[AnyKind, Field(discriminator="kind")]])


def decode(data: Sequence[dict[str, Any]]) -> list[AnyResource]:
    """Resources from their JSON form.

    Raises:
        UserError: a kind or a field this version does not know, or a value of the wrong type; says which.
    """
    for item in data:
        if item.get("kind") not in KINDS:
            raise UserError(
                f"this version of pgha knows no resource kind {item.get('kind')!r}: "
                "the minion is older than the master; update pgha on this node"
            )
    try:
        return list(_ADAPTER.validate_json(json.dumps(list(data)), strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        index = first["loc"][0]
        kind = data[index]["kind"] if isinstance(index, int) else "?"
        where = ".".join(str(part) for part in first["loc"][2:])
        field = f", field {where}" if where else ""  # what is wrong with several fields together names them itself
        said = first["msg"].removeprefix("Value error, ").replace("a valid array", "a list")
        raise UserError(f"resource number {index} ({kind}){field}: {said}") from None


def encode(resources: Sequence[AnyResource]) -> list[dict[str, Any]]:
    """Their JSON form with the secrets in clear. For the encrypted wire to the one node that needs them only."""
    return [resource.model_dump(mode="json", context={"reveal": True}) for resource in resources]


def encode_redacted(resources: Sequence[AnyResource]) -> list[dict[str, Any]]:
    """Their JSON form with fingerprints in place of secrets, for the store and for people."""
    return [resource.model_dump(mode="json") for resource in resources]
