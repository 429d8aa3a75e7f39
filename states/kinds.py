"""All kinds as one tagged union: the form in which resources travel from master to minion, and are kept.

A kind that is not listed here does not exist. Decoding is strict: an unknown kind or field is an error, because a
minion that leaves out what it does not understand would report a host as converged that is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError

from ..common.errors import UserError
from .resource import AnyResource
from .resources.accounts import Group, User
from .resources.apt_repository import AptRepository
from .resources.authorized_keys import AuthorizedKeys
from .resources.block import Block
from .resources.certificate import Certificate
from .resources.command import Command
from .resources.databases import PostgresDatabase, PostgresExtension
from .resources.etcd_member import EtcdMember
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
from .resources.stanza import Stanza
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
    | EtcdMember
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
    | Stanza
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


class Order(BaseModel):
    """What a state job is about: `documents` names those to run, `resources` are of all that take part.

    `allow_destroy`: ids of resources that may destroy what nobody keeps.
    """

    documents: list[str]
    allow_destroy: list[str] = []
    resources: list[Annotated[AnyKind, Field(discriminator="kind")]]


def decode(data: Sequence[dict[str, Any]]) -> list[AnyResource]:
    """Resources from their JSON form. Raises UserError as `read_order`."""
    return list(read_order(json.dumps({"documents": [], "resources": list(data)})).resources)


def read_order(text: str | bytes) -> Order:
    """An order from its JSON text, read once: a thousand resources cost a few milliseconds.

    Raises:
        UserError: a kind or a field this version does not know, or a value of the wrong type; says which.
    """
    try:
        return Order.model_validate_json(text, strict=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
    for one in wrong:
        if one["type"].startswith("union_tag"):
            raise UserError(
                f"this version of pgha knows no resource kind {one.get('ctx', {}).get('tag')!r}: "
                "the minion is older than the master; update pgha on this node"
            )
    place = wrong[0]["loc"]
    said = wrong[0]["msg"].removeprefix("Value error, ").replace("a valid array", "a list")
    if len(place) > 2 and place[0] == "resources":
        field = f", field {_dotted(place[3:])}" if place[3:] else ""  # what is wrong with several names them itself
        raise UserError(f"resource number {place[1]} ({place[2]}){field}: {said}")
    raise UserError(f"what was ordered cannot be read: {_dotted(place) or 'all of it'}: {said}")


def _dotted(place: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in place)


def encode(resources: Sequence[AnyResource]) -> list[dict[str, Any]]:
    """Their JSON form with the secrets in clear. For the encrypted wire to the one node that needs them only."""
    return [resource.model_dump(mode="json", context={"reveal": True}) for resource in resources]


def encode_redacted(resources: Sequence[AnyResource]) -> list[dict[str, Any]]:
    """Their JSON form with fingerprints in place of secrets, for the store and for people."""
    return [resource.model_dump(mode="json") for resource in resources]
