"""Cell A, the translation alone: what a legacy client says as a modern server reads it, and back (both eras' basic).

Members that nobody here knows pass value-equal. What one era gives a meaning and the other does not is added or taken away.
"""

from __future__ import annotations

from typing import Any

from doorward.base.errors import UpstreamError
from doorward.protocol import codes, legacy, modern
from doorward.protocol.envelope import notification
from doorward.protocol.headers import invalid_annotations
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message, MessageId

SERVER_INFO_KEY = "io.modelcontextprotocol/serverInfo"
TASKS_KEY = "io.modelcontextprotocol/tasks"
LOG_LEVELS = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
RESOURCE_NOT_FOUND = -32002  # 2025-11-25 server/resources; the modern era says -32602
ASKING = frozenset({"tools/call", "prompts/get", "resources/read"})  # whose results may be input_required
ASKABLE = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})
REQUESTS_COUNT = 32  # questions of one round
STATE_BYTES = 262_144  # of what a server lets us keep between two rounds
_RETRY_MEMBERS = ("inputResponses", "requestState")
_TASK_MEMBER = "task"  # asks for a task of the older era's core, which no modern server has (0055)
_VERSION = codes.MODERN_VERSIONS[-1]
_OWN_FAULTS = {
    codes.HEADER_MISMATCH: "The protected server refused a header of the gateway.",
    codes.UNSUPPORTED_VERSION: "The protected server does not speak the gateway's protocol version.",
}


def client_capabilities(declared: dict[str, Any]) -> dict[str, Any]:
    """What a legacy client declared, as an envelope says it: without tasks, which differ between the eras."""
    kept = {name: value for name, value in declared.items() if name != "tasks"}
    extensions = kept.get("extensions")
    if isinstance(extensions, dict) and TASKS_KEY in extensions:
        kept["extensions"] = {name: value for name, value in extensions.items() if name != TASKS_KEY}
    return kept


def enveloped(
    message: Message, capabilities: dict[str, Any], client_info: dict[str, Any] | None, log_level: str = ""
) -> Message:
    """A legacy request as a modern one; ``capabilities`` and ``client_info`` are the end client's.

    SECURITY: the client's own words in the envelope's places are replaced, and it cannot bring a server's state or
    answers that nobody asked for: no legacy request has such members.
    """
    params = {name: value for name, value in (message.params or {}).items() if name not in _RETRY_MEMBERS}
    params.pop(_TASK_MEMBER, None)
    meta = params.get("_meta")
    fresh = dict(meta) if isinstance(meta, dict) else {}
    fresh.pop(modern.CLIENT_INFO_KEY, None)
    fresh.pop(modern.LOG_LEVEL_KEY, None)
    fresh[modern.VERSION_KEY] = _VERSION
    fresh[modern.CAPABILITIES_KEY] = capabilities
    if client_info is not None:
        fresh[modern.CLIENT_INFO_KEY] = client_info
    if log_level:
        fresh[modern.LOG_LEVEL_KEY] = log_level
    params["_meta"] = fresh
    value = {**message.value, "params": params}
    return Message(message.kind, message.method, message.id, params, value)


def retried(message: Message, message_id: MessageId, answers: dict[str, Any], state: object) -> Message:
    """The same enveloped request once more, under a new id, with the client's answers and the server's exact state."""
    params = {name: value for name, value in (message.params or {}).items() if name not in _RETRY_MEMBERS}
    params["inputResponses"] = answers
    if state is not None:
        params["requestState"] = state
    value = {**message.value, "id": message_id, "params": params}
    return Message(message.kind, message.method, message_id, params, value)


def initialized(discovered: dict[str, Any], offered: object) -> dict[str, Any]:
    """An ``initialize`` result from the result of ``server/discover``."""
    left_out = ("supportedVersions", "resultType", "ttlMs", "cacheScope", "capabilities", "_meta")
    result = {name: value for name, value in discovered.items() if name not in left_out}
    capabilities = discovered.get("capabilities")
    declared = capabilities if isinstance(capabilities, dict) else {}
    result["protocolVersion"] = legacy.negotiate(offered)
    result["capabilities"] = {
        name: value for name, value in declared.items() if name not in ("extensions", "tasks")
    }
    meta = discovered.get("_meta")
    info = meta.get(SERVER_INFO_KEY) if isinstance(meta, dict) else None
    if not (
        isinstance(info, dict) and isinstance(info.get("name"), str) and isinstance(info.get("version"), str)
    ):
        info = {"name": "unnamed", "version": "unknown"}  # a legacy result must have them
    result["serverInfo"] = info
    if isinstance(meta, dict) and (rest := {key: one for key, one in meta.items() if key != SERVER_INFO_KEY}):
        result["_meta"] = rest
    return result


