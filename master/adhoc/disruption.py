"""What a command line would take down on its host, read as a colleague would who looks over your shoulder. Pure.

A guard against slips, not against intent: who hides a reboot in a script file, a variable or another language gets by.
So this finds what people type: systemctl, reboot, patronictl, apt, pkill and the like, also behind sudo, env or
timeout and inside `sh -c '...'`.

Rules:
1. What is not recognised takes nothing down.
2. What is recognised and cannot be read to the end, such as `systemctl stop $unit`, counts as the whole host.
3. The rest is units without `.service`; HOST for the whole host; or `patroni of X` for a member of the cluster that
   need not be on this host: X is a member, LEADER or EVERYBODY.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from .commandline import TooDeep, bundle, commands

HOST = "*"
STACK = ("etcd", "patroni", "postgresql", "haproxy")
LEADER, EVERYBODY = "the leader", "every member"
MEMBER = "patroni of "

_NONE: frozenset[str] = frozenset()
_HOST = frozenset((HOST,))
_ALL = frozenset(STACK)
_PROCESSES = {"postgres": "postgresql", "postmaster": "postgresql", "patroni": "patroni", "etcd": "etcd"}
_NETWORK = ("networking", "network", "NetworkManager", "systemd-networkd")


def taken_down(argv: Sequence[str]) -> frozenset[str]:
    """Of a command as it is given to the host: a program and its arguments, no shell but the one it names."""
    found: set[str] = set()
    try:
        for program, *arguments in commands(argv, _READERS):
            if program in _READERS and not {"--help", "--version"} & set(arguments):
                found |= _READERS[program](arguments)
    except TooDeep:
        return _HOST
    if HOST in found:  # and with it all its units, but not the members elsewhere
        found = {HOST, *(name for name in found if name.startswith(MEMBER))}
    return frozenset(found)


def _positional(words: Sequence[str], with_value: Sequence[str] = ()) -> list[str]:
    """What is no option; `with_value` are options whose value is the next word."""
    found, value = [], False
    for word in words:
        if value:
            value = False
        elif word.startswith("-"):
            value = word in with_value
        else:
            found.append(word)
    return found


def unit(name: str) -> frozenset[str]:
    """A unit as systemctl takes it: with or without .service, or a pattern."""
    name = name.removesuffix(".service")
    system_slice = name.endswith(".slice") and name.startswith(("system", "-"))
    if "$" in name or name in ("", HOST, *_NETWORK) or system_slice:
        return _HOST
    if not re.search(r"[*?\[]", name):
        return frozenset((name,))
    beginning = re.split(r"[*?\[]", name)[0]
    hit = {one for one in STACK if one.startswith(beginning) or beginning.startswith(one)}
    return frozenset(hit or {name})


def _units(names: Sequence[str]) -> frozenset[str]:
    return _NONE.union(*(unit(name) for name in names))


_HOST_VERBS: tuple[str, ...] = ("reboot", "poweroff", "halt", "kexec", "soft-reboot", "rescue", "emergency", "default")
_HOST_VERBS += ("isolate", "suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate", "sleep", "exit")
_UNIT_VERBS: tuple[str, ...] = ("stop", "restart", "try-restart", "condrestart", "reload-or-restart")
_UNIT_VERBS += ("try-reload-or-restart", "force-reload", "kill", "freeze")
_NOW_VERBS = ("disable", "mask")  # with --now
_POWER = re.compile(
    r"(systemd-)?(reboot|poweroff|halt|kexec|soft-reboot|suspend|hibernate|rescue|emergency|shutdown)\b"
)
_SYSTEMCTL_VALUES: tuple[str, ...] = (
    "-s",
    "--signal",
    "-t",
    "--type",
    "-p",
    "--property",
    "-n",
    "--lines",
    "-o",
    "--output",
)
_SYSTEMCTL_VALUES += ("-H", "--host", "-M", "--machine", "--kill-whom", "--kill-who", "--job-mode", "--root", "--when")


def _systemctl(arguments: Sequence[str]) -> frozenset[str]:
    verb, *names = _positional(arguments, _SYSTEMCTL_VALUES) or [""]
    if verb in _HOST_VERBS:
        return _HOST
    if verb in _UNIT_VERBS or (verb in _NOW_VERBS and "--now" in arguments):
        return _units(names)
    return _HOST if verb == "start" and any(_POWER.match(name) for name in names) else _NONE


def _service(arguments: Sequence[str]) -> frozenset[str]:
    words = _positional(arguments)
    if len(words) > 1 and (words[1] in _UNIT_VERBS or words[1].startswith("$")):
        return unit(words[0])
    return unit(words[0]) if words and "--full-restart" in arguments else _NONE


def _host(arguments: Sequence[str]) -> frozenset[str]:
    return _HOST


def _shutdown(arguments: Sequence[str]) -> frozenset[str]:
    return _NONE if {"-c", "-k"} & set(arguments) else _HOST


def _init(arguments: Sequence[str]) -> frozenset[str]:
    return _HOST if {"0", "1", "6", "s", "S"} & set(arguments) else _NONE


def _kexec(arguments: Sequence[str]) -> frozenset[str]:
    return _HOST if {"-e", "--exec"} & set(arguments) else _NONE


def _network(arguments: Sequence[str]) -> frozenset[str]:
    """ip, ifconfig, nmcli: a link that goes down, or addresses that go away; loopback is as bad as any."""
    words = _positional(arguments)
    down = bool({"down", "off", "disconnect"} & set(words))
    flush = "flush" in words and words[0].startswith("a")
    return _HOST if down or flush else _NONE


def _ufw(arguments: Sequence[str]) -> frozenset[str]:
    """`reset` and `disable` let everybody in; that is bad, and nothing goes down."""
    return _HOST if "enable" in arguments and "--dry-run" not in arguments else _NONE


def _iptables(arguments: Sequence[str]) -> frozenset[str]:
    policy = {"-P", "--policy"} & set(arguments)
    return _HOST if policy and {"DROP", "REJECT"} & set(arguments) else _NONE


_PATRONICTL_VALUES: tuple[str, ...] = (
    "-c",
    "--config-file",
    "-d",
    "--dcs",
    "--dcs-url",
    "-r",
    "--role",
    "--scheduled",
    "--timeout",
)
_PATRONICTL_VALUES += ("--pg-version", "--group", "--citus-group", "--leader", "--primary", "--candidate", "-p")


def _patronictl(arguments: Sequence[str]) -> frozenset[str]:
    """It acts on members by name, whichever host it runs on. pause, resume and reload take nothing down."""
    verb, *names = _positional(arguments, _PATRONICTL_VALUES) or [""]
    if verb in ("switchover", "failover"):
        return frozenset((MEMBER + LEADER,))
    if verb == "restart" and "--any" in arguments:
        return frozenset((MEMBER + LEADER,))  # it might be that one
    if verb in ("restart", "reinit") and len(names) > 1:
        return frozenset(MEMBER + name for name in names[1:])
    return frozenset((MEMBER + EVERYBODY,)) if verb in ("restart", "remove") else _NONE


def _pg_ctl(arguments: Sequence[str]) -> frozenset[str]:
    return frozenset(("postgresql",)) if {"stop", "restart"} & set(arguments) else _NONE


def _postgresql(arguments: Sequence[str]) -> frozenset[str]:
    return frozenset(("postgresql",))


_APT_VERBS = ("install", "reinstall", "remove", "purge", "upgrade", "dist-upgrade", "full-upgrade", "safe-upgrade")
_APT_VALUES = ("-o", "--option", "-t", "--target-release", "--default-release", "-c", "--config-file", "-a")
_APT_DRY = ("--simulate", "--just-print", "--dry-run", "--recon", "--no-act", "--download-only", "--print-uris")
_DPKG_ACTIONS = ("-i", "--install", "-r", "--remove", "-P", "--purge", "--unpack", "--configure")


def _apt(arguments: Sequence[str]) -> frozenset[str]:
    """A package of the stack stops or restarts its service; an upgrade without names may hold any."""
    dry = any(word in _APT_DRY or bundle(word, "sd") for word in arguments)
    verb, *names = _positional(arguments, _APT_VALUES) or [""]
    if dry or verb not in _APT_VERBS:
        return _NONE
    return _packages(names) if names else _ALL if "upgrade" in verb else _NONE


def _dpkg(arguments: Sequence[str]) -> frozenset[str]:
    dry = {"--dry-run", "--no-act", "--simulate"} & set(arguments)
    if dry or not set(_DPKG_ACTIONS) & set(arguments):
        return _NONE
    return _ALL if {"-a", "--pending"} & set(arguments) else _packages(_positional(arguments))


def _unattended(arguments: Sequence[str]) -> frozenset[str]:
    return _NONE if "--dry-run" in arguments else _ALL


def _packages(names: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for path in names:
        name = PurePosixPath(path).name if path.endswith(".deb") else path
        if not re.match(r"postgresql-(client|doc)|etcd-client", name):
            found |= {one for one in STACK if name.startswith(one)}
        if name.startswith(("*", "$")):
            found |= set(STACK)
    return frozenset(found)


def _kill(arguments: Sequence[str]) -> frozenset[str]:
    """By name, or by a number that `$(pidof etcd)` and the like give; a bare number says nothing."""
    if "-0" in arguments or "-l" in arguments:
        return _NONE
    return frozenset(name for process, name in _PROCESSES.items() if any(process in word for word in arguments))


def _pkill(arguments: Sequence[str]) -> frozenset[str]:
    """A pattern that is part of a name hits it, so `pkill postg` does."""
    patterns = [word for word in _positional(arguments) if not word.isdigit()]
    hit = {name for process, name in _PROCESSES.items() for pattern in patterns if pattern in process}
    return _kill(arguments) | hit if not {"-0", "-l"} & set(arguments) else _NONE


_READERS: dict[str, Callable[[Sequence[str]], frozenset[str]]] = {
    "systemctl": _systemctl,
    "service": _service,
    "invoke-rc.d": _service,
    "reboot": _host,
    "poweroff": _host,
    "halt": _host,
    "killall5": _host,
    "ifdown": _host,
    "do-release-upgrade": _host,
    "shutdown": _shutdown,
    "init": _init,
    "telinit": _init,
    "kexec": _kexec,
    "ip": _network,
    "ifconfig": _network,
    "nmcli": _network,
    "ufw": _ufw,
    "iptables": _iptables,
    "ip6tables": _iptables,
    "patronictl": _patronictl,
    "pg_ctl": _pg_ctl,
    "pg_ctlcluster": _pg_ctl,
    "pg_dropcluster": _postgresql,
    "pg_renamecluster": _postgresql,
    "pg_upgradecluster": _postgresql,
    "apt": _apt,
    "apt-get": _apt,
    "aptitude": _apt,
    "dpkg": _dpkg,
    "unattended-upgrade": _unattended,
    "unattended-upgrades": _unattended,
    "kill": _kill,
    "pkill": _pkill,
    "killall": _kill,
}
