"""What a minion must know to find its master: three lines in /etc/pgha/minion.yml, written by `pgha-minion enrol`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..common.errors import UserError
from ..common.keys import public_from_text, write_private
from ..common.names import NodeName
from ..common.paths import Paths

BUS_PORT = 7760


class Settings(BaseModel):
    """`master` is host:port of the bus; the enrolment port is the next one. `fingerprint` is the master's key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    master: str
    fingerprint: str
    name: NodeName
    token: str = Field("", repr=False)

    @property
    def bus_address(self) -> str:
        return self.master

    @property
    def enrol_address(self) -> str:
        host, port = self.master.rsplit(":", 1)
        return f"{host}:{int(port) + 1}"

    @property
    def server_key(self) -> bytes:
        return public_from_text(self.fingerprint)


@dataclass(frozen=True)
class MinionPaths:
    paths: Paths

    @property
    def settings(self) -> Path:
        return self.paths.etc / "minion.yml"

    @property
    def key(self) -> Path:
        return self.paths.pki / "minion.key"

    @property
    def trust(self) -> Path:
        return self.paths.pki / "master.trust"

    @property
    def journal(self) -> Path:
        return self.paths.state / "journal.db"

    @property
    def local_journal(self) -> Path:
        """Of `apply --local`; the other is the daemon's."""
        return self.paths.state / "local.db"

    @property
    def turn(self) -> Path:
        return self.paths.state / "apply.lock"


def with_port(address: str) -> str:
    """`host` or `host:port` -> `host:port`. Raises UserError."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = address, str(BUS_PORT)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise UserError(f"{address!r} is not an address; expected HOST or HOST:PORT, such as 10.0.0.1:{BUS_PORT}")
    return f"{host}:{port}"


def load(path: Path) -> Settings:
    """Raises UserError naming the file and what is wrong with it."""
    if not path.exists():
        raise UserError(f"{path} is not there; enrol this host first: pgha-minion enrol --master ADDR --fingerprint F")
    try:
        value = YAML(typ="safe").load(path.read_text())
        settings = Settings.model_validate(value)
    except YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(str(p) for p in first['loc']) or 'top level'}: {first['msg']}") from None
    public_from_text(settings.fingerprint)
    return settings


def save(path: Path, settings: Settings) -> None:
    lines = [f"{key}: {value}\n" for key, value in settings.model_dump().items() if value]
    write_private(path, "# written by pgha-minion enrol\n" + "".join(lines))
