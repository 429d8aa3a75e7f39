"""keys list | accept | reject | revoke | token."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

from pydantic import Field

from ...common.errors import HostError
from ...common.keys import fingerprint, public_from_text
from ..bus.enrolment import token_secret
from ..control import Arguments, Request
from ..operations.progress import End
from ..server import Master

ROTATE_S = 30.0  # a minion makes a key, connects again, and says HELLO
TOKEN_MOST_S = 31 * 86400.0
TOLD_S = 5.0  # who is connected has the next keys by then


class Key(Arguments):
    name: str = ""
    fingerprint: str = ""


class MasterKeys(Arguments):
    finish: bool = False
    force: bool = False


class Token(Arguments):
    name: str = ""
    ttl_s: Annotated[float, Field(le=TOKEN_MOST_S, allow_inf_nan=False)] = 3600.0


async def list_keys(master: Master, request: Request) -> AsyncIterator[Any]:
    now = master.clock.now()
    keys = []
    for row in await master.store.minions():
        peer = master.hub.peers.get(row.name) if row.state == "accepted" else None
        seen = master.clock.monotonic() - peer.heard if peer and peer.heard > 0 else now - row.seen
        keys.append(
            {
                "name": row.name,
                "state": row.state,
                "fingerprint": fingerprint(public_from_text(row.public_key)),
                "seen_s": round(seen, 1),
                "connected": row.state == "accepted" and master.hub.connected(row.name),
                "address": row.address,
                "since": row.since,
                "note": row.note,
                "trouble": peer.trouble if peer else "",  # what is wrong with the minion, as it says
            }
        )
    yield End(data={"master_fingerprint": master.fingerprint, "keys": keys})


async def accept(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Key)
    row = await master.hub.enrolment.accept(wanted.name, wanted.fingerprint)
    yield _decided(row.name, row.public_key, "accepted")


async def reject(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Key)
    row = await master.hub.enrolment.reject(wanted.name, wanted.fingerprint)
    yield _decided(row.name, row.public_key, "rejected")


async def revoke(master: Master, request: Request) -> AsyncIterator[Any]:
    row = await master.hub.enrolment.revoke(request.read(Key).name)
    yield _decided(row.name, row.public_key, "revoked")


async def rotate(master: Master, request: Request) -> AsyncIterator[Any]:
    """A new key for one minion. Ends when the new one has spoken, and the old one is no more."""
    name = request.read(Key).name
    peer, before = master.hub.peers.get(name), ""
    before = peer.key if peer else ""
    master.hub.rotation.ask(name)
    deadline = master.clock.monotonic() + ROTATE_S
    while (peer := master.hub.peers.get(name)) is None or peer.key == before or not master.hub.connected(name):
        if master.clock.monotonic() > deadline:
            raise HostError(f"{name} has not come back with a new key within {ROTATE_S:g} s; its old one is still good")
        async with master.hub.telemetry:
            await master.hub.telemetry.wait()
    yield _decided(name, peer.key, "rotated")


async def rotate_master(master: Master, request: Request) -> AsyncIterator[Any]:
    """New keys for the master: made and told to all minions first; with `finish` they are put in place."""
    wanted = request.read(MasterKeys)
    rotation = master.hub.rotation
    if wanted.finish:
        text = await rotation.finish(wanted.force)
        told = "the new keys are in place and used after a restart: systemctl restart pgha-master"
        yield End(message=told, data={"master_fingerprint": text, "missing": []})
        return
    text = rotation.begin()
    deadline = master.clock.monotonic() + TOLD_S
    while (missing := await rotation.missing()) and master.clock.monotonic() < deadline:
        async with master.hub.telemetry:
            await master.hub.telemetry.wait()
    if missing:
        told = f"the next keys are made; {', '.join(missing)} do not have them yet and get them when they connect"
    else:
        told = "the next keys are made and every minion has them; put them in place with --finish"
    yield End(message=told, data={"master_fingerprint": text, "missing": missing})


async def token(master: Master, request: Request) -> AsyncIterator[Any]:
    """A token that one new minion may use once instead of being accepted by hand."""
    wanted = request.read(Token)
    identity, expires = secrets.token_hex(16), master.clock.now() + wanted.ttl_s
    secret = token_secret(master.vault, identity, wanted.name, expires)
    await master.store.put_token(identity, wanted.name, expires, request.who)
    where = reached_at(master.listen)
    command = f"pgha-minion enrol --master {where} --fingerprint {master.fingerprint} --token {identity}.{secret}"
    data = {"token": f"{identity}.{secret}", "command": command, "master": where}
    yield End(data={**data, "name": wanted.name, "ttl_s": wanted.ttl_s})


def reached_at(listen: str) -> str:
    """`ADDRESS:PORT` for a minion; the word ADDRESS stands there when the master listens on every address it has."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if host in ("", "*", "0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return f"ADDRESS:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _decided(name: str, key: str, state: str) -> End:
    shown = fingerprint(public_from_text(key))
    return End(message=f"{name} {state}", data={"name": name, "fingerprint": shown, "state": state})
