"""The official Python SDK 1.x as a client of a server that does not know its era: tells what it saw of everything."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

URI = "test://static-text"


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    wanted = params.requestedSchema["properties"]
    return types.ElicitResult(action="accept", content={name: f"a {name}" for name in wanted})


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri=types.FileUrl("file:///tmp"))])


async def visit(url: str, token: str) -> dict[str, Any]:
    steps: list[Any] = []
    updated = asyncio.Event()

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append([done, total, message])

    async def hear(message: Any) -> None:
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ResourceUpdatedNotification
        ):
            updated.set()

    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        streamable_http_client(url, http_client=http) as (incoming, outgoing, _),
        ClientSession(
            incoming,
            outgoing,
            sampling_callback=sample,
            elicitation_callback=answer,
            list_roots_callback=roots,
            message_handler=hear,
        ) as session,
    ):

        async def call(name: str, arguments: dict[str, Any] | None = None, **more: Any) -> str:
            result = await session.call_tool(name, arguments or {}, **more)
            return f"{result.isError}: {getattr(result.content[0], 'text', '')}"

        began = await session.initialize()
        seen: dict[str, Any] = {"version": began.protocolVersion, "server": began.serverInfo.name}
        if sys.argv[1:] == ["ask"]:
            seen["asked"] = await call("ask")
            return seen
        await session.send_ping()
        await session.set_logging_level("debug")
        seen["tools"] = len((await session.list_tools()).tools)
        seen["greet"] = await call("greet", {"name": "Zoë ✓"})
        seen["progress"] = await call("test_tool_with_progress", progress_callback=progress)
        seen["steps"] = steps
        for kind in ("elicitation", "sampling", "list_roots", "multiple_inputs", "multi_round"):
            seen[kind] = await call(f"test_input_required_result_{kind}")
        seen["prompts"] = len((await session.list_prompts()).prompts)
        seen["read"] = len((await session.read_resource(types.AnyUrl(URI))).contents)
        await session.subscribe_resource(types.AnyUrl(URI))
        seen["touch"] = await call("touch", {"uri": URI})
        await asyncio.wait_for(updated.wait(), 10)
        await session.unsubscribe_resource(types.AnyUrl(URI))
        seen["cancelled"] = await cancelled(session, call)
    return seen


async def cancelled(session: ClientSession, call: Any) -> str:
    """Begin to wait, cancel it, and ask the server until it has noticed."""
    number = session._request_id
    waiting = asyncio.create_task(session.call_tool("wait", {}))
    while session._request_id == number:
        await asyncio.sleep(0)
    await call("greet", {"name": "after the wait has been sent"})
    told = types.CancelledNotification(params=types.CancelledNotificationParams(requestId=number))
    await session.send_notification(types.ClientNotification(told))
    found = ""
    for _ in range(200):
        found = await call("stopped")
        if found != "False: 0":
            break
    waiting.cancel()
    return found


print(json.dumps(asyncio.run(visit(*json.load(sys.stdin)))))
