"""The certificate authorities of one cluster: one for its own services, one for the applications that use it.

Rules:
1. Of a request only the public key is used, once its signature proves that the sender holds the private one. Names,
   addresses and usages come from `states/certificates.py`.
2. An application's certificate comes from the second authority, which only PostgreSQL trusts: it opens neither etcd
   nor Patroni's REST API.
3. The authorities' keys are made here on first use, rest encrypted, and never leave.

Every certificate passes strict RFC 5280 checks (`openssl verify -x509_strict`, Python 3.13's default context).
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ...common.clock import Clock, SystemClock
from ...common.errors import HostError, UserError
from ...states.certificates import PROBE, REPLICATION, REWIND, CertificateSpec
from .durable import read_private, write

CA_DAYS = 3650
_BACK = timedelta(minutes=10)  # a node whose clock is behind must accept a certificate made this moment
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_RESERVED = {PROBE, REPLICATION, REWIND}


class Authority:
    """`directory` is this cluster's alone and holds {ca,clients}.{key,crt}; `passphrase` encrypts the keys.

    Raises:
        HostError: a key that cannot be decrypted, is open to others, or is missing while its certificate is there.
    """

    def __init__(self, directory: Path, cluster: str, passphrase: bytes, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._services = _Issuer(directory, "ca", f"pgha cluster {cluster}", passphrase, self._clock)
        self._clients = _Issuer(directory, "clients", f"pgha clients of {cluster}", passphrase, self._clock)

    @property
    def ca_pem(self) -> str:
        """The certificate by which services, and the clients of PostgreSQL, know the cluster."""
        return self._services.pem

    @property
    def client_ca_pem(self) -> str:
        """The certificate by which PostgreSQL knows its applications."""
        return self._clients.pem

    @property
    def ca_fingerprint(self) -> str:
        """SHA-256 of the services' authority, DER, in lower-case hex."""
        return self._services.certificate.fingerprint(hashes.SHA256()).hex()

    def sign(self, csr_pem: str, spec: CertificateSpec, days: int) -> str:
        """A certificate (PEM) for the request's key, with the names and usages of `spec`.

        Raises:
            UserError: no request, a signature that does not fit, or a key that is too weak.
        """
        return self._services.issue(_public_key(csr_pem), spec.common_name, spec.sans, spec.usages, days)

    def sign_client(self, csr_pem: str, common_name: str, days: int) -> str:
        """A certificate (PEM) for an application that logs in as role `common_name`.

        Raises:
            UserError: as `sign`, or a role that is pgha's own.
        """
        if common_name in _RESERVED:
            raise UserError(f"{common_name} is a role of pgha's own; its certificates are made on the nodes only")
        if not common_name.isprintable() or not 0 < len(common_name) <= 63:
            raise UserError("the name of a role has 1 to 63 printable characters")
        return self._clients.issue(_public_key(csr_pem), common_name, (), ("client",), days)


class _Issuer:
    def __init__(self, directory: Path, basename: str, name: str, passphrase: bytes, clock: Clock) -> None:
        self._clock = clock
        self._key = _own_key(directory / f"{basename}.key", directory / f"{basename}.crt", passphrase)
        self.certificate = self._own_certificate(directory / f"{basename}.crt", name)
        self.pem = _pem(self.certificate)

    def issue(
        self,
        public_key: CertificatePublicKeyTypes,
        common_name: str,
        sans: tuple[str, ...],
        usages: tuple[str, ...],
        days: int,
    ) -> str:
        builder = self._builder(_name(common_name), self.certificate.subject, public_key, days)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(leaf_of=public_key), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGES[usage] for usage in usages]), critical=False)
        )
        if sans:
            names = x509.SubjectAlternativeName([_general_name(text) for text in sans])
            builder = builder.add_extension(names, critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def _own_certificate(self, path: Path, name: str) -> x509.Certificate:
        if not path.exists():
            subject = _name(name)
            public_key = self._key.public_key()
            builder = (
                self._builder(subject, subject, public_key, CA_DAYS)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_key_usage(leaf_of=None), critical=True)
            )
            write(path, _pem(builder.sign(self._key, hashes.SHA256())).encode(), 0o644, once=True)
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise HostError(f"{path} is no certificate that can be read ({error}); restore it from backup") from error
        if certificate.public_key() != self._key.public_key():
            raise HostError(f"{path} does not belong to the key beside it; restore both from the same backup")
        return certificate

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, public_key: CertificatePublicKeyTypes, days: int
    ) -> x509.CertificateBuilder:
        now = datetime.fromtimestamp(int(self._clock.now()), timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACK)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _own_key(path: Path, certificate: Path, passphrase: bytes) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        if certificate.exists():
            raise HostError(f"{path} is missing, but {certificate} is there; restore the key from backup")
        encryption = serialization.BestAvailableEncryption(passphrase)
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        write(path, pem, 0o600, once=True)
    try:
        loaded = serialization.load_pem_private_key(read_private(path) or b"", passphrase)
    except (ValueError, TypeError) as error:
        raise HostError(
            f"{path} cannot be decrypted: damaged, or encrypted under another master key;"
            " restore it and the master key from the same backup"
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise HostError(f"{path} is no elliptic-curve key, so pgha did not make it; restore it from backup")
    return loaded


def _public_key(csr_pem: str) -> CertificatePublicKeyTypes:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        genuine = request.is_signature_valid
        key = request.public_key()
    except Exception as error:  # the library's own errors for hostile bytes are many; each means the same here
        raise UserError(f"this is no certificate request that can be read: {error}") from error
    if not genuine:
        raise UserError("the request's signature does not fit its key; make a new request")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 3072:
        return key
    raise UserError("the request's key is not accepted: use EC P-256, EC P-384, or RSA of 3072 bits or more")


def _key_usage(leaf_of: CertificatePublicKeyTypes | None) -> x509.KeyUsage:
    """Of an authority (None), or of a leaf with that key: RSA may also carry the key exchange of TLS 1.2."""
    authority = leaf_of is None
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=isinstance(leaf_of, rsa.RSAPublicKey),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
