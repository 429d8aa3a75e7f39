"""What `pgha-master run` may call on a host: the closed list, as both sides and the CLI know it.

A function is data here: what it takes, who may call it, and what it can take down. What it does is in
`minion/functions/`, under the same name; a test holds the two together.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import UserError

Role = Literal["viewer", "operator", "admin"]


def _nothing(arguments: Sequence[str]) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Function:
    """`usage` names the arguments as in a synopsis, `text` is one line of help.

    `query`: it only reads, so it may be asked again freely, is not journaled, and its answer is one message.
    `disrupts(arguments)`: the units it stops or restarts, "*" for the whole host; empty for most.
    """

    name: str
    usage: str
    text: str
    query: bool = True
    role: Role = "operator"
    disrupts: Callable[[Sequence[str]], frozenset[str]] = _nothing
    internal: bool = False  # called by pgha's own procedures only, never by `run`


def find(name: str) -> Function:
    """The function of that name. Raises UserError with the one that was meant."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    near = difflib.get_close_matches(name, FUNCTIONS, n=1, cutoff=0.6)
    meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(public())}"
    raise UserError(f"there is no function {name!r}; {meant}")


def public() -> list[str]:
    """Names that a person may call, in the table's order."""
    return [function.name for function in FUNCTIONS.values() if not function.internal]


FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function("ping", "", "answer", role="viewer"),
        Function("facts", "", "what the host says about itself", role="viewer"),
        Function("cmd", "COMMAND...", "run a command, no shell involved", query=False),
        Function("service.status", "UNIT", "how a systemd unit is", role="viewer"),
        Function("patroni.list", "", "the members as Patroni sees them", role="viewer"),
        Function("etcd.health", "", "the health of each etcd member", role="viewer"),
        Function("write_probe", "", "write through HAProxy and read it back", query=False),
        Function("preflight", "", "who listens where, can packages be had", internal=True),
        Function("etcd.reset", "PATH", "take away what a lost member left", query=False, internal=True),
        Function("etcd.replace", "MEMBER_ID NAME PEER_URL", "swap a lost member", query=False, internal=True),
    )
}
