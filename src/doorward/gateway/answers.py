"""Refusals and errors as what the client sees: one place for statuses, JSON-RPC codes and header fields."""

from __future__ import annotations

from typing import Any

from doorward.base.errors import CallerError, DoorwardError, StoreError, UpstreamError
from doorward.controls.control import Refuse
from doorward.gateway.ports import Reply
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Era, MessageId

JSON_FIELDS = b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
STREAM_FIELDS = b"Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
ACCEPTED = Reply(202)
NOT_FOUND = Reply(404, JSON_FIELDS, b'{"error":"not found"}')
NOT_READY = Reply(503, b"Retry-After: 1\r\n" + JSON_FIELDS, b'{"error":"not ready"}')

# Errors for which the modern era demands a status of its own (2026-07-28 basic/transports/streamable-http).
_MODERN_STATUS = {
    codes.HEADER_MISMATCH: 400,
    codes.MISSING_CAPABILITY: 400,
    codes.UNSUPPORTED_VERSION: 400,
    codes.METHOD_NOT_FOUND: 404,
    codes.PARSE_ERROR: 400,
    codes.INVALID_REQUEST: 400,
}


def modern_status(code: object) -> int:
    """HTTP status of a JSON-RPC error code in the 2026 era."""
    return _MODERN_STATUS.get(code, 200) if isinstance(code, int) else 200


def error_body(
    message_id: MessageId | None, code: int, message: str, data: dict[str, Any] | None = None
) -> bytes:
    """Encode a JSON-RPC error. Without an id the member is left out, as both eras' schemas want it."""
    value: dict[str, Any] = {"jsonrpc": "2.0"}
    if message_id is not None:
        value["id"] = message_id
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    value["error"] = error
    return encode_json(value)


def _data(
    control: str, reason: str, event: str, help_text: str, extra: dict[str, Any] | None
) -> dict[str, Any]:
    data: dict[str, Any] = {"control": control, "reason": reason, "event": event, "help": help_text}
    if extra:
        data.update(extra)
    return data


def encode_fields(fields: tuple[tuple[str, str], ...]) -> bytes:
    """Write extra header fields of a refusal; they come from our own code, never from a peer."""
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


def code_of(error: DoorwardError) -> int:
    """The JSON-RPC code that goes on record for a call that failed."""
    return codes.NO_CREDENTIAL if error.code == "credential-missing" else codes.UPSTREAM_FAILED


def refused(
    refuse: Refuse,
    *,
    slug: str,
    event: str,
    message_id: MessageId | None,
    method: str = "",
    deny_as: str = "error",
    era: Era | None = None,
    close: bool = False,
) -> Reply:
    """The answer to a request that a control refused."""
    if (
        deny_as == "tool-result"
        and method == "tools/call"
        and refuse.status == 200
        and message_id is not None
    ):
        return Reply(200, JSON_FIELDS, _tool_result(refuse, slug, event, message_id, era))
    data = _data(slug, refuse.tell, event, refuse.help or "Show the event id to the operator.", refuse.extra)
    body = error_body(message_id, refuse.code, refuse.tell, data)
    status = refuse.status
    if status == 200 and era == "modern":
        status = modern_status(refuse.code)
    return Reply(status, encode_fields(refuse.headers) + JSON_FIELDS, body, close)


def _tool_result(refuse: Refuse, slug: str, event: str, message_id: MessageId, era: Era | None) -> bytes:
    result: dict[str, Any] = {
        "content": [{"type": "text", "text": f"{refuse.tell} {refuse.help}".strip() + f" (event {event})"}],
        "isError": True,
        "_meta": {"dev.doorward/refused": {"control": slug, "code": refuse.code, "event": event}},
    }
    if era == "modern":
        result["resultType"] = "complete"
    return encode_json({"jsonrpc": "2.0", "id": message_id, "result": result})


def failed(
    error: DoorwardError,
    *,
    event: str,
    message_id: MessageId | None,
    era: Era | None = None,
    close: bool = False,
    control: str = "check-shape",
) -> Reply:
    """The answer to a request that could not be served; ``control`` is who found a caller's fault."""
    match error:
        case CallerError():
            data = _data(control, error.tell, event, "Mend the message and send it again.", error.data)
            return Reply(
                error.status, JSON_FIELDS, error_body(message_id, error.rpc_code, error.tell, data), close
            )
        case UpstreamError(code="upstream-era") if era == "modern" and message_id is not None:
            # What a client of both eras needs to know to come back with initialize (2026-07-28 basic/versioning).
            told = {"supported": list(codes.LEGACY_VERSIONS), "requested": codes.MODERN_VERSIONS[-1]}
            data = _data("gateway", error.tell, event, "Use one of the supported versions.", told)
            body = error_body(message_id, codes.UNSUPPORTED_VERSION, error.tell, data)
            return Reply(400, JSON_FIELDS, body, close)
        case UpstreamError(code="credential-missing"):
            url = getattr(error, "url", "")
            help_text = (
                f"Link your account at {url} and try again." if url else "Show the event id to the operator."
            )
            told = {"cause": error.code, **({"url": url} if url else {})}
            data = _data("present-credential", error.tell, event, help_text, told)
            body = error_body(message_id, codes.NO_CREDENTIAL, error.tell, data)
            return Reply(200 if message_id is not None else 502, JSON_FIELDS, body, close)
        case UpstreamError():
            data = _data("gateway", error.tell, event, "The protected server failed; try again later.", None)
            data["cause"] = error.code
            body = error_body(message_id, codes.UPSTREAM_FAILED, error.tell, data)
            return Reply(200 if message_id is not None else 502, JSON_FIELDS, body, close)
        case StoreError():
            data = _data("keep-ledger", error.tell, event, "The operator has to look at the gateway.", None)
            return Reply(
                503, JSON_FIELDS, error_body(message_id, codes.INTERNAL_ERROR, error.tell, data), close
            )
        case _:
            data = _data("gateway", "internal error", event, "Show the event id to the operator.", None)
            body = error_body(message_id, codes.INTERNAL_ERROR, "The gateway could not serve this.", data)
            return Reply(500 if era is None else 200, JSON_FIELDS, body, close)
