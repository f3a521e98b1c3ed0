"""One JSON-RPC 2.0 message as a value (JSON-RPC 2.0 §4-5; MCP basic/index of both eras)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Era = Literal["legacy", "modern"]
MessageId = str | int


class Message(msgspec.Struct, gc=False):
    """A parsed message. ``value`` is the whole object; ``params`` is the very dict inside it, or None.

    It holds plain JSON only, which has no cycles: the collector need not look at it.
    """

    kind: Literal["request", "notification", "response"]
    method: str  # "" for responses
    id: MessageId | None  # None for notifications, and for error responses that name no request
    params: dict[str, Any] | None
    value: dict[str, Any]
    params_fields: tuple[
        tuple[str, str], ...
    ] = ()  # Mcp-Param-* header fields that came with it and nobody declared

    @property
    def is_error(self) -> bool:
        """True for a response that carries ``error``."""
        return "error" in self.value
