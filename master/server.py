"""The master: store, vault, hub and operations wired together, for the verbs to use. Decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from ..common.clock import SystemClock
from ..common.cluster import Cluster, Node
from ..common.errors import DefinitionError, HostError, UserError
from ..common.facts import HostFacts
from ..common.keys import load_or_create, public_text
from ..common.notify import notify
from ..common.paths import Paths
from ..common.signing import Signer
from ..states.certificates import certificate
from ..states.document import Context
from ..states.resource import AnyResource
from . import resumption
from .adhoc.uploads import Uploads
from .backups.part import WHOLE
from .bus import limits
from .bus.blobs import Blobs
from .bus.hub import Hub
from .bus.rotation import KeyFiles
from .definition import inventory, references
from .health import health
from .keeping import retention
from .keeping.authority import Authority
from .keeping.cluster_secrets import ClusterSecrets
from .keeping.vault import Vault
from .operations.operations import Operations
from .rollout.drifting import Drifts
from .rollout.exchange import halves
from .setup import curve_key_path, load_settings, master_key_path, signing_key_path
from .store import Store
from .userstates import folder as userfolder
from .userstates import python as userpython
from .userstates import states as userstates
from .userstates.states import UserStates

log = logging.getLogger("pgha.master")

WATCHDOG_S = 10.0
TIDY_S, BLOB_S, PENDING_S = 600.0, 3600.0, 7 * 86400.0


class Master:
    """All that the verbs need. One per process."""

    def __init__(self, paths: Paths, died: Callable[[], None] = lambda: None) -> None:
        """`died` is called when a part that all depends on has broken: the process must end.

        Raises UserError when not initialised, HostError when the store or a key cannot be used.
        """
        settings = load_settings(paths)
        self.paths, self.clock = paths, SystemClock()
        self.vault = Vault(master_key_path(paths), paths.state / "secrets")
        self.secrets = ClusterSecrets(self.vault)
        self.store = Store(paths.state / "pgha.db")
        files = KeyFiles(curve_key_path(paths), signing_key_path(paths))
        files.settle()
        keys = load_or_create(files.curve)
        self.fingerprint = public_text(keys.public)
        self.listen = f"{settings.listen}:{settings.port}"
        self.blobs = Blobs(paths.state / "blobs", self.vault)
        self.uploads = Uploads(self.blobs, self.clock)
        self._keep = settings.keep
        self._beside: list[asyncio.Task[None]] = []
        self.hub = Hub(
            self.store,
            self.vault,
            keys,
            Signer(files.signing),
            self.blobs,
            settings.listen,
            settings.port,
            self.clock,
            self.sign,
            died,
            settings.min_protocol,
            files,
        )
        self.operations = Operations(self.store, self.clock)
        self.drifts = Drifts(self)
        self.clusters: dict[str, Cluster] = {}
        self._authorities: dict[str, Authority] = {}
        self._judged: dict[str, health.ClusterHealth] = {}

    async def start(self) -> None:
        await self.hub.open()
        recalled = await resumption.recall(self.store, self.hub.ledger.resume, self.clock.now())
        for name, text in (await self.store.definitions()).items():
            try:
                self.clusters[name] = inventory.load(f"{name}, as it was applied last", text)[0]
            except DefinitionError as error:
                log.error("the definition of %s that was applied last cannot be read any more: %s", name, error)
        await self.hub.start()
        resumption.go_on(self, recalled)
        tidy = retention.keep_tidy(self.store, self.clock, self._keep)
        works = (
            limits.watch(lambda: len(self.hub.accepted())),
            tidy,
            self._tidy(),
            self._watchdog(),
            self.drifts.watch(),
        )
        self._beside = [asyncio.create_task(work) for work in works]

    async def close(self) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self.operations.close()
        await self.hub.close()
        self.store.close()

    async def _watchdog(self) -> None:
        """Tell systemd that this process works, as long as the loop and the threads of bus and store do."""
        while True:
            if self.hub.turning() and self.store.alive:
                notify("WATCHDOG=1")
            await asyncio.sleep(WATCHDOG_S)

    async def _tidy(self) -> None:
        """Files that no job wants any more, and keys that have stopped asking to be let in."""
        while True:
            try:
                now = self.clock.now()
                wanted = self.hub.ledger.blobs() | self.operations.blobs()
                await asyncio.to_thread(self.blobs.keep_only, wanted, now - BLOB_S)
                await self.store.forget_waiting(now - PENDING_S)
            except (HostError, OSError) as error:
                log.error("cannot tidy up: %s", error)
            await asyncio.sleep(TIDY_S)

    # ---- what depends on several of them

    async def remember(self, cluster: Cluster, text: str) -> None:
        """From now on this is the cluster: what `status` judges by and what nodes may have signed."""
        await self.store.note(cluster.name, "definition", text)
        self.clusters[cluster.name] = cluster

    async def definition(self, cluster: str) -> str:
        """The text of the definition that was applied last."""
        return (await self.store.definitions()).get(cluster, "")

    async def applied_whole(self, cluster: str) -> bool:
        """Whether an apply of all documents on all nodes has brought that definition about."""
        notes = await self.store.notes(cluster)
        return notes.get(WHOLE) == inventory.digest(await self.definition(cluster))

    def authority(self, cluster: str) -> Authority:
        if cluster not in self._authorities:
            folder = self.paths.state / "ca" / cluster
            self._authorities[cluster] = Authority(folder, cluster, self.vault.passphrase(f"ca {cluster}"), self.clock)
        return self._authorities[cluster]

    def user_states(self) -> UserStates:
        """As they are now. Raises UserError when their folder cannot be read."""
        return userfolder.discover(self.paths.user_states, userpython.found())

    def compile(
        self, cluster: Cluster, node: Node, facts: HostFacts, notes: dict[str, str], own: UserStates
    ) -> list[AnyResource]:
        """All documents of one node, with its secrets. Raises UserError for what cannot be built on that host."""
        authority = self.authority(cluster.name)
        context = Context(
            cluster=cluster,
            node=node,
            facts=facts,
            secrets={**self.secrets.of(cluster, lived=WHOLE in notes), **references.secrets(cluster)},
            ca_pem=authority.ca_pem,
            client_ca_pem=authority.client_ca_pem,
            etcd_joins=f"etcd_joins:{node.name}" in notes,
            ssh=halves(cluster, notes),
            files=references.files(cluster),
            apt_key=_apt_key(cluster),
        )
        return userstates.compile(own, context)

    def take_over_secrets(self, cluster: Cluster) -> None:
        self.secrets.take_over(cluster)

    async def sign(self, node: str, cluster: str, name: str, csr: str) -> str:
        """The certificate for a node's request, if the definition gives it that one. Raises UserError."""
        known = self.clusters.get(cluster)
        if known is None or node not in {n.name for n in known.nodes}:
            raise UserError(f"{node} is no node of the cluster {cluster}")
        spec = certificate(known, known.node(node), name)
        if spec is None:
            raise UserError(f"{node} may not hold the certificate {name}")
        return await asyncio.to_thread(self.authority(cluster).sign, csr, spec, known.tls.leaf_days)

    def health(self, cluster: Cluster) -> health.ClusterHealth:
        """The newest judgement, from the newest samples."""
        peers = {n.name: self.hub.peers[n.name] for n in cluster.nodes if n.name in self.hub.peers}
        samples = {name: (peer.sampled, peer.sample) for name, peer in peers.items() if peer.sample is not None}
        connected = {node.name: self.hub.connected(node.name) for node in cluster.nodes}
        judged = health.fold(
            cluster, samples, connected, self.clock.monotonic(), previous=self._judged.get(cluster.name)
        )
        self._judged[cluster.name] = judged
        return judged


PGDG_KEYS = ("/etc/pgha/pgdg.asc", "/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc")


def _apt_key(cluster: Cluster) -> str:
    """The armored key of the package source. Raises UserError when it cannot be read on the master."""
    source = cluster.postgresql.source
    if source == "distribution":
        return ""
    for path in PGDG_KEYS if isinstance(source, str) else (source.key,):
        try:
            return Path(path).read_text()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the package source's key {path} cannot be read on the master: {error}") from None
    if isinstance(source, str):
        raise UserError(
            f"postgresql.source: pgdg needs that archive's signing key on the master: put it at {PGDG_KEYS[0]}, "
            "or install the package postgresql-common there, which carries it"
        )
    raise UserError(f"postgresql.source.key: there is no file {source.key} on the master")
