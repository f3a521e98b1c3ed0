"""What the everything server offers: every tool, resource and prompt that the official conformance suite asks for by name.

The names and texts are the suite's (spec.md of the suite: "Server Implementation Requirements"); how they are made is ours.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from everything_eras import ask
from everything_words import (
    CHOICES,
    DEFAULTS,
    IMAGE,
    RICH_SCHEMA,
    ROOTS,
    WAV,
    form,
    resource,
    sample,
    strings,
    text,
)
from mcp.server import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

Context = ServerRequestContext[Any, Any]
Outcome = types.CallToolResult | types.InputRequiredResult
Handler = Callable[[Context, types.CallToolRequestParams], Awaitable[Outcome]]

MODERN = "2026-07-28"
PAUSE = 0.05  # seconds that the suite wants between two notifications
BUS = InMemorySubscriptionBus()
STATE_KEY = secrets.token_bytes(32)  # of this process: state never outlives it
TOOLS: list[types.Tool] = []
HANDLERS: dict[str, Handler] = {}


# -- small documents ------------------------------------------------------------------------------------------------


def done(*content: dict[str, Any], failed: bool = False) -> types.CallToolResult:
    return types.CallToolResult.model_validate({"content": list(content), "isError": failed})


def tool(name: str, description: str, schema: dict[str, Any] | None = None) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        TOOLS.append(
            types.Tool(
                name=name,
                description=description,
                input_schema=schema or {"type": "object", "properties": {}},
            )
        )
        HANDLERS[name] = handler
        return handler

    return keep


# -- content --------------------------------------------------------------------------------------------------------


def always(name: str, description: str, *content: dict[str, Any], failed: bool = False) -> None:
    async def answer(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
        return done(*content, failed=failed)

    tool(name, description)(answer)


always("test_simple_text", "Answer with a text.", text("This is a simple text response for testing."))
always("test_image_content", "Answer with an image.", IMAGE)
always("test_audio_content", "Answer with a sound.", {"type": "audio", "data": WAV, "mimeType": "audio/wav"})
always(
    "test_embedded_resource",
    "Answer with a resource.",
    resource("test://embedded-resource", "text/plain", "This is an embedded resource content."),
)
always(
    "test_multiple_content_types",
    "Answer with a text, an image and a resource.",
    text("Multiple content types test:"),
    IMAGE,
    resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
)
always(
    "test_error_handling", "Fail.", text("This tool intentionally returns an error for testing"), failed=True
)


@tool("greet", "Greet somebody; never a task.", strings("name", required=False))
async def greet(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    return done(text(f"Hello, {(params.arguments or {}).get('name', 'world')}!"))


@tool(
    "json_schema_2020_12_tool",
    "Tool with JSON Schema 2020-12 features",
    RICH_SCHEMA,
)
async def rich_schema(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    return done(text(json.dumps(params.arguments, sort_keys=True)))


@tool(
    "test_header_mirror",
    "Answer with the region, which HTTP clients also send as a header.",
    {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "note": {"type": "string"}},
        "required": ["region"],
    },
)
async def header_mirror(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    return done(text(f"region={(params.arguments or {}).get('region')}"))


# -- things said on the way -----------------------------------------------------------------------------------------


def _is_modern(ctx: Context) -> bool:
    return str(ctx.protocol_version) >= MODERN


async def _log(ctx: Context, sentence: str) -> None:
    await ctx.session.send_log_message("info", sentence, related_request_id=ctx.request_id)


@tool("test_tool_with_logging", "Log three times.")
async def with_logging(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await _log(ctx, "Tool execution started")
    await anyio.sleep(PAUSE)
    await _log(ctx, "Tool processing data")
    await anyio.sleep(PAUSE)
    await _log(ctx, "Tool execution completed")
    return done(text("Tool with logging executed successfully"))


@tool("test_logging_tool", "Log once, if the request allows it.")
async def logging_tool(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await _log(ctx, "said only to those who asked")
    return done(text("logged"))


@tool("test_tool_with_progress", "Report progress three times.")
async def with_progress(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    for step in (0, 50, 100):
        await ctx.session.report_progress(step, 100, f"step {step}")
        if step < 100:
            await anyio.sleep(PAUSE)
    return done(text("progress reported"))


@tool("test_reconnection", "Close the stream on the way; the result waits for the client to come back.")
async def reconnection(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    if _is_modern(ctx):  # its way to let go of a request for a while: a state without questions
        if unseal(params.request_state) != "begun":
            return types.InputRequiredResult(request_state=seal("begun"))
    elif ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
        await anyio.sleep(PAUSE)
    return done(text("Reconnection test completed successfully"))


@tool("test_trigger_tool_change", "Say that the list of tools has changed.")
async def trigger_tool_change(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await (BUS.publish(ToolsListChanged()) if _is_modern(ctx) else ctx.session.send_tool_list_changed())
    return done(text("said"))


@tool("test_trigger_prompt_change", "Say that the list of prompts has changed.")
async def trigger_prompt_change(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await (BUS.publish(PromptsListChanged()) if _is_modern(ctx) else ctx.session.send_prompt_list_changed())
    return done(text("said"))


# -- requests to the client, up to 2025-11-25 -----------------------------------------------------------------------


async def _elicit(ctx: Context, message: str, schema: dict[str, Any]) -> types.ElicitResult:
    params = {"message": message, "requestedSchema": schema}
    answer: types.ElicitResult = await ask(ctx, {"method": "elicitation/create", "params": params})
    return answer


def _summary(answer: types.ElicitResult) -> str:
    return f"action={answer.action}, content={json.dumps(answer.content or {}, sort_keys=True)}"


@tool("test_sampling", "Ask the client's model.", strings("prompt"))
async def sampling(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    answer = await ask(ctx, sample((params.arguments or {})["prompt"], 100))
    return done(text(f"LLM response: {getattr(answer.content, 'text', '')}"))


@tool("test_elicitation", "Ask the user.", strings("message"))
async def elicitation(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    return done(
        text(f"User response: {_summary(await _elicit(ctx, (params.arguments or {})['message'], schema))}")
    )


def asks(name: str, description: str, properties: dict[str, Any]) -> None:
    async def answer(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
        schema = {"type": "object", "properties": properties, "required": []}
        return done(text(f"Elicitation completed: {_summary(await _elicit(ctx, description, schema))}"))

    tool(name, description)(answer)


asks(
    "test_elicitation_sep1034_defaults",
    "Ask for all kinds of values with their defaults.",
    DEFAULTS,
)
asks(
    "test_elicitation_sep1330_enums",
    "Ask for all kinds of choices.",
    CHOICES,
)


# -- requests to the client, from 2026-07-28 ------------------------------------------------------------------------


def seal(value: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
    return f"{body}.{hmac.new(STATE_KEY, body.encode(), hashlib.sha256).hexdigest()}"


def unseal(state: str | None) -> Any:
    """The value of a state that came back, None when there is none."""
    if state is None:
        return None
    body, _, mark = state.partition(".")
    if not hmac.compare_digest(
        hmac.new(STATE_KEY, body.encode(), hashlib.sha256).hexdigest().encode(), mark.encode()
    ):
        raise MCPError(types.INVALID_PARAMS, "The requestState is not ours")
    return json.loads(base64.urlsafe_b64decode(body))


def wants(requests: dict[str, Any], state: Any = None) -> types.InputRequiredResult:
    value: dict[str, Any] = {"inputRequests": requests}
    if state is not None:
        value["requestState"] = seal(state)
    return types.InputRequiredResult.model_validate(value)


def given(params: types.InputResponseRequestParams, name: str) -> Any:
    """What the client answered under this name: a form's content, or the whole answer."""
    answer = (params.input_responses or {}).get(name)
    return (answer.content or {}) if isinstance(answer, types.ElicitResult) else answer


