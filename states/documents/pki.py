"""Keys and certificates, each where its service looks for it. Replaces the guide's section 4, certificates.

Where it differs, and why:
- A private key is made on the node that uses it and never travels; the guide makes all of them on one machine.
- Each service has its own folder and group: the guide's `root:root` 0600 keys can be read by no service.
- One certificate per node and purpose instead of a shared one, with every name under which it is reached.
- PostgreSQL's clients have an authority of their own, see `master/keeping/authority.py`.
"""

from __future__ import annotations

import hashlib
import ssl

from ...common.errors import UserError
from ..certificates import (
    CLIENTS_CA,
    ETCD_TLS,
    HAPROXY_TLS,
    PATRONI_TLS,
    PGBACKREST_TLS,
    PGHA_TLS,
    PROBE,
    CertificateSpec,
    certificates,
)
from ..document import PACKAGES, Context
from ..render import pgpass_field
from ..resource import AnyResource
from ..resources.certificate import Certificate
from ..resources.files import Directory, File

PROBE_PASSWORD = f"{PGHA_TLS}/probe.pgpass"
_GROUPS = {
    ETCD_TLS: "etcd",
    PATRONI_TLS: "postgres",
    HAPROXY_TLS: "root",
    PGHA_TLS: "root",
    PGBACKREST_TLS: "postgres",
}


def build(context: Context) -> list[AnyResource]:
    specs = certificates(context.cluster, context.node)
    found: list[AnyResource] = []
    for directory in dict.fromkeys(spec.directory for spec in specs):
        folder = Directory(path=directory, group=_GROUPS[directory], mode=0o750, requires=(PACKAGES,))
        ca = File(path=f"{directory}/ca.crt", content=context.ca_pem, requires=(folder.id,))
        found += [folder, ca]
        found += [_certificate(context, spec, ca) for spec in specs if spec.directory == directory]
        if directory == PATRONI_TLS:
            both = context.ca_pem + context.client_ca_pem
            found.append(File(path=CLIENTS_CA, content=both, requires=(folder.id,)))
        if directory == PGHA_TLS:
            found.append(_probe_password(context, folder))
    return found


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate's DER, lower-case hex.

    Raises:
        UserError: no certificate; the master has not made the cluster's authority.
    """
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError as error:
        raise UserError("the cluster has no certificate authority yet, so no certificate can be wanted") from error


def _certificate(context: Context, spec: CertificateSpec, ca: File) -> Certificate:
    return Certificate(
        name=spec.name,
        cluster=context.cluster.name,
        directory=spec.directory,
        basename=spec.basename,
        owner=spec.owner,
        group=spec.group,
        common_name=spec.common_name,
        sans=spec.sans,
        usages=spec.usages,
        renew_before_s=context.cluster.tls.renew_before,
        ca_fingerprint=fingerprint(context.ca_pem),
        bundle=spec.bundle,
        requires=(ca.id,),
    )


def _probe_password(context: Context, folder: Directory) -> File:
    return File(
        path=PROBE_PASSWORD,
        content=f"*:*:postgres:{PROBE}:{{{{probe}}}}\n",
        mode=0o600,
        secrets={"probe": pgpass_field(context.secrets["postgresql/probe"])},
        requires=(folder.id,),
    )
