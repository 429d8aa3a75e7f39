"""One package, and where packages come from: facts -> changes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pgha.common.errors import HostError
from pgha.common.results import Status
from pgha.states.action import InstallPackages, Remove, Run, WriteFile
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resource import Change
from pgha.states.resources.apt_repository import UPDATE, AptRepository, RepositoryFacts, wrong_with_key
from pgha.states.resources.package import Package, PackageFacts, Pin
from pgha.states.simulated import FakePackages
from pgha.states.system import FileFacts, UnitFacts
from pgha.states.testing import FakeSystem

NONE = PackageFacts()
OLD = PackageFacts(installed="1.0")
HELD = PackageFacts(installed="1.0", held=frozenset({"tool"}))
PIN = Pin(version="2.*", priority=1001)
UNPIN = FileFacts("file", "Package: tool\nPin: version 2.*\nPin-Priority: 1001\n")


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.what, change.before, change.after) for change in changes]


@pytest.mark.parametrize(
    ("package", "facts", "expected"),
    [
        (Package(name="tool"), NONE, [("package", "not installed", "installed")]),
        (Package(name="tool"), OLD, []),
        (Package(name="tool", version="2.0"), OLD, [("version", "1.0", "2.0")]),
        (Package(name="tool", version="1.0"), OLD, []),
        (
            Package(name="tool", version="2.0"),
            replace(OLD, along=("lib",)),
            [("version", "1.0", "2.0, along with lib")],
        ),
        (Package(name="tool", hold=True), OLD, [("hold", "no", "yes")]),
        (Package(name="tool", hold=False), HELD, [("hold", "yes", "no")]),
        (Package(name="tool"), HELD, []),
        (Package(name="tool", hold=True), NONE, [("package", "not installed", "installed"), ("hold", "no", "yes")]),
        (Package(name="tool", pin=PIN), OLD, [("pin", "absent", "Pin: version 2.*")]),
        (Package(name="tool", pin=PIN), replace(OLD, pin=UNPIN), []),
        (Package(name="tool"), replace(OLD, pin=UNPIN), [("pin", "pinned", "absent")]),
        (Package(name="tool", absent=True), NONE, []),
        (Package(name="tool", absent=True), OLD, [("package", "1.0", "absent")]),
        (
            Package(name="tool", absent=True, hold=False),
            HELD,
            [("hold", "yes", "no"), ("package", "1.0", "absent")],
        ),
    ],
)
def test_a_package_is_changed_by_what_differs(
    package: Package, facts: PackageFacts, expected: list[tuple[str, str, str]]
) -> None:
    assert told(package.plan(facts)) == expected


@pytest.mark.parametrize(
    ("package", "facts", "said"),
    [
        (Package(name="tool", version="0.9"), replace(OLD, newer=True), "needs allow_downgrade: true"),
        (Package(name="tool", version="2.0"), HELD, "say hold: true"),
        (
            Package(name="tool", version="2.0"),
            replace(OLD, held=frozenset({"lib"}), along=("lib", "other")),
            "would move lib along, which is held",
        ),
        (Package(name="tool", absent=True), replace(OLD, along=("app", "web")), "these would go, too: app, web"),
        (Package(name="tool", absent=True), HELD, "held, so it is not removed"),
        (Package(name="tool", absent=True), replace(OLD, running=("tool.service",)), "while it runs: tool.service"),
    ],
)
def test_a_package_is_not_changed_where_that_would_do_more_than_was_said(
    package: Package, facts: PackageFacts, said: str
) -> None:
    with pytest.raises(HostError, match=said):
        package.plan(facts)


def test_an_installation_removes_nothing_and_steps_back_only_when_told_to() -> None:
    (fresh,) = Package(name="tool", version="2.0").plan(NONE)
    assert fresh.action == InstallPackages(("tool=2.0",), options=("--no-remove",))
    held = replace(HELD, newer=True)
    (back,) = Package(name="tool", version="0.9", hold=True, allow_downgrade=True).plan(held)
    assert back.action == InstallPackages(
        ("tool=0.9",), options=("--no-remove", "--allow-downgrades", "--allow-change-held-packages")
    )


def test_a_removal_is_one_that_can_take_nothing_along() -> None:
    (change,) = Package(name="tool", absent=True).plan(OLD)
    assert change.action == Run(("dpkg", "--remove", "tool"), timeout_s=600.0)


def test_what_depends_on_a_package_and_what_runs_of_it_is_seen() -> None:
    apt = FakePackages(needed_by={"tool": ("app", "gone")}, running=("/usr/bin/tool", "/usr/bin/sh"))
    apt.files["tool"] = ("/.", "/bin/tool", "/usr/lib/systemd/system/tool.service")
    units = {"tool.service": UnitFacts("loaded", "active", "enabled")}
    system = FakeSystem(installed={"tool": "1.0", "app": "1.0"}, apt=apt, units=units)
    facts = Package(name="tool", absent=True).observe(system)
    assert facts.along == ("app",)
    assert facts.running == ("tool.service", "/usr/bin/tool")


def test_a_package_whose_name_has_other_characters_has_a_pin_that_apt_reads() -> None:
    (change, _) = Package(name="g++", pin=Pin(release="n=trixie", priority=-1)).plan(NONE)
    assert isinstance(change.action, WriteFile)
    assert change.action.path == "/etc/apt/preferences.d/pgha-g__.pref"
    assert change.action.content == "Package: g++\nPin: release n=trixie\nPin-Priority: -1\n"


KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaSYAABYJKwYBBAHaRw8BAQdA\n-----END PGP PUBLIC KEY BLOCK-----\n"
REPOSITORY = AptRepository(
    name="pgdg",
    uris=("https://a/b",),
    suites=("x-pgdg",),
    components=("main",),
    architectures=("amd64",),
    signed_by=KEY,
)
SOURCE = (
    "Types: deb\nURIs: https://a/b\nSuites: x-pgdg\nComponents: main\nArchitectures: amd64\n"
    "Signed-By: /etc/apt/keyrings/pgdg.asc\n"
)


def repository(source: str, at: float, lists_at: float) -> RepositoryFacts:
    file, key = (FileFacts("file", text, "root", "root", 0o644, mtime=at) for text in (source, KEY))
    return RepositoryFacts(file, key, lists_at, 1000.0)


@pytest.mark.parametrize(
    ("facts", "whats"),
    [
        (
            RepositoryFacts(FileFacts(), FileFacts(), 900.0, 1000.0),
            ["key: file", "source: file", "package lists"],
        ),
        (repository(SOURCE, 500.0, 600.0), []),
        (repository("Types: deb\n", 500.0, 600.0), ["source: content", "package lists"]),
        (repository(SOURCE, 700.0, 600.0), ["package lists"]),  # an earlier run ended before it had fetched them
        (repository(SOURCE, 2000.0, 600.0), []),  # a clock was wrong once
    ],
)
def test_a_repository_is_written_and_its_lists_fetched(facts: RepositoryFacts, whats: list[str]) -> None:
    changes = REPOSITORY.plan(facts)
    assert [change.what for change in changes] == whats
    if changes:
        assert changes[-1].action == Run(UPDATE, timeout_s=300.0)


def test_a_repository_that_goes_takes_its_key_along() -> None:
    changes = AptRepository(name="pgdg", absent=True).plan(repository(SOURCE, 500.0, 600.0))
    assert [change.action for change in changes[:2]] == [
        Remove("/etc/apt/sources.list.d/pgdg.sources"),
        Remove("/etc/apt/keyrings/pgdg.asc"),
    ]
    assert changes[2].what == "package lists"


def test_a_source_that_cannot_be_fetched_is_tried_again() -> None:
    system = FakeSystem(broken={"Run": "cannot reach the mirror"})
    (first,) = converge([REPOSITORY], system, MemoryDebts())
    assert first.status is Status.FAILED
    del system.broken["Run"]
    (second,) = converge([REPOSITORY], system, MemoryDebts())
    assert [change.what for change in second.changes] == ["package lists"]


def test_a_key_with_its_checksum_is_taken() -> None:
    """The checksum of the armor of RFC 9580, 6.2, over one octet string, computed apart from this code."""
    assert wrong_with_key(KEY.replace("\n-----END", "\n=PK2K\n-----END")) == ""
