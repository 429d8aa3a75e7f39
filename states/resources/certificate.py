"""Certificate: a leaf of the cluster's authority on this host, with a key that was made here and never leaves.

What goes into a certificate is decided by the master when it signs; here it is only compared. A difference in
anything but owner and mode means a new key and a new certificate: renewal is the same road as the first issue.
`DIRECTORY/ca.crt` must be there before (a File that this requires): the signature is checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...common.clock import iso
from ..action import IssueCertificate
from ..resource import Change, Resource
from ..system import CertificateFacts, FileFacts, Look
from .files import attribute_changes

KEY_MODE, CERT_MODE, BUNDLE_MODE = 0o640, 0o644, 0o600


@dataclass(frozen=True, slots=True)
class Facts:
    """`now` is Unix time; `bundle` is absent facts when none is wanted."""

    now: float
    certificate: CertificateFacts
    cert: FileFacts
    key: FileFacts
    bundle: FileFacts


class Certificate(Resource[Facts]):
    """`renew_before_s`: seconds before its end at which it is replaced. `ca_fingerprint`: SHA-256 of the DER, hex."""

    kind: Literal["certificate"] = "certificate"
    name: str
    cluster: str
    directory: str
    basename: str
    owner: str = "root"
    group: str = "root"
    common_name: str
    sans: tuple[str, ...] = ()
    usages: tuple[Literal["server", "client"], ...]
    renew_before_s: float
    ca_fingerprint: str
    bundle: bool = False

    def key(self) -> str:
        return self.name

    def _path(self, suffix: str) -> str:
        return f"{self.directory}/{self.basename}.{suffix}"

    def observe(self, look: Look) -> Facts:
        cert, key = self._path("crt"), self._path("key")
        bundle = self._path("pem") if self.bundle else ""
        return Facts(
            now=look.now(),
            certificate=look.certificate(cert, key, f"{self.directory}/ca.crt", bundle),
            cert=look.attributes(cert),
            key=look.attributes(key),
            bundle=look.attributes(bundle) if bundle else FileFacts(),
        )

    def plan(self, facts: Facts) -> list[Change]:
        issue = IssueCertificate(
            self.name,
            self.cluster,
            self.directory,
            self.basename,
            self.owner,
            self.group,
            self.common_name,
            self.bundle,
        )
        if differences := self._differences(facts):
            return [Change(what, issue, before, after) for what, before, after in differences]
        changes = attribute_changes(self._path("key"), facts.key, self.owner, self.group, KEY_MODE)
        changes += attribute_changes(self._path("crt"), facts.cert, self.owner, self.group, CERT_MODE)
        if self.bundle:
            changes += attribute_changes(self._path("pem"), facts.bundle, "root", "root", BUNDLE_MODE)
        return changes

    def _differences(self, facts: Facts) -> list[tuple[str, str, str]]:
        """What calls for a new certificate: what, before, after."""
        seen = facts.certificate
        if not seen.found:
            return [("certificate", "absent", f"CN={self.common_name}")]
        rows: list[tuple[str, str, str]] = []
        if seen.not_after - facts.now < self.renew_before_s:
            days = (seen.not_after - facts.now) / 86400
            said = f"ends in {days:.1f} days, {iso(seen.not_after)}" if days > 0 else f"ended {iso(seen.not_after)}"
            rows.append(("validity", said, "renewed"))
        if seen.ca_fingerprint != self.ca_fingerprint:
            rows.append(("authority", "another one", f"SHA-256 {self.ca_fingerprint[:16]}..."))
        for what, is_, wanted in (
            ("names", seen.sans, tuple(sorted(set(self.sans)))),
            ("usages", seen.usages, tuple(sorted(set(self.usages)))),
        ):
            if is_ != wanted:
                rows.append((what, ", ".join(is_) or "none", ", ".join(wanted) or "none"))
        if seen.common_name != self.common_name:
            rows.append(("common name", seen.common_name, self.common_name))
        if not seen.key_matches:
            rows.append(("key", "absent or of another certificate", "new"))
        if self.bundle and not seen.bundle_matches:
            rows.append(("bundle", "absent or of another certificate", "new"))
        return rows
