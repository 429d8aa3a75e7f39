"""What a standby received and nobody archived yet is archived by the standby that takes over.

PostgreSQL takes each segment of WAL that a standby has received for archived, as that is the leader's work. When the
leader dies before it has done it, those segments are in no archive, and no recovery goes past them. So Patroni has
whoever is about to lead mark the newest as not archived. Before the promotion: it asks for a checkpoint, which recycles
what is archived. What the old leader did archive is sent once more, and the tool finds it there already.

Rules:
1. Only whole segments: at the end of a timeline PostgreSQL takes a part of one for archived, too, and the same name
   with other content would keep the archiver from all that follows. Whole is what ends before the last WAL that was
   received, and is not in a later timeline again, which begins in the middle of the last of the one before.
2. History files, too: where one is missing, a recovery does not find the timelines after it.
3. Not more than half of what the archiver may have waiting, or the tool would throw all of it away.
4. Whatever comes of it, the member leads.
"""

from __future__ import annotations

import shlex

from ...common.cluster import Cluster

PATH = "/usr/local/lib/pgha/archive-received"
MOST = 1024**3  # bytes; an archive that is farther behind has been told as a finding long before
LIMIT_S = 5
TEXT = """\
# Patroni runs this on who is about to lead: what it has received the old leader may not have archived.
# The data directory, that of PostgreSQL's programs, the port, and at most so many bytes of WAL.
export LC_ALL=C
cd "$1/pg_wal/archive_status" || exit 1
for history in ????????.history.done; do
    [ ! -e "$history" ] || mv "$history" "${history%done}ready"
done
asked="select setting, lpad(to_hex(n / per), 8, '0') || lpad(to_hex(n % per), 8, '0') from (
    select setting, 4294967296 / setting::bigint as per,
        ((greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0') / setting::bigint)::bigint as n
    from pg_settings where name = 'wal_segment_size') as received"
told=$("$2/psql" -XAtqw -F ' ' -h /var/run/postgresql -p "$3" -d postgres -c "$asked" | tr a-f A-F)
size=${told% *} end=${told#* }
[ ${#end} = 16 ] || exit 1
ls .. | awk -v end="$end" '
    length($0) == 24 && /^[0-9A-F]+$/ { place = substr($0, 9); if ($0 "" > newest[place] "") newest[place] = $0 }
    END { for (place in newest) if (place "" < end "") print place, newest[place] }
' | sort -r | head -n $(($4 / size)) | while read -r place segment; do
    [ ! -e "$segment.done" ] || mv "$segment.done" "$segment.ready"
done
"""


def command(cluster: Cluster, data_dir: str, bin_dir: str) -> str:
    """Patroni's `pre_promote`. A member whose command fails does not lead, so it never does."""
    limit = cluster.backup.archive_push_queue_max if cluster.backup is not None else None
    most = min(MOST, limit // 2) if limit is not None else MOST
    words = (PATH, data_dir, bin_dir, str(cluster.postgresql.port), str(most))
    return f"""/bin/sh -c 'timeout {LIMIT_S} "$0" "$@" || exit 0' {" ".join(map(shlex.quote, words))}"""
