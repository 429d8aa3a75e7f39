"""The closed set of functions that `pgha-master run` may call on a host. A name that is not in the table is refused.

A function is `(call, doors) -> Outcome`. To add one: write it in the module of its subject, add its line to
`FUNCTIONS`, and its description to `common/functions.py`; a test holds the two together.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ...common import functions
from ...common.errors import UserError
from ...common.results import Outcome
from . import (
    backup_runs,
    backups,
    cluster,
    command,
    files,
    host,
    leadership,
    packages,
    postgres,
    restore,
    services,
    upgrade,
)
from .answer import Budget
from .request import Blob, Call, Cancelled, Doors, Emit, Fetch, Function

__all__ = ["FUNCTIONS", "Blob", "Call", "Cancelled", "Doors", "Emit", "Fetch", "call"]


def call(request: Call, doors: Doors) -> Outcome:
    """Run the function. Raises UserError for an unknown one, HostError when the host cannot do it."""
    known = functions.find(request.function)
    if any("\0" in word for word in request.arguments):
        raise UserError(f"{known.name}: an argument cannot hold a NUL character")
    since = time.monotonic()
    if known.query:
        budget = Budget(doors.output)
        outcome = budget.close(FUNCTIONS[known.name](request, replace(doors, output=budget.output)))
    else:
        outcome = FUNCTIONS[known.name](request, doors)
    return outcome.model_copy(update={"seconds": time.monotonic() - since})


FUNCTIONS: dict[str, Function] = {
    "ping": host.ping,
    "facts": host.facts,
    "cmd": command.run,
    "file.push": files.push,
    "file.get": files.get,
    "file.stat": files.look,
    "file.tail": files.tail,
    "package.versions": packages.versions,
    "package.upgrade": packages.upgrade,
    "service.status": services.status,
    "service.start": services.acting("start"),
    "service.stop": services.acting("stop"),
    "service.restart": services.acting("restart"),
    "service.reload": services.acting("reload"),
    "journal": services.journal,
    "disk": host.disk,
    "processes": host.processes,
    "patroni.list": cluster.patroni_list,
    "patroni.history": cluster.patroni_history,
    "postgres.query": postgres.query,
    "postgres.execute": postgres.execute,
    "etcd.health": cluster.etcd_health,
    "self.upgrade": upgrade.upgrade,
    "write_probe": cluster.write_probe,
    "write_watch": leadership.write_watch,
    "patroni.restart": leadership.restart,
    "patroni.switchover": leadership.switchover,
    "patroni.reinitialize": leadership.reinitialize,
    "backup.check": backups.check,
    "backup.verify": backups.verify,
    "preflight": host.preflight,
    "ssh.public": host.ssh_public,
    "patroni.reset": cluster.patroni_reset,
    "etcd.reset": cluster.etcd_reset,
    "etcd.replace": cluster.etcd_replace,
    "etcd.remove": cluster.etcd_remove,
    "service.retire": services.retire,
    "backup.look": backup_runs.look,
    "backup.start": backup_runs.start,
    "drill.look": backup_runs.drill_look,
    "drill.start": backup_runs.drill_start,
    "restore.look": restore.look,
    "restore.begin": restore.begin,
    "restore.stop": restore.stop,
    "restore.start": restore.start,
    "restore.swap": restore.swap,
    "restore.aside": restore.aside,
    "restore.hold": restore.hold,
    "restore.settle": restore.settle,
    "restore.commit": restore.commit,
    "restore.drop": restore.drop,
    "restore.keep": restore.keep,
    "restore.lift": restore.lift,
    "restore.forget": restore.forget,
}
