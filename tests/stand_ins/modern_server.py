"""The everything server for those who speak 2026-07-28 only: modern_server.py [PORT]. It knows no handshake and no session.

Two further tools: one that says that a resource has changed, and one that waits until it is cancelled.
"""

from __future__ import annotations

import socket
import sys

import anyio
import everything_tools as everything
import mcp_types as types
import uvicorn
from everything_eras import OneEra
from everything_server import SERVER
from everything_tools import Context, Outcome
from everything_words import strings, text
from mcp.server.subscriptions import ResourceUpdated

STOPPED: list[str] = []


@everything.tool("touch", "Say that a resource has changed.", strings("uri"))
async def touch(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await everything.BUS.publish(ResourceUpdated(uri=(params.arguments or {})["uri"]))
    return everything.done(text("touched"))


@everything.tool("wait", "Wait until somebody cancels.")
async def wait(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    try:
        await anyio.sleep_forever()
    finally:
        STOPPED.append("wait")


@everything.tool("stopped", "How many waits were cancelled.")
async def stopped(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    return everything.done(text(str(len(STOPPED))))


async def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    print(f"port={listener.getsockname()[1]}", flush=True)
    app = OneEra(SERVER.streamable_http_app(), "modern")
    config = uvicorn.Config(app, http="h11", log_level="error", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
