"""Speak to a server of the oldest transport, HTTP with SSE (2024-11-05 basic/transports; CF-25).

A GET opens one event stream for the whole session; its first event, ``endpoint``, says where messages are to be posted, and
everything that the server says comes on the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.gateway.desk import DeafSink
from doorward.gateway.ports import Cancel, HttpHandle, Sink
from doorward.protocol.envelope import notification, parse_message
from doorward.protocol.http_head import ResponseHead
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message, MessageId
from doorward.protocol.sse import SseReader

if TYPE_CHECKING:
    from doorward.gateway.http_link import HttpUpstream

_log = logging.getLogger("doorward.upstream")
_ENDPOINT_CHARS = 2_048
_ENDPOINT_SECONDS = 10.0
_WAITING_COUNT = 256  # messages that wait for the endpoint


def _nothing() -> None:
    """Cancel what is over."""


def endpoint_target(host: str, target: str, told: str) -> str | None:
    """The path and query to post to; None unless ``told`` is on exactly ``host`` (name and port), whatever it tries.

    ``host`` is as the settings' URL has it, ``target`` the path and query of the stream.
    """
    if not 0 < len(told) <= _ENDPOINT_CHARS or not all("!" <= letter <= "~" for letter in told):
        return None
    try:
        parts = urlsplit(urljoin(f"http://{host}{target}", told))
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or parts.netloc.lower() != host.lower() or "\\" in told:
        return None
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class SseLink:
    """One session with such a server; see ``gateway.ports.Link``."""

    def __init__(self, upstream: HttpUpstream) -> None:
        self._upstream = upstream
        self._target = ""
        self._handle: HttpHandle | None = None
        self._waiting: list[tuple[Message, Sink]] = []
        self._calls: dict[MessageId, tuple[Sink, object]] = {}  # id -> sink, progress token
        self._listener: Sink | None = None
        self._cancel_timer: Cancel = _nothing
        self._is_open = False
        self.is_over = False

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if self.is_over or len(self._waiting) >= _WAITING_COUNT:
            sink.failed(UpstreamError("upstream-session-gone", "The protected server ended the session."))
            return _nothing
        if self._target:
            self._send(message, sink)
        else:
            self._waiting.append((message, sink))
        if not self._is_open:
            self._is_open = True
            self._open()
        return lambda: self._forget(message, sink)

    def _forget(self, message: Message, sink: Sink) -> None:
        if message.id is not None and self._calls.get(message.id, (None, None))[0] is sink:
            del self._calls[message.id]
            params = {"requestId": message.id, "reason": "Nobody waits for it any more."}
            if not self.is_over and message.method != "initialize":
                self._send(notification("notifications/cancelled", params), DeafSink())
        self._waiting = [one for one in self._waiting if one[1] is not sink]

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``. The stream is open already: what belongs to no call goes here from now on."""
        self._listener = sink

        def cancel() -> None:
            if self._listener is sink:
                self._listener = None

        return cancel

    def close(self) -> None:
        """See ``gateway.ports.Link``. The end of the stream is the end of the session."""
        if not self.is_over:
            self.is_over = True
            self._cancel_timer()
            if self._handle is not None:
                self._handle.cancel()

    # -- the stream ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        late = UpstreamError("upstream-timeout", "The protected server did not say where to post in time.")
        self._cancel_timer = self._upstream.later(_ENDPOINT_SECONDS, lambda: self.lost(late))
        stream = _Stream(self)
        self._handle = self._upstream.origin.send(self._upstream.get_prefix + b"\r\n", b"", stream, hold=True)

    def at(self, told: str) -> None:
        """The server says where to post."""
        if self._target:
            return None
        target = endpoint_target(self._upstream.host, self._upstream.target, told)
        if target is None:
            return self.lost(
                UpstreamError("upstream-endpoint", "The protected server wants its messages elsewhere.")
            )
        self._cancel_timer()
        self._target = target
        waiting, self._waiting = self._waiting, []
        for message, sink in waiting:
            self._send(message, sink)
        return None

    def _send(self, message: Message, sink: Sink) -> None:
        if message.kind == "request" and message.id is not None:
            meta = (message.params or {}).get("_meta")
            token = meta.get("progressToken") if isinstance(meta, dict) else None
            self._calls[message.id] = (sink, token)
        body = encode_json(message.value)
        prefix = self._upstream.prefix_to(self._target)
        head = b"%bContent-Length: %d\r\n\r\n" % (prefix, len(body))
        self._upstream.origin.send(head, body, _Posted(self, message, sink))

    def refused(self, message: Message, sink: Sink, problem: UpstreamError) -> None:
        """A message was not taken."""
        if message.id is None or self._calls.pop(message.id, None) is not None:
            sink.failed(problem)

    def heard(self, data: str) -> None:
        """One message of the server's."""
        try:
            message = parse_message(data.encode())
        except CallerError as error:
            return self.lost(
                UpstreamError(
                    "upstream-malformed", "The protected server sent a malformed message.", error.code
                )
            )
        if message.kind == "response":
            call = self._calls.pop(message.id, None) if message.id is not None else None
            if call is not None:
                call[0].message(message)
                call[0].done()
            return None
        sink = self._whose(message)
        if sink is not None:
            sink.message(message)
        return None

    def _whose(self, message: Message) -> Sink | None:
        """Whom a message belongs to: progress to its call, the rest to the one call there is, else to who listens."""
        if message.method == "notifications/progress":
            token = (message.params or {}).get("progressToken")
            return next(
                (sink for sink, own in self._calls.values() if own is not None and own == token), None
            )
        is_change = message.method.endswith(("list_changed", "/updated"))
        if len(self._calls) == 1 and not (is_change and self._listener is not None):
            return next(iter(self._calls.values()))[0]
        if self._listener is not None or not self._calls:
            return self._listener
        return list(self._calls.values())[-1][0]

    @property
    def slow(self) -> Sink | None:
        """A client that cannot take more, if there is one."""
        sinks = [sink for sink, _ in self._calls.values()]
        return next((sink for sink in (*sinks, self._listener) if sink is not None and sink.is_paused), None)

    def pace(self) -> None:
        """Read no faster than the slowest client takes."""
        slow = self.slow
        if slow is not None and self._handle is not None and not self.is_over:
            self._handle.pause()
            slow.on_writable = self._handle.resume

    def lost(self, problem: UpstreamError) -> None:
        """The stream is over: so is the session, and every call in it."""
        if self.is_over:
            return
        self.close()
        if not self._target:
            self._upstream.speaks_sse = False  # ask again, over the newer transport first
        _log.info("an event stream ended", extra={"server": self._upstream.name, "code": problem.code})
        calls, self._calls = self._calls, {}
        waiting, self._waiting = self._waiting, []
        for sink in [*(sink for sink, _ in calls.values()), *(sink for _, sink in waiting)]:
            sink.failed(problem)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.failed(problem)


