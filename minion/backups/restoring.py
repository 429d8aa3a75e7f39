"""Bring a whole cluster's data back, on this node: copy it beside what is there, recover it, and change places.

Nothing is deleted here but by `commit`, and what an interrupted copy left. The steps, each done or not, and each begun
again where it was interrupted:
- `copy`: the files of a backup into FOLDER of the restore, beside the data directory. The cluster goes on meanwhile.
- `recover`: a server of its own replays WAL up to the target and opens for writes. The cluster is stopped by then.
- `swap`: the data directory is put aside, and the recovered one takes its name.

What was ordered and how far it is stands in a file, so that it can be asked for by whoever comes next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ...common.errors import HostError
from ...common.installation import Installation
from ...common.restore import Phase, done
from ...states.backups.driver import USER, Argv, Target, TargetKind
from ...states.backups.told import as_user
from ...states.backups.tools import driver
from ...states.system import Output
from .scratch import SHARED_BUFFERS, Place, Progress, Scratch

FOLDER = Path("/var/lib/pgha/restore")
RUN = Path("/run/pgha-restore")
SETTINGS = "patroni.dynamic.json"
"""Patroni's settings as they were when the backup was made; a cluster that is founded begins with its definition's."""
_TARGETS = ("", "_action", "_inclusive", "_lsn", "_name", "_time", "_timeline", "_xid")
_LEFT = ("restore_command", "archive_mode", *(f"recovery_target{name}" for name in _TARGETS))
"""Settings that the tool wrote for the recovery alone."""
Execute = Callable[[Argv], Output]


class Restore(BaseModel):
    """One restore on this node. `error` is of the last attempt; `detail` is what it does now, or has come to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    kind: TargetKind
    value: str = ""
    label: str = ""
    timeline: str = ""
    stanza: str = ""  # the cluster whose backups they are; empty: this one's own
    repository: int = 0  # where all of it comes from; 0: wherever it is found
    phase: Phase = "ordered"
    detail: str = ""
    error: str = ""

    def target(self) -> Target:
        return Target(self.kind, self.value, self.label, self.timeline)


