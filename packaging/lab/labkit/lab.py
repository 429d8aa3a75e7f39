"""One lab: its nodes, its network and its folder, and what one can do to them.

Rules kept here:
1. lab.json is written before anything is made, and removed after everything is gone. `down` does not need it: all that
   belongs to a lab bears its name.
2. One `up`, `down`, `snapshot` or `restore` at a time per lab. The power of a node is switched by one order at a time,
   but no order holds it while it waits for a boot or a shutdown: that is when the plug is pulled in life, too.
3. Every order may be given twice. To start what runs, or kill what is dead, is done already and no error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import host, image, net, plan, program, s3
from .host import lock, run, write
from .image import Cache, Say
from .node import Machine
from .plan import LabError, Names, Node, Wanted

T = TypeVar("T")
_NSPAWN_RUN = (Path("/run/systemd/nspawn/propagate"), Path("/run/systemd/nspawn/unix-export"))


@dataclass(frozen=True)
class Built:
    """What lab.json holds: decided once, at the first `up`."""

    octet: int
    nodes: tuple[Node, ...]
    lowers: tuple[Path, ...]
    s3_lowers: tuple[Path, ...] = ()  # of the nodes that serve S3

    @property
    def stores(self) -> list[Node]:
        """The nodes that serve S3."""
        return [node for node in self.nodes if node.serves == "s3"]

    def lowers_of(self, node: Node) -> tuple[Path, ...]:
        return self.s3_lowers if node.serves == "s3" else self.lowers

    def to_json(self) -> str:
        layers = {"lowers": [str(p) for p in self.lowers], "s3_lowers": [str(p) for p in self.s3_lowers]}
        return json.dumps({"octet": self.octet, "nodes": [asdict(node) for node in self.nodes], **layers}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Built:
        raw: Any = json.loads(text)  # Any: our own file, checked by building the values
        lowers, s3_lowers = (tuple(map(Path, layers)) for layers in (raw["lowers"], raw.get("s3_lowers", ())))
        return cls(int(raw["octet"]), tuple(Node(**n) for n in raw["nodes"]), lowers, s3_lowers)


@dataclass(frozen=True)
class Status:
    """One line of `lab status`."""

    name: str
    address: str
    region: str
    power: str  # on | off
    boot: str  # running | degraded | starting | ... | off
    parted_from: tuple[str, ...]  # ("everybody",), some names, or nobody
    pid: int | None  # the host's pid of the node's PID 1
    s3: s3.Store | None  # what it serves

    @property
    def state(self) -> str:
        """up, down or partitioned, in one word."""
        return "down" if self.power == "off" else "partitioned" if self.parted_from else "up"


@dataclass(frozen=True)
class Lab:
    """A lab by name. Making this value touches nothing."""

    name: str
    folder: Path
    cache_folder: Path
    say: Say

    @property
    def names(self) -> Names:
        return Names(self.name)

    @property
    def cache(self) -> Cache:
        return Cache(self.cache_folder, self.say)

    def built(self) -> Built | None:
        """What was decided at the first `up`, None when the lab is down."""
        try:
            return Built.from_json((self.folder / "lab.json").read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise LabError(f"{self.folder / 'lab.json'} is broken: run `lab --name {self.name} down`") from None

    def must_be_built(self) -> Built:
        if built := self.built():
            return built
        raise LabError(f"lab {self.name} is down: run `lab --name {self.name} up`")

    def machines(self, wanted: Iterable[str] = ()) -> list[Machine]:
        """The nodes of these names, or all.

        Raises: LabError when the lab is down or has no such node.
        """
        built = self.must_be_built()
        wanted = list(wanted)
        known = {node.name: node for node in built.nodes}
        for name in wanted:
            if name not in known:
                raise LabError(f"lab {self.name} has no node {name!r}; it has {', '.join(known)}")
        nodes = [known[name] for name in wanted or known]
        return [Machine(self.names, node, self.folder / "nodes" / node.name, built.lowers_of(node)) for node in nodes]

    # --- the whole lab ----------------------------------------------------------------------------------------

    def up(self, wanted: Sequence[Wanted] | None, with_pgha: bool, with_packages: bool = False) -> None:
        """Brings every node up; a lab that is up stays as it is, and its nodes that are off are started."""
        with self._alone():
            built = self.built()
            if built is None:
                built = self._found(wanted or plan.default_nodes(3), with_pgha, with_packages)
            elif wanted is not None and [(w.name, w.serves) for w in wanted] != [
                (n.name, n.serves) for n in built.nodes
            ]:
                have = ", ".join(node.name for node in built.nodes)
                raise LabError(
                    f"lab {self.name} is up with {have}: run `lab --name {self.name} down` before another shape"
                )
            if not net.router_is_up(self.names):
                for machine in self.machines():  # after a reboot of the host, or a crash in the middle of `up`
                    machine.end_processes()
                with lock(net.HOST_LOCK):
                    net.remove(self.names)
                    net.build(self.names, built.octet, built.nodes)
            if built.stores:
                s3.furnish(self.folder, built.stores, built.s3_lowers[-1])
            off = [machine for machine in self.machines() if not machine.is_on()]
            if not off:
                self.say(f"lab {self.name} is already up")
            self._each(off, Machine.power_on)
        self._wait_booted(self.machines())

    def _found(self, wanted: Sequence[Wanted], with_pgha: bool, with_packages: bool) -> Built:
        """Decides addresses and image, and writes them down."""
        if net.router_is_up(self.names) or any(n.startswith(self.names.prefix + ".") for n in net.namespaces()):
            raise LabError(
                f"there are remains of a lab {self.name} without its folder {self.folder}: run "
                f"`lab --name {self.name} down` (or set PGHA_LAB_DIR to where it was made)"
            )
        asked = plan.wanted_octet(wanted)
        plan.place(wanted, asked or plan.DEFAULT_OCTET)  # complain before minutes of building
        lowers = self.image(with_pgha, with_packages)
        s3_lowers = s3.layers(self.cache, lowers[-1]) if any(want.serves == "s3" for want in wanted) else []
        with lock(net.HOST_LOCK):
            octet = plan.choose_octet(self.name, asked, net.taken_octets() | self._reserved())
            built = Built(octet, tuple(plan.place(wanted, octet)), tuple(lowers), tuple(s3_lowers))
            write(self.folder / "lab.json", built.to_json())
            net.build(self.names, octet, built.nodes)
        return built

    def _reserved(self) -> set[int]:
        """The networks of labs beside this one, also of those which are not up now."""
        found = set()
        for path in self.folder.parent.glob("*/lab.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.add(Built.from_json(path.read_text()).octet)
        return found

    def image(self, with_pgha: bool, with_packages: bool = False) -> list[Path]:
        """The layers a node boots from, highest first; made when they are not in the cache."""
        bare = image.debian(self.cache)
        pgha = program.layers(self.cache, bare) if with_pgha else []
        return [*pgha, *([image.prepared(self.cache, bare)] if with_packages else []), *bare]

    def down(self) -> None:
        """Leaves nothing of the lab, from whatever state; the cache stays."""
        with self._alone():
            host.kill_cgroup(self.names.prefix)
            with lock(net.HOST_LOCK):
                net.remove(self.names)
            under = str(self.folder) + "/"
            ours = self.names.prefix + "."
            for where in host.mounts(lambda source, at: source.startswith(ours) or at.startswith(under)):
                host.unmount(where)
            host.wait_until(lambda: host.remove_cgroup(self.names.prefix), 10)
            for parent in _NSPAWN_RUN:
                for path in parent.glob(ours + "*"):
                    run(["umount", str(path)], check=False)
                    path.rmdir()
            image.remove_tree(self.folder)
            for path in (self._lock_path(), *host.RUN.glob(f"{ours}*.lock")):
                path.unlink(missing_ok=True)

    # --- nodes ------------------------------------------------------------------------------------------------

    def start(self, names: Sequence[str]) -> None:
        with self._beside(names):
            self._each([machine for machine in self.machines(names) if not machine.is_on()], Machine.power_on)
        self._wait_booted(self.machines(names))

    def stop(self, names: Sequence[str]) -> None:
        self._each(self.machines(names), Machine.stop)

    def kill(self, names: Sequence[str]) -> None:
        with self._beside(names):
            self._each(self.machines(names), Machine.kill)

    def reboot(self, names: Sequence[str]) -> None:
        self._each(self.machines(names), Machine.reboot)
        self._wait_booted(self.machines(names))

    def wipe(self, names: Sequence[str]) -> None:
        """Gives these nodes an empty disk: killed, bare again, booted."""
        with self._beside(names):
            self._each(self.machines(names), Machine.kill)
            self._each(self.machines(names), Machine.erase)
            self._each(self.machines(names), Machine.power_on)
        self._wait_booted(self.machines(names))

    def partition(self, names: Sequence[str], peers: Sequence[str]) -> None:
        for machine in self.machines(names):
            net.partition(self.names, machine.node, peers, self.must_be_built().nodes)

    def heal(self, names: Sequence[str]) -> None:
        if not names:
            self.must_be_built()
            net.heal(self.names, None)
        for machine in self.machines(names) if names else ():
            net.heal(self.names, machine.node)

    def status(self) -> list[Status]:
        built = self.must_be_built()
        has_router = net.router_is_up(self.names)

        def one(machine: Machine) -> Status:
            node, init = machine.node, machine.init()
            parted = tuple(net.parted_from(self.names, node, built.nodes)) if has_router else ()
            power = "on" if machine.is_on() else "off"
            pid = init.pid if init else None
            store = s3.store(self.folder, node) if node in built.stores else None
            return Status(node.name, node.address, node.region, power, machine.boot_state(), parted, pid, store)

        return self._each(self.machines(), one)

    # --- snapshots --------------------------------------------------------------------------------------------

    def snapshot(self, label: str) -> None:
        """Keeps the disks of all nodes under `label`. They are powered off orderly for it and started again."""
        plan.check_name(label, "snapshot")
        with self._alone():
            machines = self.machines()
            were_on = [machine for machine in machines if machine.is_on()]
            self._each(machines, Machine.stop)
            kept = self.folder / "snapshots" / label
            image.remove_tree(kept)
            kept.mkdir(parents=True)
            for machine in machines:
                machine.prepare()
                run(
                    ["cp", "-a", "--reflink=auto", str(machine.folder / "upper"), str(kept / machine.node.name)],
                    timeout_s=1800,
                )
            self._each(were_on, Machine.power_on)
        self._wait_booted(were_on)

    def restore(self, label: str) -> None:
        """Puts the disks of `label` into all nodes and starts them. What they hold now is lost."""
        kept = self.folder / "snapshots" / label
        with self._alone():
            machines = self.machines()
            if not kept.is_dir():
                have = sorted(path.name for path in kept.parent.glob("*"))
                raise LabError(f"lab {self.name} has no snapshot {label!r}; it has {', '.join(have) or 'none'}")
            self._each(machines, Machine.kill)
            self._each(machines, Machine.erase)
            for machine in machines:
                source = str(kept / machine.node.name)
                run(["cp", "-a", "--reflink=auto", source, str(machine.folder / "upper")], timeout_s=1800)
            self._each(machines, Machine.power_on)
        self._wait_booted(machines)

    # --- how ---------------------------------------------------------------------------------------------------

    def _wait_booted(self, machines: Sequence[Machine]) -> None:
        """Without any lock: a plug can be pulled in the middle of a boot."""
        self._each(machines, Machine.wait_booted)

    def _each(self, machines: Sequence[Machine], action: Callable[[Machine], T]) -> list[T]:
        """The results of `action` on all machines at once, in their order. The first complaint is raised at the end."""
        if not machines:
            return []
        from concurrent.futures import ThreadPoolExecutor  # here: `exec`, the most used order, is quicker without it

        with ThreadPoolExecutor(max_workers=len(machines)) as pool:
            return list(pool.map(action, machines))

    def _lock_path(self) -> Path:
        return host.RUN / f"{self.names.prefix}.lock"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with lock(self._lock_path(), notice=lambda: self.say(f"waiting for another order to lab {self.name}")):
            yield

    @contextlib.contextmanager
    def _beside(self, names: Sequence[str]) -> Iterator[None]:
        """Holds these nodes, in one order for all so that two orders never wait for each other."""
        with contextlib.ExitStack() as held:
            held.enter_context(lock(self._lock_path(), shared=True))
            for machine in self.machines(sorted(set(names))):
                held.enter_context(lock(host.RUN / f"{self.names.machine(machine.node.name)}.lock"))
            yield


def default_folders() -> tuple[Path, Path]:
    """Where labs live, and where their cache is."""
    return (
        Path(os.environ.get("PGHA_LAB_DIR", "/var/lib/pgha-lab")).resolve(),
        Path(os.environ.get("PGHA_LAB_CACHE", "/var/cache/pgha-lab")).resolve(),
    )
