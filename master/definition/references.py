"""What a definition only refers to: secrets that come from outside, and files of the master that nodes need.

Both are read each time documents are compiled, so that a secret which was changed where it is kept is a change of the
next plan. No value is ever part of a message.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...common.backup import Remote, Repository
from ...common.cluster import Cluster
from ...common.errors import HostError, UserError
from ...common.secret import Secret
from ..keeping.durable import read_private

KINDS = "env:NAME or file:PATH"


def secrets(cluster: Cluster) -> dict[str, Secret]:
    """Those that the cluster's definition refers to, by the names that documents know them by.

    Raises:
        UserError: one cannot be had; says which key of the definition, and what to do.
    """
    found = {name: resolve(key, reference) for name, (key, reference) in wanted(cluster).items()}
    files = {f"backup/repo{number}-key" for number, one in _repositories(cluster) if one.kind in ("gcs", "sftp")}
    for name, secret in found.items():
        if name not in files and not secret.reveal().isprintable():
            raise UserError(
                f"{wanted(cluster)[name][0]}: expected one line of printable text; correct it where it is kept"
            )
    return found


def wanted(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Name -> (key of the definition, reference)."""
    found: dict[str, tuple[str, str]] = {}
    if cluster.backup is None:
        return found
    if not cluster.backup.encryption.generated:
        found["backup/cipher"] = ("backup.encryption.pass", cluster.backup.encryption.passphrase)
    for number, repository in cluster.backup.repositories:
        for name, reference in cluster.backup.credentials_of(repository).items():
            place = f"backup.{repository.kind}" if repository.given() else "backup"
            found[f"backup/repo{number}-{name}"] = (f"{place}.credentials.{name}", reference)
    return found


def _repositories(cluster: Cluster) -> tuple[tuple[int, Repository], ...]:
    return cluster.backup.repositories if cluster.backup else ()


def paths(cluster: Cluster) -> dict[str, str]:
    """Path -> key of the definition, of the files on the master that it names."""
    return {one.ca: f"backup.{one.kind}.ca" for _, one in _repositories(cluster) if isinstance(one, Remote) and one.ca}


def files(cluster: Cluster) -> dict[str, str]:
    """The text of each file that the definition names, by its path. Raises UserError."""
    return {path: _text(key, path) for path, key in paths(cluster).items()}


def resolve(key: str, reference: str) -> Secret:
    """The secret that `key` of a definition refers to, without the line end that files have. Raises UserError."""
    kind, _, rest = reference.partition(":")
    match kind:
        case "env":
            value = os.environ.get(rest)
            if value is None:
                raise UserError(f"{key}: the master's daemon has no {rest} in its environment; set it, or use {KINDS}")
        case "file":
            value = _private(key, Path(rest))
        case _:
            raise UserError(f"{key}: {kind}: cannot be read yet; use {KINDS}")
    if not value.strip():
        raise UserError(f"{key}: {kind}:{rest} gives nothing; put the secret there, or use {KINDS}")
    return Secret(value.rstrip("\n"))


def _private(key: str, path: Path) -> str:
    try:
        data = read_private(path)
    except HostError as error:
        raise UserError(f"{key}: {error}") from None
    if data is None:
        raise UserError(f"{key}: there is no file {path} on the master; write the secret into it, mode 0600")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{key}: {path} is no UTF-8 text") from None


def _text(key: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"{key}: {path} cannot be read on the master: {reason}") from None
