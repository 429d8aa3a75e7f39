"""What a standby received and nobody archived yet is archived by the standby that takes over.

PostgreSQL takes each segment of WAL that a standby has received for archived, as that is the leader's work. When the
leader dies before it has done it, those segments are in no archive, and no recovery goes past them. So Patroni has
whoever is about to lead mark the newest as not archived. Before the promotion: it asks for a checkpoint, which recycles
what is archived. What the old leader did archive is sent once more, and the tool finds it there already.
"""

from __future__ import annotations

import shlex

PATH = "/usr/local/lib/pgha/archive-received"
NEWEST = 64  # a gigabyte: an archive that is farther behind has been told as a finding long before
LIMIT_S = 5
TEXT = f"""\
# Patroni runs this on who is about to lead: what it has received the old leader may not have archived.
export LC_ALL=C
cd "$1/pg_wal/archive_status" || exit 1
for done in $(ls | grep -E '^[0-9A-F]{{24}}\\.done$' | tail -n {NEWEST}); do
    segment=${{done%.done}}
    [ ! -e "../$segment" ] || mv "$done" "$segment.ready"
done
"""


def command(data_dir: str) -> str:
    """Patroni's `pre_promote`. A member whose command fails does not lead, so it never does."""
    return f"""/bin/sh -c 'timeout {LIMIT_S} "$0" "$1" || exit 0' {PATH} {shlex.quote(data_dir)}"""
