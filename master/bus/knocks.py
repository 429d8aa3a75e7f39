"""How often each address may knock at the enrolment port, so that one stranger does not keep the master busy for all.

Pure, and bounded: of so many addresses that they do not fit, the one that has not knocked for the longest is forgotten.
An IPv6 host has a whole /64 to choose addresses from, so that is what counts as one.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

PER_S, BURST = 20.0, 100.0
ADDRESSES = 10_000


class Knocks:
    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # source -> knocks left, as of when
        self.refused = 0

    def __len__(self) -> int:
        return len(self._left)

    def hear(self, address: str, now: float) -> bool:
        """Whether this knock is answered. `now` is monotonic."""
        source = _source(address)
        left, at = self._left.pop(source, (BURST, now))
        left = min(BURST, left + (now - at) * PER_S)
        heard = left >= 1.0
        self._left[source] = (left - heard, now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        self.refused += not heard
        return heard


def _source(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
