"""Who may ask the daemon for what: viewer < operator < admin, by Unix group.

Rules:
1. The user is the kernel's word (SO_PEERCRED), and the groups are those the host's accounts give that user now: what a
   client says of itself counts nothing, and leaving a group counts from the next request on.
2. root and the user that the daemon runs as are admin: who holds either could change the master anyway.
3. A locked or expired account has no role, whatever its groups. That takes a daemon that may read /etc/shadow.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ..common.errors import UserError
from ..common.functions import Role

RANK: dict[Role | None, int] = {None: 0, "viewer": 1, "operator": 2, "admin": 3}
SHADOW = Path("/etc/shadow")
DAY_S = 86400


class NotAllowed(UserError):
    """Whoever asked may not. CLI exit code 8."""


class Groups(BaseModel):
    """`roles` of /etc/pgha/master.yml: the groups of each role. A group that the host does not have has no members."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    viewer: tuple[str, ...] = ("pgha-viewer",)
    operator: tuple[str, ...] = ("pgha-operator", "pgha")
    admin: tuple[str, ...] = ("pgha-admin",)

    def of(self, role: Role) -> tuple[str, ...]:
        return {"viewer": self.viewer, "operator": self.operator, "admin": self.admin}[role]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.viewer, *self.operator, *self.admin)


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody at the local socket. `why` says why there is no role, and is empty where there is one."""

    uid: int
    who: str  # the login name, or the number of a user that has none
    role: Role | None
    why: str = ""

    @property
    def described(self) -> str:
        return f"{self.who} (uid {self.uid}, {self.role or 'no role'})"


def allows(has: Role | None, needs: Role) -> bool:
    return RANK[has] >= RANK[needs]


def role_of(groups: Collection[str], settings: Groups) -> Role | None:
    """The highest role that one of these groups gives."""
    ranked: tuple[Role, ...] = ("admin", "operator", "viewer")
    return next((role for role in ranked if set(settings.of(role)) & set(groups)), None)


def check(operator: Operator, needs: Role, what: str, settings: Groups) -> None:
    """Raises NotAllowed, saying what is missing, when the operator's role is below `needs`."""
    if operator.role is None:
        raise NotAllowed(f"{operator.who} may not use this master: {operator.why or 'has no role here'}")
    if not allows(operator.role, needs):
        raise NotAllowed(
            f"{operator.who} may not {what}: that needs the role {needs} ({_groups_that_give(needs, settings)}),"
            f" and {operator.who} is {operator.role}"
        )


def _groups_that_give(role: Role, settings: Groups) -> str:
    names = settings.of(role)
    return f"group {' or '.join(names)}" if names else "no group gives it: see roles in master.yml"


def barred(shadow: str, who: str, today: int) -> str:
    """Why that account may not be used, from the text of /etc/shadow; "" when it may. `today` is in days since 1970.

    `!` before a password is what `usermod --lock` and `passwd --lock` write. `!` or `*` alone is an account that never
    had a password: its person comes in with a key, and is not locked.
    """
    for line in shadow.splitlines():
        fields = line.split(":")
        if fields[0] != who or len(fields) < 8:
            continue
        if fields[1].startswith("!") and fields[1].strip("!*"):
            return "the account is locked"
        if fields[7].isdigit() and int(fields[7]) <= today:
            return "the account has expired"
    return ""


def shadow_text() -> str | None:
    """None when this process may not read it, or the host has none."""
    try:
        return SHADOW.read_text(errors="replace")
    except OSError:
        return None


def look_up(uid: int, settings: Groups, now: float) -> Operator:
    """Asks the host's accounts who that is and what they may. Blocks as long as those need to answer."""
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        account = None
    who = account.pw_name if account else str(uid)
    if uid in (0, os.geteuid()):
        return Operator(uid, who, "admin")
    if account is None:
        return Operator(uid, who, None, "the host has no account of that number")
    if why := barred(shadow_text() or "", who, int(now // DAY_S)):
        return Operator(uid, who, None, why)
    role = role_of(_groups_of(account, settings), settings)
    if role is not None:
        return Operator(uid, who, role)
    first = settings.viewer[0] if settings.viewer else "GROUP"
    missing = f"not in one of the groups {', '.join(settings.all)}; as root: usermod -aG {first} {who}"
    return Operator(uid, who, None, missing)


def _groups_of(account: pwd.struct_passwd, settings: Groups) -> set[str]:
    """Which of the groups that give a role the account is in."""
    numbers = set(os.getgrouplist(account.pw_name, account.pw_gid))
    found = set()
    for name in settings.all:
        try:
            if grp.getgrnam(name).gr_gid in numbers:
                found.add(name)
        except KeyError:
            continue
    return found
