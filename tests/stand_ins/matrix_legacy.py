"""A server of the old era only, on the official SDK 1.x: matrix_legacy.py stdio | http | sse.

Over HTTP and SSE it says ``port=N`` on its standard output once it listens.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import mcp.types as types
import uvicorn
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.lowlevel.server import InitializationOptions
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route

CANCELLED = 0
TOOLS = ("echo", "count", "ask_user", "ask_model", "wait", "cancelled", "touch")


class Telling(Server[Any, Any]):
    """Declares that it tells of changes, whichever transport asks."""

    def create_initialization_options(self, *_: Any, **__: Any) -> InitializationOptions:
        return super().create_initialization_options(NotificationOptions(tools_changed=True))


SERVER = Telling("matrix-legacy", "1.0.0")


@SERVER.list_tools()
async def list_tools() -> list[types.Tool]:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    return [types.Tool(name=name, description=name, inputSchema=schema) for name in TOOLS]


async def _wait() -> str:
    global CANCELLED
    try:
        await anyio.sleep(30)
    except anyio.get_cancelled_exc_class():
        CANCELLED += 1
        raise
    return "nobody cancelled"


@SERVER.call_tool()
async def call_tool(name: str, arguments: dict[str, Any]) -> list[types.TextContent]:
    context = SERVER.request_context
    session = context.session
    match name:
        case "echo":
            said = str(arguments.get("text"))
        case "count":
            token = context.meta.progressToken if context.meta is not None else None
            for step in (1, 2, 3):
                if token is not None:
                    await session.send_progress_notification(
                        token, step, 3, related_request_id=str(context.request_id)
                    )
            said = "counted"
        case "ask_user":
            schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
            answer = await session.elicit("Who?", schema, related_request_id=context.request_id)
            said = str((answer.content or {}).get("name"))
        case "ask_model":
            question = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="?"))
            sampled = await session.create_message(
                [question], max_tokens=10, related_request_id=context.request_id
            )
            said = getattr(sampled.content, "text", "")
        case "wait":
            said = await _wait()
        case "cancelled":
            said = str(CANCELLED)
        case "touch":
            await session.send_tool_list_changed()
            said = "touched"
        case _:
            raise ValueError(name)
    return [types.TextContent(type="text", text=said)]


@SERVER.list_resources()
async def list_resources() -> list[types.Resource]:
    return [types.Resource(uri=types.AnyUrl("test://one"), name="one", mimeType="text/plain")]


@SERVER.read_resource()
async def read_resource(uri: types.AnyUrl) -> str:
    return f"content of {uri}"


@SERVER.list_prompts()
async def list_prompts() -> list[types.Prompt]:
    return [types.Prompt(name="hello", description="Greets")]


@SERVER.get_prompt()
async def get_prompt(name: str, arguments: dict[str, str] | None) -> types.GetPromptResult:
    content = types.TextContent(type="text", text="Hello!")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])


async def over_stdio() -> None:
    async with stdio_server() as (incoming, outgoing):
        await SERVER.run(incoming, outgoing, SERVER.create_initialization_options())


def over_http() -> Starlette:
    manager = StreamableHTTPSessionManager(SERVER)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(routes=[Mount("/mcp", app=manager.handle_request)], lifespan=life)


def over_sse() -> Starlette:
    transport = SseServerTransport("/messages/")

    async def hear(request: Any) -> Response:
        async with transport.connect_sse(request.scope, request.receive, request._send) as (
            incoming,
            outgoing,
        ):
            await SERVER.run(incoming, outgoing, SERVER.create_initialization_options())
        return Response()

    return Starlette(
        routes=[
            Route("/mcp", endpoint=hear, methods=["GET"]),
            Mount("/messages/", app=transport.handle_post_message),
        ]
    )


def serve(app: Starlette) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(f"port={listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if sys.argv[1] == "stdio":
    anyio.run(over_stdio)
else:
    serve(over_sse() if sys.argv[1] == "sse" else over_http())
