"""What a minion with an accepted key could send if it were somebody else's: every message, every field, hostile values.

One corpus for all who need it: played by Hypothesis against a live master, and the seeds of `tests/fuzz`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from hypothesis import strategies as st
from pgha.common.messages import FROM_MINION, VERSION, Message
from pgha.common.names import new_job_id

Frames = tuple[bytes, ...]
BIG = 2**63 - 1
DEEP = b"[" * 20_000
TEXTS = (
    "",
    "n1",
    "e1",
    "../../../../etc/passwd",
    "/etc/pgha/master.key",
    "a\0b",
    "a\nERROR pgha.hub forged",
    "\x1b[2J\x1b]0;owned\x07",
    "'; drop table jobs; --",
    "{{ 7 * 7 }}",
    "$(touch /tmp/owned)",
    "\u202e\ufeff",
    "x" * 500,
    "x" * 501,
)
COUNTERS = (0, 1, 2, 255, 2**31, 2**53 + 1, BIG, BIG + 1, -1)
BODIES: tuple[bytes, ...] = (
    b"",
    b"{}",
    b"null",
    b"[]",
    b"\xff\xfe",
    DEEP,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"1" * 5000,
    b'{"ok": true}',
    b'{"ok": true, "exit_code": 0, "seconds": NaN}',
    b'{"ok": false, "message": "\\ud800"}',
    b'{"ok": true, "data": {"x": 1e999}}',
    b'{"ok": true, "unchanged": 99999999999999999999999999}',
    b'{"reason": "../../etc"}',
    b'{"reason": "' + b"\\u0000" * 100 + b'"}',
    b'{"stream": "stdout", "text": "\\u001b[2J"}',
    b'{"stream": "../x", "text": ' + b'"' + b"y" * 30_000 + b'"}',
    b'{"resource": "file:/etc/shadow", "document": "haproxy", "status": "changed"}',
    b'{"resource": "x", "document": "x", "status": "failed", "seconds": -Infinity}',
    b'{"__class__": "os.system", "ok": true}',
)
_NESTED: list[Any] = [{}, {"a": {"b": {"c": []}}}, {"x\nforged: line": 1}, {"": ""}, list(range(300))]
_JUNK: st.SearchStrategy[Any] = st.sampled_from(_NESTED) | st.sampled_from(
    [None, True, -1, 2**64 - 1, 1.5, float("nan"), float("inf"), "", "x" * 2000, b"", b"\0" * 100, [], [[[]]] * 50]
)


@dataclass(frozen=True)
class Others:
    """What belongs to somebody else, and a thief would name: jobs, documents and files, streams, names, keys."""

    jids: Sequence[str] = ()
    digests: Sequence[str] = ()
    epochs: Sequence[str] = ()
    names: Sequence[str] = ()
    machines: Sequence[str] = ()
    keys: Sequence[bytes] = ()
    facts: Mapping[str, Any] | None = None


def frames(type_: object, body: object, version: object = VERSION) -> Frames:
    return msgpack.packb({"v": version, "t": type_}), msgpack.packb(body, use_bin_type=True, strict_types=False)


def hostile(others: Others) -> st.SearchStrategy[Frames]:
    """Mostly messages of the right shape, with one value here and there that is not; and some bytes."""
    well_formed = st.sampled_from(FROM_MINION).flatmap(lambda model: _message(model, others))
    bytes_ = st.lists(st.binary(max_size=300), min_size=1, max_size=4).map(tuple)
    return st.integers(0, 30).flatmap(lambda n: bytes_ if n == 0 else well_formed)


def _message(model: type[Message], others: Others) -> st.SearchStrategy[Frames]:
    pools = _pools(others)
    body = st.fixed_dictionaries({name: _field(pools.get(name)) for name in model.model_fields})
    versions = st.sampled_from([VERSION] * 15 + [1])
    return st.builds(lambda body, version: frames(model.type, body, version), body, versions)


def _field(pool: Sequence[Any] | None) -> st.SearchStrategy[Any]:
    fitting = st.sampled_from(list(pool if pool is not None else TEXTS))
    return st.integers(0, 60).flatmap(lambda n: _JUNK if n == 0 else fitting)


def _pools(others: Others) -> dict[str, Sequence[Any]]:
    jids = (*others.jids, new_job_id(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
    running = [{"jid": jid, "att": 1, "resource": "../x", "seconds": 1e308} for jid in jids]
    open_ = [{"jid": jid, "att": 1, "state": "started"} for jid in jids]
    small = (0, 1, 2, BIG)
    return {
        "jid": jids,
        "att": (1, 1, 1, 0, 2, BIG),
        "seq": (1, 2, 3, 4, BIG),
        "first_seq": (1, 2, BIG),
        "last_seq": (1, 3, BIG),
        "epoch": (*others.epochs, "e1", "../e", "x" * 500),
        "kind": ("started", "res", "out", "done", "interrupted", "cancelled", "expired"),
        "body": BODIES,
        "outcome": BODIES,
        "out": ([], [["stdout", "x"]], [["stderr", "\x1b[2J"]] * 50),
        "sha256": (*others.digests, "0" * 64),
        "offset": (0, 0, 128 * 1024, 1, BIG),
        "count": (1, 2),
        "why": ("expired", "busy", "not_mine", "bad_signature", "unknown_type"),
        "detail": TEXTS[:-1],
        "public": (*others.keys, b"\0" * 32, b"\xff" * 32),
        "server_key": (*others.keys, b"\0" * 32),
        "cluster": (*others.names, "prod", "x"),
        "name": (*others.names, "etcd-server", "patroni", "../ca", "ca"),
        "csr": ("", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "x" * 8192),
        "request": small,
        "facts": [
            {**(others.facts or {}), "hostname": text, "machine_id": machine, "cpus": number}
            for text in TEXTS[:6]
            for machine in (*others.machines, "m")
            for number in (0, -1, 2**62)
        ],
        "sample": (
            {"at": 1.0},
            {"at": -1e308, "units": {"../x": "active"}},
            {"at": 0.0, "patroni": {"reachable": True, "role": "leader", "timeline": BIG, "wal_bytes": -BIG}},
            {"at": 0.0, "host": dict.fromkeys(("cpu_percent", "load1", "memory_percent", "disk_percent"), 1e308)
             | {"disk_free_bytes": -1, "uptime_s": -1.0}},
        ),
        "running": ([], running),
        "open": ([], open_),
        "spool_lo": small,
        "spool_hi": small,
        "acked": small,
        "mepoch": (0, 0, 0, 1),
        "speaks": (0, 1, 2, 2, 2, BIG),
        "nonce": (b"", b"n" * 64),
        "mono_ms": small,
        "spool": small,
        "spool_bytes": small,
        "trouble": TEXTS[:-1],
    }  # fmt: skip


def seeds() -> list[bytes]:
    """One of each message of a minion with plain values, and each body, as `tests/fuzz` reads them: header, body."""
    pools = _pools(Others(jids=["01ARZ3NDEKTSV4RRFFQ69G5FAV"]))
    found = []
    for model in FROM_MINION:
        body = {name: pools.get(name, TEXTS)[0] for name in model.model_fields}
        header, packed = frames(model.type, body)
        found.append(len(header).to_bytes(2, "big") + header + packed)
    return found + [b"\0\0" + body for body in BODIES]
