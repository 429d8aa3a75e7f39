"""What `pgha-master run` may call on a host: the closed list, as both sides and the CLI know it.

A function is data here: what it takes, who may call it, and what it can take down. What it does is in
`minion/functions/`, under the same name; a test holds the two together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import UserError

Role = Literal["viewer", "operator", "admin"]


WHOLE_HOST = frozenset({"*"})
_POWER = re.compile(r"systemd-(reboot|poweroff|halt|kexec|soft-reboot|suspend|hibernate)")
_PACKAGES = (
    (re.compile(r"postgresql-(\d+|common)"), frozenset({"patroni", "postgresql"})),
    (re.compile(r"patroni|python3-(etcd|psycopg2)"), frozenset({"patroni"})),
    (re.compile(r"etcd(-server)?"), frozenset({"etcd"})),
    (re.compile(r"haproxy"), frozenset({"haproxy"})),
)


def _nothing(arguments: Sequence[str]) -> frozenset[str]:
    return frozenset()


def _unit(arguments: Sequence[str]) -> frozenset[str]:
    """The unit that is stopped, by the name systemd gives it without `.service`."""
    return frozenset(name.removesuffix(".service") for name in arguments[:1])


def _started(arguments: Sequence[str]) -> frozenset[str]:
    """A start takes nothing down, but for the units whose start is the end of the host."""
    return WHOLE_HOST if any(_POWER.match(name) for name in arguments[:1]) else frozenset()


def _packages(arguments: Sequence[str]) -> frozenset[str]:
    """The units that run from these packages; a new version of their files must be expected to take them down."""
    return frozenset(
        unit for name in arguments for pattern, units in _PACKAGES if pattern.fullmatch(name) for unit in units
    )


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
    blob: bool = False  # takes the content of a file of the caller's


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


_FILE_OPTIONS = "[mode=0644] [owner=NAME] [group=NAME]"

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function("ping", "", "answer", role="viewer"),
        Function("facts", "", "what the host says about itself", role="viewer"),
        Function("cmd", "COMMAND...", "run a command, no shell involved", query=False),
        Function("file.push", f"PATH {_FILE_OPTIONS}", "put a file of yours there", query=False, blob=True),
        Function("file.get", "PATH", "bring a file of at most 16 MiB", query=False),
        Function("file.stat", "PATH", "kind, mode, owner, size and checksum of what is there"),
        Function("file.tail", "PATH [LINES]", "the last lines of a file, 50 or at most 1000"),
        Function("package.versions", "[NAME...]", "installed versions; without a name the stack's", role="viewer"),
        Function("package.upgrade", "NAME...", "upgrade what is installed", query=False, disrupts=_packages),
        Function("service.status", "UNIT", "how a systemd unit is", role="viewer"),
        Function("service.start", "UNIT", "start a unit", query=False, disrupts=_started),
        Function("service.stop", "UNIT", "stop a unit", query=False, disrupts=_unit),
        Function("service.restart", "UNIT", "restart a unit", query=False, disrupts=_unit),
        Function("service.reload", "UNIT", "have a unit read its settings again", query=False),
        Function("journal", "UNIT [LINES]", "the last lines a unit logged, 50 or at most 1000"),
        Function("disk", "", "how full each file system is", role="viewer"),
        Function("processes", "[N]", "the largest by memory and by CPU, 10 or at most 100", role="viewer"),
        Function("patroni.list", "", "the members as Patroni sees them", role="viewer"),
        Function("patroni.history", "", "each change of the leader that Patroni knows of", role="viewer"),
        Function("postgres.query", "SQL [database=NAME]", "one statement, in a read-only transaction"),
        Function("postgres.execute", "SQL [database=NAME]", "statements as superuser", query=False, role="admin"),
        Function("etcd.health", "", "the health of each etcd member", role="viewer"),
        Function(
            "write_probe", "NODE RW_PORT RO_PORT yes|no TIMEOUT_S", "write through HAProxy, read back", query=False
        ),
        Function("write_watch", "NODE RW_PORT TIMEOUT_S", "how long writes are refused", query=False, internal=True),
        Function("patroni.restart", "ROLE", "restart PostgreSQL if a setting waits for it", query=False, internal=True),
        Function("patroni.switchover", "LEADER CANDIDATE", "hand over the lead", query=False, internal=True),
        Function("patroni.reinitialize", "", "make a replica's data anew", query=False, internal=True),
        Function("backup.check", "", "is WAL archived and found", query=False, internal=True),
        Function("backup.verify", "REPOSITORY FULLS", "read a repository whole", query=False, internal=True),
        Function("self.upgrade", "", "bring the minion to its master's version", query=False, role="admin"),
        Function("preflight", "", "who listens where, can packages be had", internal=True),
        Function("ssh.public", "", "the public halves of the keys of postgres and of the host", internal=True),
        Function("patroni.reset", "", "put Patroni's configuration aside", query=False, internal=True),
        Function("etcd.reset", "PATH", "take away what a lost member left", query=False, internal=True),
        Function("etcd.remove", "MEMBER_ID", "take a member's vote", query=False, internal=True),
        Function("service.retire", "UNIT...", "stop units and keep them stopped", query=False, internal=True),
        Function("backup.look", "[STANZA]", "repositories, runs, whose turn it is", internal=True),
        Function("backup.start", "TYPE", "begin a backup", query=False, internal=True),
        Function("drill.look", "", "whether a drill runs, and what the last came to", internal=True),
        Function("drill.start", "", "begin a restore for the proof", query=False, internal=True),
        Function("restore.look", "", "how far a restore is, and what is there", internal=True),
        Function(
            "restore.begin",
            "STEP ID KIND VALUE LABEL TIMELINE [REPOSITORY] [STANZA]",
            "begin a step of a restore",
            query=False,
            internal=True,
        ),
        Function("restore.stop", "", "stop Patroni for a restore", query=False, internal=True),
        Function("restore.start", "", "start Patroni after a restore", query=False, internal=True),
        Function("restore.swap", "ID", "put recovered data in place", query=False, internal=True),
        Function("restore.aside", "ID", "put the data aside, and keep it", query=False, internal=True),
        Function("restore.hold", "", "make no replica from backups for now", query=False, internal=True),
        Function("restore.settle", "", "make replicas from backups again", query=False, internal=True),
        Function("restore.drop", "ID", "take away what a restore has made", query=False, internal=True),
        Function("restore.keep", "", "let no backup expire an older one", query=False, internal=True),
        Function("restore.lift", "", "let Patroni start again", query=False, internal=True),
        Function("restore.commit", "", "delete what restores have put aside", query=False, internal=True),
        Function("restore.forget", "SCOPE", "have etcd forget who led", query=False, internal=True),
        Function("etcd.replace", "MEMBER_ID NAME PEER_URL", "swap a lost member", query=False, internal=True),
    )
}
