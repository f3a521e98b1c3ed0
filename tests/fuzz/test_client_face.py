"""Whatever a client says: no 5xx, no hang, no crash, and no byte goes to a server that was not parsed and written anew."""

from __future__ import annotations

import json
import re
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.protocol.envelope import parse_message
from doorward.protocol.json_door import encode_json, parse_json
from tests.attacks.kit import Target, target
from tests.fuzz.mutations import bounded, change, operations, reshape, tree_steps
from tests.stack.wire import Wire
from tests.talks.talk import LEGACY, MODERN, PlayedServer, Talk

ANSWER_SECONDS = (
    0.03  # a good request is answered within this; one that is not gets its end, and then must close
)
HANG_SECONDS = 8.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\nDate")
HONEST = {501, 505}  # a verb or version of HTTP that nobody here knows


@pytest.fixture(scope="module")
def gate() -> Iterator[Target]:
    with target() as found:
        found.session()
        found.passes("modern")
        yield found
        found.passes("modern")
        found.forget("alice")
        found.passes("legacy")


def statuses(gate: Target, data: bytes) -> list[int]:
    """The statuses of all answers to these bytes; fails when the gateway neither answers nor closes."""
    with Wire(gate.stack.port, seconds=HANG_SECONDS) as wire:
        wire.send(data)
        received = b""
        while select.select([wire.sock], [], [], ANSWER_SECONDS)[0]:
            try:
                more = wire.sock.recv(65_536)
            except ConnectionResetError:
                more = b""
            received += more
            if not more:
                break
        else:
            try:
                wire.sock.shutdown(socket.SHUT_WR)
                while more := wire.sock.recv(65_536):
                    received += more
            except TimeoutError:
                raise AssertionError(f"neither an answer nor an end to {data!r}") from None
            except OSError:
                pass
    return [int(one) for one in _STATUS.findall(received)]


def check(gate: Target, data: bytes) -> None:
    """The law."""
    before = len(gate.upstream.asks)
    for status in statuses(gate, data):
        assert status < 500 or status in HONEST, (status, data)
    for ask in gate.upstream.asks[before:]:
        if ask.body:
            assert encode_json(parse_json(ask.body)) == ask.body, "a body that Doorward did not write"
            parse_message(ask.body)
        assert set(ask.fields) <= {
            "host", "user-agent", "accept", "content-type", "content-length", "mcp-protocol-version", "mcp-method", "mcp-name",
            "mcp-session-id", "last-event-id",
        }, ask.head  # fmt: skip


def bases(gate: Target) -> list[bytes]:
    """Good requests of every kind."""
    modern, modern_fields = gate.message("modern")
    legacy, legacy_fields = gate.message("legacy")
    content = json.dumps(modern).encode()
    chunked = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (content[:5], len(content) - 5, content[5:])
    stack = gate.stack
    return [
        stack.request("s", modern, **modern_fields),
        stack.request("s", legacy, **legacy_fields),
        stack.request(
            "s", chunked, **{**modern_fields, "Content_Length": None, "Transfer_Encoding": "chunked"}
        ),
        stack.request("s", verb="GET", **legacy_fields),
        stack.request("s", modern, **modern_fields) * 2,
        stack.request("", verb="GET", path="/.well-known/oauth-protected-resource/s/mcp", Authorization=None),
    ]


@bounded(250)
@given(which=st.integers(0, 5), steps=operations)
def test_mutated_bytes_of_requests(gate: Target, which: int, steps: list[Any]) -> None:
    check(gate, change(bases(gate)[which], steps))


@bounded(250)
@given(era=st.sampled_from(["modern", "legacy"]), steps=operations)
def test_mutated_bodies_in_sound_framing(gate: Target, era: str, steps: list[Any]) -> None:
    body, fields = gate.message(era)
    check(
        gate, gate.stack.request("s", change(json.dumps(body).encode(), steps), **fields, connection="close")
    )


# -- the same without sockets, many times faster: shapes of messages ---------------------------------------------------------

PARAMS: dict[str, dict[str, Any]] = {
    "initialize": {
        "protocolVersion": LEGACY,
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "a", "version": "1"},
    },
    "tools/call": {"name": "echo", "arguments": {"a": [1, {"b": None}]}, "_meta": {"progressToken": 5}},
    "tools/list": {"cursor": "x"},
    "resources/read": {"uri": "file:///a"},
    "prompts/get": {"name": "p", "arguments": {"a": "b"}},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "p"},
        "argument": {"name": "a", "value": "b"},
    },
    "subscriptions/listen": {
        "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["file:///a"]}
    },
    "notifications/cancelled": {"requestId": 1},
    "notifications/progress": {"progressToken": 1, "progress": 2},
    "logging/setLevel": {"level": "info"},
    "tasks/get": {"taskId": "x"},
}


class Memory:
    """A gateway in memory with sessions on both endpoints."""

    def __init__(self) -> None:
        self.server = PlayedServer()
        self.talk = Talk({"s": self.server})
        self.sessions = {server: self.talk.open(server) for server in ("s", "")}

    def session(self, server: str) -> str:
        return self.sessions[server]


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory()


@bounded(1_000)
@given(
    era=st.sampled_from(["modern", "legacy"]),
    server=st.sampled_from(["s", ""]),
    method=st.sampled_from(sorted(PARAMS)),
    steps=tree_steps,
)
def test_reshaped_messages(memory: Memory, era: str, server: str, method: str, steps: list[Any]) -> None:
    params: dict[str, Any] = json.loads(json.dumps(PARAMS[method]))
    if era == "modern":
        envelope = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params["_meta"] = {**params.get("_meta", {}), **envelope}
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if not method.startswith("notifications/"):
        message["id"] = 1
    body = json.dumps(reshape(message, steps)).encode()
    fields = {"MCP_Protocol_Version": MODERN, "Mcp_Method": method}
    if name := params.get("name") or params.get("uri"):
        fields["Mcp_Name"] = name
    if era == "legacy":
        fields = {"MCP_Protocol_Version": LEGACY, "Mcp_Session_Id": memory.session(server)}
    before = len(memory.server.seen)
    ear = memory.talk.send(server, body, **fields)
    assert ear.status < 500, (ear.status, ear.body)
    assert ear.ended or ear.streaming or memory.server.seen[before:], (
        "no answer, no stream, and no server to wait for"
    )
    for seen in memory.server.seen[before:]:
        assert parse_json(encode_json(seen.value)) is not None
    if ear.streaming and not ear.ended:
        ear.leave()
