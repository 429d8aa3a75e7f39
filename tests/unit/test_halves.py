"""What data nodes tell of their SSH keys: nothing that could become more than one line in another node's files."""

from __future__ import annotations

import pytest
from pgha.common.errors import HostError
from pgha.common.results import Outcome
from pgha.master.orchestration.fleet import Answer
from pgha.master.rollout.exchange import halves, told
from pgha.master.simulation.testing import three_nodes
from pgha.states.halves import KEY, PublicHalf, look
from pgha.states.resources.ssh import PUBLIC_HALF
from pgha.states.simulated import public_key
from pgha.states.system import FileFacts, Output
from pgha.states.testing import FakeSystem

USER, HOST = public_key("user"), public_key("host")
PRIVATE = FileFacts("file", None, "postgres", "postgres", 0o600)


def said(**data: object) -> Answer:
    return Answer("pg-node1", "done", outcome=Outcome(ok=True, data=data))


def test_a_node_tells_its_public_keys_without_the_words_behind_them() -> None:
    files = {
        KEY: PRIVATE,
        "/etc/ssh/ssh_host_ed25519_key.pub": FileFacts("file", f"{HOST} root@a\n"),
        "/etc/ssh/ssh_host_ed25519_key": FileFacts("file", "PRIVATE"),
        "/etc/ssh/ssh_host_rsa_key-cert.pub": FileFacts("file", "ssh-rsa-cert"),
    }
    system = FakeSystem(files=files, answers={(*PUBLIC_HALF, KEY): Output(0, f"{USER} whoever\n")})
    half = look(system)
    assert half == PublicHalf(user=USER, host=(HOST,))
    assert half.complete and half.missing() == ""


def test_a_bare_node_has_none_and_says_what_is_missing() -> None:
    assert "the document hardening makes it" in look(FakeSystem()).missing()
    assert PublicHalf(user=USER).missing() == "there is no host key in /etc/ssh; install openssh-server"


def test_a_link_in_the_place_of_the_key_is_not_read() -> None:
    link = FileFacts("symlink", None, "postgres", "postgres", 0o777, "/etc/ssh/ssh_host_ed25519_key")
    assert look(FakeSystem(files={KEY: link})).user is None


def test_a_host_key_that_is_none_is_an_error_of_that_node() -> None:
    with pytest.raises(HostError, match="a key in /etc/ssh cannot be used"):
        look(FakeSystem(files={"/etc/ssh/ssh_host_rsa_key.pub": FileFacts("file", "rubbish\n")}))


@pytest.mark.parametrize(
    "user",
    [
        f"{USER}\n{HOST}",
        f'command="reboot" {USER}',
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==",
        "",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        f"{USER} {'x' * 5000}",
        7,
    ],
    ids=lambda user: repr(user)[:30],
)
def test_a_minion_that_says_anything_but_a_key_is_not_believed(user: object) -> None:
    half, why = told(said(user=user, host=[HOST]))
    assert half is None
    assert why.startswith("what it says of its public keys cannot be used: ")


@pytest.mark.parametrize("host", [[f"{HOST}\n* {HOST}"], [f"@cert-authority * {HOST}"], [HOST] * 17, HOST])
def test_host_keys_are_believed_as_little(host: object) -> None:
    assert told(said(user=USER, host=host))[0] is None


def test_who_failed_to_answer_says_why() -> None:
    answer = Answer("pg-node1", "failed", outcome=Outcome(ok=False, message="there is no function 'ssh.public'"))
    assert told(answer) == (None, "there is no function 'ssh.public'")


def test_only_data_nodes_of_the_definition_with_both_halves_are_known_and_a_broken_note_is_none() -> None:
    whole = PublicHalf(user=USER, host=(HOST,))
    notes = {
        "ssh:pg-node1": whole.model_dump_json(),
        "ssh:pg-node2": PublicHalf(host=(HOST,)).model_dump_json(),
        "ssh:witness-node": whole.model_dump_json(),
        "ssh:gone": whole.model_dump_json(),
    }
    assert halves(three_nodes(), notes) == {"pg-node1": whole}
    assert halves(three_nodes(), notes | {"ssh:pg-node1": "{"}) == {}
