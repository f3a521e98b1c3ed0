"""The HTTP server behind Doorward while it soaks: answers both eras, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

MODERN = "2026-07-28"


class Upstream(asyncio.Protocol):
    """Answers both eras; `slow` calls wait a little, so that clients can leave before their answer."""

    sessions = 0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, rest = self.data.partition(b"\r\n\r\n")
            fields = {}
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                fields[name.lower()] = value.strip()
            size = int(fields.get(b"content-length", b"0"))
            if len(rest) < size:
                return
            body, self.data = rest[:size], rest[size:]
            self.serve(head.split(b" ", 1)[0], json.loads(body) if body else None)

    def send(self, status: str, value: Any = None, fields: str = "") -> None:
        body = b"" if value is None else json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)

    def serve(self, verb: bytes, message: Any) -> None:
        if verb == b"DELETE":
            return self.send("200 OK")
        if verb == b"GET":
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            return self.transport.write(head.encode())
        if "id" not in message:
            return self.send("202 Accepted")
        method, params, fields = message["method"], message.get("params") or {}, ""
        extra = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if "_meta" in params else {}
        if method == "initialize":
            Upstream.sessions += 1
            fields = f"Mcp-Session-Id: up-{Upstream.sessions}\r\n"
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "u", "version": "1"}}  # fmt: skip
        elif method == "server/discover":
            result = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, **extra}
        elif method == "tools/list":
            result = {"tools": [{"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}} for name in ("echo", "slow")], **extra}  # fmt: skip
        else:
            result = {"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}], **extra}
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        if params.get("name") == "slow":
            asyncio.get_running_loop().call_later(0.05, self.send, "200 OK", answer)
        else:
            self.send("200 OK", answer, fields)


async def serve_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve_upstream(int(sys.argv[1])))
