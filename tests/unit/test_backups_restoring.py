"""A restore's steps on one node, on real folders: what is done twice, what is kept, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from pgha.common.errors import HostError
from pgha.common.installation import Installation
from pgha.minion.backups import restoring
from pgha.minion.backups.restoring import Restore, Restores
from pgha.minion.backups.scratch import Scratch
from pgha.states.system import Output

ORDER = Restore(id="r1", kind="time", value="2026-01-01 00:00:00+00")


class Copying:
    """pgbackrest restore: fills the folder that it is told."""

    def __init__(self, rc: int = 0) -> None:
        self.rc, self.asked = rc, list[tuple[str, ...]]()

    def __call__(self, argv: tuple[str, ...]) -> Output:
        self.asked.append(argv)
        work = Path(next(word for word in argv if word.startswith("--pg1-path=")).split("=", 1)[1])
        (work / "PG_VERSION").write_text("17\n")
        return Output(self.rc, "", "ERROR: [055]: unable to load info file" if self.rc else "")


class Server:
    def __init__(self, fails: str = "") -> None:
        self.fails, self.said = fails, list[str]()

    def start(self, tell: Any) -> None:
        if self.fails:
            raise HostError(self.fails)

    def query(self, sql: str, **rest: Any) -> str:
        self.said.append(sql)
        return "3"

    def stop(self) -> bool:
        return True


@pytest.fixture
def restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restores:
    monkeypatch.setattr("shutil.chown", lambda *_: None)
    data = tmp_path / "17" / "main"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("old\n")
    here = Installation(
        driver="pgbackrest",
        stanza="prod",
        node="a",
        operates=(1,),
        repositories=(1,),
        data=True,
        data_directory=str(data),
        bin_dir="/b",
        port=5432,
        writes_port=5433,
        standby=True,
        data_nodes=("a",),
    )
    return Restores(here, tmp_path / "restore")


def server(fails: str = "") -> Scratch:
    return cast(Scratch, Server(fails))


def test_recovered_data_takes_the_place_of_what_was_there_and_that_is_kept(restores: Restores) -> None:
    done = restores.recover(restores.copy(restores.order(ORDER), Copying()), server())
    assert (done.phase, done.detail) == ("recovered", "timeline 3")
    assert restores.swap(done).phase == "swapped"
    assert (restores.data / "PG_VERSION").read_text() == "17\n"
    assert (restores.kept("r1") / "PG_VERSION").read_text() == "old\n"
    assert restores.commit() == [str(restores.kept("r1"))]
    assert not restores.kept("r1").exists() and restores.data.exists()


def test_another_clusters_data_is_opened_without_archiving_to_it_and_its_history_is_archived_later(
    restores: Restores,
) -> None:
    copying = Copying()
    copied = restores.copy(restores.order(ORDER.model_copy(update={"stanza": "old"})), copying)
    assert "--stanza=old" in copying.asked[0] and "--archive-mode=off" in copying.asked[0]
    wal = restores.work(copied) / "pg_wal"
    (wal / "archive_status").mkdir(parents=True)
    (wal / "00000003.history").touch()
    (restores.work(copied) / "patroni.dynamic.json").write_text("{}")
    playing = Server()
    restores.recover(copied, cast(Scratch, playing))
    assert any("pg_subscription" in sql for sql in playing.said)
    assert not (restores.work(copied) / "patroni.dynamic.json").exists()
    assert [path.name for path in (wal / "archive_status").iterdir()] == ["00000003.history.ready"]


def test_another_clusters_data_that_cannot_be_made_ready_is_told_in_a_sentence(restores: Restores) -> None:
    copied = restores.copy(restores.order(ORDER.model_copy(update={"stanza": "old"})), Copying())
    with pytest.raises(HostError, match="pg_wal cannot be written: No such file"):
        restores.recover(copied, server())


def test_what_is_done_is_not_done_again(restores: Restores) -> None:
    copying = Copying()
    copied = restores.copy(restores.order(ORDER), copying)
    again = restores.copy(restores.order(ORDER), copying)
    assert len(copying.asked) == 1 and again.phase == copied.phase == "copied"
    swapped = restores.swap(restores.recover(again, server()))
    assert restores.swap(swapped) == restores.recover(swapped, server("never started")) == swapped


def test_a_copy_that_was_interrupted_is_gone_on_with_by_its_differences(restores: Restores) -> None:
    with pytest.raises(HostError, match="unable to load info file"):
        restores.copy(restores.order(ORDER), Copying(rc=55))
    copying = Copying()
    restores.copy(restores.order(ORDER), copying)
    assert "--delta" in copying.asked[0]


def test_a_target_that_is_not_reached_changes_no_data(restores: Restores) -> None:
    copied = restores.copy(restores.order(ORDER), Copying())
    with pytest.raises(HostError, match="target was not reached"):
        restores.recover(copied, server("target was not reached"))
    known = restores.ordered()
    assert known is not None and known.phase == "recovering"
    with pytest.raises(HostError, match="nothing was recovered yet"):
        restores.swap(known)
    assert (restores.data / "PG_VERSION").read_text() == "old\n"


def test_another_restore_takes_the_copy_of_the_one_before_away_and_nothing_else(restores: Restores) -> None:
    copied = restores.copy(restores.order(ORDER), Copying())
    restores.order(ORDER.model_copy(update={"id": "r2"}))
    assert not restores.work(copied).exists()
    assert (restores.data / "PG_VERSION").read_text() == "old\n"


def test_data_is_put_aside_once_for_each_restore(restores: Restores) -> None:
    assert restores.aside("r1") == restores.kept("r1")
    assert list(restores.data.iterdir()) == []  # for Patroni to fill; the folder above may be somebody else's
    (restores.data / "PG_VERSION").write_text("made anew\n")
    assert restores.aside("r1") == restores.kept("r1")
    assert (restores.data / "PG_VERSION").read_text() == "made anew\n"
    assert restores.aside("r2") == restores.kept("r2")
    assert restores.all_kept() == [restores.kept("r1"), restores.kept("r2")]


def test_a_node_without_data_has_nothing_to_put_aside(restores: Restores) -> None:
    (restores.data / "PG_VERSION").unlink()
    assert restores.aside("r1") is None


def test_the_data_of_a_running_server_is_not_put_aside(restores: Restores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "serves", lambda data: True)
    with pytest.raises(HostError, match="must be stopped"):
        restores.aside("r1")
    assert restores.data.exists()


def test_a_damaged_record_is_told_and_nothing_is_guessed(restores: Restores) -> None:
    restores.order(ORDER)
    (restores.data.parents[1] / "restore" / "restore.json").write_text("{")
    with pytest.raises(HostError, match="cannot be read"):
        restores.ordered()


def test_one_that_is_given_up_leaves_no_copy_and_what_is_in_place_stays(restores: Restores) -> None:
    copied = restores.copy(restores.order(ORDER), Copying())
    restores.drop("another")
    assert restores.work(copied).exists()
    restores.drop("r1")
    assert not restores.work(copied).exists() and restores.ordered() is None
    swapped = restores.swap(restores.recover(restores.copy(restores.order(ORDER), Copying()), server()))
    restores.drop("r1")
    assert restores.ordered() == swapped and (restores.data / "PG_VERSION").read_text() == "17\n"


def test_a_copy_that_is_gone_is_not_taken_for_data_in_place(restores: Restores) -> None:
    recovered = restores.recover(restores.copy(restores.order(ORDER), Copying()), server())
    (restores.data / "PG_VERSION").unlink()
    for path in sorted(restores.work(recovered).rglob("*"), reverse=True):
        path.unlink()
    restores.work(recovered).rmdir()
    with pytest.raises(HostError, match="is gone, and there is no data"):
        restores.swap(recovered)


def test_on_a_bare_node_the_folder_of_the_major_is_made_for_it(restores: Restores) -> None:
    (restores.data / "PG_VERSION").unlink()
    restores.data.rmdir()
    restores.data.parent.rmdir()
    restores.swap(restores.recover(restores.copy(restores.order(ORDER), Copying()), server()))
    assert (restores.data / "PG_VERSION").read_text() == "17\n"
