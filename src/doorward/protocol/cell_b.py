"""Cell B of the bridge, as pure translation: what a client of the 2026 era says to a server of the 2025 era, and back.

Unknown members pass value-equal both ways (reference: 2025-11-25 basic/lifecycle; 2026-07-28 basic/index, patterns/mrtr).
"""

from __future__ import annotations

import re
from typing import Any

from doorward.protocol import codes
from doorward.protocol.cell_a import SERVER_INFO_KEY
from doorward.protocol.envelope import notification, request
from doorward.protocol.message import Message, MessageId
from doorward.protocol.modern import (
    CACHED_RESULTS,
    CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    LOG_LEVEL_KEY,
    SUBSCRIPTION_KEY,
    VERSION_KEY,
)

_ENVELOPE = (VERSION_KEY, CAPABILITIES_KEY, CLIENT_INFO_KEY, LOG_LEVEL_KEY)
NAME_KEY = "dev.doorward/name"
_NAME = re.compile(r"(?!ask-|url-)[A-Za-z0-9_.\-]{1,64}")  # what begins so is ours
_RESOURCE_NOT_FOUND = -32002  # 2025-11-25 server/resources
URL_ELICITATION = -32042  # 2025-11-25 client/elicitation
_SERVED = ("tools", "resources", "prompts", "completions", "logging", "experimental")
DISCOVERY_TTL_MS = 5_000
_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
CHANGES = {
    "toolsListChanged": ("tools", "notifications/tools/list_changed"),
    "promptsListChanged": ("prompts", "notifications/prompts/list_changed"),
    "resourcesListChanged": ("resources", "notifications/resources/list_changed"),
}


def severity(level: object) -> int:
    """How severe a log line is (RFC 5424, as both eras name the levels); unknown ones count as the least."""
    return _LEVELS.index(level) if isinstance(level, str) and level in _LEVELS else 0


def meta_of(message: Message) -> dict[str, Any]:
    """The ``_meta`` of a request, {} when it has none."""
    meta = (message.params or {}).get("_meta")
    return meta if isinstance(meta, dict) else {}


def handshake(
    capabilities: dict[str, Any], client_info: object, message_id: MessageId, version: str
) -> Message:
    """``initialize`` on behalf of a modern client, with what the server may hear of it (CF-21)."""
    info = (
        client_info
        if isinstance(client_info, dict)
        and isinstance(client_info.get("name"), str)
        and isinstance(client_info.get("version"), str)
        else {"name": "unknown", "version": "0"}
    )
    kept = {key: value for key, value in capabilities.items() if key not in ("extensions", "tasks")}
    params = {"protocolVersion": version, "capabilities": kept, "clientInfo": info}
    return request(message_id, "initialize", params)


def stripped(message: Message, message_id: MessageId, token: MessageId | None) -> Message:
    """A modern request as a legacy one: without its envelope, under an id and a progress token of ours."""
    params = dict(message.params or {})
    meta = {key: value for key, value in meta_of(message).items() if key not in _ENVELOPE}
    if token is not None:
        meta["progressToken"] = token
    # SECURITY: ``task`` means nothing in the 2026 era; in the older one it would make a task that nobody could follow.
    for name in ("inputResponses", "requestState", "_meta", "task"):
        params.pop(name, None)
    if meta:
        params["_meta"] = meta
    fresh = request(message_id, message.method, params)
    for name, value in message.value.items():
        if name != "params":
            fresh.value.setdefault(name, value)
    return fresh


def discovery_of(handshake_result: dict[str, Any]) -> dict[str, Any]:
    """The ``server/discover`` result that an ``initialize`` result stands for."""
    served = handshake_result.get("capabilities")
    capabilities = served if isinstance(served, dict) else {}
    result: dict[str, Any] = {
        "supportedVersions": list(codes.MODERN_VERSIONS),
        "capabilities": {name: capabilities[name] for name in _SERVED if name in capabilities},
    }
    if isinstance(handshake_result.get("instructions"), str):
        result["instructions"] = handshake_result["instructions"]
    return result


