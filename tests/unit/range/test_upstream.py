"""The labs' own server: honest in both eras, and exact in what it counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from doorward.protocol.headers import invalid_annotations
from doorward.range.upstream import LabServer
from doorward.range.wire import Answer, exchange, request_bytes

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
