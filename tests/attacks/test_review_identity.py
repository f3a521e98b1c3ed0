"""Whose request it is cannot change between its head and its body."""

from __future__ import annotations

import msgspec

from doorward.controls.control import Head
from doorward.protocol.http_head import parse_request_head
from tests.talks.talk import MODERN, URL, Ear, PlayedServer, Talk

_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_BODY = msgspec.json.encode(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "delete", "arguments": {}, "_meta": _META},
    }
)


def _head(token: str) -> Head:
    lines = (
        "POST /time/mcp HTTP/1.1",
        f"Host: {URL.removeprefix('http://')}",
        "Accept: application/json, text/event-stream",
        "Content-Type: application/json",
        f"Content-Length: {len(_BODY)}",
        f"Authorization: Bearer {token}",
        f"MCP-Protocol-Version: {MODERN}",
        "Mcp-Method: tools/call",
        "Mcp-Name: delete",
    )
    return parse_request_head(("\r\n".join(lines) + "\r\n\r\n").encode(), Head)


def test_a_token_that_runs_out_while_the_body_is_awaited_does_not_turn_into_the_local_principal() -> None:
    """Equal heads share one object: a second connection has it judged again, and refused, while a body is on its way."""
    server = PlayedServer()
    talk = Talk({"time": server})
    head = _head(talk.token("time", "mallory", roles=("nobody",)))
    assert talk.gateway.head(head, "127.0.0.1") is None  # connection one: the head; its body comes later
    talk.clock.advance(7_200)
    talk.freshness.tick(1)
    second = talk.gateway.head(head, "127.0.0.1")  # connection two: the same bytes, now refused
    assert second is not None and second.status == 401
    ear = Ear()
    talk.gateway.body(head, _BODY, ear)  # connection one: the body
    assert "tools/call" not in server.methods()
    assert ear.status == 401, ear.body
    assert "local" not in {entry.get("principal") for entry in talk.journal.entries}


def test_a_token_that_runs_out_while_the_body_is_awaited_serves_nothing() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    head = _head(talk.token("time", "alice"))
    assert talk.gateway.head(head, "127.0.0.1") is None
    talk.clock.advance(7_200)
    talk.freshness.tick(1)
    ear = Ear()
    talk.gateway.body(head, _BODY, ear)
    assert "tools/call" not in server.methods()
    assert ear.status == 401, ear.body
