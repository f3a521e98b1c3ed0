"""Cell A of the bridge, as pure translation: what a client of the 2025 era says to a server of the 2026 era, and back.

Unknown members pass value-equal both ways (reference: 2026-07-28 basic/index, basic/versioning; 2025-11-25 basic/lifecycle).
"""

from __future__ import annotations

from typing import Any

from doorward.protocol import codes
from doorward.protocol.envelope import request
from doorward.protocol.legacy import negotiate
from doorward.protocol.message import Message, MessageId
from doorward.protocol.modern import (
    CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    LOG_LEVEL_KEY,
    SUBSCRIPTION_KEY,
    VERSION_KEY,
)

MODERN = codes.MODERN_VERSIONS[-1]
SERVER_INFO_KEY = "io.modelcontextprotocol/serverInfo"
_HINTS = ("resultType", "ttlMs", "cacheScope")  # members of results that only the 2026 era has
_MODERN_CODES = frozenset({codes.HEADER_MISMATCH, codes.MISSING_CAPABILITY, codes.UNSUPPORTED_VERSION})
# What the 2026 era knows of a client; the rest of a legacy declaration means nothing there.
_CLIENT_CAPABILITIES = ("sampling", "elicitation", "roots", "experimental")
_LEGACY_CAPABILITIES = ("tools", "resources", "prompts", "completions", "logging", "experimental")


def modern_capabilities(declared: dict[str, Any]) -> dict[str, Any]:
    """A legacy client's capabilities as the 2026 era declares them; nothing is added (CF-21)."""
    return {name: declared[name] for name in _CLIENT_CAPABILITIES if name in declared}


def enveloped(
    message: Message,
    message_id: MessageId,
    capabilities: dict[str, Any],
    client_info: dict[str, Any],
    log_level: str = "",
) -> Message:
    """A legacy request as a modern one: the envelope goes into ``_meta``, everything else stays."""
    params = dict(message.params or {})
    meta = params.get("_meta")
    envelope: dict[str, Any] = dict(meta) if isinstance(meta, dict) else {}
    envelope[VERSION_KEY] = MODERN
    envelope[CAPABILITIES_KEY] = capabilities
    envelope[CLIENT_INFO_KEY] = client_info
    envelope.pop(LOG_LEVEL_KEY, None)
    if log_level:
        envelope[LOG_LEVEL_KEY] = log_level
    params["_meta"] = envelope
    fresh = request(message_id, message.method, params)
    for name, value in message.value.items():
        fresh.value.setdefault(name, value)
    return fresh


def retried(message: Message, message_id: MessageId, answers: dict[str, Any], state: object) -> Message:
    """The same modern request again, with what the server asked for and its state, byte for byte (CF-10)."""
    params = dict(message.params or {})
    params["inputResponses"] = answers
    params.pop("requestState", None)
    if state is not None:
        params["requestState"] = state
    return request(message_id, message.method, params)


def handshake_of(discovery: dict[str, Any], requested: object, name: str) -> dict[str, Any]:
    """The answer to ``initialize`` that a ``server/discover`` result stands for; ``name`` where the server tells none."""
    meta = discovery.get("_meta")
    told = meta.get(SERVER_INFO_KEY) if isinstance(meta, dict) else None
    info = told if isinstance(told, dict) and isinstance(told.get("name"), str) else {"name": name}
    served = discovery.get("capabilities")
    capabilities = served if isinstance(served, dict) else {}
    result: dict[str, Any] = {
        "protocolVersion": negotiate(requested),
        "capabilities": {key: capabilities[key] for key in _LEGACY_CAPABILITIES if key in capabilities},
        "serverInfo": {"version": "unknown", **info},
    }
    if isinstance(discovery.get("instructions"), str):
        result["instructions"] = discovery["instructions"]
    return result


def to_legacy_result(method: str, result: dict[str, Any]) -> None:
    """Make a complete modern result one that legacy validators accept, in place."""
    for name in _HINTS:
        result.pop(name, None)
    if method == "tools/list":
        tools = result.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and not _is_object_schema(tool.get("outputSchema")):
                tool.pop("outputSchema", None)
    elif method == "tools/call" and not isinstance(result.get("structuredContent"), dict):
        result.pop("structuredContent", None)  # only objects are known there; the text block stays


def _is_object_schema(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def to_legacy_error(error: dict[str, Any]) -> None:
    """Codes that only the 2026 era has describe our hop, not the client's: they become an internal error, in place."""
    if error.get("code") in _MODERN_CODES:
        error["code"] = codes.INTERNAL_ERROR
        error.pop("data", None)


def to_legacy_notification(message: Message) -> None:
    """Drop the subscription id, which the client did not make, in place."""
    params = message.params or {}
    meta = params.get("_meta")
    if isinstance(meta, dict) and meta.pop(SUBSCRIPTION_KEY, None) is not None and not meta:
        del params["_meta"]


def listen_filter(capabilities: dict[str, Any], uris: tuple[str, ...]) -> dict[str, Any]:
    """What to subscribe to for a legacy client: every change that the server tells of, and the resources it named."""
    wanted: dict[str, Any] = {}
    for name in ("tools", "prompts", "resources"):
        served = capabilities.get(name)
        if isinstance(served, dict) and served.get("listChanged") is True:
            wanted[f"{name}ListChanged"] = True
    if uris:
        wanted["resourceSubscriptions"] = list(uris)
    return wanted


def legacy_question(key: str, asked: dict[str, Any], number: MessageId) -> Message:
    """One input request as the request that a legacy server would have sent; a URL to open gets an id of ours."""
    params = asked.get("params")
    params = dict(params) if isinstance(params, dict) else {}
    if asked.get("method") == "elicitation/create" and params.get("mode") == "url":
        params.setdefault("elicitationId", f"dw-{number}-{key}"[:64])
    return request(number, str(asked.get("method")), params)
