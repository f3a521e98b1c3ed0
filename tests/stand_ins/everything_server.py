"""A conformant server of both eras on the official SDK: everything_server.py stdio | http [PORT [legacy | modern]].

Over HTTP it says ``port=N`` on its standard output once it listens.
"""

from __future__ import annotations

import json
import socket
import sys
import warnings
from typing import Any

import anyio
import everything_eras as eras
import everything_tools as everything
import mcp_types as types
import uvicorn
from everything_tools import Context
from everything_words import IMAGE, PNG, form, resource, text
from mcp.server import InitializationOptions, NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

warnings.simplefilter("ignore", MCPDeprecationWarning)  # both eras are what this server is for
EVENTS_KEPT = 1_000
RETRY_MS = 100
WATCHED: set[str] = set()


class RecentEvents(EventStore):
    """The last events of all streams, so that clients can come back for what they missed."""

    def __init__(self) -> None:
        self._events: list[tuple[int, StreamId, types.JSONRPCMessage | None]] = []
        self._last = 0

    async def store_event(self, stream_id: StreamId, message: types.JSONRPCMessage | None) -> EventId:
        self._last += 1
        self._events = [*self._events[1 - EVENTS_KEPT :], (self._last, stream_id, message)]
        return str(self._last)

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        seen = int(last_event_id) if last_event_id.isdecimal() else -1
        stream = next((name for number, name, _ in self._events if number == seen), None)
        for number, name, message in self._events:
            if stream is not None and name == stream and number > seen and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


# -- tools ----------------------------------------------------------------------------------------------------------


async def list_tools(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=everything.TOOLS)


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> everything.Outcome:
    handler = everything.HANDLERS.get(params.name)
    if handler is None:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    outcome: everything.Outcome = await eras.run(handler, ctx, params)
    return outcome


# -- resources ------------------------------------------------------------------------------------------------------

RESOURCES = {
    "test://static-text": ("text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("image/png", PNG),
    "test://watched-resource": ("text/plain", "Watched resource content"),
}
TEMPLATE = ("test://template/", "/data")


async def list_resources(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    found = [
        {"uri": uri, "name": uri.partition("://")[2], "description": f"A fixture at {uri}", "mimeType": mime}
        for uri, (mime, _) in RESOURCES.items()
    ]
    return types.ListResourcesResult.model_validate({"resources": found})


async def list_templates(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    one = {"uriTemplate": "{id}".join(TEMPLATE), "name": "template", "description": "Data by its id"}
    return types.ListResourceTemplatesResult.model_validate(
        {"resourceTemplates": [{**one, "mimeType": "application/json"}]}
    )


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    found: dict[str, Any] = {"uri": uri}
    if uri in RESOURCES:
        mime, value = RESOURCES[uri]
        found |= {"mimeType": mime, "blob" if mime == "image/png" else "text": value}
    elif uri.startswith(TEMPLATE[0]) and uri.endswith(TEMPLATE[1]):
        key = uri[len(TEMPLATE[0]) : -len(TEMPLATE[1])]
        value = json.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"})
        found |= {"mimeType": "application/json", "text": value}
    else:
        code = types.INVALID_PARAMS if ctx.protocol_version >= everything.MODERN else -32002
        raise MCPError(code, "Resource not found", {"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [found]})


async def subscribe(ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    WATCHED.add(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    WATCHED.discard(str(params.uri))
    return types.EmptyResult()


# -- prompts --------------------------------------------------------------------------------------------------------


def _prompt(name: str, description: str, **arguments: str) -> types.Prompt:
    wanted = [
        types.PromptArgument(name=key, description=value, required=True) for key, value in arguments.items()
    ]
    return types.Prompt(name=name, description=description, arguments=wanted or None)


PROMPTS = [
    _prompt("test_simple_prompt", "A prompt without arguments."),
    _prompt(
        "test_prompt_with_arguments",
        "A prompt with two.",
        arg1="First test argument",
        arg2="Second test argument",
    ),
    _prompt(
        "test_prompt_with_embedded_resource", "A prompt with a resource.", resourceUri="URI of the resource"
    ),
    _prompt("test_prompt_with_image", "A prompt with an image."),
    _prompt("test_input_required_result_prompt", "A prompt that needs to know more."),
]


async def list_prompts(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=PROMPTS)


async def get_prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    given = params.arguments or {}
    content: list[dict[str, Any]]
    match params.name:
        case "test_simple_prompt":
            content = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            content = [text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")]
        case "test_prompt_with_embedded_resource":
            body = resource(
                given.get("resourceUri", ""), "text/plain", "Embedded resource content for testing."
            )
            content = [body, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            content = [IMAGE, text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            about = (everything.given(params, "user_context") or {}).get("context")
            if about is None:
                return everything.wants(
                    {"user_context": form("What context should the prompt use?", "context")}
                )
            content = [text(f"The context is {about}.")]
        case unknown:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {unknown}")
    return types.GetPromptResult.model_validate(
        {"messages": [{"role": "user", "content": part} for part in content]}
    )


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    found = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=found, total=len(found), has_more=False))


async def set_level(ctx: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


class Telling(Server[Any]):
    """Declares in the old era too that it tells of changes."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        told = notification_options or NotificationOptions(prompts_changed=True, tools_changed=True)
        return super().create_initialization_options(told, experimental_capabilities, extensions)


SERVER: Server[Any] = Telling(
    "everything",
    version="1.0.0",
    instructions="Every fixture of the conformance suite.",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_subscriptions_listen=ListenHandler(everything.BUS),
    on_list_prompts=list_prompts,
    on_get_prompt=lambda ctx, params: eras.run(get_prompt, ctx, params),
    on_completion=complete,
    on_set_logging_level=set_level,
)


async def over_stdio() -> None:
    async with stdio_server() as (incoming, outgoing):
        await SERVER.run(incoming, outgoing, SERVER.create_initialization_options())


async def over_http(port: int, era: str) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    print(f"port={listener.getsockname()[1]}", flush=True)
    app: Any = SERVER.streamable_http_app(event_store=RecentEvents(), retry_interval=RETRY_MS)
    app = eras.OneEra(app, era) if era else app
    # h11 takes the white space around header values away, as HTTP wants it; httptools leaves it at the end.
    config = uvicorn.Config(app, http="h11", log_level="error", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        anyio.run(over_stdio)
    else:
        port, era = (*sys.argv[2:4], "", "")[:2]
        anyio.run(over_http, int(port or 0), era)
