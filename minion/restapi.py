"""The local Patroni over its REST API: TLS with the node's own client certificate, and the password of its config.

Only 127.0.0.1 is ever asked: what other nodes think is their own minions' to tell.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..common.errors import ActionFailed
from ..common.secret import Secret

CONFIG = Path("/etc/patroni/config.yml")
TLS = Path("/etc/patroni/tls")
SETTLE_S = 10.0
NOT_DUE = "restart conditions are not satisfied"  # Patroni, asked for a restart that nothing waits for


@dataclass(frozen=True)
class PatroniSettings:
    """Of the local Patroni's own file. `tls` is False when its REST API has no certificate."""

    port: int = 8008
    tls: bool = True
    username: str = ""
    password: Secret = Secret("")  # noqa: RUF009 - immutable
    postgresql_port: int = 5432


def settings(path: Path = CONFIG) -> PatroniSettings:
    """The defaults when there is no such file, or none that can be read as YAML."""
    try:
        seen = path.stat()
    except OSError:
        return PatroniSettings()
    return _parse(path, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=4)
def _parse(path: Path, mtime_ns: int, size: int) -> PatroniSettings:
    try:
        data = YAML(typ="safe", pure=True).load(path.read_text())
    except (OSError, YAMLError, UnicodeDecodeError):
        return PatroniSettings()
    restapi, database = _section(data, "restapi"), _section(data, "postgresql")
    login = _section(restapi, "authentication")
    return PatroniSettings(
        port=_port(restapi.get("listen"), 8008),
        tls=bool(restapi.get("certfile")),
        username=str(login.get("username", "")),
        password=Secret(str(login.get("password", ""))),
        postgresql_port=_port(database.get("listen"), 5432),
    )


def _section(data: object, name: str) -> dict[str, Any]:
    section = data.get(name) if isinstance(data, dict) else None
    return section if isinstance(section, dict) else {}


def _port(listen: object, default: int) -> int:
    text = str(listen or "").rpartition(":")[2]
    return int(text) if text.isdigit() else default


def get(path: str, timeout_s: float = 3.0) -> tuple[int, str]:
    """HTTP status and body; (0, why) when nobody answers."""
    return _request(settings(), "GET", path, None, timeout_s)


def post(path: str, text: str, timeout_s: float) -> None:
    """Order something of Patroni, which answers when it is done; a restart that is not due is. Raises ActionFailed."""
    status, body = _request(settings(), "POST", path, text, timeout_s)
    said = " ".join(body.split())[:500]
    if status == 0:
        raise ActionFailed(f"Patroni does not answer on this node: {said}; see journalctl -u patroni")
    if status != 200 and NOT_DUE not in body:
        raise ActionFailed(f"Patroni refuses {path} with HTTP {status}: {said}; see journalctl -u patroni")


def patch(text: str) -> None:
    """PATCH the dynamic configuration, and wait until Patroni itself reads it back. Raises ActionFailed."""
    status, body = _request(settings(), "PATCH", "/config", text, 15.0)
    if status == 0:
        raise ActionFailed(f"Patroni does not answer on this node: {body}; see journalctl -u patroni")
    if status != 200:
        raise ActionFailed(f"Patroni refused the change of its configuration with HTTP {status}", body[-500:])
    deadline = time.monotonic() + SETTLE_S
    while not _reads_back(body):
        if time.monotonic() > deadline:
            raise ActionFailed(f"Patroni took the change but does not show it after {SETTLE_S:g} s; apply again")
        time.sleep(0.2)


def _reads_back(wanted: str) -> bool:
    status, body = get("/config")
    try:
        return status == 200 and json.loads(body) == json.loads(wanted)
    except ValueError:
        return False


def _request(at: PatroniSettings, method: str, path: str, body: str | None, timeout_s: float) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"} if body else {}
    if at.username and method != "GET":
        login = base64.b64encode(f"{at.username}:{at.password.reveal()}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    connection: http.client.HTTPConnection | None = None
    try:
        connection = _connection(at, timeout_s)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(4 * 1024 * 1024).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error) or type(error).__name__
    finally:
        if connection:
            connection.close()


def _connection(at: PatroniSettings, timeout_s: float) -> http.client.HTTPConnection:
    if not at.tls:
        return http.client.HTTPConnection("127.0.0.1", at.port, timeout=timeout_s)
    context = ssl.create_default_context(cafile=os.fspath(TLS / "ca.crt"))
    context.load_cert_chain(TLS / "api.crt", TLS / "api.key")
    return http.client.HTTPSConnection("127.0.0.1", at.port, timeout=timeout_s, context=context)
