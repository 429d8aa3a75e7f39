"""The closed set of functions that `pgha-master run` may call on a host. A name that is not in the table is refused.

A function is `(arguments, system, output, cancelled) -> Outcome`. To add one: write it, add its line to `FUNCTIONS`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from ..common.errors import UserError
from ..common.results import Outcome
from ..states.action import Remove, Unit
from ..states.system import System
from .preflight import listening, mirror
from .probe_write import write_probe
from .probes import etcd
from .spawn import stream
from .survey import survey

Emit = Callable[[str, str], None]
Cancelled = Callable[[], bool]


class Call(BaseModel):
    """One ad-hoc call: a function and its arguments, all text; no shell is ever involved."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    function: str
    arguments: tuple[str, ...] = ()
    timeout_s: float = Field(60.0, gt=0, le=86400)


Function = Callable[[Call, System, Emit, Cancelled], Outcome]


def call(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    """Run the function. Raises UserError for an unknown one, HostError when the host cannot do it."""
    function = FUNCTIONS.get(request.function)
    if function is None:
        raise UserError(f"there is no function {request.function!r}; there are: {', '.join(sorted(FUNCTIONS))}")
    since = time.monotonic()
    outcome = function(request, system, output, cancelled)
    return outcome.model_copy(update={"seconds": time.monotonic() - since})


def _ping(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    return Outcome(ok=True, exit_code=0, data={"pong": True})


def _facts(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    return Outcome(ok=True, exit_code=0, data=survey().model_dump(mode="json"))


def _cmd(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    code, message = stream(request.arguments, request.timeout_s, output, cancelled)
    return Outcome(ok=code == 0, exit_code=code, message=message)


def _ask(system: System, output: Emit, argv: tuple[str, ...]) -> Outcome:
    answer = system.ask(argv, timeout_s=30)
    for name, text in (("stdout", answer.stdout), ("stderr", answer.stderr)):
        if text:
            output(name, text)
    return Outcome(ok=answer.rc == 0, exit_code=answer.rc)


def _preflight(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    """What a node can tell before anything is changed on it: who listens where, and whether packages can be had."""
    return Outcome(ok=True, exit_code=0, data={"listening": listening(), "mirror": mirror(system)})


def _service_status(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    if len(request.arguments) != 1:
        raise UserError("service.status takes one unit, such as: run '*' service.status patroni")
    unit = system.unit(request.arguments[0])
    output("stdout", f"{unit.load} {unit.active} {unit.enabled}\n")
    return Outcome(ok=unit.active == "active", exit_code=0 if unit.active == "active" else 3)


def _patroni_list(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    status, body = system.patroni("/cluster")
    if status != 200:
        return Outcome(ok=False, exit_code=1, message=f"Patroni does not answer: {body[:200]}")
    cluster = json.loads(body)
    for member in cluster.get("members", []):
        lag = member.get("lag", "")
        words = (member.get("name"), member.get("role"), member.get("state"), f"TL {member.get('timeline')}")
        output("stdout", "  ".join([*(str(w) for w in words), f"lag {lag}" if lag != "" else ""]).rstrip() + "\n")
    return Outcome(ok=True, exit_code=0, data={"members": cluster.get("members", [])})


def _etcd_health(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    return _ask(system, output, (*_etcdctl(system), "endpoint", "health", "--cluster"))


def _etcd_reset(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    """Stop etcd and take away what is left of a member that lost its votes, before it starts as a new one.

    Only ever asked for a member that has no write-ahead log: whatever came up there meanwhile is not that member.
    """
    if request.arguments != (ETCD_DATA,):
        raise UserError(f"etcd.reset takes {ETCD_DATA}")
    system.perform(Unit("stop", "etcd"))
    system.perform(Remove(ETCD_DATA, tree=True))
    return Outcome(ok=True, exit_code=0)


def _etcd_replace(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    """Remove a member that lost its disk and add its name anew, as etcd asks for it: never under the old id."""
    if len(request.arguments) != 3:
        raise UserError("etcd.replace takes MEMBER_ID NAME PEER_URL; MEMBER_ID is - when there is nothing to remove")
    member, name, peer_url = request.arguments
    if member != "-":
        removed = _ask(system, output, (*_etcdctl(system), "member", "remove", member))
        if not removed.ok:
            return removed
    return _ask(system, output, (*_etcdctl(system), "member", "add", name, f"--peer-urls={peer_url}"))


def _write_probe(request: Call, system: System, output: Emit, cancelled: Cancelled) -> Outcome:
    return write_probe(request.arguments)


def _etcdctl(system: System) -> tuple[str, ...]:
    return etcd.etcdctl(etcd.client_port(system.file(etcd.CONFIG).content or ""))


ETCD_DATA = "/var/lib/etcd/pgha"

FUNCTIONS: dict[str, Function] = {
    "ping": _ping,
    "preflight": _preflight,
    "facts": _facts,
    "cmd": _cmd,
    "service.status": _service_status,
    "patroni.list": _patroni_list,
    "etcd.health": _etcd_health,
    "etcd.reset": _etcd_reset,
    "etcd.replace": _etcd_replace,
    "write_probe": _write_probe,
}
