"""Reach a server in the era that it speaks: pass through where client and server share one, translate where they do not.

The cell of a call is ``CLIENT-SERVER`` by era: cell A is ``legacy-modern``, cell B is ``modern-legacy``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.base.errors import UpstreamError
from doorward.gateway.cell_a import LegacyClientLink
from doorward.gateway.crossings import Crossings
from doorward.gateway.parks import ParkSeal
from doorward.gateway.ports import Cancel, Later, Link, Sink, Upstream
from doorward.protocol.codes import MODERN_VERSIONS
from doorward.protocol.message import Era, Message

Ready = Callable[[Link | UpstreamError], None]
WRONG_ERA = "upstream-era"  # the code with which an upstream says that it speaks the other era only


class BridgedUpstream:
    """One protected server for clients of both eras; see ``gateway.ports.Upstream``.

    The upstream inside finds out which era the server speaks (CF-08) and refuses the other one with ``upstream-era``. A
    server of both eras is always spoken to in the client's own.
    """

    def __init__(self, inner: Upstream, name: str, seal: ParkSeal, later: Later) -> None:
        """``seal`` is for calls that wait for a modern client's answer to a legacy server's question."""
        self._inner = inner
        self.name = name
        self.is_modern_only = False  # until it fails as one
        self._is_legacy_only = False
        self._crossings = Crossings(inner, name, seal, later)

    def link(
        self, principal: str, era: Era, version: str, capabilities: dict[str, Any], ready: Ready
    ) -> None:
        """See ``gateway.ports.Upstream``."""
        if era == "legacy":
            return self._link_legacy(principal, version, capabilities, ready)
        return self._link_modern(principal, version, capabilities, ready)

    def _link_legacy(self, principal: str, version: str, capabilities: dict[str, Any], ready: Ready) -> None:
        def found(link: Link | UpstreamError) -> None:
            if not isinstance(link, UpstreamError):
                ready(SessionLink(self, principal, capabilities, link))
            elif link.code == WRONG_ERA:
                self.bridge_legacy(principal, capabilities, ready)
            else:
                ready(link)

        if self.is_modern_only:
            return self.bridge_legacy(principal, capabilities, ready)
        return self._inner.link(principal, "legacy", version, capabilities, found)

    def bridge_legacy(self, principal: str, capabilities: dict[str, Any], ready: Ready) -> None:
        """Cell A: a link for a legacy client over a modern one."""

        def found(link: Link | UpstreamError) -> None:
            self.is_modern_only = not isinstance(link, UpstreamError)
            if not isinstance(link, UpstreamError):
                link = LegacyClientLink(link, self.name, capabilities)
            ready(link)

        self._inner.link(principal, "modern", MODERN_VERSIONS[-1], capabilities, found)

    def _link_modern(self, principal: str, version: str, capabilities: dict[str, Any], ready: Ready) -> None:
        def found(link: Link | UpstreamError) -> None:
            if not isinstance(link, UpstreamError) or link.code != WRONG_ERA:
                return ready(link)
            self._is_legacy_only = True
            return self._crossings.find(principal, capabilities, crossed)

        def crossed(link: Link | UpstreamError) -> None:
            self._is_legacy_only = not isinstance(link, UpstreamError)
            ready(link)

        if self._is_legacy_only:
            return self._crossings.find(principal, capabilities, crossed)
        return self._inner.link(principal, "modern", version, capabilities, found)

    def close(self) -> None:
        """End what is open at the server on behalf of modern clients."""
        self._crossings.close()


class SessionLink:
    """A legacy client's link whose server has not said yet which era it speaks: the handshake finds out."""

    def __init__(
        self, upstream: BridgedUpstream, principal: str, capabilities: dict[str, Any], inner: Link
    ) -> None:
        self._upstream = upstream
        self._principal = principal
        self._capabilities = capabilities
        self._inner = inner
        self._is_closed = False

    @property
    def cell(self) -> str:
        """Which way calls take from here; "" where nothing is translated."""
        return str(getattr(self._inner, "cell", ""))

    def negotiated(self, version: str) -> None:
        """The server agreed to this version."""
        told = getattr(self._inner, "negotiated", None)
        if told is not None:
            told(version)

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if message.method == "initialize" and message.kind == "request" and not self.cell:
            return self._inner.post(message, _Trial(self, message, sink))
        return self._inner.post(message, sink)

    def cross(self, message: Message, sink: Sink) -> None:
        """The server speaks the other era only: say the handshake again, over the bridge."""
        self._inner.close()

        def found(link: Link | UpstreamError) -> None:
            if isinstance(link, UpstreamError):
                return sink.failed(link)
            self._inner = link
            if self._is_closed:
                return link.close()
            link.post(message, sink)
            return None

        self._upstream.bridge_legacy(self._principal, self._capabilities, found)

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        return self._inner.listen(last_event_id, sink)

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        self._is_closed = True
        self._inner.close()


class _Trial:
    """The sink for a handshake that may find a server of the other era."""

    def __init__(self, link: SessionLink, message: Message, sink: Sink) -> None:
        self._link = link
        self._message = message
        self._sink = sink

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return self._sink.on_writable

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        self._sink.on_writable = wake

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._sink.is_paused

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``."""
        self._sink.streaming(retry_ms, event_id)

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        self._sink.message(message, event_id, status)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        self._sink.done()

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if error.code == WRONG_ERA:
            return self._link.cross(self._message, self._sink)
        return self._sink.failed(error)
