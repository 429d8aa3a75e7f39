"""`pgha-master states` against a master and two minions that are real processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Master

CLUSTER = """\
schema: pgha/v1
cluster: prod
entrypoint: db.example.com
access: {admin: [192.0.2.200/32], clients: [192.0.2.0/24]}
postgresql: {version: 17, source: {uri: http://192.0.2.9, suite: x, key: KEY}}
nodes:
  n1: {address: 192.0.2.1, region: eu-west}
  n2: {address: 192.0.2.2, region: us-east, role: witness}
  n3: {address: 192.0.2.3, region: us-west}
"""
APP = """\
schema: pgha/states/v1
target: role:data
resources:
  - kind: file
    path: /etc/app.conf
    mode: 0640
    content: |
      # {node.name} of {cluster.name}
      password={{pw}}
    secrets: {pw: secret:app/password}
"""


SHOWN = ("--node", "n1", "--node", "n2")  # the third one has no minion


def definition(master: Master) -> str:
    """Of a package source that is no system's own: the nodes are whatever this machine is."""
    path = Path(master.root) / "prod.yml"
    path.write_text(CLUSTER.replace("KEY", str(path)))
    return str(path)


def test_what_comes_of_a_document_is_shown_for_each_node_without_its_secrets(pair: Master) -> None:
    folder = Path(pair.root) / "etc/pgha/states"
    (folder / "app.yml").write_text(APP)
    try:
        missing = pair.cli("states", "show", "app", definition(pair), *SHOWN)
        assert missing.code == 2
        assert "the cluster prod has no secret app/password" in missing.err
        assert "app.yml:10:19" in missing.err
        assert "pgha-master secrets set prod/app/password" in missing.err

        assert pair.cli("secrets", "set", "prod/app/password", stdin="hunter2\n").code == 0
        said = pair.cli("states", "show", "app", definition(pair), *SHOWN)
        assert said.code == 0, said.text
        assert "n1  1 resource" in said.out
        assert "      # n1 of prod" in said.out
        assert "    mode: 0640" in said.out
        assert "n2  nothing" in said.out
        assert "hunter2" not in said.text

        data = pair.cli("states", "show", "app", definition(pair), "--node", "n1", "--json").data["data"]
        assert [r["path"] for r in data["nodes"]["n1"]] == ["/etc/app.conf"]
        assert "hunter2" not in str(data)
        silent = pair.cli("states", "show", "app", definition(pair))
        assert (silent.code, "n3: its minion is not known" in silent.err) == (2, True)
        assert pair.cli("states", "show", "apq", definition(pair)).err.strip().endswith("did you mean 'app'?")

        (row,) = pair.cli("states", "list", "--json").data["data"]["documents"]
        assert (row["name"], row["target"], row["resources"], row["nodes"]) == ("app", "role:data", 1, [])
    finally:
        (folder / "app.yml").unlink()


def test_a_plan_fails_with_the_place_of_the_mistake_in_a_file_of_yours(pair: Master) -> None:
    file = Path(pair.root) / "etc/pgha/states/app.yml"
    file.write_text(APP.replace("kind: file", "kind: fiel"))
    try:
        said = pair.cli("plan", definition(pair))
        assert said.code == 2
        assert f"{file}:4:11  there is no resource kind 'fiel'" in said.err
        assert "did you mean 'file'?" in said.err
    finally:
        file.unlink()
