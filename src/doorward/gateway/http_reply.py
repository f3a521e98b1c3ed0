"""One POST or GET at an upstream: its HTTP response, read strictly, becomes messages (Streamable HTTP, both eras)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.gateway.challenged import UpstreamRefusedError
from doorward.gateway.ports import HttpHandle, Sink
from doorward.protocol import codes
from doorward.protocol.envelope import parse_message
from doorward.protocol.headers import media_type
from doorward.protocol.http_head import ResponseHead
from doorward.protocol.message import Era, Message
from doorward.protocol.sse import SseReader, only_message

if TYPE_CHECKING:
    from doorward.gateway.http_link import HttpLink

_log = logging.getLogger("doorward.upstream")
_AGAIN_SECONDS = 1.0
_MODERN_ERRORS = frozenset({codes.HEADER_MISMATCH, codes.MISSING_CAPABILITY, codes.UNSUPPORTED_VERSION})


class HttpExchange:
    """One POST or GET on an upstream, as an HTTP sink that feeds a message sink."""

    __slots__ = (
        "_body",
        "_challenge",
        "_finished",
        "_link",
        "_message",
        "_reader",
        "_sink",
        "_status",
        "_streams",
        "handle",
    )

    def __init__(self, link: HttpLink, message: Message | None, sink: Sink) -> None:
        self._link = link
        self._message = message
        self._sink = sink
        self._streams = False  # the response is an event stream
        self._reader: SseReader | None = None  # made with its first bytes: most streams stay silent
        self._body: list[bytes] | None = None
        self._status = 0
        self._challenge = ""
        self._finished = False
        self.handle: HttpHandle | None = None

    def cancel(self) -> None:
        """Drop the exchange; the sink hears nothing more."""
        if not self._finished:
            self._finished = True
            if self.handle is not None:
                self.handle.cancel()

    def withdraw(self) -> None:
        """Drop the exchange, and tell the server that it may stop."""
        if not self._finished:
            self.cancel()
            if self._message is not None:
                self._link.withdrawn(self._message.id)
                if not self._status:  # on its way, perhaps: the word may overtake it on another connection
                    self._link.withdrawn(self._message.id, _AGAIN_SECONDS)

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """See ``gateway.ports.HttpSink``."""
        asked = self._message
        message: bytes | None = None
        if head.status == 200 and asked is not None and asked.kind == "request":
            if head.is_json:
                message = body
            elif head.is_stream:
                message = only_message(body, limits.EVENT_BYTES)
        if message is None:
            self.on_head(head)
            self.on_data(body)
            return self.on_end()
        if self._finished:
            return None
        self._status = head.status
        self._link.saw(asked, head)
        if head.is_stream:
            self._sink.streaming()
        self._hand_on(message, "")
        if not self._finished:
            self._finished = True
            self._sink.done()
        return None

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status
        kind = media_type(head.fields.get("content-type", ""))
        if head.status == 200:
            self._link.saw(self._message, head)
            if kind == "text/event-stream":
                self._streams = True
                self._sink.streaming()
            elif kind != "application/json":
                self._fail(
                    "upstream-media-type", "The protected server answered with an unknown media type.", kind
                )
        elif head.status in (401, 403) and "www-authenticate" not in head.repeated:
            self._challenge = head.fields.get("www-authenticate", "")

    def on_data(self, part: bytes) -> None:
        if self._finished:
            return
        if not self._streams:
            if self._body is None:
                self._body = [part]
            else:
                self._body.append(part)
            return
        try:
            if self._reader is None:
                self._reader = SseReader(limits.EVENT_BYTES)
            events = self._reader.feed(part)
        except UpstreamError as error:
            self._fail(error.code, error.tell, error.detail)
            return
        for event in events:
            if self._is_over():
                return
            if not event.data:
                self._sink.streaming(event.retry, event.id or "")
            elif event.event in ("", "message"):
                self._hand_on(event.data.encode(), event.id or "")
        self._respect_pace()

    def _respect_pace(self) -> None:
        if self._sink.is_paused and self.handle is not None and not self._finished:
            self.handle.pause()
            self._sink.on_writable = self.handle.resume

    def on_end(self) -> None:
        if self._finished:
            return
        status = self._status
        if self._streams:
            return self._done()
        if status == 200 and self._message is not None and self._message.kind == "request":
            self._hand_on(b"".join(self._body or ()), "")
            return None if self._is_over() else self._done()
        if status in (200, 202, 204):
            return self._done()
        return self._refused(status)

    def on_fail(self, error: UpstreamError) -> None:
        if not self._finished:
            self._finished = True
            if error.code == "upstream-timeout" and self._message is not None:
                self._link.withdrawn(self._message.id)  # CF-12
            self._sink.failed(error)

    def _is_over(self) -> bool:
        return self._finished

    def _done(self) -> None:
        self._finished = True
        self._sink.done()

    def _fail(self, code: str, tell: str, detail: str = "") -> None:
        if not self._finished:
            self.cancel()
            self._sink.failed(UpstreamError(code, tell, detail))

    def _hand_on(self, body: bytes, event_id: str, status: int = 200) -> None:
        try:
            message = parse_message(body)
        except CallerError as error:
            return self._fail(
                "upstream-malformed", "The protected server sent a malformed message.", error.code
            )
        if message.kind == "response" and not self._answers(message):
            return self._fail("upstream-wrong-id", "The protected server answered a question nobody asked.")
        return self._tell(message, event_id, status)

    def _tell(self, message: Message, event_id: str, status: int) -> None:
        if message.kind == "request" and self.handle is not None:
            # SECURITY: a caller who leaves questions open must not keep others from this server
            # (tests/attacks/test_parked.py, tests/wire/test_http_pool.py).
            self.handle.linger()
        try:
            self._sink.message(message, event_id, status)
        except Exception as error:  # noqa: BLE001 - whatever a server found out about us costs this exchange only
            _log.error("a server's message could not be handled", exc_info=error)
            self._fail("upstream-unusable", "The protected server sent a message that cannot be passed on.")

    def _answers(self, message: Message) -> bool:
        asked = self._message
        if asked is None:
            return True  # a GET stream may carry replayed responses; the session checks them
        if message.id == asked.id and type(message.id) is type(asked.id):
            return True
        if message.id is None and message.is_error:
            message.id = message.value["id"] = asked.id  # errors raised before the id was read
            return True
        return False

    def _refused(self, status: int) -> None:
        """An HTTP error: a JSON-RPC error in its body is the server's own answer; the rest is an upstream failure."""
        asked = self._message
        if status == 404 and self._link.session_id:
            self._link.lost()
            return self._fail("upstream-session-gone", "The protected server ended the session.")
        if status in (400, 404) and asked is not None and asked.kind == "request" and self._body:
            try:
                message = parse_message(b"".join(self._body))
            except CallerError:
                message = None
            if message is not None and asked.method == "initialize" and is_modern_error(message):
                error = wrong_era("modern", codes.MODERN_VERSIONS)
                return self._fail(error.code, error.tell, error.detail)
            if not _is_own_error(message):
                self._link.doubt()
            if message is not None and message.is_error and message.id in (None, asked.id):
                message.id = message.value["id"] = asked.id
                self._tell(message, "", status)
                return None if self._is_over() else self._done()
        elif status in (400, 404, 405, 406):
            self._link.doubt()
        if status in (401, 403):
            self.cancel()
            return self._sink.failed(UpstreamRefusedError(status, self._challenge))
        return self._fail("upstream-status", f"The protected server answered with HTTP status {status}.")


def is_modern_error(message: Message) -> bool:
    """True for an error that only servers of the 2026 era give (CF-08)."""
    error = message.value.get("error")
    return isinstance(error, dict) and error.get("code") in _MODERN_ERRORS


def _is_own_error(message: Message | None) -> bool:
    """True for an error that a server gives to a message that it has understood."""
    error = message.value.get("error") if message is not None else None
    return isinstance(error, dict) and error.get("code") != codes.INVALID_REQUEST


def wrong_era(speaks: Era, versions: tuple[str, ...]) -> UpstreamError:
    """The error for a server of the other era: nothing translates between the eras."""
    names = ", ".join(versions)
    return UpstreamError(
        "upstream-era",
        f"The protected server speaks only the {'handshake' if speaks == 'legacy' else 'stateless'} revisions of MCP ({names}).",
        ",".join(versions),
    )
