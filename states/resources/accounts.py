"""User and group of this host.

Rules:
1. A number and a home are given once: files keep the old number, and what is in a home would have to move with it.
   Where another one is wanted than is there, that is refused, and for a person to do.
2. A user is made without a password that anybody could log in with; pgha sets none.
3. Who goes leaves the home behind, unless `remove_home` says otherwise. root and other accounts with number 0 stay.

Source: useradd(8), usermod(8), userdel(8) of Debian; getent(1): 2 is "not found".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ...common.errors import HostError
from ..action import Run
from ..resource import Change, Resource
from ..system import Look
from .fields import AbsolutePath, AccountName, OneLine

NOT_FOUND = 2


@dataclass(frozen=True, slots=True)
class GroupFacts:
    gid: int | None = None  # None: there is no such group


class Group(Resource[GroupFacts]):
    kind: Literal["group"] = "group"
    name: AccountName
    gid: int | None = Field(default=None, ge=1, le=2**32 - 2)
    system: bool = False
    absent: bool = False

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> GroupFacts:
        entry = getent(look, "group", self.name)
        return GroupFacts(int(entry[2]) if entry else None)

    def plan(self, facts: GroupFacts) -> list[Change]:
        if self.absent:
            if facts.gid == 0:
                raise HostError(f"group {self.name} has number 0; it is not removed")
            return [Change("group", Run(("groupdel", self.name)), "there", "absent")] if facts.gid is not None else []
        if facts.gid is None:
            options = (*(("--system",) if self.system else ()), *(("--gid", str(self.gid)) if self.gid else ()))
            return [Change("group", Run(("groupadd", *options, self.name)), "absent", _numbered("gid", self.gid))]
        if self.gid not in (None, facts.gid):
            raise HostError(
                f"group {self.name} has gid {facts.gid}, not {self.gid}; pgha does not change it, because files keep "
                f"the old number. By hand: groupmod --gid {self.gid} {self.name}, then chgrp its files"
            )
        return []


@dataclass(frozen=True, slots=True)
class UserFacts:
    """`uid` None: there is no such user. `groups`: the supplementary ones. `namesake`: a group of the same name."""

    uid: int | None = None
    group: str = ""
    groups: frozenset[str] = frozenset()
    home: str = ""
    shell: str = ""
    comment: str = ""
    namesake: bool = False


class User(Resource[UserFacts]):
    """What is empty is left as it is, or to the system's default for a new user.

    `group` is the primary one. `append`: the user may be in other groups than `groups`; without it in none.
    `system` counts for a new user only: a low number and, unless said otherwise, no home and no login.
    """

    kind: Literal["user"] = "user"
    name: AccountName
    uid: int | None = Field(default=None, ge=1, le=2**32 - 2)
    group: AccountName | Literal[""] = ""
    groups: tuple[AccountName, ...] = ()
    append: bool = True
    home: AbsolutePath | Literal[""] = ""
    create_home: bool | None = None
    shell: AbsolutePath | Literal[""] = ""
    comment: OneLine = ""
    system: bool = False
    absent: bool = False
    remove_home: bool = False

    @field_validator("comment")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("a ':' separates fields in /etc/passwd, so there can be none in a comment")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> User:
        if self.absent and self.name == "root":
            raise ValueError("absent: root cannot be removed")
        if self.remove_home and not self.absent:
            raise ValueError("remove_home: it goes with absent: true only")
        return self

    def key(self) -> str:
        return self.name

    def observe(self, look: Look) -> UserFacts:
        namesake = getent(look, "group", self.name) is not None
        entry = getent(look, "passwd", self.name)
        if entry is None:
            return UserFacts(namesake=namesake)
        group = primary_group(look, self.name)
        groups = frozenset(look.ask(("id", "-Gn", self.name)).stdout.split()) - {group}
        return UserFacts(int(entry[2]), group, groups, entry[5], entry[6], entry[4], namesake)

    def plan(self, facts: UserFacts) -> list[Change]:
        if self.absent:
            return self._removal(facts)
        if facts.uid is None:
            return [Change("user", Run(self._useradd(facts)), "absent", _numbered("uid", self.uid))]
        self._refuse(facts)
        action = Run(("usermod", *self._differing(facts), self.name))
        values = (
            ("group", facts.group, self.group),
            ("shell", facts.shell, self.shell),
            ("comment", facts.comment, self.comment),
        )
        changes = [
            Change(what, action, before or "none", wanted)
            for what, before, wanted in values
            if wanted not in ("", before)
        ]
        if self._groups(facts) != facts.groups:
            before, after = (", ".join(sorted(names)) or "none" for names in (facts.groups, self._groups(facts)))
            changes.append(Change("groups", action, before, after))
        return changes

    def _groups(self, facts: UserFacts) -> frozenset[str]:
        """The supplementary groups as they are wanted; the primary one is none of them."""
        primary = self.group or facts.group
        return (frozenset(self.groups) | (facts.groups if self.append else frozenset())) - {primary}

    def _refuse(self, facts: UserFacts) -> None:
        if self.uid not in (None, facts.uid):
            raise HostError(
                f"user {self.name} has uid {facts.uid}, not {self.uid}; pgha does not change it, because files keep "
                f"the old number. By hand: usermod --uid {self.uid} {self.name}, then chown its files"
            )
        if self.home not in ("", facts.home):
            raise HostError(
                f"user {self.name} has the home {facts.home}, not {self.home}; pgha does not change it, because what "
                f"is there would stay behind. By hand: usermod --home {self.home} --move-home {self.name}"
            )

    def _useradd(self, facts: UserFacts) -> tuple[str, ...]:
        group = self.group or (self.name if facts.namesake else "")
        with_home = not self.system if self.create_home is None else self.create_home
        shell = self.shell or ("/usr/sbin/nologin" if self.system else "/bin/bash")
        words = ["useradd", "--create-home" if with_home else "--no-create-home", "--shell", shell]
        words += ["--system"] if self.system else []
        words += ["--uid", str(self.uid)] if self.uid is not None else []
        words += ["--gid", group] if group else ["--user-group"]
        words += ["--groups", ",".join(self.groups)] if self.groups else []
        words += ["--home-dir", self.home] if self.home else []
        words += ["--comment", self.comment] if self.comment else []
        return (*words, self.name)

    def _differing(self, facts: UserFacts) -> list[str]:
        words: list[str] = []
        words += ["--gid", self.group] if self.group not in ("", facts.group) else []
        words += ["--shell", self.shell] if self.shell not in ("", facts.shell) else []
        words += ["--comment", self.comment] if self.comment not in ("", facts.comment) else []
        groups = self._groups(facts)
        words += ["--groups", ",".join(sorted(groups))] if groups != facts.groups else []
        return words

    def _removal(self, facts: UserFacts) -> list[Change]:
        if facts.uid is None:
            return []
        if facts.uid == 0:
            raise HostError(f"user {self.name} has number 0; it is not removed")
        if self.remove_home and facts.home.count("/") < 2:
            raise HostError(f"the home of {self.name} is {facts.home}, which is too near the root to be removed")
        options = ("--remove",) if self.remove_home else ()
        after = f"absent, with {facts.home}" if self.remove_home else f"absent; {facts.home} stays"
        lost = facts.home if self.remove_home else ""
        return [Change("user", Run(("userdel", *options, self.name)), "there", after, destroys=lost)]


def getent(look: Look, database: str, name: str) -> list[str] | None:
    """The fields of an entry; None when there is none. Raises HostError when the host cannot say."""
    said = look.ask(("getent", database, name))
    if said.rc == NOT_FOUND:
        return None
    fields = said.stdout.strip().split(":")
    if said.rc != 0 or len(fields) < 3:
        raise HostError(f"getent {database} {name} failed with exit code {said.rc}: {said.stderr.strip()}")
    return fields


def primary_group(look: Look, user: str) -> str:
    """The name of a user's primary group; the user's own name where there is no such user yet."""
    said = look.ask(("id", "-gn", user))
    return said.stdout.strip() if said.rc == 0 else user


def _numbered(what: str, number: int | None) -> str:
    return f"there, {what} {number}" if number is not None else "there"
