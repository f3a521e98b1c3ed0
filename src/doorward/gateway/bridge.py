"""Reach a server in the era that it speaks: pass through where client and server share one, translate where they do not.

The cell of a call is ``CLIENT-SERVER`` by era: cell A is ``legacy-modern``, cell B is ``modern-legacy``. A server of both eras
is always spoken to in the client's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.base.errors import UpstreamError
from doorward.gateway.cell_a import ModernServers
from doorward.gateway.crossings import Crossings
from doorward.gateway.parks import ParkBook
from doorward.gateway.ports import Later, Link, Upstream
from doorward.protocol.message import Era

Ready = Callable[[Link | UpstreamError], None]
WRONG_ERA = "upstream-era"  # the code with which an upstream says that it speaks the other era only

_SAME_ERA = {"legacy": "legacy-legacy", "modern": "modern-modern"}


def cell_of(link: Link | None, era: Era) -> str:
    """The cell of a call; "" where no server was reached, several were, or its era is not known yet."""
    if link is None:
        return ""
    found: str = getattr(link, "cell", _SAME_ERA[era])
    return found


class BridgedUpstream:
    """One protected server for clients of both eras; see ``gateway.ports.Upstream``.

    The upstream inside finds out which era the server speaks (CF-08) and refuses the other one with ``upstream-era``.
    """

    def __init__(self, inner: Upstream, name: str, book: ParkBook, later: Later) -> None:
        """``book`` is for calls that wait for a modern client's answer to a legacy server's question."""
        self._inner = inner
        self._modern_servers = ModernServers(inner, later)
        self._crossings = Crossings(inner, book, later, self._failed)
        self._is_legacy_only = False  # until it fails as one

    def link(
        self, principal: str, era: Era, version: str, capabilities: dict[str, Any], ready: Ready
    ) -> None:
        """See ``gateway.ports.Upstream``."""
        if era == "legacy":
            return self._link_legacy(principal, version, capabilities, ready)
        return self._link_modern(principal, version, capabilities, ready)

    def _link_legacy(self, principal: str, version: str, capabilities: dict[str, Any], ready: Ready) -> None:
        self._modern_servers.link(principal, version, capabilities, ready)

    def _link_modern(self, principal: str, version: str, capabilities: dict[str, Any], ready: Ready) -> None:
        if self._is_legacy_only and (known := self._crossings.known(principal, capabilities)) is not None:
            return ready(known)

        def found(link: Link | UpstreamError) -> None:
            if not isinstance(link, UpstreamError) or link.code != WRONG_ERA:
                return ready(link)
            return self._crossings.find(principal, capabilities, crossed)

        def crossed(link: Link | UpstreamError) -> None:
            self._is_legacy_only = not isinstance(link, UpstreamError)
            ready(link)

        if self._is_legacy_only:
            return self._crossings.find(principal, capabilities, crossed)
        return self._inner.link(principal, "modern", version, capabilities, found)

    @property
    def crossed_count(self) -> int:
        """Sessions at the server that modern clients share."""
        return len(self._crossings)

    @property
    def parked_count(self) -> int:
        """Calls at the server that wait for their callers."""
        return self._crossings.parked_count

    def _failed(self, _: UpstreamError) -> None:
        """A handshake with a legacy server failed: the next request probes again."""
        self._is_legacy_only = False

    def close(self) -> None:
        """End what is open at the server on behalf of modern clients."""
        self._crossings.close()
