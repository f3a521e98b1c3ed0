"""The official Python SDK 1.x as a client: does everything once at every address on its input, and tells what it saw."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import mcp.types as types
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamable_http_client


def plain(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"username": "alice", "email": "a@example.org"})


async def visit(url: str, token: str, tool: str, uri: str) -> dict[str, Any]:
    steps: list[Any] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append([done, total, message])

    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        streamable_http_client(url, http_client=http) as (incoming, outgoing, session_id),
        ClientSession(incoming, outgoing, sampling_callback=sample, elicitation_callback=answer) as session,
    ):
        began = await session.initialize()
        seen: dict[str, Any] = {"version": began.protocolVersion, "server": began.serverInfo.name}
        seen["tools"] = [plain(one) for one in (await session.list_tools()).tools]
        seen["text"] = plain(await session.call_tool(f"{tool}greet", {"name": "Zoë ✓"}))
        seen["mixed"] = plain(await session.call_tool(f"{tool}test_multiple_content_types", {}))
        seen["error"] = plain(await session.call_tool(f"{tool}test_error_handling", {}))
        seen["steps"] = plain(
            await session.call_tool(f"{tool}test_tool_with_progress", {}, progress_callback=progress)
        )
        seen["progress"] = steps
        seen["asked"] = plain(
            await session.call_tool(f"{tool}test_sampling", {"prompt": "Capital of France?"})
        )
        seen["form"] = plain(await session.call_tool(f"{tool}test_elicitation", {"message": "Who?"}))
        seen["resources"] = [plain(one) for one in (await session.list_resources()).resources]
        seen["templates"] = [
            plain(one) for one in (await session.list_resource_templates()).resourceTemplates
        ]
        seen["read"] = plain(await session.read_resource(types.AnyUrl(f"{uri}test://static-text")))
        seen["filled"] = plain(await session.read_resource(types.AnyUrl(f"{uri}test://template/7/data")))
        seen["listed"] = plain(await session.read_resource((await session.list_resources()).resources[1].uri))
        seen["prompts"] = [plain(one) for one in (await session.list_prompts()).prompts]
        seen["prompt"] = plain(
            await session.get_prompt(f"{tool}test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
        )
        try:
            await session.call_tool(f"{tool}no_such_tool", {})
        except McpError as error:
            seen["unknown"] = error.error.code
        seen["session"] = session_id()
    return seen


async def main() -> None:
    targets = json.load(sys.stdin)
    print(json.dumps([await visit(**one) for one in targets]))


asyncio.run(main())
