"""run TARGET: ad-hoc commands and functions on the minions that the target picks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ...common.errors import UserError
from .. import targeting
from ..control import Arguments, Request
from ..fleet import Fleet
from ..operations import Operation
from ..progress import End
from ..server import Master
from ..targets import match

FUNCTIONS = ("ping", "facts", "cmd", "service.status", "patroni.list", "etcd.health", "write_probe")
EXIT_EMPTY, EXIT_PARTLY = 5, 4


class Run(Arguments):
    """Either `argv`, a command as it is, or `function` with `args`."""

    target: str
    argv: tuple[str, ...] = ()
    function: str = ""
    args: tuple[str, ...] = ()
    timeout_s: float = 60.0


async def run(master: Master, request: Request) -> AsyncIterator[Any]:
    wanted = request.read(Run)
    function = wanted.function or "cmd"
    if function not in FUNCTIONS:
        raise UserError(f"there is no function {function!r}; there are {', '.join(FUNCTIONS)}")
    arguments = wanted.argv if function == "cmd" and wanted.argv else wanted.args
    if function == "cmd" and not arguments:
        raise UserError("no command given; write it after --, such as: pgha-master run '*' -- uptime")
    nodes = match(wanted.target, targeting.nodes(master))
    if not nodes:
        yield End(exit=EXIT_EMPTY, message=f"no accepted minion matches {wanted.target!r}")
        return

    async def work(operation: Operation) -> End:
        fleet = Fleet(master.hub, operation)
        since = master.clock.monotonic()
        answers = await fleet.call(function, dict.fromkeys(nodes, arguments), wanted.timeout_s, show=True)
        counts = {
            "ok": sum(a.ok for a in answers.values()),
            "failed": sum(a.state in ("failed", "refused", "cancelled") for a in answers.values()),
        }
        counts["no_answer"] = len(answers) - sum(counts.values())
        seconds = round(master.clock.monotonic() - since, 3)
        code = 0 if counts["ok"] == len(answers) else EXIT_PARTLY if counts["ok"] else 1
        return End(exit=code, data={**counts, "seconds": seconds})

    what = " ".join(["run", wanted.target, *(("--", *arguments) if function == "cmd" else (function, *arguments))])
    operation = await master.operations.start(what[:200], "", request.who, work, tuple(nodes))
    async for line in master.operations.follow(operation):
        yield line
