"""What a master must not forget, in SQLite: minions, jobs, events, operations, notes. The only SQL of the master.

Rules:
1. One thread writes; what has queued up while it was busy goes into one transaction (group commit, FULL).
   A `write` returns only after the commit.
2. An event is stored iff it is the next of its minion's epoch, together with the state it leads to.
3. Documents are sealed by the vault before they come here; nothing in this folder is a secret in clear.

A family of tables is one file and one class; `Store` is all of them over one writer.
"""

from __future__ import annotations

from .audit import Audit
from .jobs import AnswerRow, EventRow, JobRow, Jobs, Piece, Stored
from .minions import MinionRow, Minions
from .notes import Notes
from .operations import Operations
from .retention import Retention

__all__ = ["AnswerRow", "EventRow", "JobRow", "MinionRow", "Piece", "Store", "Stored"]


class Store(Minions, Jobs, Operations, Notes, Audit, Retention):
    """The one store of a master."""
