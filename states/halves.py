"""What the data nodes' users tell each other before they can speak SSH: public halves, and nothing that is secret.

A node says it by the function `ssh.public`; the master keeps it, and puts it into the other nodes' documents. So it
is checked strictly: a line that a node makes up here is written into files of the others.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..common.errors import HostError
from .resources.ssh import PUBLIC_HALF, PublicKey
from .system import Look

KEY = "/var/lib/postgresql/.ssh/pgha_ed25519"
"""The private key of user postgres for the other data nodes. A name of its own: any other key there is its owner's."""
HOST_KEYS = "/etc/ssh"
_HOST_KEY = re.compile(r"ssh_host_[a-z0-9]+_key\.pub")


def _bare(value: str) -> str:
    """Without the comment, of which nobody knows who wrote it."""
    return " ".join(value.split()[:2])


def _ed25519(value: str) -> str:
    if value and not value.startswith("ssh-ed25519 "):
        raise ValueError("expected an ed25519 key")
    return value


BareKey = Annotated[PublicKey, Field(max_length=4096), AfterValidator(_bare)]


class PublicHalf(BaseModel):
    """`user`: the key of postgres, None while there is none. `host`: those by which the node's SSH server is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: Annotated[BareKey, AfterValidator(_ed25519)] | None = None
    host: Annotated[tuple[BareKey, ...], Field(max_length=16)] = ()

    @property
    def complete(self) -> bool:
        return self.user is not None and self.host != ()

    def missing(self) -> str:
        """What is not there, in words; empty when it is complete."""
        if self.user is None:
            return f"user postgres has no key {KEY} yet; the document hardening makes it"
        return "" if self.host else f"there is no host key in {HOST_KEYS}; install openssh-server"


def look(host: Look) -> PublicHalf:
    """This node's own. Raises HostError for a key that is none.

    Of the private key nothing is read but what ssh-keygen makes public.
    """
    said = host.ask((*PUBLIC_HALF, KEY)) if host.attributes(KEY).kind == "file" else None
    paths = [f"{HOST_KEYS}/{name}" for name in host.names(HOST_KEYS) if _HOST_KEY.fullmatch(name)]
    keys = [content for path in paths if (content := host.file(path).content)]
    try:
        return PublicHalf(user=said.stdout if said is not None and said.rc == 0 else None, host=tuple(keys))
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise HostError(f"{KEY} or a key in {HOST_KEYS} cannot be used: {why}") from None
