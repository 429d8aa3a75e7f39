"""Part of FakeSystem: an SSH server that reads its drop-ins and then its own settings, first come first served."""

from __future__ import annotations

from dataclasses import dataclass, field

from .resources import sshd
from .system import FileFacts, Output

DEFAULTS = {
    "port": "22",
    "listenaddress": "0.0.0.0:22",
    "pubkeyauthentication": "yes",
    "passwordauthentication": "yes",
    "kbdinteractiveauthentication": "no",
    "permitrootlogin": "without-password",
    "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2",
    "authorizedkeyscommand": "none",
    "trustedusercakeys": "none",
    "maxauthtries": "6",
    "maxsessions": "10",
    "refuseconnection": "no",
    "forcecommand": "none",
    "chrootdirectory": "none",
    "persourcemaxstartups": "none",
}
MANY = ("allowusers", "allowgroups", "denyusers", "denygroups")


@dataclass
class FakeSshd:
    """`main`: keyword -> value of /etc/ssh/sshd_config. `deaf`: keyword -> value with which it greets nobody."""

    main: dict[str, str] = field(default_factory=dict)
    deaf: dict[str, str] = field(default_factory=lambda: {"persourcemaxstartups": "0"})

    def ask(self, argv: tuple[str, ...], stdin: str | None, files: dict[str, FileFacts]) -> Output | None:
        if argv not in (sshd.EFFECTIVE, sshd.WOULD_BE):
            return None
        given = stdin or ""
        alone = argv == sshd.WOULD_BE and not given.endswith(sshd.THE_REST)
        found, wrong = self._read(given.removesuffix(sshd.THE_REST), {} if alone else files)
        if wrong:
            return Output(255, "", f"/dev/stdin: line 1: Bad configuration option: {wrong}\n")
        return Output(0, "".join(f"{key} {value}\n" for key, values in found.items() for value in values))

    def greets(self, files: dict[str, FileFacts]) -> bool:
        found, _ = self._read("", files)
        return not any(found.get(keyword) == [value] for keyword, value in self.deaf.items())

    def _read(self, first: str, files: dict[str, FileFacts]) -> tuple[dict[str, list[str]], str]:
        """Keyword -> values, and the first keyword that there is not."""
        paths = sorted(path for path in files if path.startswith(f"{sshd.FOLDER}/") and path.endswith(".conf"))
        text = "\n".join([first, *(files[path].content or "" for path in paths)])
        found: dict[str, list[str]] = {}
        for line in text.splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            keyword, _, value = line.partition(" ")
            small = keyword.lower()
            if small not in DEFAULTS and small not in MANY:
                return {}, keyword
            if small in MANY:
                found[small] = [*found.get(small, []), *value.split()]
            else:
                found.setdefault(small, [value])
        for keyword, value in {**DEFAULTS, **self.main}.items():
            found.setdefault(keyword, [value])
        return found, ""
