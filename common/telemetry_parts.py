"""What all parts of a sample have in common: they are frozen, strict, and every text in them has a limit."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

TEXT_LIMIT = 200  # characters
MEMBER_LIMIT = 64


def clipped(value: object) -> object:
    """Text on one line, printable, at most TEXT_LIMIT characters; anything else as it is."""
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())
    if not line.isprintable():  # it ends up on somebody's terminal
        line = "".join(sign if sign.isprintable() else "?" for sign in line)
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 3] + "..."


Text = Annotated[str, BeforeValidator(clipped), Field(max_length=TEXT_LIMIT)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
