"""Requisites -> order. Stable: resources keep the order they were written in wherever requisites allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..common.errors import UserError
from .resource import AnyResource


def order(resources: Sequence[AnyResource]) -> list[AnyResource]:
    """The resources so that each comes after all it requires and watches.

    Raises:
        UserError: two resources with one id, a requisite that is not there, or a cycle; it is named whole.
    """
    by_id: dict[str, AnyResource] = {}
    for resource in resources:
        if (name := resource.id) in by_id:
            raise UserError(f"two resources are both {name}; a thing can be wanted in one way only")
        by_id[name] = resource
    done: dict[str, AnyResource] = {}
    for name in by_id:
        if name not in done:
            _visit(name, by_id, done)
    return list(done.values())


def _visit(first: str, by_id: Mapping[str, AnyResource], done: dict[str, AnyResource]) -> None:
    """Put it and all it needs into `done`. No recursion: a chain of requisites may be as long as the documents."""
    trail: dict[str, Iterator[str]] = {first: _needs(by_id[first])}  # the way to where we are, and what is left to see
    while trail:
        name = next(reversed(trail))
        needed = next((one for one in trail[name] if one not in done), None)
        if needed is None:
            done[name] = by_id[name]
            del trail[name]
        elif needed in trail:
            way = list(trail)
            raise UserError(f"requisites go round in a circle: {' -> '.join((*way[way.index(needed) :], needed))}")
        elif needed not in by_id:
            raise UserError(f"{name} requires {needed}, which is in none of the documents")
        else:
            trail[needed] = _needs(by_id[needed])


def _needs(resource: AnyResource) -> Iterator[str]:
    return iter((*resource.requires, *resource.watches))
