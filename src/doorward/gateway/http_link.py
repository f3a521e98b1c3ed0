"""Speak MCP over Streamable HTTP to one upstream: requests written anew, replies parsed strictly (both eras).

Implements the client side of 2025-11-25 basic/transports and 2026-07-28 basic/transports/streamable-http. Nothing that a
caller sent in its head goes upstream: neither its token nor its Host, Origin, cookies or forwarding fields.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from doorward import __version__
from doorward.base.errors import UpstreamError
from doorward.gateway.desk import DeafSink
from doorward.gateway.http_reply import HttpExchange, is_modern_error, wrong_era
from doorward.gateway.ports import Cancel, HttpOrigin, Later, Link, Sink, never
from doorward.gateway.sse_link import Fallback, SseLink
from doorward.protocol import codes
from doorward.protocol.envelope import notification
from doorward.protocol.headers import declared_params, mirrored_lines, mirrored_name, modern_fields, written
from doorward.protocol.http_head import ResponseHead
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Era, Message, MessageId

_log = logging.getLogger("doorward.upstream")
_SESSION_ID_CHARACTERS = 512
_PROBE_SECONDS = 10.0  # a server that does not say within this which era it speaks is out of order
_MODERN = codes.MODERN_VERSIONS[-1]
_KEPT_NAME_CHARS = 128  # longer ones, and arguments, are not kept
_AGENT = f"User-Agent: doorward/{__version__}\r\n".encode()


def _nothing() -> None:
    """Cancel what is over."""


class HttpLink:
    """One client session (legacy) or all clients of one kind (modern) towards one upstream."""

    __slots__ = ("_era", "_initialized", "_lines", "_sse", "_upstream", "closed", "session_id", "version")

    def __init__(self, upstream: HttpUpstream, era: Era, version: str) -> None:
        self._upstream = upstream
        self._era = era
        self.version = version
        self.session_id = ""
        self._initialized = False
        self._lines = b""
        self._sse: SseLink | None = None  # the server speaks the oldest transport only
        self.closed = False

    def saw(self, message: Message | None, head: ResponseHead) -> None:
        """Learn the upstream's session id from its answer to initialize (2025-11-25 basic/transports)."""
        if message is None or message.method != "initialize" or "mcp-session-id" in head.repeated:
            return
        offered = head.fields.get("mcp-session-id", "")
        if 0 < len(offered) <= _SESSION_ID_CHARACTERS and all("!" <= letter <= "~" for letter in offered):
            self.session_id = offered
            self._renew_lines()
            if self.closed:  # nobody waits for this session any more
                self._end_session()

    def negotiated(self, version: str) -> None:
        """The upstream answered initialize with this version: later requests carry it."""
        self.version = version
        self._initialized = True
        self._renew_lines()

    def _renew_lines(self) -> None:
        """What this session's messages carry apart from what all messages to the server do (2025 era)."""
        version = f"MCP-Protocol-Version: {self.version}\r\n" if self._initialized else ""
        session = f"Mcp-Session-Id: {self.session_id}\r\n" if self.session_id else ""
        self._lines = (version + session).encode()

    def lost(self) -> None:
        """The upstream does not know its session any more."""
        self.closed = True

    def doubt(self) -> None:
        """The upstream answered as no server of its era does: ask again which one it speaks (CF-08)."""
        if self._era == "modern":
            self._upstream.forget_era()

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if self._sse is not None:
            return self._sse.post(message, sink)
        if message.method == "initialize" and message.kind == "request":
            if self._upstream.speaks_sse:
                return self._fall_back(message, sink)
            sink = Fallback(sink, lambda own: self._fall_back(message, own))
        body = encode_json(message.value)
        lines = self._lines if self._era == "legacy" else self._modern_lines(message)
        upstream = self._upstream
        exchange = HttpExchange(self, message, sink)
        head = b"%b%bContent-Length: %d\r\n\r\n" % (upstream.post_prefix, lines, len(body))
        hold = message.method == "subscriptions/listen"
        exchange.handle = upstream.origin.send(head, body, exchange, hold=hold)
        if message.method == "initialize":
            # A handshake goes on to its end: its answer names a session that has to be ended.
            return _nothing
        if self._era == "legacy" and message.kind == "request":
            return exchange.withdraw
        return exchange.cancel

    def withdrawn(self, message_id: MessageId | None, after_seconds: float = 0.0) -> None:
        """Nobody waits for a request: in the older era a server does not learn that from a lost connection (CF-03)."""
        if after_seconds:
            self._upstream.later(after_seconds, lambda: self.withdrawn(message_id))
        elif self._era == "legacy" and self.session_id and not self.closed:
            params = {"requestId": message_id, "reason": "Nobody waits for it any more."}
            self.post(notification("notifications/cancelled", params), DeafSink())

    def _modern_lines(self, message: Message) -> bytes:
        """The header lines that repeat what stands in the body."""
        schema = self._upstream.schema_of(message)
        if not message.params_fields and (schema is None or not declared_params(schema)):
            name = mirrored_name(message)
            if name is None or len(name) <= _KEPT_NAME_CHARS:
                return mirrored_lines(self.version, message.method, name)
        fields = modern_fields(message, self.version, schema)
        if message.params_fields:
            own = {name.lower() for name, _ in fields}
            fields += [(name, value) for name, value in message.params_fields if name not in own]
        return written(fields)

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
        self._upstream.origin.send(lines, b"", HttpExchange(self, None, DeafSink()))


class _Probe(DeafSink):
    """Judge from one ``server/discover`` which era a server speaks (2026-07-28 basic/versioning; CF-08).

    Statuses such as 401, 403 or 5xx and time-outs are outages, never evidence of an era.
    """

    def __init__(self, upstream: HttpUpstream) -> None:
        super().__init__()
        self._upstream = upstream

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        is_modern = not message.is_error or is_modern_error(message)
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
        self.present(credential)
        self._era: Era | None = None
        self._modern: HttpLink | None = None
        self._waiting: list[Callable[[Link | UpstreamError], None]] = []
        self._cancel_timer: Cancel = _nothing

    def present(self, credential: bytes) -> None:
        """Present this header line from the next message on, in sessions that are open as well."""
        self._common = f" HTTP/1.1\r\nHost: {self.host}\r\n".encode() + _AGENT + credential
        common = f" {self.target}".encode() + self._common
        both = b"Accept: application/json, text/event-stream\r\n"
        self.post_prefix = b"POST" + common + both + b"Content-Type: application/json\r\n"
        self.get_prefix = b"GET" + common + b"Accept: text/event-stream\r\n"
        self.delete_prefix = b"DELETE" + common + both

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
