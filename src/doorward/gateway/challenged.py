"""A server that refused what Doorward presented to it (RFC 6750 section 3)."""

from __future__ import annotations

from doorward.base.errors import UpstreamError


class UpstreamRefusedError(UpstreamError):
    """The server refused what Doorward presented; ``challenge`` is its ``WWW-Authenticate``, text of a peer."""

    def __init__(self, status: int, challenge: str) -> None:
        super().__init__(
            "upstream-refused", "The protected server refused the gateway's credential.", str(status)
        )
        self.status = status
        self.challenge = challenge