@tool("test_input_required_result_elicitation", "Ask for a name.")
async def input_elicitation(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    name = (given(params, "user_name") or {}).get("name")
    if not isinstance(name, str):
        return wants({"user_name": form("What is your name?", "name")})
    return done(text(f"Hello, {name}!"))


@tool("test_input_required_result_sampling", "Ask the client's model for a capital.")
async def input_sampling(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    answer = given(params, "capital_question")
    if answer is None:
        return wants({"capital_question": sample("What is the capital of France?", 100)})
    return done(text(f"The model says: {getattr(answer.content, 'text', '')}"))


@tool("test_input_required_result_list_roots", "Ask for the client's roots.")
async def input_roots(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    answer = given(params, "client_roots")
    if answer is None:
        return wants({"client_roots": ROOTS})
    return done(text("Roots: " + ", ".join(str(root.uri) for root in answer.roots)))


@tool("test_input_required_result_request_state", "Ask for a confirmation and remember by the client.")
async def input_state(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    state = unseal(params.request_state)
    if given(params, "confirm") is None or state != "asked":
        return wants({"confirm": form("Please confirm", "ok", "boolean")}, "asked")
    return done(text("state-ok"))


@tool("test_input_required_result_tampered_state", "Ask for a confirmation; refuse a state that is not ours.")
async def input_tampered(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    return await input_state(ctx, params)


@tool("test_input_required_result_multiple_inputs", "Ask for three things at once.")
async def input_many(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    unseal(params.request_state)
    questions = {
        "user_name": form("What is your name?", "name"),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if any(given(params, name) is None for name in questions):
        return wants(questions, "asked")
    return done(text("All three answers are here"))


@tool("test_input_required_result_multi_round", "Ask one thing after the other.")
async def input_rounds(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    state = unseal(params.request_state) or {}
    if "name" not in state:
        name = (given(params, "step1") or {}).get("name")
        if name is None or not state:
            return wants({"step1": form("Step 1: What is your name?", "name")}, {"round": 1})
        return wants(
            {"step2": form("Step 2: What is your favorite color?", "color")}, {"round": 2, "name": name}
        )
    color = (given(params, "step2") or {}).get("color")
    if color is None:
        return wants({"step2": form("Step 2: What is your favorite color?", "color")}, state)
    return done(text(f"{state['name']} likes {color}"))


def _declared(ctx: Context) -> types.ClientCapabilities:
    return ctx.session.client_capabilities or types.ClientCapabilities()


@tool("test_input_required_result_capabilities", "Ask only for what the client can do.")
async def input_capabilities(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    if params.input_responses:
        return done(text("Answered"))
    can = _declared(ctx)
    questions = {
        **({"user_name": form("What is your name?", "name")} if can.elicitation is not None else {}),
        **({"greeting": sample("Generate a greeting", 50)} if can.sampling is not None else {}),
        **({"client_roots": ROOTS} if can.roots is not None else {}),
    }
    return wants(questions) if questions else done(text("Nothing to ask of this client"))


@tool("test_missing_capability", "Need sampling, and say so.")
async def missing_capability(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    if _declared(ctx).sampling is None:
        need = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs the client's sampling", need
        )
    return done(text("The client can sample"))


@tool("test_streaming_elicitation", "Report progress, then ask for a name.")
async def streaming_elicitation(ctx: Context, params: types.CallToolRequestParams) -> Outcome:
    await ctx.session.report_progress(1, 2)
    if given(params, "user_name") is None:
        return wants({"user_name": form("What is your name?", "name")})
    return done(text("Answered"))
