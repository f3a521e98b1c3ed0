"""The fixtures of the conformance suite on the official SDK 1.x, which speaks the older era only: everything_legacy.py [PORT].

What the suite's modern scenarios want to be told by ``input_required``, this server asks on the way, as its era does. It says
``port=N`` on its standard output once it listens.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import everything_words as words
import mcp.types as types
import uvicorn
from everything_words import ROOTS, form, sample, strings, text
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.lowlevel.server import InitializationOptions
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import McpError
from mcp.shared.message import ServerMessageMetadata
from starlette.applications import Starlette
from starlette.routing import Mount

NAME_KEY = (
    "dev.doorward/name"  # how a server of this era gives a question a name for clients of the newer one
)
PAUSE = 0.05
MISSING_CAPABILITY = -32021
QUESTIONS: dict[str, Any] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}
Handler = Callable[[dict[str, Any]], Awaitable[str | list[dict[str, Any]]]]
TOOLS: list[types.Tool] = []
HANDLERS: dict[str, Handler] = {}


class Telling(Server[Any, Any]):
    """Declares that it tells of changes."""

    def create_initialization_options(self, *_: Any, **__: Any) -> InitializationOptions:
        told = NotificationOptions(tools_changed=True, prompts_changed=True)
        return super().create_initialization_options(told)


SERVER = Telling("everything-legacy", "1.0.0", instructions="Every fixture of the conformance suite.")


def tool(name: str, description: str, schema: dict[str, Any] | None = None) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        shape = schema or {"type": "object", "properties": {}}
        TOOLS.append(types.Tool(name=name, description=description, inputSchema=shape))
        HANDLERS[name] = handler
        return handler

    return keep


def here() -> dict[str, Any]:
    """What ties a message to the request under way."""
    return {"related_request_id": SERVER.request_context.request_id}


async def ask(name: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask the client on the way, and wait for its answer."""
    kind, answer = QUESTIONS[question["method"]]
    params = {**question["params"], "_meta": {NAME_KEY: name}}
    made = types.ServerRequest(kind.model_validate({"method": question["method"], "params": params}))
    metadata = ServerMessageMetadata(**here())
    found = await SERVER.request_context.session.send_request(made, answer, metadata=metadata)
    return dict(found.model_dump(mode="json", by_alias=True, exclude_none=True))


async def ask_form(name: str, message: str, field: str, kind: str = "string") -> Any:
    """One field of a form; asked again until the client gives it."""
    while field not in (content := (await ask(name, form(message, field, kind))).get("content") or {}):
        pass
    return content[field]


def declared() -> types.ClientCapabilities:
    params = SERVER.request_context.session.client_params
    return params.capabilities if params is not None else types.ClientCapabilities()


# -- tools ----------------------------------------------------------------------------------------------------------


def always(name: str, description: str, *content: dict[str, Any]) -> None:
    async def answer(_: dict[str, Any]) -> list[dict[str, Any]]:
        return list(content)

    tool(name, description)(answer)


always("test_simple_text", "A text.", text("This is a simple text response for testing."))
always("test_image_content", "An image.", words.IMAGE)
always("test_audio_content", "A sound.", {"type": "audio", "data": words.WAV, "mimeType": "audio/wav"})
always(
    "test_embedded_resource",
    "A resource.",
    words.resource("test://embedded-resource", "text/plain", "This is an embedded resource content."),
)
always(
    "test_multiple_content_types",
    "A text, an image and a resource.",
    text("Multiple content types test:"),
    words.IMAGE,
    words.resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
)


@tool("greet", "Greet somebody.", strings("name", required=False))
async def greet(given: dict[str, Any]) -> str:
    return f"Hello, {given.get('name', 'world')}!"


@tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", words.RICH_SCHEMA)
async def rich_schema(given: dict[str, Any]) -> str:
    return json.dumps(given, sort_keys=True)


@tool(
    "test_header_mirror",
    "Answer with the region, which HTTP clients of the newer era also send as a header.",
    {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "note": {"type": "string"}},
        "required": ["region"],
    },
)
async def header_mirror(given: dict[str, Any]) -> str:
    return f"region={given.get('region')}"


async def log(sentence: str) -> None:
    await SERVER.request_context.session.send_log_message("info", sentence, **here())


@tool("test_tool_with_logging", "Log three times.")
async def with_logging(_: dict[str, Any]) -> str:
    for sentence in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(sentence)
        await anyio.sleep(PAUSE)
    return "Tool with logging executed successfully"


@tool("test_logging_tool", "Log once.")
async def logging_tool(_: dict[str, Any]) -> str:
    await log("said only to those who asked")
    return "logged"


async def progress(done: float, total: float, message: str | None = None) -> None:
    context = SERVER.request_context
    token = context.meta.progressToken if context.meta is not None else None
    if token is not None:
        related = str(context.request_id)
        await context.session.send_progress_notification(
            token, done, total, message, related_request_id=related
        )


@tool("test_tool_with_progress", "Report progress three times.")
async def with_progress(_: dict[str, Any]) -> str:
    for step in (0, 50, 100):
        await progress(step, 100, f"step {step}")
        await anyio.sleep(PAUSE)
    return "progress reported"


