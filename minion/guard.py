"""Confirm or revert: a change that can cut this node off stays only when the node is still there for others.

Rules:
1. The way back is armed, and survives this process, before the first step.
2. What greeted whoever connects before the change does so after it, and the master answers on a new connection. The
   first is asked first: it takes a moment, and who is locked out should not wait for the second.
3. Whatever goes wrong in between, the change is put back at once, and the error says whether that helped.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..common.errors import ActionFailed
from ..states.action import Action, Greeting, Guarded
from .revert import UNITS, Revert, Runner

ANSWER_S = 2.0  # for one attempt
AGAIN_S = 10.0  # a service that was told to read its settings again is away for a moment
PAUSE_S = 0.3


def perform(
    guarded: Guarded,
    step: Callable[[Action], None],
    run: Runner,
    confirm: Callable[[float], bool],
    units: Path = UNITS,
    again_s: float = AGAIN_S,
) -> None:
    """Raises ActionFailed when the change was put back, or never made."""
    for action in guarded.prepare:
        step(action)
    before = [one for one in guarded.greets if greets(one)]
    revert = Revert.arm(run, guarded.revert, guarded.confirm_s, units)
    try:
        for action in guarded.actions:
            step(action)
        silent = _silent(guarded.greets, before, again_s)
        confirmed = not silent and confirm(guarded.confirm_s)
    except ActionFailed as error:
        revert.now()
        again = _again(_silent(guarded.greets, before, again_s)) if guarded.greets else ""
        raise ActionFailed(f"{error.message}; what was done until then was put back{again}", error.output) from None
    except BaseException:
        revert.now()
        raise
    if silent:
        revert.now()
        names = ", ".join(map(str, silent))
        again = _again(_silent(silent, before, again_s))
        raise ActionFailed(f"after the change nobody answered on {names} as before, so it was put back{again}")
    if not confirmed:
        revert.now()
        raise ActionFailed(
            f"the master did not answer on a new connection within {guarded.confirm_s:g} s, so the change was put "
            "back; check the rules for the way to the master, then apply again"
        )
    revert.disarm()


def greets(one: Greeting) -> bool:
    """Whether a connection to it is greeted so."""
    said, until = b"", time.monotonic() + ANSWER_S
    try:
        with socket.create_connection((one.host, one.port), ANSWER_S) as line:
            while len(said) < len(one.begins) and (left := until - time.monotonic()) > 0:
                line.settimeout(left)
                piece = line.recv(256)
                if not piece:
                    break
                said += piece
    except OSError:
        return False
    return said.startswith(one.begins.encode())


def _silent(wanted: Sequence[Greeting], before: Sequence[Greeting], again_s: float) -> list[Greeting]:
    """Those that do not greet within that time though they should: all that did before, or else one of them."""
    until = time.monotonic() + again_s
    due = [one for one in wanted if one in before] or list(wanted)
    while True:
        left = [one for one in due if not greets(one)]
        if not left or (not before and len(left) < len(due)):
            return []
        if time.monotonic() > until:
            return left
        due = left
        time.sleep(PAUSE_S)


def _again(still: Sequence[Greeting]) -> str:
    """How it is after the change was put back."""
    if still:
        return "; there is still no answer: look at the service with systemctl and journalctl on the node"
    return "; since then there is an answer again"
