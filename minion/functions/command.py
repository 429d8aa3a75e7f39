"""cmd: an operator's own command, as a list of words."""

from __future__ import annotations

from ...common.results import Outcome
from ..spawn import stream
from .request import Call, Doors


def run(call: Call, doors: Doors) -> Outcome:
    code, message = stream(call.arguments, call.timeout_s, doors.output, doors.cancelled)
    return Outcome(ok=code == 0, exit_code=code, message=message)
