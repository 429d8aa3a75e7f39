"""Patroni and etcd of this node: what they say of the cluster, and the acts that replace a member or take one out."""

from __future__ import annotations

import json
import time

from ...common.results import Outcome
from ...states.action import Remove, Run, Unit
from ..probe_write import write_probe as _probe
from ..probes import etcd, patroni
from .request import Call, Doors, arguments, wrong

ETCD_DATA = "/var/lib/etcd/pgha"
HISTORY_MAX = 200
MESSAGE_MAX = 500
PUT_ASIDE = f"{patroni.CONFIG}.taken-out"
NO_MEMBER = "member not found"  # etcd, of an id that it does not count
UNSTEADY = "unhealthy cluster"  # etcd, of a change of members soon after one of them has come or gone
UNSTEADY_S, PAUSE_S = 50.0, 1.0


def patroni_list(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    answer = _patroni(doors, "/cluster")
    if isinstance(answer, Outcome):
        return answer
    members = answer.get("members", []) if isinstance(answer, dict) else []
    for member in members:
        lag = member.get("lag", "")
        words = (member.get("name"), member.get("role"), member.get("state"), f"TL {member.get('timeline')}")
        text = "  ".join([*(str(word) for word in words), f"lag {lag}" if lag != "" else ""])
        doors.output("stdout", text.rstrip() + "\n")
    return Outcome(ok=True, exit_code=0, data={"members": members})


def patroni_history(call: Call, doors: Doors) -> Outcome:
    """Source: Patroni REST API, GET /history: [[timeline that ended, LSN, reason, time, new leader], ...]"""
    arguments(call, 0, 0)
    answer = _patroni(doors, "/history")
    if isinstance(answer, Outcome):
        return answer
    rows = [row for row in answer if isinstance(row, list) and row] if isinstance(answer, list) else []
    history = rows[-HISTORY_MAX:]
    for timeline, *rest in history:
        at, leader, reason, lsn = (str(rest[i]) if len(rest) > i else "-" for i in (2, 3, 1, 0))
        doors.output("stdout", f"TL {timeline} ended  {at}  new leader {leader}  at {lsn}  {reason}\n")
    if not history:
        doors.output("stdout", "the leader has never changed\n")
    return Outcome(ok=True, exit_code=0, data={"history": history})


def _patroni(doors: Doors, path: str) -> object:
    """What Patroni's REST API says, or the failed outcome when it says nothing of use."""
    status, body = doors.system.patroni(path)
    if status != 200:
        return Outcome(ok=False, exit_code=1, message=f"Patroni does not answer: {body[:200]}")
    try:
        return json.loads(body)
    except ValueError:
        return Outcome(ok=False, exit_code=1, message=f"Patroni answers no JSON on {path}; see journalctl -u patroni")


def patroni_reset(call: Call, doors: Doors) -> Outcome:
    """Stop Patroni and put its configuration aside, without which nothing starts it; done also when there is none."""
    arguments(call, 0, 0)
    if doors.system.attributes(patroni.CONFIG).kind != "file":
        return Outcome(ok=True, exit_code=0)
    doors.system.perform(Unit("stop", "patroni"))
    doors.system.perform(Run(("mv", "-T", patroni.CONFIG, PUT_ASIDE)))
    return Outcome(ok=True, exit_code=0, data={"kept": PUT_ASIDE})


def etcd_health(call: Call, doors: Doors) -> Outcome:
    arguments(call, 0, 0)
    return _ask(doors, (*etcdctl_here(doors), "endpoint", "health", "--cluster"))


def etcd_reset(call: Call, doors: Doors) -> Outcome:
    """Stop etcd and take away what is left of a member that lost its votes, before it starts as a new one.

    Only ever asked for a member that cannot go on with what it has. A write-ahead log, damaged or of a member that was
    removed, is kept beside it: it is for a person to say that nobody needs it.
    """
    if call.arguments != (ETCD_DATA,):
        raise wrong(call, f"the only PATH is {ETCD_DATA}")
    if doors.system.unit("etcd").load != "not-found":
        doors.system.perform(Unit("stop", "etcd"))
    if not etcd.has_log(doors.system, ETCD_DATA):
        doors.system.perform(Remove(ETCD_DATA, tree=True))
        return Outcome(ok=True, exit_code=0)
    kept = f"{ETCD_DATA}.lost-{int(doors.system.now())}"
    doors.system.perform(Run(("mv", "-T", ETCD_DATA, kept)))
    return Outcome(ok=True, exit_code=0, data={"kept": kept})


def etcd_replace(call: Call, doors: Doors) -> Outcome:
    """Remove a member that lost its disk and add its name anew, as etcd asks for it: never under the old id."""
    member, name, peer_url = arguments(call, 3, 3)
    if name.startswith("-") or (member.startswith("-") and member != "-"):
        raise wrong(call, "nothing begins with a dash; MEMBER_ID is - when there is nothing to remove")
    until = time.monotonic() + UNSTEADY_S
    if member != "-":
        removed = _ask_again(doors, (*etcdctl_here(doors), "member", "remove", member), until)
        if not removed.ok and NO_MEMBER in removed.message and (now := _member_at(doors, peer_url)):
            removed = _ask_again(doors, (*etcdctl_here(doors), "member", "remove", now), until)
        if not removed.ok and NO_MEMBER not in removed.message:  # somebody removed it already
            return removed
    return _ask_again(doors, (*etcdctl_here(doors), "member", "add", name, f"--peer-urls={peer_url}"), until)


def etcd_remove(call: Call, doors: Doors) -> Outcome:
    """Done also when somebody has removed it already."""
    (member,) = arguments(call, 1, 1)
    if member.startswith("-"):
        raise wrong(call, "nothing begins with a dash")
    removed = _ask_again(doors, (*etcdctl_here(doors), "member", "remove", member), time.monotonic() + UNSTEADY_S)
    return Outcome(ok=True, exit_code=0) if NO_MEMBER in removed.message else removed


def _member_at(doors: Doors, peer_url: str) -> str:
    """The id under which etcd counts who has that address now: it may be newer than the telemetry it was lost by."""
    lines = doors.system.ask((*etcdctl_here(doors), "member", "list"), timeout_s=30).stdout.splitlines()
    fields = [line.split(", ") for line in lines]
    return next((one[0] for one in fields if len(one) > 3 and peer_url in one[3].split(",")), "")


def write_probe(call: Call, doors: Doors) -> Outcome:
    return _probe(arguments(call, 5, 5))


def _ask_again(doors: Doors, argv: tuple[str, ...], until: float) -> Outcome:
    """As `_ask`, with patience, up to that monotonic time, for a cluster that is not steady yet."""
    while True:
        outcome = _ask(doors, argv)
        if outcome.ok or UNSTEADY not in outcome.message or doors.cancelled() or time.monotonic() > until:
            return outcome
        time.sleep(PAUSE_S)


def _ask(doors: Doors, argv: tuple[str, ...]) -> Outcome:
    answer = doors.system.ask(argv, timeout_s=30)
    for name, text in (("stdout", answer.stdout), ("stderr", answer.stderr)):
        if text:
            doors.output(name, text)
    ok = answer.rc == 0
    return Outcome(ok=ok, exit_code=answer.rc, message="" if ok else " ".join(answer.stderr.split())[-MESSAGE_MAX:])


def etcdctl_here(doors: Doors) -> tuple[str, ...]:
    return etcd.etcdctl(etcd.client_port(doors.system.file(etcd.CONFIG).content or ""))
