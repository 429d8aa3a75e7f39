"""What the daemon does for the CLI, one file a family. The table is explicit: what is not in it cannot be asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from ..control import Request
from ..server import Master
from . import certs, clusters, jobs, keys, run, secrets

VERBS: dict[str, Callable[[Master, Request], AsyncIterator[Any]]] = {  # of Lines
    "keys.list": keys.list_keys,
    "keys.accept": keys.accept,
    "keys.reject": keys.reject,
    "keys.revoke": keys.revoke,
    "keys.token": keys.token,
    "plan": clusters.plan,
    "apply": clusters.apply,
    "status": clusters.status,
    "run": run.run,
    "jobs.list": jobs.list_jobs,
    "jobs.show": jobs.show,
    "certs.list": certs.list_certificates,
    "certs.client": certs.client,
    "secrets.list": secrets.list_secrets,
    "secrets.reveal": secrets.reveal,
    "secrets.set": secrets.set_secret,
}
