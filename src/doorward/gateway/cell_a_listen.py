"""What a legacy session wants to hear from a modern server: one ``subscriptions/listen``, made anew when it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.base.errors import UpstreamError
from doorward.gateway.cell_a_call import Reach
from doorward.gateway.ports import Cancel, Link, Sink
from doorward.protocol import cell_a, codes, envelope
from doorward.protocol.message import Message

URIS_COUNT = 256  # resources that one session may be subscribed to at a server
WAITING_COUNT = 64  # requests that wait for the server to take a new filter


def _nothing() -> None:
    """Cancel what is over."""


class Subscriptions:
    """The listening of one session: its filter is the server's lists that may change, and the client's resources."""

    def __init__(self, reach: Reach, enveloped: Callable[[Message], Message]) -> None:
        self._reach = reach
        self._enveloped = enveloped
        self.capabilities: dict[str, Any] = {}  # of the server, as it discovered itself
        self._uris: dict[str, None] = {}
        self._sink: Sink | None = None  # the client's own stream, where it has opened one
        self._live: _Ear | None = None  # the stream that was acknowledged
        self._next: _Ear | None = None  # the one that will take its place
        self._waiting: list[tuple[Message, Sink]] = []
        self._counter = 0

    @property
    def sink(self) -> Sink | None:
        """Where what the server says goes."""
        return self._sink

    def listen(self, sink: Sink) -> Cancel:
        """Hear the server on the client's stream from now on."""
        self._sink = sink
        if self._live is None and self._next is None:
            self._renew()

        def stop() -> None:
            if self._sink is sink:
                self._sink = None
                if not self._uris:
                    self._drop()

        return stop

    def change(self, message: Message, sink: Sink) -> Cancel:
        """Subscribe or unsubscribe: answered once the server has taken the new filter."""
        uri = (message.params or {}).get("uri")
        adds = message.method == "resources/subscribe"
        if not isinstance(uri, str) or (adds and len(self._uris) >= URIS_COUNT and uri not in self._uris):
            return self._refuse(message, sink, codes.INVALID_PARAMS, "This resource cannot be subscribed to.")
        if len(self._waiting) >= WAITING_COUNT:
            return self._refuse(message, sink, codes.INTERNAL_ERROR, "Too many subscriptions change at once.")
        if adds:
            self._uris[uri] = None
        else:
            self._uris.pop(uri, None)
        entry = (message, sink)
        self._waiting.append(entry)
        self._renew()
        return lambda: self._waiting.remove(entry) if entry in self._waiting else None

    @staticmethod
    def _refuse(message: Message, sink: Sink, code: int, tell: str) -> Cancel:
        sink.message(envelope.error(message.id, code, tell))
        sink.done()
        return _nothing

    def _renew(self) -> None:
        """Open a stream with what is wanted now; the old one goes on until the new one is acknowledged."""
        if self._next is not None:
            self._next.stop()
            self._next = None
        wanted = cell_a.listen_filter(self.capabilities, list(self._uris))
        if not wanted or (self._sink is None and not self._uris):
            self._drop()
            return self._settle(None)
        self._counter += 1
        request = envelope.request(
            f"doorward-listen-{self._counter}", "subscriptions/listen", {"notifications": wanted}
        )
        self._next = ear = _Ear(self, self._enveloped(request))

        def reached(link: Link | UpstreamError) -> None:
            if isinstance(link, UpstreamError):
                ear.failed(link)
            else:
                ear.start(link)

        self._reach(reached)
        return None

    def _settle(self, told: dict[str, Any] | None, kept: dict[str, Any] | None = None) -> None:
        """Answer who waits: with the error, or as the server has ``kept`` what it was asked for, where it says."""
        waiting, self._waiting = self._waiting, []
        for message, sink in waiting:
            if message.id is None:
                continue
            error = told or self._left_out(message, kept)
            if error is None:
                sink.message(envelope.response(message.id, {}))
            else:
                value = {"jsonrpc": "2.0", "id": message.id, "error": error}
                sink.message(Message("response", "", message.id, None, value))
            sink.done()

    def _left_out(self, message: Message, kept: dict[str, Any] | None) -> dict[str, Any] | None:
        """The error for a resource that the server does not tell of: a subscription to it would stay silent for ever."""
        uri = (message.params or {}).get("uri")
        if kept is None or message.method != "resources/subscribe" or uri not in self._uris:
            return None
        uris = kept.get("resourceSubscriptions")
        if isinstance(uris, list) and uri in uris:
            return None
        self._uris.pop(str(uri), None)
        return {"code": cell_a.RESOURCE_NOT_FOUND, "message": "Resource not found"}

    def acknowledged(self, ear: _Ear, kept: dict[str, Any] | None) -> None:
        """The server listens to the new filter, or to what it has ``kept`` of it."""
        if ear is not self._next:
            return
        before, self._live, self._next = self._live, ear, None
        if before is not None:
            before.stop()
        self._settle(None, kept)

    def is_heard(self, ear: _Ear) -> bool:
        """Whether this is the stream that counts."""
        return ear is self._live

    def ended(self, ear: _Ear, error: UpstreamError | None, told: dict[str, Any] | None) -> None:
        """A stream ended: by the server's wish, by a failure, or because it refused to open it."""
        if ear is self._next:
            self._next = None
            tell = "The protected server does not take this subscription."
            code = codes.UPSTREAM_FAILED if told is None else codes.INTERNAL_ERROR
            self._settle(told or {"code": code, "message": tell})
        elif ear is self._live:
            self._live = None
        else:
            return
        if self._live is not None or self._next is not None:
            return
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if error is not None:
            sink.failed(error)
        elif told is None:
            sink.done()  # whoever listens comes back after a while
        else:
            self._sink = sink  # it cannot be listened to: the stream stays silent

    def _drop(self) -> None:
        for ear in (self._live, self._next):
            if ear is not None:
                ear.stop()
        self._live = self._next = None

    def close(self) -> None:
        """The session is over."""
        self._sink = None
        self._uris.clear()
        self._drop()
        self._waiting.clear()


