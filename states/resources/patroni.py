"""PatroniConfig: the cluster's dynamic configuration, which lives in etcd and is the same for all its nodes.

Only the node whose Patroni leads changes it, so that a fleet of minions does not write the same key at once.
Keys that are not in `settings` belong to whoever set them; a key set to null must not be there. Of the sections
named in `whole` nothing else may be there: what was taken out of a definition goes back to its default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ...common.results import Disruption, Impact
from ..action import PatchPatroni
from ..resource import Change, Resource
from ..system import Look
from .postgres_parameters import insist, lasting, refused

Path = tuple[str, ...]

PENDING = " (pending until PostgreSQL is restarted)"

NEEDS_RESTART = frozenset(
    {
        "archive_mode",
        "autovacuum_freeze_max_age",
        "autovacuum_max_workers",
        "autovacuum_multixact_freeze_max_age",
        "bonjour",
        "cluster_name",
        "data_sync_retry",
        "event_source",
        "hot_standby",
        "huge_page_size",
        "huge_pages",
        "io_method",
        "jit_provider",
        "listen_addresses",
        "logging_collector",
        "max_connections",
        "max_files_per_process",
        "max_locks_per_transaction",
        "max_logical_replication_workers",
        "max_pred_locks_per_transaction",
        "max_prepared_transactions",
        "max_replication_slots",
        "max_wal_senders",
        "max_worker_processes",
        "min_dynamic_shared_memory",
        "old_snapshot_threshold",
        "port",
        "recovery_target",
        "reserved_connections",
        "shared_buffers",
        "shared_memory_type",
        "shared_preload_libraries",
        "superuser_reserved_connections",
        "track_activity_query_size",
        "track_commit_timestamp",
        "unix_socket_directories",
        "wal_buffers",
        "wal_decode_buffer_size",
        "wal_level",
        "wal_log_hints",
    }
)
"""Parameters of context postmaster. Source: PostgreSQL 17, pg_settings."""


@dataclass(frozen=True, slots=True)
class PatroniFacts:
    """`answers` is False when there is no Patroni to ask; the rest is then empty."""

    answers: bool = False
    leads: bool = False
    config: dict[str, Any] = field(default_factory=dict)  # JSON, as Patroni has it
    refused: tuple[str, ...] = ()  # what PostgreSQL complains of
    lasting: frozenset[str] = frozenset()  # parameters that by its own word take effect at a start only


class PatroniConfig(Resource[PatroniFacts]):
    """`settings`: JSON as in `patronictl edit-config`; leaves are scalars, lists, or null for "must be absent"."""

    kind: Literal["patroni_config"] = "patroni_config"
    settings: dict[str, Any]  # JSON by nature: which keys there are is Patroni's business
    whole: tuple[str, ...] = ()  # dotted paths, such as "postgresql.parameters"
    bin_dir: str = ""  # of the PostgreSQL that is asked whether it would start with the parameters

    def key(self) -> str:
        return "dcs"

    def observe(self, look: Look) -> PatroniFacts:
        status, body = look.patroni("/patroni")
        if not status:
            return PatroniFacts()
        if json_object(body).get("role") not in ("primary", "master"):
            return PatroniFacts(answers=True)
        _, config = look.patroni("/config")
        facts = PatroniFacts(True, True, json_object(config))
        if not self._rows(facts.config):
            return facts
        parameters = _section(self.settings, ("postgresql", "parameters"))
        return replace(facts, refused=refused(look, self.bin_dir, parameters), lasting=lasting(look))

    def plan(self, facts: PatroniFacts) -> list[Change]:
        rows = self._rows(facts.config)
        if rows:
            insist(facts.refused, {path[-1] for path, _, _ in rows})
        patch: dict[str, Any] = {}
        for path, _, wanted in rows:
            _put(patch, path, wanted)
        action = PatchPatroni(json.dumps(patch, sort_keys=True))
        return [
            Change(
                ".".join(path) + (PENDING if _restarts(path, facts.lasting) else ""),
                action,
                "absent" if is_ is None else _text(is_),
                "absent" if wanted is None else _text(wanted),
                disruption=_disruption(path),
            )
            for path, is_, wanted in rows
        ]

    def _rows(self, config: dict[str, Any]) -> list[tuple[Path, Any, Any]]:
        return [*_differing(self.settings, config), *self._surplus(config)]

    def _surplus(self, config: dict[str, Any]) -> Iterator[tuple[Path, Any, Any]]:
        for dotted in self.whole:
            path = tuple(dotted.split("."))
            wanted = _section(self.settings, path)
            for key, value in _section(config, path).items():
                if key not in wanted and value is not None:
                    yield (*path, key), value, None

    def skip(self, facts: PatroniFacts) -> str:
        return "the leader's node does it" if facts.answers and not facts.leads else ""


def json_object(text: str) -> dict[str, Any]:
    """The object that the text is, empty when it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def same(is_: object, wanted: object) -> bool:
    """Whether Patroni and PostgreSQL take both for one value: "on" is true, "100" is 100."""
    return _loose(is_) == _loose(wanted)


def _loose(value: object) -> object:
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in ("on", "true", "yes"):
        return ("bool", True)
    if word in ("off", "false", "no"):
        return ("bool", False)
    try:
        return float(word)
    except ValueError:
        return value


def _differing(wanted: dict[str, Any], is_: dict[str, Any], at: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    for key, value in wanted.items():
        there = is_.get(key)
        if isinstance(value, dict):
            yield from _differing(value, there if isinstance(there, dict) else {}, (*at, key))
        elif value is None:
            if there is not None:
                yield (*at, key), there, None
        elif there is None or not same(there, value):
            yield (*at, key), there, value


def _section(config: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path:
        inner = config.get(key)
        config = inner if isinstance(inner, dict) else {}
    return config


def _put(patch: dict[str, Any], path: Path, value: object) -> None:
    for key in path[:-1]:
        patch = patch.setdefault(key, {})
    patch[path[-1]] = value


def _restarts(path: Path, lasting: frozenset[str]) -> bool:
    return path[:2] == ("postgresql", "parameters") and path[-1] in NEEDS_RESTART | lasting


def _disruption(path: Path) -> Disruption:
    if path[:2] != ("postgresql", "parameters"):
        return Disruption(impact=Impact.RELOAD, unit="patroni")
    return Disruption(impact=Impact.RELOAD, unit="postgresql")  # what needs a restart waits for one, see `restarts`


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
