"""What the firewall plans, from what ufw says."""

from __future__ import annotations

import pytest
from pgha.common.errors import ActionFailed
from pgha.states.action import Guarded, Run
from pgha.states.resources.firewall import AddedRule, Firewall, FirewallRule, parse_added
from pgha.states.simulated import FakeUfw
from pgha.states.testing import FakeSystem
from pydantic import ValidationError

SSH = FirewallRule(port=22, source="10.0.0.0/8", comment="pgha: SSH admin access")
WRITES = FirewallRule(port=5433, comment="pgha: HAProxy writes")
WANTED = Firewall(rules=(SSH, WRITES), confirm_s=30.0)


def planned(ufw: FakeUfw | None, wanted: Firewall = WANTED) -> list[tuple[str, str, str]]:
    system = FakeSystem(ufw=ufw)
    return [(c.what, c.before, c.after) for c in wanted.plan(wanted.observe(system))]


def test_ufws_own_words_are_understood() -> None:
    text = (
        "Added user rules (see 'ufw status' for running firewall):\n"
        "ufw allow from 10.0.0.0/8 to any port 22 proto tcp comment 'pgha: SSH admin access'\n"
        "ufw allow 5433/tcp comment 'pgha: HAProxy writes'\n"
        "ufw deny 23/tcp\n"
        "ufw allow in on eth0 to any port 80 proto tcp\n"
        "ufw allow OpenSSH\n"
    )
    rules = parse_added(text)
    assert [rule.opens for rule in rules] == [SSH.opens, WRITES.opens, None, None, None]
    assert rules[0].comment == "pgha: SSH admin access"


def test_all_rules_are_added_before_the_firewall_is_switched_on() -> None:
    system = FakeSystem(ufw=FakeUfw())
    changes = WANTED.plan(WANTED.observe(system))
    assert [type(change.action) for change in changes] == [Run, Run, Guarded]
    guarded = changes[-1].action
    assert isinstance(guarded, Guarded)
    assert guarded.actions == (Run(("ufw", "--force", "enable")),)
    assert guarded.revert[0] == ("ufw", "--force", "disable")


def test_every_rule_is_added_with_its_comment() -> None:
    assert WRITES.allow() == ("ufw", "allow", "5433/tcp", "comment", "pgha: HAProxy writes")
    assert SSH.allow()[-2:] == ("comment", "pgha: SSH admin access")


def test_the_users_own_rules_stay() -> None:
    mine = [AddedRule(("allow", "9000/tcp"), "backup"), AddedRule(("deny", "23/tcp")), AddedRule(("allow", "OpenSSH"))]
    assert (
        planned(FakeUfw(True, [*mine, AddedRule(SSH.allow()[1:-2], SSH.comment), AddedRule(WRITES.allow()[1:-2], "x")]))
        == []
    )


def test_a_rule_of_pghas_that_nobody_wants_is_removed_under_guard() -> None:
    old = AddedRule(("allow", "from", "10.9.9.9", "to", "any", "port", "5432", "proto", "tcp"), "pgha: gone")
    system = FakeSystem(ufw=FakeUfw(True, [old]))
    (change,) = Firewall(rules=(), confirm_s=5.0).plan(Firewall(rules=(), confirm_s=5.0).observe(system))
    assert isinstance(change.action, Guarded)
    assert change.action.actions == (Run(("ufw", "--force", "delete", *old.words)),)
    assert change.action.revert[-1] == ("ufw", "reload")


def test_an_open_default_is_closed() -> None:
    ufw = FakeUfw(True, [AddedRule(r.allow()[1:-2], r.comment) for r in (SSH, WRITES)], incoming="allow")
    assert planned(ufw) == [("default incoming", "allow", "deny")]


def test_a_host_without_ufw_shows_all_that_is_to_come() -> None:
    assert [what for what, _, _ in planned(None)] == [
        str(SSH),
        str(WRITES),
        "default incoming",
        "default outgoing",
        "firewall",
    ]


def test_a_change_that_is_not_confirmed_is_put_back() -> None:
    system = FakeSystem(ufw=FakeUfw(), confirms=False)
    with pytest.raises(ActionFailed, match="put back"):
        for change in WANTED.plan(WANTED.observe(system)):
            system.perform(change.action)
    assert system.ufw is not None and not system.ufw.enabled


@pytest.mark.parametrize("comment", ["SSH", "pgha: it's"])
def test_a_comment_that_ufw_or_pgha_could_not_read_back_is_refused(comment: str) -> None:
    with pytest.raises(ValidationError, match="comment"):
        FirewallRule(port=22, comment=comment)
