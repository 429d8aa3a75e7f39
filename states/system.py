"""System: the only door to the operating system. One half looks and cannot change anything, the other performs.

Resources get a `Look`; only the engine holds a `System`. The real one is `minion/host.py`, the simulated one
`states/testing.py`. Absence is a fact here, never an exception; what raises is a host that cannot be asked at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from .action import Action


@dataclass(frozen=True, slots=True)
class FileFacts:
    """`content` is None for what is no regular file, is not UTF-8, or is larger than 1 MiB."""

    kind: Literal["absent", "file", "directory", "symlink", "other"] = "absent"
    content: str | None = None
    owner: str = ""
    group: str = ""
    mode: int = 0
    target: str = ""  # of a symlink
    mtime: float = 0.0


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """systemd's words. `started_at` is Unix time of the last activation, 0.0 when not active."""

    load: str = "not-found"  # loaded, not-found, masked
    active: str = "inactive"  # active, inactive, failed, activating
    enabled: str = ""  # enabled, disabled, static, masked
    started_at: float = 0.0
    needs_daemon_reload: bool = False
    condition_met: bool = True  # False: a Condition in the unit kept it from starting


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """A certificate and its key as they lie on the host; nothing of the key but that it belongs to the certificate.

    `found` is False when there is no certificate or it cannot be read as one; the other values are then empty.
    `not_after` is Unix time. `sans` are DNS names and addresses as text, sorted; `usages` of server, client, sorted.
    `ca_fingerprint`: SHA-256, hex, of the DER of the authority at `ca_path` if that one signed it, else empty.
    """

    found: bool = False
    common_name: str = ""
    not_after: float = 0.0
    sans: tuple[str, ...] = ()
    usages: tuple[str, ...] = ()
    ca_fingerprint: str = ""
    key_matches: bool = False
    bundle_matches: bool = False  # the bundle holds this certificate and this key


@dataclass(frozen=True, slots=True)
class Output:
    """What a program said. A program that is not installed has rc 127."""

    rc: int
    stdout: str = ""
    stderr: str = ""


class Look(Protocol):
    """The half that only reads."""

    def file(self, path: str) -> FileFacts: ...

    def attributes(self, path: str) -> FileFacts:
        """As `file`, but the content is never read: for keys."""
        ...

    def certificate(self, cert_path: str, key_path: str, ca_path: str, bundle_path: str = "") -> CertificateFacts: ...

    def packages(self, names: tuple[str, ...]) -> dict[str, str | None]:
        """Installed version by name, None for what is not installed."""
        ...

    def unit(self, name: str) -> UnitFacts: ...

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        """Run a program that only reads. The caller vouches for that."""
        ...

    def patroni(self, path: str) -> tuple[int, str]:
        """GET a path of the local Patroni REST API: HTTP status and body; (0, why) when nobody answers."""
        ...

    def http(self, url: str, timeout_s: float = 2.0) -> tuple[int, str]:
        """GET a plain http URL on loopback: HTTP status and body, at most 4 MiB; (0, why) when nobody answers."""
        ...

    def unix_socket(self, path: str, text: str, timeout_s: float = 2.0) -> str | None:
        """Send one text over a Unix stream socket and read until the peer closes, at most 4 MiB; None: no answer."""
        ...

    def names(self, directory: str) -> tuple[str, ...]:
        """Names in a directory, sorted; empty when there is no such directory."""
        ...

    def sql(self, database: str, query: str) -> Output:
        """Query as the local superuser; rows as lines, columns separated by a tab. rc 2: no server."""
        ...

    def container(self) -> str:
        """systemd-detect-virt -c: "none", or the kind of container this is."""
        ...

    def now(self) -> float: ...


class System(Look, Protocol):
    def perform(self, action: Action) -> None:
        """Carry out one action. Raises ActionFailed with what the program said."""
        ...
