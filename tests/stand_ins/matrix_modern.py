"""A server of the 2026 era only, on the official SDK 2.x: matrix_modern.py stdio | http.

The SDK serves both eras; what opens the old one is refused here, as the revision wants it of servers that are modern only
(basic/versioning: -32022 with the supported versions). Over HTTP it says ``port=N`` on its standard output.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from everything_eras import UNSUPPORTED, OneEra
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.message import SessionMessage

Context = ServerRequestContext[Any, Any]
BUS = InMemorySubscriptionBus()
CANCELLED = 0
TOOLS = ("echo", "count", "ask_user", "ask_model", "wait", "cancelled", "touch")


async def list_tools(ctx: Context, params: Any) -> types.ListToolsResult:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    return types.ListToolsResult(
        tools=[types.Tool(name=name, description=name, input_schema=schema) for name in TOOLS]
    )


async def _wait() -> str:
    global CANCELLED
    try:
        await anyio.sleep(30)
    except anyio.get_cancelled_exc_class():
        CANCELLED += 1
        raise
    return "nobody cancelled"


def _wants(key: str, method: str, params: dict[str, Any]) -> types.InputRequiredResult:
    return types.InputRequiredResult.model_validate(
        {"inputRequests": {key: {"method": method, "params": params}}, "requestState": "asked"}
    )


async def call_tool(
    ctx: Context, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    answers = params.input_responses or {}
    match params.name:
        case "echo":
            said = str((params.arguments or {}).get("text"))
        case "count":
            for step in (1, 2, 3):
                await ctx.session.report_progress(step, 3)
            said = "counted"
        case "ask_user":
            answer = answers.get("who")
            if answer is None:
                schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
                return _wants("who", "elicitation/create", {"message": "Who?", "requestedSchema": schema})
            said = str((getattr(answer, "content", None) or {}).get("name"))
        case "ask_model":
            answer = answers.get("model")
            if answer is None:
                messages = [{"role": "user", "content": {"type": "text", "text": "?"}}]
                return _wants("model", "sampling/createMessage", {"messages": messages, "maxTokens": 10})
            said = str(getattr(getattr(answer, "content", None), "text", ""))
        case "wait":
            said = await _wait()
        case "cancelled":
            said = str(CANCELLED)
        case "touch":
            await BUS.publish(ToolsListChanged())
            said = "touched"
        case name:
            raise ValueError(name)
    return types.CallToolResult.model_validate({"content": [{"type": "text", "text": said}]})


async def list_resources(ctx: Context, params: Any) -> types.ListResourcesResult:
    one = {"uri": "test://one", "name": "one", "mimeType": "text/plain"}
    return types.ListResourcesResult.model_validate({"resources": [one]})


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    content = {"uri": str(params.uri), "mimeType": "text/plain", "text": f"content of {params.uri}"}
    return types.ReadResourceResult.model_validate({"contents": [content]})


async def list_prompts(ctx: Context, params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=[types.Prompt(name="hello", description="Greets")])


async def get_prompt(ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    message = {"role": "user", "content": {"type": "text", "text": "Hello!"}}
    return types.GetPromptResult.model_validate({"messages": [message]})


SERVER: Server[Any] = Server(
    "matrix-modern",
    version="1.0.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_read_resource=read_resource,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_subscriptions_listen=ListenHandler(BUS),
)


async def over_stdio() -> None:
    send, receive = anyio.create_memory_object_stream[Any](0)

    async def sift(incoming: Any, outgoing: Any) -> None:
        async with send:
            async for message in incoming:
                inner = getattr(message, "message", None)
                if getattr(inner, "method", "") == "initialize":
                    error = types.JSONRPCError.model_validate(
                        {"jsonrpc": "2.0", "id": inner.id, "error": UNSUPPORTED}
                    )
                    await outgoing.send(SessionMessage(error))
                else:
                    await send.send(message)

    async with stdio_server() as (incoming, outgoing), anyio.create_task_group() as group:
        group.start_soon(sift, incoming, outgoing)
        await SERVER.run(receive, outgoing, SERVER.create_initialization_options())


if sys.argv[1] == "stdio":
    anyio.run(over_stdio)
else:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(f"port={listener.getsockname()[1]}", flush=True)
    app = OneEra(SERVER.streamable_http_app(), "modern")
    config = uvicorn.Config(app, http="h11", log_level="error", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run([listener])