class Restores:
    """The restore that this node has been ordered to do, in `folder`. Raises HostError."""

    def __init__(self, here: Installation, folder: Path = FOLDER) -> None:
        self._here, self._file = here, folder / "restore.json"
        self.data = Path(here.data_directory)

    def ordered(self) -> Restore | None:
        try:
            return Restore.model_validate_json(self._file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise HostError(f"{self._file} cannot be read: {error}") from None

    def order(self, wanted: Restore) -> Restore:
        """The same one is taken up where it is; another takes its place, and the copy that it made is taken away."""
        known = self.ordered()
        if known is not None and known.id == wanted.id:
            return self.save(known.model_copy(update={"error": ""}))
        if known is not None:
            _remove(self.work(known))
        return self.save(wanted)

    def save(self, restore: Restore) -> Restore:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".new")
            with temporary.open("w") as file:
                file.write(restore.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        except OSError as error:
            raise HostError(f"{self._file} cannot be written: {error.strerror}") from None
        return restore

    def failed(self, restore: Restore, error: str) -> None:
        """Write down why; a disk that takes nothing any more must not hide the reason from the journal."""
        with contextlib.suppress(HostError):
            self.save((self.ordered() or restore).model_copy(update={"error": error}))

    def drop(self, identity: str) -> None:
        """Forget a restore that is given up, with its copy, unless its data is in place."""
        known = self.ordered()
        if known is None or known.id != identity or known.phase == "swapped":
            return
        _remove(self.work(known))
        self._file.unlink(missing_ok=True)

    def work(self, restore: Restore) -> Path:
        """Where the restored data is until it takes the data directory's name."""
        return self.data.with_name(f"{self.data.name}.restore-{restore.id}")

    def kept(self, identity: str) -> Path:
        return self.data.with_name(f"{self.data.name}.before-{identity}")

    def all_kept(self) -> list[Path]:
        return sorted(self.data.parent.glob(f"{self.data.name}.before-*"))

    # ---- the steps

    def copy(self, restore: Restore, execute: Execute) -> Restore:
        if done(restore.phase, "copy"):
            return restore
        work, tool = self.work(restore), driver(self._here.driver)
        restore = self.save(restore.model_copy(update={"phase": "copying", "detail": str(work), "error": ""}))
        begun = (work / "PG_VERSION").exists() or (work / "backup.manifest").exists()
        if not begun:
            _empty(work)
        argv = tool.restore(
            restore.stanza or self._here.stanza,
            restore.target(),
            str(work),
            archive=not restore.stanza,
            delta=begun,
            repository=restore.repository,
        )
        said = execute(as_user(argv))
        if said.rc:
            raise HostError(tool.why(said.rc, said.stdout, said.stderr))
        return self.save(restore.model_copy(update={"phase": "copied", "detail": ""}))

    def recover(self, restore: Restore, server: Scratch | None = None) -> Restore:
        if done(restore.phase, "recover"):
            return restore
        if not done(restore.phase, "copy"):
            raise HostError("nothing was copied yet")
        restore = self.save(restore.model_copy(update={"phase": "recovering", "error": ""}))
        work, own = self.work(restore), not restore.stanza  # what another cluster archives, it archives itself
        memory = "" if own else SHARED_BUFFERS  # the other's hosts may be larger
        place = Place(work, self._here.bin_dir, RUN, self._here.port, archive=own, shared_buffers=memory)
        server = server or Scratch(place)

        def tell(progress: Progress) -> None:
            self.save(restore.model_copy(update={"detail": progress.doing or progress.segment}))

        server.start(tell)
        for name in _LEFT:
            server.query(f"alter system reset {name}")
        if not own:  # it would take what the publisher keeps for the other cluster
            server.query("update pg_subscription set subenabled = false")
        server.query("checkpoint", timeout_s=3600.0)  # from it on the control file has the new timeline
        timeline = server.query("select timeline_id from pg_control_checkpoint()")
        server.stop()
        try:
            (work / SETTINGS).unlink(missing_ok=True)
            if not own:
                _archive_later(work / "pg_wal")
        except OSError as error:
            raise HostError(f"{error.filename or work} cannot be written: {error.strerror}") from None
        return self.save(restore.model_copy(update={"phase": "recovered", "detail": f"timeline {timeline}"}))

    def swap(self, restore: Restore) -> Restore:
        if done(restore.phase, "swap"):
            return restore
        if not done(restore.phase, "recover"):
            raise HostError("nothing was recovered yet")
        work = self.work(restore)
        if work.exists():
            self.aside(restore.id)
            _rename(work, self.data)
        elif not (self.data / "PG_VERSION").exists():
            raise HostError(f"{work} is gone, and there is no data in {self.data}; restore again")
        return self.save(restore.model_copy(update={"phase": "swapped", "detail": str(self.kept(restore.id))}))

    def aside(self, identity: str) -> Path | None:
        """Put the data directory aside, once for each restore; where it is now, None when there was none."""
        kept, mark = self.kept(identity), self._file.parent / f"{identity}.aside"
        if mark.exists():
            return kept if kept.exists() else None
        if serves(self.data):
            raise HostError(f"PostgreSQL runs on {self.data}; it must be stopped before its data is put aside")
        if self.data.is_mount():
            raise HostError(f"{self.data} is a mount point, so it cannot be put aside; have the data in a folder below")
        if self.data.exists() and any(self.data.iterdir()) and not kept.exists():
            seen = self.data.stat()
            _rename(self.data, kept)
            self.data.mkdir(mode=seen.st_mode & 0o777)  # who has the folder above may be somebody else than Patroni
            os.chown(self.data, seen.st_uid, seen.st_gid)
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            with mark.open("w") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise HostError(f"{mark} cannot be written: {error.strerror}") from None
        return kept if kept.exists() else None

    def commit(self) -> list[str]:
        """Delete what was put aside and what abandoned restores left; the paths. Only while none is under way."""
        gone = [*self.all_kept(), *sorted(self.data.parent.glob(f"{self.data.name}.restore-*"))]
        for path in gone:
            _remove(path)
        return [str(path) for path in gone]


def serves(data: Path) -> bool:
    """A live process holds the data directory."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        return Path(f"/proc/{pid}/cwd").resolve() == data.resolve()
    except (OSError, ValueError, IndexError):
        return False


def _archive_later(wal: Path) -> None:
    """Have the history of the timeline that was begun archived with the first of its WAL. Raises OSError.

    A link in a folder that is another user's is not followed.
    """
    owner = wal.stat()
    for history in wal.glob("*.history"):
        ready = wal / "archive_status" / f"{history.name}.ready"
        try:
            file = os.open(ready, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
        except FileExistsError:
            continue
        try:
            os.fchown(file, owner.st_uid, owner.st_gid)
        finally:
            os.close(file)


def _remove(path: Path) -> None:
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise HostError(f"{path} cannot be deleted: {error}") from None


def _empty(path: Path) -> None:
    try:
        if path.exists():
            shutil.rmtree(path)
        for folder in reversed([one for one in path.parents if not one.exists()]):  # a bare node has none for its major
            folder.mkdir()
            shutil.chown(folder, USER, USER)
        path.mkdir(mode=0o700)
        shutil.chown(path, USER, USER)
    except (OSError, LookupError) as error:
        raise HostError(f"{path} cannot be made: {error}") from None


def _rename(path: Path, to: Path) -> None:
    try:
        path.rename(to)
        folder = os.open(to.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise HostError(f"{path} cannot be renamed to {to}: {error.strerror}") from None
