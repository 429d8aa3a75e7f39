"""What a node must know to make, check and restore backups without its master: /etc/pgha/backup.json.

The document `backup` writes it; `minion/backups` reads it. It holds no secret.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

PATH = "/etc/pgha/backup.json"


class Installation(BaseModel):
    """`operates`: numbers of the repositories to which this node makes backups; `repositories`: all it can reach.

    `data`: PostgreSQL runs here, in `data_directory`. `data_nodes`: all of the cluster's, in the definition's order.
    `drills`: a restore for the proof is made here, `alone` without asking whose turn it is. `writes_port`: HAProxy's,
    None where there is none. `drill_every_s`: None when none is made by itself. `archive_timeout_s`: a segment of WAL
    is archived at the latest after this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str
    stanza: str
    node: str
    operates: tuple[int, ...]
    repositories: tuple[int, ...]
    data: bool
    data_directory: str
    bin_dir: str
    port: int
    writes_port: int | None
    standby: bool  # to copy from one is preferred
    data_nodes: tuple[str, ...]
    drills: bool = False
    alone: bool = False
    drill_every_s: float | None = None
    archive_timeout_s: float = 60.0
    logs: str = ""
