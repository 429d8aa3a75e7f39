"""Lines, limits, huge pages, mounts, names and commands: facts -> changes, and what is refused."""

from __future__ import annotations

import pytest
from pgha.common.errors import HostError
from pgha.common.results import Impact, Status
from pgha.common.secret import Secret
from pgha.states.action import Remove, Run, Unit, WriteFile
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resource import Change
from pgha.states.resources.command import Command, CommandFacts
from pgha.states.resources.files import File
from pgha.states.resources.hosts import Hosts
from pgha.states.resources.limits import Limits
from pgha.states.resources.line import Line
from pgha.states.resources.mount import Mount, Mounted, MountFacts
from pgha.states.resources.thp import SYSFS, THP_UNIT, Thp, ThpFacts, unit_text
from pgha.states.simulated import FakeMounts
from pgha.states.system import FileFacts, Output, UnitFacts
from pgha.states.testing import FakeSystem


def on(content: str) -> FileFacts:
    return FileFacts("file", content, "app", "adm", 0o640)


def whats(changes: list[Change]) -> list[str]:
    return [change.what for change in changes]


SET = Line(path="/a", line="port = 1", match=r"^#?port\b")


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        (SET, "", "port = 1\n"),
        (SET, "a", "a\nport = 1\n"),
        (SET, "a\n#port = 0\nb", "a\nport = 1\nb"),
        (SET, "a\n#port = 0", "a\nport = 1\n"),
        (SET, "port = 1\n", None),
        (SET, "port = 1\nport = 1\n", None),
        (SET, "a\r\nport\r\n", "a\r\nport = 1\r\n"),
        (SET, "a\x0cb\x85\nc \n", "a\x0cb\x85\nc \nport = 1\n"),  # what else splits lines is left alone
        (Line(path="/a", line="b"), "a\nb\n", None),
        (Line(path="/a", line="b"), "a\n b\n", "a\n b\nb\n"),
        (Line(path="/a", line="b", absent=True), "a\nb\nb", "a\n"),
        (Line(path="/a", line="b", absent=True), "b", ""),
        (Line(path="/a", match="b", absent=True), "a\nab\nc", "a\nc"),
        (Line(path="/a", match="b", absent=True), "a\n", None),
    ],
)
def test_one_line_is_changed_and_the_rest_of_the_file_is_not(line: Line, old: str, new: str | None) -> None:
    written = [change.action for change in line.plan(on(old))]
    assert written == ([WriteFile("/a", new, "app", "adm", 0o640)] if new is not None else [])


def test_a_file_that_is_not_there_is_made_for_its_line() -> None:
    (change,) = SET.plan(FileFacts())
    assert change.action == WriteFile("/a", "port = 1\n")
    assert Line(path="/a", line="b", absent=True).plan(FileFacts()) == []


def test_a_match_that_finds_several_lines_is_refused_with_their_numbers() -> None:
    with pytest.raises(HostError, match=r"finds lines 1, 3 of /a"):
        SET.plan(on("#port\na\nport = 2\n"))


def test_limits_are_a_file_of_their_own() -> None:
    limits = Limits(domain="*", soft={"nofile": 1024}, hard={"nofile": 4096, "memlock": "unlimited"})
    (change,) = limits.plan(FileFacts())
    text = "* soft nofile 1024\n* hard memlock unlimited\n* hard nofile 4096\n"
    assert change.action == WriteFile("/etc/security/limits.d/60-pgha-all.conf", text)
    (gone,) = Limits(domain="@dba", absent=True).plan(on(""))
    assert gone.action == Remove("/etc/security/limits.d/60-pgha-group-dba.conf")


RAN = UnitFacts("loaded", "active", "enabled")


@pytest.mark.parametrize(
    ("file", "unit", "enabled", "expected"),
    [
        ("", UnitFacts(), "always", ["unit file", "unit file", "at boot", "enabled"]),
        (unit_text("never"), RAN, "never", []),
        ("# managed by pgha, cluster prod\n" + unit_text("never"), RAN, "never", []),
        (unit_text("never"), RAN, "always", ["enabled"]),  # somebody set it by hand
        (unit_text("always"), RAN, "always", ["unit file", "unit file", "enabled"]),
    ],
)
def test_huge_pages_are_set_now_and_at_boot(file: str, unit: UnitFacts, enabled: str, expected: list[str]) -> None:
    changes = Thp().plan(ThpFacts(on(file), unit, enabled, "never", "none"))
    assert whats(changes) == expected
    if "enabled" in expected:
        assert changes[-1].action == Unit("restart", THP_UNIT)


@pytest.mark.parametrize(
    ("virtual", "said"), [("systemd-nspawn", "belong to the host"), ("none", "this kernel has no")]
)
def test_huge_pages_are_skipped_where_they_cannot_be_set(virtual: str, said: str) -> None:
    files = {} if virtual == "none" else {f"{SYSFS}/enabled": on("[always] never")}
    system = FakeSystem(virtual=virtual, files=files)
    (result,) = converge([Thp()], system, MemoryDebts())
    assert result.status is Status.SKIPPED
    assert said in result.reason
    assert system.performed == []


