"""systemd units: how one is, start, stop, restart, reload, and what it logged."""

from __future__ import annotations

from ...common.results import Outcome
from ...states.action import Unit
from .request import Call, Doors, Function, arguments, number, unit, wrong

LINES, LINES_MAX = 50, 1000
_OURSELVES = ("pgha-minion", "pgha-minion.service")


def status(call: Call, doors: Doors) -> Outcome:
    facts = doors.system.unit(unit(call, arguments(call, 1, 1)[0]))
    doors.output("stdout", f"{facts.load} {facts.active} {facts.enabled}".rstrip() + "\n")
    active = facts.active == "active"
    data: dict[str, object] = {"load": facts.load, "active": facts.active, "enabled": facts.enabled}
    return Outcome(ok=active, exit_code=0 if active else 3, data=data)


def acting(verb: str) -> Function:
    """The function that gives systemd this verb for one unit."""

    def act(call: Call, doors: Doors) -> Outcome:
        name = unit(call, arguments(call, 1, 1)[0])
        if name in _OURSELVES and verb in ("stop", "restart"):
            raise wrong(call, "the minion cannot answer from a service that it ends itself; do it on the host")
        doors.system.perform(Unit(verb, name))
        facts = doors.system.unit(name)
        doors.output("stdout", f"{facts.load} {facts.active} {facts.enabled}".rstrip() + "\n")
        return Outcome(ok=True, exit_code=0, data={"active": facts.active})

    return act


def retire(call: Call, doors: Doors) -> Outcome:
    """Each is stopped and not started at boot any more; one that is not there is passed over."""
    for name in [unit(call, word) for word in arguments(call, 1, 10)]:
        facts = doors.system.unit(name)
        if facts.load in ("not-found", "masked"):
            continue
        for verb in ("stop", "disable"):
            doors.system.perform(Unit(verb, name))
    return Outcome(ok=True, exit_code=0)


def journal(call: Call, doors: Doors) -> Outcome:
    given = arguments(call, 1, 2)
    name = unit(call, given[0])
    lines = number(call, given[1], LINES_MAX) if len(given) > 1 else LINES
    argv = ("journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={lines}", f"--unit={name}")
    said = doors.system.ask(argv, timeout_s=30.0)
    if said.stdout:
        doors.output("stdout", said.stdout)
    if said.stderr:
        doors.output("stderr", said.stderr)
    return Outcome(ok=said.rc == 0, exit_code=said.rc)
