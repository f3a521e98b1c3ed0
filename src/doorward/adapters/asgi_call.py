"""Ask an ASGI app one whole request and take its whole answer: no socket, no stream, no lifespan (ASGI 3.0, HTTP)."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Message

from doorward.base.errors import StoreError

ANSWER_BYTES = 1_048_576  # pages and documents are far smaller; more is a bug


async def call_app(app: ASGIApp, request: dict[str, Any], *, scheme: str) -> dict[str, Any]:
    """The answer to ``request`` (verb, path, query, fields, body, address) as status, fields and body.

    Raises: StoreError ``web-answer`` when the app gave none, or one that is too large; whatever the app raises.
    """
    fields: dict[str, str] = request["fields"]
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request["verb"],
        "scheme": scheme,
        "path": request["path"],
        "raw_path": request["path"].encode("latin-1"),
        "root_path": "",
        "query_string": request["query"].encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()],
        "client": (request["address"], 0),
        "server": None,
    }
    sent = False
    status = 0
    told: list[list[str]] = []
    body = bytearray()

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": request["body"], "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            told.extend(
                [name.decode("latin-1"), value.decode("latin-1")] for name, value in message["headers"]
            )
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))
            if len(body) > ANSWER_BYTES:
                raise StoreError("web-answer", "An answer of the gateway's own pages is too large.")

    await app(scope, receive, send)
    if not status:
        raise StoreError("web-answer", "The gateway's own pages gave no answer.")
    return {"status": status, "fields": told, "body": bytes(body)}
