"""What a server asks of a client: nothing that settings do not allow, on any road; with the control off it passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks.kit import Target, target
from tests.attacks.test_upstream_lies import CANARY, good_result
from tests.stack.kit import LEGACY
from tests.stack.wire import until
from tests.stand_ins.http_server import Ask


@pytest.fixture(scope="module")
def gate() -> Iterator[Target]:
    with target() as found:
        yield found


@pytest.fixture(scope="module")
def without_gate() -> Iterator[Target]:
    with target(off=("gate-server-requests",)) as found:
        yield found


QUESTIONS = {
    "sampling/createMessage": {"messages": [], "maxTokens": 5, "systemPrompt": CANARY},
    "elicitation/create": {"message": CANARY, "requestedSchema": {"type": "object", "properties": {}}},
    "roots/list": {},
    "tools/call": {"name": CANARY},
}


@pytest.mark.parametrize("method", QUESTIONS)
@pytest.mark.parametrize("road", ["call", "get"])
def test_a_server_asks_a_client_nothing_that_settings_do_not_allow(
    gate: Target, without_gate: Target, method: str, road: str
) -> None:
    everything = {
        "sampling": {"tools": {}},
        "elicitation": {"form": {}, "url": {}},
        "roots": {"listChanged": True},
    }
    question = {"jsonrpc": "2.0", "id": 7, "method": method, "params": QUESTIONS[method]}

    def asked(at: Target) -> list[Any]:
        def script(ask: Ask) -> None:
            ask.start_events()
            ask.event(question)
            if at is gate:
                until(
                    lambda: [one for one in at.upstream.answers if one.get("id") == 7],
                    "the gateway's own answer",
                )
            ask.event(good_result(ask, "done"))
            ask.end()

        at.upstream.answers.clear()
        session = at.stack.session("s", everything)
        heard_at_start = at.upstream.calls("initialize")[-1].params["capabilities"]
        assert bool(heard_at_start) is (at is not gate), heard_at_start
        if road == "call":
            at.upstream.on["tools/call"] = script
            try:
                return at.stack.call("legacy", "s", session=session).messages
            finally:
                del at.upstream.on["tools/call"]
        before = set(at.upstream.streams)
        stream = at.stack.events("s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
        theirs = until(lambda: set(at.upstream.streams) - before, "the GET stream").pop()
        at.upstream.push(theirs, question)
        at.upstream.push(
            theirs,
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "end"}},
        )
        heard = [stream.next()]
        if heard[-1]["method"] != "notifications/message":
            heard.append(stream.next())
        stream.close()
        return heard

    gate.passes("legacy")
    heard = asked(gate)
    assert CANARY not in json.dumps(heard) and not [one for one in heard if one.get("method") == method], (
        heard
    )
    denied = until(
        lambda: [one for one in gate.upstream.answers if one.get("id") == 7], "the answer to the server"
    )
    assert "error" in denied[0]
    alerts = gate.stack.rows(kind="alert", control="gate-server-requests")
    assert alerts and alerts[0]["method"] == method and alerts[0]["verdict"] == "refuse"
    if method != "tools/call":
        open_road = asked(without_gate)
        assert [one for one in open_road if one.get("method") == method], (
            "the question passes once the control is off"
        )
