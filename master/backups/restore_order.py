"""What a restore is ordered to do, and what nodes say of one: values that are noted and that cross the bus."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ...common.clock import moment
from ...common.cluster import Cluster
from ...states.backups.driver import TargetKind
from ..orchestration.fleet import Failed

RESUME = "--resume"  # in place of a value: the one that has begun


class Wanted(BaseModel):
    """A restore as it is noted: `node` recovers; `value` as the tool and PostgreSQL take it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: TargetKind
    value: str = ""
    label: str = ""
    timeline: str = ""
    id: str = ""
    node: str = ""
    stanza: str = ""  # the cluster whose backups they are; empty: this one's own
    repository: int = 0  # where all of it comes from; 0: wherever it is found
    bare: bool = False  # nobody had data when it began
    leader: str = ""  # who led when it began
    placing: bool = False  # data changes places: from here on it can only be gone on with
    founded: bool = False  # who recovered leads

    @classmethod
    def first(cls, cluster: Cluster, *, lived: bool) -> Wanted | None:
        """What a cluster without data begins with, as its definition has it; `rules` have read the time.

        Once it has `lived`, a time of back then is wanted no more. Of another cluster's it is: whether this one has
        backups of its own by then is looked up.
        """
        wanted, stanza = cluster.bootstrap.from_backup, cluster.bootstrap.of_another(cluster.name)
        if wanted is None or (lived and wanted.to != "latest" and not stanza):
            return None
        if wanted.to == "latest":
            return cls(kind="latest", label=wanted.label, stanza=stanza)
        return cls(kind="time", value=moment(wanted.to), label=wanted.label, stanza=stanza)

    def __str__(self) -> str:
        goal = "the newest that is archived" if self.kind == "latest" else f"{self.kind} {self.value}"
        goal = f"{goal} of {self.stanza}" if self.stanza else goal
        return f"{goal}, from {self.label}" if self.label else goal

    def order(self, step: str) -> tuple[str, ...]:
        """As a node takes it."""
        repository = str(self.repository) if self.repository else "-"
        words = (self.kind, self.value or "-", self.label or "-", self.timeline or "-", repository)
        return step, self.id, *words, *([self.stanza] if self.stanza else [])

    def same(self, other: Wanted) -> bool:
        def goal(one: Wanted) -> tuple[str, ...]:
            return one.kind, one.value, one.label, one.timeline, one.stanza

        return goal(self) == goal(other)


class OnNode(BaseModel):
    """The node's own record of a restore."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: str
    phase: str
    detail: str = ""
    error: str = ""


class NodeLook(BaseModel):
    """What `restore.look` says. Sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    restore: OnNode | None = None
    running: tuple[str, ...] = ()
    patroni: str = ""
    serving: bool = False  # a PostgreSQL process holds the data directory
    wal: str = ""  # the segment of the last checkpoint
    segment: int = 16 * 1024**2  # bytes of one
    free: int = 0
    tablespaces: int = 0
    mounted: bool = False  # the data directory itself is a mount point

    def phase(self, identity: str) -> str:
        """Of that restore; empty when this node knows of none."""
        return self.restore.phase if self.restore and self.restore.id == identity else ""


class Left(BaseModel):
    """A restore that has ended: what was written between `back_to` and `ended` is on a timeline that was left.

    Times are as PostgreSQL reads them, of one form, so they compare as text.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    back_to: str
    ended: str

    def holds(self, goal: str) -> bool:
        return self.back_to < goal < self.ended


def unarchived(look: NodeLook, archived: str) -> int:
    """How many finished segments of WAL that node has written and no repository has; 0 when that is not known.

    A server that ended in order has switched to a segment in which there is nothing but its last checkpoint.
    """
    if len(look.wal) != 24 or len(archived) != 24:
        return 0
    in_a_file = 4 * 1024**3 // look.segment
    last, known = (int(name[8:16], 16) * in_a_file + int(name[16:], 16) for name in (look.wal, archived))
    return max(0, last - 1 - known)


class Refusal(Failed):
    """A node has tried and says why it cannot be done; nothing has changed places yet."""
