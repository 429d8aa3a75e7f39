"""haproxy.cfg: the same on every node, and accepted by the program itself."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pgha.states.document import Context
from pgha.states.documents.haproxy import CONFIG, DROP_IN, KEEPER, KEPT, SOCKET, build, configuration
from pgha.states.resources.files import File
from pgha.states.resources.service import Service

Build = Callable[..., Context]


def text(context: Context) -> str:
    return file(context).content


def file(context: Context, path: str = CONFIG) -> File:
    found = next(r for r in build(context) if r.key() == path)
    assert isinstance(found, File)
    return found


def test_the_file_is_the_same_on_every_node(context_of: Build) -> None:
    assert len({text(context_of(node)) for node in ("pg-node1", "pg-node2", "witness-node")}) == 1


def test_only_data_nodes_are_servers_and_each_must_prove_its_name(context_of: Build) -> None:
    servers = [line.strip() for line in text(context_of()).splitlines() if line.strip().startswith("server ")]
    assert servers == 2 * [
        "server pg-node1 10.77.1.11:5432 check-sni pg-node1 verifyhost pg-node1",
        "server pg-node2 10.77.2.12:5432 check-sni pg-node2 verifyhost pg-node2",
    ]


def test_writes_ask_for_the_primary_and_reads_for_a_replica(context_of: Build) -> None:
    found = text(context_of())
    writes, reads = found.index("\nbackend pg_primary_nodes"), found.index("\nbackend pg_replica_nodes")
    assert writes < found.index("OPTIONS /primary") < reads < found.index("OPTIONS /replica")
    assert found.count("on-marked-down shutdown-sessions") == 2
    assert found.count("verify required") == 2


def test_writes_are_refused_while_two_servers_count_as_primary(context_of: Build) -> None:
    assert "tcp-request connection reject if { nbsrv(pg_primary_nodes) gt 1 }" in text(context_of())


def test_timers_and_ports_come_from_the_definition(context_of: Build) -> None:
    found = text(context_of(rto="guide", haproxy={"rw_port": 6000, "ro_port": 6001, "maxconn": 500}))
    assert "inter 3000ms fastinter 1000ms downinter 1s fall 3 rise 2" in found
    assert "bind *:6000" in found
    assert "bind *:6001" in found
    assert "    maxconn 500\n" in found


def test_ipv6_is_listened_on_only_where_nodes_have_it(context_of: Build) -> None:
    assert "bind :::5433 v4v6" in text(context_of(nodes=[{"name": "pg-node1", "address": "fd00::1"}]))


def test_a_change_is_checked_before_it_replaces_the_file_and_reloads(context_of: Build) -> None:
    service = next(r for r in build(context_of()) if isinstance(r, Service))
    assert file(context_of()).check == ("haproxy", "-c", "-f", "%s")
    assert service.on_change == "reload"
    assert {file(context_of()).id, "certificate:haproxy-client"} <= {*service.watches}


ROWS = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_port srvrecord srv_use_ssl srv_check_port
3 pg_primary_nodes 1 pg-node1 10.77.1.11 2 5432 - 0 8008
3 pg_primary_nodes 2 pg-node2 10.77.2.12 0 5433 - 0 8008
4 pg_replica_nodes 1 pg-node1 10.77.1.11 2 5432 - 0 8009
"""


def test_what_is_kept_of_a_server_that_moves_to_another_port_is_forgotten(context_of: Build, tmp_path: Path) -> None:
    """HAProxy takes the port from what was kept, whatever its file says."""
    program = (
        file(context_of(), KEEPER).content.replace(SOCKET, str(tmp_path / "s")).replace(KEPT, str(tmp_path / "kept"))
    )
    (tmp_path / "kept").write_text("old")

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(ROWS.encode())

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        subprocess.run([sys.executable, "-c", program], check=True)
        thread.join()
    kept = (tmp_path / "kept").read_text().splitlines()
    assert kept == ROWS.splitlines()[:3]
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode != 0
    assert not (tmp_path / "kept").exists()  # of a HAProxy that does not answer nothing old is believed


def test_what_is_known_of_the_servers_is_kept_over_a_reload_and_forgotten_at_a_start(context_of: Build) -> None:
    keeper, unit = file(context_of(), KEEPER), file(context_of(), DROP_IN)
    compile(keeper.content, KEEPER, "exec")
    assert keeper.mode == 0o755
    before, kept, after = (unit.content.index(word) for word in ("ExecReload=\n", KEEPER, "kill -USR2"))
    assert before < kept < after
    assert f"ExecStartPre=-/bin/rm -f {KEPT}" in unit.content
    assert f"server-state-file {KEPT}" in text(context_of())


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs the haproxy program")
@pytest.mark.parametrize("address", ["10.77.1.11", "fd00::1"])
def test_haproxy_itself_accepts_the_file_without_a_warning(context_of: Build, tmp_path: Path, address: str) -> None:
    context = context_of(nodes=[{"name": "pg-node1", "address": address}], haproxy={"maxconn": 500})
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "ca.crt").write_text(context.ca_pem)
    (tmp_path / "client.pem").write_bytes(_self_signed(key) + pem)
    (tmp_path / "haproxy.cfg").write_text(text(context).replace("/etc/haproxy/tls", str(tmp_path)))
    said = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, timeout=30, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "WARNING" not in said.stderr, said.stderr


def _self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "haproxy")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_least_version_of_tls_holds_for_the_checks_too(context_of: Callable[..., Context]) -> None:
    text = configuration(context_of(tls={"min_version": "1.3"}).cluster)
    assert "ssl-min-ver TLSv1.3\n" in text
