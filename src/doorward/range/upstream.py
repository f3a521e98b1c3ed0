"""The server that labs protect: a small MCP server over Streamable HTTP in both eras that counts what reaches it.

Its answers hold sentinels: random texts that stand nowhere else, so that finding one in an answer proves a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

from doorward.base.errors import DoorwardError
from doorward.protocol import codes
from doorward.protocol.http_head import END_OF_HEAD, RequestHead, parse_request_head
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.modern import VERSION_KEY

_TEXT = {"type": "string"}
_MARKED = {"id": _TEXT, "marker": _TEXT}


def _tool(name: str, description: str, properties: dict[str, Any], *, read_only: bool) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": ["id"]}
    return {
        "name": name,
        "description": description,
        "inputSchema": schema,
        "annotations": {"readOnlyHint": read_only, "destructiveHint": not read_only},
    }


class LabServer:
    """``requests`` counts JSON-RPC requests that arrived, of any method; ``arrived`` lists the tool calls."""

    def __init__(self) -> None:
        self.requests = 0
        self.arrived: list[tuple[str, dict[str, Any]]] = []  # (tool, arguments)
        self.sentinel = "sentinel-" + secrets.token_hex(12)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._sessions: set[str] = set()

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

    def tools(self) -> list[dict[str, Any]]:
        """The tools. The region of ``read_region`` is mirrored into a header in the 2026 era."""
        region = {**_MARKED, "region": {**_TEXT, "x-mcp-header": "Region"}}
        return [
            _tool("read_record", f"Reads one record ({self.sentinel}).", _MARKED, read_only=True),
            _tool("read_region", "Reads one record of a region.", region, read_only=True),
            _tool("delete_record", "Deletes one record.", _MARKED, read_only=False),
        ]

    # -- connections --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                block = await reader.readuntil(END_OF_HEAD)
                head: RequestHead = parse_request_head(block)
                body = await reader.readexactly(head.content_length or 0)
                writer.write(self._reply(head, body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, DoorwardError):
            pass  # the gateway has gone, or does not speak HTTP: no answer is an answer too
        finally:
            self._writers.discard(writer)
            writer.close()

    def _reply(self, head: RequestHead, body: bytes) -> bytes:
        if head.verb != "POST":
            return _http(200 if head.verb == "DELETE" else 405)
        try:
            message = parse_json(body)
        except DoorwardError:
            return _http(400)
        if not isinstance(message, dict) or "method" not in message or "id" not in message:
            return _http(202)
        self.requests += 1
        found = message.get("params")
        params: dict[str, Any] = found if isinstance(found, dict) else {}
        meta = params.get("_meta")
        modern = isinstance(meta, dict) and VERSION_KEY in meta
        fields = ""
        if message["method"] == "initialize":
            session = secrets.token_hex(16)
            self._sessions.add(session)
            fields = f"Mcp-Session-Id: {session}\r\n"
        elif not modern and head.fields.get("mcp-session-id", "") not in self._sessions:
            return _http(404)
        result = self._result(message["method"], params)
        if result is None:
            error = {"code": codes.METHOD_NOT_FOUND, "message": "Method not found"}
            return _http(404 if modern else 200, {"jsonrpc": "2.0", "id": message["id"], "error": error})
        if modern:
            result = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **result}
        return _http(200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, fields)

    def _result(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        capabilities: dict[str, Any] = {"tools": {}, "resources": {}}
        match method:
            case "initialize":
                info = {"name": "records", "version": "1"}
                version = params.get("protocolVersion")
                return {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
            case "server/discover":
                return {"supportedVersions": list(codes.MODERN_VERSIONS), "capabilities": capabilities}
            case "tools/list":
                return {"tools": self.tools()}
            case "resources/list":
                return {"resources": [{"uri": "record://1", "name": self.sentinel}]}
            case "resources/read":
                return {"contents": [{"uri": str(params.get("uri")), "text": self.sentinel}]}
            case "tools/call":
                return self._call(params)
        return None

    def _call(self, params: dict[str, Any]) -> dict[str, Any]:
        found = params.get("arguments")
        arguments: dict[str, Any] = found if isinstance(found, dict) else {}
        name = str(params.get("name"))
        self.arrived.append((name, arguments))
        text = f"{name} {arguments.get('id', '')}: {self.sentinel}"
        return {"content": [{"type": "text", "text": text}]}


def _http(status: int, value: dict[str, Any] | None = None, fields: str = "") -> bytes:
    body = b"" if value is None else encode_json(value)
    kind = "Content-Type: application/json\r\n" if body else ""
    return f"HTTP/1.1 {status} Answer\r\n{kind}{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body
