"""The everything server's questions in whichever era the client speaks, and doors that let one era in only.

A tool of the old era asks on the way, one of the 2026 era returns what it wants to know; here each works in the other era
too, as the SDKs' own shims do it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import mcp_types as types

MODERN = "2026-07-28"
ANSWERS: ContextVar[dict[str, Any]] = ContextVar("answers")
UNSUPPORTED = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [MODERN]}}
NOT_INITIALIZED = {"code": -32000, "message": "Bad Request: Server not initialized"}


class Wanted(Exception):
    """What an old tool asks of a client of the 2026 era."""

    def __init__(self, request: dict[str, Any]) -> None:
        super().__init__("input required")
        self.request = request


async def ask(ctx: Any, request: dict[str, Any]) -> Any:
    """The client's answer to a request, asked for on the way; a client of the 2026 era is sent back for it."""
    if ctx.protocol_version < MODERN:
        return await _put(ctx, request["method"], request["params"])
    found = ANSWERS.get().get("asked")
    if found is None:
        raise Wanted(request)
    return found


async def _put(ctx: Any, method: str, params: dict[str, Any]) -> Any:
    session, related = ctx.session, ctx.request_id
    if method == "elicitation/create":
        return await session.elicit_form(
            params["message"], params["requestedSchema"], related_request_id=related
        )
    if method == "sampling/createMessage":
        messages = [types.SamplingMessage.model_validate(one) for one in params["messages"]]
        return await session.create_message(
            messages, max_tokens=params["maxTokens"], related_request_id=related
        )
    return await session.list_roots()


async def run(handler: Callable[[Any, Any], Awaitable[Any]], ctx: Any, params: Any) -> Any:
    """What a tool or prompt answers in the era of the request."""
    if ctx.protocol_version >= MODERN:
        ANSWERS.set(params.input_responses or {})
        try:
            return await handler(ctx, params)
        except Wanted as wanted:
            return types.InputRequiredResult.model_validate({"inputRequests": {"asked": wanted.request}})
    outcome = await handler(ctx, params)
    while isinstance(outcome, types.InputRequiredResult):
        asked = outcome.model_dump(mode="json", by_alias=True, exclude_none=True).get("inputRequests") or {}
        answers: dict[str, Any] = {}

        async def put(name: str, one: dict[str, Any], answers: dict[str, Any] = answers) -> None:
            answers[name] = await _put(ctx, one["method"], one.get("params") or {})

        async with anyio.create_task_group() as together:
            for name, one in asked.items():
                together.start_soon(put, name, one)
        again = {"input_responses": answers, "request_state": outcome.request_state}
        params = params.model_copy(update=again)
        outcome = await handler(ctx, params)
    return outcome


class OneEra:
    """An HTTP app that lets in requests of one era only, and refuses the others as a server of that era does."""

    def __init__(self, app: Any, era: str) -> None:
        self._app = app
        self._era = era

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        fields = dict(scope.get("headers", ()))
        is_modern = fields.get(b"mcp-protocol-version", b"") >= MODERN.encode()
        if scope["type"] != "http" or is_modern == (self._era == "modern"):
            return await self._app(scope, receive, send)
        refusal = UNSUPPORTED if self._era == "modern" else NOT_INITIALIZED
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": refusal}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})
