"""What lets people and programs in over SSH: a line of authorized_keys, and a key pair made on this host.

Rules:
1. A key is known by its type and its bytes. What else a line says is kept unless `options` says otherwise.
2. A private key is made where it is used, and nothing here reads it: the public half is asked of ssh-keygen. What is
   at its place already is never replaced, whatever it is.
3. In a home that its user could have prepared, no symbolic link is followed.

Source: sshd(8), AUTHORIZED_KEYS FILE FORMAT; ssh-keygen(1).
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from ...common.errors import HostError
from ..action import MakeDirectory, Run, SetAttributes, WriteFile
from ..resource import Change, Resource
from ..system import FileFacts, Look
from .accounts import getent, primary_group
from .fields import AbsolutePath, AccountName, OneLine, one_line
from .files import attribute_changes, unified

_TYPE = r"(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+"
_KEY = re.compile(rf"({_TYPE})[ \t]+([A-Za-z0-9+/]+=*)(?:[ \t]+(.*))?")
_LINE = re.compile(rf'(?:((?:[^\s"#]|"(?:[^"\\]|\\.)*")+)[ \t]+)?{_KEY.pattern}')
_OPTIONS = re.compile(r'(?:[^\s"#]|"(?:[^"\\]|\\.)*")*')
WRITABLE_BY_OTHERS = 0o022
# through a pipe, because of a file that others may read ssh-keygen says only that; `SshKey` closes it
PUBLIC_HALF = ("sh", "-c", 'cat -- "$1" | ssh-keygen -y -P "" -f /dev/stdin', "sh")


def _public(value: str) -> str:
    if "PRIVATE KEY" in value:
        raise ValueError("this is a private key; expected the line of its .pub file")
    found = _KEY.fullmatch(one_line(value.strip()))
    if found is None:
        raise ValueError("expected 'TYPE BASE64 COMMENT', as in a .pub file; options have a field of their own")
    if not _says_its_type(found[1], found[2]):
        raise ValueError(f"the key is damaged: its bytes are not those of a {found[1]} key")
    return value.strip()


def _quoted(value: str) -> str:
    if not _OPTIONS.fullmatch(value):
        raise ValueError("expected options as sshd reads them: separated by commas, spaces only within double quotes")
    return value


PublicKey = Annotated[str, AfterValidator(_public)]
"""`TYPE BASE64 COMMENT`, one line, whose bytes are of that type."""
KeyOptions = Annotated[str, AfterValidator(_quoted)]


@dataclass(frozen=True, slots=True)
class KeysFacts:
    """`home` of a user who is not there (yet) is a guess: it is planned with, and performing says what is missing."""

    home: str
    group: str
    folder: FileFacts
    file: FileFacts

    @property
    def lines(self) -> list[str]:
        return (self.file.content or "").splitlines()

    @property
    def unfit(self) -> str:
        """Why no key can be kept there; empty when one can."""
        if self.folder.kind not in ("absent", "directory"):
            return f"{self.home}/.ssh is a {self.folder.kind}, which pgha does not follow; make it a folder"
        if self.file.kind != "absent" and self.file.content is None:
            path = f"{self.home}/.ssh/authorized_keys"
            return f"{path} is a {self.file.kind} that is not plain text; no key can be kept in it"
        return ""


def authorized_keys_of(look: Look, user: str) -> KeysFacts:
    entry = getent(look, "passwd", user)
    home = entry[5] if entry else f"/home/{user}"
    folder, file = look.attributes(f"{home}/.ssh"), look.file(f"{home}/.ssh/authorized_keys")
    return KeysFacts(home, primary_group(look, user), folder, file)


def lines_changed(what: str, user: str, facts: KeysFacts, new: list[str]) -> list[Change]:
    """What makes these the lines of the file, and of file and folder what sshd reads."""
    path, old = f"{facts.home}/.ssh/authorized_keys", facts.lines
    changes: list[Change] = []
    if facts.folder.kind == "absent":
        make = MakeDirectory(f"{facts.home}/.ssh", user, facts.group, 0o700)
        changes.append(Change("folder .ssh", make, "absent", "directory"))
    elif _unsafe(user, facts.folder):
        changes += attribute_changes(f"{facts.home}/.ssh", facts.folder, user, facts.group, 0o700)
    if new != old:
        write = WriteFile(path, "".join(f"{line}\n" for line in new), user, facts.group, 0o600)
        changes.append(Change(what, write, diff=unified(old, new, new)))
    elif _unsafe(user, facts.file):
        changes += attribute_changes(path, facts.file, user, facts.group, 0o600)
    return changes


def _unsafe(user: str, facts: FileFacts) -> bool:
    """sshd would ignore it: StrictModes."""
    return facts.owner not in (user, "root") or bool(facts.mode & WRITABLE_BY_OTHERS)


class AuthorizedKey(Resource[KeysFacts]):
    """`public_key` is `TYPE BASE64 COMMENT`. `options` None: those of the line stay; a text: exactly these."""

    kind: Literal["authorized_key"] = "authorized_key"
    user: AccountName
    public_key: PublicKey
    options: KeyOptions | None = None
    absent: bool = False

    @property
    def _blob(self) -> str:
        return self.public_key.split()[1]

    def key(self) -> str:
        return f"{self.user}#{self._blob[-16:]}"

    def observe(self, look: Look) -> KeysFacts:
        facts = authorized_keys_of(look, self.user)
        if facts.unfit:
            raise HostError(facts.unfit)
        return facts

    def plan(self, facts: KeysFacts) -> list[Change]:
        old = facts.lines
        new = self._lines(old)
        if self.absent and new == old:
            return []
        return lines_changed("key", self.user, facts, new)

    def _lines(self, old: list[str]) -> list[str]:
        mine = [number for number, line in enumerate(old) if _blob(line) == self._blob]
        if self.absent:
            return [line for number, line in enumerate(old) if number not in mine]
        if mine and self.options is None:
            return old
        wanted = f"{self.options} {self.public_key}" if self.options else self.public_key
        if not mine:
            return [*old, wanted]
        # sshd takes the first line with the key: a second one could only loosen what the first restricts
        kept = _with_options(old[mine[0]], self.options or "")
        return [kept if n == mine[0] else line for n, line in enumerate(old) if n == mine[0] or n not in mine]


def _blob(line: str) -> str:
    found = _LINE.fullmatch(line.strip())
    return found[3] if found else ""


def comment_of(line: str) -> str:
    """What stands behind the key, empty for a line that has none."""
    found = _LINE.fullmatch(line.strip())
    return found[4] or "" if found else ""


def _with_options(line: str, options: str) -> str:
    found = _LINE.fullmatch(line.strip())
    assert found is not None
    if (found[1] or "") == options:
        return line
    return " ".join(word for word in (options, found[2], found[3], found[4]) if word)


def _says_its_type(kind: str, blob: str) -> bool:
    """Whether the key's bytes begin with its type. Source: RFC 4253, 6.6."""
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    length = int.from_bytes(data[:4], "big")
    return data[4 : 4 + length] == kind.encode() and len(data) > 4 + length


