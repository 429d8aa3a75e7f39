"""What each exit code means: one table for the commands, for `pgha-master help exit-codes` and for the docs."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
CHANGES = 3
PARTIAL = 4
NO_MATCH = 5
REFUSED = 6
TIMED_OUT = 7
UNREACHABLE = 8
DETACHED = 130

MEANING: dict[int, str] = {
    OK: "done",
    FAILED: "the operation failed on every target, or pgha itself failed",
    USAGE: "wrong usage, or a mistake in a definition",
    CHANGES: "plan --detailed-exitcode: there are changes",
    PARTIAL: "partly failed: some nodes failed or gave no answer",
    NO_MATCH: "the target matches no node",
    REFUSED: "refused by a guard: a lock, a gate, or a missing confirmation",
    TIMED_OUT: "waited too long; the job goes on and its id is on stderr",
    UNREACHABLE: "the master cannot be reached, or you may not use it",
    DETACHED: "interrupted: you are detached and the job goes on",
}


def text() -> str:
    """The table as lines of `CODE  meaning`."""
    return "\n".join(f"{code:>4}  {meaning}" for code, meaning in MEANING.items())
