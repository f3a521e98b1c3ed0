"""One exchange on a client connection: the responder that the gateway answers through.

It is an object of its own so that a late call, after the client has gone, can never reach the next exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from doorward.controls.control import Head
from doorward.gateway.ports import Reply
from doorward.protocol.chunks import LAST_CHUNK

if TYPE_CHECKING:
    from doorward.adapters.http_in import HttpFace

_OPEN: Final = 0
_STREAMING: Final = 1
_OVER: Final = 2


@lru_cache(8)
def _bare(is_head: bool, minor: int, keep_alive: bool) -> Head:  # noqa: FBT001
    """The little of a head that the rest of a stream depends on, in place of all that its client sent."""
    head = Head(verb="HEAD" if is_head else "", path="", query="", fields={}, repeated=frozenset())
    head.minor, head.keep_alive = minor, keep_alive
    return head


class Turn:
    """Implements ``gateway.ports.Responder``. Calls out of order, or after the end, do nothing."""

    __slots__ = ("_face", "_head", "_state", "address", "on_gone", "on_writable")

    def __init__(self, face: HttpFace, head: Head, address: str) -> None:
        self._face = face
        self._head = head
        self._state = _OPEN
        self.address = address
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    @property
    def is_paused(self) -> bool:
        """True while too many bytes wait for the client."""
        return self._face.paused

    def answer(self, reply: Reply) -> None:
        """Send a whole answer."""
        if self._state != _OPEN:
            return
        self._state = _OVER
        self.on_gone = self.on_writable = None
        face = self._face
        face.reply(self._head, reply, keep=True)
        face.over(self)

    def start(self, status: int, fields: bytes) -> None:
        """Begin a streamed answer."""
        if self._state != _OPEN:
            return
        self._state = _STREAMING
        head = self._head
        self._face.open_stream(head, status, fields)
        self._head = _bare(head.verb == "HEAD", head.minor, head.keep_alive)

    def write(self, part: bytes) -> None:
        """Send one part of a streamed answer."""
        if self._state != _STREAMING or not part or self._head.verb == "HEAD":
            return
        if self._head.minor:
            part = b"%x\r\n%b\r\n" % (len(part), part)
        self._face.send(part)

    def end(self) -> None:
        """Finish a streamed answer."""
        if self._state != _STREAMING:
            return
        self._finish()
        chunked = self._head.minor and self._head.verb != "HEAD"
        self._face.close_stream(self._head, LAST_CHUNK if chunked else b"")
        self._face.over(self)

    def abort(self) -> None:
        """Break the connection."""
        if self._state == _OVER:
            return
        self._state = _OVER
        self._face.abort()

    def lose(self) -> None:
        """The client has gone: tell the gateway, once."""
        if self._state == _OVER:
            return
        on_gone = self.on_gone
        self._finish()
        if on_gone is not None:
            on_gone()

    def _finish(self) -> None:
        """No callback any more; without them nothing is left for the cycle collector."""
        self._state = _OVER
        self.on_gone = None
        self.on_writable = None

    def drop(self) -> bool:
        """Take the exchange away from a gateway that failed; True if nothing was answered yet."""
        untouched = self._state == _OPEN
        self._state = _OVER
        return untouched
