"""What is wanted of backups: where they are kept, how often they are made, how long they stay, and how they are proved.

Repositories are numbered as `repositories` lists them: those in a cloud first, then those on a host of the cluster's
own. The number is only what the tool calls them by; a backup does not know it.
"""

from __future__ import annotations

import base64
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from .fields import Bytes, Port, Seconds, Section, one_or_many
from .names import NodeName

BackupType = Literal["full", "diff", "incr"]
BACKUP_TYPES: tuple[BackupType, ...] = ("full", "diff", "incr")

Reference = Annotated[str, StringConstraints(pattern=r"^(env|file|exec|vault|sops):.+$")]
OneLine = Annotated[str, StringConstraints(pattern=r"^[^\s'\"]+$")]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\s'\"]*$")]
Calendar = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 *,./:~-]+$")]


class Retention(Section):
    """How many fulls and differentials stay. `archive`: fulls for which all WAL stays; None: as many as `full`."""

    full: Annotated[int, Field(ge=1)] = 2
    diff: Annotated[int, Field(ge=1)] = 6
    archive: Annotated[int, Field(ge=1)] | None = None


class Repository(Section):
    """`retention` None: that of the whole section."""

    kind: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()  # credentials without which it cannot be reached

    path: AbsolutePath = "/"
    retention: Retention | None = None

    @property
    def node(self) -> str:
        """The node that holds it, empty when it is in a cloud or on somebody else's host."""
        return ""

    def given(self) -> dict[str, str]:
        """Its own credentials, as references."""
        held: dict[str, str] = getattr(self, "credentials", {})
        return held


class Remote(Repository):
    """One that is reached over TLS. `ca`: a file on the master with the authority that its certificate comes from."""

    endpoint: OneLine | None = None  # None: the provider's own
    port: Port = 443
    uri_style: Literal["host", "path"] = "host"
    ca: AbsolutePath | None = None
    verify_tls: bool = True


class S3(Remote):
    """Without credentials those of the host's role are used (`repo-s3-key-type=auto`)."""

    kind: ClassVar[str] = "s3"

    bucket: OneLine
    region: OneLine = "us-east-1"
    credentials: dict[Literal["key", "secret", "token"], Reference] = Field(default_factory=dict)


class Azure(Remote):
    kind: ClassVar[str] = "azure"
    needs: ClassVar[tuple[str, ...]] = ("key",)

    container: OneLine
    account: OneLine
    credentials: dict[Literal["key"], Reference] = Field(default_factory=dict)


class Gcs(Remote):
    """`key` is a service account's JSON. Without it the host's own account is used."""

    kind: ClassVar[str] = "gcs"

    bucket: OneLine
    credentials: dict[Literal["key"], Reference] = Field(default_factory=dict)


def _in_hex(fingerprint: object) -> object:
    """`SHA256:BASE64`, as ssh-keygen -l writes it, as hex; all else as it is."""
    try:
        if isinstance(fingerprint, str) and fingerprint.startswith("SHA256:"):
            return base64.b64decode(fingerprint[7:] + "=", validate=True).hex()
    except ValueError:
        pass  # the pattern refuses it
    return fingerprint


class Sftp(Repository):
    """`key` is a private key. `host_fingerprint`: SHA-256 of the server's public key, hex; `SHA256:...` is taken, too.

    Of several keys a server shows libssh2 its ECDSA key.
    """

    kind: ClassVar[str] = "sftp"
    needs: ClassVar[tuple[str, ...]] = ("key",)

    host: OneLine
    port: Port = 22
    user: OneLine
    host_fingerprint: Annotated[str, BeforeValidator(_in_hex), StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    credentials: dict[Literal["key"], Reference] = Field(default_factory=dict)


class Posix(Repository):
    """In a folder of node `on`, which the others reach by the tool's own TLS."""

    kind: ClassVar[str] = "posix"

    on: NodeName
    path: AbsolutePath = "/var/lib/pgbackrest"

    @property
    def node(self) -> str:
        return self.on


class Encryption(Section):
    """`pass`: what opens the backups; made by pgha unless it is a reference."""

    cipher: Literal["aes-256-cbc", "none"] = "aes-256-cbc"
    passphrase: Annotated[Literal["generated"] | Reference, Field(alias="pass")] = "generated"  # noqa: S105

    @property
    def generated(self) -> bool:
        return self.passphrase == "generated"  # noqa: S105


class Schedule(Section):
    """systemd calendar expressions; None: never by itself."""

    full: Calendar | None = "Sun 02:00"
    diff: Calendar | None = "Mon..Sat 02:00"
    incr: Calendar | None = None
    timezone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]+$")] = "UTC"

    def due(self) -> dict[BackupType, str]:
        """Type -> calendar expression with its time zone, of those that run by themselves."""
        wanted: dict[BackupType, str | None] = {"full": self.full, "diff": self.diff, "incr": self.incr}
        return {kind: f"{when} {self.timezone}" for kind, when in wanted.items() if when}


