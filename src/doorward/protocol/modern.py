"""The 2026 era: every request carries its own envelope in ``_meta`` (2026-07-28 basic, basic/versioning)."""

from __future__ import annotations

from typing import Any

import msgspec

from doorward.base.errors import CallerError
from doorward.protocol import codes
from doorward.protocol.message import Message

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO_KEY = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"

CLIENT_REQUESTS = frozenset(
    {
        "server/discover", "tools/list", "tools/call", "prompts/list", "prompts/get", "resources/list",
        "resources/templates/list", "resources/read", "completion/complete", "subscriptions/listen",
        "tasks/get", "tasks/update", "tasks/cancel",
    }
)  # fmt: skip
CLIENT_NOTIFICATIONS = frozenset({"notifications/cancelled"})  # on stdio; over HTTP none is defined
SERVER_REQUESTS: frozenset[str] = frozenset()  # the era has input_required results instead
SERVER_NOTIFICATIONS = frozenset(
    {
        "notifications/cancelled", "notifications/progress", "notifications/message",
        "notifications/resources/updated", "notifications/resources/list_changed",
        "notifications/tools/list_changed", "notifications/prompts/list_changed",
        "notifications/subscriptions/acknowledged", "notifications/tasks",
    }
)  # fmt: skip
# Methods of the legacy era that this one removed; they are unknown here.
REMOVED = frozenset(
    {
        "initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list",
        "tasks/result", "notifications/initialized", "notifications/roots/list_changed",
        "notifications/elicitation/complete",
    }
)  # fmt: skip
# Complete results that carry ttlMs and cacheScope (2026-07-28 server/utilities/caching).
CACHED_RESULTS = frozenset(
    {
        "server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list",
        "resources/read",
    }
)  # fmt: skip


class Envelope(msgspec.Struct, frozen=True):
    """What a request says about its sender. ``client_info`` is for people only: nothing is decided on it."""

    version: str
    capabilities: dict[str, Any]
    client_info: dict[str, Any] | None
    log_level: str | None


def envelope_of(message: Message) -> Envelope:
    """Read the envelope of a request. Raises CallerError (-32602, status 400) when it is missing or misshapen.

    The version is not judged here: header and body are compared first (see ``check_version``).
    """
    meta = message.params.get("_meta") if message.params is not None else None
    if type(meta) is not dict:
        raise _misshapen("The request has no _meta with the protocol version and the client's capabilities.")
    version = meta.get(VERSION_KEY)
    if type(version) is not str:
        raise _misshapen(f"_meta lacks {VERSION_KEY} as a string.")
    capabilities = meta.get(CAPABILITIES_KEY)
    if type(capabilities) is not dict:
        raise _misshapen(f"_meta lacks {CAPABILITIES_KEY} as an object.")
    client_info = meta.get(CLIENT_INFO_KEY)
    if client_info is not None and type(client_info) is not dict:
        raise _misshapen(f"{CLIENT_INFO_KEY} is not an object.")
    log_level = meta.get(LOG_LEVEL_KEY)
    if log_level is not None and type(log_level) is not str:
        raise _misshapen(f"{LOG_LEVEL_KEY} is not a string.")
    return Envelope(version, capabilities, client_info, log_level)


def is_supported(version: str) -> bool:
    """True for the revisions of this era that Doorward speaks."""
    return version in codes.MODERN_VERSIONS


def unsupported_data(version: str) -> dict[str, Any]:
    """The ``error.data`` of -32022: what is supported and what was asked for."""
    return {"supported": list(codes.MODERN_VERSIONS), "requested": version[:64]}


def check_version(version: str) -> None:
    """Raise CallerError (-32022, status 400) for a revision that Doorward does not speak in this era."""
    if not is_supported(version):
        raise CallerError(
            "unsupported-version",
            "Unsupported protocol version.",
            status=400,
            rpc_code=codes.UNSUPPORTED_VERSION,
            data=unsupported_data(version),
        )


def _misshapen(tell: str) -> CallerError:
    return CallerError("envelope", tell, status=400, rpc_code=codes.INVALID_PARAMS)
