"""What `pgha-master enrol` sends to a host, and what an answer of that host means. Pure but for reading own files.

One tar archive goes over the standard input of one fixed command: `install.sh`, this master's own wheel, and each value
in a file of its own. So nothing that differs from host to host is ever part of a command.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from ...common import wheel as wheels
from ...common.errors import UserError
from .ssh import NOT_REACHED, Access

_ROOT = 'sh "$d/install.sh" "$d" "${SSH_CONNECTION%% *}"'
_COMMAND = """sh -c 'umask 077; d=$(mktemp -d) || exit 69; tar -xf - -C "$d" && {run}; r=$?; rm -rf "$d"; exit $r'"""
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!-]*\.whl")
_LAST_LINES = 4
_MAX_WHEELS = 512 * 1024 * 1024


def wheel() -> bytes:
    """This master's own pgha. Raises HostError when it is not installed as a package."""
    return wheels.installed().data


def wheel_name() -> str:
    """The file name that goes with `wheel()`. Raises HostError."""
    return wheels.installed().name


def command(sudo: bool) -> str:
    """What runs on the host: it unpacks its input into a folder only it can read, runs what is there, and cleans up."""
    return _COMMAND.format(run=f"sudo -n {_ROOT}" if sudo else _ROOT)


def common_files(own: wheels.Wheel, extra: Mapping[str, bytes]) -> dict[str, bytes]:
    """What all hosts get. `extra` are the wheels of --wheels, by file name."""
    script = Path(__file__).with_name("install.sh")
    return {
        "install.sh": script.read_bytes(),
        own.name: own.data,
        "version": own.version.encode(),
        "digest": own.digest.encode(),
        "unit": own.file("minion/pgha-minion.service").encode(),
        **{f"wheels/{name}": data for name, data in extra.items()},
    }


def own_files(name: str, token: str, fingerprint: str, reached_at: str, port: int) -> dict[str, bytes]:
    """What one host gets. `reached_at` is HOST:PORT of the bus; empty: the host takes the connection's own address."""
    values = {"name": name, "token": token, "fingerprint": fingerprint, "master": reached_at, "port": str(port)}
    return {key: f"{value}\n".encode() if value else b"" for key, value in values.items()}


def packed(files: Mapping[str, bytes]) -> bytes:
    """The files as members of a tar archive without its end, so that archives can be joined; `sealed` ends one."""
    target = io.BytesIO()
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o600
        target.write(member.tobuf(tarfile.USTAR_FORMAT))
        target.write(content + b"\0" * (-len(content) % tarfile.BLOCKSIZE))
    return target.getvalue()


def sealed(*parts: bytes) -> bytes:
    return b"".join([*parts, b"\0" * (2 * tarfile.BLOCKSIZE)])


def read_wheels(folder: Path) -> dict[str, bytes]:
    """The wheels of --wheels. Raises UserError when it is no folder, holds none, or more than can be sent."""
    if not folder.is_dir():
        raise UserError(f"--wheels: {folder} is no folder")
    paths = sorted(path for path in folder.glob("*.whl") if path.is_file() and _WHEEL.fullmatch(path.name))
    if not paths:
        raise UserError(f"--wheels: there is no wheel in {folder}; fill it with: pip download --dest {folder} ...")
    size = sum(path.stat().st_size for path in paths)
    if size > _MAX_WHEELS:
        raise UserError(f"--wheels: {folder} holds {size >> 20} MiB, more than the {_MAX_WHEELS >> 20} that are sent")
    return {path.name: path.read_bytes() for path in paths if not path.name.startswith(f"{wheels.PROJECT}-")}


# ---- what went wrong, and what to do

_SSH = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
        "its SSH host key is not the one that is known. If the host was set up anew, take the old key away: "
        "ssh-keygen -R {entry}{file}. If it was not, somebody may stand between",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        "its SSH host key is not known here. Log in once by hand and compare it, or use --host-key-checking accept-new",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "SSH does not let you in. Check --user and --identity; this must work without a password: "
        "ssh {login}{address} true",
    ),
    (
        r"timed out|No route to host|Network is unreachable",
        "no answer from {address}. Check its address in the definition, that the host is up, and firewalls "
        "for port {port}",
    ),
    (r"Connection refused", "nothing listens on port {port} of {address}. Is sshd running there, on that --port?"),
    (r"UNPROTECTED PRIVATE KEY|bad permissions", "the key file of --identity can be read by others: chmod 600"),
)
_SUDO = (
    (
        r"sudo: .*(password is required|terminal is required)",
        "sudo asks {user} for a password there. Allow it without: NOPASSWD in sudoers",
    ),
    (r"not in the sudoers|not allowed to (execute|run)", "{user} may not use sudo there"),
    (
        r"sudo: (command )?not found|sudo: No such file",
        "there is no sudo on the host; log in as root: --user root without --sudo",
    ),
)
_STEPS = {
    69: "no temporary folder can be made there",
    70: "the user is not root; use --user root, or --sudo for a user who may",
    71: "this is no Debian or Ubuntu, which pgha needs",
    72: "systemd does not run there, and pgha needs it",
    73: "the host is enrolled with another master. If that is over: rm /etc/pgha/minion.yml there, then enrol again",
    74: "the host is enrolled under another name. Are two addresses swapped in the definition? If the host has a new "
    "name: rm -r /etc/pgha/minion.yml /etc/pgha/pki/minion.key there, then enrol again",
    75: "the address of this master cannot be told from the connection; give it: --master ADDRESS",
    76: "python3-venv cannot be installed there: apt-get install python3-venv",
    77: "pgha needs Python 3.10 or newer, of Debian 12, Ubuntu 22.04 or later",
    78: "/opt/pgha is there and is nothing of pgha; move it away",
    79: "the virtual environment /opt/pgha cannot be made",
    80: "its pgha is newer than this master's. Upgrade the master first",
    81: "pip cannot get what pgha needs. Give the host a package index (/etc/pip.conf), or send the wheels along: "
    "--wheels DIR, with wheels for that host's Python",
    82: "the new pgha does not run there",
    83: "there is a /usr/bin/pgha-minion that is not pgha's; move it away",
    84: "the service cannot be set up",
    85: "the enrolment did not succeed",
    86: "pgha-minion.service does not start",
    87: "its disk is full; pgha needs 200 MiB in /opt/pgha to be installed",
    NOT_REACHED: "the SSH connection broke",
}


def explained(code: int, errors: str, address: str, access: Access) -> str:
    """One failure for a person: what and what to do in the first line, the host's own last words in the others."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and "WARNING: Retrying" not in line]
    said = "".join(f"\n{line[:300]}" for line in lines[-_LAST_LINES:])
    known = {
        "address": address,
        "port": access.port or 22,
        "login": f"{access.user}@" if access.user else "",
        "user": access.user or "that user",
        "entry": f"'[{address}]:{access.port}'" if access.port not in (0, 22) else address,
        "file": f" -f {access.known_hosts}" if access.known_hosts else "",
    }
    for pattern, what in _SSH if code == NOT_REACHED else _SUDO:
        if re.search(pattern, errors):
            return what.format(**known)
    if "No space left on device" in errors:
        return f"its disk is full{said}"
    return _STEPS.get(code, f"the installation ended with exit code {code}") + said
