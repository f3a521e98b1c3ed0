"""The everything server for those who speak 2026-07-28 only: modern_server.py [PORT]. It knows no handshake and no session.

Two further tools: one that says that a resource has changed, and one that waits until it is cancelled.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import anyio
import everything_tools as everything
import mcp_types as types
import uvicorn
from everything_server import SERVER
from everything_tools import Context, Outcome
from mcp.server.subscriptions import ResourceUpdated

VERSION = b"2026-07-28"
STOPPED: list[str] = []


@everything.tool("touch", "Say that a resource has changed.", everything.strings("uri"))
async def touch(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await everything.BUS.publish(ResourceUpdated(uri=(params.arguments or {})["uri"]))
    return everything.done(everything.text("touched"))


@everything.tool("wait", "Wait until somebody cancels.")
async def wait(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    try:
        await anyio.sleep_forever()
    finally:
        STOPPED.append("wait")


@everything.tool("stopped", "How many waits were cancelled.")
async def stopped(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    return everything.done(everything.text(str(len(STOPPED))))


def modern_only(app: Any) -> Any:
    """Let nothing of the older era reach the server."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or dict(scope["headers"]).get(b"mcp-protocol-version") == VERSION:
            await app(scope, receive, send)
            return
        data = {"supported": [VERSION.decode()], "requested": ""}
        error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        status = 400 if scope["method"] == "POST" else 405
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return serve


async def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    print(f"port={listener.getsockname()[1]}", flush=True)
    app = modern_only(SERVER.streamable_http_app())
    config = uvicorn.Config(app, http="h11", log_level="error", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
