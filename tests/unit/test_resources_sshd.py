"""Settings of the SSH server: what is refused, what is asked beforehand, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
from pgha.common.errors import UserError
from pgha.common.results import ResourceResult, Status
from pgha.states.action import Greeting, Guarded, Remove, Run, Unit, WriteFile
from pgha.states.converge import MemoryDebts, converge
from pgha.states.kinds import decode
from pgha.states.resources import sshd
from pgha.states.resources.sshd import Sshd
from pgha.states.simulated_sshd import FakeSshd
from pgha.states.system import FileFacts, Output, UnitFacts
from pgha.states.testing import FakeSystem

PATH = "/etc/ssh/sshd_config.d/00-pgha.conf"
ACTIVE = UnitFacts("loaded", "active", "enabled", 1.0)


def server(
    drop_ins: dict[str, str] | None = None,
    units: tuple[str, ...] = ("ssh.service",),
    main: dict[str, str] | None = None,
) -> FakeSystem:
    """`drop_ins`: name -> what stands in it."""
    files = {
        f"/etc/ssh/sshd_config.d/{name}.conf": FileFacts("file", text, "root", "root", 0o644)
        for name, text in (drop_ins or {}).items()
    }
    return FakeSystem(sshd=FakeSshd(main or {}), files=files, units=dict.fromkeys(units, ACTIVE))


def wanted(**settings: str | int) -> Sshd:
    return Sshd(name="00-pgha", settings=settings or {"MaxAuthTries": 3})


def apply(resource: Sshd, system: FakeSystem) -> ResourceResult:
    (result,) = converge([resource], system, MemoryDebts())
    return result


# ---- what is refused as it is written


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"Port": 2222}, "settings: Port is not set here: the firewall lets SSH in on port 22 only"),
        ({"ListenAddress": "10.0.0.1"}, "settings: ListenAddress is not set here"),
        ({"addressfamily": "inet6"}, "settings: addressfamily is not set here"),
        ({"Match": "User root"}, "settings: Match is not set here: only settings that count for every connection are"),
        ({"Include": "/x"}, "settings: Include is not set here"),
        ({"MaxAuthTries": 3, "maxauthtries": 4}, "settings: maxauthtries stands twice"),
        ({"MaxAuthTries 3\nPort": 1}, "settings: expected a keyword of sshd_config"),
        ({"Banner": "a\nPort 2"}, "settings: expected one line"),
        ({"Banner": " "}, "settings: Banner: expected a value"),
        ({"UsePAM": True}, "settings"),  # YAML's word, not the server's
        ({}, "expected settings, or absent: true, and not both"),
    ],
)
def test_what_is_not_this_kinds_is_refused_with_the_reason(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        decode([{"kind": "sshd", "name": "00-pgha", "settings": settings}])


# ---- what is refused before anything is written

LOCKED_OUT = [
    ({"PubkeyAuthentication": "no", "PasswordAuthentication": "no"}, "every way to prove who one is"),
    ({"PasswordAuthentication": "no", "AuthorizedKeysFile": "none"}, "keys are the only way in, and none"),
    ({"MaxAuthTries": 0}, "no attempt is allowed"),
    ({"MaxSessions": 0}, "no session is allowed"),
    ({"RefuseConnection": "yes"}, "every connection is refused"),
    ({"ForceCommand": "internal-sftp"}, "forcecommand counts for every user"),
    ({"ChrootDirectory": "/srv"}, "chrootdirectory counts for every user"),
    ({"DenyUsers": "ada *"}, "denyusers is *"),
    ({"AllowUsers": "nobody-here nor-there"}, "allowusers names nobody-here, nor-there only"),
    ({"AllowUsers": "root", "PermitRootLogin": "no"}, "allowusers names root only"),
    ({"AllowUsers": "root", "DenyUsers": "root"}, "allowusers names root only"),
    ({"AllowGroups": "nogroup-here"}, "allowgroups names nogroup-here only"),
]


@pytest.mark.parametrize(("settings", "said"), LOCKED_OUT, ids=lambda value: str(value)[:40])
def test_what_lets_nobody_in_is_an_error_of_the_plan(settings: dict[str, Any], said: str) -> None:
    system = server()
    result = apply(wanted(**settings), system)
    assert result.status is Status.FAILED
    assert result.reason.startswith(f"with these settings nobody could log in by SSH: {said}")
    assert system.performed == []


@pytest.mark.parametrize(
    "settings",
    [
        {"PermitRootLogin": "no"},
        {"PasswordAuthentication": "no"},
        {"AllowUsers": "root nobody-here"},
        {"AllowUsers": "somebody@10.0.0.*"},
        {"AllowUsers": "adm*"},
        {"AllowGroups": "root"},
        {"DenyUsers": "ada"},
    ],
    ids=str,
)
def test_what_may_let_somebody_in_is_taken(settings: dict[str, Any]) -> None:
    assert apply(wanted(**settings), server()).status is Status.CHANGED


def test_what_was_so_before_is_not_held_against_the_settings() -> None:
    assert apply(wanted(MaxAuthTries=3), server(main={"forcecommand": "/bin/menu"})).status is Status.CHANGED


def test_what_the_server_does_not_know_is_refused_in_its_words() -> None:
    system = server()
    result = apply(wanted(Nonsense="yes"), system)
    assert (
        result.reason
        == "the SSH server refuses these settings: the settings: line 1: Bad configuration option: Nonsense"
    )
    assert system.performed == []


def test_settings_of_others_that_are_broken_are_to_be_put_right_first() -> None:
    result = apply(wanted(), server({"other": "Nonsense yes\n"}))
    assert result.status is Status.FAILED
    assert "refuses its other settings; put them right first" in result.reason


def test_our_own_file_that_somebody_broke_is_repaired() -> None:
    system = server({"00-pgha": "Nonsense yes\n"})
    assert apply(wanted(), system).status is Status.CHANGED
    assert "MaxAuthTries 3\n" in (system.file(PATH).content or "")


def test_a_setting_that_an_earlier_file_decides_is_an_error_and_no_silence() -> None:
    system = server({"00-cloud": "PasswordAuthentication yes\n"})
    result = apply(wanted(PasswordAuthentication="no"), system)
    assert result.status is Status.FAILED
    assert "but PasswordAuthentication is yes: a file that is read before it decides" in result.reason
    assert "take another name" in result.reason


# ---- the guarded action


def test_writing_and_reloading_are_one_change_with_a_way_back() -> None:
    resource = wanted(PasswordAuthentication="no")
    (change,) = resource.plan(resource.observe(server({"00-pgha": "MaxAuthTries 4\n"})))
    assert str(change.disruption) == "reload ssh"
    assert change.diff.endswith("+# managed by pgha\n+PasswordAuthentication no")
    kept = "/var/lib/pgha/revert/sshd-00-pgha.conf"
    assert isinstance(change.action, Guarded)
    assert change.action.prepare[-1] == Run(("cp", "-p", PATH, kept))
    assert change.action.actions == (
        WriteFile(PATH, "# managed by pgha\nPasswordAuthentication no\n", check=sshd.CHECK),
        Run(("/usr/sbin/sshd", "-t")),
        Unit("reload", "ssh.service"),
    )
    assert change.action.revert == (
        ("cp", "-p", kept, PATH),
        ("systemctl", "reset-failed", "ssh.service"),
        ("sh", "-c", "systemctl -q is-active ssh.service && ! /usr/sbin/sshd -t || exec systemctl restart ssh.service"),
    )
    assert change.action.greets == (Greeting("127.0.0.1", 22, "SSH-"),)


def test_what_makes_the_server_deaf_is_put_back_and_reported_as_failed() -> None:
    for system in (server(), server({"00-pgha": "MaxAuthTries 4\n"})):
        before = dict(system.files)
        result = apply(wanted(PerSourceMaxStartups=0), system)
        assert result.status is Status.FAILED
        assert "put back" in result.reason
        assert system.files.get(PATH) == before.get(PATH)


def test_a_server_that_nobody_has_started_is_left_so_and_needs_no_guard() -> None:
    system = server(units=())
    assert apply(wanted(), system).status is Status.CHANGED
    assert [type(action) for action in system.performed] == [WriteFile]


FOLDER_GONE = Output(255, "", "Missing privilege separation directory: /run/sshd\n")


def test_a_server_that_is_stopped_is_asked_in_the_newer_way_or_must_be_started_first() -> None:
    system = server(units=())
    assert system.sshd is not None
    text, stdin = "# managed by pgha\nMaxAuthTries 3\n", sshd.THE_REST
    for argv in (sshd.EFFECTIVE, sshd.WOULD_BE):
        known = system.sshd.ask(argv, None if argv == sshd.EFFECTIVE else text + stdin, system.files)
        assert known is not None
        system.answers |= {argv: FOLDER_GONE, (sshd.SSHD, "-G", *argv[2:]): known}
    (change,) = wanted().plan(wanted().observe(system))
    assert isinstance(change.action, WriteFile)
    system.answers[sshd.SSHD, "-G"] = Output(255, "", "unknown option -- G\n")
    assert "start it first" in apply(wanted(), system).reason


def test_a_server_that_systemd_starts_when_somebody_comes_is_guarded_and_not_reloaded() -> None:
    resource = wanted()
    (change,) = resource.plan(resource.observe(server(units=("ssh.socket",))))
    assert isinstance(change.action, Guarded)
    assert not any(isinstance(action, Unit) for action in change.action.actions)
    assert change.action.revert[-1][-1].endswith("systemctl try-restart ssh.service")


def test_a_file_that_goes_is_guarded_too() -> None:
    resource = Sshd(name="00-pgha", absent=True)
    (change,) = resource.plan(resource.observe(server({"00-pgha": "MaxAuthTries 4\n"})))
    assert isinstance(change.action, Guarded)
    assert change.action.actions[0] == Remove(PATH)


def test_every_address_is_asked_as_this_host_reaches_it() -> None:
    said = sshd.parse("port 22\nlistenaddress [::]:22\nlistenaddress 0.0.0.0:22\nlistenaddress [fe80::1%eth0]:2022\n")
    assert [str(one) for one in sshd.greetings(said)] == ["[::1]:22", "127.0.0.1:22", "[fe80::1]:2022"]
