"""A node that serves S3: an object store with a disk of its own, for what a cluster keeps elsewhere (backups).

It is no node of pgha: a bare Debian with s3rver, which speaks S3 over TLS and keeps its objects as files under
/var/lib/s3, so that they survive what the node survives.

Rules kept here:
1. Nothing of it is downloaded or made for a lab without such a node.
2. What all stores share is a layer of the cache; what is one store's own (certificate, unit) is laid into its root.
3. Certificates are valid since yesterday: a clock that is put back a little must not end a test.
4. s3rver is no longer maintained and its keys are known: it is for labs, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import image
from .host import write
from .image import Cache
from .plan import Node

PORT = 9000
BUCKET = "pgha"
KEY = KEY_SECRET = "S3RVER"  # the only ones it knows
REGION = "us-east-1"  # any will do
_FILES = Path(__file__).resolve().parents[1] / "s3"  # what runs in the node
_HOW_THE_HOST_REACHES_NPM = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "npm_config_registry")
# npm comes and goes again: what it leaves is one folder. `--before` also fixes the versions that s3rver leaves open.
_INSTALL = """
set -eu
cat /mnt/resolv.conf > /etc/resolv.conf
apt-get -q update
apt-get -q -y --no-install-recommends install nodejs
apt-get -q -y --no-install-recommends install npm
mkdir /opt/s3rver && cd /opt/s3rver
if [ -e /mnt/ca.crt ]; then npm config set cafile /mnt/ca.crt; fi
npm install --no-audit --no-fund --ignore-scripts --before=2026-01-01 s3rver@3.7.1
apt-get -q -y purge --autoremove npm
apt-get clean
rm -rf ~/.npm ~/.npmrc /etc/resolv.conf /usr/share/doc/node* /usr/share/nodejs/npm
"""
_CERTIFICATES = """
set -eu
cd /mnt
valid="-not_before $(date -u -d yesterday +%Y%m%d%H%M%SZ) -not_after $(date -u -d +10years +%Y%m%d%H%M%SZ)"
fresh="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc"
openssl req -x509 $fresh $valid -keyout ca.key -out ca.crt -subj "/CN=the lab's S3 stores" \
    -addext keyUsage=critical,keyCertSign,cRLSign
for store in "$@"; do
    name=${store%=*}
    openssl req -x509 -CA ca.crt -CAkey ca.key $fresh $valid -keyout $name.key -out $name.crt -subj /CN=$name \
        -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
        -addext extendedKeyUsage=serverAuth -addext subjectAltName=DNS:$name,DNS:$name.lab,IP:${store#*=}
done
"""
# The boot is over when it listens: who waits for the node waits for the store.
_UNIT = """\
[Unit]
Description=S3 over TLS
StartLimitIntervalSec=0

[Service]
ExecStartPre=/usr/bin/find /var/lib/s3 -name '*.part' -delete
ExecStart=/usr/bin/node --require /etc/s3/whole.js /opt/s3rver/node_modules/.bin/s3rver \\
    --directory /var/lib/s3 --address {address} --port {port} --key /etc/s3/tls.key --cert /etc/s3/tls.crt \\
    --no-vhost-buckets --configure-bucket {bucket}
ExecStartPost=/bin/sh -c 'until ss -Hltn src {address}:{port} | grep -q .; do sleep 0.1; done'
Environment=NODE_ENV=production
StateDirectory=s3
Restart=on-failure
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Store:
    """What a client must know of one store. Its requests name the bucket in the path."""

    endpoint: str  # its address, which its certificate names too
    port: int
    bucket: str
    region: str
    key: str
    key_secret: str
    ca_file: str  # on the host

    def __str__(self) -> str:
        return (
            f"https://{self.endpoint}:{self.port} (path style), bucket {self.bucket}, region {self.region}, "
            f"key {self.key}, secret {self.key_secret}, CA {self.ca_file}"
        )


def store(lab_folder: Path, node: Node) -> Store:
    ca_file = str(lab_folder / "s3/ca.crt")
    return Store(node.address, PORT, BUCKET, REGION, KEY, KEY_SECRET, ca_file)


def layers(cache: Cache, base: Path) -> list[Path]:
    """The layers a store boots from, highest first. Raises: LabError when it cannot be downloaded."""
    return [cache.layer("s3", [base.name, _INSTALL], lambda made: _install(made, base)), base]


def _install(made: Path, base: Path) -> None:
    """With the host's name servers, proxy, registry and trusted authorities."""
    import ssl  # here: every other order is quicker without it

    settings = [f"{name}={os.environ[name]}" for name in _HOW_THE_HOST_REACHES_NPM if name in os.environ]
    trusted = ssl.get_default_verify_paths().cafile
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "resolv.conf").write_text(image.resolv_conf())
        if trusted:
            shutil.copyfile(trusted, Path(folder) / "ca.crt")
        image.run_in(made, [base], Path(folder), ["env", *settings, "sh", "-c", _INSTALL])


def furnish(lab_folder: Path, nodes: Sequence[Node], base: Path) -> None:
    """Writes what is each store's own to nodes/NAME/own of the lab; the authority and the certificates only once."""
    certificates = lab_folder / "s3"
    if not certificates.exists():
        _issue(certificates, nodes, base)
    for node in nodes:
        etc = lab_folder / "nodes" / node.name / "own/etc"
        wants = etc / "systemd/system/multi-user.target.wants"
        for folder in (etc / "s3", wants, etc.parent / "usr/local/sbin"):
            folder.mkdir(parents=True, exist_ok=True)
        for kind in ("crt", "key"):
            shutil.copy(certificates / f"{node.name}.{kind}", etc / "s3" / f"tls.{kind}")
        write(etc / "systemd/system/s3rver.service", _UNIT.format(address=node.address, port=PORT, bucket=BUCKET))
        (wants / "s3rver.service").unlink(missing_ok=True)
        (wants / "s3rver.service").symlink_to("/etc/systemd/system/s3rver.service")
        shutil.copy(_FILES / "whole.js", etc / "s3")
        shutil.copy(_FILES / "s3-space", etc.parent / "usr/local/sbin")


def _issue(target: Path, nodes: Sequence[Node], base: Path) -> None:
    """Makes the folder `target`, whole or not at all, with the node's own openssl: older ones cannot backdate."""
    temp = Path(tempfile.mkdtemp(prefix=".s3-", dir=target.parent))
    try:
        for name in ("layer", "made"):
            (temp / name).mkdir()
        stores = [f"{node.name}={node.address}" for node in nodes]
        image.run_in(temp / "layer", [base], temp / "made", ["sh", "-c", _CERTIFICATES, "sh", *stores])
        (temp / "made").rename(target)
    finally:
        image.remove_tree(temp)
