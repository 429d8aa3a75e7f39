"""Every value that can be compared: where it comes from, in which unit, and that it can be absent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgha.common.facts import HostFacts
from pgha.common.telemetry import (
    CertificateSample,
    EtcdSample,
    HaproxySample,
    HostSample,
    PatroniSample,
    Sample,
)
from pgha.master.targeting.comparisons import MEASURES, SIGNS, Known, amount, check_sign, comparison, measure, version

DAY = 86400
FACTS = HostFacts(
    hostname="pg-node1",
    machine_id="m",
    boot_id="b",
    os_id="debian",
    os_version="13",
    os_codename="trixie",
    architecture="amd64",
    kernel="6.12",
    python="3.13",
    cpus=4,
    memory_bytes=8 * 1024**3,
    disk_free_bytes=0,
    container=False,
    virtualization="kvm",
    addresses=(),
    pgha_version="0.1.3",
)
SAMPLE = Sample(
    at=1000.0,
    host=HostSample(
        cpu_percent=7.5, load1=0.25, memory_percent=30, disk_percent=41, disk_free_bytes=5000, uptime_s=3600
    ),
    etcd=EtcdSample(healthy=True, db_bytes=25_000_000, version="3.5.16"),
    patroni=PatroniSample(reachable=True, timeline=7, version="4.1.0rc1", server_version=180004, dcs_last_seen_s=2.5),
    haproxy=HaproxySample(version="3.0.11-1+deb13u1"),
    certificates=(
        CertificateSample(path="a", not_after=1000.0 + 90 * DAY),
        CertificateSample(path="b", not_after=1000.0 + 20 * DAY),
        CertificateSample(path="no certificate"),
    ),
)
WHOLE = Known(SAMPLE, 12345, FACTS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lag", 12345),
        ("disk", 41),
        ("free", 5000),
        ("memory", 30),
        ("cpu", 7.5),
        ("load", 0.25),
        ("uptime", 3600),
        ("cert", 20 * DAY),
        ("dcs", 2.5),
        ("timeline", 7),
        ("pg", (18, 4)),
        ("patroni", (4, 1, 0)),
        ("etcd", (3, 5, 16)),
        ("etcd_db", 25_000_000),
        ("haproxy", (3, 0, 11)),
        ("cpus", 4),
        ("ram", 8 * 1024**3),
        ("pgha", (0, 1, 3)),
    ],
)
def test_each_value_comes_from_the_sample_or_the_facts(name: str, value: object) -> None:
    assert measure(name).value(WHOLE) == value


def test_the_cases_above_are_all_there_are() -> None:
    marks = test_each_value_comes_from_the_sample_or_the_facts.pytestmark  # type: ignore[attr-defined]
    assert [name for name, _ in marks[0].args[1]] == [one.name for one in MEASURES]


@pytest.mark.parametrize("one", MEASURES, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "known",
    [
        Known(),
        Known(Sample(at=0)),
        Known(Sample(at=0, patroni=PatroniSample(), etcd=EtcdSample(), haproxy=HaproxySample(error="down"))),
    ],
)
@pytest.mark.parametrize("sign", SIGNS)
def test_what_a_node_does_not_have_matches_in_neither_direction(one: object, known: Known, sign: str) -> None:
    name = one.name  # type: ignore[attr-defined]
    assert not comparison(name, sign, "0")(known)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lag", "0", 0),
        ("lag", "512B", 512),
        ("lag", "1kB", 1000),
        ("lag", "1KB", 1000),
        ("lag", "1KiB", 1024),
        ("lag", "1.5MB", 1_500_000),
        ("lag", "2TiB", 2 * 1024**4),
        ("disk", "80%", 80),
        ("disk", "0.5%", 0.5),
        ("cert", "90s", 90),
        ("cert", "10m", 600),
        ("cert", "2h", 7200),
        ("cert", "30d", 30 * DAY),
        ("load", "8", 8),
        ("load", "0.5", 0.5),
        ("pg", "18", (18,)),
        ("pg", "18.4", (18, 4)),
        ("patroni", "4.0.7", (4, 0, 7)),
    ],
)
def test_an_amount_is_read_in_its_unit(name: str, text: str, value: object) -> None:
    assert amount(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lag", "10"), ("lag", "10%"), ("lag", "10PB"), ("lag", "-1B"), ("lag", "B"), ("lag", ""), ("lag", "1e3B"),
        ("disk", "80"), ("disk", "80%%"), ("cert", "30"), ("cert", "1w"), ("load", "8x"), ("load", "8%"),
        ("pg", "18."), ("pg", "v18"), ("pg", "18.4.1.2.3"), ("pg", "18%"), ("lag", "٣B"), ("pg", "9" * 20),
    ],
)  # fmt: skip
def test_another_form_or_unit_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b|takes"):
        amount(name, text)


@pytest.mark.parametrize(
    ("sign", "holds"),
    [("<", "17"), ("<=", "17 18.4"), (">", "19"), (">=", "18.4 19"), ("=", "18.4"), ("==", "18.4"), ("!=", "17 19")],
)
def test_each_sign_means_what_it_says(sign: str, holds: str) -> None:
    versions = {"17": 170009, "18.4": 180004, "19": 190000}
    holding = [
        text
        for text, number in versions.items()
        if comparison("pg", sign, "18.4")(Known(Sample(at=0, patroni=PatroniSample(server_version=number))))
    ]
    assert holding == holds.split()


def test_a_version_is_compared_as_far_as_it_is_written() -> None:
    assert comparison("pg", "=", "18")(WHOLE)
    assert not comparison("pg", ">", "18")(WHOLE)
    assert comparison("pg", ">", "18.3")(WHOLE)
    assert comparison("pg", "=", "18.4.0")(WHOLE)
    assert comparison("patroni", "<", "4.1.1")(WHOLE)


def test_an_unknown_sign_is_refused() -> None:
    for sign in SIGNS:
        check_sign(sign)
    with pytest.raises(ValueError, match="unknown comparison '=>'; there are < <= > >= = == !="):
        check_sign("=>")


@given(st.text())
def test_a_version_from_the_wire_is_numbers_or_nothing(text: str) -> None:
    found = version(text)
    assert found is None or text.startswith((str(found[0]), "0"))


@given(st.floats(min_value=0, max_value=100), st.integers(0, 100), st.sampled_from(SIGNS))
def test_a_comparison_and_its_opposite_never_agree(disk: float, limit: int, sign: str) -> None:
    opposite = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "!=", "==": "!=", "!=": "="}[sign]
    assert SAMPLE.host is not None
    known = Known(SAMPLE.model_copy(update={"host": SAMPLE.host.model_copy(update={"disk_percent": disk})}))
    assert comparison("disk", sign, f"{limit}%")(known) != comparison("disk", opposite, f"{limit}%")(known)
