"""Make a master out of a host: folders, keys, settings. Run again, it changes nothing."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..common.errors import HostError, UserError
from ..common.keys import load_or_create, public_text
from ..common.messages import OLDEST, VERSION
from ..common.paths import Paths
from .keeping.retention import Keep
from .keeping.vault import create_key
from .roles import Groups
from .store import Store

BUS_PORT = 7760


class Settings(BaseModel):
    """/etc/pgha/master.yml. The bus listens on `listen`:`port`, enrolment on the port after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    listen: str = "0.0.0.0"  # noqa: S104 - minions dial in from everywhere; who gets in is decided by key
    port: int = BUS_PORT
    min_protocol: int = Field(OLDEST, ge=OLDEST, le=VERSION)  # minions that speak less may only be upgraded
    roles: Groups = Groups()
    keep: Keep = Keep()


def settings_path(paths: Paths) -> Path:
    return paths.etc / "master.yml"


def master_key_path(paths: Paths) -> Path:
    return paths.etc / "master.key"


def curve_key_path(paths: Paths) -> Path:
    return paths.pki / "master.curve"


def signing_key_path(paths: Paths) -> Path:
    return paths.pki / "master.signing"


def supersede(paths: Paths) -> int:
    """Make this master newer than any that its minions have obeyed; its epoch. Raises UserError while it runs."""
    if paths.admin_socket.exists():
        raise UserError("this master is running; stop it first: systemctl stop pgha-master")
    store = Store(paths.state / "pgha.db")
    try:
        return asyncio.run(store.next_epoch(time.time(), supersede=True))
    finally:
        store.close()


def initialise(paths: Paths, listen: str | None = None) -> dict[str, object]:
    """Create what is missing; `listen` is ADDRESS or ADDRESS:PORT. The master's fingerprint is in the answer.

    Raises UserError for a `listen` that is none, HostError when a folder cannot be made.
    """
    settings = _listen(listen) if listen else None
    try:
        open_to_group = ((paths.clusters, 0o750), (paths.user_states, 0o750))
        for folder, mode in ((paths.etc, 0o755), *open_to_group, (paths.pki, 0o700), (paths.state, 0o700)):
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(mode)
        created = create_key(master_key_path(paths))
        keys = load_or_create(curve_key_path(paths))
        where = settings_path(paths)
        if settings is not None or not where.exists():
            _write(where, settings or Settings())
        if paths.root == Path("/") and os.geteuid() == 0:
            folders = (paths.etc, paths.clusters, paths.user_states, paths.pki, paths.state)
            _give_to_the_service((*folders, master_key_path(paths), curve_key_path(paths), where))
    except OSError as error:
        raise HostError(
            f"cannot set up the master: {error}; run as root, or set PGHA_ROOT to a folder of yours"
        ) from None
    settings = load_settings(paths)
    return {
        "fingerprint": public_text(keys.public),
        "listen": f"{settings.listen}:{settings.port}",
        "clusters": str(paths.clusters),
        "created": created,
    }


def _write(where: Path, settings: Settings) -> None:
    """Set where to listen, and leave everything else in the file as it is."""
    yaml = YAML()
    whole = (yaml.load(where.read_text()) if where.exists() else None) or {}
    whole["listen"], whole["port"] = settings.listen, settings.port
    with where.open("w") as file:
        yaml.dump(whole, file)


def load_settings(paths: Paths) -> Settings:
    """Raises UserError when the master has not been initialised or its settings are wrong."""
    where = settings_path(paths)
    try:
        return Settings.model_validate(YAML(typ="safe").load(where.read_text()) or {})
    except FileNotFoundError:
        raise UserError(f"{where} is not there; run first: pgha-master init") from None
    except YAMLError as error:
        raise UserError(f"{where} is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UserError(f"{where}: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from None


def _give_to_the_service(made: Iterable[Path], user: str = "pgha") -> None:
    """pgha-master.service runs as that user; where there is none, root runs the master."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return
    for path in made:
        os.chown(path, account.pw_uid, account.pw_gid)


def _listen(text: str) -> Settings:
    host, colon, port = text.rpartition(":")
    if not colon:
        return Settings(listen=text)
    if not port.isdigit() or not 0 < int(port) < 65535:
        raise UserError(f"{text!r} is no address to listen on; expected ADDRESS or ADDRESS:PORT")
    return Settings(listen=host, port=int(port))