def legacy_result(method: str, result: dict[str, Any]) -> dict[str, Any]:
    """A complete modern result as legacy validators accept it."""
    kept = dict(result)
    kept.pop("resultType", None)
    if method in modern.CACHED_RESULTS:
        kept.pop("ttlMs", None)
        kept.pop("cacheScope", None)
    if method == "tools/list" and isinstance(tools := kept.get("tools"), list):
        kept["tools"] = [_legacy_tool(tool) for tool in tools if not _is_refused(tool)]
    if method == "tools/call" and "structuredContent" in kept:
        structured = kept["structuredContent"]
        if not isinstance(structured, dict):
            del kept["structuredContent"]
            if not kept.get("content"):  # nothing of the answer may be lost
                kept["content"] = [{"type": "text", "text": encode_json(structured).decode()}]
    return kept


def _is_refused(tool: object) -> bool:
    """True for a tool that a client of the modern era has to drop (SEP-2243; CF-06): here that client is Doorward."""
    return isinstance(tool, dict) and invalid_annotations(tool) is not None


def _legacy_tool(tool: object) -> object:
    if isinstance(tool, dict) and "execution" in tool:  # how a tool runs as a task, which is not declared
        tool = {name: value for name, value in tool.items() if name != "execution"}
    if not isinstance(tool, dict) or "outputSchema" not in tool:
        return tool
    schema = tool["outputSchema"]
    if isinstance(schema, dict) and schema.get("type") == "object":
        return tool
    return {name: value for name, value in tool.items() if name != "outputSchema"}


def legacy_error(method: str, error: dict[str, Any]) -> dict[str, Any]:
    """A modern error as a legacy client knows it; what is the gateway's own fault is not the client's to read."""
    code = error.get("code")
    if code in _OWN_FAULTS and isinstance(code, int):
        return {"code": codes.INTERNAL_ERROR, "message": _OWN_FAULTS[code]}
    if code == codes.MISSING_CAPABILITY:
        kept = {
            "code": codes.INVALID_REQUEST,
            "message": "The server needs something that this client cannot do.",
        }
        data = error.get("data")
        needed = data.get("requiredCapabilities") if isinstance(data, dict) else None
        return {**kept, "data": {"requiredCapabilities": needed}} if isinstance(needed, dict) else kept
    if method == "resources/read" and code == codes.INVALID_PARAMS:
        return {**error, "code": RESOURCE_NOT_FOUND}
    return error


def questions_of(method: str, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The questions of an ``input_required`` result by key, checked. Raises UpstreamError."""
    asked = result.get("inputRequests", {})
    fits = (
        method in ASKING  # 2026-07-28 basic/patterns/mrtr: on no other method
        and isinstance(asked, dict)
        and len(asked) <= REQUESTS_COUNT
        and ("inputRequests" in result or result.get("requestState") is not None)
        and all(_is_question(one) for one in asked.values())
        and len(encode_json(result.get("requestState"))) <= STATE_BYTES
    )
    if not fits:
        raise UpstreamError("upstream-malformed", "The protected server asked in a way that has no meaning.")
    return dict(asked)


def _is_question(one: object) -> bool:
    return isinstance(one, dict) and one.get("method") in ASKABLE and isinstance(one.get("params", {}), dict)


def question(message_id: str, asked: dict[str, Any], elicitation_id: str) -> Message:
    """One question of a modern server as a legacy request to the client."""
    method = asked["method"]
    value: dict[str, Any] = {"jsonrpc": "2.0", "id": message_id, "method": method}
    params = asked.get("params")
    if params is not None:
        if method == "elicitation/create" and params.get("mode") == "url":
            params = {"elicitationId": elicitation_id, **params}  # the modern era has no such member
        value["params"] = params
    return Message("request", method, message_id, params, value)


def failure(message: Message, tell: str) -> Message:
    """How a call ends whose server could not get its answers: an error result for a tool, else a JSON-RPC error."""
    value: dict[str, Any] = {"jsonrpc": "2.0", "id": message.id}
    if message.method == "tools/call":
        value["result"] = {"content": [{"type": "text", "text": tell}], "isError": True}
    else:
        value["error"] = {"code": codes.INTERNAL_ERROR, "message": tell}
    return Message("response", "", message.id, None, value)


def listen_filter(capabilities: dict[str, Any], uris: list[str]) -> dict[str, Any]:
    """What a session wants to hear: every list that the server says may change, and the resources subscribed to."""
    wanted: dict[str, Any] = {}
    for kind in ("tools", "prompts", "resources"):
        declared = capabilities.get(kind)
        if isinstance(declared, dict) and declared.get("listChanged") is True:
            wanted[f"{kind}ListChanged"] = True
    if uris:
        wanted["resourceSubscriptions"] = uris
    return wanted


def unsubscribed(message: Message) -> Message:
    """A notification of a subscription as a legacy server says it: without the subscription's id."""
    params = dict(message.params or {})
    meta = params.get("_meta")
    if isinstance(meta, dict) and modern.SUBSCRIPTION_KEY in meta:
        rest = {key: one for key, one in meta.items() if key != modern.SUBSCRIPTION_KEY}
        if rest:
            params["_meta"] = rest
        else:
            del params["_meta"]
    if message.params is None:
        return notification(message.method)
    value = {**message.value, "params": params}
    return Message(message.kind, message.method, message.id, params, value)
