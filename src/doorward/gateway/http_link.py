"""Speak MCP over Streamable HTTP to one upstream: requests written anew, replies parsed strictly (both eras).

Implements the client side of 2025-11-25 basic/transports and 2026-07-28 basic/transports/streamable-http. Nothing that a
caller sent in its head goes upstream: neither its token nor its Host, Origin, cookies or forwarding fields.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from doorward import __version__
from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.gateway.ports import Cancel, HttpHandle, HttpOrigin, Later, Link, Sink, never
from doorward.gateway.sse_link import Fallback, SseLink
from doorward.protocol import codes
from doorward.protocol.envelope import parse_message
from doorward.protocol.headers import modern_fields
from doorward.protocol.http_head import ResponseHead
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Era, Message
from doorward.protocol.sse import SseReader, only_message

_log = logging.getLogger("doorward.upstream")
_SESSION_ID_CHARACTERS = 512
_PROBE_SECONDS = 10.0  # a server that does not say within this which era it speaks is out of order
_MODERN_ERRORS = frozenset({codes.HEADER_MISMATCH, codes.MISSING_CAPABILITY, codes.UNSUPPORTED_VERSION})
_MODERN = codes.MODERN_VERSIONS[-1]
_AGENT = f"User-Agent: doorward/{__version__}\r\n".encode()


def _nothing() -> None:
    """Cancel what is over."""


@lru_cache(64)
def _media_type(field: str) -> str:
    """A Content-Type without its parameters; servers send the same few again and again."""
    return field.split(";", 1)[0].strip().lower()


class HttpExchange:
    """One POST or GET on an upstream, as an HTTP sink that feeds a message sink."""

    __slots__ = ("_body", "_finished", "_link", "_message", "_reader", "_sink", "_status", "handle")

    def __init__(self, link: HttpLink, message: Message | None, sink: Sink) -> None:
        self._link = link
        self._message = message
        self._sink = sink
        self._reader: SseReader | None = None
        self._body: list[bytes] = []
        self._status = 0
        self._finished = False
        self.handle: HttpHandle | None = None

    def cancel(self) -> None:
        """Drop the exchange; the sink hears nothing more."""
        if not self._finished:
            self._finished = True
            if self.handle is not None:
                self.handle.cancel()

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
        kind = _media_type(head.fields.get("content-type", ""))
        if head.status == 200:
            self._link.saw(self._message, head)
            if kind == "text/event-stream":
                self._reader = SseReader(limits.EVENT_BYTES)
                self._sink.streaming()
            elif kind != "application/json":
                self._fail(
                    "upstream-media-type", "The protected server answered with an unknown media type.", kind
                )

    def on_data(self, part: bytes) -> None:
        if self._finished:
            return
        if self._reader is None:
            self._body.append(part)
            return
        try:
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
        if self._reader is not None:
            return self._done()
        if status == 200 and self._message is not None and self._message.kind == "request":
            self._hand_on(b"".join(self._body), "")
            return None if self._is_over() else self._done()
        if status in (200, 202, 204):
            return self._done()
        return self._refused(status)

    def on_fail(self, error: UpstreamError) -> None:
        if not self._finished:
            self._finished = True
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
        try:
            self._sink.message(message, event_id, status)
        except Exception as error:  # noqa: BLE001 - as in _tell
            self._untold(error)
        return None

    def _tell(self, message: Message, event_id: str, status: int) -> None:
        try:
            self._sink.message(message, event_id, status)
        except Exception as error:  # noqa: BLE001 - whatever a server found out about us costs this exchange only
            self._untold(error)

    def _untold(self, error: Exception) -> None:
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
            if message is not None and asked.method == "initialize" and _is_modern_error(message):
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
            return self._fail(
                "upstream-refused", "The protected server refused the gateway's credential.", str(status)
            )
        return self._fail("upstream-status", f"The protected server answered with HTTP status {status}.")


class HttpLink:
    """One client session (legacy) or all clients of one kind (modern) towards one upstream."""

    def __init__(self, upstream: HttpUpstream, era: Era, version: str) -> None:
        self._upstream = upstream
        self._era = era
        self.version = version
        self.session_id = ""
        self._initialized = False
        self._prefix = b""
        self._sse: SseLink | None = None  # the server speaks the oldest transport only
        self.closed = False

    def saw(self, message: Message | None, head: ResponseHead) -> None:
        """Learn the upstream's session id from its answer to initialize (2025-11-25 basic/transports)."""
        if message is None or message.method != "initialize" or "mcp-session-id" in head.repeated:
            return
        offered = head.fields.get("mcp-session-id", "")
        if 0 < len(offered) <= _SESSION_ID_CHARACTERS and all("!" <= letter <= "~" for letter in offered):
            self.session_id = offered
            self._prefix = b""
            if self.closed:  # nobody waits for this session any more
                self._end_session()

    def negotiated(self, version: str) -> None:
        """The upstream answered initialize with this version: later requests carry it."""
        self.version = version
        self._initialized = True
        self._prefix = b""

    def lost(self) -> None:
        """The upstream does not know its session any more."""
        self.closed = True

    def doubt(self) -> None:
        """The upstream answered as no server of its era does: ask again which one it speaks (CF-08)."""
        if self._era == "modern":
            self._upstream.forget_era()

    def _legacy_prefix(self) -> bytes:
        if not self._prefix:
            lines = self._upstream.post_prefix
            if self._initialized:
                lines += f"MCP-Protocol-Version: {self.version}\r\n".encode()
            if self.session_id:
                lines += f"Mcp-Session-Id: {self.session_id}\r\n".encode()
            self._prefix = lines
        return self._prefix

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if self._sse is not None:
            return self._sse.post(message, sink)
        if message.method == "initialize" and message.kind == "request":
            if self._upstream.speaks_sse:
                return self._fall_back(message, sink)
            sink = Fallback(sink, lambda own: self._fall_back(message, own))
        body = encode_json(message.value)
        if self._era == "legacy":
            prefix = self._legacy_prefix()
        else:
            schema = self._upstream.schema_of(message)
            fields = modern_fields(message, self.version, schema)
            if message.params_fields:
                written = {name.lower() for name, _ in fields}
                fields += [(name, value) for name, value in message.params_fields if name not in written]
            prefix = self._upstream.post_prefix + b"".join(
                f"{name}: {value}\r\n".encode("latin-1") for name, value in fields
            )
        exchange = HttpExchange(self, message, sink)
        head = b"%bContent-Length: %d\r\n\r\n" % (prefix, len(body))
        hold = message.method == "subscriptions/listen"
        exchange.handle = self._upstream.origin.send(head, body, exchange, hold=hold)
        # A handshake goes on to its end: its answer names a session that has to be ended.
        return _nothing if message.method == "initialize" else exchange.cancel

    def _fall_back(self, message: Message, sink: Sink) -> Cancel:
        """Say the handshake over HTTP with SSE (CF-25); the next sessions begin there, until that fails."""
        self._sse = SseLink(self._upstream)
        self._upstream.speaks_sse = True
        return self._sse.post(message, sink)

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if self._sse is not None:
            return self._sse.listen(last_event_id, sink)
        lines = self._upstream.get_prefix + f"MCP-Protocol-Version: {self.version}\r\n".encode()
        if self.session_id:
            lines += f"Mcp-Session-Id: {self.session_id}\r\n".encode()
        if last_event_id and all(" " <= letter <= "ÿ" and letter != "\x7f" for letter in last_event_id):
            lines += b"Last-Event-ID: " + last_event_id.encode("latin-1", "replace") + b"\r\n"
        exchange = HttpExchange(self, None, sink)
        exchange.handle = self._upstream.origin.send(lines + b"\r\n", b"", exchange, hold=True)
        return exchange.cancel

    def close(self) -> None:
        """End the upstream session (DELETE); the answer does not matter."""
        if self._sse is not None:
            self._sse.close()
        if not self.closed:
            self.closed = True
            if self.session_id:
                self._end_session()

    def _end_session(self) -> None:
        lines = self._upstream.delete_prefix + f"Mcp-Session-Id: {self.session_id}\r\n".encode()
        lines += f"MCP-Protocol-Version: {self.version}\r\n\r\n".encode()
        self._upstream.origin.send(lines, b"", HttpExchange(self, None, _Deaf()))


