"""The official Python SDK 2.x as a client, in the era of its first argument; else as client_1.py."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

MODE = sys.argv[1]  # "legacy" or "auto"
MODERN = MODE != "legacy"


class Remembering(httpx2.AsyncClient):
    """Keeps the session id, which the client does not tell."""

    session = ""

    async def send(self, *given: Any, **named: Any) -> httpx2.Response:
        response = await super().send(*given, **named)
        self.session = response.headers.get("mcp-session-id", self.session)
        return response


def plain(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def answer(context: Any, params: Any) -> types.ElicitResult:
    content = {"name": "Alice"} if MODERN else {"username": "alice", "email": "a@example.org"}
    return types.ElicitResult(action="accept", content=content)


async def visit(url: str, token: str, tool: str, uri: str) -> dict[str, Any]:
    steps: list[Any] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        steps.append([done, total, message])

    headers = {"Authorization": f"Bearer {token}"}
    async with Remembering(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        client = Client(transport, mode=MODE, sampling_callback=sample, elicitation_callback=answer)
        async with client:
            seen: dict[str, Any] = {"version": client.protocol_version}
            seen["server"] = client.server_info.name if client.server_info else ""
            seen["tools"] = [plain(one) for one in (await client.list_tools()).tools]
            seen["text"] = plain(await client.call_tool(f"{tool}greet", {"name": "Zoë ✓"}))
            seen["header"] = plain(await client.call_tool(f"{tool}test_header_mirror", {"region": "Zürich"}))
            seen["mixed"] = plain(await client.call_tool(f"{tool}test_multiple_content_types", {}))
            seen["error"] = plain(await client.call_tool(f"{tool}test_error_handling", {}))
            seen["steps"] = plain(
                await client.call_tool(f"{tool}test_tool_with_progress", {}, progress_callback=progress)
            )
            seen["progress"] = steps
            if MODERN:
                seen["asked"] = plain(
                    await client.call_tool(f"{tool}test_input_required_result_sampling", {})
                )
                seen["form"] = plain(
                    await client.call_tool(f"{tool}test_input_required_result_elicitation", {})
                )
            else:
                seen["asked"] = plain(
                    await client.call_tool(f"{tool}test_sampling", {"prompt": "Capital of France?"})
                )
                seen["form"] = plain(await client.call_tool(f"{tool}test_elicitation", {"message": "Who?"}))
            seen["resources"] = [plain(one) for one in (await client.list_resources()).resources]
            seen["templates"] = [
                plain(one) for one in (await client.list_resource_templates()).resource_templates
            ]
            seen["read"] = plain(await client.read_resource(f"{uri}test://static-text"))
            seen["filled"] = plain(await client.read_resource(f"{uri}test://template/7/data"))
            seen["listed"] = plain(
                await client.read_resource((await client.list_resources()).resources[1].uri)
            )
            seen["prompts"] = [plain(one) for one in (await client.list_prompts()).prompts]
            arguments = {"arg1": "a", "arg2": "b"}
            seen["prompt"] = plain(await client.get_prompt(f"{tool}test_prompt_with_arguments", arguments))
            try:
                await client.call_tool(f"{tool}no_such_tool", {})
            except MCPError as error:
                seen["unknown"] = error.code
            seen["session"] = http.session
    return seen


async def main() -> None:
    targets = json.load(sys.stdin)
    print(json.dumps([await visit(**one) for one in targets]))


asyncio.run(main())
