"""The forms in which values stand in a definition: durations, sizes, addresses, networks; and the base of a section."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {"": 1, "B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3} | {
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


def seconds(value: object) -> object:
    """`5s`, `500ms`, `2h` or a number of seconds -> seconds. Raises ValueError with the accepted forms."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())
        if not match:
            raise ValueError("expected a duration such as 500ms, 5s, 10m, 2h or 30d")
        return float(match[1]) * _DURATION[match[2]]
    return value


def size(value: object) -> object:
    """`1MiB`, `256MB`, `2GiB` or a number of bytes -> bytes. Raises ValueError with the accepted forms."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB|)", value.strip())
        if not match:
            raise ValueError("expected a size such as 1MiB, 256MB or 2GiB")
        return int(match[1]) * _SIZE[match[2]]
    return value


def address(value: object) -> str:
    """An IP address in its canonical text. Raises ValueError."""
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError("expected an IP address such as 10.0.1.11") from None


def network(value: object) -> str:
    """A CIDR network in its canonical text; a bare address is a network of one. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(str(value), strict=False))
    except ValueError:
        raise ValueError("expected a network such as 192.0.2.0/24 or an address") from None


def loss(value: object) -> object:
    """A size that may be lost; none at all is `zero`, however it is written. Raises ValueError."""
    try:
        bytes_ = value if value == "zero" else size(value)
    except ValueError as error:
        raise ValueError(str(error).replace("expected", "expected 'zero' or", 1)) from None
    return "zero" if type(bytes_) is int and bytes_ == 0 else bytes_


def one_or_many(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else [value]


Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(size), Field(ge=0)]
Address = Annotated[str, BeforeValidator(address)]
Network = Annotated[str, BeforeValidator(network)]
Port = Annotated[int, Field(ge=1, le=65535)]
Scalar = bool | int | float | str


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