@dataclass(frozen=True, slots=True)
class SshKeyFacts:
    """`public`: the public half as ssh-keygen reads it out of the pair, empty when there is no pair."""

    folder: FileFacts
    private: FileFacts
    public_file: FileFacts
    public: str
    group: str


class SshKey(Resource[SshKeyFacts]):
    """An ed25519 key pair without passphrase at PATH and PATH.pub; the result's note is its public half.

    `absent`: neither of the two files is there, and no copy is kept of what they were.
    """

    kind: Literal["ssh_key"] = "ssh_key"
    path: AbsolutePath
    owner: AccountName = "root"
    group: AccountName | Literal[""] = ""
    comment: OneLine = ""
    absent: bool = False

    def key(self) -> str:
        return self.path

    @property
    def _folder(self) -> str:
        return posixpath.dirname(self.path)

    def observe(self, look: Look) -> SshKeyFacts:
        folder, private = look.attributes(self._folder), look.attributes(self.path)
        public, group = "", self.group or primary_group(look, self.owner)
        if folder.kind not in ("absent", "directory") and not self.absent:
            raise HostError(f"{self._folder} is a {folder.kind}, which pgha does not follow; make it a folder")
        if private.kind != "absent" and not self.absent:
            said = look.ask((*PUBLIC_HALF, self.path))
            if said.rc != 0:
                raise HostError(
                    f"{self.path} is there but is no private key that can be used without a passphrase, and pgha "
                    f"replaces no key; move it away, or name another path. {said.stderr.strip()}".rstrip()
                )
            public = said.stdout.strip()
        return SshKeyFacts(folder, private, look.file(self.path + ".pub"), public, group)

    def plan(self, facts: SshKeyFacts) -> list[Change]:
        if self.absent:
            if facts.private.kind == facts.public_file.kind == "absent":
                return []
            remove = Run(("rm", "-f", "--", self.path, f"{self.path}.pub"), user=self.owner)
            return [Change("key pair", remove, "there", "absent")]
        changes: list[Change] = []
        if facts.folder.kind == "absent":
            make = MakeDirectory(self._folder, self.owner, facts.group, 0o700)
            changes.append(Change("folder", make, "absent", "directory"))
        if not facts.public:
            comment = self.comment or self.owner
            argv = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", self.path)
            return [*changes, Change("key pair", Run(argv, user=self.owner), "absent", "ed25519, made here")]
        if (facts.private.owner, facts.private.mode) != (self.owner, 0o600):
            action = SetAttributes(self.path, self.owner, facts.group, 0o600)
            before = f"{facts.private.owner} {facts.private.mode:04o}"
            changes.append(Change("private key", action, before, f"{self.owner} 0600"))
        if (facts.public_file.content or "").split()[:2] != facts.public.split()[:2]:
            write = WriteFile(self.path + ".pub", facts.public + "\n", self.owner, facts.group, 0o644)
            changes.append(Change("public key", write, facts.public_file.kind, "that of the private key"))
        return changes

    def note(self, facts: SshKeyFacts) -> str:
        return facts.public