# ---- mounts

DATA = Mount(path="/srv/data", source="UUID=ab", fstype="ext4", options="noatime,nodev")
ENTRY = "UUID=ab /srv/data ext4 noatime,nodev 0 0"
THERE = FileFacts("directory")


def mounted(fstab: str = ENTRY, *options: str, source: bool = True, fstype: str = "ext4") -> MountFacts:
    return MountFacts(on(fstab), Mounted("/dev/sdb1", fstype, frozenset(options)), THERE, (), "none", source)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (MountFacts(FileFacts(), None, FileFacts(), (), "none"), ["folder", "fstab", "units of fstab", "mount"]),
        (MountFacts(on(ENTRY), None, THERE, (), "none"), ["mount"]),
        (mounted(ENTRY, "noatime", "nodev", "rw"), []),
        (mounted(ENTRY.replace(" 0 0", ""), "noatime", "nodev"), []),
        (mounted(ENTRY, "nodev"), ["option noatime"]),
        (mounted("# nothing\n", "noatime", "nodev"), ["fstab", "units of fstab"]),
    ],
)
def test_a_mount_is_in_fstab_and_there(facts: MountFacts, expected: list[str]) -> None:
    assert whats(DATA.plan(facts)) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", f"{ENTRY}\n"),
        ("# a\n\nproc /proc proc defaults 0 0", f"# a\n\nproc /proc proc defaults 0 0\n{ENTRY}\n"),
        ("a /a x y 0 1\nold\t/srv/data  ext4 ro\n# end", f"a /a x y 0 1\n{ENTRY}\n# end"),
        ("# UUID=ab /srv/data ext4 defaults\n", f"# UUID=ab /srv/data ext4 defaults\n{ENTRY}\n"),
    ],
)
def test_every_other_line_of_fstab_stays(old: str, new: str) -> None:
    change = DATA.plan(MountFacts(on(old), None, THERE, (), "none"))[0]
    assert change.action == WriteFile("/etc/fstab", new, "app", "adm", 0o640)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            MountFacts(on(""), None, THERE, ("PG_VERSION", "base"), "none"),
            "holds PG_VERSION, base, which a mount would",
        ),
        (mounted(source=False), "is mounted from /dev/sdb1"),
        (mounted(fstype="xfs"), r"is mounted from /dev/sdb1 \(xfs\)"),
        (mounted(f"{ENTRY}\n{ENTRY}\n"), "2 entries"),
        (MountFacts(on(""), None, on("x"), (), "none"), "is a file"),
    ],
)
def test_a_mount_that_would_hide_or_replace_something_is_refused(facts: MountFacts, said: str) -> None:
    with pytest.raises(HostError, match=said):
        DATA.plan(facts)


def test_a_device_is_the_same_under_each_of_its_names() -> None:
    answers = {
        ("findfs", "UUID=ab"): Output(0, "/dev/mapper/vg-data\n"),
        ("readlink", "-f", "/dev/mapper/vg-data"): Output(0, "/dev/dm-0\n"),
        ("readlink", "-f", "/dev/vg/data"): Output(0, "/dev/dm-0\n"),
    }
    mounts = "/dev/sda1 / ext4 rw 0 0\n/dev/vg/data /srv/data ext4 rw,noatime,nodev 0 0\n"
    files = {"/proc/self/mounts": on(mounts), "/etc/fstab": on(ENTRY), "/srv/data": THERE}
    (result,) = converge([DATA], FakeSystem(files=files, answers=answers), MemoryDebts())
    assert (result.status, result.reason) == (Status.UNCHANGED, "")


def test_a_busy_mount_stays_with_its_entry() -> None:
    files = {"/proc/self/mounts": on("/dev/sdb1 /srv/data ext4 rw 0 0\n"), "/etc/fstab": on(ENTRY)}
    system = FakeSystem(files=files, mounts=FakeMounts({"/srv/data"}))
    (result,) = converge([Mount(path="/srv/data", absent=True)], system, MemoryDebts())
    assert result.status is Status.FAILED
    assert "busy" in result.reason
    assert system.files["/etc/fstab"].content == ENTRY


@pytest.mark.parametrize(
    ("mount", "skipped"),
    [
        (DATA, True),
        (Mount(path="/srv/data", source="nas:/a", fstype="nfs"), True),
        (Mount(path="/srv/data", source="tmpfs", fstype="tmpfs"), False),
        (Mount(path="/srv/data", source="/a", fstype="none", options="bind,ro"), False),
        (Mount(path="/srv/data", absent=True), False),
    ],
)
def test_in_a_container_only_what_needs_no_device_is_mounted(mount: Mount, skipped: bool) -> None:
    facts = MountFacts(on(""), None, THERE, (), "docker")
    assert ("in a container (docker)" in mount.skip(facts)) == skipped


