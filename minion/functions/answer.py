"""The answer of a query is one message of the bus, so it has an end: what is longer is cut, and says by how much."""

from __future__ import annotations

import json

from ...common.results import Outcome
from .request import Emit

ANSWER_LIMIT = 200 * 1024
_NOTE_BYTES = 300


class Budget:
    """Passes output on while there is room, measured as the JSON it becomes. `close` says what was left out."""

    def __init__(self, output: Emit, limit: int = ANSWER_LIMIT) -> None:
        self._output = output
        self._left = limit - _NOTE_BYTES
        self._dropped = 0

    def output(self, stream: str, text: str) -> None:
        if self._dropped:
            self._dropped += len(text.encode(errors="replace"))
            return
        kept = _fitting(text, self._left)
        self._left -= _size(kept)
        self._dropped += len(text[len(kept) :].encode(errors="replace"))
        if kept:
            self._output(stream, kept)

    def close(self, outcome: Outcome) -> Outcome:
        """The outcome as it fits beside the output."""
        if self._dropped:
            self._output("stderr", f"\n[pgha: {self._dropped} more bytes are left out; a query may answer 200 KiB]\n")
        size = _size(outcome.data) + _size(outcome.message)
        if size <= self._left:
            return outcome
        note = f"[pgha: {size} bytes of the answer are left out; a query may answer {ANSWER_LIMIT >> 10} KiB]"
        return outcome.model_copy(update={"data": {}, "message": note})


def _fitting(text: str, room: int) -> str:
    """As many whole lines of the text as fit; a first line that does not is cut."""
    if _size(text) <= room:
        return text
    kept = 0
    for line in text.splitlines(keepends=True):
        size = _size(line)
        if size > room:
            return text[:kept] if kept else line[: max(0, room // 12)]  # a character is at most 12 bytes of JSON
        room -= size
        kept += len(line)
    return text


def _size(value: object) -> int:
    return len(json.dumps(value))
