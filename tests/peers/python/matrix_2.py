"""The official Python SDK 2.x as a client of the matrix, in the era that it negotiates; else as matrix_1.py."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import Subscription

STEP_SECONDS = 15


def said(result: types.CallToolResult) -> str:
    return str(getattr(result.content[0], "text", "")) if result.content else ""


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def answer(context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Alice"})


class Visit:
    """One client, and what is tried with it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def tools(self) -> bool:
        names = {tool.name for tool in (await self.client.list_tools()).tools}
        return "echo" in names and said(await self.client.call_tool("echo", {"text": "Zoë ✓"})) == "Zoë ✓"

    async def resources(self) -> bool:
        listed = (await self.client.list_resources()).resources
        read = await self.client.read_resource(str(listed[0].uri))
        return getattr(read.contents[0], "text", "") == "content of test://one"

    async def prompts(self) -> bool:
        listed = (await self.client.list_prompts()).prompts
        return bool((await self.client.get_prompt(listed[0].name)).messages)

    async def elicitation(self) -> bool:
        return said(await self.client.call_tool("ask_user", {})) == "Alice"

    async def sampling(self) -> bool:
        return said(await self.client.call_tool("ask_model", {})) == "Paris"

    async def progress(self) -> bool:
        steps: list[float] = []

        async def step(done: float, total: float | None, message: str | None) -> None:
            steps.append(done)

        await self.client.call_tool("count", {}, progress_callback=step)
        return steps == [1, 2, 3]

    async def subscriptions(self) -> bool:
        async with self.client.listen(tools_list_changed=True) as heard, anyio.create_task_group() as group:
            group.start_soon(self._touch)
            await self._first(heard)
            group.cancel_scope.cancel()
        return True

    async def _first(self, heard: Subscription) -> None:
        async for _ in heard:
            return

    async def _touch(self) -> None:
        while True:  # the stream that hears it may open a moment later
            await self.client.call_tool("touch", {})
            await anyio.sleep(0.5)

    async def cancellation(self) -> bool:
        before = int(said(await self.client.call_tool("cancelled", {})))
        call = asyncio.create_task(self.client.call_tool("wait", {}))
        await anyio.sleep(0.5)
        call.cancel()
        after = before
        while after == before:
            after = int(said(await self.client.call_tool("cancelled", {})))
        return True


async def attempt(step: Callable[[], Awaitable[bool]]) -> str:
    try:
        with anyio.fail_after(STEP_SECONDS):
            return "works" if await step() else "differs"
    except TimeoutError:
        return "silent"
    except Exception as error:  # noqa: BLE001 - the matrix tells of every failure
        return f"{type(error).__name__}: {error}"


async def visit(url: str, token: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, sampling_callback=sample, elicitation_callback=answer) as client:
            one = Visit(client)
            return {name: await attempt(getattr(one, name)) for name in sys.argv[1].split(",")}


async def main() -> None:
    print(json.dumps([await visit(**one) for one in json.load(sys.stdin)]))


asyncio.run(main())
