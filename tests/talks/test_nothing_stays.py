"""Calls that are broken off leave not one object behind, in any cell and whichever way they end: counted, not weighed."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest

from doorward.gateway.bridge import BridgedUpstream
from doorward.protocol.envelope import message_of
from tests.talks.talk import Ear, PlayedServer, Talk
from tests.talks.test_cell_b_endings import AGES, Timers

CALL = {"name": "echo", "arguments": {"x": 1}}
CAN: dict[str, Any] = {"elicitation": {}}
FORM = {"message": "m", "requestedSchema": {"type": "object", "properties": {}}}
CELLS = [(client, server) for client in ("legacy", "modern") for server in ("legacy", "modern")]
WAYS = ("at once", "asked", "told", "late")
ROUNDS = 80  # more than the finished streams that a session keeps for a client that comes back
QUESTIONS_COUNT = 128  # of a session; those of calls that are over are forgotten when their place is needed


class Scene:
    """A client of one era before a server of one era, which says nothing unless told to."""

    def __init__(self, era: str, server_era: str) -> None:
        self.era = era
        self.server = PlayedServer(server_era)
        self.timers = Timers()
        self.talk = Talk({"time": self.server}, allow_requests=("elicitation",))
        self.token = self.talk.token("time")  # one, as verified tokens are remembered for a while
        bridge = BridgedUpstream(self.server, "time", self.talk.states.book, self.timers)
        self.talk.gateway.snapshot.desk.upstreams["time"] = bridge
        if server_era == "modern":
            found = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}
            self.server.answers["server/discover"] = {"result": found}
        self.session = self.talk.open("time", capabilities=CAN) if era == "legacy" else ""
        self.send("tools/list", {}, 0)
        self.server.answers["tools/call"] = lambda _: None

    def send(self, method: str, params: dict[str, Any], number: int | None) -> Ear:
        if self.era == "modern":
            return self.talk.modern("time", method, params, id=number, capabilities=CAN, token=self.token)
        return self.talk.legacy("time", self.session, method, params, id=number, token=self.token)

    def break_off(self, way: str, number: int) -> None:
        """One call, ended in this way."""
        ear = self.send("tools/call", {**CALL, "_meta": {"progressToken": number}}, number)
        sink, asked = self.server.sinks[-1], self.server.seen[-1]
        if way == "told":
            step = {"progressToken": asked.params["_meta"]["progressToken"], "progress": 1}
            said = {"jsonrpc": "2.0", "method": "notifications/progress", "params": step}
            sink.message(message_of(said))
        elif way == "asked" and self.server.era == "legacy":
            said = {"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": FORM}
            sink.message(message_of(said))
            self.timers.pass_by(1)
        elif way == "asked":
            request = {"method": "elicitation/create", "params": FORM}
            result = {"resultType": "input_required", "inputRequests": {"q": request}, "requestState": "s"}
            sink.message(message_of({"jsonrpc": "2.0", "id": asked.id, "result": result}))
            sink.done()
        if self.era == "modern":
            ear.leave()
        else:
            self.send("notifications/cancelled", {"requestId": number}, None)
            ear.leave()
            if self.server.era == "legacy":  # which ends what it was told to end
                sink.done()
        if way == "late":
            for _ in range(2):
                sink.message(message_of({"jsonrpc": "2.0", "id": asked.id, "result": {"content": []}}))
                sink.done()
        self.timers.pass_by(AGES)

    def forget(self) -> None:
        """What the test itself keeps."""
        for kept in (self.server.seen, self.server.sinks, self.talk.journal.entries):
            kept.clear()
        for link in self.server.links:
            link.cancelled.clear()


def objects() -> Counter[str]:
    gc.collect()
    ours = (type(one) for one in gc.get_objects())
    return Counter(one.__qualname__ for one in ours if str(one.__module__).startswith("doorward."))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("era", "server_era"), CELLS)
def test_a_call_that_is_broken_off_leaves_no_object(era: str, server_era: str, way: str) -> None:
    scene = Scene(era, server_era)

    def rounds(first: int) -> Counter[str]:
        for number in range(first, first + ROUNDS):
            scene.break_off(way, number)
        scene.forget()
        return objects()

    before = rounds(1)
    after = rounds(1 + ROUNDS)
    assert after.pop("Asked", 0) <= QUESTIONS_COUNT
    grown = after - before
    assert not [f"{count} more {name}" for name, count in grown.items() if count > 2], grown
    assert not scene.talk.live


@pytest.mark.parametrize("server_era", ["legacy", "modern"])
def test_questions_of_calls_that_were_cancelled_leave_room_for_later_ones(server_era: str) -> None:
    scene = Scene("legacy", server_era)
    for number in range(1, 301):
        before = len(scene.server.seen)
        scene.break_off("asked", number)
        refused = [one for one in scene.server.seen[before:] if one.kind == "response" and one.is_error]
        assert not refused, f"question {number} was not put to the client"
