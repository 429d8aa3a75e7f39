"""The authority: what it signs is decided by the definition, and the strictest verifiers accept it."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pgha.common.cluster import Cluster
from pgha.common.errors import HostError, UserError
from pgha.master.keeping.authority import Authority
from pgha.states.certificates import CertificateSpec, certificate, certificates

CLUSTER = Cluster.model_validate(
    {
        "cluster": "prod",
        "entrypoint": "postgres.example.internal",
        "nodes": [
            {"name": "pg-node1", "address": "10.77.1.11"},
            {"name": "pg-node2", "address": "10.77.2.12"},
            {"name": "witness-node", "address": "10.77.3.13", "role": "witness"},
        ],
    }
)


def authority(tmp_path: Path, passphrase: bytes = b"test") -> Authority:
    return Authority(tmp_path / "pki", "prod", passphrase)


def request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None,
    *names: str,
) -> tuple[bytes, str]:
    """A private key (PEM) and a request that asks for whatever names it likes."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    csr = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, csr.public_bytes(serialization.Encoding.PEM).decode()


def spec(node: str, name: str) -> CertificateSpec:
    found = certificate(CLUSTER, CLUSTER.node(node), name)
    assert found
    return found


def test_names_come_from_the_definition_and_never_from_the_request(tmp_path: Path) -> None:
    _, csr = request(None, "evil.example", "pg-node2")
    pem = authority(tmp_path).sign(csr, spec("pg-node1", "etcd-server"), 90)
    made = x509.load_pem_x509_certificate(pem.encode())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pg-node1", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.77.1.11"),
        ipaddress.ip_address("127.0.0.1"),
    ]
    assert made.subject.rfc4514_string() == "CN=pg-node1"
    usages = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_certificate_is_valid_already_for_a_clock_ten_minutes_behind(tmp_path: Path) -> None:
    _, csr = request()
    made = x509.load_pem_x509_certificate(authority(tmp_path).sign(csr, spec("pg-node1", "patroni-api"), 90).encode())
    now = datetime.now(timezone.utc)
    assert timedelta(minutes=9) < now - made.not_valid_before_utc < timedelta(minutes=11)
    assert timedelta(days=89) < made.not_valid_after_utc - now <= timedelta(days=90)


def test_the_authority_is_the_same_after_a_restart_and_its_key_rests_encrypted(tmp_path: Path) -> None:
    first = authority(tmp_path)
    assert authority(tmp_path).ca_pem == first.ca_pem
    assert authority(tmp_path).ca_fingerprint == first.ca_fingerprint
    assert first.ca_pem != first.client_ca_pem
    for name in ("ca.key", "clients.key"):
        path = tmp_path / "pki" / name
        assert b"ENCRYPTED" in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_crash_between_key_and_certificate_is_healed_on_the_next_start(tmp_path: Path) -> None:
    authority(tmp_path)
    (tmp_path / "pki/ca.crt").unlink()
    _, csr = request()
    assert "CERTIFICATE" in authority(tmp_path).sign(csr, spec("pg-node1", "etcd-server"), 90)


def test_a_lost_key_a_wrong_passphrase_and_a_foreign_certificate_are_told_apart(tmp_path: Path) -> None:
    authority(tmp_path)
    with pytest.raises(HostError, match=r"ca\.key cannot be decrypted"):
        authority(tmp_path, b"other")
    shutil.copy(tmp_path / "pki/clients.crt", tmp_path / "pki/ca.crt")
    with pytest.raises(HostError, match="does not belong to the key"):
        authority(tmp_path)
    (tmp_path / "pki/ca.key").unlink()
    with pytest.raises(HostError, match=r"ca\.key is missing"):
        authority(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    authority(tmp_path)
    (tmp_path / "pki/ca.key").chmod(0o640)
    with pytest.raises(HostError, match="chmod go="):
        authority(tmp_path)


def test_strong_keys_are_accepted(tmp_path: Path) -> None:
    made = authority(tmp_path)
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 3072)):
        assert "CERTIFICATE" in made.sign(request(key)[1], spec("pg-node1", "postgres-server"), 90)


def test_weak_and_unusual_keys_are_refused(tmp_path: Path) -> None:
    made = authority(tmp_path)
    keys = (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP224R1()),
        ed25519.Ed25519PrivateKey.generate(),
    )
    for key in keys:
        with pytest.raises(UserError, match="not accepted"):
            made.sign(request(key)[1], spec("pg-node1", "postgres-server"), 90)


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])
def test_bytes_that_are_no_request_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="no certificate request"):
        authority(tmp_path).sign(text, spec("pg-node1", "etcd-server"), 90)


def test_a_request_signed_by_another_key_is_refused(tmp_path: Path) -> None:
    _, csr = request()
    der = bytearray(x509.load_pem_x509_csr(csr.encode()).public_bytes(serialization.Encoding.DER))
    der[der.index(b"whoever")] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(UserError, match="signature does not fit"):
        authority(tmp_path).sign(forged, spec("pg-node1", "etcd-server"), 90)


