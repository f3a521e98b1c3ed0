"""The suite's client under test: Doorward before the suite's server, with an ordinary client of the official SDK before it.

The suite runs ``python -m tests.peers.client_face [direct | crossed] URL`` and tells by the environment what it is about. With
``crossed`` the client speaks the other era than the suite's server.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
VERSION = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "")
CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
MODE = "legacy" if (VERSION < "2026") != ("crossed" in sys.argv) else "auto"
EXAMPLES: dict[str, Any] = {
    "string": "abc",
    "integer": 3,
    "number": 2.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def example(schema: dict[str, Any]) -> Any:
    """A value that such a schema allows: its default, its first choice, or one of its type."""
    if "default" in schema:
        return schema["default"]
    return schema["enum"][0] if "enum" in schema else EXAMPLES.get(str(schema.get("type")), "abc")


def examples(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: example(one) for name, one in (schema.get("properties") or {}).items()}


async def answer(context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content=examples(params.requested_schema))


async def sample(context: Any, params: Any) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="abc")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


def calls(tools: list[types.Tool]) -> list[tuple[str, dict[str, Any]]]:
    """What to call: what the suite wants called, else every tool once."""
    if "toolCalls" in CONTEXT:
        return [(one["name"], one.get("arguments") or {}) for one in CONTEXT["toolCalls"]]
    if SCENARIO == "tools_call":
        return [("add_numbers", {"a": 5, "b": 3})]
    if (
        SCENARIO == "json-schema-2020-12-preservation"
    ):  # send the schema of one back as the argument of the other
        rich = next(one for one in tools if "$schema" in one.input_schema)
        return [(one.name, {"schema": rich.input_schema}) for one in tools if one is not rich]
    return [(one.name, examples(one.input_schema)) for one in tools]


async def visit(url: str, token: str) -> None:
    async with httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=30
    ) as http:
        client = Client(
            streamable_http_client(url, http_client=http),
            mode=MODE,
            elicitation_callback=answer,
            sampling_callback=sample,
            list_roots_callback=roots,
        )
        async with client:
            tools = (await client.list_tools()).tools
            if SCENARIO == "http-standard-headers":
                for resource in (await client.list_resources()).resources:
                    await client.read_resource(resource.uri)
                for prompt in (await client.list_prompts()).prompts:
                    await client.get_prompt(prompt.name)
            for name, arguments in calls(tools):
                try:
                    await client.call_tool(name, arguments)
                except MCPError as error:
                    print(f"{name}: {error}")


def main() -> None:
    url = sys.argv[-1]
    if "direct" in sys.argv:
        return asyncio.run(visit(url, ""))
    from tests.stack.kit import running

    with running({"suite": {"url": url, "allow_requests": ["sampling", "elicitation", "roots"]}}) as stack:
        try:
            asyncio.run(visit(stack.url + stack.path("suite"), stack.token("suite")))
        finally:
            print(stack.log())
    return None


if __name__ == "__main__":
    main()
