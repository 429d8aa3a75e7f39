"""secrets list | reveal | set. A value leaves the daemon only by `reveal`, which is logged with who asked."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from ...common.errors import Refused, UserError
from ...common.secret import Secret
from ..control import Arguments, Request
from ..operations.progress import End
from ..server import Master

log = logging.getLogger("pgha.secrets")

MADE_WITH_THE_CLUSTER = ("postgresql/superuser", "postgresql/replication", "postgresql/rewind")


class Of(Arguments):
    cluster: str


class Named(Arguments):
    cluster: str
    name: str


class Value(Named):
    value: str


def refuse_what_lives_in_the_database(cluster: str, name: str, *, applied: bool) -> None:
    """Patroni gives its roles their passwords when it makes the cluster, and never again.

    Another one in its configuration alone would cut off every replica at its next connection. Raises Refused.
    """
    if applied and name in MADE_WITH_THE_CLUSTER:
        raise Refused(
            f"{cluster}/{name} is the password of a role in a database that exists, and no apply changes it there: "
            "replicas could not connect any more; it can be set before the first apply only"
        )


async def list_secrets(master: Master, request: Request) -> AsyncIterator[Any]:
    cluster = request.read(Of).cluster
    yield End(data={"secrets": [{"name": f"{cluster}/{name}"} for name in master.vault.names(cluster)]})


async def reveal(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Named)
    secret = master.vault.get(wanted.cluster, wanted.name)
    if secret is None:
        raise UserError(
            f"there is no secret {wanted.cluster}/{wanted.name}; see: pgha-master secrets list {wanted.cluster}"
        )
    log.info("%s revealed %s/%s", request.who, wanted.cluster, wanted.name)
    yield End(data={"value": secret.reveal()})


async def set_secret(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Value)
    refuse_what_lives_in_the_database(wanted.cluster, wanted.name, applied=wanted.cluster in master.clusters)
    master.vault.set(wanted.cluster, wanted.name, Secret(wanted.value))
    log.info("%s set %s/%s", request.who, wanted.cluster, wanted.name)
    yield End(message=f"{wanted.cluster}/{wanted.name} is set; it is used from the next apply on")
