"""The era of initialize and sessions, 2024-11-05 to 2025-11-25, and how a message is told from the modern era."""

from __future__ import annotations

from doorward.base.errors import CallerError
from doorward.protocol import codes
from doorward.protocol.message import Era, Message
from doorward.protocol.modern import VERSION_KEY

LATEST = codes.LEGACY_VERSIONS[-1]
ASSUMED = "2025-03-26"  # 2025-11-25 basic/transports: what a session without a version header speaks

CLIENT_REQUESTS = frozenset(
    {
        "initialize", "ping", "tools/list", "tools/call", "prompts/list", "prompts/get", "resources/list",
        "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe",
        "completion/complete", "logging/setLevel", "tasks/get", "tasks/result", "tasks/list", "tasks/cancel",
    }
)  # fmt: skip
CLIENT_NOTIFICATIONS = frozenset(
    {
        "notifications/initialized", "notifications/cancelled", "notifications/progress",
        "notifications/roots/list_changed", "notifications/tasks/status",
    }
)  # fmt: skip
SERVER_REQUESTS = frozenset(
    {
        "ping", "sampling/createMessage", "elicitation/create", "roots/list",
        "tasks/get", "tasks/result", "tasks/list", "tasks/cancel",
    }
)  # fmt: skip
SERVER_NOTIFICATIONS = frozenset(
    {
        "notifications/cancelled", "notifications/progress", "notifications/message",
        "notifications/resources/updated", "notifications/resources/list_changed",
        "notifications/tools/list_changed", "notifications/prompts/list_changed",
        "notifications/tasks/status", "notifications/elicitation/complete",
    }
)  # fmt: skip


def classify(version_field: str | None, message: Message) -> Era:
    """Tell the era of a message from its ``MCP-Protocol-Version`` header field and its body.

    A modern or unknown version never falls to the legacy era. A modern body under a legacy or absent header is
    refused: whoever decides on headers would otherwise decide on another request than the one that runs.
    Raises CallerError (-32020, status 400). Whether a legacy message needs a session is judged elsewhere.
    """
    if is_modern(version_field):
        return "modern"
    params = message.params
    if params is not None:
        meta = params.get("_meta")
        if type(meta) is dict and VERSION_KEY in meta:
            raise CallerError(
                "era-mismatch",
                "The MCP-Protocol-Version header does not match the protocol version in _meta.",
                status=400,
                rpc_code=codes.HEADER_MISMATCH,
            )
    return "legacy"


def is_modern(version_field: str | None) -> bool:
    """True where the header alone says that a message is not of this era; unknown versions never fall to it."""
    return version_field is not None and version_field not in codes.LEGACY_VERSIONS


def is_supported(version: str) -> bool:
    """True for the revisions of this era."""
    return version in codes.LEGACY_VERSIONS


def negotiate(requested: object) -> str:
    """The version that an ``initialize`` is answered with: the one asked for, or the latest of this era."""
    return requested if isinstance(requested, str) and requested in codes.LEGACY_VERSIONS else LATEST
