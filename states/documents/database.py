"""What lives inside the database once it has a leader: the cluster-wide settings and pgha's own probe.

The guide sets these once at bootstrap, where a later change of the file has no effect. Here the same settings are kept
in Patroni's dynamic configuration on every apply. The three resources work on whichever node leads at that moment and
are skipped, with the reason, on the others.
"""

from __future__ import annotations

from typing import Any, cast

from ..certificates import PROBE
from ..document import Context
from ..resource import AnyResource
from ..resources.patroni import PatroniConfig
from ..resources.postgres import PostgresRole, Sql
from .patroni import bin_dir, dynamic_settings

CHECK = f"""
select has_table_privilege(r.oid, 'pgha.probe', 'select')
   and has_table_privilege(r.oid, 'pgha.probe', 'insert')
   and has_table_privilege(r.oid, 'pgha.probe', 'update')
   and has_schema_privilege(r.oid, 'pgha', 'usage')
  from pg_roles r where r.rolname = '{PROBE}'
""".strip()  # noqa: S608 - the role's name is a constant

_STATEMENTS = f"""
create schema if not exists pgha;
create table if not exists pgha.probe (
    node text primary key,
    token text not null,
    at timestamptz not null
);
revoke all on pgha.probe from public;
grant usage on schema pgha to {PROBE};
grant select, insert, update on pgha.probe to {PROBE};
""".strip()


def build(context: Context) -> list[AnyResource]:
    if not context.node.is_data:
        return []
    settings = PatroniConfig(
        settings=cast("dict[str, Any]", dynamic_settings(context.cluster)),
        whole=("postgresql.parameters",),
        bin_dir=bin_dir(context),
    )
    probe = PostgresRole(
        role=PROBE,
        password=context.secrets["postgresql/probe"],
        attributes=("LOGIN", "CONNECTION LIMIT 20"),
    )
    table = Sql(name="probe", database="postgres", check=CHECK, statements=_STATEMENTS, requires=(probe.id,))
    return [settings, probe, table]