def _is_modern_error(message: Message) -> bool:
    """True for an error that only servers of the 2026 era give (CF-08)."""
    error = message.value.get("error")
    return isinstance(error, dict) and error.get("code") in _MODERN_ERRORS


def _is_own_error(message: Message | None) -> bool:
    """True for an error that a server gives to a message that it has understood."""
    error = message.value.get("error") if message is not None else None
    return isinstance(error, dict) and error.get("code") != codes.INVALID_REQUEST


class _Deaf:
    """A sink for answers that nobody waits for."""

    is_paused = False

    def __init__(self) -> None:
        self.on_writable: Callable[[], None] | None = None

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None: ...

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None: ...

    def done(self) -> None: ...

    def failed(self, error: UpstreamError) -> None:
        _log.debug("an answer that nobody waited for failed", extra={"code": error.code})


class _Probe(_Deaf):
    """Judge from one ``server/discover`` which era a server speaks (2026-07-28 basic/versioning; CF-08).

    Statuses such as 401, 403 or 5xx and time-outs are outages, never evidence of an era.
    """

    def __init__(self, upstream: HttpUpstream) -> None:
        super().__init__()
        self._upstream = upstream

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        is_modern = not message.is_error or _is_modern_error(message)
        self._upstream.decide("modern" if is_modern else "legacy")

    def overdue(self, cancel: Cancel) -> None:
        """Give up."""
        cancel()
        self.failed(UpstreamError("upstream-timeout", "The protected server did not answer in time."))

    def done(self) -> None:
        self._upstream.decide("legacy")

    def failed(self, error: UpstreamError) -> None:
        if error.code == "upstream-status" and any(
            f"status {status}" in error.tell for status in (400, 404, 405, 406)
        ):
            self._upstream.decide("legacy")
        else:
            self._upstream.undecided(error)