def to_modern_result(method: str, result: dict[str, Any], server_info: object) -> None:
    """Give a legacy result what every modern one carries (SF-56, SF-57), in place."""
    result["resultType"] = "complete"
    if method in CACHED_RESULTS:
        result["ttlMs"] = DISCOVERY_TTL_MS if method == "server/discover" else 0
        result["cacheScope"] = "private"
    if method == "tools/list" and isinstance(tools := result.get("tools"), list):
        result["tools"] = [tool for tool in tools if not _needs_task(tool)]
        for tool in result["tools"]:
            execution = tool.get("execution") if isinstance(tool, dict) else None
            if (
                isinstance(execution, dict)
                and execution.pop("taskSupport", None) is not None
                and not execution
            ):
                del tool["execution"]
    if isinstance(server_info, dict):
        meta = result.get("_meta")
        result["_meta"] = {**(meta if isinstance(meta, dict) else {}), SERVER_INFO_KEY: server_info}


def _needs_task(tool: object) -> bool:
    """True for a tool that its server runs as a task only (2025-11-25 basic/utilities/tasks): uncallable from here."""
    execution = tool.get("execution") if isinstance(tool, dict) else None
    return isinstance(execution, dict) and execution.get("taskSupport") == "required"


def to_modern_error(error: dict[str, Any]) -> None:
    """A resource that is not there has another code in the 2026 era (SF-62, SF-66), in place."""
    if error.get("code") in (_RESOURCE_NOT_FOUND, URL_ELICITATION):
        error["code"] = codes.INVALID_PARAMS


def urls_of(error: object) -> dict[str, Any]:
    """The URLs that a -32042 error wants opened, as input requests; {} when it is none (SF-35)."""
    data = error.get("data") if isinstance(error, dict) and error.get("code") == URL_ELICITATION else None
    wanted = data.get("elicitations") if isinstance(data, dict) else None
    found: dict[str, Any] = {}
    for number, one in enumerate(wanted if isinstance(wanted, list) else ()):
        if isinstance(one, dict):
            params = {key: value for key, value in one.items() if key != "elicitationId"}
            found[f"url-{number}"] = {"method": "elicitation/create", "params": {**params, "mode": "url"}}
    return found


def name_of(message: Message) -> str | None:
    """What a legacy server calls its question, where it says so in ``_meta``: a question of its era has no name."""
    name = meta_of(message).get(NAME_KEY)
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def input_request_of(message: Message) -> dict[str, Any]:
    """A legacy server's request as an input request; ids of the old era mean nothing in the new one."""
    params = {key: value for key, value in (message.params or {}).items() if key != "elicitationId"}
    if NAME_KEY in (meta := meta_of(message)):
        params["_meta"] = {key: value for key, value in meta.items() if key != NAME_KEY}
        if not params["_meta"]:
            del params["_meta"]
    asked: dict[str, Any] = {"method": message.method}
    if params or message.method != "roots/list":
        asked["params"] = params
    return asked


def honoured(wanted: object, handshake_result: dict[str, Any], count: int) -> dict[str, Any]:
    """What of a subscription's filter a legacy server can keep: at most ``count`` resources (SF-59)."""
    served = handshake_result.get("capabilities")
    capabilities = served if isinstance(served, dict) else {}
    asked = wanted if isinstance(wanted, dict) else {}
    kept: dict[str, Any] = {}
    for name, (kind, _) in CHANGES.items():
        of_kind = capabilities.get(kind)
        if asked.get(name) is True and isinstance(of_kind, dict) and of_kind.get("listChanged") is True:
            kept[name] = True
    uris = asked.get("resourceSubscriptions")
    resources = capabilities.get("resources")
    if isinstance(uris, list) and isinstance(resources, dict) and resources.get("subscribe") is True:
        kept["resourceSubscriptions"] = [uri for uri in uris if isinstance(uri, str)][:count]
    return kept


def acknowledged(kept: dict[str, Any], subscription: MessageId) -> Message:
    """The first message of a subscription."""
    params = {"notifications": kept, "_meta": {SUBSCRIPTION_KEY: subscription}}
    return notification("notifications/subscriptions/acknowledged", params)


def stamped(message: Message, kept: dict[str, Any], subscription: MessageId) -> Message | None:
    """A legacy notification as one of a subscription; None when the subscription does not cover it."""
    params = dict(message.params or {})
    if message.method == "notifications/resources/updated":
        if params.get("uri") not in kept.get("resourceSubscriptions", ()):
            return None
    elif not any(name in kept for name, (_, method) in CHANGES.items() if method == message.method):
        return None
    meta = params.get("_meta")
    params["_meta"] = {**(meta if isinstance(meta, dict) else {}), SUBSCRIPTION_KEY: subscription}
    return notification(message.method, params)