class Drill(Section):
    """A restore for the proof, on node `on` (None: where backups are made); `every` None: never by itself."""

    every: Seconds | None = 7 * 86400.0
    on: NodeName | None = None
    at: Calendar = "04:00"


class Backup(Section):
    driver: Literal["pgbackrest"] = "pgbackrest"
    s3: Annotated[tuple[S3, ...], BeforeValidator(one_or_many)] = ()
    azure: Annotated[tuple[Azure, ...], BeforeValidator(one_or_many)] = ()
    gcs: Annotated[tuple[Gcs, ...], BeforeValidator(one_or_many)] = ()
    sftp: Annotated[tuple[Sftp, ...], BeforeValidator(one_or_many)] = ()
    posix: Annotated[tuple[Posix, ...], BeforeValidator(one_or_many)] = ()
    credentials: dict[Literal["key", "secret", "token"], Reference] = Field(
        default_factory=dict
    )  # of repositories that have none of their own
    encryption: Encryption = Encryption()
    schedule: Schedule = Schedule()
    retention: Retention = Retention()
    source: Annotated[Literal["prefer-standby", "primary"], Field(alias="from")] = "prefer-standby"
    compress: Literal["zst", "lz4", "gz", "bz2", "none"] = "zst"
    process_max: Annotated[int, Field(ge=1, le=999)] | None = None  # None: half the node's processors
    archive_async: bool = True
    archive_push_queue_max: Bytes | None = None  # None: WAL is never dropped
    archive_timeout: Seconds = 60.0
    max_age: Seconds = 26 * 3600.0
    port: Port = 8432  # of the tool's own TLS server
    drill: Drill = Drill()

    @cached_property
    def repositories(self) -> tuple[tuple[int, Repository], ...]:
        """(number, repository), numbers from 1."""
        return tuple(enumerate((*self.s3, *self.azure, *self.gcs, *self.sftp, *self.posix), start=1))

    def numbers_at(self, node: str) -> tuple[int, ...]:
        """Those that are in folders of that node; of "": those that are on none."""
        return tuple(number for number, repository in self.repositories if repository.node == node)

    def operated_at(self, node: str, *, data: bool) -> tuple[int, ...]:
        """Those to which backups are made from that node: those it holds; from a data node those in clouds, too.

        A tool makes backups only where it reaches the repository itself.
        """
        return (*(self.numbers_at("") if data else ()), *self.numbers_at(node))

    def has_part(self, node: str, *, data: bool) -> bool:
        """Whether that node has the tool: it has a database or a repository, or a restore is proved there."""
        return data or bool(self.numbers_at(node)) or self.drill.on == node

    def reached_from(self, node: str, *, data: bool) -> tuple[int, ...]:
        """Those that are configured on that node: all where restores may be made, else those it holds."""
        if data or self.drill.on == node:
            return tuple(number for number, _ in self.repositories)
        return self.numbers_at(node)

    def credentials_of(self, repository: Repository) -> dict[str, str]:
        """References by name: its own, else the section's, as far as it takes them."""
        own = repository.given()
        if own or not hasattr(repository, "credentials"):
            return own
        takes = {"s3": ("key", "secret", "token")}.get(repository.kind, ("key",))
        return {name: value for name, value in self.credentials.items() if name in takes}

    def retention_of(self, repository: Repository) -> Retention:
        return repository.retention or self.retention
