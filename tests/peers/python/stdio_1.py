"""A client on the official SDK 1.x over stdio: stdio_1.py COMMAND ARGUMENTS; prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main() -> None:
    parameters = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        opened = await session.initialize()
        tools = (await session.list_tools()).tools
        steps: list[float] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            steps.append(done)

        added = await session.call_tool("add", {"a": 1, "b": 2})
        counted = await session.call_tool("count", {"steps": 3}, progress_callback=progress)
        seen = {
            "version": opened.protocolVersion,
            "server": opened.serverInfo.name,
            "tools": [tool.model_dump(mode="json", exclude_none=True) for tool in tools],
            "added": added.content[0].text,  # type: ignore[union-attr]
            "counted": counted.content[0].text,  # type: ignore[union-attr]
            "steps": steps,
        }
    print(json.dumps(seen))


asyncio.run(main())
