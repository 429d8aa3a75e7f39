"""A state job: the documents of this host, one resource after the other, with what is told of each."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..common.results import Outcome, ResourceResult, Status
from ..states.converge import Debts, converge
from ..states.kinds import read_order
from ..states.resource import AnyResource
from ..states.system import System
from .watched import Watched


def bring_about(
    document: bytes,
    system: System,
    debts: Debts,
    watched: Watched,
    *,
    dry_run: bool,
    started: Callable[[AnyResource], None],
    tell: Callable[[ResourceResult], None],
    cancelled: Callable[[], bool],
) -> Outcome:
    """`tell` hears of what is not as wanted, or has a reason; the others are counted. Raises UserError.

    What the documents manage is watched from then on, as it is in the end.
    """
    since, counts = time.monotonic(), dict.fromkeys(Status, 0)
    order = read_order(document)
    watched.pause()
    try:
        for result in converge(
            order.resources,
            system,
            debts,
            dry_run=dry_run,
            only=order.documents,
            allow_destroy=order.allow_destroy,
            started=started,
            cancelled=cancelled,
        ):
            counts[result.status] += 1
            if result.status is not Status.UNCHANGED or result.reason:
                tell(result)
    finally:
        files = [(path, r.document in order.documents) for r in order.resources for path in r.files()]
        watched.resume([p for p, asked in files if asked], [p for p, asked in files if not asked])
    return Outcome(
        ok=counts[Status.FAILED] == 0 and not cancelled(),
        message="cancelled" if cancelled() else "",
        unchanged=counts[Status.UNCHANGED],
        changed=counts[Status.CHANGED],
        planned=counts[Status.PLANNED],
        failed=counts[Status.FAILED],
        skipped=counts[Status.SKIPPED],
        seconds=time.monotonic() - since,
    )
