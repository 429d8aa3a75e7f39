"""Names that cross the wire or become part of a path, checked once and typed from then on.

Rule: nothing received is ever joined to a path unless it passed here, and none of these forms can hold a slash,
a leading dot or a space.
"""

from __future__ import annotations

import os
import re
import time
from typing import Annotated

from pydantic import StringConstraints

NODE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"  # one DNS label: RFC 1123 2.1
CLUSTER_PATTERN = r"^[a-z][a-z0-9-]{0,39}$"
JOB_PATTERN = r"^[0-9A-HJKMNP-TV-Z]{26}$"  # ULID

NodeName = Annotated[str, StringConstraints(pattern=NODE_PATTERN)]
ClusterName = Annotated[str, StringConstraints(pattern=CLUSTER_PATTERN)]
JobId = Annotated[str, StringConstraints(pattern=JOB_PATTERN)]

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def is_node_name(text: str) -> bool:
    return re.fullmatch(NODE_PATTERN, text) is not None


def is_cluster_name(text: str) -> bool:
    return re.fullmatch(CLUSTER_PATTERN, text) is not None


def new_job_id() -> str:
    """A ULID: 48 bits of milliseconds, 80 random bits; sorts by time of creation.

    Source: https://github.com/ulid/spec
    """
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
