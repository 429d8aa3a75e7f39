"""Requisites -> order. Stable: resources keep the order they were written in wherever requisites allow."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import UserError
from .resource import AnyResource


def order(resources: Sequence[AnyResource]) -> list[AnyResource]:
    """The resources so that each comes after all it requires and watches.

    Raises:
        UserError: two resources with one id, a requisite that is not there, or a cycle; it is named whole.
    """
    by_id: dict[str, AnyResource] = {}
    for resource in resources:
        if resource.id in by_id:
            raise UserError(f"two resources are both {resource.id}; a thing can be wanted in one way only")
        by_id[resource.id] = resource
    done: dict[str, AnyResource] = {}

    def visit(resource: AnyResource, trail: tuple[str, ...]) -> None:
        if resource.id in done:
            return
        if resource.id in trail:
            cycle = " -> ".join((*trail[trail.index(resource.id) :], resource.id))
            raise UserError(f"requisites go round in a circle: {cycle}")
        for needed in (*resource.requires, *resource.watches):
            if needed not in by_id:
                raise UserError(f"{resource.id} requires {needed}, which is in none of the documents")
            visit(by_id[needed], (*trail, resource.id))
        done[resource.id] = resource

    for resource in resources:
        visit(resource, ())
    return list(done.values())
