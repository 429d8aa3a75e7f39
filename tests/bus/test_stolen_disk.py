"""Who has the master's disk without the master key reads no secret there, and cannot be its master."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgha.common.keys import new_key_pair
from pgha.common.messages import Enrol, Enrolled, Job, Welcome
from pgha.common.paths import Paths
from pgha.master.setup import master_key_path
from pgha.minion.enrol import token_proof
from pgha.tests.bus.conftest import MASTER, Stranger, until
from pgha.tests.bus.quick import Nursery, Site, a_nursery

SECRET, FILE, QUESTION = "canary-secret-7d1f", b"canary-file-91ab", "canary-question-33c0"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


class Stolen:
    """A master that holds all it ever holds for others, and the image of its disk without the master key."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.site = Site(folder / "site", nursery, ("n1",))
        master = self.site.master
        master.start()
        one = self.site.stranger("n1")
        waiting = []
        try:
            assert isinstance(one.hello(speaks=2), Welcome)
            assert master.ask("secrets.set", cluster="prod", name="own/one", value=SECRET)[-1]["exit"] == 0
            self.token = master.ask("keys.token", name="n7", ttl_s=600)[-1]["data"]["token"]
            local = folder / "local"
            local.write_bytes(FILE * 1000)
            waiting.append(master.begin("run", "n1", "file.push", "/srv/x", "--file", str(local)))
            self.job = until("the job", lambda: next((m for m in [one.hear()] if isinstance(m, Job)), None))
            master.kill()
        finally:
            for process in waiting:
                process.kill()
                process.communicate(timeout=10)
            one.close()
        self.key = master_key_path(Paths(master.root))
        self.image = folder / "image"
        shutil.copytree(
            master.root, self.image, ignore=lambda path, names: [self.key.name, "admin.sock"], symlinks=True
        )

    def files(self) -> list[Path]:
        found = [path for path in self.image.rglob("*") if path.is_file()]
        assert any(path.name == "pgha.db" for path in found)
        return found


@pytest.fixture(scope="module")
def stolen(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stolen]:
    stolen = Stolen(tmp_path_factory.mktemp("stolen"), nursery)
    try:
        yield stolen
    finally:
        stolen.site.end()


@pytest.mark.parametrize("what", ["a secret", "a file on its way", "a document", "a token"])
def test_in_the_image_there_is_no_secret_in_clear(stolen: Stolen, what: str) -> None:
    canaries = {
        "a secret": SECRET.encode(),
        "a file on its way": FILE,
        "a document": stolen.job.document,
        "a token": stolen.token.split(".")[1].encode(),
    }
    canary = canaries[what]
    assert canary
    for path in stolen.files():
        assert canary not in path.read_bytes(), path


def test_what_was_typed_after_run_is_history_and_stands_there_as_is_documented(stolen: Stolen) -> None:
    """The other side of it, so that nobody believes otherwise: an operator's text is no secret."""
    assert any(b"file.push" in path.read_bytes() for path in stolen.files())


def test_every_private_key_in_it_is_for_its_owner_only(stolen: Stolen) -> None:
    for path in stolen.site.master.root.rglob("*"):
        if path.is_file() and (path.suffix in (".key", ".db", ".secrets") or "blobs" in path.parts):
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_master_started_from_it_without_the_key_refuses(stolen: Stolen) -> None:
    done = subprocess.run(
        (MASTER, "serve"),
        env={**stolen.site.master.environment, "PGHA_ROOT": str(stolen.image)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "does not exist" in done.stderr and "restore it from its backup" in done.stderr
    assert "listening on" not in done.stderr


def test_with_a_key_of_his_own_the_thief_has_a_master_without_secrets_and_the_token_is_none(
    stolen: Stolen, nursery: Nursery
) -> None:
    """He can have a vault of his own: nothing of the old one opens, and no token that was given out is one there."""
    from pgha.master.keeping.vault import create_key

    create_key(stolen.image / stolen.key.relative_to(stolen.site.master.root))
    thief = stolen.site.master
    thief.root = stolen.image
    thief.start()
    keys = new_key_pair()
    knocking = Stranger(thief, keys, enrolment=True)
    try:
        assert SECRET not in str(thief.ask("secrets.reveal", cluster="prod", name="own/one"))
        identity, _, secret = stolen.token.partition(".")
        proof = token_proof(secret, keys.public, "n7", b"n")
        knocking.say(Enrol(name="n7", machine_id="m", nonce=b"n", token_id=identity, proof=proof))
        told = knocking.hear()
        assert isinstance(told, Enrolled) and told.state == "pending"
    finally:
        knocking.close()
