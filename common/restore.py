"""A restore of a whole cluster, as master and node both know it: how far a node has come, and which steps that ends."""

from __future__ import annotations

from typing import Literal, get_args

Step = Literal["copy", "recover", "swap"]
Phase = Literal["ordered", "copying", "copied", "recovering", "recovered", "swapped"]  # in their order
_ENDS: dict[Step, Phase] = {"copy": "copied", "recover": "recovered", "swap": "swapped"}


def done(phase: str, step: Step) -> bool:
    """Whether a node in that phase has done that step; one of another version may name a phase that nobody knows."""
    phases = get_args(Phase)
    return phase in phases and phases.index(phase) >= phases.index(_ENDS[step])
