"""Until when the certificates on this node are good. Only certificates are read, never a key."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from ...common.telemetry import MEMBER_LIMIT, CertificateSample
from ...states.system import Look

DIRECTORIES = ("/etc/etcd/tls", "/etc/patroni/tls", "/etc/haproxy/tls", "/etc/pgha/tls")


def probe(look: Look) -> tuple[CertificateSample, ...]:
    """One entry per *.crt, the first certificate of each file; the CA's own among them."""
    paths = [f"{d}/{name}" for d in DIRECTORIES for name in look.names(d) if name.endswith(".crt")]
    return tuple(read(path, look.file(path).content) for path in paths[:MEMBER_LIMIT])


def read(path: str, pem: str | None) -> CertificateSample:
    """Name and end of a PEM certificate; without `not_after` when the text is none."""
    try:
        certificate = x509.load_pem_x509_certificate((pem or "").encode())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return CertificateSample(path=path)
    common_name = str(names[0].value) if names else ""
    return CertificateSample(path=path, common_name=common_name, not_after=certificate.not_valid_after_utc.timestamp())