class _Stream:
    """The HTTP sink for the one stream."""

    def __init__(self, link: SseLink) -> None:
        self._link = link
        self._reader = SseReader(limits.EVENT_BYTES)
        self._is_fine = False

    def on_head(self, head: ResponseHead) -> None:
        kind = head.fields.get("content-type", "").split(";", 1)[0].strip().lower()
        self._is_fine = head.status == 200 and kind == "text/event-stream"
        if not self._is_fine:
            tell = f"The protected server answered with HTTP status {head.status}."
            self._link.lost(UpstreamError("upstream-status", tell))

    def on_data(self, part: bytes) -> None:
        if not self._is_fine or self._link.is_over:
            return
        try:
            events = self._reader.feed(part)
        except UpstreamError as error:
            return self._link.lost(error)
        for event in events:
            if event.event == "endpoint":
                self._link.at(event.data)
            elif event.data and event.event in ("", "message"):
                self._link.heard(event.data)
        return self._link.pace()

    def on_end(self) -> None:
        self._link.lost(UpstreamError("upstream-session-gone", "The protected server ended the session."))

    def on_fail(self, error: UpstreamError) -> None:
        self._link.lost(error)


class _Posted:
    """The HTTP sink for one posted message: only whether it was taken matters here."""

    def __init__(self, link: SseLink, message: Message, sink: Sink) -> None:
        self._link = link
        self._message = message
        self._sink = sink
        self._status = 0

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def on_data(self, part: bytes) -> None:
        """Nothing in the body counts."""

    def on_end(self) -> None:
        if self._status not in (200, 202, 204):
            tell = f"The protected server answered with HTTP status {self._status}."
            self._link.refused(self._message, self._sink, UpstreamError("upstream-status", tell))
        elif self._message.kind != "request":
            self._sink.done()

    def on_fail(self, error: UpstreamError) -> None:
        self._link.refused(self._message, self._sink, error)


class Fallback:
    """The sink for a handshake that may find a server of the oldest transport; ``fall_back`` says it again over that."""

    def __init__(self, sink: Sink, fall_back: Callable[[Sink], object]) -> None:
        self._sink = sink
        self._fall_back = fall_back

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
        if error.code == "upstream-status" and any(f"status {one}." in error.tell for one in (400, 404, 405)):
            self._fall_back(self._sink)
        else:
            self._sink.failed(error)
