"""Keys and certificates of this host: made here, looked at here. A key's text leaves this module only into its file."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..common.errors import ActionFailed
from ..states.system import CertificateFacts

_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}


def make(common_name: str) -> tuple[str, str]:
    """A fresh EC P-256 key as PKCS8, which etcd, OpenSSL, libpq and HAProxy all read, and a request that names it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode(), request.public_bytes(Encoding.PEM).decode()


def check(cert_pem: str, key_pem: str) -> None:
    """Raises ActionFailed when the certificate is not of this key."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem.encode())
    except ValueError:
        raise ActionFailed("what the master sent back is no certificate; see the master's log") from None
    if _public(certificate) != _public_of(key_pem.encode()):
        raise ActionFailed("the master signed another key than this host's; nothing was written, apply again")


def look(cert_path: str, key_path: str, ca_path: str, bundle_path: str = "") -> CertificateFacts:
    """Facts of a certificate; what is missing or damaged counts as absent."""
    pem, key = _read(cert_path), _read(key_path)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = _names(certificate)
        usages = _usages(certificate)
    except (ValueError, UnsupportedAlgorithm):
        return CertificateFacts()
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertificateFacts(
        found=True,
        common_name=str(common[0].value) if common else "",
        not_after=_not_after(certificate),
        sans=names,
        usages=usages,
        ca_fingerprint=_authority(certificate, ca_path),
        key_matches=_public(certificate) == _public_of(key),
        bundle_matches=bool(bundle_path) and _read(bundle_path) == pem + key,
    )


def _not_after(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses: list[ipaddress._BaseAddress] = names.get_values_for_type(x509.IPAddress)  # type: ignore[assignment]
    return tuple(sorted({*names.get_values_for_type(x509.DNSName), *map(str, addresses)}))


def _usages(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(sorted(_USAGES.get(usage, usage.dotted_string) for usage in usages))


def _authority(certificate: x509.Certificate, ca_path: str) -> str:
    try:
        ca = x509.load_pem_x509_certificate(_read(ca_path))
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return ""
    return ca.fingerprint(hashes.SHA256()).hex()


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_of(key_pem: bytes) -> bytes:
    """The DER of the public half, empty for what is no key."""
    try:
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return b""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
