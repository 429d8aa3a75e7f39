"""The backup tool on the nodes that have a part in backups: its settings, its server, its folders.

It stands before Patroni, so that the first segment of WAL and the first replica find it there. What belongs to the tool
is in `states/backups`. /etc/pgha/backup.json is what pgha itself goes by on the node, without its master.
"""

from __future__ import annotations

from ...common import installation
from ...common.backup import Backup
from ...common.installation import Installation
from ..backups import received
from ..backups.settings import settings
from ..document import Context
from ..render import managed
from ..resource import AnyResource
from ..resources.files import Absent, File
from ..resources.units import UnitFile
from ..versions import postgresql_major

_RESTORE = """\
[Unit]
Description=pgha: %i for a restore of {cluster}

[Service]
Type=oneshot
ExecStart=/usr/bin/pgha-minion backup restore %i
TimeoutStartSec=infinity
"""


def build(context: Context) -> list[AnyResource]:
    backup, tool = context.cluster.backup, settings(context.cluster)
    if tool is None or backup is None or not backup.has_part(context.node.name, data=context.node.is_data):
        return [Absent(path=installation.PATH)]
    known = File(path=installation.PATH, content=installed(context, backup).model_dump_json(indent=2) + "\n")
    return [*tool.configuration(context), known, *_received(context), *_restore(context)]


def _received(context: Context) -> list[AnyResource]:
    if not context.node.is_data:
        return []
    text = managed(context.cluster.name, "#!/bin/sh\n#") + received.TEXT
    return [File(path=received.PATH, content=text, mode=0o755)]


def _restore(context: Context) -> list[AnyResource]:
    """What a restore runs on a data node, also while nothing else of the cluster is there."""
    if not context.node.is_data:
        return []
    text = managed(context.cluster.name) + _RESTORE.format(cluster=context.cluster.name)
    return [UnitFile(name="pgha-restore@.service", content=text)]


def installed(context: Context, backup: Backup) -> Installation:
    cluster, node = context.cluster, context.node
    major = postgresql_major(cluster, context.facts)
    operates = backup.operated_at(node.name, data=node.is_data)
    on = backup.drill.on
    return Installation(
        driver=backup.driver,
        stanza=cluster.name,
        node=node.name,
        operates=operates,
        repositories=backup.reached_from(node.name, data=node.is_data),
        data=node.is_data,
        data_directory=(node.data_dir if node.is_data else None) or f"/var/lib/postgresql/{major}/main",
        bin_dir=f"/usr/lib/postgresql/{major}/bin",
        port=cluster.postgresql.port,
        writes_port=cluster.haproxy.rw_port if node.is_proxy else None,
        standby=backup.source == "prefer-standby",
        data_nodes=tuple(n.name for n in cluster.data_nodes),
        drills=on == node.name if on else node.is_data,
        alone=on is not None,
        drill_every_s=backup.drill.every,
        archive_timeout_s=backup.archive_timeout,
        logs="/var/log/pgbackrest",
    )
