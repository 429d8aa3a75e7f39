"""State documents in Python, by the entry point group `pgha.documents`: name -> `build(context) -> list[resource]`.

The code is the user's and may do anything wrong: fail to import, raise, return what is no resource. Each of that is an
error with the document's name and origin, never the end of the master. What it builds is checked like what came over a
wire: only resources of kinds that a minion knows.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from ...common.errors import UserError
from ...states.document import Context
from ...states.kinds import KINDS
from ...states.resource import AnyResource, Resource

GROUP = "pgha.documents"

log = logging.getLogger("pgha.userstates")


@dataclass(frozen=True)
class PythonDocument:
    """`path`: where it is from, for people."""

    name: str
    path: str
    builder: Callable[[Context], object]

    @property
    def digest(self) -> str:
        """Of where it is from, with the package's version; the code itself may be anywhere."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:16]

    def build(self, context: Context) -> list[AnyResource]:
        """Raises UserError when the function raises, or returns anything but resources."""
        try:
            found = self.builder(context)
        except (Exception, SystemExit) as error:
            raise self._broken(f"its build raised {_said(error)}", context) from error
        if not isinstance(found, (list, tuple)):
            raise self._broken(f"its build returned {type(found).__name__}, expected a list of resources", context)
        for index, item in enumerate(found):
            if not isinstance(item, Resource) or type(item) is not KINDS.get(item.kind):
                shown = type(item).__name__
                raise self._broken(f"item {index + 1} that its build returned is no resource but {shown}", context)
        return [item.model_copy(update={"document": self.name}) for item in found]

    def _broken(self, why: str, context: Context) -> UserError:
        return UserError(f"the document {self.name} ({self.path}) cannot be built for {context.node.name}: {why}")


def found() -> list[EntryPoint]:
    """Those of every package that is installed now, also since this process was started."""
    importlib.invalidate_caches()
    return list(entry_points(group=GROUP))


def load(point: EntryPoint) -> PythonDocument:
    """Raises UserError when it cannot be imported or is no function."""
    path = origin(point)
    try:
        builder = point.load()
    except (Exception, SystemExit) as error:
        log.warning("the document %s (%s) cannot be loaded", point.name, path, exc_info=True)
        raise UserError(f"the document {point.name} ({path}) cannot be loaded: {_said(error)}") from error
    if not callable(builder):
        raise UserError(f"the document {point.name} ({path}) is no function but {type(builder).__name__}")
    return PythonDocument(point.name, path, builder)


def origin(point: EntryPoint) -> str:
    """`acme_states:motd of acme-states 1.2`."""
    return point.value + (f" of {point.dist.name} {point.dist.version}" if point.dist else "")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
