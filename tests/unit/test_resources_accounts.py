"""Users, groups and the keys that let them in: facts -> changes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pgha.common.errors import HostError
from pgha.common.results import Status
from pgha.states.action import MakeDirectory, Run, SetAttributes, WriteFile
from pgha.states.converge import MemoryDebts, converge
from pgha.states.resource import Change
from pgha.states.resources.accounts import Group, GroupFacts, User, UserFacts
from pgha.states.resources.authorized_keys import AuthorizedKeys, LabelledKey
from pgha.states.resources.ssh import PUBLIC_HALF, AuthorizedKey, KeysFacts, SshKey, SshKeyFacts
from pgha.states.simulated import FakeAccounts, FakeUser
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem

USER = UserFacts(1000, "deploy", frozenset({"dba"}), "/srv/deploy", "/bin/bash", "")


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.what, change.before, change.after) for change in changes]


def argv(changes: list[Change]) -> tuple[str, ...]:
    """Of the one program that removes all the differences."""
    (action,) = {change.action for change in changes}
    assert isinstance(action, Run)
    return action.argv


@pytest.mark.parametrize(
    ("user", "facts", "expected"),
    [
        (User(name="deploy"), USER, []),
        (User(name="deploy", uid=1000, group="deploy", home="/srv/deploy"), USER, []),
        (User(name="deploy", shell="/bin/sh"), USER, [("shell", "/bin/bash", "/bin/sh")]),
        (User(name="deploy", comment="x"), USER, [("comment", "none", "x")]),
        (User(name="deploy", group="app"), USER, [("group", "deploy", "app")]),
        (User(name="deploy", groups=("dba",)), USER, []),
        (User(name="deploy", groups=("app",)), USER, [("groups", "dba", "app, dba")]),
        (User(name="deploy", groups=("app",), append=False), USER, [("groups", "dba", "app")]),
        (User(name="deploy", append=False), USER, [("groups", "dba", "none")]),
        (User(name="deploy", groups=("deploy", "dba")), USER, []),  # the primary group is one, too
        (User(name="deploy", uid=1500), UserFacts(), [("user", "absent", "there, uid 1500")]),
        (User(name="deploy", absent=True), UserFacts(), []),
        (User(name="deploy", absent=True), USER, [("user", "there", "absent; /srv/deploy stays")]),
        (
            User(name="deploy", absent=True, remove_home=True),
            USER,
            [("user", "there", "absent, with /srv/deploy")],
        ),
    ],
)
def test_a_user_is_changed_by_what_differs(user: User, facts: UserFacts, expected: list[tuple[str, str, str]]) -> None:
    assert told(user.plan(facts)) == expected


@pytest.mark.parametrize(
    ("user", "facts", "words"),
    [
        (User(name="deploy"), UserFacts(), "useradd --create-home --shell /bin/bash --user-group deploy"),
        (User(name="a"), UserFacts(namesake=True), "useradd --create-home --shell /bin/bash --gid a a"),
        (
            User(name="job", system=True, home="/var/lib/job", groups=("a", "b")),
            UserFacts(),
            "useradd --no-create-home --shell /usr/sbin/nologin --system --user-group --groups a,b "
            "--home-dir /var/lib/job job",
        ),
        (User(name="deploy", groups=("a",), shell="/bin/sh"), USER, "usermod --shell /bin/sh --groups a,dba deploy"),
        (User(name="deploy", absent=True), USER, "userdel deploy"),
        (User(name="deploy", absent=True, remove_home=True), USER, "userdel --remove deploy"),
    ],
)
def test_the_program_gets_exactly_what_is_wanted(user: User, facts: UserFacts, words: str) -> None:
    assert argv(user.plan(facts)) == tuple(words.split())


@pytest.mark.parametrize(
    ("user", "facts", "said"),
    [
        (User(name="deploy", uid=1001), USER, "has uid 1000, not 1001; pgha does not change it"),
        (User(name="deploy", home="/srv/b"), USER, "has the home /srv/deploy, not /srv/b; pgha does not change it"),
        (User(name="toor", absent=True), replace(USER, uid=0), "number 0"),
        (User(name="x", absent=True, remove_home=True), replace(USER, home="/srv"), "too near the root"),
    ],
)
def test_a_user_is_not_changed_in_what_files_rest_on(user: User, facts: UserFacts, said: str) -> None:
    with pytest.raises(HostError, match=said):
        user.plan(facts)


@pytest.mark.parametrize(
    ("group", "facts", "expected"),
    [
        (Group(name="dba"), GroupFacts(), [("group", "absent", "there")]),
        (Group(name="dba", gid=500), GroupFacts(500), []),
        (Group(name="dba", absent=True), GroupFacts(500), [("group", "there", "absent")]),
        (Group(name="dba", absent=True), GroupFacts(), []),
    ],
)
def test_a_group_is_there_or_not(group: Group, facts: GroupFacts, expected: list[tuple[str, str, str]]) -> None:
    assert told(group.plan(facts)) == expected


def test_a_group_keeps_its_number_and_the_one_with_number_0_stays() -> None:
    with pytest.raises(HostError, match="has gid 500, not 600"):
        Group(name="dba", gid=600).plan(GroupFacts(500))
    with pytest.raises(HostError, match="number 0"):
        Group(name="root", absent=True).plan(GroupFacts(0))


def test_a_host_that_cannot_say_who_is_there_is_a_failure_and_no_absence() -> None:
    system = FakeSystem(answers={("getent", "group", "dba"): Output(1, "", "ldap is away")})
    (result,) = converge([Group(name="dba")], system, MemoryDebts())
    assert result.status is Status.FAILED
    assert "ldap is away" in result.reason


# ---- who is let in

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIHi0nq3QSrVZ0vLrMPGx0TD6pdjvYyVgXJPCBkS0nL3s"
KEY = f"ssh-ed25519 {BLOB}"
FOLDER = FileFacts("directory", None, "deploy", "deploy", 0o700)
OPTIONS = 'restrict,command="/bin/a \\"b c\\""'


@pytest.mark.parametrize(
    ("old", "options", "absent", "new"),
    [
        ("", None, False, f"{KEY} me\n"),
        ("# x\n\nssh-rsa AAAA other", None, False, f"# x\n\nssh-rsa AAAA other\n{KEY} me\n"),
        ("", OPTIONS, False, f"{OPTIONS} {KEY} me\n"),
        (f"{OPTIONS} {KEY} old\n", None, False, None),  # options are kept
        (f"{OPTIONS} {KEY} old\n", OPTIONS, False, None),
        (f"{OPTIONS} {KEY} old\n", "", False, f"{KEY} old\n"),
        (f"{KEY}\n", "no-pty", False, f"no-pty {KEY}\n"),
        (f"no-pty {KEY} a\nb\n{KEY} a\n", "no-pty", False, f"no-pty {KEY} a\nb\n"),  # what loosens it goes
        (f"# {KEY}\n", None, True, None),  # a comment lets nobody in
        (f"a\n{OPTIONS} {KEY} x\n{KEY}\nb\n", None, True, "a\nb\n"),
        ("", None, True, None),
    ],
)
def test_of_the_lines_only_those_with_the_key_are_changed(
    old: str, options: str | None, absent: bool, new: str | None
) -> None:
    key = AuthorizedKey(user="deploy", public_key=f"{KEY} me", options=options, absent=absent)
    file = FileFacts("file", old, "deploy", "deploy", 0o600)
    written = [change.action for change in key.plan(KeysFacts("/srv/deploy", "deploy", FOLDER, file))]
    path = "/srv/deploy/.ssh/authorized_keys"
    assert written == ([WriteFile(path, new, "deploy", "deploy", 0o600)] if new is not None else [])


def test_what_sshd_would_ignore_because_others_can_write_it_is_put_right() -> None:
    file = FileFacts("file", f"{KEY}\n", "other", "deploy", 0o622)
    key = AuthorizedKey(user="deploy", public_key=KEY)
    changes = key.plan(KeysFacts("/srv/deploy", "deploy", replace(FOLDER, mode=0o770), file))
    assert [(change.what, change.after) for change in changes] == [
        ("mode", "0700"),
        ("owner", "deploy:deploy"),
        ("mode", "0600"),
    ]


@pytest.mark.parametrize("where", [".ssh", ".ssh/authorized_keys"])
def test_a_link_in_a_home_is_not_followed(where: str) -> None:
    accounts = FakeAccounts(groups={"root": 0, "deploy": 1})
    accounts.users["deploy"] = FakeUser(1, "deploy", home="/srv/deploy")
    link = FileFacts("symlink", None, "deploy", "deploy", 0o777, "/etc")
    system = FakeSystem(accounts=accounts, files={f"/srv/deploy/{where}": link})
    (result,) = converge([AuthorizedKey(user="deploy", public_key=KEY)], system, MemoryDebts())
    assert result.status is Status.FAILED
    assert "symlink" in result.reason
    assert system.performed == []


def test_a_key_for_a_user_who_is_yet_to_come_is_planned() -> None:
    (result,) = converge([AuthorizedKey(user="deploy", public_key=KEY)], FakeSystem(), MemoryDebts(), dry_run=True)
    assert result.status is Status.PLANNED


# ---- a set of keys

OTHER = f"ssh-ed25519 {KEY.split()[1][:-4]}AAAA"
ONE, TWO = f"restrict {KEY} ci one", f"{OTHER} ci two"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", f"{ONE}\n{TWO}\n"),
        (f"{TWO}\n{ONE}\n", None),  # in whatever order
        (f"{ONE}\n{TWO}\n{ONE}\n", f"{ONE}\n{TWO}\n"),
        (f"{KEY} ci one\n{TWO}\n", f"{TWO}\n{ONE}\n"),  # without its options
        (
            f"# ci\n{KEY} mine\n{KEY} cider\nssh-rsa AAAA ci gone\n{ONE}\n{TWO}\n",
            f"# ci\n{KEY} mine\n{KEY} cider\n{ONE}\n{TWO}\n",
        ),
    ],
)
def test_of_the_lines_only_those_with_the_label_are_the_sets(old: str, new: str | None) -> None:
    wanted = (LabelledKey(public_key=f"{KEY} one", options="restrict"), LabelledKey(public_key=f"{OTHER} two"))
    keys = AuthorizedKeys(user="deploy", label="ci", keys=wanted)
    file = FileFacts("file", old, "deploy", "deploy", 0o600)
    written = [change.action for change in keys.plan(KeysFacts("/srv/deploy", "deploy", FOLDER, file))]
    path = "/srv/deploy/.ssh/authorized_keys"
    assert written == ([WriteFile(path, new, "deploy", "deploy", 0o600)] if new is not None else [])


def test_an_empty_set_makes_no_file_and_no_folder() -> None:
    keys = AuthorizedKeys(user="deploy", label="ci")
    assert keys.plan(KeysFacts("/srv/deploy", "deploy", FileFacts(), FileFacts())) == []


@pytest.mark.parametrize("where", [".ssh", ".ssh/authorized_keys"])
def test_a_link_in_a_home_stops_a_set_with_keys_and_is_nothing_to_an_empty_one(where: str) -> None:
    accounts = FakeAccounts(groups={"root": 0, "deploy": 1})
    accounts.users["deploy"] = FakeUser(1, "deploy", home="/srv/deploy")
    link = FileFacts("symlink", None, "deploy", "deploy", 0o777, "/etc")
    behind = {"/srv/deploy/.ssh/authorized_keys": FileFacts("file", f"{ONE}\n", "deploy", "deploy", 0o600)}
    system = FakeSystem(accounts=accounts, files=behind | {f"/srv/deploy/{where}": link})
    keys = AuthorizedKeys(user="deploy", label="ci", keys=(LabelledKey(public_key=KEY),))
    empty = AuthorizedKeys(user="deploy", label="ci")
    absent = SshKey(path="/srv/deploy/.ssh/id", owner="deploy", absent=True)
    for resource, status in ((keys, Status.FAILED), (empty, Status.UNCHANGED), (absent, Status.UNCHANGED)):
        (result,) = converge([resource], system, MemoryDebts())
        assert result.status is status, result.reason
    assert system.performed == []


def test_a_label_is_one_word() -> None:
    with pytest.raises(ValueError, match="expected one word"):
        AuthorizedKeys(user="deploy", label="ci one")


# ---- a key pair

PAIR = SshKey(path="/var/lib/a/.ssh/id", owner="a", comment="of a")
MINE = FileFacts("file", None, "a", "a", 0o600)
PUBLIC = FileFacts("file", f"{KEY} whatever\n", "a", "a", 0o644)


def pair(private: FileFacts = MINE, public_file: FileFacts = PUBLIC, public: str = f"{KEY} x") -> SshKeyFacts:
    return SshKeyFacts(FOLDER, private, public_file, public, "a")


def test_a_key_pair_is_made_by_its_owner_on_the_node() -> None:
    changes = PAIR.plan(SshKeyFacts(FileFacts(), FileFacts(), FileFacts(), "", "a"))
    assert [change.action for change in changes] == [
        MakeDirectory("/var/lib/a/.ssh", "a", "a", 0o700),
        Run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of a", "-f", PAIR.path), user="a"),
    ]


def test_a_key_pair_that_is_there_is_left_and_its_public_half_is_told() -> None:
    assert PAIR.plan(pair()) == []
    assert PAIR.note(pair()) == f"{KEY} x"


def test_a_public_half_that_is_another_keys_is_replaced_and_an_open_private_one_is_closed() -> None:
    (public,) = PAIR.plan(pair(public_file=replace(PUBLIC, content="ssh-rsa AAAA\n")))
    assert public.action == WriteFile(f"{PAIR.path}.pub", f"{KEY} x\n", "a", "a", 0o644)
    (private,) = PAIR.plan(pair(replace(MINE, mode=0o640)))
    assert private.action == SetAttributes(PAIR.path, "a", "a", 0o600)


def test_what_is_no_usable_key_is_never_replaced() -> None:
    asked = (*PUBLIC_HALF, PAIR.path)
    system = FakeSystem(files={PAIR.path: MINE}, answers={asked: Output(255, "", "incorrect passphrase supplied")})
    (result,) = converge([PAIR], system, MemoryDebts())
    assert result.status is Status.FAILED
    assert "replaces no key" in result.reason
    assert system.performed == []
