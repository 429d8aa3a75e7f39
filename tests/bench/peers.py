"""Salt, Ansible and pyinfra bring the same files to the same state on this machine. Used by `states.py`.

Rules:
1. Each comes from PyPI into an environment of its own, kept in the cache folder, and runs with its defaults; what it
   writes is in the temporary folder. One that cannot be had, or fails, is a row that says so.
2. Salt does it as pgha does: a master and a minion that run already. Ansible and pyinfra have no daemon: theirs is
   the command as a person types it, with its start, on the local connection, and of fewer files, as they take longer.
3. Memory is proportional (PSS), of the minion and all it has started, looked at ten times a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pgha.tests.bench.converging import files
from pgha.tests.bench.machine import processes, proportional_bytes, wait_for
from pgha.tests.bench.salt import RELEASE as SALT
from pgha.tests.bench.salt import configure, environment, idle_percent, start
from pgha.tests.bench.table import Row, amount, note
from pgha.tests.bus.ports import another_port_pair

ANSIBLE, PYINFRA = "ansible-core==2.19.14", "pyinfra==3.10.0"
PATIENCE_S = 1200.0  # for one run of a peer


@dataclass(frozen=True)
class Figures:
    """Seconds with none of the files there, and with nothing to do; memory and processor are of the minion alone."""

    many: tuple[float, float]
    few: tuple[float, float]
    peak_mib: float
    idle_mib: float
    idle_percent: float  # of one core


class Peak:
    """`mib`: the most memory that the process and its children had while inside."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mib = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.mib = max(self.mib, proportional_bytes(self._pid) / 2**20)


def beside(folder: Path, ours: Figures, count: int, few: int, idle_s: float) -> list[Row]:
    rows = _try(SALT, lambda home: _salt_rows(ours, _salt(home, folder / "salt", count, idle_s), count))
    rows += _try(ANSIBLE, lambda home: _few_rows("Ansible", ours, _ansible(home, folder / "ansible", few), few))
    return rows + _try(PYINFRA, lambda home: _few_rows("pyinfra", ours, _pyinfra(home, folder / "pyinfra", few), few))


def _try(release: str, measure: Callable[[Path], list[Row]]) -> list[Row]:
    try:
        return measure(environment(release))
    except subprocess.CalledProcessError as error:
        said = error.stderr or error.stdout or str(error)
        why = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    except (subprocess.TimeoutExpired, TimeoutError, RuntimeError) as error:
        why = str(error)
    return [Row(f"beside {release}: not measured", "", why[-150:].replace("\n", " ").strip())]


def _salt_rows(ours: Figures, theirs: Figures, count: int) -> list[Row]:
    def row(what: str, pick: Callable[[Figures], float], unit: str) -> Row:
        return Row(what, amount(pick(ours), unit), f"Salt {amount(pick(theirs), unit)}", pick(ours) / pick(theirs))

    return [
        row(f"{count:,} files through master and minion, none there", lambda f: f.many[0], "s"),
        row("  again, nothing to do", lambda f: f.many[1], "s"),
        row("  most memory of the minion meanwhile", lambda f: f.peak_mib, "MiB"),
        row("  memory of the minion when idle", lambda f: f.idle_mib, "MiB"),
        row("  processor of the minion when idle", lambda f: f.idle_percent, "% of a core"),
    ]


def _few_rows(name: str, ours: Figures, theirs: tuple[float, float], few: int) -> list[Row]:
    what = (f"{few:,} files, none there", "  again, nothing to do")
    return [
        Row(what[n], amount(ours.few[n], "s"), f"{name} {amount(theirs[n], 's')}", ours.few[n] / theirs[n])
        for n in (0, 1)
    ]


