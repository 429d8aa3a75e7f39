from __future__ import annotations

import json

import pytest
from pgha.common.errors import HostError
from pgha.states.action import Run
from pgha.states.resources.etcd_member import EtcdFacts, EtcdMember, Member
from pgha.states.system import Output
from pgha.states.testing import FakeSystem
from pydantic import ValidationError

D = EtcdMember(name="d", peer_url="https://10.0.0.4:2380")


def member(name: str, number: int) -> Member:
    return Member(f"{number:x}", name, (f"https://10.0.0.{number}:2380",), (f"https://10.0.0.{number}:2379",))


ABC = (member("a", 1), member("b", 2), member("c", 3))


def healthy(*members: Member) -> frozenset[str]:
    return frozenset(url for one in members for url in one.client_urls)


def test_ids_are_given_to_etcdctl_in_the_form_it_takes() -> None:
    rows = [{"ID": 10501334649042878790, "name": "a", "peerURLs": ["https://10.0.0.1:2380"]}]
    call = D._etcdctl()
    system = FakeSystem(
        answers={
            (*call, "member", "list", "-w", "json"): Output(0, json.dumps({"members": rows})),
            (*call, "endpoint", "health", "--cluster", "-w", "json"): Output(0, "[]"),
        }
    )
    assert D.observe(system).members[0].id == "91bc3c398fb3c146"


def test_a_member_that_has_not_started_yet_has_no_name_and_is_there() -> None:
    assert D.plan(EtcdFacts((*ABC, Member("4", "", (D.peer_url,), ())))) == []


def test_the_address_of_another_member_is_not_taken() -> None:
    with pytest.raises(HostError, match="is the peer URL of the member a"):
        EtcdMember(name="d", peer_url="https://10.0.0.1:2380").plan(EtcdFacts(ABC))


def test_a_vote_is_taken_only_by_name_and_only_while_the_others_are_a_majority() -> None:
    gone = EtcdMember(name="c", peer_url="https://10.0.0.3:2380", absent=True)
    (change,) = gone.plan(EtcdFacts(ABC, healthy(*ABC)))
    assert change.destroys == "the vote of c in etcd"
    assert isinstance(change.action, Run) and change.action.argv[-3:] == ("member", "remove", "3")
    with pytest.raises(HostError, match="2 members of which 1 are healthy, and no quorum"):
        gone.plan(EtcdFacts(ABC, healthy(ABC[0], ABC[2])))
    assert gone.plan(EtcdFacts(ABC[:2], healthy(*ABC))) == []


def test_where_etcd_does_not_answer_nothing_is_done_and_why_is_told() -> None:
    system = FakeSystem(answers={(*D._etcdctl(), "member", "list", "-w", "json"): Output(1, "", "Error: deadline\n")})
    assert "does not answer: Error: deadline" in D.skip(D.observe(system))


@pytest.mark.parametrize("url", ["10.0.0.4:2380", "https://10.0.0.4:2380/", "https://a:1,https://b:1", ""])
def test_what_is_no_peer_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="expected one URL such as"):
        EtcdMember(name="d", peer_url=url)
