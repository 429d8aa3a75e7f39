"""The closed set of things that can be done to a host, as inert values.

A resource plans actions; one interpreter, `System.perform`, carries them out. So a dry run, the audit log and a test
see the same value as the host, and a plan cannot write because the planning half of System cannot perform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..common.secret import Secret

MARK = re.compile(r"\{\{([A-Za-z0-9_./-]+)\}\}")


def rendered(content: str, secrets: Iterable[tuple[str, Secret]]) -> str:
    """The content with each `{{name}}` mark of a known secret replaced by its text; other marks stay as they are."""
    known = dict(secrets)
    if not known:
        return content
    return MARK.sub(lambda mark: known[mark[1]].reveal() if mark[1] in known else mark[0], content)


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Replace a file whole: temporary file, owner and mode, fsync, `check`, rename; the old version is kept once.

    Folders that are missing above it are made, root:root 0755.

    `content` may hold `{{name}}` marks, replaced from `secrets` at the last moment.
    `check` is an argv in which `%s` stands for the temporary file; non-zero leaves the old file in place.
    """

    path: str
    content: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    check: tuple[str, ...] = ()
    secrets: tuple[tuple[str, Secret], ...] = ()


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class MakeSymlink:
    path: str
    target: str


@dataclass(frozen=True, slots=True)
class SetAttributes:
    path: str
    owner: str
    group: str
    mode: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file, or a directory with all that is in it when `tree`."""

    path: str
    tree: bool = False


@dataclass(frozen=True, slots=True)
class InstallPackages:
    """One apt transaction, no service started by it (a policy-rc.d that says 101 while it runs).

    A name may be `NAME=VERSION`. `options` are further ones of apt-get install.
    """

    names: tuple[str, ...]
    recommends: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpgradePackages:
    """Refresh the package lists, then upgrade what is installed. Never removes a package.

    `scope`: `security` takes only what a *-security archive offers, `all` takes everything.
    """

    scope: str
    hold: tuple[str, ...] = ()  # packages left as they are: database, etcd, proxy


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd verb: start stop restart reload enable disable mask unmask daemon-reload."""

    verb: str
    name: str = ""
    wait: bool = True  # False: --no-block, for units that wait for their peers


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program. `stdin` may hold secrets; argv never does.

    `busy`: exit codes that say another one is at work; it is begun anew until that has ended or `timeout_s` is over.
    """

    argv: tuple[str, ...]
    stdin: Secret | None = None
    user: str = "root"
    timeout_s: float = 60.0
    busy: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Make a key here (never leaves the host), have the master sign it, write key and certificates.

    `name` is the certificate's name in the definition of the cluster; what goes into it is the master's decision.
    The key is OWNER:GROUP 0640, the certificate 0644, the bundle root:root 0600.
    """

    name: str
    cluster: str
    directory: str
    basename: str
    owner: str
    group: str
    common_name: str = ""
    bundle: bool = False  # also BASENAME.pem with certificate and key, for HAProxy


@dataclass(frozen=True, slots=True)
class PatchPatroni:
    """PATCH Patroni's dynamic configuration through the local REST API. `patch` is JSON."""

    patch: str


@dataclass(frozen=True, slots=True)
class PostPatroni:
    """POST to the local Patroni's REST API, such as /restart; it answers when that is done. `body` is JSON."""

    path: str
    body: str
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RunSql:
    """Run statements as the local superuser over the Unix socket. They may hold secrets, so they go by stdin."""

    database: str
    statements: Secret


@dataclass(frozen=True, slots=True)
class Greeting:
    """A service of this host that speaks first: what it says on a connection begins so."""

    host: str
    port: int
    begins: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Guarded:
    """Confirm or revert: arm a timer that runs `revert`, perform `actions`, ask the master over a new connection.

    Confirmed: the timer is disarmed. Not confirmed within `confirm_s`: reverted and reported as failed.
    `revert` is a list of programs run one after the other, whatever became of the one before. `prepare` is done
    before the timer is armed; it makes what `revert` needs and must itself change nothing that can cut the node off.
    Of `greets`, what answered before must answer afterwards, and if none of them did, one of them; or it is reverted.
    """

    actions: tuple[Action, ...]
    revert: tuple[tuple[str, ...], ...]
    confirm_s: float = 30.0
    prepare: tuple[Action, ...] = ()
    greets: tuple[Greeting, ...] = ()


Action = (
    WriteFile
    | MakeDirectory
    | MakeSymlink
    | SetAttributes
    | Remove
    | InstallPackages
    | UpgradePackages
    | Unit
    | Run
    | IssueCertificate
    | PatchPatroni
    | PostPatroni
    | RunSql
    | Guarded
)

__all__ = [
    "Action",
    "Greeting",
    "Guarded",
    "InstallPackages",
    "IssueCertificate",
    "MakeDirectory",
    "MakeSymlink",
    "PatchPatroni",
    "PostPatroni",
    "Remove",
    "Run",
    "RunSql",
    "SetAttributes",
    "Unit",
    "UpgradePackages",
    "WriteFile",
    "rendered",
]
