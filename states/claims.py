"""What of a host a resource wants as a whole, however it is spelled: two resources must not claim the same."""

from __future__ import annotations

import posixpath

from .resource import AnyResource
from .resources.files import Absent, Directory, File, Symlink
from .resources.service import Service
from .resources.units import DropIn, UnitFile


def claims(resource: AnyResource) -> tuple[object, ...]:
    """Its id; of these kinds also the thing itself.

    A path is one thing as `file`, `directory`, `symlink`, `absent`, `unit` and `drop_in`; lines in a file, or what is
    mounted there, are not the path. A unit is one thing with and without `.service`.
    """
    if isinstance(resource, (File, Directory, Symlink, Absent)):
        return resource.id, ("path", posixpath.normpath(resource.path))
    if isinstance(resource, (UnitFile, DropIn)):
        return resource.id, *(("path", path) for path in resource.files())
    if isinstance(resource, Service):
        return resource.id, ("unit", full_name(resource.unit))
    return (resource.id,)


def full_name(unit: str) -> str:
    return unit if "." in unit else f"{unit}.service"
