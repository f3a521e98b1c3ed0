"""A small real MCP server on the official SDK; speaks both eras, each process the one that it is opened with."""

from __future__ import annotations

import asyncio
import os

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("stand-in")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def whoami() -> dict[str, object]:
    """Tell which process this is."""
    return {"pid": os.getpid(), "ppid": os.getppid(), "token": os.environ.get("TOKEN", "")}


@server.tool()
async def count(steps: int, context: Context) -> str:  # type: ignore[type-arg]
    """Report progress."""
    for step in range(steps):
        await context.report_progress(step + 1, steps)
        await asyncio.sleep(0.01)
    return "counted"


@server.tool()
async def hang() -> str:
    """Never answer."""
    await asyncio.sleep(1000)
    return "never"


@server.tool()
def crash() -> str:
    """Leave at once."""
    os._exit(3)


if __name__ == "__main__":
    server.run("stdio")
