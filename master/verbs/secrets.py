"""secrets list | reveal | set. A value leaves the daemon only by `reveal`, which is logged with who asked."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from ...common.errors import UserError
from ...common.secret import Secret
from ..control import Arguments, Request
from ..progress import End
from ..server import Master

log = logging.getLogger("pgha.secrets")


class Of(Arguments):
    cluster: str


class Named(Arguments):
    cluster: str
    name: str


class Value(Named):
    value: str


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
    master.vault.set(wanted.cluster, wanted.name, Secret(wanted.value))
    log.info("%s set %s/%s", request.who, wanted.cluster, wanted.name)
    yield End(message=f"{wanted.cluster}/{wanted.name} is set; it is used from the next apply on")