def test_an_application_cannot_be_given_a_role_of_pgha(tmp_path: Path) -> None:
    _, csr = request()
    for role in ("replicator", "rewind_user", "pgha_probe", "", "a\nb"):
        with pytest.raises(UserError):
            authority(tmp_path).sign_client(csr, role, 90)


def handshake(ca_of_server: str, server: tuple[Path, Path], ca_of_client: str, client: tuple[Path, Path]) -> str:
    """The client's common name as the server saw it, after a TLS handshake over loopback with strict checks."""
    listener = socket.create_server(("127.0.0.1", 0))
    strict = getattr(ssl, "VERIFY_X509_STRICT", 0)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca_of_client)
    serving.verify_mode = ssl.CERT_REQUIRED
    serving.verify_flags |= strict
    serving.load_cert_chain(*server)
    seen: list[str] = []

    def serve() -> None:
        raw, _ = listener.accept()
        try:
            with serving.wrap_socket(raw, server_side=True) as tls:
                certificate = tls.getpeercert() or {}
                subject = certificate["subject"]
                assert isinstance(subject, tuple)
                seen.append(str(subject[0][0][1]))
                tls.sendall(b"x")
        except ssl.SSLError as error:
            seen.append(f"refused: {error.reason}")
            raw.close()

    thread = threading.Thread(target=serve)
    thread.start()
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=ca_of_server)
    context.verify_flags |= strict
    context.load_cert_chain(*client)
    try:
        with (
            socket.create_connection(listener.getsockname(), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            tls.recv(1)
    except (ssl.SSLError, ConnectionError):
        pass  # the server's verdict, in `seen`, is what counts
    thread.join(10)
    listener.close()
    return seen[0]


def stored(tmp_path: Path, name: str, key: bytes, certificate: str) -> tuple[Path, Path]:
    (tmp_path / f"{name}.key").write_bytes(key)
    (tmp_path / f"{name}.crt").write_text(certificate)
    return tmp_path / f"{name}.crt", tmp_path / f"{name}.key"


def test_a_strict_handshake_works_and_an_applications_certificate_opens_only_postgresql(tmp_path: Path) -> None:
    made = authority(tmp_path)
    key, csr = request()
    server = stored(tmp_path, "server", key, made.sign(csr, spec("pg-node1", "postgres-server"), 90))
    key, csr = request()
    service = stored(tmp_path, "service", key, made.sign(csr, spec("pg-node1", "patroni-etcd"), 90))
    key, csr = request()
    app = stored(tmp_path, "app", key, made.sign_client(csr, "shop", 90))
    postgresql = made.ca_pem + made.client_ca_pem
    assert handshake(made.ca_pem, server, made.ca_pem, service) == "patroni-client"
    assert handshake(made.ca_pem, server, postgresql, app) == "shop"
    assert handshake(made.ca_pem, server, made.ca_pem, app).startswith("refused")


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl program")
def test_openssl_accepts_every_certificate_of_every_node_under_its_strictest_rules(tmp_path: Path) -> None:
    made = authority(tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_text(made.ca_pem)
    for node in CLUSTER.nodes:
        for wanted in certificates(CLUSTER, node):
            path, _ = stored(tmp_path, f"{node.name}-{wanted.name}", b"", made.sign(request()[1], wanted, 90))
            for usage in wanted.usages:
                argv = ["openssl", "verify", "-x509_strict", "-purpose", f"ssl{usage}", "-CAfile", str(ca), str(path)]
                said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
                assert said.returncode == 0, said.stdout + said.stderr


def names(node: str) -> set[str]:
    return {wanted.name for wanted in certificates(CLUSTER, CLUSTER.node(node))}


def test_the_witness_holds_nothing_of_postgresql() -> None:
    assert names("witness-node") == {"etcd-server", "haproxy-client", "pgha-probe"}


def test_a_data_node_holds_one_certificate_for_each_role_that_dials_postgresql() -> None:
    assert names("pg-node1") == {
        "etcd-server",
        "patroni-api",
        "patroni-etcd",
        "postgres-server",
        "postgres-superuser",
        "postgres-replication",
        "postgres-rewind",
        "haproxy-client",
        "pgha-probe",
    }


def test_postgresql_answers_for_every_proxy_since_tls_passes_through_haproxy() -> None:
    sans = spec("pg-node2", "postgres-server").sans
    assert {"postgres.example.internal", "witness-node", "10.77.3.13", "pg-node1", "10.77.1.11", "127.0.0.1"} <= {*sans}
    assert len(sans) == len(set(sans))
    assert certificate(CLUSTER, CLUSTER.node("witness-node"), "postgres-server") is None
