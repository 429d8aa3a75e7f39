"""Who may join: what an enrolment request leads to, decided from what the master knows. Pure.

A key is accepted by an operator who compared its fingerprint, or by a token; never because of the name it claims.
A known name with another key is a conflict, shown and refused, until the operator revokes the old key.

A token's secret is stored nowhere: it follows from the master key and from what the token is for. So a stolen store
gives no token, and a row that was changed in it gives another secret.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ...common.messages import Enrol
from ..store import MinionRow

PENDING_CAP = 200
PER_ADDRESS = 50  # of them

REPLACED = "this key was replaced by a newer one of the same node"

Verdict = Literal["pending", "accepted", "rejected", "revoked", "conflict"]


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    secret: str = field(repr=False)
    name: str  # the one node it is for; empty for any
    expires: float
    who: str = ""  # made it


class Derives(Protocol):
    """As `vault.Vault`."""

    def passphrase(self, purpose: str) -> bytes: ...


def token_secret(vault: Derives, identity: str, name: str, expires: float) -> str:
    """256 bits, the same every time for one token. `expires` is Unix time."""
    return vault.passphrase(f"token {identity} {expires!r} {name}").decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Decision:
    """`remember`: the row is written as (state, note). `spend`: the token must be spent first, or it is pending."""

    state: Verdict
    note: str = ""
    remember: bool = False
    spend: bool = False


def decide(
    request: Enrol,
    public_key: bytes,
    key_text: str,
    known: Sequence[MinionRow],
    token: Token | None,
    now: float,
    address: str = "",
) -> Decision:
    """What becomes of this key, which knocks from that address."""
    mine = next((row for row in known if row.public_key == key_text), None)
    if mine is not None and mine.state not in ("pending", "conflict"):
        return Decision(_verdict(mine.state), REPLACED if mine.state == "retired" else mine.note)
    holder = next((row for row in known if row.name == request.name and row.state == "accepted"), None)
    waiting = [row.address for row in known if row.state in ("pending", "conflict")]
    full = mine is None and (len(waiting) >= PENDING_CAP or waiting.count(address) >= PER_ADDRESS)
    if holder is not None and not full:
        note = (
            f"{request.name} is known with another key; "
            f"if this host was set up anew: pgha-master keys revoke {request.name}"
        )
        return Decision("conflict", note, remember=True)
    if holder is None and token is not None and _proves(request, public_key, token, now):
        return Decision("accepted", f"token {token.id}", remember=True, spend=True)
    if full:
        return Decision("rejected", "too many keys are waiting; accept or reject some first")
    note = "" if not request.token_id else "its token is unknown, expired or for another node"
    return Decision("pending", note, remember=True)


def _proves(request: Enrol, public_key: bytes, token: Token, now: float) -> bool:
    if now > token.expires or token.name not in ("", request.name):
        return False
    text = b"pgha-enrol:" + public_key + request.name.encode() + request.nonce
    return hmac.compare_digest(request.proof, hmac.new(token.secret.encode(), text, hashlib.sha256).digest())


def _verdict(state: str) -> Verdict:
    """A key that is being rotated in is as good as accepted, one that was rotated out is not any more."""
    known: dict[str, Verdict] = {"accepted": "accepted", "next": "accepted", "rejected": "rejected"}
    return known.get(state, "revoked")
