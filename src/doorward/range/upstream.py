"""The server that labs protect: a small MCP server over Streamable HTTP that speaks one era or both, and counts what comes.

Its answers hold sentinels: random texts that stand nowhere else, so that finding one in an answer proves a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

from doorward.base.errors import DoorwardError
from doorward.protocol import codes
from doorward.protocol.chunks import encode_chunk
from doorward.protocol.http_head import END_OF_HEAD, RequestHead, parse_request_head
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.message import Era, MessageId
from doorward.protocol.modern import SUBSCRIPTION_KEY, VERSION_KEY
from doorward.protocol.sse import write_event
from doorward.range.records import CONFIRMED, INVALID_STATE, QUESTION, Records

_CAPABILITIES: dict[str, Any] = {"tools": {}, "resources": {"subscribe": True}}


class _Session:
    """A session of the 2025 era: who listens in it, and to what."""

    def __init__(self, *, can_be_asked: bool) -> None:
        self.can_be_asked = can_be_asked
        self.uris: set[str] = set()
        self.stream: asyncio.StreamWriter | None = None
        self.kept: list[bytes] = []  # events that came while nobody listened


class LabServer(Records):
    """``requests`` counts requests and answers that arrived, of any method; ``arrived`` lists the tool calls."""

    def __init__(self, speaks: Era | None = None) -> None:
        """``speaks``: the only era that it knows; both when left out."""
        super().__init__()
        self.speaks = speaks
        self.requests = 0
        self.arrived: list[tuple[str, dict[str, Any]]] = []  # (tool, arguments)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._sessions: dict[str, _Session] = {}
        self._asked: dict[str, tuple[asyncio.StreamWriter, MessageId, str, str]] = {}
        self._ears: dict[asyncio.StreamWriter, tuple[MessageId, frozenset[str]]] = {}

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    async def start(self) -> None:
        """Listen on a free loopback port. Raises: OSError."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 2.0)
            self._server = None

    def saw(self, marker: str) -> bool:
        """Whether a tool call with this marker has arrived."""
        return any(arguments.get("marker") == marker for _, arguments in self.arrived)

    # -- connections --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                block = await reader.readuntil(END_OF_HEAD)
                head: RequestHead = parse_request_head(block)
                body = await reader.readexactly(head.content_length or 0)
                writer.write(self._reply(head, body, writer))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, DoorwardError):
            pass  # the gateway has gone, or does not speak HTTP: no answer is an answer too
        finally:
            self._writers.discard(writer)
            self._ears.pop(writer, None)
            for session in self._sessions.values():
                if session.stream is writer:
                    session.stream = None
            writer.close()

    def _reply(self, head: RequestHead, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        session = self._sessions.get(head.fields.get("mcp-session-id", ""))
        if head.verb != "POST":
            return self._listen_or_end(head, session, writer)
        try:
            message = parse_json(body)
        except DoorwardError:
            return _http(400)
        if not isinstance(message, dict) or "id" not in message:
            return _http(202)
        self.requests += 1
        if "method" not in message:
            return self._answered(message)
        found = message.get("params")
        params: dict[str, Any] = found if isinstance(found, dict) else {}
        meta = params.get("_meta")
        if isinstance(meta, dict) and VERSION_KEY in meta:
            return _http(400) if self.speaks == "legacy" else self._modern(message, params, writer)
        if self.speaks == "modern":
            error = {"code": codes.UNSUPPORTED_VERSION, "message": "Unsupported protocol version"}
            error["data"] = {"supported": list(codes.MODERN_VERSIONS), "requested": ""}
            return _http(400, {"jsonrpc": "2.0", "id": message["id"], "error": error})
        return self._legacy(message, params, session, writer)

    # -- the 2026 era -------------------------------------------------------------------------------------------

    def _modern(self, message: dict[str, Any], params: dict[str, Any], writer: asyncio.StreamWriter) -> bytes:
        method, number = message["method"], message["id"]
        if method == "subscriptions/listen":
            return self._subscribe(number, params, writer)
        result: dict[str, Any] | None
        if method == "server/discover":
            result = {"supportedVersions": list(codes.MODERN_VERSIONS), "capabilities": _CAPABILITIES}
            result |= {"ttlMs": 0, "cacheScope": "private"}
        elif method == "tools/call":
            tool, arguments = self._arrive(params)
            result = self.confirmed(tool, params) if tool in CONFIRMED else self.read(tool, _id_of(arguments))
            if result is None:
                return _http(200, {"jsonrpc": "2.0", "id": number, "error": INVALID_STATE})
        else:
            result = self.result(method, params)
        if result is None:
            return _http(404, _unknown(number))
        return _http(200, {"jsonrpc": "2.0", "id": number, "result": {"resultType": "complete", **result}})

    def _subscribe(self, number: MessageId, params: dict[str, Any], writer: asyncio.StreamWriter) -> bytes:
        wanted = params.get("notifications")
        uris = wanted.get("resourceSubscriptions") if isinstance(wanted, dict) else None
        kept = [uri for uri in uris if isinstance(uri, str)] if isinstance(uris, list) else []
        self._ears[writer] = (number, frozenset(kept))
        told = {"notifications": {"resourceSubscriptions": kept}, "_meta": {SUBSCRIPTION_KEY: number}}
        return _STREAM + _event("notifications/subscriptions/acknowledged", told)

    # -- the 2025 era -------------------------------------------------------------------------------------------

    def _legacy(
        self,
        message: dict[str, Any],
        params: dict[str, Any],
        session: _Session | None,
        writer: asyncio.StreamWriter,
    ) -> bytes:
        method, number = message["method"], message["id"]
        if method == "initialize":
            return self._open(number, params)
        if session is None:
            return _http(404)
        result: dict[str, Any] | None
        if method == "tools/call":
            tool, arguments = self._arrive(params)
            if tool in CONFIRMED and session.can_be_asked:
                ask = f"ask-{secrets.token_hex(4)}"
                self._asked[ask] = (writer, number, tool, _id_of(arguments))
                question = {"jsonrpc": "2.0", "id": ask, **QUESTION}
                return _STREAM + encode_chunk(write_event(encode_json(question)))
            result = self.read(tool, _id_of(arguments))
        elif method in ("resources/subscribe", "resources/unsubscribe"):
            change = session.uris.add if method == "resources/subscribe" else session.uris.discard
            change(str(params.get("uri")))
            result = {}
        else:
            result = self.result(method, params)
        if result is None:
            return _http(200, _unknown(number))
        return _http(200, {"jsonrpc": "2.0", "id": number, "result": result})

    def _open(self, number: MessageId, params: dict[str, Any]) -> bytes:
        name = secrets.token_hex(16)
        declared = params.get("capabilities")
        asked = isinstance(declared, dict) and "elicitation" in declared
        self._sessions[name] = _Session(can_be_asked=asked)
        info = {"name": "records", "version": "1"}
        version = params.get("protocolVersion")
        result = {"protocolVersion": version, "capabilities": _CAPABILITIES, "serverInfo": info}
        value = {"jsonrpc": "2.0", "id": number, "result": result}
        return _http(200, value, f"Mcp-Session-Id: {name}\r\n")

    def _answered(self, message: dict[str, Any]) -> bytes:
        """The client's answer to a question: whoever gives it, the call goes on."""
        waiting = self._asked.pop(str(message["id"]), None)
        if waiting is not None:
            writer, number, tool, record = waiting
            value = {"jsonrpc": "2.0", "id": number, "result": self.read(tool, record)}
            writer.write(encode_chunk(write_event(encode_json(value))) + b"0\r\n\r\n")
        return _http(202)

    def _listen_or_end(
        self, head: RequestHead, session: _Session | None, writer: asyncio.StreamWriter
    ) -> bytes:
        if head.verb == "DELETE":
            self._sessions.pop(head.fields.get("mcp-session-id", ""), None)
            return _http(200)
        if head.verb != "GET" or session is None:
            return _http(405)
        session.stream = writer
        kept, session.kept = session.kept, []
        return _STREAM + b"".join(kept)

    # -- tools --------------------------------------------------------------------------------------------------

    def _arrive(self, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        found = params.get("arguments")
        arguments: dict[str, Any] = found if isinstance(found, dict) else {}
        tool = str(params.get("name"))
        self.arrived.append((tool, arguments))
        if tool == "touch_record":
            self._touch(f"record://{arguments.get('marker')}")
        return tool, arguments

    def _touch(self, uri: str) -> None:
        """Tell every session and subscription that covers a resource: whoever asked for it."""
        method = "notifications/resources/updated"
        for session in self._sessions.values():
            if uri in session.uris:
                event = _event(method, {"uri": uri})
                if session.stream is None:
                    session.kept.append(event)
                else:
                    session.stream.write(event)
        for writer, (number, uris) in self._ears.items():
            if uri in uris:
                writer.write(_event(method, {"uri": uri, "_meta": {SUBSCRIPTION_KEY: number}}))


_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _id_of(arguments: dict[str, Any]) -> str:
    return str(arguments.get("id", ""))


def _unknown(number: MessageId) -> dict[str, Any]:
    error = {"code": codes.METHOD_NOT_FOUND, "message": "Method not found"}
    return {"jsonrpc": "2.0", "id": number, "error": error}


def _event(method: str, params: dict[str, Any]) -> bytes:
    return encode_chunk(write_event(encode_json({"jsonrpc": "2.0", "method": method, "params": params})))


def _http(status: int, value: dict[str, Any] | None = None, fields: str = "") -> bytes:
    body = b"" if value is None else encode_json(value)
    kind = "Content-Type: application/json\r\n" if body else ""
    return f"HTTP/1.1 {status} Answer\r\n{kind}{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body
