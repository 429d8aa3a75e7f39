"""Bytes of a peer, as far as they are read before anybody decides anything: the codec, an event's body, an answer.

`make fuzz` runs this with atheris, which is led by what the code does; `tests/unit/test_fuzz_codec.py` runs the same
entry with Hypothesis, shortly and in every run of the tests. What may come out is a value or the one error; anything
else is a hole, and the input that made it is written to a file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import FunctionType

from pgha.common import codec
from pgha.common.codec import decode, encode
from pgha.common.errors import BusError
from pgha.common.messages import FROM_MINION, FROM_STRANGER, TO_MINION, TO_STRANGER, Event
from pgha.common.results import Outcome
from pgha.master.bus import flights
from pgha.master.bus.flights import read_event, read_json
from pgha.master.store import transitions

ALL = (*FROM_MINION, *FROM_STRANGER, *TO_MINION, *TO_STRANGER)
KINDS = ("started", "res", "out", "done", "interrupted", "cancelled", "expired")
JID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def one_input(data: bytes) -> None:
    """Two bytes say how long the header is; without one, the rest is the body of an event of every kind."""
    length = int.from_bytes(data[:2], "big")
    if length:
        header, body = data[2 : 2 + length], data[2 + length :]
        try:
            message = decode([header, body], ALL)
        except BusError:
            return
        assert decode(encode(message), ALL) == message, "what was read is not what would be said"
    else:
        for kind in KINDS:
            event_of(kind, data[2:])
        answer_of(data[2:])


def event_of(kind: str, body: bytes) -> None:
    event = Event.model_validate({"epoch": "e", "seq": 1, "jid": JID, "att": 1, "kind": kind, "body": body})
    try:
        text, news = read_event(event)
        word = transitions.arrived(kind, body)
    except (BusError, ValueError):
        return
    text.encode()
    str(news).encode()
    assert word


def answer_of(body: bytes) -> None:
    try:
        outcome = Outcome.model_validate(read_json(body.decode()))
    except (ValueError, RecursionError):
        return
    outcome.model_dump_json()


def main() -> None:
    atheris = importlib.import_module("atheris")  # only `make fuzz` has it
    for module in (codec, flights, transitions):
        for value in vars(module).values():
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                atheris.instrument_func(value)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


def write_seeds(folder: Path) -> None:
    from pgha.tests.bus.fuzz import seeds

    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number:03d}").write_bytes(seed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seeds"]:
        write_seeds(Path(sys.argv[2]))
    else:
        main()
