"""A modern server that wants to be asked again, and one that takes long: what a legacy client hears, and how it comes back."""

from __future__ import annotations

import pytest

from doorward.gateway.bridge import BridgedUpstream
from tests.talks.talk import LEGACY, Ear, Talk
from tests.talks.test_cell_a import TEXT, asking, call, calls, modern_only, say
from tests.talks.test_cell_b_endings import Timers

OLDER = "2025-06-18"
STATE = {"requestState": "later"}


class Scene:
    """A legacy client before a modern server, and time that passes when the test says so."""

    def __init__(self, version: str = LEGACY) -> None:
        self.server = modern_only()
        self.talk = Talk({"time": self.server})
        self.timers = Timers()
        bridge = BridgedUpstream(self.server, "time", self.talk.states.book, self.timers)
        self.talk.gateway.snapshot.desk.upstreams["time"] = bridge
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        self.session = str(self.talk.send("time", hello).field("Mcp-Session-Id"))
        self.version = version

    def call(self, number: int = 5) -> Ear:
        ear: Ear = call(self.talk, self.session, number, MCP_Protocol_Version=self.version)
        return ear

    def back(self, after: Ear, **fields: str) -> Ear:
        """The client comes back with the last event id that it heard."""
        ids = [
            line[4:] for event in after.events for line in event.decode().split("\n") if line[:4] == "id: "
        ]
        fields = {"Last_Event_ID": ids[-1], "Mcp_Session_Id": self.session, **fields}
        return self.talk.send("time", None, verb="GET", MCP_Protocol_Version=self.version, **fields)


def test_a_client_that_knows_how_is_sent_away_and_gets_the_answer_when_it_comes_back() -> None:
    scene = Scene()
    scene.server.answers["tools/call"] = asking(STATE, STATE)
    first = scene.call()
    assert first.ended and first.messages() == []
    head = first.events[0].decode()
    assert "retry: 250\n" in head and "id: " in head and "data: \n" in head
    assert len(calls(scene.server)) == 1, "the server is left alone until the client wants more"
    second = scene.back(first)
    assert second.ended and second.messages() == [] and "retry: 500\n" in second.events[-1].decode()
    third = scene.back(second)
    assert third.ended and third.messages()[-1]["result"]["content"] == TEXT["content"]
    assert [one.params.get("requestState") for one in calls(scene.server)] == [None, "later", "later"]
    assert len({one.id for one in calls(scene.server)}) == 3


def test_it_works_at_the_federated_endpoint_too() -> None:
    scene = Scene()
    scene.server.answers["tools/call"] = asking(STATE)
    session = scene.talk.open("")
    params = {"name": "time__echo", "arguments": {}}
    first = scene.talk.legacy("", session, "tools/call", params, id=9)
    assert first.ended and first.messages() == []
    event = next(line[4:] for line in first.events[0].decode().split("\n") if line[:4] == "id: ")
    fields = {"Last_Event_ID": event, "Mcp_Session_Id": session, "MCP_Protocol_Version": LEGACY}
    again = scene.talk.send("", None, verb="GET", **fields)
    assert again.messages()[-1]["result"]["content"] == TEXT["content"]


def test_nobody_else_comes_back_for_it_and_nobody_twice() -> None:
    scene = Scene()
    scene.server.answers["tools/call"] = asking(STATE)
    first = scene.call()
    assert scene.back(first, token=scene.talk.token("time", "mallory")).status == 404
    assert len(calls(scene.server)) == 1
    assert scene.back(first).messages()[-1]["id"] == 5
    scene.back(first)
    assert len(calls(scene.server)) == 2


def test_a_call_that_rests_can_be_cancelled_and_leaves_nothing() -> None:
    scene = Scene()
    scene.server.answers["tools/call"] = asking(STATE)
    first = scene.call()
    told = scene.talk.legacy("time", scene.session, "notifications/cancelled", {"requestId": 5}, id=None)
    assert told.status == 202
    assert "error" in scene.back(first).messages()[-1]
    assert len(calls(scene.server)) == 1


def test_an_older_client_waits_while_the_server_is_asked_again() -> None:
    scene = Scene(OLDER)
    scene.server.answers["tools/call"] = asking(STATE, STATE)
    ear = scene.call()
    assert not ear.ended and len(calls(scene.server)) == 1
    scene.timers.pass_by(0.3)
    assert not ear.ended and len(calls(scene.server)) == 2
    scene.timers.pass_by(0.3)
    assert not ear.ended, "the second time it waits longer"
    scene.timers.pass_by(0.6)
    assert ear.json["result"]["content"] == TEXT["content"]


def test_a_server_that_is_never_done_comes_to_an_end() -> None:
    scene = Scene(OLDER)
    scene.server.answers["tools/call"] = asking(*[STATE] * 200)
    ear = scene.call()
    for _ in range(100):
        scene.timers.pass_by(9)
    assert ear.json["result"]["isError"] is True and len(calls(scene.server)) == 65


@pytest.mark.parametrize("version", [LEGACY, OLDER])
def test_a_silent_call_begins_with_something_to_resume_from(version: str) -> None:
    scene = Scene(version)
    scene.server.answers["tools/call"] = lambda _: None
    ear = scene.call()
    scene.timers.pass_by(1)
    assert not ear.streaming, "most answers come sooner"
    scene.timers.pass_by(1)
    assert ear.streaming == (version == LEGACY), "older clients do not know events without a message"
    if version == LEGACY:
        ear.leave()
        say(scene.server.sinks[-1], {"id": 5, "result": dict(TEXT)})
        assert scene.back(ear).messages()[-1]["result"]["content"] == TEXT["content"]
        scene.timers.pass_by(1)
        assert not scene.timers.left, "nobody is looked after any more"


def test_a_call_that_is_answered_is_not_looked_after() -> None:
    scene = Scene()
    assert scene.call().json["result"]["content"]
    scene.timers.pass_by(1)
    assert not scene.timers.left
