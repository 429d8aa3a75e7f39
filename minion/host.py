"""Host: System made real. The one module that starts programs, and the one that puts actions into effect.

Rules:
1. A program is an argv list, never a shell line; it has a deadline, its own process group, a plain environment, and
   no secret in its arguments.
2. Nothing is remembered between two questions, so an answer is never older than its question, but for two things:
   apt's long thoughts, for as long as all they rest on is unchanged, and names of users and groups, for a second and
   until something is performed.
3. Every failure is an ActionFailed with the program's last words and what to do.
Files are `disk`, packages `apt`, certificates `leaf`, Patroni `restapi`, systemd `units`; they know nothing of actions.
A change that can cut the node off is put into effect by `guard`.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from ..common.errors import ActionFailed, HostError
from ..common.paths import Paths
from ..common.secret import Secret, mask
from ..states.action import (
    Action,
    Guarded,
    InstallPackages,
    IssueCertificate,
    MakeDirectory,
    MakeSymlink,
    PatchPatroni,
    PostPatroni,
    Remove,
    Run,
    RunSql,
    SetAttributes,
    Unit,
    UpgradePackages,
    WriteFile,
    rendered,
)
from ..states.resources.packages import SIMULATE
from ..states.system import CertificateFacts, FileFacts, Output, UnitFacts
from . import apt, disk, guard, leaf, restapi, units

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
    "NEEDRESTART_SUSPEND": "1",
    "ETCDCTL_API": "3",  # etcdctl 3.3, of Ubuntu 22.04, speaks an older language by itself
}
MAX_ANSWER = 4 * 1024 * 1024
CHECK_S = 30.0
SQL_S = 60.0
BUSY_S = 1.0

Signer = Callable[[str, str, str], str]
"""(cluster, certificate's name, request as PEM) -> certificate as PEM. Raises HostError when the master refuses."""

Confirm = Callable[[float], bool]
"""(seconds) -> whether the master answered on a connection made after the call."""


def execute(argv: tuple[str, ...], timeout_s: float, stdin: str | None = None) -> Output:
    """Run a program. rc 127: not installed, 126: not executable, 124: killed with all its children at the deadline.

    `stdin` is a file in memory, so a program may read it as often as it likes (`--config-file=/dev/stdin`).
    """
    given = None if stdin is None else _in_memory(stdin)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if given is None else given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except FileNotFoundError:
        return Output(127, "", f"{argv[0]} is not installed")
    except PermissionError:
        return Output(126, "", f"{argv[0]} is not executable")
    finally:
        if given is not None:
            os.close(given)
    try:
        out, err = process.communicate(timeout=timeout_s)
        return Output(_shell_rc(process.returncode), out.decode(errors="replace"), err.decode(errors="replace"))
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        return Output(124, said, f"{argv[0]} did not end within {timeout_s:g} s and was killed")
    finally:
        _end(process)


def _in_memory(text: str) -> int:
    """A descriptor of an anonymous file with the text, at its beginning."""
    descriptor = os.memfd_create("pgha-stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _shell_rc(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of the program and its children ends here; nothing of it when it ended by itself."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


class Host:
    """`confirm` and `signer` are the agent's: both ask the master, each within its own deadline."""

    def __init__(self, signer: Signer, confirm: Confirm, paths: Paths | None = None) -> None:
        self._signer, self._confirm = signer, confirm
        self._paths = paths or Paths.from_environment()
        self._disk = disk.Disk(self._paths.state / "files")
        self._names = disk.Names()
        self._simulation = apt.Simulation()

    def file(self, path: str) -> FileFacts:
        return disk.look(path, self._names, read=True)

    def attributes(self, path: str) -> FileFacts:
        return disk.look(path, self._names, read=False)

    def names(self, directory: str) -> tuple[str, ...]:
        return disk.names(directory)

    def certificate(self, cert_path: str, key_path: str, ca_path: str, bundle_path: str = "") -> CertificateFacts:
        return leaf.look(cert_path, key_path, ca_path, bundle_path)

    def packages(self, names: tuple[str, ...]) -> dict[str, str | None]:
        form = "${binary:Package}\t${db:Status-Abbrev}\t${Version}\n"
        said = execute(("dpkg-query", "-W", "-f", form, "--", *names), 30.0)
        if said.rc not in (0, 1):
            raise HostError(f"dpkg-query cannot be asked: {said.stderr.strip()}; pgha manages Debian and Ubuntu hosts")
        rows = (line.split("\t") for line in said.stdout.splitlines())
        # the second letter is what it is, the first what is wanted of it: "h" of a held one
        there = {name.split(":")[0]: version for name, status, version in rows if status[1:2] == "i"}
        return {name: there.get(name) for name in names}

    def unit(self, name: str) -> UnitFacts:
        said = execute((*units.SHOW, name), 15.0)
        if said.rc != 0:
            raise HostError(f"systemd cannot be asked about {name}: {said.stderr.strip()}")
        return units.parse(said.stdout)

    def ask(self, argv: tuple[str, ...], *, stdin: str | None = None, timeout_s: float = 15.0) -> Output:
        if argv == SIMULATE:
            return self._simulation.ask(execute, timeout_s)
        return execute(argv, timeout_s, stdin)

    def patroni(self, path: str) -> tuple[int, str]:
        return restapi.get(path)

    def http(self, url: str, timeout_s: float = 2.0) -> tuple[int, str]:
        at = urlsplit(url)
        if at.scheme != "http" or at.hostname not in ("127.0.0.1", "localhost", "::1"):
            return 0, f"{url} is not a plain http address on loopback"
        connection = http.client.HTTPConnection(at.hostname, at.port or 80, timeout=timeout_s)
        try:
            connection.request("GET", at.path + (f"?{at.query}" if at.query else "") or "/")
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error) or type(error).__name__
        finally:
            connection.close()

    def unix_socket(self, path: str, text: str, timeout_s: float = 2.0) -> str | None:
        deadline, answer = time.monotonic() + timeout_s, b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(timeout_s)
                line.connect(path)
                line.sendall(text.encode())
                while len(answer) < MAX_ANSWER and (piece := line.recv(65536)):
                    answer += piece
                    line.settimeout(max(0.01, deadline - time.monotonic()))
        except OSError:
            return None
        return answer.decode(errors="replace")

    def sql(self, database: str, query: str) -> Output:
        return self._psql(database, query, 15.0)

    def container(self) -> str:
        return execute(("systemd-detect-virt", "-c"), 5.0).stdout.strip() or "none"

    def now(self) -> float:
        return time.time()

    def perform(self, action: Action) -> None:
        try:
            self._perform(action)
        finally:
            self._names.forget()  # a package or a program may have made users

    def _perform(self, action: Action) -> None:
        match action:
            case WriteFile() as write:
                self._write(write)
            case MakeDirectory(path, owner, group, mode):
                disk.make_directory(path, owner, group, mode)
            case MakeSymlink(path, target):
                self._disk.symlink(path, target)
            case SetAttributes(path, owner, group, mode):
                disk.set_attributes(path, owner, group, mode)
            case Remove(path, tree):
                self._disk.remove(path, tree)
            case InstallPackages(names, recommends, options):
                apt.install(execute, names, recommends, options)
            case UpgradePackages(scope, hold):
                apt.upgrade(execute, scope, hold)
            case Unit(verb, name, wait):
                units.perform(execute, verb, name, wait)
            case Run() as run:
                self._run(run)
            case IssueCertificate() as issue:
                self._issue(issue)
            case PatchPatroni(patch):
                restapi.patch(patch)
            case PostPatroni(path, body, timeout_s):
                restapi.post(path, body, timeout_s)
            case RunSql(database, statements):
                self._statements(database, statements)
            case Guarded() as guarded:
                guard.perform(guarded, self.perform, execute, self._confirm)

    def _write(self, write: WriteFile) -> None:
        def check(temporary: str) -> None:
            if not write.check:
                return
            said = execute(tuple(word.replace("%s", temporary) for word in write.check), CHECK_S)
            if said.rc != 0:
                words = mask(last_words(said), tuple(secret for _, secret in write.secrets))
                raise ActionFailed(
                    f"{write.check[0]} refuses the new {write.path}; the old one is still in place",
                    words.replace(temporary, write.path),
                )

        text = rendered(write.content, write.secrets)
        self._disk.write(write.path, text, write.owner, write.group, write.mode, check)

    def _run(self, run: Run) -> None:
        argv = run.argv if run.user == "root" else ("runuser", "-u", run.user, "--", *run.argv)
        stdin, end = run.stdin.reveal() if run.stdin else None, time.monotonic() + run.timeout_s
        while True:
            said = execute(argv, run.timeout_s, stdin)
            if said.rc not in run.busy or time.monotonic() >= end:
                break
            time.sleep(BUSY_S)
        if said.rc != 0:
            secrets = (run.stdin,) if run.stdin else ()
            raise ActionFailed(
                f"{shlex.join(run.argv)} failed with exit code {said.rc}", mask(last_words(said), secrets)
            )

    def _issue(self, issue: IssueCertificate) -> None:
        """The key is written first: a crash in between leaves a pair that does not match, and so is made anew."""
        key, request = leaf.make(issue.common_name or issue.name)
        certificate = self._signer(issue.cluster, issue.name, request)
        leaf.check(certificate, key)
        base = f"{issue.directory}/{issue.basename}"
        self._disk.write(f"{base}.key", key, issue.owner, issue.group, 0o640)
        self._disk.write(f"{base}.crt", certificate, issue.owner, issue.group, 0o644)
        if issue.bundle:
            self._disk.write(f"{base}.pem", certificate + key, "root", "root", 0o600)

    def _psql(self, database: str, text: str, timeout_s: float) -> Output:
        if shutil.which("psql", path=ENVIRONMENT["PATH"]) is None:
            return Output(2, "", "psql is not installed on this host")
        port = str(restapi.settings().postgresql_port)
        options = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "-At", "-F", "\t", "-p", port, "-d", database)
        return execute(("runuser", "-u", "postgres", "--", "psql", *options), timeout_s, text)

    def _statements(self, database: str, statements: Secret) -> None:
        said = self._psql(database, statements.reveal(), SQL_S)
        if said.rc == 2:
            raise ActionFailed(
                "no PostgreSQL server answers on this host; see journalctl -u patroni", said.stderr.strip()
            )
        if said.rc != 0:
            # psql repeats the statement under an error; only the error itself is for other eyes
            errors = [line for line in said.stderr.splitlines() if "ERROR:" in line or "FATAL:" in line]
            raise ActionFailed(f"a statement failed in database {database}", "\n".join(errors))


def last_words(said: Output, lines: int = 15) -> str:
    """The end of what a program complained of, or else of what it said; some print their whole manual on stdout."""
    return "\n".join((said.stderr.strip() or said.stdout.strip()).splitlines()[-lines:])


def enable_minion() -> None:
    """Start the minion's daemon now and at every boot. Raises ActionFailed."""
    said = execute(("systemctl", "enable", "--now", "pgha-minion.service"), 60.0)
    if said.rc != 0:
        raise ActionFailed("pgha-minion.service does not start", last_words(said))
