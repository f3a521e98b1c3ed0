"""FastMCP's proxy: ``fastmcp_proxy.py shared|default PORT URL``. Runs in the bench's own environment."""

from __future__ import annotations

import asyncio
import sys

from fastmcp import Client
from fastmcp.server import create_proxy


async def main(kind: str, port: int, url: str) -> None:
    async def serve(target: object) -> None:
        proxy = create_proxy(target, name="bench")
        await proxy.run_http_async(
            show_banner=False,
            host="127.0.0.1",
            port=port,
            path="/mcp",
            log_level="error",
            json_response=True,
            stateless_http=True,
            uvicorn_config={"access_log": False},
        )

    if kind == "default":
        await serve(url)
        return
    async with Client(url) as client:
        await serve(client)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
