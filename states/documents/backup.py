"""Backups once the cluster runs: repositories that know it, timers on every node that can make one, and the drill.

Where it differs from the guide, and why:
- Timers on every data node instead of one user's crontab on one of them: at each run the nodes decide by themselves
  whose turn it is, a standby's before the leader's, so backups follow a failover and need no master.
- A run that was missed while a node was off is made up for; one that failed is tried again.
- What was backed up is restored, started and read on a schedule.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...common.backup import Backup
from ...common.cluster import Cluster, Node
from ..backups.settings import settings
from ..document import PACKAGES, Context
from ..render import managed
from ..resource import AnyResource
from ..resources.service import Service
from ..resources.units import Timer, UnitFile

TIMERS = ("full", "diff", "incr")
DRILL, DUE = "pgha-drill", "pgha-drill-due"

_SERVICE = """\
[Unit]
Description=pgha: %i backup of {cluster}, on the node whose turn it is
After=network-online.target patroni.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecCondition=/usr/bin/pgha-minion backup turn %i
ExecStart=/usr/bin/pgha-minion backup run %i
Restart=on-failure
RestartPreventExitStatus=3
RestartSec=15min
TimeoutStartSec=infinity
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
"""

_TIMER = """\
[Unit]
Description=pgha: {what} of {cluster}

[Timer]
OnCalendar={when}
Persistent=true
AccuracySec=1s
Unit={unit}

[Install]
WantedBy=timers.target
"""

_DRILL = """\
[Unit]
Description=pgha: a restore of {cluster} for the proof
After=network-online.target patroni.service haproxy.service

[Service]
Type=oneshot
ExecStart=/usr/bin/pgha-minion backup drill
TimeoutStartSec=infinity
TimeoutStopSec=10min
KillMode=mixed
Nice=15
IOSchedulingClass=idle
"""

_DUE = """\
[Unit]
Description=pgha: a restore of {cluster} for the proof, when it is due, on the node whose turn it is
After=network-online.target patroni.service haproxy.service

[Service]
Type=oneshot
ExecCondition=/usr/bin/pgha-minion backup drill --due
ExecStart=/usr/bin/systemctl start --no-block pgha-drill.service
"""


def build(context: Context) -> list[AnyResource]:
    cluster, node = context.cluster, context.node
    backup, tool = cluster.backup, settings(cluster)
    if backup is None or tool is None or not backup.has_part(node.name, data=node.is_data):
        return [*_gone(), *_no_drill()]
    return [*tool.ready(context), *_schedule(cluster, node, backup), *_drill(cluster, node, backup)]


def _schedule(cluster: Cluster, node: Node, backup: Backup) -> list[AnyResource]:
    first = managed(cluster.name)
    if not backup.operated_at(node.name, data=node.is_data):
        return _gone()
    service = UnitFile(
        name="pgha-backup@.service", content=first + _SERVICE.format(cluster=cluster.name), requires=(PACKAGES,)
    )
    due = backup.schedule.due()
    found: list[AnyResource] = [service]
    for kind in TIMERS:
        if kind in due:
            text = _TIMER.format(
                what=f"{kind} backup", cluster=cluster.name, when=due[kind], unit=f"pgha-backup@{kind}.service"
            )
            found += _timer(f"pgha-backup-{kind}", first + text)
    return [*found, *_gone(kind for kind in TIMERS if kind not in due)]


def _drill(cluster: Cluster, node: Node, backup: Backup) -> list[AnyResource]:
    """Asked every day, made when the last one is as old as the definition says; started by hand, made at once."""
    here = backup.drill.on == node.name if backup.drill.on else node.is_data
    if not here:
        return _no_drill()
    first = managed(cluster.name)

    def service(name: str, text: str) -> AnyResource:
        content = first + text.format(cluster=cluster.name)
        return UnitFile(name=f"{name}.service", content=content, requires=(PACKAGES,))

    if backup.drill.every is None:
        return [service(DRILL, _DRILL), *_without(DUE)]
    when = f"{backup.drill.at} {backup.schedule.timezone}"
    text = _TIMER.format(what="restore drill", cluster=cluster.name, when=when, unit=f"{DUE}.service")
    return [service(DRILL, _DRILL), service(DUE, _DUE), *_timer(DUE, first + text)]


def _no_drill() -> list[AnyResource]:
    return [*_without(DUE), UnitFile(name=f"{DRILL}.service", absent=True)]


def _timer(name: str, text: str) -> list[AnyResource]:
    unit = UnitFile(name=f"{name}.timer", content=text)
    return [unit, Service(unit=unit.name, watches=(unit.id,))]


def _gone(kinds: Iterable[str] = TIMERS) -> list[AnyResource]:
    return [one for kind in kinds for one in _without(f"pgha-backup-{kind}")]


def _without(name: str) -> list[AnyResource]:
    return [Timer(name=name, absent=True)]
