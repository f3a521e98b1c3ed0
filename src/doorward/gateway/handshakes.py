"""Which protocol versions a server may answer a handshake with (2025-11-25 basic/lifecycle, version negotiation)."""

from __future__ import annotations

from typing import Any

from doorward.base.errors import UpstreamError
from doorward.protocol import codes


def speaks_known(handshake: dict[str, Any]) -> bool:
    """Whether a server's answer to initialize names a version that we speak. It goes into header fields later."""
    return handshake.get("protocolVersion") in codes.LEGACY_VERSIONS


def unknown_version() -> UpstreamError:
    """The error for a handshake in a version that nobody here speaks."""
    return UpstreamError(
        "upstream-version", "The protected server chose a protocol version that is not known here."
    )
