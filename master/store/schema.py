"""The tables of the master's store, as the steps that lead there. A step that was released is never edited."""

FIRST = """
create table if not exists minions (
    name text not null, public_key text not null primary key, state text not null, address text not null default '',
    machine_id text not null default '', note text not null default '', since real not null, seen real not null,
    facts text not null default '');
create unique index if not exists minions_accepted on minions (name) where state = 'accepted';
create table if not exists tokens (
    id text primary key, secret text not null, name text not null, expires real not null);
create table if not exists streams (node text not null, epoch text not null, hw integer not null,
    primary key (node, epoch));
create table if not exists jobs (
    jid text not null, att integer not null, node text not null, operation text not null, mode text not null,
    what text not null, state text not null, created real not null, ended real, not_after_ms integer not null,
    message text not null default '', outcome text not null default '', primary key (jid, att));
create table if not exists events (
    node text not null, epoch text not null, seq integer not null, jid text not null, kind text not null,
    body text not null, at real not null, primary key (node, epoch, seq));
create table if not exists operations (
    id text primary key, what text not null, who text not null, cluster text not null, state text not null,
    started real not null, ended real, exit integer, message text not null default '');
create table if not exists lines (operation text not null, n integer not null, line text not null,
    primary key (operation, n));
create table if not exists notes (cluster text not null, key text not null, value text not null,
    primary key (cluster, key));
create table if not exists meta (key text primary key, value text not null);
"""

SECOND = """
alter table jobs add column cls text not null default 'call';
alter table jobs add column payload blob not null default x'';
alter table jobs add column accepted real;
alter table jobs add column started real;
alter table jobs add column step text not null default '';
create index if not exists jobs_open on jobs (state) where state in ('queued','accepted','started');
create index if not exists jobs_operation on jobs (operation);
create index if not exists events_job on events (jid);
alter table operations add column kind text not null default '';
alter table operations add column request text not null default '';
update operations set state='started' where state='running';
update operations set state='unknown' where state='interrupted';
create table audit (
    n integer primary key, at real not null, who text not null, act text not null, detail text not null,
    hash text not null);
"""

THIRD = """
drop table tokens;
create table tokens (id text primary key, name text not null, expires real not null, who text not null);
"""

STEPS = (FIRST, SECOND, THIRD)