@tool("test_trigger_tool_change", "Say that the list of tools has changed.")
async def trigger_tool_change(_: dict[str, Any]) -> str:
    await SERVER.request_context.session.send_tool_list_changed()
    return "said"


@tool("test_trigger_prompt_change", "Say that the list of prompts has changed.")
async def trigger_prompt_change(_: dict[str, Any]) -> str:
    await SERVER.request_context.session.send_prompt_list_changed()
    return "said"


# -- tools that ask ---------------------------------------------------------------------------------------------------


@tool("test_sampling", "Ask the client's model.", strings("prompt"))
async def sampling(given: dict[str, Any]) -> str:
    answer = await ask("model", sample(given["prompt"], 100))
    return f"LLM response: {answer['content'].get('text', '')}"


async def elicited(message: str, properties: dict[str, Any], required: list[str]) -> str:
    schema = {"type": "object", "properties": properties, "required": required}
    params = {"message": message, "requestedSchema": schema}
    answer = await ask("user", {"method": "elicitation/create", "params": params})
    content = json.dumps(answer.get("content") or {}, sort_keys=True)
    return f"action={answer['action']}, content={content}"


@tool("test_elicitation", "Ask the user.", strings("message"))
async def elicitation(given: dict[str, Any]) -> str:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return f"User response: {await elicited(given['message'], properties, list(properties))}"


@tool("test_elicitation_sep1034_defaults", "Ask for all kinds of values with their defaults.")
async def defaults(_: dict[str, Any]) -> str:
    return f"Elicitation completed: {await elicited('Defaults?', words.DEFAULTS, [])}"


@tool("test_elicitation_sep1330_enums", "Ask for all kinds of choices.")
async def choices(_: dict[str, Any]) -> str:
    return f"Elicitation completed: {await elicited('Choices?', words.CHOICES, [])}"


@tool("test_input_required_result_elicitation", "Ask for a name.")
async def input_elicitation(_: dict[str, Any]) -> str:
    return f"Hello, {await ask_form('user_name', 'What is your name?', 'name')}!"


@tool("test_input_required_result_sampling", "Ask the client's model for a capital.")
async def input_sampling(_: dict[str, Any]) -> str:
    answer = await ask("capital_question", sample("What is the capital of France?", 100))
    return f"The model says: {answer['content'].get('text', '')}"


@tool("test_input_required_result_list_roots", "Ask for the client's roots.")
async def input_roots(_: dict[str, Any]) -> str:
    answer = await ask("client_roots", ROOTS)
    return "Roots: " + ", ".join(root["uri"] for root in answer["roots"])


@tool("test_input_required_result_request_state", "Ask for a confirmation.")
async def input_state(_: dict[str, Any]) -> str:
    await ask_form("confirm", "Please confirm", "ok", "boolean")
    return "state-ok"


@tool("test_input_required_result_tampered_state", "Ask for a confirmation.")
async def input_tampered(given: dict[str, Any]) -> str:
    return str(await input_state(given))


async def ask_together(questions: dict[str, dict[str, Any]]) -> None:
    async with anyio.create_task_group() as group:
        for name, question in questions.items():
            group.start_soon(ask, name, question)