def _command(name: str, argv: tuple[str, ...], folder: Path, **environment: str) -> float:
    """Seconds. Raises CalledProcessError and TimeoutExpired."""
    since = time.perf_counter()
    subprocess.run(
        argv,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    taken = time.perf_counter() - since
    note(f"{name}: {taken:.1f} s")
    return taken


def _insist(folder: Path, count: int) -> None:
    """Raises RuntimeError when it has not done what it was to do."""
    wrong = [file.path for file in files(folder, count) if not _is(Path(file.path), file.content, file.mode)]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {count} files are not as wanted, {wrong[0]} for one")


def _is(path: Path, content: str, mode: int) -> bool:
    return path.exists() and path.read_text() == content and path.stat().st_mode & 0o7777 == mode


# ---- Salt


def _salt(home: Path, folder: Path, count: int, idle_s: float) -> Figures:
    made = folder / "files"
    made.mkdir(parents=True)
    states = {
        file.path: {
            "file.managed": [{"contents": file.content}, {"user": file.owner}, {"group": file.group}, _mode(file.mode)]
        }
        for file in files(made, count)
    }
    (folder / "srv").mkdir()
    (folder / "srv/files.sls").write_text("#!json\n" + json.dumps(states))
    with processes() as started:
        port = another_port_pair()
        roots = {"file_roots": {"base": [str(folder / "srv")]}}
        ports = {"publish_port": port, "ret_port": port + 1}
        config = configure(folder, "master", interface="127.0.0.1", auto_accept=True, **ports, **roots)
        start(home, "salt-master", config, started)
        more = {"id": "n1", "master": "127.0.0.1", "publish_port": port, "master_port": port + 1}
        start(home, "salt-minion", configure(folder, "minion", **more), started)
        salt = (str(home / "bin/salt"), "-c", str(config.parent))
        ping = (*salt, "--timeout=2", "--out=json", "--static", "n1", "test.ping")
        apply = (*salt, "--timeout=600", "--out=quiet", "n1", "state.apply", "files")

        def answers() -> bool:
            said = subprocess.run(ping, cwd=folder, capture_output=True, text=True, timeout=60, check=False).stdout
            return '"n1": true' in said  # its exit code says nothing of that

        wait_for("a minion of Salt", answers, 120)
        pid = started[1].pid
        with Peak(pid) as peak:
            first = _command("Salt", apply, folder)
        _insist(made, count)
        again = _command("Salt again", apply, folder)
        idle_mib = proportional_bytes(pid) / 2**20
        return Figures((first, again), (0.0, 0.0), peak.mib, idle_mib, idle_percent([pid], idle_s))


def _mode(mode: int) -> dict[str, str]:
    return {"mode": f"{mode:04o}"}


# ---- Ansible and pyinfra

_PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files: [wanted.json]
  tasks:
    - copy:
        dest: "{{ item.path }}"
        content: "{{ item.content }}"
        owner: "{{ item.owner }}"
        group: "{{ item.group }}"
        mode: "{{ item.mode }}"
      loop: "{{ wanted }}"
      loop_control:
        label: "{{ item.path }}"
"""

_DEPLOY = """
import io, json
from pyinfra.operations import files
for want in json.load(open("wanted.json"))["wanted"]:
    files.put(
        name=want["path"],
        src=io.StringIO(want["content"]),
        dest=want["path"],
        user=want["owner"],
        group=want["group"],
        mode=want["mode"],
    )
"""


def _ansible(home: Path, folder: Path, count: int) -> tuple[float, float]:
    _wanted(folder, count)
    (folder / "files.yml").write_text(_PLAYBOOK)
    argv = (str(home / "bin/ansible-playbook"), "-i", "localhost,", "files.yml")
    words = {"LC_ALL": "C.UTF-8", "ANSIBLE_PYTHON_INTERPRETER": str(home / "bin/python")}
    words.update(ANSIBLE_HOME=str(folder / "home"), ANSIBLE_REMOTE_TMP=str(folder / "remote"))
    return _twice("Ansible", argv, folder, count, **words)


def _pyinfra(home: Path, folder: Path, count: int) -> tuple[float, float]:
    _wanted(folder, count)
    (folder / "deploy.py").write_text(_DEPLOY)
    return _twice("pyinfra", (str(home / "bin/pyinfra"), "-y", "@local", "deploy.py"), folder, count)


def _wanted(folder: Path, count: int) -> None:
    (folder / "files").mkdir(parents=True)
    wanted = [
        {**file.model_dump(include={"path", "content", "owner", "group"}), "mode": f"{file.mode:04o}"}
        for file in files(folder / "files", count)
    ]
    (folder / "wanted.json").write_text(json.dumps({"wanted": wanted}))


def _twice(name: str, argv: tuple[str, ...], folder: Path, count: int, **environment: str) -> tuple[float, float]:
    first = _command(name, argv, folder, **environment)
    _insist(folder / "files", count)
    return first, _command(f"{name} again", argv, folder, **environment)