class HttpUpstream:
    """One protected server that is reached at exactly one URL."""

    def __init__(
        self,
        name: str,
        origin: HttpOrigin,
        host: str,
        target: str,
        credential: bytes,
        schema_of: Callable[[str, Message], dict[str, Any] | None],
        later: Later = never,
    ) -> None:
        """``credential`` is a complete header line with CRLF, or b""; ``target`` the path and query of the URL."""
        self.name = name
        self.origin = origin
        self.host, self.target, self.later = host, target, later
        self.speaks_sse = False  # HTTP with SSE, the oldest transport, and nothing else
        self._schema_of = schema_of
        self._common = f" HTTP/1.1\r\nHost: {host}\r\n".encode() + _AGENT + credential
        common = f" {target}".encode() + self._common
        both = b"Accept: application/json, text/event-stream\r\n"
        self.post_prefix = b"POST" + common + both + b"Content-Type: application/json\r\n"
        self.get_prefix = b"GET" + common + b"Accept: text/event-stream\r\n"
        self.delete_prefix = b"DELETE" + common + both
        self._era: Era | None = None
        self._modern: HttpLink | None = None
        self._waiting: list[Callable[[Link | UpstreamError], None]] = []
        self._cancel_timer: Cancel = _nothing

    def prefix_to(self, target: str) -> bytes:
        """The head of a POST to another path of the same server, but for its length."""
        return b"POST " + target.encode() + self._common + b"Content-Type: application/json\r\n"

    def schema_of(self, message: Message) -> dict[str, Any] | None:
        """The inputSchema of the tool that a message calls, as last listed."""
        return self._schema_of(self.name, message)

    def link(
        self,
        principal: str,
        era: Era,
        version: str,
        capabilities: dict[str, Any],
        ready: Callable[[Link | UpstreamError], None],
    ) -> None:
        """See ``gateway.ports.Upstream``. The server keeps no state of ours, so principals need no separation here:
        legacy links are one for each client session, modern requests carry everything themselves."""
        if era == "legacy":
            return ready(HttpLink(self, "legacy", version))
        if self._modern is not None:
            return ready(self._modern)
        self._waiting.append(ready)
        if len(self._waiting) == 1:
            self._probe()
        return None

    def _probe(self) -> None:
        meta = {
            "io.modelcontextprotocol/protocolVersion": _MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "doorward", "version": __version__},
        }
        params = {"_meta": meta}
        value = {"jsonrpc": "2.0", "id": "doorward-probe", "method": "server/discover", "params": params}
        message = Message("request", "server/discover", "doorward-probe", params, value)
        probe = _Probe(self)
        cancel = HttpLink(self, "modern", _MODERN).post(message, probe)
        self._cancel_timer = self.later(_PROBE_SECONDS, lambda: probe.overdue(cancel))

    def decide(self, era: Era) -> None:
        """The probe has found the server's era."""
        if era == "legacy":
            self._tell(wrong_era("legacy", codes.LEGACY_VERSIONS))
        else:
            self._modern = self._modern or HttpLink(self, "modern", _MODERN)
            self._tell(self._modern)

    def undecided(self, error: UpstreamError) -> None:
        """The probe failed: everyone who waited hears why, and the next request probes again."""
        self._tell(error)

    def _tell(self, found: Link | UpstreamError) -> None:
        self._cancel_timer()
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            try:
                ready(found)
            except Exception as error:  # noqa: BLE001 - the others still have to hear it
                _log.error("a request could not go on", exc_info=error)

    def forget_era(self) -> None:
        """Probe again at the next request: what was cached did not hold (CF-08)."""
        self._modern = None


def wrong_era(speaks: Era, versions: tuple[str, ...]) -> UpstreamError:
    """The error for a server of the other era: nothing translates between the eras."""
    names = ", ".join(versions)
    return UpstreamError(
        "upstream-era",
        f"The protected server speaks only the {'handshake' if speaks == 'legacy' else 'stateless'} revisions of MCP ({names}).",
        ",".join(versions),
    )
