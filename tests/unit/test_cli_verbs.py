"""What the verbs tell the command line, as far as it is decided without a daemon."""

from __future__ import annotations

import pytest
from pgha.common.cluster import Cluster
from pgha.master.verbs.certs import entrances
from pgha.master.verbs.keys import reached_at

NODES = [
    {"name": "a", "address": "203.0.113.1"},
    {"name": "w", "address": "192.0.2.3", "role": "witness"},
    {"name": "e", "address": "192.0.2.4", "role": "etcd"},
]


def test_applications_connect_to_the_entry_point_or_else_to_every_proxy() -> None:
    cluster = Cluster.model_validate({"cluster": "prod", "schema": "pgha/v1", "nodes": NODES})
    assert entrances(cluster) == ["203.0.113.1", "192.0.2.3"]
    assert entrances(cluster.model_copy(update={"entrypoint": ("db.example.com",)})) == ["db.example.com"]


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ("0.0.0.0:7760", "ADDRESS:7760"),
        (":::7760", "ADDRESS:7760"),
        ("[::]:7760", "ADDRESS:7760"),
        ("*:7760", "ADDRESS:7760"),
        ("203.0.113.10:7000", "203.0.113.10:7000"),
        ("2001:db8::1:7760", "[2001:db8::1]:7760"),
        ("[2001:db8::1]:7760", "[2001:db8::1]:7760"),
    ],
)
def test_a_minion_is_told_the_address_the_master_listens_on_if_there_is_one(listen: str, told: str) -> None:
    assert reached_at(listen) == told
