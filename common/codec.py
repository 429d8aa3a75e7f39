"""Messages <-> frames. The only module that knows bytes; everything that arrives is hostile until it passed here.

A message is exactly two frames: a header `{v, t}` of at most 1 KiB and a body of at most 511 KiB, both msgpack.
Every failure, whatever the library raises, is one BusError: a bad message costs its sender, never the receiver.

A side sends the version that both agreed on at HELLO, and understands that version and the one before. A field or a
type that came later than the version spoken is left out; what is left out has a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgpack
from pydantic import ValidationError

from .errors import BusError
from .messages import OLDEST, VERSION, Message

HEADER_LIMIT = 1024
BODY_LIMIT = 512 * 1024 - HEADER_LIMIT
CONTAINERS = 25_000  # lists and maps in one frame: an empty one is a byte on the wire, and 64 in memory
_HEADERS: dict[tuple[int, str], bytes] = {}  # made once for each version and type


def encode(message: Message, version: int = VERSION) -> list[bytes]:
    """Two frames. Raises BusError when the message is larger than a receiver would take, or unknown to it."""
    if version < message.first:
        raise BusError(f"{message.type} is not known to a peer that speaks version {version}; it must be upgraded")
    newer = {name for name, since in message.since.items() if since > version} if version < VERSION else None
    body: bytes = msgpack.packb(message.model_dump(mode="python", exclude=newer), use_bin_type=True)
    if len(body) > BODY_LIMIT:
        raise BusError(f"{message.type} has {len(body)} bytes, more than the {BODY_LIMIT} that fit in one message")
    header = _HEADERS.get((version, message.type))
    if header is None:
        header = _HEADERS[version, message.type] = msgpack.packb({"v": version, "t": message.type})
    return [header, body]


def decode(frames: Sequence[bytes], expected: Sequence[type[Message]]) -> Message:
    """The message, one of the `expected` types. Raises BusError for anything else."""
    if len(frames) != 2:
        raise BusError(f"a message has 2 frames, this one {len(frames)}")
    kind = _kind(frames[0])
    for model in expected:
        if model.type == kind:
            body = _unpack(frames[1], BODY_LIMIT)
            try:
                return model.model_validate(body, strict=False)
            except ValidationError as error:
                first = error.errors(include_input=False, include_url=False)[0]
                where = ".".join(str(part) for part in first["loc"][:6])
                raise BusError(f"{model.type}: {_plain(where)}: {_plain(first['msg'])}") from None
    raise BusError(f"message type {_said(kind)} is not expected here")


@lru_cache(256)  # the same few headers come again and again
def _kind(frame: bytes) -> object:
    """The type that a header names. Raises BusError for a version that is not spoken here."""
    header = _unpack(frame, HEADER_LIMIT)
    version = header.get("v")
    if type(version) is not int or not OLDEST <= version <= VERSION:
        raise BusError(
            f"protocol version {_said(version)}; this side speaks {OLDEST} to {VERSION}: upgrade the older one"
        )
    return header.get("t")


def _plain(text: str) -> str:
    """The name of a field may be a stranger's, too: it must not begin a line of the log, nor fill it."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:200])


def _said(value: object) -> str:
    """A stranger's value for the log: a list nested deep enough breaks whoever prints it."""
    return repr(value[:40]) if isinstance(value, str) else str(value) if isinstance(value, int) else "of no known kind"


def _unpack(data: bytes, limit: int) -> dict[str, object]:
    if len(data) > limit:
        raise BusError(f"a frame of {len(data)} bytes where {limit} are allowed")
    try:
        value = _load(data, _Counter() if len(data) > CONTAINERS else None)  # each takes a byte at least
    except Exception as error:  # noqa: BLE001 - msgpack raises many kinds, a stack error among them; all mean one thing
        raise BusError(f"not msgpack: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise BusError("not a map")
    return value


def _load(data: bytes, hook: _Counter | None) -> object:
    return msgpack.unpackb(
        data,
        raw=False,
        strict_map_key=True,
        max_ext_len=0,
        max_array_len=10_000,
        max_map_len=1_000,
        list_hook=hook,
        object_hook=hook,
    )


class _Counter:
    """Refuses more lists and maps than a frame may have."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, value: object) -> object:
        self._count += 1
        if self._count > CONTAINERS:
            raise ValueError("too many lists and maps")
        return value
