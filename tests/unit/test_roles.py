"""Who may ask the master for what, and that every verb says so."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pgha.common.errors import HostError, UserError
from pgha.common.functions import FUNCTIONS, Function, Role
from pgha.common.paths import Paths
from pgha.master import control, roles, setup
from pgha.master.control import Control, Request
from pgha.master.keeping.audit import link, told
from pgha.master.operators import Operators, Refusals
from pgha.master.roles import Groups, NotAllowed, Operator, allows, barred, role_of
from pgha.master.store.audit import AuditRow
from pgha.master.verbs import VERBS, role_to_run

GROUPS = Groups()
REVEALS_OR_CHANGES = ("accept", "reject", "revoke", "rotate", "token", "set", "reveal", "client", "apply", "cancel")


def role_for(verb: str, **args: Any) -> Role:
    needs = VERBS[verb][1]
    return needs(args) if callable(needs) else needs


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        ((), None),
        (("users", "sudo"), None),
        (("pgha-viewer",), "viewer"),
        (("pgha",), "operator"),
        (("pgha-operator", "pgha-viewer"), "operator"),
        (("pgha-viewer", "users", "pgha-admin"), "admin"),
    ],
)
def test_the_highest_role_that_a_group_gives_counts(groups: tuple[str, ...], role: Role | None) -> None:
    assert role_of(groups, GROUPS) == role


def test_a_role_may_what_the_lower_ones_may_and_no_role_may_nothing() -> None:
    order: tuple[Role, ...] = ("viewer", "operator", "admin")
    for number, has in enumerate(order):
        assert [allows(has, needs) for needs in order] == [number >= other for other in range(3)]
    assert not any(allows(None, needs) for needs in order)


def test_what_is_missing_is_named() -> None:
    viewer = Request({}, "ann", 1000, "viewer", GROUPS)
    viewer.need("viewer", "look")
    with pytest.raises(
        NotAllowed, match=r"^ann may not run cmd: that needs the role operator \(group pgha-operator or"
    ):
        viewer.need("operator", "run cmd")
    with pytest.raises(NotAllowed, match="no group gives it"):
        Request({}, "ann", 1000, "viewer", Groups(admin=())).need("admin", "reveal")


def test_a_request_that_nobody_vouched_for_may_nothing() -> None:
    with pytest.raises(NotAllowed):
        Request({}, "ann").need("viewer", "look")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.split(".")[-1] in REVEALS_OR_CHANGES])
def test_no_viewer_may_change_or_reveal_anything(verb: str) -> None:
    assert role_for(verb) in ("operator", "admin")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.startswith(("keys.", "secrets.", "audit", "certs."))])
def test_trust_and_secrets_are_an_admins_and_their_lists_a_viewers(verb: str) -> None:
    expected = "viewer" if verb in ("keys.list", "secrets.list", "certs.list") else "admin"
    assert role_for(verb) == expected


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_to_run_a_function_takes_the_role_of_that_function(function: Function) -> None:
    assert role_to_run({"function": function.name}) == function.role
    assert role_to_run({"function": function.name, "force_unsafe": True}) == "admin"


@pytest.mark.parametrize("args", [{}, {"argv": ["id"]}, {"function": ""}, {"function": "nope"}, {"function": ["ping"]}])
def test_to_run_anything_else_is_an_operators(args: dict[str, Any]) -> None:
    assert role_to_run(args) == "operator"


HASH = "$y$j9T$abc$def"


@pytest.mark.parametrize(
    ("password", "expires", "why"),
    [
        (HASH, "", ""),
        (HASH, "20001", ""),
        (HASH, "20000", "the account has expired"),
        (HASH, "1", "the account has expired"),
        (HASH, "0", "the account has expired"),
        ("!" + HASH, "", "the account is locked"),
        ("!!" + HASH, "", "the account is locked"),
        ("!", "", ""),
        ("!!", "", ""),
        ("*", "", ""),
        ("!*", "", ""),
        ("*", "19999", "the account has expired"),
    ],
)
def test_a_locked_or_expired_account_is_barred_and_one_without_a_password_is_not(
    password: str, expires: str, why: str
) -> None:
    shadow = f"root:*:20228:0:99999:7:::\nann:{password}:20228:0:99999:7::{expires}:\nbob:!{HASH}:1:0:9:7::1:\n"
    assert barred(shadow, "ann", 20000) == why


def test_an_account_that_is_in_no_shadow_file_is_judged_by_its_groups() -> None:
    assert barred("garbage\n:::\nanna:!x:::::1:\n", "ann", 20000) == ""


@pytest.fixture
def somebody() -> pwd.struct_passwd:
    """An account of this host that is neither root nor the one that runs the test."""
    return next(account for account in pwd.getpwall() if account.pw_uid not in (0, os.geteuid()))


def primary(account: pwd.struct_passwd) -> str:
    import grp

    return grp.getgrgid(account.pw_gid).gr_name


def test_the_primary_group_counts_and_a_group_that_does_not_exist_does_not(
    somebody: pwd.struct_passwd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "SHADOW", tmp_path / "none")
    settings = Groups(viewer=("no-such-group-here",), operator=(primary(somebody),))
    assert roles.look_up(somebody.pw_uid, settings, 0.0) == Operator(somebody.pw_uid, somebody.pw_name, "operator")


def test_a_locked_account_has_no_role_whatever_its_groups(
    somebody: pwd.struct_passwd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = tmp_path / "shadow"
    monkeypatch.setattr(roles, "SHADOW", shadow)
    settings = Groups(admin=(primary(somebody),))
    for text, role in ((f"{somebody.pw_name}:{HASH}::::::", "admin"), (f"{somebody.pw_name}:!{HASH}::::::", None)):
        shadow.write_text(text + ":\n")
        assert roles.look_up(somebody.pw_uid, settings, 0.0).role == role


def test_who_is_in_no_group_is_told_which_there_are(somebody: pwd.struct_passwd) -> None:
    found = roles.look_up(somebody.pw_uid, GROUPS, 0.0)
    assert found.role is None
    assert f"usermod -aG pgha-viewer {somebody.pw_name}" in found.why


def test_root_and_the_daemons_own_user_are_admins_and_a_number_without_account_is_nobody() -> None:
    none = Groups(viewer=(), operator=(), admin=())
    assert roles.look_up(0, none, 0.0).role == "admin"
    assert roles.look_up(os.geteuid(), none, 0.0).role == "admin"
    assert roles.look_up(3_999_999_999, GROUPS, 0.0).role is None


def test_the_settings_name_the_groups(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    setup.initialise(paths)
    where = setup.settings_path(paths)
    where.write_text("# ours\nlisten: 127.0.0.1\nport: 7000\nroles:\n  viewer: [staff]\nkeep: {days: 7, size: 2GiB}\n")
    setup.initialise(paths, "127.0.0.2:7100")
    found = setup.load_settings(paths)
    assert (found.listen, found.port, found.roles.viewer, found.roles.admin) == (
        "127.0.0.2",
        7100,
        ("staff",),
        ("pgha-admin",),
    )
    assert (found.keep.days, found.keep.size) == (7, 2 * 1024**3)
    assert where.read_text().startswith("# ours\n")
    where.write_text("roles: {owner: [staff]}\n")
    with pytest.raises(UserError, match=r"roles\.owner"):
        setup.load_settings(paths)


def test_refusals_of_one_user_are_written_so_often_an_hour_and_the_rest_are_counted() -> None:
    refusals = Refusals()
    assert [refusals.count(7, float(second)) for second in range(25)] == [0] * 20 + [None] * 5
    assert refusals.count(8, 25.0) == 0
    assert refusals.count(7, 3600.0) == 5
    assert refusals.count(7, 3601.0) == 0


class Ledger:
    """A trail in memory."""

    def __init__(self, *, broken: bool = False) -> None:
        self.rows: list[AuditRow] = []
        self._broken = broken

    async def add_audit(
        self, at: float, who: str, act: str, detail: str, link: Callable[[str, AuditRow], str]
    ) -> AuditRow:
        if self._broken:
            raise HostError("the disk is full")
        self.rows.append(AuditRow(len(self.rows) + 1, at, who, act, detail, "x"))
        return self.rows[-1]

    async def audit_after(self, n: int, limit: int) -> list[AuditRow]:
        return self.rows[n : n + limit]


class Desk(Operators):
    """The real one, to which everybody comes with the role that the test says."""

    def __init__(self, role: Role | None, trail: Ledger) -> None:
        from pgha.common.clock import SystemClock

        super().__init__(GROUPS, trail, SystemClock())
        self.role = role

    async def who(self, uid: int) -> Operator:
        return Operator(uid, "ann", self.role, "" if self.role else "nobody knows her")


def ask(path: Path, role: Role | None, *requests: str, broken: bool = False) -> tuple[list[Any], Ledger, list[str]]:
    """The last line that each of these verbs gets, the trail, and what was really done."""
    import json

    trail, done = Ledger(broken=broken), []

    def verb(name: str) -> Callable[[Request], Any]:
        async def work(request: Request) -> Any:
            from pgha.master.operations.progress import End

            if request.args.get("beyond"):
                request.need("admin", "go so far")
            done.append(f"{name} after {len(trail.rows)}")
            yield End(message=f"done for {request.who}")

        return work

    def of_arguments(args: Mapping[str, Any]) -> Role:
        return "admin" if args.get("deep") else "viewer"

    async def live() -> list[Any]:
        served = Control(path / "run" / "s")
        verbs: dict[str, Any] = {name: (verb(name), name) for name in ("viewer", "operator", "admin")}
        await served.start({**verbs, "varies": (verb("varies"), of_arguments)}, Desk(role, trail))
        ends = []
        for text in requests:
            reader, writer = await asyncio.open_unix_connection(str(path / "run" / "s"))
            writer.write(text.encode() + b"\n" * text.endswith("}"))
            ends.append(json.loads((await reader.read()).splitlines()[-1]))
            writer.close()
        await served.close()
        return ends

    return asyncio.run(live()), trail, done


def of(verb: str, args: str = "{}") -> str:
    return f'{{"verb": "{verb}", "args": {args}}}'


def test_each_gets_what_their_role_may_and_is_told_the_rest(tmp_path: Path) -> None:
    ends, _, done = ask(tmp_path, "operator", of("viewer"), of("operator"), of("admin"))
    assert [end["exit"] for end in ends] == [0, 0, 8]
    assert "needs the role admin (group pgha-admin), and ann is operator" in ends[2]["message"]
    assert [one.split()[0] for one in done] == ["viewer", "operator"]


def test_who_has_no_role_learns_nothing_but_that(tmp_path: Path) -> None:
    ends, _, done = ask(tmp_path, None, of("viewer"), of("admin"), of("no.such"))
    assert [(end["exit"], end["message"]) for end in ends] == [(8, "ann may not use this master: nobody knows her")] * 3
    assert done == []


def test_above_viewer_all_is_written_before_it_is_done_and_so_is_what_was_refused(tmp_path: Path) -> None:
    _, trail, done = ask(
        tmp_path,
        "operator",
        of("viewer"),
        of("operator", '{"name": "n1"}'),
        of("admin"),
        of("varies"),
        of("varies", '{"deep": 1}'),
        of("operator", '{"beyond": true}'),
    )
    assert [row.act for row in trail.rows] == [
        "operator",
        "refused admin",
        "refused varies",
        "operator",
        "refused operator",
    ]
    assert {row.who for row in trail.rows} == {f"ann (uid {os.getuid()}, operator)"}
    assert trail.rows[0].detail == '{"name":"n1"}'
    assert done == ["viewer after 0", "operator after 1", "varies after 2"]


def test_what_cannot_be_written_down_is_not_done(tmp_path: Path) -> None:
    ends, _, done = ask(tmp_path, "admin", of("admin"), of("viewer"), broken=True)
    assert [end["exit"] for end in ends] == [1, 0]
    assert "nothing was done" in ends[0]["message"] and "the disk is full" in ends[0]["message"]
    assert done == ["viewer after 0"]


def test_a_request_is_as_long_as_the_role_allows(tmp_path: Path) -> None:
    long = of("viewer", '{"x": "' + "y" * 100_000 + '"}')
    assert ask(tmp_path, "viewer", long)[0][0]["exit"] == 0
    assert "at most 65536 bytes" in ask(tmp_path, None, long)[0][0]["message"]


def test_a_request_that_does_not_arrive_whole_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ARRIVE_S", 0.2)
    ends, _, done = ask(tmp_path, "admin", '{"verb": "adm', of("viewer"))
    assert (ends[0]["exit"], ends[0]["message"]) == (2, "the request did not arrive within 0.2 s")
    assert done == ["viewer after 0"]


def test_a_row_and_its_hash_are_what_the_trail_says_they_are() -> None:
    row = AuditRow(1, 1.5, "ann", "apply", told({"nodes": ["n1"]}), "")
    assert link("", row) != link("", row._replace(who="bob"))
