"""The lab's names and addresses, and what it reads of pyproject.toml: all that can be known without a machine."""

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "packaging" / "lab"))

from labkit import plan, program  # noqa: E402
from labkit.lab import Built  # noqa: E402
from labkit.plan import LabError, Names, Node, Wanted  # noqa: E402


def test_the_default_lab_has_the_addresses_the_documents_name() -> None:
    nodes = plan.place(plan.default_nodes(3), plan.choose_octet("pgha", None, {10}))
    assert [(n.name, n.address, n.region) for n in nodes] == [
        ("pg-node1", "10.77.1.11", "eu-west"),
        ("pg-node2", "10.77.2.12", "us-east"),
        ("witness-node", "10.77.3.13", "us-west"),
    ]
    assert (nodes[1].gateway, nodes[1].link) == ("10.77.2.1", "n2")


@pytest.mark.parametrize(
    ("count", "names"),
    [(1, ["pg-node1"]), (2, ["pg-node1", "witness-node"]), (4, ["pg-node1", "pg-node2", "pg-node3", "witness-node"])],
)
def test_the_last_of_several_nodes_is_the_witness(count: int, names: list[str]) -> None:
    assert [node.name for node in plan.default_nodes(count)] == names


@pytest.mark.parametrize("count", [0, -1, 201])
def test_a_lab_has_at_least_one_node_and_at_most_200(count: int) -> None:
    with pytest.raises(LabError, match="1 to 200"):
        plan.default_nodes(count)


def test_two_hundred_nodes_have_two_hundred_subnets() -> None:
    nodes = plan.place(plan.default_nodes(200), 77)
    assert len({n.subnet for n in nodes}) == len({n.link for n in nodes}) == 200
    assert all(1 < int(n.address.split(".")[3]) < 255 for n in nodes)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a--b", "A", "a_b", "a.b", "1a", "a" * 32, "ä", "host", "a b", "a/b"])
def test_a_name_the_kernel_or_a_shell_could_misread_is_refused(name: str) -> None:
    with pytest.raises(LabError):
        plan.check_name(name, "lab")


def test_an_interface_name_is_never_longer_than_the_kernel_allows() -> None:
    assert Names("pgha").host_link == "lab-pgha"
    assert len(Names("a" * 31).host_link) <= 15
    assert Names("a" * 30 + "b").host_link != Names("a" * 31).host_link


def test_no_two_labs_share_a_kernel_name() -> None:
    one, other = Names("a"), Names("a-b")
    assert one.netns("b-c") != other.netns("c")
    assert not other.router.startswith(one.prefix + ".")
    assert one.table != other.table
    assert one.netns("router") != one.router


def test_another_lab_takes_a_free_network_and_always_tries_the_same_one_first() -> None:
    first = plan.choose_octet("mine", None, set())
    assert first == plan.choose_octet("mine", None, {77})
    assert first != plan.choose_octet("mine", None, {first})
    assert first in plan.OCTETS


def test_no_lab_is_put_on_a_network_that_is_in_use() -> None:
    with pytest.raises(LabError, match=r"10\.77\.0\.0/16"):
        plan.choose_octet("pgha", None, {77})
    with pytest.raises(LabError, match="free"):
        plan.choose_octet("mine", None, set(plan.OCTETS))


