"""A server that lies about shapes costs its own call, never a caller's place, another server's answer or the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from doorward.base import limits
from doorward.gateway import facts
from doorward.gateway.facts import FactBook
from doorward.protocol.message import Message
from tests.stack.kit import Stack, running
from tests.stand_ins.http_server import Ask, HttpUpstream
from tests.talks.talk import LEGACY, MODERN, PlayedServer, Talk


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    tables = {"limits": {"calls": 100_000, "concurrent": 4}}
    with running({"evil": HttpUpstream(), "good": HttpUpstream()}, tables=tables) as started:
        yield started


def evil(stack: Stack) -> HttpUpstream:
    found = stack.servers["evil"]
    assert isinstance(found, HttpUpstream)
    found.on.clear()
    return found


def note(method: str, params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def says(*messages: Any, result: dict[str, Any] | None = None) -> Callable[[Ask], None]:
    """A script that answers with a stream: these messages and then the result."""

    def script(ask: Ask) -> None:
        ask.start_events()
        for message in messages:
            ask.event(message)
        ask.event(
            {"jsonrpc": "2.0", "id": ask.json["id"], "result": {"resultType": "complete", **(result or {})}}
        )
        ask.end()

    return script


@pytest.mark.parametrize("contents", [5, True, "x", {"a": 1}, [5], [None], [{"uri": 5}]])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_contents_that_are_no_list_are_answered_all_the_same(stack: Stack, era: str, contents: Any) -> None:
    """On the federated endpoint URIs are renamed; a misshapen result once left the call open for ever, place and all."""
    evil(stack).on["resources/read"] = lambda ask: ask.result({"contents": contents})
    params = {"uri": "evil+file:///a"}
    session = stack.session("") if era == "legacy" else ""
    for number in range(6):  # more than the places that a caller has
        answer = (
            stack.legacy("", session, "resources/read", params, id=number)
            if era == "legacy"
            else stack.modern("", "resources/read", params)
        )
        assert answer.status == 200, answer
    assert stack.modern("good", "tools/list").status == 200


@pytest.mark.parametrize("token", [{}, [1], None, True, 1.5])
def test_progress_under_a_token_that_is_no_token_is_dropped_and_the_call_goes_on(
    stack: Stack, token: Any
) -> None:
    evil(stack).on["tools/call"] = says(
        note("notifications/progress", {"progressToken": token, "progress": 1})
    )
    session = stack.session("evil")
    params = {"name": "echo", "arguments": {}, "_meta": {"progressToken": 1}}
    answer = stack.legacy("evil", session, "tools/call", params)
    assert "result" in answer.json and len(answer.messages) == 1, answer
    answer = stack.modern("evil", "tools/call", params)
    assert "result" in answer.json and len(answer.messages) == 1, answer


def test_a_server_makes_no_progress_in_another_servers_call() -> None:
    evil_one, good = PlayedServer(), PlayedServer()
    talk = Talk({"evil": evil_one, "good": good})
    good.answers["tools/call"] = None
    session = talk.open("")
    progress = msgspec.json.encode(
        {
            "method": "notifications/progress",
            "params": {"progressToken": "t", "progress": 1},
            "jsonrpc": "2.0",
        }
    )
    params = {"name": "good__echo", "arguments": {}, "_meta": {"progressToken": "t"}}
    ear = talk.legacy("", session, "tools/call", params)
    stream = talk.send("", None, verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
    from doorward.protocol.envelope import parse_message

    evil_one.links[0].listeners[0].message(parse_message(progress))
    assert stream.messages() == []
    good.sinks[-1].streaming()
    good.sinks[-1].message(parse_message(progress))
    assert [one["method"] for one in ear.messages()] == ["notifications/progress"]


@pytest.mark.parametrize(
    "version", ["2025-11-25\r\nX-Injected: yes", "2025-11-25\n\nDELETE / HTTP/1.1", "2099-01-01", "", 5, None]
)
@pytest.mark.parametrize("endpoint", ["evil", ""])
def test_a_version_from_a_handshake_never_becomes_a_header_line(
    stack: Stack, endpoint: str, version: Any
) -> None:
    upstream = evil(stack)
    upstream.on["initialize"] = lambda ask: ask.result(
        {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}},
        Mcp_Session_Id="abc",
    )
    answer = stack.initialize(endpoint)
    if endpoint:
        assert answer.json["error"]["data"]["cause"] == "upstream-version", answer
        assert "mcp-session-id" not in answer.fields
    else:
        stack.legacy("", answer.fields["mcp-session-id"], "tools/list", {})
    assert b"X-Injected" not in upstream.seen_bytes() and b"DELETE / " not in upstream.seen_bytes()
    assert not [ask for ask in upstream.asks if ask.fields.get("mcp-protocol-version") == "2099-01-01"]


@pytest.mark.parametrize(
    "given", [[1], "x", {"toolsListChanged": [1]}, {"toolsListChanged": 5}, {"resourceSubscriptions": True}]
)
def test_one_servers_odd_acknowledgement_leaves_the_others_their_subscription(
    stack: Stack, given: Any
) -> None:
    upstream, good = evil(stack), stack.servers["good"]
    assert isinstance(good, HttpUpstream)
    upstream.on["subscriptions/listen"] = says(
        note("notifications/subscriptions/acknowledged", {"notifications": given})
    )
    good.on["subscriptions/listen"] = says(
        note("notifications/subscriptions/acknowledged", {"notifications": {"toolsListChanged": True}})
    )
    answer = stack.modern("", "subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    acknowledged = answer.messages[0]
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged", answer
    assert acknowledged["params"]["notifications"].get("toolsListChanged") in (True, [1]), answer
    assert answer.messages[-1]["result"]["resultType"] == "complete"


def test_a_cancelled_list_of_all_servers_frees_its_place() -> None:
    server = PlayedServer()
    talk = Talk({"a": server, "b": PlayedServer()})
    session = talk.open("")
    waiting: list[Any] = []
    server.answers["tools/list"] = lambda message: waiting.append(message)
    ear = talk.legacy("", session, "tools/list", {}, id=7)
    sink = server.sinks[-1]
    assert not ear.ended
    done = talk.legacy("", session, "notifications/cancelled", {"requestId": 7}, id=None)
    assert done.status == 202
    sink.message(
        __import__("doorward.protocol.envelope", fromlist=["parse_message"]).parse_message(
            b'{"jsonrpc":"2.0","id":7,"error":{"code":-32800,"message":"cancelled"}}'
        )
    )
    assert ear.ended
    found = talk.table.find(session, talk.table._sessions[session].principal, "")
    assert found is not None and not found.flights


def test_a_call_whose_stream_a_server_closed_early_is_given_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = PlayedServer()
    talk = Talk({"s": server})
    session = talk.open("s")
    talk.legacy("s", session, "tools/list", {})
    server.answers["tools/call"] = lambda _: None
    ear = talk.legacy("s", session, "tools/call", {"name": "echo", "arguments": {}}, id=9)
    sink = server.sinks[-1]
    sink.streaming(None, "event-1")
    sink.done()  # "I will go on when asked", and it never does
    found = talk.table._sessions[session]
    assert list(found.flights) == [9]
    monkeypatch.setattr(limits, "UPSTREAM_SECONDS", 0.0)
    talk.table.sweep()
    assert not found.flights
    assert ear.ended


def test_a_server_that_lists_new_tools_each_time_is_not_remembered_without_end() -> None:
    book = FactBook(Talk({"s": PlayedServer()}).clock)
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 20_000}}}
    marked = {
        "type": "object",
        "properties": {"a": {"type": "string", "x-mcp-header": "A", "d": "x" * 60_000}},
    }
    for page in range(40):
        book.learn("s", [{"name": f"t{page}-{n}", "inputSchema": schema} for n in range(250)])
        book.learn("s", [{"name": f"m{page}-{n}", "inputSchema": marked} for n in range(50)])
    kept = book._servers["s"]
    assert len(kept.tools) <= facts._TOOLS_COUNT
    size = sum(len(msgspec.json.encode(one.schema)) for one in kept.tools.values() if one.schema is not None)
    assert size <= 2 * facts._SCHEMAS_BYTES
    book.learn("s", [{"name": "last", "inputSchema": marked}])
    known = book.of("s", "last")
    assert known is not None and known.schema == marked


def test_gathering_a_list_stops_at_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LISTED_BYTES", 1_000)
    server = PlayedServer()
    page = [{"name": "x", "inputSchema": {"type": "object", "title": "y" * 600}}]
    server.answers["tools/list"] = lambda _: {
        "result": {"tools": [dict(one) for one in page], "nextCursor": "more", "resultType": "complete"}
    }
    talk = Talk({"s": server, "other": PlayedServer()})
    assert talk.modern("", "tools/list").status == 200
    assert server.methods().count("tools/list") == 2
    server.seen.clear()
    talk.modern("s", "tools/call", {"name": "unknown", "arguments": {}})
    assert server.methods().count("tools/list") == 2
    assert MODERN


def test_large_answers_kept_for_resumption_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SESSION_REPLAY_BYTES", 500_000)
    monkeypatch.setattr(limits, "TOTAL_REPLAY_BYTES", 1_200_000)
    server = PlayedServer()
    talk = Talk({"s": server})
    server.answers["tools/call"] = lambda _: None
    for number in range(4):
        session = talk.open("s")
        talk.legacy("s", session, "tools/list", {})
        for call in range(10):
            talk.legacy("s", session, "tools/call", {"name": "echo", "arguments": {}}, id=call)
            sink = server.sinks[-1]
            sink.streaming()
            result = {"content": [{"type": "text", "text": "x" * 100_000}]}
            sink.message(
                Message("response", "", call, None, {"jsonrpc": "2.0", "id": call, "result": result})
            )
        talk.clock.advance(1)
        talk.freshness.tick(1)
    sessions = list(talk.table._sessions.values())
    assert sum(one.held_bytes() for one in sessions) > 4_000_000
    talk.table.sweep()
    assert all(one.held_bytes() <= 500_000 for one in sessions)
    assert sum(one.held_bytes() for one in sessions) <= 1_200_000
    assert sessions[-1].held_bytes() > 0, "the latest answers are kept"