# ---- names

NAMES = Hosts(name="app", entries={"10.0.0.1": ("db1", "db1.example"), "::1": ("me",)})


def test_names_are_a_block_and_every_other_line_stays() -> None:
    (change,) = NAMES.plan(on("127.0.0.1 localhost\n"))
    block = "# pgha begin app\n10.0.0.1 db1 db1.example\n::1 me\n# pgha end app\n"
    assert change.action == WriteFile("/etc/hosts", f"127.0.0.1 localhost\n{block}", "app", "adm", 0o640)
    (gone,) = Hosts(name="app", absent=True).plan(on(f"a\n{block}b\n"))
    assert gone.action == WriteFile("/etc/hosts", "a\nb\n", "app", "adm", 0o640)


def test_a_name_that_another_line_gives_another_address_is_noted() -> None:
    assert "has db1 with another address" in NAMES.note(on("127.0.1.1 db1 # x\n10.0.0.1 db1.example\n"))
    assert NAMES.note(on("10.0.0.1 db1\n# 10.0.0.9 db1\n")) == ""


# ---- commands

INIT = Command(name="init", argv=("app", "init"), creates="/done", unless=("app", "check"), only_if=("app", "wants"))


@pytest.mark.parametrize(
    ("created", "unless", "only_if", "runs"),
    [
        (False, 1, 0, True),
        (True, 1, 0, False),
        (False, 0, 0, False),
        (False, 1, 1, False),
        (False, 127, 0, True),
        (False, 1, 127, False),
        (None, None, 0, True),
        (False, None, None, True),
    ],
)
def test_a_command_runs_when_all_its_guards_ask_for_it(
    created: bool | None, unless: int | None, only_if: int | None, runs: bool
) -> None:
    assert bool(INIT.plan(CommandFacts(created, unless, only_if))) == runs


@pytest.mark.parametrize(
    ("more", "argv"),
    [
        ({}, ("a", "b c")),
        ({"shell": True}, ("/bin/sh", "-c", "a", "sh", "b c")),
        ({"cwd": "/srv"}, ("env", "-C", "/srv", "a", "b c")),
        ({"env": {"B": "2", "A": "1"}}, ("env", "A=1", "B=2", "a", "b c")),
    ],
)
def test_a_command_gets_its_words_as_they_are(more: dict[str, object], argv: tuple[str, ...]) -> None:
    command = Command.model_validate({"name": "x", "argv": ("a", "b c"), "creates": "/x", "user": "app", **more})
    (change,) = command.plan(CommandFacts(False))
    assert change.action == Run(argv, user="app")


def test_a_guard_is_asked_as_the_user_of_the_command() -> None:
    seen: list[str] = []

    def check(host: FakeSystem) -> Output:
        seen.append("asked")
        return Output(0)

    system = FakeSystem(
        programs={("runuser", "-u", "app", "--", "check"): check},
        answers={("getent", "passwd", "app"): Output(0, "app:x:1:1::/:/bin/sh\n")},
    )
    command = Command(name="x", argv=("init",), unless=("check",), user="app")
    assert command.observe(system) == CommandFacts(unless=0)
    assert seen == ["asked"]


def test_a_command_of_a_user_who_is_yet_to_come_is_planned() -> None:
    command = Command(name="x", argv=("init",), only_if=("check",), user="app")
    (result,) = converge([command], FakeSystem(), MemoryDebts(), dry_run=True)
    assert [change.before for change in result.changes] == ["there is no user app"]


def test_a_command_that_does_not_do_what_its_guard_looks_for_has_failed() -> None:
    system = FakeSystem(programs={("init",): lambda host: Output(0)})
    (result,) = converge([Command(name="x", argv=("init",), creates="/x")], system, MemoryDebts())
    assert result.status is Status.FAILED
    assert "did not converge" in result.reason


def test_a_command_runs_again_when_what_it_watches_has_changed() -> None:
    ran: list[str] = []

    def newaliases(host: FakeSystem) -> Output:
        ran.append("newaliases")
        return Output(0)

    system = FakeSystem(files={"/etc/aliases.db": on("")}, programs={("newaliases",): newaliases})
    aliases = File(path="/etc/aliases", content="a: b\n")
    command = Command(name="x", argv=("newaliases",), creates="/etc/aliases.db", watches=(aliases.id,))
    for _ in range(2):
        assert all(result.status is not Status.FAILED for result in converge([aliases, command], system, MemoryDebts()))
    assert ran == ["newaliases"]


def test_a_command_says_what_it_restarts_and_shows_no_secret() -> None:
    command = Command(name="x", argv=("a",), creates="/x", restarts="app.service", stdin=Secret("hunter2"))
    (change,) = command.plan(CommandFacts(False))
    assert (change.disruption.impact, change.disruption.unit) == (Impact.RESTART, "app.service")
    assert "hunter2" not in repr(change) + repr(command) + command.model_dump_json()
