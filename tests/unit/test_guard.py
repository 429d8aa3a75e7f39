"""Confirm or revert, with real listeners on the loopback interface and a recorded systemctl."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pgha.common.errors import ActionFailed
from pgha.minion import guard
from pgha.states.action import Action, Greeting, Guarded, Run
from pgha.states.system import Output

CHANGE, KEEP, BACK = Run(("change",)), Run(("keep",)), ("back",)


class Listener:
    """Greets whoever connects with `says`; None: accepts and says nothing."""

    def __init__(self, says: bytes | None = b"SSH-2.0-x\r\n") -> None:
        self.says = says
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.at = Greeting("127.0.0.1", self._socket.getsockname()[1], "SSH-")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            if self.says is None:
                self._held.append(line)
                continue
            with line:
                line.sendall(self.says)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for line in self._held:
            line.close()


@dataclass
class Desk:
    """Performs steps, and is systemctl; both write down what they did. `on` is what a step brings about."""

    units: Path
    on: dict[Action, Callable[[], None]] = field(default_factory=dict)
    back: Callable[[], None] = lambda: None
    confirms: bool = True
    did: list[str] = field(default_factory=list)

    def guarded(self, *greets: Greeting) -> None:
        guarded = Guarded((CHANGE,), (BACK,), 5.0, (KEEP,), greets)
        guard.perform(guarded, self.step, self.run, self.confirm, self.units, again_s=0.0)

    def step(self, action: Action) -> None:
        assert isinstance(action, Run)
        self.did.append(action.argv[0])
        self.on.get(action, lambda: None)()

    def run(self, argv: tuple[str, ...], timeout_s: float) -> Output:
        if argv[:2] == ("systemctl", "start"):
            self.did.append("armed" if argv[2].endswith(".timer") else "put back")
            if argv[2].endswith(".service"):
                self.back()
        return Output(0)

    def confirm(self, seconds: float) -> bool:
        self.did.append("asked")
        return self.confirms


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def server() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_a_change_that_leaves_everything_reachable_stays_and_the_way_back_is_forgotten(
    desk: Desk, server: Listener
) -> None:
    desk.guarded(server.at)
    assert desk.did == ["keep", "armed", "change", "asked"]
    assert list(desk.units.iterdir()) == []


def test_a_server_that_greets_no_longer_is_put_back_before_the_master_is_asked(desk: Desk, server: Listener) -> None:
    def deafen() -> None:
        server.says = b"Not allowed at this time\r\n"

    def hear() -> None:
        server.says = b"SSH-2.0-x\r\n"

    desk.on[CHANGE], desk.back = deafen, hear
    with pytest.raises(
        ActionFailed, match=rf"answered on {server.at} as before.*put back; since then there is an answer"
    ):
        desk.guarded(server.at)
    assert desk.did == ["keep", "armed", "change", "put back"]


def test_that_the_way_back_did_not_help_is_said(desk: Desk, server: Listener) -> None:
    desk.on[CHANGE] = server.close
    with pytest.raises(ActionFailed, match="still no answer: look at the service"):
        desk.guarded(server.at)


def test_what_did_not_answer_before_is_not_asked_for(desk: Desk, server: Listener) -> None:
    closed = Listener()
    closed.close()
    desk.guarded(closed.at, server.at)
    assert desk.did[-1] == "asked"


def test_a_server_that_was_deaf_before_must_be_heard_afterwards(desk: Desk, server: Listener) -> None:
    server.says = b"no\r\n"
    with pytest.raises(ActionFailed):
        desk.guarded(server.at)
    desk.on[CHANGE] = lambda: setattr(server, "says", b"SSH-2.0-x\r\n")
    desk.guarded(server.at)
    assert desk.did[-1] == "asked"


def test_a_master_that_does_not_confirm_is_as_bad(desk: Desk, server: Listener) -> None:
    desk.confirms = False
    with pytest.raises(ActionFailed, match="the master did not answer"):
        desk.guarded(server.at)
    assert desk.did[-1] == "put back"


def test_a_step_that_fails_is_put_back_at_once(desk: Desk) -> None:
    def refuse() -> None:
        raise ActionFailed("no")

    desk.on[CHANGE] = refuse
    with pytest.raises(ActionFailed, match=r"^no; what was done until then was put back$"):
        desk.guarded()
    assert desk.did == ["keep", "armed", "change", "put back"]


def test_a_step_that_fails_and_takes_the_server_with_it_says_how_it_is_afterwards(desk: Desk, server: Listener) -> None:
    def break_it() -> None:
        server.says = b""
        raise ActionFailed("no", "its words")

    desk.on[CHANGE] = break_it
    with pytest.raises(ActionFailed, match="put back; there is still no answer") as failed:
        desk.guarded(server.at)
    assert failed.value.output == "its words"


def test_a_greeting_is_heard_in_pieces_and_one_that_never_comes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "ANSWER_S", 0.2)
    for says, heard in ((b"SSH-2.0-x", True), (b"SSH", False), (b"", False), (None, False)):
        listener = Listener(says)
        assert guard.greets(listener.at) is heard
        listener.close()
        assert not guard.greets(listener.at)
