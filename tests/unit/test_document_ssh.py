"""SSH between the data nodes: who may, from where, to whom."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pgha.states.document import Context
from pgha.states.documents import firewall, hardening, ssh
from pgha.states.halves import KEY, PublicHalf
from pgha.states.resource import AnyResource
from pgha.states.resources.authorized_keys import AuthorizedKeys
from pgha.states.resources.files import Absent, File
from pgha.states.resources.ssh import SshKey
from pgha.states.simulated import public_key

Build = Callable[..., Context]
NODES = [
    {"name": "a", "address": "10.77.1.1"},
    {"name": "b", "address": "fd00::2"},
    {"name": "c", "address": "10.77.3.3"},
    {"name": "w", "address": "10.77.4.4", "role": "witness"},
]
ON = {"ssh_between_data_nodes": True}
HALVES = {name: PublicHalf(user=public_key(name), host=(public_key(f"host {name}"),)) for name in "abcw"}


def built(context: Context, *known: str) -> dict[str, AnyResource]:
    resources = ssh.build(replace(context, ssh={name: HALVES[name] for name in known}))
    return {resource.id: resource for resource in resources}


def content(resources: dict[str, AnyResource], path: str) -> str:
    found = resources[f"file:{path}"]
    assert isinstance(found, File)
    return found.content


def keys(resources: dict[str, AnyResource]) -> list[str]:
    found = resources["authorized_keys:postgres#pgha:prod"]
    assert isinstance(found, AuthorizedKeys)
    return [key.line(found.label) for key in found.keys]


def test_each_other_data_node_is_let_in_from_its_own_address_and_forwards_nothing(context_of: Build) -> None:
    resources = built(context_of("a", nodes=NODES, system=ON), *"abcw")
    assert keys(resources) == [
        f'from="fd00::2",restrict,pty {public_key("b")} pgha:prod b',
        f'from="10.77.3.3",restrict,pty {public_key("c")} pgha:prod c',
    ]
    assert content(resources, ssh.KNOWN_HOSTS).splitlines()[1:] == [
        f"b,fd00::2 {public_key('host b')}",
        f"c,10.77.3.3 {public_key('host c')}",
    ]


def test_a_node_whose_keys_are_not_known_yet_is_left_out(context_of: Build) -> None:
    resources = built(context_of("a", nodes=NODES, system=ON), "a", "c")
    assert [line.split()[-1] for line in keys(resources)] == ["c"]
    assert "fd00::2" not in content(resources, ssh.CONFIG)


@pytest.mark.parametrize("known", ["", "a"])
def test_alone_a_node_has_a_key_and_nobody_to_use_it_on(context_of: Build, known: str) -> None:
    resources = built(context_of("a", nodes=NODES[:1] + NODES[3:], system=ON), *known)
    assert keys(resources) == []
    assert {i for i, r in resources.items() if isinstance(r, Absent)} == {
        f"absent:{ssh.CONFIG}",
        f"absent:{ssh.KNOWN_HOSTS}",
    }


def test_switched_off_all_of_it_is_taken_away_whatever_is_known(context_of: Build) -> None:
    resources = built(context_of("a", nodes=NODES), *"abc")
    assert keys(resources) == []
    gone = {i for i, r in resources.items() if isinstance(r, Absent)}
    assert gone == {f"absent:{path}" for path in (ssh.CONFIG, ssh.KNOWN_HOSTS)}
    pair = resources[f"ssh_key:{KEY}"]
    assert isinstance(pair, SshKey) and pair.absent


@pytest.mark.parametrize("system", [{}, ON])
def test_a_witness_has_no_part_in_it(context_of: Build, system: dict[str, bool]) -> None:
    context = context_of("w", nodes=NODES, system=system)
    assert built(context, *"abc") == {}
    assert [rule for rule in firewall.flows(context.cluster, context.node) if rule.port == 22] == [
        rule for rule in firewall.flows(context.cluster, context.node) if rule.comment == "pgha: SSH admin access"
    ]
    assert "openssh-client" not in str(hardening.build(context))


@pytest.mark.parametrize(("system", "sources"), [({}, set()), (ON, {"fd00::2", "10.77.3.3"})])
def test_the_firewall_lets_the_data_nodes_in_only_then(
    context_of: Build, system: dict[str, bool], sources: set[str]
) -> None:
    context = context_of("a", nodes=NODES, system=system)
    found = {rule.source for rule in firewall.flows(context.cluster, context.node) if rule.port == 22}
    assert found == {"10.77.0.1"} | sources
    assert (f"ssh_key:{KEY}" in {resource.id for resource in hardening.build(context)}) == bool(system)


def test_ssh_itself_reads_the_settings_as_they_are_meant(context_of: Build, tmp_path: Path) -> None:
    me = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    text = content(built(context_of("a", nodes=NODES, system=ON), *"abc"), ssh.CONFIG)
    (tmp_path / "config").write_text(text.replace("localuser postgres", f"localuser {me}"))

    def settings(host: str) -> str:
        argv = [tmp_path / "config" if word == "%s" else word for word in ssh.CHECK[:-1]]
        return subprocess.run([*argv, host], capture_output=True, text=True, check=True).stdout

    for host in ("b", "fd00::2", "10.77.3.3"):
        assert "stricthostkeychecking true" in settings(host)
        assert f"identityfile {KEY}\n" in settings(host)
        assert f"userknownhostsfile {ssh.KNOWN_HOSTS}\n" in settings(host)
    assert KEY not in settings("elsewhere")
