"""The labs' own server: honest in both eras, and exact in what it counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from doorward.protocol.headers import invalid_annotations
from doorward.range.records import decode_state, encode_state
from doorward.range.upstream import LabServer
from doorward.range.wire import Answer, Events, NoAnswerError, exchange, open_events, request_bytes

pytestmark = pytest.mark.anyio
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture
async def server() -> AsyncIterator[LabServer]:
    made = LabServer()
    await made.start()
    yield made
    await made.stop()


async def post(server: LabServer, value: dict[str, Any], **fields: str) -> Answer:
    body = msgspec.json.encode({"jsonrpc": "2.0", **value})
    # It keeps connections, as servers do; a broken second request makes it hang up.
    lines = [
        ("Host", "x"),
        ("Content-Length", str(len(body))),
        *((n.replace("_", "-"), v) for n, v in fields.items()),
    ]
    return await exchange("127.0.0.1", server.port, request_bytes("POST", "/mcp", lines, body) + b"\r\n\r\n")


async def test_a_modern_call_is_served_counted_and_leaks_the_sentinel(server: LabServer) -> None:
    params = {"name": "read_record", "arguments": {"id": "1", "marker": "m"}, "_meta": META}
    answer = await post(server, {"id": 1, "method": "tools/call", "params": params})
    assert answer.is_result
    assert server.sentinel.encode() in answer.body
    assert server.requests == 1
    assert server.saw("m")
    assert not server.saw("other")


async def test_a_legacy_call_needs_a_session(server: LabServer) -> None:
    call = {"id": 2, "method": "tools/call", "params": {"name": "read_record", "arguments": {"id": "1"}}}
    assert (await post(server, call)).status == 404
    opened = await post(
        server, {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    )
    assert (await post(server, call, Mcp_Session_Id=opened.fields["mcp-session-id"])).is_result


async def test_notifications_do_not_count(server: LabServer) -> None:
    assert (await post(server, {"method": "notifications/initialized"})).status == 202
    assert server.requests == 0


async def test_an_unknown_method_says_so(server: LabServer) -> None:
    answer = await post(server, {"id": 1, "method": "nothing", "params": {"_meta": META}})
    assert (answer.status, answer.error["code"]) == (404, -32601)


def test_its_tools_are_valid_definitions() -> None:
    assert all(invalid_annotations(tool) is None for tool in LabServer().tools())


def test_every_server_has_a_sentinel_of_its_own() -> None:
    assert LabServer().sentinel != LabServer().sentinel


# -- one era, and what the naive server lets happen -----------------------------------------------------------------------


@pytest.mark.parametrize("speaks", ["modern", "legacy"])
async def test_a_server_of_one_era_refuses_the_other(speaks: Any) -> None:
    server = LabServer(speaks)
    await server.start()
    try:
        opening = {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
        asking = {"id": 1, "method": "tools/list", "params": {"_meta": META}}
        own, others = (asking, opening) if speaks == "modern" else (opening, asking)
        assert (await post(server, own)).is_result
        assert (await post(server, others)).status == 400
    finally:
        await server.stop()


async def test_a_naive_server_believes_the_state_that_comes_back(server: LabServer) -> None:
    call: dict[str, Any] = {"name": "confirm_record", "arguments": {"id": "mine"}, "_meta": META}
    asked = (await post(server, {"id": 1, "method": "tools/call", "params": call})).last["result"]
    assert asked["resultType"] == "input_required"
    assert decode_state(asked["requestState"]) == {"record": "mine"}
    forged = {**call, "requestState": encode_state({"record": "theirs"})}
    answer = await post(server, {"id": 2, "method": "tools/call", "params": forged})
    assert b"theirs" in answer.body and server.sentinel.encode() in answer.body
    unreadable = {**call, "requestState": "zz"}
    refused = await post(server, {"id": 3, "method": "tools/call", "params": unreadable})
    assert refused.error["code"] == -32602


async def test_what_is_touched_is_told_in_every_session_that_subscribed(server: LabServer) -> None:
    opened = await post(
        server, {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    )
    session = opened.fields["mcp-session-id"]
    for number, (method, params) in enumerate(
        [
            ("resources/subscribe", {"uri": "record://m"}),
            ("tools/call", {"name": "touch_record", "arguments": {"id": "1", "marker": "other"}}),
            ("tools/call", {"name": "touch_record", "arguments": {"id": "1", "marker": "m"}}),
        ]
    ):
        assert (
            await post(server, {"id": number, "method": method, "params": params}, Mcp_Session_Id=session)
        ).is_result
    raw = request_bytes("GET", "/mcp", [("Host", "x"), ("Mcp-Session-Id", session)], b"")
    heard = await open_events("127.0.0.1", server.port, raw)
    assert isinstance(heard, Events)
    (told,) = await heard.until(lambda message: True)
    await heard.close()
    assert told["params"]["uri"] == "record://m"


async def test_a_stream_that_is_not_given_is_a_whole_answer(server: LabServer) -> None:
    raw = request_bytes("GET", "/mcp", [("Host", "x"), ("Connection", "close")], b"")
    # It keeps connections; the second, broken request makes it hang up.
    refused = await open_events("127.0.0.1", server.port, raw + b"\r\n\r\n")
    assert isinstance(refused, Answer)
    assert refused.status == 405


async def test_a_stream_that_ends_or_stays_silent_is_no_answer(server: LabServer) -> None:
    opened = await post(
        server, {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    )
    lines = [("Host", "x"), ("Mcp-Session-Id", opened.fields["mcp-session-id"])]
    heard = await open_events("127.0.0.1", server.port, request_bytes("GET", "/mcp", lines, b""))
    assert isinstance(heard, Events)
    with pytest.raises(NoAnswerError, match="nothing of the kind"):
        await heard.until(lambda message: True, seconds=0.05)
    await server.stop()
    with pytest.raises(NoAnswerError):
        await heard.until(lambda message: True)
    await heard.close()


async def test_few_see_the_secret_and_any_cache_may_keep_it(server: LabServer) -> None:
    for params in ({"_meta": META}, {"_meta": META, "cursor": "2"}):
        answer = await post(server, {"id": 1, "method": "tools/list", "params": params})
        assert server.secret.encode() in answer.body
        assert answer.last["result"]["cacheScope"] == "public"
        assert ("nextCursor" in answer.last["result"]) == ("cursor" not in params)
