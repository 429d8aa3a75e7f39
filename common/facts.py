"""What a host is, as its minion reports it at HELLO: the only knowledge of a host that documents are built from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class HostFacts(BaseModel):
    """Sizes in bytes. `virtualization` is systemd-detect-virt's word, "none" on bare metal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hostname: str
    machine_id: str
    boot_id: str
    os_id: str  # "debian", "ubuntu"
    os_version: str  # "13", "22.04"
    os_codename: str  # "trixie"
    architecture: str  # "amd64"
    kernel: str
    python: str
    cpus: int
    memory_bytes: int
    disk_free_bytes: int  # of the filesystem that holds /var/lib
    container: bool
    virtualization: str
    addresses: tuple[str, ...]
    pgha_version: str


DISTRIBUTION_POSTGRESQL = {
    ("debian", "12"): 15,
    ("debian", "13"): 17,
    ("ubuntu", "22.04"): 14,
    ("ubuntu", "24.04"): 16,
}
"""The PostgreSQL major that each supported system carries itself, and with that the list of supported systems."""


def supported(facts: HostFacts) -> bool:
    return (facts.os_id, facts.os_version) in DISTRIBUTION_POSTGRESQL
