"""The state of clusters for a person. Pure: the daemon's answer in, lines out; what is missing is shown as `-`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .screen import Look, duration, size, table
from .show_backup import render_line

View = Mapping[str, Any]  # JSON as the daemon sent it

VERDICT_STYLE = {"healthy": "green", "degraded": "yellow", "critical": "red"}
_HEADS = (
    *("NODE", "REGION", "ROLE", "STATE", "LAG", "TL", "ETCD"),
    *("HAPROXY rw", "HAPROXY ro", "MINION", "CERT", "DISK"),
)
_EXPENDABLE = ("DISK", "CERT", "HAPROXY ro", "REGION", "MINION", "TL")


def render_status(view: View, look: Look) -> list[str]:
    """One cluster: a head, a row for each node, the quorum, and the findings with what to do."""
    return [*_head(view, look), "", *_nodes(view, look), "", *_below(view), *_findings(view, look)]


def _below(view: View) -> list[str]:
    return [*_quorum(view), *render_line(view.get("backup")), *_drift(view)]


def render_overview(clusters: Sequence[View], look: Look) -> list[str]:
    """One row for each cluster."""
    if not clusters:
        return ["No cluster is defined yet: write /etc/pgha/clusters/NAME.yml"]
    heads = ("CLUSTER", "VERDICT", "LEADER", "POSTGRESQL", "NODES", "ETCD", "FINDINGS", "AS OF")
    rows = [
        (
            _text(view, "cluster"),
            _text(view, "verdict"),
            _text(view, "leader"),
            _text(view, "postgresql"),
            str(len(view.get("nodes") or ())) or "-",
            _voters(view),
            str(len(view.get("findings") or ())),
            _age(view.get("as_of_s")),
        )
        for view in clusters
    ]
    lines = table(heads, rows, look.width, ("AS OF", "POSTGRESQL", "NODES"))
    return [lines[0], *(_painted(line, view, look) for line, view in zip(lines[1:], clusters, strict=True))]


def _painted(line: str, view: View, look: Look) -> str:
    verdict = _text(view, "verdict")
    return line.replace(verdict, look.paint(verdict, VERDICT_STYLE.get(verdict, "")), 1)


def _head(view: View, look: Look) -> list[str]:
    verdict = _text(view, "verdict")
    findings = view.get("findings") or ()
    told = look.paint(verdict, VERDICT_STYLE.get(verdict, ""))
    for severity in ("critical", "warning"):
        count = sum(1 for finding in findings if finding.get("severity") == severity)
        told += f", {count} {severity}{'s' if severity == 'warning' and count > 1 else ''}" if count else ""
    versions = [f"{label} {view[key]}" for label, key in _VERSIONS if view.get(key)]
    name = look.paint(_text(view, "cluster"), "bold")
    lines = ["   ".join([name, *versions, told, f"as of {_age(view.get('as_of_s'))} ago"])]
    leader = _text(view, "leader")
    since = f" since {view['leader_since']}" if view.get("leader_since") else ""
    return [*lines, f"TL {_text(view, 'timeline')}   leader {leader}{since}{_rpo(view.get('rpo'))}"]


def _rpo(rpo: object) -> str:
    if not isinstance(rpo, dict):
        return ""
    now, objective = rpo.get("now_bytes"), rpo.get("objective_bytes")
    return f"   RPO now {size(now) if isinstance(now, int) else '-'}" + (
        f"   objective {size(objective)}" if isinstance(objective, int) else ""
    )


_VERSIONS = (("PostgreSQL", "postgresql"), ("Patroni", "patroni"), ("etcd", "etcd"))


def _nodes(view: View, look: Look) -> list[str]:
    rows = [_row(node) for node in view.get("nodes") or ()]
    return table(_HEADS, rows, look.width, _EXPENDABLE)


def _row(node: View) -> tuple[str, ...]:
    lag, cert, disk = node.get("lag_bytes"), node.get("cert_days"), node.get("disk_percent")
    seen = node.get("seen_s")
    return (
        _text(node, "name"),
        _text(node, "region"),
        _text(node, "role"),
        _text(node, "state"),
        size(lag) if isinstance(lag, int) else "-",
        _text(node, "timeline"),
        _text(node, "etcd"),
        _text(node, "haproxy_rw"),
        _text(node, "haproxy_ro"),
        f"{_text(node, 'minion')} {_age(seen)}" if seen is not None else _text(node, "minion"),
        f"{cert:.0f} d" if isinstance(cert, (int, float)) else "-",
        f"{disk:.0f} %" if isinstance(disk, (int, float)) else "-",
    )


def _quorum(view: View) -> list[str]:
    quorum = view.get("quorum")
    if not quorum:
        return []
    return [f"Quorum    etcd {_voters(view)} voters, tolerates {quorum.get('tolerates', '-')}"]


def _drift(view: View) -> list[str]:
    """What differs is named by its findings, or here where it is only observed."""
    found = view.get("drift")
    if not isinstance(found, dict):
        return []
    checked = found.get("checked_s")
    when = f"checked {_age(checked)} ago" if checked is not None else "not checked yet"
    if found.get("error"):
        when += f"; not since: {found['error']}"
    rows = found.get("differences") or ()
    nodes = {str(row.get("node")) for row in rows}
    told = f"{len(rows)} on {', '.join(sorted(nodes))}" if rows else "none" if checked is not None else "unknown"
    lines = [f"Drift     {told} ({when})"]
    watched = [row for row in rows if row.get("policy") == "observe"]
    return lines + [f"{'':<10}{row.get('node')}: {row.get('resource')}, observed only" for row in watched]


def _voters(view: View) -> str:
    quorum = view.get("quorum")
    return f"{quorum.get('healthy', '-')}/{quorum.get('voters', '-')}" if quorum else "-"


def _findings(view: View, look: Look) -> list[str]:
    lines = []
    for finding in view.get("findings") or ():
        severity = str(finding.get("severity", "warning"))
        word = look.paint(f"{severity.capitalize():<10}", "red" if severity == "critical" else "yellow")
        lines.append(f"{word}{finding.get('text', '')}")
        if finding.get("fix"):
            lines.append(f"{'':<10}fix: {finding['fix']}")
    return lines


def _text(view: View, key: str) -> str:
    value = view.get(key)
    return "-" if value is None or value == "" else str(value)


def _age(value: object) -> str:
    return duration(value) if isinstance(value, (int, float)) else "-"
