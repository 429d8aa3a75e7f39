"""What a state document is built from, and the shape of its builder.

A document is one file in `documents/` with `build(context) -> list[resource]`: pure, compiled on the master only, so
that a node never sees another node's secrets and what was sent can be audited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..common.cluster import Cluster, Node
from ..common.facts import HostFacts
from ..common.secret import Secret
from .halves import PublicHalf
from .resource import AnyResource

PACKAGES = "packages:base"
"""The id of the resource that installs what all documents of a node need, in one transaction."""


@dataclass(frozen=True)
class Context:
    """All that a document may know.

    `secrets`: by name within the cluster, such as `postgresql/superuser`; see `catalog.secrets`.
    `ca_pem`: the certificate of the cluster's authority; `client_ca_pem`: of the one that signs for applications.
    `etcd_joins`: this node's etcd member was replaced, so it joins an existing cluster (initial-cluster-state).
    `ssh`: what data nodes have told of their SSH keys, by name; only of nodes whose halves are both known.
    `files`: the text of the files on the master that the definition names, by path.
    `apt_key`: the armored signing key of `postgresql.source` when that is not the distribution; empty otherwise.
    """

    cluster: Cluster
    node: Node
    facts: HostFacts
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    ca_pem: str = ""
    client_ca_pem: str = ""
    etcd_joins: bool = False
    ssh: Mapping[str, PublicHalf] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    apt_key: str = ""


Builder = Callable[[Context], list[AnyResource]]
