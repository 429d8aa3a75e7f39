"""How the local etcd member is, asked on its plain metrics listener on loopback; the list of members by etcdctl.

etcdctl is a program to start, so the members are looked up only when the caller does not give the ones it knows. The
journal is read only of a member that has data and is not healthy.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...common.telemetry import MEMBER_LIMIT, EtcdMember, EtcdSample
from ...states.system import Look

CONFIG = "/etc/etcd/etcd.conf.yml"
TLS = "/etc/etcd/tls"
METRICS = "http://127.0.0.1:2381"
DEADLINE_S = 2.0
JOURNAL = ("journalctl", "-q", "-u", "etcd", "-o", "cat", "--no-pager", "--since=-2min", "-n", "600")
STARTS = 2  # so many must have ended on the same words; one may have been an accident
_LOST = re.compile(
    r"the member has been permanently removed from the cluster"
    r"|member [0-9a-f]+ has already been bootstrapped"  # it lost its log, and starts as it did the first time
    r"|crc mismatch"
    r"|Was the raft log corrupted, truncated, or lost\?"
    r"|cannot use none as id"  # the log has no beginning
    r'|(?:discovery failed|cannot be repaired)","error":"(?P<log>(?:\w+: )?(?:proto: |max entry size limit)[^"]*)'
    r'|failed to open database.*?"error":"(?P<database>invalid database|file size too small|checksum error)"'
)
"""Seen with etcd 3.5, whose data was damaged at some hundred random places.

A file that cannot be read for another reason, its owner for one, is none of them.
"""
_WANTED = re.compile(
    r"^(etcd_server_is_leader|etcd_server_has_leader|etcd_mvcc_db_total_size_in_bytes) (\S+)$"
    r'|^etcd_server_id\{server_id="([0-9a-f]+)"\}'
    r'|^etcd_server_version\{server_version="([^"]+)"\}',
    re.MULTILINE,
)


def probe(look: Look, members: tuple[EtcdMember, ...] | None = None) -> EtcdSample | None:
    """None when etcd is not configured here. `members` are those already known; None looks them up."""
    config = look.file(CONFIG)
    if config.kind != "file":
        return None
    present = has_log(look, data_directory(config.content or ""))
    healthy, why = health(look)
    # asked of one that answers, too: who was removed serves for a moment at every start, and has no leader
    gone = lost(look) if present and not healthy else ""
    if gone:
        why = f"it cannot go on with its data: {gone}"
    status, metrics = look.http(f"{METRICS}/metrics", DEADLINE_S)
    if status != 200:
        why = why or "etcd does not give its metrics"
        return EtcdSample(data_present=present, members=members or (), lost=gone, error=why)
    if members is None:
        members = list_members(look, client_port(config.content or "")) if healthy else ()
    alarms = tuple(re.findall(r"ALARM ([A-Z]+)", why))
    known = EtcdSample(healthy=healthy, data_present=present, members=members, alarms=alarms, lost=gone, error=why)
    return known.model_copy(update=from_metrics(metrics))


def health(look: Look) -> tuple[bool, str]:
    """Whether the member can serve a read that needs the quorum, and if not why. The cheap question."""
    status, body = look.http(f"{METRICS}/health", DEADLINE_S)
    if not status:
        return False, f"etcd does not answer: {body}"
    answer = _json(body)
    if not isinstance(answer, dict):
        return False, f"etcd's /health answers {status} and no JSON"
    healthy = status == 200 and str(answer.get("health")).lower() == "true"
    return healthy, "" if healthy else f"etcd is not healthy: {answer.get('reason') or f'HTTP {status}'}"


def has_log(look: Look, data: str) -> bool:
    """Whether that data directory holds a log of votes, which is what makes it a member's.

    A start that etcd refuses leaves member/snap behind, and one that is interrupted a file that is no log yet.
    """
    return any(name.endswith(".wal") for name in look.names(f"{data}/member/wal"))


def lost(look: Look) -> str:
    """Why this member cannot go on with its data, in etcd's words; empty as long as it may. Starts a program."""
    said = look.ask(JOURNAL, timeout_s=DEADLINE_S)
    return lost_words(said.stdout) if said.rc == 0 else ""


def lost_words(journal: str) -> str:
    """The words on which the last STARTS of etcd ended, if these are the same; one that is still under way is left out.

    Whoever has been made a new member since has started without them, so what was said before does not count any more.
    """
    matches = [_LOST.search(start) for start in re.split(r"^Starting etcd\b", journal, flags=re.MULTILINE)]
    ended = [match[match.lastgroup or 0] if match else "" for match in matches]
    if not ended[-1]:
        ended.pop()
    last = ended[-STARTS:]
    return last[0] if len(last) == STARTS and len(set(last)) == 1 else ""


def data_directory(config: str) -> str:
    """The data-dir of etcd's configuration, /var/lib/etcd/default when it names none."""
    match = re.search(r"^data-dir:\s*['\"]?([^'\"\s#]+)", config, re.MULTILINE)
    return match[1] if match else "/var/lib/etcd/default"


def client_port(config: str) -> int:
    """The port of etcd's configuration on which clients are served."""
    match = re.search(r"^listen-client-urls:\s*['\"]?\S*:(\d+)", config, re.MULTILINE)
    return int(match[1]) if match else 2379


def etcdctl(port: int) -> tuple[str, ...]:
    """The beginning of a command to the local member, with this node's own certificate."""
    credentials = (f"--cacert={TLS}/ca.crt", f"--cert={TLS}/etcd-server.crt", f"--key={TLS}/etcd-server.key")
    return ("etcdctl", f"--endpoints=https://127.0.0.1:{port}", *credentials)


def from_metrics(text: str) -> dict[str, Any]:
    """Fields of EtcdSample out of etcd's /metrics (3.4 to 3.6). `leader_id` is only known on the leader itself."""
    found: dict[str, Any] = {}
    for name, value, member_id, version in _WANTED.findall(text):
        if name == "etcd_mvcc_db_total_size_in_bytes":
            found["db_bytes"] = int(float(value))
        elif name:
            found[name.removeprefix("etcd_server_")] = float(value) == 1.0
        elif member_id:
            found["member_id"] = member_id
        elif version:
            found["version"] = version
    if found.get("is_leader"):
        found["leader_id"] = found.get("member_id", "")
    return found


def list_members(look: Look, port: int = 2379) -> tuple[EtcdMember, ...]:
    """Everyone in the membership; empty when etcdctl is not there or has no answer within the deadline."""
    limits = (f"--command-timeout={DEADLINE_S:g}s", f"--dial-timeout={DEADLINE_S:g}s")
    argv = (*etcdctl(port), *limits, "member", "list", "-w", "json")
    output = look.ask(argv, timeout_s=DEADLINE_S + 1)
    return from_member_list(output.stdout) if output.rc == 0 else ()


def from_member_list(text: str) -> tuple[EtcdMember, ...]:
    """etcdctl's JSON; it prints ids as decimal numbers where everything else of etcd prints hex."""
    answer = _json(text)
    listed = answer.get("members") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        return ()
    return tuple(
        EtcdMember(
            id=format(int(member.get("ID", 0)), "x"),
            name=member.get("name") or "",
            peer_urls=tuple(member.get("peerURLs") or ()),
            started=bool(member.get("name")),  # a member learns its name from itself, at its first start
            learner=bool(member.get("isLearner", False)),
        )
        for member in listed[:MEMBER_LIMIT]
    )


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
