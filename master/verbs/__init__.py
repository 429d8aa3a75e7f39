"""What the daemon does for the CLI, one file a family. The table is explicit: what is not in it cannot be asked.

Each verb has the least role that may ask for it. What a viewer may ask changes and reveals nothing; everything above
is written to the audit trail before it is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ...common.functions import FUNCTIONS, Role
from ..control import Needs, Request
from ..server import Master
from . import audit, backups, certs, clusters, jobs, keys, restores, run, secrets, states


def role_to_run(args: Mapping[str, Any]) -> Role:
    """What the function needs; to go past a guard is an admin's."""
    if args.get("force_unsafe"):
        return "admin"
    name = args.get("function") or "cmd"
    function = FUNCTIONS.get(name) if isinstance(name, str) else None
    return function.role if function else "operator"


VERBS: dict[str, tuple[Callable[[Master, Request], AsyncIterator[Any]], Needs]] = {  # of Lines
    "keys.list": (keys.list_keys, "viewer"),
    "keys.accept": (keys.accept, "admin"),
    "keys.reject": (keys.reject, "admin"),
    "keys.revoke": (keys.revoke, "admin"),
    "keys.rotate": (keys.rotate, "admin"),
    "keys.rotate_master": (keys.rotate_master, "admin"),
    "keys.token": (keys.token, "admin"),
    "plan": (clusters.plan, "operator"),
    "apply": (clusters.apply, "operator"),
    "status": (clusters.status, "viewer"),
    "restore": (restores.restore, "admin"),
    "restore.window": (restores.restore_window, "operator"),
    "reinit": (restores.reinit, "admin"),
    "run": (run.run, role_to_run),
    "run.upload": (run.upload, "operator"),
    "jobs.list": (jobs.list_jobs, "viewer"),
    "jobs.show": (jobs.show, "viewer"),
    "jobs.log": (jobs.log, "viewer"),
    "jobs.cancel": (jobs.cancel, "operator"),
    "jobs.resume": (jobs.resume, "operator"),
    "jobs.rerun": (jobs.rerun, "operator"),
    "backup.list": (backups.list_backups, "viewer"),
    "backup.now": (backups.now, "operator"),
    "backup.drill": (backups.drill, "operator"),
    "backup.check": (backups.check, "operator"),
    "backup.verify": (backups.verify, "operator"),
    "certs.list": (certs.list_certificates, "viewer"),
    "certs.client": (certs.client, "admin"),
    "secrets.list": (secrets.list_secrets, "viewer"),
    "secrets.reveal": (secrets.reveal, "admin"),
    "secrets.set": (secrets.set_secret, "admin"),
    "states.list": (states.list_states, "viewer"),
    "states.show": (states.show, "operator"),
    "audit.list": (audit.list_rows, "admin"),
    "audit.verify": (audit.verify, "admin"),
}
