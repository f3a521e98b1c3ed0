"""The official Python SDK 1.x as a client of the matrix: tries every feature at one address, and tells which works."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

STEP_SECONDS = 15


def said(result: types.CallToolResult) -> str:
    return str(getattr(result.content[0], "text", "")) if result.content else ""


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Alice"})


class Visit:
    """One session, and what is tried in it."""

    def __init__(self, session: ClientSession, changed: asyncio.Event) -> None:
        self.session = session
        self.changed = changed

    async def tools(self) -> bool:
        names = {tool.name for tool in (await self.session.list_tools()).tools}
        return "echo" in names and said(await self.session.call_tool("echo", {"text": "Zoë ✓"})) == "Zoë ✓"

    async def resources(self) -> bool:
        listed = (await self.session.list_resources()).resources
        read = await self.session.read_resource(listed[0].uri)
        return getattr(read.contents[0], "text", "") == "content of test://one"

    async def prompts(self) -> bool:
        listed = (await self.session.list_prompts()).prompts
        return bool((await self.session.get_prompt(listed[0].name)).messages)

    async def elicitation(self) -> bool:
        return said(await self.session.call_tool("ask_user", {})) == "Alice"

    async def sampling(self) -> bool:
        return said(await self.session.call_tool("ask_model", {})) == "Paris"

    async def progress(self) -> bool:
        steps: list[float] = []

        async def step(done: float, total: float | None, message: str | None) -> None:
            steps.append(done)

        await self.session.call_tool("count", {}, progress_callback=step)
        return steps == [1, 2, 3]

    async def subscriptions(self) -> bool:
        while not self.changed.is_set():  # the stream that hears it may open a moment later
            await self.session.call_tool("touch", {})
            with anyio.move_on_after(0.5):
                await self.changed.wait()
        return True

    async def cancellation(self) -> bool:
        before = int(said(await self.session.call_tool("cancelled", {})))
        number = self.session._request_id  # the SDK tells nobody which id comes next
        call = asyncio.create_task(self.session.call_tool("wait", {}))
        await anyio.sleep(0.5)
        cancelled = types.CancelledNotification(params=types.CancelledNotificationParams(requestId=number))
        await self.session.send_notification(types.ClientNotification(cancelled))
        after = before
        while after == before:
            after = int(said(await self.session.call_tool("cancelled", {})))
        call.cancel()
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
    changed = asyncio.Event()

    async def hear(message: Any) -> None:
        if isinstance(getattr(message, "root", None), types.ToolListChangedNotification):
            changed.set()

    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        streamable_http_client(url, http_client=http) as (incoming, outgoing, _),
        ClientSession(
            incoming, outgoing, sampling_callback=sample, elicitation_callback=answer, message_handler=hear
        ) as session,
    ):
        await session.initialize()
        one = Visit(session, changed)
        return {name: await attempt(getattr(one, name)) for name in sys.argv[1].split(",")}


async def main() -> None:
    print(json.dumps([await visit(**one) for one in json.load(sys.stdin)]))


asyncio.run(main())
