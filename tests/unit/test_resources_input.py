"""What is wrong with a resource is told when it is read: which field, and what was expected there."""

from __future__ import annotations

from typing import Any

import pytest
from pgha.common import yamltext
from pgha.common.errors import UserError
from pgha.states.kinds import decode
from pgha.states.resources.files import File

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaSYAABYJKwYBBAHaRw8BAQdA\n-----END PGP PUBLIC KEY BLOCK-----\n"
REPOSITORY = {"kind": "apt_repository", "name": "a", "uris": ["https://a"], "suites": ["x"], "components": ["main"]}
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi0nq3QSrVZ0vLrMPGx0TD6pdjvYyVgXJPCBkS0nL3s"
MOUNT = {"kind": "mount", "path": "/srv/a", "source": "/dev/sdb1", "fstype": "ext4"}
COMMAND = {"kind": "command", "name": "a", "argv": ["a"]}
DATABASE = {"kind": "postgres_database", "database": "app"}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "package", "name": "a b"}, "name", "name of one package"),
    ({"kind": "package", "name": "tool", "version": "> 2"}, "version", "one exact version"),
    ({"kind": "package", "name": "tool", "absent": True, "hold": True}, "absent", "no hold"),
    ({"kind": "package", "name": "tool", "pin": {"priority": 1}}, "pin", "exactly one of version, release and origin"),
    ({"kind": "package", "name": "tool", "pin": {"priority": 0, "version": "1"}}, "priority", "but 0"),
    ({"kind": "package", "name": "tool", "pin": {"priority": 9, "version": "1\nPin: x"}}, "version", "one line"),
    (REPOSITORY, "signed_by", "armored key"),
    ({**REPOSITORY, "signed_by": "mDMEaSYAABYJ"}, "signed_by", "-----BEGIN PGP PUBLIC KEY BLOCK-----"),
    ({**REPOSITORY, "signed_by": KEY.replace("PUBLIC", "PRIVATE")}, "signed_by", "private key"),
    ({**REPOSITORY, "signed_by": KEY.replace("\n-----END", "\n=AAAA\n-----END")}, "signed_by", "checksum is wrong"),
    ({**REPOSITORY, "signed_by": KEY.replace("mDME", "AAAA")}, "signed_by", "no public key"),
    ({**REPOSITORY, "signed_by": KEY.replace("mDME", "mDM")}, "signed_by", "base64"),
    ({**REPOSITORY, "signed_by": KEY, "components": []}, "components", "expected some"),
    ({**REPOSITORY, "signed_by": KEY, "suites": ["x y"]}, "", "a word without spaces"),
    ({**REPOSITORY, "signed_by": KEY, "name": "a/b"}, "name", "letters, digits"),
    ({"kind": "line", "path": "/a", "line": "a", "match": "("}, "match", "no regular expression"),
    ({"kind": "line", "path": "/a", "line": "a\nb"}, "line", "one line"),
    ({"kind": "line", "path": "/a", "match": "a"}, "line", "expected the text"),
    ({"kind": "line", "path": "a", "line": "a"}, "path", "absolute path"),
    ({"kind": "line", "path": "/a/../b", "line": "a"}, "path", "without '..'"),
    ({"kind": "line", "path": "/a", "line": "a", "match": "b", "absent": True}, "absent", "either line or match"),
    ({"kind": "user", "name": "Deploy!"}, "name", "a-z"),
    ({"kind": "user", "name": "deploy", "uid": 0}, "uid", "greater than or equal to 1"),
    ({"kind": "user", "name": "deploy", "comment": "a:b"}, "comment", "':'"),
    ({"kind": "user", "name": "root", "absent": True}, "absent", "root"),
    ({"kind": "user", "name": "deploy", "remove_home": True}, "remove_home", "absent: true"),
    ({"kind": "user", "name": "deploy", "password": "x"}, "password", "not permitted"),
    ({"kind": "group", "name": "a:b"}, "name", "a-z"),
    ({"kind": "authorized_key", "user": "a", "public_key": "hello"}, "public_key", "TYPE BASE64 COMMENT"),
    ({"kind": "authorized_key", "user": "a", "public_key": f"no-pty {SSH}"}, "public_key", "field of their own"),
    ({"kind": "authorized_key", "user": "a", "public_key": SSH.replace("ssh-ed", "ssh-rsa-")}, "public_key", "damaged"),
    ({"kind": "authorized_key", "user": "a", "public_key": SSH[:-2]}, "public_key", "damaged"),
    ({"kind": "authorized_key", "user": "a", "public_key": f"{SSH}\n{SSH}"}, "public_key", "one line"),
    ({"kind": "authorized_key", "user": "a", "public_key": "-----BEGIN OPENSSH PRIVATE KEY"}, "public_key", ".pub"),
    ({"kind": "authorized_key", "user": "a", "public_key": SSH, "options": "no pty"}, "options", "double quotes"),
    ({"kind": "ssh_key", "path": "id"}, "path", "absolute path"),
    ({"kind": "thp", "value": "off"}, "value", "'never'"),
    ({"kind": "limits", "domain": "a b", "soft": {"nofile": 1}}, "domain", "@group"),
    ({"kind": "limits", "domain": "a"}, "soft", "at least one limit"),
    ({"kind": "limits", "domain": "a", "soft": {"nofiles": 1}}, "soft.nofiles", "'nofile'"),
    ({"kind": "limits", "domain": "a", "hard": {"nofile": "unlimited"}}, "hard", "nobody could log in"),
    ({"kind": "limits", "domain": "a", "soft": {"nproc": 2}, "hard": {"nproc": 1}}, "soft.nproc", "at most"),
    ({"kind": "limits", "domain": "a", "soft": {"nproc": -1}}, "soft.nproc", "greater than or equal to 0"),
    ({**MOUNT, "path": "/usr"}, "path", "the system's own"),
    ({**MOUNT, "path": "/srv/a/"}, "path", "slash at its end"),
    ({**MOUNT, "fstype": "swap"}, "fstype", "no swap"),
    ({**MOUNT, "options": "ro, noatime"}, "options", "one word"),
    ({"kind": "mount", "path": "/srv/a"}, "source", "unless absent"),
    ({"kind": "unit", "name": "app", "content": "[Unit]\n"}, "name", "with its ending"),
    ({"kind": "unit", "name": "app.service", "content": "ExecStart=/a"}, "content", "[Service]"),
    ({"kind": "drop_in", "unit": "app.service", "name": "../a", "content": "[Unit]\n"}, "name", "letters, digits"),
    ({"kind": "timer", "name": "job.timer", "on_calendar": "daily", "command": ["a"]}, "name", "without its ending"),
    ({"kind": "timer", "name": "job", "command": ["a"]}, "on_calendar", "expected a time"),
    ({"kind": "timer", "name": "job", "on_calendar": "daily"}, "command", "a list of words"),
    ({"kind": "timer", "name": "job", "on_calendar": "daily", "command": "a b"}, "command", "a list"),
    (
        {"kind": "timer", "name": "a", "on_calendar": "daily", "command": ["-/a"]},
        "command",
        "would mean more to systemd",
    ),
    (COMMAND, "", "at least one of creates, unless and only_if"),
    ({**COMMAND, "argv": "a b", "creates": "/a"}, "argv", "a list"),
    ({**COMMAND, "argv": [], "creates": "/a"}, "argv", "a list of words"),
    ({**COMMAND, "creates": "a"}, "creates", "absolute path"),
    ({**COMMAND, "creates": "/a", "timeout_s": 0.0}, "timeout_s", "greater than 0"),
    ({**COMMAND, "creates": "/a", "env": {"A B": "c"}}, "env", "names of variables"),
    ({"kind": "hosts"}, "entries", "at least one address"),
    ({"kind": "hosts", "entries": {"db1": ["10.0.0.1"]}}, "entries", "IP address"),
    ({"kind": "hosts", "entries": {"10.0.0.1": ["a b"]}}, "entries", "name of a host"),
    ({"kind": "hosts", "entries": {"10.0.0.1": []}}, "entries", "at least one name"),
    ({"kind": "hosts", "entries": {"10.0.0.1": ["a"], "10.0.0.2": ["a"]}}, "entries", "stands twice"),
    ({**DATABASE, "absent": True}, "absent", "destroy: true"),
    ({**DATABASE, "destroy": True}, "destroy", "absent: true only"),
    ({**DATABASE, "database": "postgres", "absent": True, "destroy": True}, "absent", "stays"),
    ({**DATABASE, "locale": "C'; drop"}, "locale", "one word"),
    ({**DATABASE, "database": ""}, "database", "1 to 63 bytes"),
    ({"kind": "postgres_extension", "extension": "a", "database": "b", "absent": True}, "absent", "destroy: true"),
    ({"kind": "file", "path": "/a", "content": "", "mode": "rw-r--r--"}, "mode", "octal digits"),
    ({"kind": "file", "path": "/a", "content": "", "mode": "0888"}, "mode", "octal digits"),
]


@pytest.mark.parametrize(("data", "field", "expected"), WRONG, ids=lambda v: str(v)[:60])
def test_wrong_input_is_told_with_its_field_and_what_was_expected(
    data: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(UserError) as error:
        decode([data])
    said = str(error.value)
    assert said.startswith(f"resource number 0 ({data['kind']})"), said
    assert expected in said
    assert field in said
    assert "Value error" not in said


@pytest.mark.parametrize("written", ["0640", "0o640", "'0640'", "'640'"])
def test_a_mode_may_be_written_as_people_write_it(written: str) -> None:
    data = yamltext.parse("a.yml", f"kind: file\npath: /a\ncontent: ''\nmode: {written}\n").data
    (file,) = decode([data])
    assert isinstance(file, File)
    assert file.mode == 0o640
