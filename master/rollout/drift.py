"""How nodes differ from the definition that was applied last, and what is to become of each difference. Pure.

Rules:
1. `observe` is shown and no more; `propose` is a finding with the command that mends it; `enforce` is mended by the
   master itself.
2. It mends only what disturbs nothing or reloads, on a healthy cluster, and when everything that differs in that
   document on that node may be mended. What comes back again and again is somebody's will, and proposed instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ...common.cluster import Policy, Reconcile
from ...common.results import Impact, Status
from ..health.observed import Finding
from ..operations.progress import Plan

AGAIN, AGAIN_S = 3, 3600.0  # as often in that time a difference is mended
MILD = (Impact.NONE, Impact.RELOAD)
SHOWN = 3  # resources in one sentence


@dataclass(frozen=True, slots=True)
class Difference:
    node: str
    document: str
    resource: str
    what: tuple[str, ...]
    policy: Policy
    mild: bool  # disturbs nothing, or reloads
    follows: bool = False  # it does not differ by itself: a reload or restart that another difference brings about


@dataclass
class Drift:
    """Of one cluster. `checked`: monotonic s of the last look; `error`: why the newest look came to nothing.

    `differences`: what differs by itself; `following`: what would come of mending that.

    `mended`: when (monotonic s) each (node, resource) was.
    """

    checked: float | None = None
    differences: tuple[Difference, ...] = ()
    following: tuple[Difference, ...] = ()
    error: str = ""
    mended: dict[tuple[str, str], list[float]] = field(default_factory=dict)


def policy_of(reconcile: Reconcile, document: str, resource: str) -> Policy:
    """The last override that matches the document's name or the resource's id, else the policy of all."""
    matching = [o for o in reconcile.overrides if fnmatchcase(document, o.match) or fnmatchcase(resource, o.match)]
    return matching[-1].policy if matching else reconcile.policy


def differences(reconcile: Reconcile, plan: Plan) -> tuple[Difference, ...]:
    """What an apply would change. Updates that have come out are nobody's change, and left to an apply."""
    return tuple(
        Difference(
            node.node,
            result.document,
            result.resource,
            tuple(dict.fromkeys(change.what for change in result.changes)),
            policy_of(reconcile, result.document, result.resource),
            all(change.disruption.impact in MILD and not change.destroys for change in result.changes),
            all(change.follows for change in result.changes),
        )
        for node in plan.nodes
        for result in node.results
        if result.status is Status.PLANNED and not result.resource.startswith("upgrade:")
    )


def harsh(plan: Plan) -> list[str]:
    """What would do more than reload: it is nobody's to do who was not asked."""
    found = [(node.node, r.resource, change) for node in plan.nodes for r, change in node.changes]
    return [
        f"{node}: {resource} would {change.disruption if change.disruption.impact not in MILD else 'destroy data'}"
        for node, resource, change in found
        if change.disruption.impact not in MILD or change.destroys
    ]


def to_mend(drift: Drift, now: float) -> dict[str, tuple[str, ...]]:
    """The documents to apply by node: what may be mended there, and what has to be reloaded for it to take effect."""
    found: dict[str, tuple[str, ...]] = {}
    for node in dict.fromkeys(one.node for one in drift.differences):
        rows = [one for one in drift.differences if one.node == node]
        after = [one for one in drift.following if one.node == node]
        if not all(one.mild for one in after):
            continue  # it would restart something
        refused = {
            one.document for one in rows if one.policy != "enforce" or not one.mild or _stubborn(drift, one, now)
        }
        if wanted := [one.document for one in rows if one.document not in refused]:
            found[node] = tuple(dict.fromkeys([*wanted, *(o.document for o in after if o.document not in refused)]))
    return found


def _stubborn(drift: Drift, one: Difference, now: float) -> bool:
    times = drift.mended.get((one.node, one.resource), [])
    return sum(now - at < AGAIN_S for at in times) >= AGAIN


def remember_mended(drift: Drift, nodes: Mapping[str, Sequence[str]], now: float) -> None:
    for one in drift.differences:
        if one.document in nodes.get(one.node, ()):
            times = drift.mended.setdefault((one.node, one.resource), [])
            times[:] = [*times, now][-AGAIN:]


def findings(cluster: str, drift: Drift) -> list[Finding]:
    """For each node what is not only to be observed."""
    found = []
    for node in dict.fromkeys(one.node for one in drift.differences):
        rows = [one for one in drift.differences if one.node == node and one.policy != "observe"]
        if rows:
            text = f"{node} is not as it was applied: {listed([one.resource for one in rows])}"
            found.append(Finding("warning", text, f"pgha-master plan {cluster}", degrades=False))
    return found


def listed(resources: Sequence[str]) -> str:
    more = f" and {len(resources) - SHOWN} more" if len(resources) > SHOWN else ""
    return ", ".join(resources[:SHOWN]) + more


def view(drift: Drift, now: float) -> dict[str, object]:
    """As `status --json` prints it."""
    return {
        "checked_s": None if drift.checked is None else round(now - drift.checked, 1),
        "error": drift.error,
        "differences": [
            {
                "node": one.node,
                "document": one.document,
                "resource": one.resource,
                "what": list(one.what),
                "policy": one.policy,
            }
            for one in drift.differences
        ],
    }
