"""The backup tools that there are, by the name that a definition gives them."""

from __future__ import annotations

from .driver import Driver
from .pgbackrest import PgBackRest

DRIVERS: dict[str, Driver] = {"pgbackrest": PgBackRest()}


def driver(name: str) -> Driver:
    """Raises KeyError; a definition names only what is here."""
    return DRIVERS[name]
