"""The sessions that modern clients have at one legacy server: one for each principal and declaration, never shared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from doorward.base import limits
from doorward.base.errors import UpstreamError
from doorward.gateway.cell_b import ModernClientLink
from doorward.gateway.cell_b_call import Place
from doorward.gateway.parks import ParkBook
from doorward.gateway.ports import Later, Link, Sink, Upstream
from doorward.protocol.codes import LEGACY_VERSIONS
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message

Ready = Callable[[Link | UpstreamError], None]
_Key = tuple[str, bytes]  # a principal, and what it declares or the digest of that
_PLAIN_KEY_BYTES = 256
_LINKS_COUNT = 1_024  # of one server in one worker; an idle one gives way
_PER_PRINCIPAL_COUNT = 8


def _key(principal: str, capabilities: dict[str, Any]) -> _Key:
    declared = encode_json(capabilities) if capabilities else b""
    if len(declared) > _PLAIN_KEY_BYTES:
        declared = hashlib.sha256(declared).digest()
    return (principal, declared)


class Crossings:
    """Find or open such a session."""

    def __init__(
        self,
        inner: Upstream,
        book: ParkBook,
        later: Later,
        doubt: Callable[[UpstreamError], None],
    ) -> None:
        """``doubt`` hears of handshakes that failed: the server may speak another era by now."""
        self._doubt = doubt
        self._inner = inner
        self._book = book
        self._later = later
        self._links: dict[_Key, ModernClientLink] = {}
        self._waiting: dict[_Key, list[Ready]] = {}
        self._is_sweeping = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._links)

    @property
    def parked_count(self) -> int:
        """Calls in them that wait for their callers."""
        return sum(link.parked_count for link in self._links.values())

    def known(self, principal: str, capabilities: dict[str, Any]) -> ModernClientLink | None:
        """The session for a principal and what it declares, if there is one."""
        found = self._links.get(_key(principal, capabilities))
        return found if found is not None and not found.is_over else None

    def find(self, principal: str, capabilities: dict[str, Any], ready: Ready) -> None:
        """Hand the session for a principal and what it declares to ``ready``."""
        known = self.known(principal, capabilities)
        if known is not None:
            return ready(known)
        key = _key(principal, capabilities)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(ready)
        if len(waiting) == 1:
            if not self._make_room(principal):
                return self._tell(
                    key, UpstreamError("upstream-too-many", "Too many sessions at this server.")
                )
            self._inner.link(
                principal,
                "legacy",
                LEGACY_VERSIONS[-1],
                capabilities,
                lambda link: self._opened(key, capabilities, link),
            )
        return None

    def _opened(self, key: _Key, capabilities: dict[str, Any], link: Link | UpstreamError) -> None:
        if isinstance(link, UpstreamError):
            return self._tell(key, link)
        fresh = self._links[key] = ModernClientLink(
            link,
            capabilities,
            self._book,
            self._later,
            lambda message, sink, place: self._again(key[0], capabilities, message, sink, place),
            self._doubt,
        )
        if not self._is_sweeping:
            self._is_sweeping = True
            self._later(limits.CHILD_IDLE_SECONDS, self._sweep)
        return self._tell(key, fresh)

    def _tell(self, key: _Key, found: Link | UpstreamError) -> None:
        for ready in self._waiting.pop(key, []):
            ready(found)

    def _again(
        self, principal: str, capabilities: dict[str, Any], message: Message, sink: Sink, place: Place
    ) -> None:
        def found(link: Link | UpstreamError) -> None:
            if place.is_cancelled:
                return
            if isinstance(link, ModernClientLink):
                place.go(link.post_as(message, sink, is_second=True))
            elif isinstance(link, UpstreamError):
                sink.failed(link)

        self.find(principal, capabilities, found)

    def _make_room(self, principal: str) -> bool:
        """Whether one more fits: a principal's own idle sessions give way, then anybody's."""
        own = [key for key in self._links if key[0] == principal]
        for keys, most in ((own, _PER_PRINCIPAL_COUNT), (list(self._links), _LINKS_COUNT)):
            if len(keys) < most:
                continue
            idle = next((key for key in keys if self._links[key].is_idle), None)
            if idle is None:
                return False
            self._links.pop(idle).close()
        return True

    def _sweep(self) -> None:
        """End the sessions that nobody has used since the last round."""
        for key, link in list(self._links.items()):
            if link.is_over or (link.is_idle and not link.is_used):
                del self._links[key]
                link.close()
            link.is_used = False
        self._is_sweeping = bool(self._links)
        if self._links:
            self._later(limits.CHILD_IDLE_SECONDS, self._sweep)

    def close(self) -> None:
        """End all sessions."""
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
