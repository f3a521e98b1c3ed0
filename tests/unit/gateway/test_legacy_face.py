"""The common stream of a session: what servers say on their own keeps coming, whatever becomes of their streams."""

from __future__ import annotations

from typing import Any

import pytest
from tests.talks.talk import Ear, PlayedServer, Talk
from tests.unit.gateway.timers import Timers

from doorward.base.errors import UpstreamError
from doorward.protocol.envelope import message_of

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


class Listening:
    """A client that listens to one server."""

    def __init__(self) -> None:
        self.server = PlayedServer()
        self.talk, self.timers = Talk({"time": self.server}), Timers()
        self.talk.facts.later = self.timers
        self.session = self.talk.open("time")
        self.ear = self.listen()

    def listen(self) -> Ear:
        return self.talk.send("time", None, verb="GET", Mcp_Session_Id=self.session)

    @property
    def sinks(self) -> list[Any]:
        return self.server.links[0].listeners

    def heard(self) -> int:
        return len(self.ear.messages())

    def delays(self) -> list[float]:
        return [seconds for seconds, _ in self.timers.set]


def test_a_server_that_ends_its_stream_is_listened_to_again_with_patience() -> None:
    case = Listening()
    delays = []
    for _ in range(8):
        case.sinks[-1].done()
        delays += case.delays()
        case.timers.fire()
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    case.sinks[-1].message(message_of(dict(CHANGED)))
    assert case.heard() == 1 and not case.ear.ended
    case.sinks[-1].done()
    assert case.delays() == [0.05, 1]  # and the other workers are told of the change


def test_a_stream_that_breaks_is_taken_up_where_it_broke() -> None:
    case = Listening()
    asked: list[str] = []
    link = case.server.links[0]
    listen = link.listen
    link.listen = lambda last, sink: (asked.append(last), listen(last, sink))[1]  # type: ignore[method-assign]
    case.sinks[-1].message(message_of(dict(CHANGED)), "up-7")
    case.sinks[-1].failed(UpstreamError("upstream-broke", "It broke."))
    case.timers.fire()
    assert asked == ["up-7"]


@pytest.mark.parametrize(
    "code", ["upstream-status", "upstream-refused", "upstream-exited", "upstream-malformed"]
)
def test_a_server_that_offers_no_stream_is_left_alone(code: str) -> None:
    case = Listening()
    case.sinks[-1].failed(UpstreamError(code, "No."))
    assert case.timers.set == [] and not case.ear.ended


def test_a_server_that_forgot_the_session_ends_it() -> None:
    case = Listening()
    case.sinks[-1].failed(UpstreamError("upstream-session-gone", "Gone."))
    assert case.ear.ended and case.talk.legacy("time", case.session, "ping").status == 404


def test_nobody_is_listened_to_for_a_client_that_left() -> None:
    case = Listening()
    before = len(case.sinks)
    case.sinks[-1].done()
    case.ear.leave()
    case.timers.fire()
    assert len(case.sinks) == before
    case.ear = case.listen()
    assert len(case.sinks) == before + 1, "it came back"
    case.sinks[-1].done()
    case.talk.send("time", None, verb="DELETE", Mcp_Session_Id=case.session)
    case.timers.fire()
    assert len(case.sinks) <= before + 1


def test_a_client_that_came_back_is_not_told_twice() -> None:
    case = Listening()
    case.sinks[-1].done()
    case.ear.leave()
    case.ear = case.listen()
    before = len(case.sinks)
    case.timers.fire()
    assert len(case.sinks) == before


# -- notifications --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["one", ""])
def test_a_server_that_does_not_take_a_notification_holds_no_client(endpoint: str) -> None:
    one, two = PlayedServer(), PlayedServer()
    talk, timers = Talk({"one": one, "two": two}), Timers()
    session = talk.open(endpoint)
    talk.facts.later = timers
    link = one.links[-1]
    link.post = lambda message, sink: lambda: None  # type: ignore[method-assign] # it never answers
    ear = talk.legacy(endpoint, session, "notifications/roots/list_changed", id=None)
    assert not ear.ended
    timers.fire()
    assert ear.ended and ear.status == 202 and timers.set == []


def test_a_notification_that_is_taken_leaves_no_timer() -> None:
    talk, timers = Talk({"one": PlayedServer(), "two": PlayedServer()}), Timers()
    session = talk.open("")
    talk.facts.later = timers
    assert talk.legacy("", session, "notifications/roots/list_changed", id=None).status == 202
    assert timers.set == []
