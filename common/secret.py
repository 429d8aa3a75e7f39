"""A value that must not be seen: it prints as a fingerprint, and only `reveal()` gives it out."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

MASK = "********"


class Secret:
    """Compares by value, prints as `Secret(3f2a9c)`; pydantic dumps it in clear only with `context={"reveal": True}`.

    The fingerprint is the first 24 bits of a SHA-256: enough to see that two values differ, too little to guess from.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"pgha-secret:" + self._value.encode()).hexdigest()[:6]

    def __repr__(self) -> str:
        return f"Secret({self.fingerprint})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._dump, info_arg=True),
        )

    @classmethod
    def _validate(cls, value: object) -> Secret:
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ValueError("expected text")

    @staticmethod
    def _dump(value: Secret, info: core_schema.SerializationInfo) -> str:
        context = info.context
        return value.reveal() if isinstance(context, dict) and context.get("reveal") else str(value)


def mask(text: str, secrets: tuple[Secret, ...]) -> str:
    """The text with every known secret value replaced by asterisks, longest first."""
    for secret in sorted(secrets, key=lambda s: -len(s.reveal())):
        if secret.reveal():
            text = text.replace(secret.reveal(), MASK)
    return text
