"""Comparisons with what is known of a node in numbers, such as `lag>10MB`: the values there are, and their units. Pure.

Rules:
1. A value that a node does not have matches nothing, `!=` included: not known is no answer in either direction.
2. A version is compared as far as it is written: 18.4 is `pg=18`, and no `pg>18`.
3. Units are those of the definition: kB, MB are powers of 1000, KiB, MiB of 1024. Only 0 needs none.

To add a value: one line in MEASURES. It may only read what a sample or the facts hold.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ...common.facts import HostFacts
from ...common.telemetry import EtcdSample, HostSample, PatroniSample, Sample

Kind = Literal["size", "percent", "duration", "number", "version"]
Value: TypeAlias = float | tuple[int, ...]

_UNITS: dict[Kind, dict[str, float]] = {
    "size": {
        "B": 1,
        "kB": 1000,
        "KB": 1000,
        "MB": 1000**2,
        "GB": 1000**3,
        "TB": 1000**4,
        "KiB": 1024,
        "MiB": 1024**2,
        "GiB": 1024**3,
        "TiB": 1024**4,
    },
    "percent": {"%": 1},
    "duration": {"s": 1, "m": 60, "h": 3600, "d": 86400},
    "number": {"": 1},
}
_EXAMPLES: dict[Kind, str] = {
    "size": "a size such as 10MB or 1GiB",
    "percent": "a percentage such as 80%",
    "duration": "a duration such as 90s, 10m, 2h or 30d",
    "number": "a number such as 8 or 0.5, without a unit",
    "version": "a version such as 18 or 18.4",
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z%]*)")
_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}")


@dataclass(frozen=True, slots=True)
class Known:
    """What comparisons read of a node. `sample` is None when it is stale; `lag_bytes` is what it has not replayed."""

    sample: Sample | None = None
    lag_bytes: int | None = None
    facts: HostFacts | None = None


Read: TypeAlias = Callable[[Known], "float | str | None"]


@dataclass(frozen=True, slots=True)
class Measure:
    name: str
    kind: Kind
    text: str
    read: Read  # a version as text, sizes in bytes, durations in seconds

    def value(self, known: Known) -> Value | None:
        """None when it is not known, or is no number that can be compared."""
        found = self.read(known)
        if isinstance(found, str):
            return version(found)
        return found if found is not None and math.isfinite(found) else None


def comparison(name: str, sign: str, text: str) -> Callable[[Known], bool]:
    """The comparison as a question. The three parts are right by `measure`, `amount` and SIGNS; else KeyError."""
    wanted, compare = amount(name, text), _COMPARE[sign]
    read = measure(name).value

    def holds(known: Known) -> bool:
        value = read(known)
        if value is None:
            return False
        if isinstance(value, tuple) and isinstance(wanted, tuple):
            value = (*value, 0, 0, 0, 0)[: len(wanted)]
        return compare(value, wanted)

    return holds


def measure(name: str) -> Measure:
    """Raises ValueError with the one that was meant and all there are."""
    found = _BY_NAME.get(name)
    if found is None:
        listed = ", ".join(f"{one.name} ({one.kind})" for one in MEASURES)
        raise ValueError(f"unknown value {name!r}{near(name, _BY_NAME)}; there are {listed}")
    return found


def check_sign(sign: str) -> None:
    """Raises ValueError for what is none of SIGNS."""
    if sign not in _COMPARE:
        raise ValueError(f"unknown comparison {sign!r}; there are {' '.join(SIGNS)}")


def amount(name: str, text: str) -> Value:
    """`10MB` in the unit of that measure. Raises ValueError with the form that was expected."""
    kind = measure(name).kind
    if kind == "version":
        if _VERSION.fullmatch(text):
            return tuple(int(part) for part in text.split("."))
    elif (match := _AMOUNT.fullmatch(text)) is not None:
        units = _UNITS[kind]
        if match[2] in units:
            return float(match[1]) * units[match[2]]
        if not match[2] and float(match[1]) == 0:
            return 0.0
        if units != {"": 1}:
            wrong = f"unknown unit {match[2]!r}" if match[2] else f"{text} has no unit"
            raise ValueError(f"{wrong}{_near_unit(match[2], units)}; {name} takes {', '.join(units)}")
    raise ValueError(f"expected {_EXAMPLES[kind]} for {name} and found {text!r}")


def version(text: str) -> tuple[int, ...] | None:
    """The dotted numbers that the text begins with; None when it begins with none."""
    match = _VERSION.match(text)
    return tuple(int(part) for part in match[0].split(".")) if match else None


def near(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def _near_unit(unit: str, units: Iterable[str]) -> str:
    same = [known for known in units if known.lower() == unit.lower()]
    return f", did you mean {same[0]}?" if same else ""


def _host(read: Callable[[HostSample], float]) -> Read:
    return lambda known: read(known.sample.host) if known.sample and known.sample.host else None


def _patroni(read: Callable[[PatroniSample], float | str | None]) -> Read:
    return lambda known: read(known.sample.patroni) if known.sample and known.sample.patroni else None


def _etcd(read: Callable[[EtcdSample], float | str | None]) -> Read:
    return lambda known: read(known.sample.etcd) if known.sample and known.sample.etcd else None


def _facts(read: Callable[[HostFacts], float | str]) -> Read:
    return lambda known: read(known.facts) if known.facts else None


def _haproxy_version(known: Known) -> str | None:
    return known.sample.haproxy.version if known.sample and known.sample.haproxy else None


def _postgresql_version(patroni: PatroniSample) -> str | None:
    number = patroni.server_version
    return f"{number // 10000}.{number % 10000}" if number else None


def _certificate_s(known: Known) -> float | None:
    """Until the first certificate on the node ends; negative when it has."""
    sample = known.sample
    ends = [c.not_after for c in sample.certificates if c.not_after is not None] if sample else []
    return min(ends) - sample.at if sample and ends else None


MEASURES = (
    Measure("lag", "size", "WAL of the leader that a replica has not replayed", lambda known: known.lag_bytes),
    Measure("disk", "percent", "how full the filesystem of /var/lib is", _host(lambda h: h.disk_percent)),
    Measure("free", "size", "room on that filesystem", _host(lambda h: h.disk_free_bytes)),
    Measure("memory", "percent", "memory in use", _host(lambda h: h.memory_percent)),
    Measure("cpu", "percent", "CPU time in use since the sample before", _host(lambda h: h.cpu_percent)),
    Measure("load", "number", "load average of the last minute", _host(lambda h: h.load1)),
    Measure("uptime", "duration", "since the host was booted", _host(lambda h: h.uptime_s)),
    Measure("cert", "duration", "until the first certificate on the node ends", _certificate_s),
    Measure("dcs", "duration", "since Patroni last reached etcd", _patroni(lambda p: p.dcs_last_seen_s)),
    Measure("timeline", "number", "PostgreSQL's timeline", _patroni(lambda p: p.timeline)),
    Measure("pg", "version", "PostgreSQL that runs", _patroni(_postgresql_version)),
    Measure("patroni", "version", "Patroni that runs", _patroni(lambda p: p.version)),
    Measure("etcd", "version", "etcd that runs", _etcd(lambda e: e.version)),
    Measure("etcd_db", "size", "etcd's database", _etcd(lambda e: e.db_bytes)),
    Measure("haproxy", "version", "HAProxy that runs", _haproxy_version),
    Measure("cpus", "number", "CPUs of the host", _facts(lambda f: f.cpus)),
    Measure("ram", "size", "memory of the host", _facts(lambda f: f.memory_bytes)),
    Measure("pgha", "version", "the minion", _facts(lambda f: f.pgha_version)),
)
_BY_NAME = {one.name: one for one in MEASURES}
SIGNS = tuple(_COMPARE)