def test_a_lab_file_names_nodes_regions_and_addresses() -> None:
    content = {"nodes": [{"name": "a", "region": "mars", "address": "10.90.4.2"}, {"name": "b"}]}
    wanted = plan.nodes_from_file(content)
    assert plan.wanted_octet(wanted) == 90
    assert [(n.name, n.address, n.region) for n in plan.place(wanted, 90)] == [
        ("a", "10.90.4.2", "mars"),
        ("b", "10.90.2.12", "us-east"),
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "at least one"),
        ({"nodes": []}, "at least one"),
        ({"nodes": [{"region": "x"}]}, "node 1 .* no name"),
        ({"nodes": [{"name": "a", "adress": "10.90.4.2"}]}, "unknown key 'adress'"),
        ({"nodes": [{"name": "a", "address": 3}]}, "are text"),
        ({"nodes": [{"name": "a", "serves": "ftp"}]}, "node a .* serve 'ftp'; what one can: s3"),
        ({"nodes": [{"name": "a", "serves": None}]}, "serve None; what one can: s3"),
        ({"nodes": [{"name": "a", "serves": ["s3"]}]}, r"serve \['s3'\]"),
    ],
)
def test_a_wrong_lab_file_is_told_where_it_is_wrong(content: object, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        plan.nodes_from_file(content)


def test_a_node_of_a_lab_file_may_serve_s3_instead_of_being_a_host_for_pgha() -> None:
    wanted = plan.nodes_from_file({"nodes": [{"name": "a"}, {"name": "s3", "serves": "s3"}]})
    assert [(node.name, node.serves) for node in plan.place(wanted, 90)] == [("a", None), ("s3", "s3")]


def test_what_a_lab_was_built_as_is_read_again_also_when_it_knew_no_stores_yet() -> None:
    nodes = (Node("a", "10.90.1.11", "x"), Node("s3", "10.90.2.12", "x", "s3"))
    built = Built(90, nodes, (Path("/code"), Path("/base")), (Path("/s3"), Path("/base")))
    assert Built.from_json(built.to_json()) == built
    assert (built.lowers_of(nodes[0])[0], built.lowers_of(nodes[1])[0]) == (Path("/code"), Path("/s3"))
    old = '{"octet": 90, "nodes": [{"name": "a", "address": "10.90.1.11", "region": "x"}], "lowers": ["/base"]}'
    assert Built.from_json(old) == Built(90, nodes[:1], (Path("/base"),))
    assert Built.from_json(old).stores == []


@pytest.mark.parametrize("address", ["192.0.2.1", "10.90.0.5", "10.90.1.1", "10.90.1.255", "10.90.1", "fd00::1"])
def test_an_address_outside_a_nodes_subnet_is_refused(address: str) -> None:
    with pytest.raises(LabError):
        plan.wanted_octet([Wanted("a", "x", address)])


def test_all_addresses_of_a_lab_are_in_one_network() -> None:
    with pytest.raises(LabError, match="in two"):
        plan.wanted_octet([Wanted("a", "x", "10.90.1.5"), Wanted("b", "x", "10.91.2.5")])


def test_two_nodes_share_neither_name_nor_subnet() -> None:
    with pytest.raises(LabError, match="two nodes are called a"):
        plan.place([Wanted("a", "x"), Wanted("a", "x")], 90)
    with pytest.raises(LabError, match=r"10\.90\.1\.0/24"):
        plan.place([Wanted("a", "x", "10.90.1.5"), Wanted("b", "x", "10.90.1.6")], 90)


def test_the_projects_own_dependencies_are_read_as_the_packager_reads_them() -> None:
    tomllib = pytest.importorskip("tomllib")
    text = (CHECKOUT / "pyproject.toml").read_text()
    parsed = tomllib.loads(text)
    assert program.requirements(text) == (parsed["project"]["dependencies"], parsed["build-system"]["requires"])


def test_dependencies_with_extras_and_comments_are_read() -> None:
    text = '[build-system]\nrequires = ["setuptools>=77", "wheel"]\n[project]\ndependencies = [\n'
    text += '  "a[x]>=1", # not "b"\n  "c",\n]\n[tool.x]\ndependencies = ["d"]\n'
    assert program.requirements(text) == (["a[x]>=1", "c"], ["setuptools>=77", "wheel"])


def test_a_project_without_dependencies_is_refused_by_name() -> None:
    with pytest.raises(LabError, match=r"project\.dependencies"):
        program.requirements("[project]\n")