class _Ear:
    """The sink of one ``subscriptions/listen``."""

    def __init__(self, subscriptions: Subscriptions, request: Message) -> None:
        self._subscriptions = subscriptions
        self._request = request
        self._told: dict[str, Any] | None = None
        self._is_over = False
        self._cancel: Cancel = _nothing

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        sink = self._subscriptions.sink
        return sink is not None and sink.is_paused

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return None

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        sink = self._subscriptions.sink
        if sink is not None:
            sink.on_writable = wake

    def start(self, link: Link) -> None:
        """Send the request, unless nobody wants it any more."""
        if not self._is_over:
            self._cancel = link.post(self._request, self)
            if self.is_stopped():  # meanwhile: what is over may be cancelled again
                self._cancel()

    def is_stopped(self) -> bool:
        """Whether nothing more is wanted."""
        return self._is_over

    def stop(self) -> None:
        """Close the stream."""
        if not self._is_over:
            self._is_over = True
            self._cancel()

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """The acknowledgement follows."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``. Requests have no place on such a stream (SF-53)."""
        if self._is_over:
            return
        if message.kind == "response":
            error = message.value.get("error")
            self._told = error if isinstance(error, dict) else None
            self._end(None)
        elif message.method == "notifications/subscriptions/acknowledged":
            kept = (message.params or {}).get("notifications")
            self._subscriptions.acknowledged(self, kept if isinstance(kept, dict) else None)
        elif message.kind == "notification" and self._subscriptions.is_heard(self):
            sink = self._subscriptions.sink
            if sink is not None:
                sink.message(cell_a.unsubscribed(message))

    def _end(self, error: UpstreamError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._subscriptions.ended(self, error, self._told)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        self._end(None)

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        self._end(error)