@tool("test_input_required_result_multiple_inputs", "Ask for three things at once.")
async def input_many(_: dict[str, Any]) -> str:
    questions = {
        "user_name": form("What is your name?", "name"),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    await ask_together(questions)
    return "All three answers are here"


@tool("test_input_required_result_multi_round", "Ask one thing after the other.")
async def input_rounds(_: dict[str, Any]) -> str:
    name = await ask_form("step1", "Step 1: What is your name?", "name")
    return f"{name} likes {await ask_form('step2', 'Step 2: What is your favorite color?', 'color')}"


@tool("test_input_required_result_capabilities", "Ask only for what the client can do.")
async def input_capabilities(_: dict[str, Any]) -> str:
    can = declared()
    questions = {
        **({"user_name": form("What is your name?", "name")} if can.elicitation is not None else {}),
        **({"greeting": sample("Generate a greeting", 50)} if can.sampling is not None else {}),
        **({"client_roots": ROOTS} if can.roots is not None else {}),
    }
    await ask_together(questions)
    return "Answered" if questions else "Nothing to ask of this client"


@tool("test_missing_capability", "Need sampling, and say so.")
async def missing_capability(_: dict[str, Any]) -> str:
    if declared().sampling is None:
        need = {"requiredCapabilities": {"sampling": {}}}
        said = "This tool needs the client's sampling"
        raise McpError(types.ErrorData(code=MISSING_CAPABILITY, message=said, data=need))
    return "The client can sample"


@tool("test_streaming_elicitation", "Report progress, then ask for a name.")
async def streaming_elicitation(_: dict[str, Any]) -> str:
    await progress(1, 2)
    await ask_form("user_name", "What is your name?", "name")
    return "Answered"


@SERVER.list_tools()
async def list_tools() -> list[types.Tool]:
    failing = types.Tool(name="test_error_handling", description="Fail.", inputSchema={"type": "object"})
    return [*TOOLS, failing]


async def call_tool(request: types.CallToolRequest) -> types.ServerResult:
    name, given = request.params.name, request.params.arguments or {}
    if name == "test_error_handling":
        failed = text("This tool intentionally returns an error for testing")
        return types.ServerResult(types.CallToolResult.model_validate({"content": [failed], "isError": True}))
    if name not in HANDLERS:
        raise McpError(types.ErrorData(code=types.INVALID_PARAMS, message=f"Unknown tool: {name}"))
    said = await HANDLERS[name](given)
    content = [text(said)] if isinstance(said, str) else said
    return types.ServerResult(types.CallToolResult.model_validate({"content": content}))


SERVER.request_handlers[types.CallToolRequest] = call_tool


# -- resources --------------------------------------------------------------------------------------------------------

RESOURCES = {
    "test://static-text": ("text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("image/png", words.PNG),
    "test://watched-resource": ("text/plain", "Watched resource content"),
}
TEMPLATE = ("test://template/", "/data")


@SERVER.list_resources()
async def list_resources() -> list[types.Resource]:
    return [
        types.Resource.model_validate({"uri": uri, "name": uri.partition("://")[2], "mimeType": mime})
        for uri, (mime, _) in RESOURCES.items()
    ]


@SERVER.list_resource_templates()
async def list_templates() -> list[types.ResourceTemplate]:
    uri = "{id}".join(TEMPLATE)
    return [types.ResourceTemplate(uriTemplate=uri, name="template", mimeType="application/json")]


async def read_resource(request: types.ReadResourceRequest) -> types.ServerResult:
    uri = str(request.params.uri)
    found: dict[str, Any] = {"uri": uri}
    if uri in RESOURCES:
        mime, value = RESOURCES[uri]
        found |= {"mimeType": mime, "blob" if mime == "image/png" else "text": value}
    elif uri.startswith(TEMPLATE[0]) and uri.endswith(TEMPLATE[1]):
        key = uri[len(TEMPLATE[0]) : -len(TEMPLATE[1])]
        value = json.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"})
        found |= {"mimeType": "application/json", "text": value}
    else:
        raise McpError(types.ErrorData(code=-32002, message="Resource not found", data={"uri": uri}))
    return types.ServerResult(types.ReadResourceResult.model_validate({"contents": [found]}))


SERVER.request_handlers[types.ReadResourceRequest] = read_resource


@SERVER.subscribe_resource()
async def subscribe(uri: Any) -> None:
    """Nothing changes here."""


@SERVER.unsubscribe_resource()
async def unsubscribe(uri: Any) -> None:
    """Nothing changes here."""


# -- prompts ----------------------------------------------------------------------------------------------------------


def prompt(name: str, description: str, **arguments: str) -> types.Prompt:
    wanted = [
        types.PromptArgument(name=key, description=value, required=True) for key, value in arguments.items()
    ]
    return types.Prompt(name=name, description=description, arguments=wanted or None)


PROMPTS = [
    prompt("test_simple_prompt", "A prompt without arguments."),
    prompt("test_prompt_with_arguments", "A prompt with two.", arg1="First", arg2="Second"),
    prompt("test_prompt_with_embedded_resource", "A prompt with a resource.", resourceUri="Its URI"),
    prompt("test_prompt_with_image", "A prompt with an image."),
    prompt("test_input_required_result_prompt", "A prompt that needs to know more."),
]


@SERVER.list_prompts()
async def list_prompts() -> list[types.Prompt]:
    return PROMPTS


@SERVER.get_prompt()
async def get_prompt(name: str, arguments: dict[str, str] | None) -> types.GetPromptResult:
    given = arguments or {}
    content: list[dict[str, Any]]
    match name:
        case "test_simple_prompt":
            content = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            said = f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"
            content = [text(said)]
        case "test_prompt_with_embedded_resource":
            uri = given.get("resourceUri", "")
            body = words.resource(uri, "text/plain", "Embedded resource content for testing.")
            content = [body, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            content = [words.IMAGE, text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            about = await ask_form("user_context", "What context should the prompt use?", "context")
            content = [text(f"The context is {about}.")]
        case unknown:
            raise McpError(types.ErrorData(code=types.INVALID_PARAMS, message=f"Unknown prompt: {unknown}"))
    messages = [{"role": "user", "content": part} for part in content]
    return types.GetPromptResult.model_validate({"messages": messages})


@SERVER.completion()
async def complete(reference: Any, argument: Any, context: Any) -> types.Completion:
    found = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
    return types.Completion(values=found, total=len(found), hasMore=False)


@SERVER.set_logging_level()
async def set_level(level: Any) -> None:
    """Doorward keeps lines from those who did not ask for them."""


def main() -> None:
    manager = StreamableHTTPSessionManager(SERVER)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    app = Starlette(routes=[Mount("/", app=manager.handle_request)], lifespan=life)
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    listener = socket.create_server(("127.0.0.1", port), backlog=256)
    print(f"port={listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)).run(
        sockets=[listener]
    )


if __name__ == "__main__":
    main()
