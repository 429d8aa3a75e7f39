"""`pgha-master certs`: which certificates a cluster has, and one for an application.

The private key of a client is made here and stays here: the master sees a request, never a key.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from .options import finish, with_terminal
from .screen import Terminal, moment, table

_ROLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


@click.group("certs")
def command() -> None:
    """List certificates, issue them to clients."""


@command.command("list")
@click.argument("cluster")
@with_terminal
def list_(screen: Terminal, cluster: str) -> None:
    """List the certificates of a cluster, the one that ends first first."""
    from .client import ask

    end = ask("certs.list", {"cluster": cluster}, screen.progress)
    finish(screen, end)
    if screen.as_json:
        screen.document("certs", cluster, end.data)
        return
    found: Any = end.data.get("certificates") or []  # Any: JSON as the daemon sent it
    rows = [_row(row) for row in sorted(found, key=lambda row: (row.get("not_after") is None, row.get("not_after")))]
    if not rows:
        screen.result(f"No node of {cluster} has reported a certificate yet.")
        return
    screen.result(*table(("NODE", "PATH", "COMMON NAME", "ENDS", "DAYS"), rows, screen.look_out.width, ("ENDS",)))


def _row(row: Any) -> tuple[str, ...]:  # Any: JSON as the daemon sent it
    days = row.get("days")
    name, path = str(row.get("common_name") or "-"), str(row.get("path", "-"))
    return str(row.get("node", "-")), path, name, moment(row.get("not_after")), "-" if days is None else str(days)


@command.command("client")
@click.argument("cluster")
@click.argument("name")
@click.option("--out", default=".", metavar="DIR", help="Where to write NAME.crt, NAME.key and ca.crt.")
@with_terminal
def client(screen: Terminal, cluster: str, name: str, out: str) -> None:
    """Issue a client certificate for the PostgreSQL role NAME.

    Writes NAME.key (0600), NAME.crt and ca.crt into DIR. A NAME.key that is there already is kept and used again.
    """
    from ...common.errors import UserError
    from .client import ask

    folder = Path(out)
    if not _ROLE.fullmatch(name):
        raise UserError(
            f"'{name}' cannot be the name of a role and of a file. "
            "Use letters, digits, '_', '.' and '-', a letter, a digit or '_' first, at most 63 in all."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        csr = _request_for(folder / f"{name}.key", name)
        end = ask("certs.client", {"cluster": cluster, "name": name, "csr": csr}, screen.progress)
        finish(screen, end)
        _write(folder / f"{name}.crt", str(end.data["certificate"]).encode(), 0o644)
        _write(folder / "ca.crt", str(end.data["ca"]).encode(), 0o644)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}.") from None
    if screen.as_json:
        files = {"key": f"{name}.key", "certificate": f"{name}.crt", "ca": "ca.crt"}
        entry = {key: end.data.get(key) for key in ("hosts", "port")}
        screen.document("certs.client", cluster, {**{key: str(folder / file) for key, file in files.items()}, **entry})
        return
    screen.progress(f"Written to {folder}: {name}.key (0600), {name}.crt, ca.crt. Connect with:")
    found: Any = end.data["hosts"]  # Any: JSON as the daemon sent it
    entry_ = f"host={','.join(found)} port={end.data['port']} dbname=postgres user={name}"
    files_ = f"sslrootcert={folder}/ca.crt sslcert={folder}/{name}.crt sslkey={folder}/{name}.key"
    screen.result(f'psql "{entry_} sslmode=verify-full target_session_attrs=read-write {files_}"')


def _request_for(path: Path, name: str) -> str:
    """A signing request in PEM for the key at `path`, which is made if it is not there. Raises UserError, OSError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    from ...common.errors import UserError

    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            raise UserError(f"{path} is there and holds no key that can be read: move it away.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UserError(f"{path} is there and is no EC key: move it away.")
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        _write(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), 0o600)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _write(path: Path, content: bytes, mode: int) -> None:
    """Writes by rename, with the mode set before there is content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
