"""The backup tool, asked for what takes long: is the road of WAL whole, and is what a repository holds sound.

Both run as long as they must, as the database's user, and end when they are cancelled. What they read, they read only.
"""

from __future__ import annotations

from ...common.installation import Installation
from ...common.results import Outcome
from ...common.telemetry_backup import RepositorySample
from ...states.backups.driver import Argv
from ...states.backups.told import as_user
from ...states.backups.tools import driver
from ..backups.run import installed
from ..probes.backup import told_of
from ..spawn import stream
from .request import Call, Doors, arguments, number, wrong

KEPT = 1024 * 1024  # characters of what the tool says, the last
MOST = 1000  # of repositories, and of full backups that are kept


def check(call: Call, doors: Doors) -> Outcome:
    """A segment of WAL is switched, archived, and found in every repository."""
    arguments(call, 0, 0)
    here = installed(doors.system)
    tool = driver(here.driver)
    rc, out, err = _run(call, doors, tool.check(here.stanza))
    doors.output("stdout", out)
    return Outcome(ok=rc == 0, exit_code=rc, message="" if rc == 0 else tool.why(rc, out, err))


def verify(call: Call, doors: Doors) -> Outcome:
    """A repository is read whole and held against what it says of itself."""
    first, second = arguments(call, 2, 2)
    which, fulls = number(call, first, MOST), number(call, second, MOST)
    here = installed(doors.system)
    if which not in here.operates:
        raise wrong(call, f"no backups are made from {here.node} to repository {which}")
    tool = driver(here.driver)
    before = _told(doors, here, which)
    if before.state not in ("ok", "no backups"):
        return Outcome(ok=False, exit_code=1, message=f"it is {before.state}: {before.why}".rstrip(": "))
    rc, out, err = _run(call, doors, tool.verify(here.stanza, which))
    if doors.cancelled():
        return Outcome(ok=False, exit_code=rc, message="cancelled")
    after = {one.label for one in _told(doors, here, which).backups}
    still = tuple(one for one in before.backups if one.label in after)  # others have expired meanwhile
    found = tool.read_verify(rc, out, err, still, fulls)
    doors.output("stdout", found.text + "\n")
    told = {"problems": list(found.problems), "backups": len(still)}
    return Outcome(
        ok=not found.problems, exit_code=1 if found.problems else 0, message="; ".join(found.problems), data=told
    )


def _told(doors: Doors, here: Installation, which: int) -> RepositorySample:
    (one,) = told_of(doors.system, here, (which,)).repositories
    return one


def _run(call: Call, doors: Doors, argv: Argv) -> tuple[int, str, str]:
    """Exit code, stdout, stderr or why it was ended."""
    said = {"stdout": "", "stderr": ""}

    def keep(name: str, text: str) -> None:
        said[name] = (said[name] + text)[-KEPT:]

    rc, message = stream(as_user(argv), call.timeout_s, keep, doors.cancelled)
    return rc, said["stdout"], message or said["stderr"]
