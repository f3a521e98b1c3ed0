"""Calls that do not go straight through: clients that leave, links that open late, sessions that end in between."""

from __future__ import annotations

from typing import Any

import pytest
from tests.talks.talk import LEGACY, Ear, PlayedServer, Talk

from doorward.base.errors import UpstreamError
from doorward.controls.control import Control
from doorward.protocol.envelope import message_of

WRITE: dict[str, Any] = {"name": "delete", "arguments": {}}
READ: dict[str, Any] = {"name": "echo", "arguments": {}}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


class Ledgered(Control):
    """Counts what begins and what settles, as a limit does."""

    slug = "count-open"

    def __init__(self) -> None:
        self.open: set[str] = set()

    def request(self, call: Any, seen: Any) -> None:
        if call.message.kind == "request":
            self.open.add(call.event)

    def settled(self, call: Any, outcome: str) -> None:
        self.open.discard(call.event)


class LateServer(PlayedServer):
    """A server whose links open when the test says so."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.opening: list[Any] = []
        self.late = True

    def link(self, principal: str, era: str, version: str, capabilities: Any, ready: Any) -> None:
        if not self.late:
            return super().link(principal, era, version, capabilities, ready)
        self.opening.append(
            lambda: super(LateServer, self).link(principal, era, version, capabilities, ready)
        )
        return None

    def open_all(self) -> None:
        waiting, self.opening = self.opening, []
        for go in waiting:
            go()


def talk_with(server: PlayedServer, **options: Any) -> tuple[Talk, Ledgered]:
    counter = Ledgered()
    return Talk({"time": server}, extra_controls=(counter,), **options), counter


def say(sink: Any, value: dict[str, Any]) -> None:
    sink.message(message_of({"jsonrpc": "2.0", **value}))


def outcomes(talk: Talk) -> list[str]:
    return [entry["outcome"] for entry in talk.journal.entries if entry["record"] == "outcome"]


# -- modern clients that leave --------------------------------------------------------------------------------------


def test_a_modern_client_that_leaves_while_its_record_is_written_has_called_nothing() -> None:
    server = PlayedServer()
    talk, counter = talk_with(server)
    talk.modern("time", "tools/list")
    talk.journal.hold = True
    ear = talk.modern("time", "tools/call", WRITE)
    ear.leave()
    assert counter.open == set() and outcomes(talk)[-1] == "cancelled"
    talk.journal.synced.pop()(None)
    assert "tools/call" not in server.methods()


def test_a_modern_client_that_leaves_while_the_link_opens_has_called_nothing() -> None:
    server = LateServer()
    talk, counter = talk_with(server)
    ear = talk.modern("time", "tools/call", READ)
    ear.leave()
    assert counter.open == set()
    server.open_all()
    assert server.methods() == [] and outcomes(talk) == ["cancelled"]
    assert [entry["record"] for entry in talk.journal.entries] == ["decision", "outcome"]


def test_a_modern_client_that_leaves_while_the_tools_are_listed_has_called_nothing() -> None:
    server = PlayedServer()
    server.answers["tools/list"] = None
    talk, counter = talk_with(server)
    ear = talk.modern("time", "tools/call", READ)
    ear.leave()
    assert counter.open == set()
    say(server.sinks[0], {"id": server.seen[0].id, "result": {"tools": server.tools}})
    assert server.methods() == ["tools/list"]


def test_a_modern_client_that_leaves_a_list_of_all_servers_cancels_every_part() -> None:
    one, two = PlayedServer(), PlayedServer()
    one.answers["tools/list"] = two.answers["tools/list"] = None
    counter = Ledgered()
    talk = Talk({"one": one, "two": two}, extra_controls=(counter,))
    ear = talk.modern("", "tools/list")
    ear.leave()
    assert counter.open == set()
    assert [len(server.links[0].cancelled) for server in (one, two)] == [1, 1]
    say(one.sinks[0], {"id": 1, "result": {"tools": []}})
    assert not ear.ended and outcomes(talk) == ["cancelled"]


# -- initialize -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["time", ""])
def test_a_client_that_leaves_before_its_session_is_open_leaves_no_session_and_no_link(endpoint: str) -> None:
    server = PlayedServer()
    server.answers["initialize"] = None
    talk, counter = talk_with(server)
    ear = talk.send(endpoint, INITIALIZE)
    ear.leave()
    assert counter.open == set() and server.links[0].closed_by_us
    say(
        server.sinks[0],
        {"id": 0, "result": {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {}}},
    )
    assert len(talk.table) == 0


@pytest.mark.parametrize("endpoint", ["time", ""])
def test_a_link_that_opens_after_the_client_has_left_is_closed(endpoint: str) -> None:
    server = LateServer()
    talk, counter = talk_with(server)
    ear = talk.send(endpoint, INITIALIZE)
    ear.leave()
    server.open_all()
    assert counter.open == set()
    assert [link.closed_by_us for link in server.links] == [True] and server.methods() == []


@pytest.mark.parametrize("endpoint", ["time", ""])
def test_a_handshake_that_fails_closes_its_link(endpoint: str) -> None:
    server = PlayedServer()
    server.answers["initialize"] = {"error": {"code": -32602, "message": "no"}}
    talk, counter = talk_with(server)
    ear = talk.send(endpoint, INITIALIZE)
    assert "error" in ear.json and len(talk.table) == 0
    assert server.links[0].closed_by_us and counter.open == set()


def test_a_handshake_that_breaks_off_closes_its_link() -> None:
    server = PlayedServer()
    server.answers["initialize"] = None
    talk, counter = talk_with(server)
    ear = talk.send("time", INITIALIZE)
    server.sinks[0].failed(UpstreamError("upstream-broke", "It broke."))
    assert ear.ended and server.links[0].closed_by_us and counter.open == set()


def test_a_handshake_whose_answer_a_control_refuses_opens_no_session() -> None:
    class NoAnswer(Control):
        slug = "no-answer"

        def reply(self, call: Any, reply: Any) -> Any:
            raise RuntimeError

    server = PlayedServer()
    talk = Talk({"time": server}, extra_controls=(NoAnswer(),))
    ear = talk.send("time", INITIALIZE)
    assert "error" in ear.json and len(talk.table) == 0 and server.links[0].closed_by_us


def test_a_full_table_refuses_a_handshake_that_was_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    server = PlayedServer()
    server.answers["initialize"] = None
    talk, counter = talk_with(server)
    ear = talk.send("time", INITIALIZE)
    monkeypatch.setattr("doorward.base.limits.SESSIONS_TOTAL", 0)
    say(
        server.sinks[0],
        {"id": 0, "result": {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {}}},
    )
    assert ear.ended and "error" in ear.json
    assert server.links[0].closed_by_us and counter.open == set()


# -- sessions that end under calls ----------------------------------------------------------------------------------


def test_a_session_that_ends_while_a_record_is_written_takes_the_call_with_it() -> None:
    server = PlayedServer()
    talk, counter = talk_with(server)
    session = talk.open("time")
    talk.legacy("time", session, "tools/list", {})
    talk.journal.hold = True
    ear = talk.legacy("time", session, "tools/call", WRITE, id=4)
    assert talk.send("time", None, verb="DELETE", Mcp_Session_Id=session).status == 200
    assert ear.ended and counter.open == set()
    talk.journal.synced.pop()(None)
    assert "tools/call" not in server.methods()


def test_an_id_is_in_use_from_the_moment_it_came() -> None:
    server = PlayedServer()
    talk, counter = talk_with(server)
    session = talk.open("time")
    talk.legacy("time", session, "tools/list", {})
    talk.journal.hold = True
    talk.legacy("time", session, "tools/call", WRITE, id=4)
    again = talk.legacy("time", session, "tools/call", WRITE, id=4)
    assert again.status == 400
    while talk.journal.synced:
        talk.journal.synced.pop()(None)
    assert server.methods().count("tools/call") == 1 and counter.open == set()
    assert not talk.table.has_flights()


def test_a_call_under_way_hears_of_the_end_of_its_session() -> None:
    server = PlayedServer()
    server.answers["tools/call"] = None
    talk, counter = talk_with(server)
    session = talk.open("time")
    ear = talk.legacy("time", session, "tools/call", READ, id=4)
    talk.send("time", None, verb="DELETE", Mcp_Session_Id=session)
    assert ear.ended and ear.json["id"] == 4 and "error" in ear.json
    assert outcomes(talk)[-1] == "cancelled" and counter.open == set()
    assert len(server.links[0].cancelled) == 1, "the connection to the server is let go"


def test_a_refused_call_leaves_no_flight() -> None:
    server = PlayedServer()
    talk, counter = talk_with(server)
    session = talk.open("time")
    assert "error" in talk.legacy("time", session, "tools/call", {"name": "nope"}, id=4).json
    assert not talk.table.has_flights() and counter.open == set()


def test_a_fault_of_ours_answers_and_settles() -> None:
    server = PlayedServer()
    talk, counter = talk_with(server)
    session = talk.open("time")
    talk.gateway.snapshot.desk.facts = None  # type: ignore[assignment] # a bug, somewhere
    ear = talk.legacy("time", session, "tools/call", READ, id=4)
    assert ear.ended and "error" in ear.json
    assert counter.open == set() and not talk.table.has_flights()


# -- legacy clients that leave --------------------------------------------------------------------------------------


def test_a_client_that_left_before_its_stream_began_does_not_hold_the_source() -> None:
    server = PlayedServer()
    server.answers["tools/call"] = None
    talk, _ = talk_with(server)
    session = talk.open("time")
    ear = talk.legacy("time", session, "tools/call", READ, id=4)
    ear.is_paused = True
    ear.leave()
    sink = server.sinks[-1]
    say(sink, {"method": "notifications/message", "params": {"level": "info", "data": "x"}})
    assert not sink.is_paused, "nobody is there to be waited for"
    assert talk.table.streams_count() == 0


class SlowCall:
    """A legacy call whose client reads slowly."""

    def __init__(self) -> None:
        self.server = PlayedServer()
        self.server.answers["tools/call"] = None
        self.talk, _ = talk_with(self.server)
        self.session = self.talk.open("time")
        self.ear = self.talk.legacy("time", self.session, "tools/call", READ, id=4)
        self.sink = self.server.sinks[-1]
        self.woken = 0
        self.log()

    def log(self) -> None:
        say(self.sink, {"method": "notifications/message", "params": {"level": "info", "data": "x"}})

    def wake(self) -> None:
        self.woken += 1

    def pause(self, ear: Ear | None = None) -> None:
        (ear or self.ear).is_paused = True
        assert self.sink.is_paused
        self.sink.on_writable = self.wake

    def drain(self, ear: Ear | None = None) -> None:
        ear = ear or self.ear
        ear.is_paused = False
        assert ear.on_writable is not None
        ear.on_writable()


def test_a_source_is_woken_every_time_its_slow_client_has_read() -> None:
    slow = SlowCall()
    for times in (1, 2, 3):
        slow.pause()
        slow.drain()
        assert slow.woken == times


def test_a_source_that_waits_goes_on_when_its_client_leaves() -> None:
    slow = SlowCall()
    slow.pause()
    slow.ear.leave()
    assert slow.woken == 1 and not slow.sink.is_paused


def test_a_source_that_waits_goes_on_when_its_client_resumes_elsewhere() -> None:
    slow = SlowCall()
    event = slow.ear.events[0].decode().split("id: ")[1].split("\n")[0]
    slow.pause()
    back = slow.talk.send("time", None, verb="GET", Mcp_Session_Id=slow.session, Last_Event_ID=event)
    assert slow.woken == 1
    slow.pause(back)
    slow.drain(back)
    assert slow.woken == 2


def test_a_source_that_waits_goes_on_when_its_clients_token_runs_out() -> None:
    slow = SlowCall()
    slow.pause()
    slow.talk.clock.advance(3_601)
    slow.talk.table.sweep()
    assert slow.woken == 1 and not slow.sink.is_paused


def test_two_servers_that_wait_for_one_common_stream_are_both_woken() -> None:
    one, two = PlayedServer(), PlayedServer()
    talk = Talk({"one": one, "two": two})
    session = talk.open("")
    ear = talk.send("", None, verb="GET", Mcp_Session_Id=session)
    ear.is_paused = True
    woken: list[str] = []
    for name, server in (("one", one), ("two", two)):
        sink = server.links[0].listeners[0]
        assert sink.is_paused
        sink.on_writable = lambda name=name: woken.append(name)
    ear.is_paused = False
    assert ear.on_writable is not None
    ear.on_writable()
    assert woken == ["one", "two"]


# -- pages ----------------------------------------------------------------------------------------------------------


def test_a_list_of_all_servers_holds_every_page_of_each() -> None:
    one, two = PlayedServer(tools=("a",)), PlayedServer(tools=("b",))
    one.answers["tools/list"] = None
    talk = Talk({"one": one, "two": two})
    ear = talk.modern("", "tools/list")
    for number, more in ((0, {"nextCursor": "2"}), (1, {})):
        sink = one.sinks[number]
        say(
            sink,
            {
                "id": 1,
                "result": {"tools": [{"name": f"p{number}", "inputSchema": {"type": "object"}}], **more},
            },
        )
        sink.done()  # as a server on a network does: the answer, then the end of its body
    assert [tool["name"] for tool in ear.json["result"]["tools"]] == ["one__p0", "one__p1", "two__b"]


def test_a_server_that_breaks_on_its_second_page_still_shows_its_first() -> None:
    one, two = PlayedServer(tools=("a",)), PlayedServer(tools=("b",))
    one.answers["tools/list"] = None
    talk = Talk({"one": one, "two": two})
    ear = talk.modern("", "tools/list")
    sink = one.sinks[0]
    say(
        sink,
        {
            "id": 1,
            "result": {"tools": [{"name": "p0", "inputSchema": {"type": "object"}}], "nextCursor": "2"},
        },
    )
    sink.done()
    one.sinks[1].failed(UpstreamError("upstream-broke", "It broke."))
    assert [tool["name"] for tool in ear.json["result"]["tools"]] == ["one__p0", "two__b"]


# -- cancellation ---------------------------------------------------------------------------------------------------


def test_a_call_that_is_cancelled_while_its_record_is_written_is_never_made() -> None:
    server = PlayedServer()
    talk, counter = talk_with(server)
    session = talk.open("time")
    talk.legacy("time", session, "tools/list", {})
    talk.journal.hold = True
    ear = talk.legacy("time", session, "tools/call", WRITE, id=4)
    cancelled = talk.legacy("time", session, "notifications/cancelled", {"requestId": 4}, id=None)
    assert cancelled.status == 202 and ear.ended and "error" in ear.json
    talk.journal.synced.pop()(None)
    assert "tools/call" not in server.methods() and "notifications/cancelled" not in server.methods()
    assert counter.open == set() and outcomes(talk)[-2:] == ["cancelled", "ok"]
