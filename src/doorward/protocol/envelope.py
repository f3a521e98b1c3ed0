"""JSON-RPC envelopes: what is a message, of which kind, and how to write one (JSON-RPC 2.0 §4-5; MCP basic)."""

from __future__ import annotations

from typing import Any

from doorward.base import limits
from doorward.base.errors import CallerError
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.message import Message, MessageId

ENVELOPE_MEMBERS = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
# Members that the revisions of MCP give to params, of both directions; a reader that ignores case must not find a
# second one (Go's encoding/json and options of Jackson and .NET do ignore it).
PARAMS_MEMBERS = frozenset(
    {
        "_meta", "argument", "arguments", "capabilities", "clientInfo", "context", "cursor", "elicitationId",
        "includeContext", "inputResponses", "level", "maxTokens", "message", "messages", "metadata", "mode",
        "modelPreferences", "name", "notifications", "progress", "progressToken", "protocolVersion", "reason", "ref",
        "requestId", "requestState", "requestedSchema", "stopSequences", "systemPrompt", "task", "taskId",
        "temperature", "toolChoice", "tools", "total", "uri", "url",
    }
)  # fmt: skip
META_PREFIX = "io.modelcontextprotocol/"
META_MEMBERS = frozenset(
    {
        "progressToken",
        META_PREFIX + "protocolVersion",
        META_PREFIX + "clientCapabilities",
        META_PREFIX + "clientInfo",
        META_PREFIX + "logLevel",
        META_PREFIX + "subscriptionId",
    }
)
_METHOD_CHARS = 128
_ABSENT: Any = object()


def parse_message(body: bytes) -> Message:
    """Parse one JSON-RPC message from bytes. Raises CallerError (status 400) for anything else, batches included."""
    value = parse_json(body)
    if (
        type(value) is dict
        and type(value.get("result")) is dict
        and len(value) == 3
        and value.get("jsonrpc") == "2.0"
    ):
        # Most answers: these two members, an id and no other.
        message_id = value.get("id")
        if type(message_id) is int or (type(message_id) is str and len(message_id) <= limits.ID_CHARS):
            return Message("response", "", message_id, None, value)
    return message_of(value)


def message_of(value: Any) -> Message:
    """Judge a parsed value as one message. Raises CallerError with -32600, or -32602 where ``params`` is no object."""
    if type(value) is not dict:
        if type(value) is list:
            raise _invalid("batch", "Batches are not served: send one message in each body.")
        raise _invalid("no-object", "The message is not a JSON object.")
    if not ENVELOPE_MEMBERS.issuperset(value):
        _refuse_variants(value, ENVELOPE_MEMBERS)
    if value.get("jsonrpc") != "2.0":
        raise _invalid("jsonrpc-version", 'The member "jsonrpc" is not "2.0".')
    if "method" in value:
        return _call_of(value)
    return _response_of(value)


def _call_of(value: dict[str, Any]) -> Message:
    method = value["method"]
    if type(method) is not str or not 0 < len(method) <= _METHOD_CHARS:
        raise _invalid("method", f"The method is not a string of 1 to {_METHOD_CHARS} characters.")
    if "result" in value or "error" in value:
        raise _invalid("ambiguous", "A message is either a request or a response, not both.")
    params = value.get("params", _ABSENT)
    if params is _ABSENT:
        params = None
    else:
        if type(params) is not dict:
            fault = CallerError(
                "params", "The member params is not an object.", status=400, rpc_code=codes.INVALID_PARAMS
            )
            fault.message_id = _id_of(value) if "id" in value else None
            raise fault
        if not PARAMS_MEMBERS.issuperset(params):
            _refuse_variants(params, PARAMS_MEMBERS)
        if "_meta" in params:
            meta = params["_meta"]
            if type(meta) is dict and not META_MEMBERS.issuperset(meta):
                _refuse_variants(meta, META_MEMBERS)
    message_id = value.get("id", _ABSENT)
    if message_id is _ABSENT:
        return Message("notification", method, None, params, value)
    if type(message_id) is not int:
        message_id = _id_of(value)
    return Message("request", method, message_id, params, value)


def _response_of(value: dict[str, Any]) -> Message:
    if "params" in value:
        raise _invalid("ambiguous", "A response has no params.")
    if ("result" in value) is ("error" in value):
        raise _invalid("ambiguous", "A response has exactly one of result and error.")
    if "result" in value:
        if type(value["result"]) is not dict:
            raise _invalid("result", "The result is not an object.")
        return Message("response", "", _id_of(value), None, value)
    error = value["error"]
    if (
        type(error) is not dict
        or type(error.get("code")) is not int
        or type(error.get("message", "")) is not str
    ):
        raise _invalid("error", "The error is not an object with an integer code and a message.")
    # JSON-RPC 2.0 §5: an error whose request could not be read has the id null.
    message_id = _id_of(value) if value.get("id") is not None else None
    return Message("response", "", message_id, None, value)


def _id_of(value: dict[str, Any]) -> MessageId:
    message_id = value.get("id")
    # The exact types: True is an int to Python, and would answer to the id 1.
    if type(message_id) is int:
        return message_id
    if type(message_id) is str and len(message_id) <= limits.ID_CHARS:
        return message_id
    raise _invalid(
        "id", f"The id is neither an integer nor a string of at most {limits.ID_CHARS} characters."
    )


def _refuse_variants(members: dict[str, Any], known: frozenset[str]) -> None:
    folded = _FOLDED[known]
    for key in members:
        if key not in known and (key.casefold() in folded or key.upper().casefold() in folded):
            raise _invalid("case-variant", "A member differs from a known one in letter case only.")


_FOLDED = {
    known: frozenset(name.casefold() for name in known)
    for known in (ENVELOPE_MEMBERS, PARAMS_MEMBERS, META_MEMBERS)
}


def _invalid(code: str, tell: str) -> CallerError:
    return CallerError("message-" + code, tell, status=400, rpc_code=codes.INVALID_REQUEST)


def request(message_id: MessageId, method: str, params: dict[str, Any] | None = None) -> Message:
    """Make a request."""
    value: dict[str, Any] = {"jsonrpc": "2.0", "id": message_id, "method": method}
    if params is not None:
        value["params"] = params
    return Message("request", method, message_id, params, value)


def notification(method: str, params: dict[str, Any] | None = None) -> Message:
    """Make a notification."""
    value: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        value["params"] = params
    return Message("notification", method, None, params, value)


def response(message_id: MessageId, result: dict[str, Any]) -> Message:
    """Make a successful response."""
    return Message("response", "", message_id, None, {"jsonrpc": "2.0", "id": message_id, "result": result})


def error(message_id: MessageId | None, code: int, text: str, data: dict[str, Any] | None = None) -> Message:
    """Make an error response. Without an id the member is left out, as MCP's schemas want it."""
    value: dict[str, Any] = {"jsonrpc": "2.0"}
    if message_id is not None:
        value["id"] = message_id
    body: dict[str, Any] = {"code": code, "message": text}
    if data is not None:
        body["data"] = data
    value["error"] = body
    return Message("response", "", message_id, None, value)


def with_id(message: Message, message_id: MessageId) -> Message:
    """The same request or response under another id; nothing but the envelope is copied."""
    value = {**message.value, "id": message_id}
    return Message(message.kind, message.method, message_id, message.params, value)


def encode(message: Message) -> bytes:
    """Write a message anew from its value; never the bytes that were received."""
    return encode_json(message.value)
