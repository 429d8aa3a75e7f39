"""A repository as pgBackRest's file has it: one function from the definition to its options, without `repoN-`.

Source: pgBackRest 2.55, configuration reference, repository options.
"""

from __future__ import annotations

from ...common.backup import S3, Azure, Backup, Gcs, Remote, Repository, Sftp
from ...common.cluster import Cluster
from ...common.errors import UserError
from ...common.facts import HostFacts
from ..certificates import PGBACKREST_TLS

FOLDER = "/etc/pgbackrest"
Options = dict[str, str | int]
BUNDLES, BLOCKS, SFTP = (2, 39), (2, 46), (2, 46)  # the first version with it. Source: pgBackRest's release notes
NEWEST = (2, 55)
OLDER = {("ubuntu", "22.04"): (2, 37), ("debian", "12"): (2, 45), ("ubuntu", "24.04"): (2, 50)}
"""What systems carry themselves that is older than NEWEST."""


def version_on(cluster: Cluster, facts: HostFacts) -> tuple[int, int]:
    """At least this version is there."""
    own = cluster.postgresql.source != "pgdg"
    return OLDER.get((facts.os_id, facts.os_version), NEWEST) if own else NEWEST


def repository_options(
    backup: Backup, node: str, number: int, repository: Repository, version: tuple[int, int]
) -> Options:
    """On that node, for that version of pgBackRest; what is secret is a `{{mark}}`.

    Raises:
        UserError: that version does not know the kind of repository.
    """
    if repository.kind == "sftp" and version < SFTP:
        raise UserError(
            f"backup.sftp needs pgBackRest {_spelt(SFTP)}, and this system carries {_spelt(version)}; set "
            "postgresql.source: pgdg, or have the repository elsewhere"
        )
    cipher: Options = {}
    if backup.encryption.cipher != "none":
        cipher = {"cipher-type": backup.encryption.cipher, "cipher-pass": f"{{{{cipher{number}}}}}"}
    if repository.node not in ("", node):
        # `info` over several does not ask the host of one for its cipher: pgBackRest 2.55.1, seen
        return {"host": repository.node, "host-type": "tls", "host-port": backup.port, **tls("host"), **cipher}
    kept = backup.retention_of(repository)
    options: Options = {
        "type": repository.kind,
        "path": repository.path,
        **_place(number, repository, backup),
        "retention-full": kept.full,
        "retention-diff": kept.diff,
    }
    if version >= BUNDLES:
        options["bundle"] = "y"
    if version >= BLOCKS:
        options["block"] = "y"
    if kept.archive is not None:
        options["retention-archive"] = kept.archive
    return options | cipher


def _place(number: int, repository: Repository, backup: Backup) -> Options:
    given = set(backup.credentials_of(repository))
    marks = {name: f"{{{{repo{number}-{name}}}}}" for name in given}
    match repository:
        case S3():
            keys = {"s3-key": "key", "s3-key-secret": "secret", "s3-token": "token"}
            options: Options = {
                "s3-bucket": repository.bucket,
                "s3-region": repository.region,
                "s3-endpoint": repository.endpoint or f"s3.{repository.region}.amazonaws.com",
                "s3-uri-style": repository.uri_style,
                **({} if given else {"s3-key-type": "auto"}),
                **{option: marks[name] for option, name in keys.items() if name in given},
            }
            return options | _storage(number, repository)
        case Azure():
            options = {
                "azure-container": repository.container,
                "azure-account": repository.account,
                "azure-key": marks["key"],
                "azure-uri-style": repository.uri_style,
            }
            if repository.endpoint:
                options["azure-endpoint"] = repository.endpoint
            return options | _storage(number, repository)
        case Gcs():
            options = {"gcs-bucket": repository.bucket, "gcs-key-type": "service" if given else "auto"}
            if given:
                options["gcs-key"] = key_file(number)
            if repository.endpoint:
                options["gcs-endpoint"] = repository.endpoint
            return options | _storage(number, repository)
        case Sftp():
            return {
                "sftp-host": repository.host,
                "sftp-host-port": repository.port,
                "sftp-host-user": repository.user,
                "sftp-private-key-file": key_file(number),
                "sftp-host-key-hash-type": "sha256",
                "sftp-host-key-check-type": "fingerprint",
                "sftp-host-fingerprint": repository.host_fingerprint,
            }
        case _:
            return {}


def _storage(number: int, repository: Remote) -> Options:
    options: Options = {"storage-port": repository.port} if repository.port != 443 else {}
    if repository.ca:
        options["storage-ca-file"] = ca_file(number)
    if not repository.verify_tls:
        options["storage-verify-tls"] = "n"
    return options


def key_file(number: int) -> str:
    return f"{FOLDER}/repo{number}.key"


def ca_file(number: int) -> str:
    return f"{FOLDER}/repo{number}-ca.crt"


def tls(prefix: str) -> Options:
    return {
        f"{prefix}-ca-file": f"{PGBACKREST_TLS}/ca.crt",
        f"{prefix}-cert-file": f"{PGBACKREST_TLS}/pgbackrest.crt",
        f"{prefix}-key-file": f"{PGBACKREST_TLS}/pgbackrest.key",
    }


def _spelt(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
