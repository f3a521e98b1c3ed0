"""What the flow needs from outside, and what the outside may call: the gateway's ports.

Everything here is callback style on one event loop: no port waits, and none raises into its caller unless it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from doorward.base.errors import StoreError, UpstreamError
from doorward.controls.control import Head
from doorward.protocol.http_head import ResponseHead
from doorward.protocol.message import Era, Message


class Reply(msgspec.Struct, frozen=True):
    """A whole HTTP answer. ``fields`` are encoded header lines, each ending in CRLF, without framing fields."""

    status: int
    fields: bytes = b""
    body: bytes = b""
    close: bool = False  # close the connection after it: the peer's framing can no longer be trusted


class Responder(Protocol):
    """The client's end of one exchange. Exactly one of ``answer`` and ``start`` .. ``end`` is used, once."""

    address: str  # the peer's address without port
    on_gone: Callable[[], None] | None  # called once if the client goes away before the answer is complete
    on_writable: Callable[[], None] | None  # called when a paused stream may be written again

    @property
    def is_paused(self) -> bool:
        """True while more than ``limits.STREAM_BUFFER_BYTES`` wait for the client: stop reading the source."""

    def answer(self, reply: Reply) -> None:
        """Send a whole answer."""

    def start(self, status: int, fields: bytes) -> None:
        """Begin a streamed answer of unknown length."""

    def write(self, part: bytes) -> None:
        """Send one part of a streamed answer (one or more whole SSE events)."""

    def end(self) -> None:
        """Finish a streamed answer."""

    def abort(self) -> None:
        """Break the connection: the answer cannot be completed truthfully."""


class Front(Protocol):
    """What an HTTP face calls. One instance lives for the whole worker; its snapshot changes inside."""

    def head(self, head: Head, address: str) -> Reply | None:
        """Judge a request head before its body is read. ``head`` objects are shared by all requests with equal bytes;
        the front keeps its own verdicts on them. A reply refuses; None lets the face read the body."""

    def body(self, head: Head, body: bytes, responder: Responder) -> None:
        """Serve a request whose body (b"" when there is none) has arrived."""

    def broken(self, error: Exception, address: str) -> Reply:
        """Make the answer for a head or body that could not be parsed, and put it on record."""

    def body_limit(self, head: Head) -> int:
        """Bytes that the body of this request may have; more is 413."""


class HttpSink(Protocol):
    """Where an upstream's HTTP response goes. ``on_end`` or ``on_fail`` comes last, exactly once.

    A sink may also have ``on_whole(head, body)``: it takes the place of all other calls where the whole response came in
    one read, as most do. By then the connection serves others already.
    """

    def on_head(self, head: ResponseHead) -> None: ...

    def on_data(self, part: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fail(self, error: UpstreamError) -> None: ...


class HttpHandle(Protocol):
    """One HTTP exchange under way."""

    def cancel(self) -> None:
        """Drop it: the connection is closed, no callback follows."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def linger(self) -> None:
        """The response waits for a person: what comes after it must not wait for its place."""


class HttpOrigin(Protocol):
    """A pool of connections to exactly one upstream host and port."""

    def send(self, head: bytes, body: bytes, sink: HttpSink, *, hold: bool = False) -> HttpHandle:
        """Send one request. ``head`` is complete up to and including the blank line. ``hold`` marks a stream that may
        stay silent for long (no idle time-out). Connection errors reach ``sink.on_fail``."""


class Sink(Protocol):
    """Where what a server says about one posted message goes. ``done`` or ``failed`` comes last, exactly once."""

    on_writable: Callable[[], None] | None  # set by the link that paused its source; called when it may go on

    @property
    def is_paused(self) -> bool:
        """True while the client cannot take more: the link should stop reading its source."""

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """The server opened an event stream, or primed it with an event id or a retry time."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """One message: the response to the posted request, or a notification or request that belongs to it."""

    def done(self) -> None:
        """The server has nothing more to say here."""

    def failed(self, error: UpstreamError) -> None:
        """The server failed before it was done."""


Cancel = Callable[[], None]
Later = Callable[
    [float, Callable[[], None]], Cancel
]  # call this after so many seconds, unless cancelled before


def never(seconds: float, run: Callable[[], None]) -> Cancel:  # noqa: ARG001 - a ``Later`` for where nothing waits
    """Wait for ever."""
    return lambda: None


class Link(Protocol):
    """A relation with one server on behalf of one principal and one client session (legacy) or client (modern)."""

    def post(self, message: Message, sink: Sink) -> Cancel:
        """Send one message; requests keep the caller's id as the sink sees it. Cancel tells the server (era's own way)."""

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """Hear what the server says on its own (legacy GET stream), resuming after ``last_event_id`` where it can."""

    def close(self) -> None:
        """End the relation: session DELETE, or release of the process."""


class Upstream(Protocol):
    """One protected server."""

    def link(
        self,
        principal: str,
        era: Era,
        version: str,
        capabilities: dict[str, Any],
        ready: Callable[[Link | UpstreamError], None],
    ) -> None:
        """Find or make a link for (principal, era, version, capability set) and hand it to ``ready``, perhaps at once.

        A server of the other era gives ``UpstreamError("upstream-era", ...)``; one that cannot start or be reached
        in time gives another UpstreamError."""


class Journal(Protocol):
    """The ledger as the flow sees it."""

    def append(self, entry: bytes) -> int:
        """Buffer one record; its sequence number in this worker's log."""

    def when_synced(self, callback: Callable[[StoreError | None], None]) -> None:
        """Call back in the loop once everything appended so far is on disk."""
