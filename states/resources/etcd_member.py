"""EtcdMember: who votes in etcd, asked of and changed through the member on this host.

Rules:
1. A member is known by its peer URL; until it has started for the first time it has no name.
2. etcd itself refuses a new member while it could not stand the loss of one (strict-reconfig-check).
3. Taking a vote away is destroying, so it must be named once more; and it is refused where those that are left and are
   healthy would be no majority.

pgha's own members come and go by an apply, which also looks after their data; this is for others, such as one that
watches from elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from ...common.errors import HostError
from ..action import Run
from ..certificates import ETCD_TLS
from ..resource import Change, Resource
from ..system import Look
from .fields import Label

ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Member:
    """`id` in hexadecimal, as etcdctl takes it."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """`why`: why nothing can be said here. `healthy`: client URLs that answered a read through the quorum."""

    members: tuple[Member, ...] = ()
    healthy: frozenset[str] = frozenset()
    why: str = ""


class EtcdMember(Resource[EtcdFacts]):
    """`client_port`: of the member on this host."""

    kind: Literal["etcd_member"] = "etcd_member"
    name: Label
    peer_url: str
    absent: bool = False
    client_port: int = Field(2379, ge=1, le=65535)

    @field_validator("peer_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith(("https://", "http://")) or value.rstrip("/") != value or "," in value:
            raise ValueError(f"expected one URL such as https://10.0.1.14:2380, not {value!r}")
        return value

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> EtcdFacts:
        listed = look.ask((*self._etcdctl(), "member", "list", "-w", "json"), timeout_s=ASK_S)
        if listed.rc != 0:
            return EtcdFacts(why=_last(listed.stderr) or f"etcdctl ended with {listed.rc}")
        health = look.ask((*self._etcdctl(), "endpoint", "health", "--cluster", "-w", "json"), timeout_s=ASK_S)
        well = frozenset(str(one.get("endpoint", "")) for one in _array(health.stdout) if one.get("health") is True)
        return EtcdFacts(_members(listed.stdout), well)

    def plan(self, facts: EtcdFacts) -> list[Change]:
        there = next((one for one in facts.members if self.peer_url in one.peer_urls), None)
        named = next((one for one in facts.members if one.name == self.name), None)
        if self.absent:
            found = there or named
            return [self._removal(found, facts)] if found else []
        if there is not None:
            if there.name not in ("", self.name):
                raise HostError(f"{self.peer_url} is the peer URL of the member {there.name}; give each member its own")
            return []
        if named is not None:
            action = Run((*self._etcdctl(), "member", "update", named.id, f"--peer-urls={self.peer_url}"))
            return [Change("peer URL", action, " ".join(named.peer_urls), self.peer_url)]
        action = Run((*self._etcdctl(), "member", "add", self.name, f"--peer-urls={self.peer_url}"))
        return [Change("member", action, "absent", self.peer_url)]

    def skip(self, facts: EtcdFacts) -> str:
        return f"the member of etcd on this host does not answer: {facts.why}" if facts.why else ""

    def _removal(self, member: Member, facts: EtcdFacts) -> Change:
        left = [one for one in facts.members if one.id != member.id]
        well = [one for one in left if facts.healthy.intersection(one.client_urls)]
        if len(well) < len(left) // 2 + 1:
            raise HostError(
                f"without {self.name} etcd would have {len(left)} members of which {len(well)} are healthy, and no "
                "quorum; see to the others first"
            )
        action = Run((*self._etcdctl(), "member", "remove", member.id))
        return Change(
            "member", action, " ".join(member.peer_urls), "absent", destroys=f"the vote of {self.name} in etcd"
        )

    def _etcdctl(self) -> tuple[str, ...]:
        tls = (f"--cacert={ETCD_TLS}/ca.crt", f"--cert={ETCD_TLS}/etcd-server.crt", f"--key={ETCD_TLS}/etcd-server.key")
        return ("etcdctl", f"--endpoints=https://127.0.0.1:{self.client_port}", *tls)


def _members(text: str) -> tuple[Member, ...]:
    """Source: etcdctl member list -w json, whose ids are decimal."""
    try:
        told = json.loads(text).get("members", [])
    except (ValueError, AttributeError):
        return ()
    return tuple(
        Member(
            f"{int(one.get('ID', 0)):x}",
            str(one.get("name", "")),
            tuple(map(str, one.get("peerURLs") or ())),
            tuple(map(str, one.get("clientURLs") or ())),
        )
        for one in told
        if isinstance(one, dict)
    )


def _array(text: str) -> list[dict[str, Any]]:
    try:
        told = json.loads(text)
    except ValueError:
        return []
    return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
