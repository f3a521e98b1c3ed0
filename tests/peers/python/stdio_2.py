"""A client on the official SDK 2.x over stdio: stdio_2.py legacy|auto COMMAND ARGUMENTS; prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters


async def main() -> None:
    parameters = StdioServerParameters(command=sys.argv[2], args=sys.argv[3:], env=dict(os.environ))
    mode: Any = sys.argv[1]
    steps: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append(done)

    async with Client(parameters, mode=mode) as client:
        tools = (await client.list_tools()).tools
        added = await client.call_tool("add", {"a": 1, "b": 2})
        counted = await client.call_tool("count", {"steps": 3}, progress_callback=progress)
        seen = {
            "version": client.protocol_version,
            "server": client.server_info.name if client.server_info else "",
            "tools": [tool.model_dump(mode="json", exclude_none=True) for tool in tools],
            "added": added.content[0].text,  # type: ignore[union-attr]
            "counted": counted.content[0].text,  # type: ignore[union-attr]
            "steps": steps,
        }
    print(json.dumps(seen))


asyncio.run(main())
