"""A modern client and a server that speaks only the 2025 era: the conversation in memory, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.base.clock import FakeClock
from doorward.gateway.sessions import Seat
from doorward.gateway.states import StateSeal
from doorward.protocol.envelope import message_of
from tests.talks.talk import PlayedServer, Talk, bridged

ASKS = ("elicitation", "roots", "sampling")
CALL = {"name": "echo", "arguments": {"x": 1}}
LEVEL = "io.modelcontextprotocol/logLevel"


def talk_with(server: PlayedServer, **options: Any) -> Talk:
    options.setdefault("allow_requests", ASKS)
    talk = Talk({"time": server}, **options)
    talk.gateway.snapshot.desk.upstreams["time"] = bridged(server)
    return talk


def silent(server: PlayedServer) -> None:
    """The server takes calls and says nothing for now."""
    server.answers["tools/call"] = lambda _: None


def calls(server: PlayedServer) -> list[Any]:
    return [message for message in server.seen if message.method == "tools/call"]


def test_a_handshake_is_made_once_and_requests_lose_their_envelope() -> None:
    server = PlayedServer("legacy")
    talk = talk_with(server)
    for number in (1, 2):
        answer = talk.modern("time", "tools/call", CALL, id=number)
        assert answer.json["id"] == number
        assert answer.json["result"]["content"][0]["text"] == '{"x":1}'
        assert answer.json["result"]["resultType"] == "complete"
    assert server.methods().count("initialize") == 1
    assert server.methods()[1] == "notifications/initialized"
    assert "io.modelcontextprotocol/protocolVersion" not in str([message.value for message in server.seen])


def test_discovery_stands_for_the_handshake() -> None:
    found = talk_with(PlayedServer("legacy")).modern("time", "server/discover").json["result"]
    assert found["supportedVersions"] == ["2026-07-28"]
    assert found["capabilities"] == {"tools": {"listChanged": True}}
    assert found["cacheScope"] == "private"
    assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "played"


def test_principals_and_declarations_never_share_a_session() -> None:
    server = PlayedServer("legacy")
    talk = talk_with(server)
    talk.modern("time", "tools/list")
    talk.modern("time", "tools/list", token=talk.token("time", "bob"))
    talk.modern("time", "tools/list", capabilities={"roots": {}})
    assert server.methods().count("initialize") == 3
    declared = [message.params["capabilities"] for message in server.seen if message.method == "initialize"]
    assert declared == [{}, {}, {"roots": {}}]


def test_equal_ids_and_tokens_of_two_calls_do_not_cross() -> None:
    server = PlayedServer("legacy")
    talk = talk_with(server)
    talk.modern("time", "tools/list")
    silent(server)
    params = {**CALL, "_meta": {"progressToken": "p"}}
    one, two = (talk.modern("time", "tools/call", params, id=1) for _ in range(2))
    first, second = calls(server)
    assert first.id != second.id
    tokens = [message.params["_meta"]["progressToken"] for message in (first, second)]
    assert tokens[0] != tokens[1] and "p" not in tokens
    sinks = [
        sink for message, sink in zip(server.seen, server.sinks, strict=True) if message in (first, second)
    ]
    step = {"jsonrpc": "2.0", "method": "notifications/progress"}
    for token in tokens:  # the second one's is not the first one's to tell of
        sinks[0].message(message_of({**step, "params": {"progressToken": token, "progress": 1}}))
    assert [message["params"]["progressToken"] for message in one.messages()] == ["p"]
    assert two.messages() == []


def test_a_client_that_leaves_cancels_at_the_server() -> None:
    server = PlayedServer("legacy")
    talk = talk_with(server)
    talk.modern("time", "tools/list")
    silent(server)
    ear = talk.modern("time", "tools/call", CALL)
    ear.leave()
    cancelled = [message for message in server.seen if message.method == "notifications/cancelled"]
    assert [message.params["requestId"] for message in cancelled] == [calls(server)[0].id]


@pytest.mark.parametrize("wanted", [True, False])
def test_log_lines_come_only_where_the_request_wanted_them(wanted: bool) -> None:
    server = PlayedServer("legacy")
    talk = talk_with(server)
    talk.modern("time", "tools/list")
    silent(server)
    params = {**CALL, "_meta": {LEVEL: "info"}} if wanted else CALL
    ear = talk.modern("time", "tools/call", params)
    line = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "d"}}
    server.sinks[-1].message(message_of(line))
    assert bool(ear.messages()) == wanted


def test_a_server_that_lost_its_session_gets_the_call_over_a_new_one() -> None:
    from doorward.base.errors import UpstreamError

    server = PlayedServer("legacy")
    talk = talk_with(server)
    talk.modern("time", "tools/list")
    silent(server)
    ear = talk.modern("time", "tools/call", CALL)
    del server.answers["tools/call"]
    server.sinks[-1].failed(UpstreamError("upstream-session-gone", "The protected server ended the session."))
    assert ear.json["result"]["content"][0]["text"] == '{"x":1}'
    assert server.methods().count("initialize") == 2


def test_a_server_that_speaks_the_new_era_by_now_is_found_out() -> None:
    server = PlayedServer("legacy")
    talk = talk_with(server)
    talk.modern("time", "tools/list")
    server.era = "modern"
    for message in ("gone", "found"):
        bob = talk.token("time", "bob")
        answer = talk.modern("time", "tools/list", token=bob)
        assert ("error" in answer.json) == (message == "gone")


def test_a_call_kept_by_a_worker_that_died_answers_as_any_state_that_opens_nothing() -> None:
    talk = talk_with(PlayedServer("legacy"), worker=1, relay=lambda *_: False)
    other = StateSeal(b"k" * 32, Seat(0, b"incarnat"), FakeClock())
    state = other.seal("alice", "time", message_of({"jsonrpc": "2.0", "id": 1, "method": "tools/call"}), "s")
    answer = talk.modern("time", "tools/call", {**CALL, "requestState": state, "inputResponses": {}})
    assert answer.json["error"]["code"] == -32602
    assert answer.json["id"] == 1
