"""Hand a request over to the worker that owns its session, and its answer back.

The other worker has authenticated the caller already; what crosses is the judged head, the body and the principal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from doorward.controls.control import Head
from doorward.gateway.ports import Reply, Responder
from doorward.identity.principal import Principal


class Pipe(Protocol):
    """One channel of the bus."""

    on_message: Callable[[Any], None]
    on_close: Callable[[str], None]

    def send(self, payload: Any) -> None: ...

    def close(self, reason: str = "") -> None: ...


_KEPT_FIELDS = (
    "mcp-method",
    "mcp-name",
    "mcp-session-id",
    "mcp-protocol-version",
    "last-event-id",
    "accept",
    "content-type",
)


def pack(head: Head, body: bytes, address: str) -> dict[str, Any]:
    """A judged request as a bus payload; of the header only what the owner needs, never the token."""
    return {
        "verb": head.verb,
        "path": head.path,
        "fields": {
            name: value
            for name, value in head.fields.items()
            if name in _KEPT_FIELDS or name.startswith("mcp-param-")
        },
        "server": head.server,
        "resource": head.resource,
        "principal": msgspec.msgpack.encode(head.principal),
        "body": body,
        "address": address,
    }


def unpack(payload: dict[str, Any]) -> tuple[Head, bytes, str]:
    """Head, body and peer address of a relayed request."""
    head = Head(
        verb=payload["verb"], path=payload["path"], query="", fields=payload["fields"], repeated=frozenset()
    )
    head.server = payload["server"]
    head.resource = payload["resource"]
    head.principal = msgspec.msgpack.decode(payload["principal"], type=Principal | None)
    head.accepts_json = head.accepts_stream = True
    return head, payload["body"], payload["address"]


class RelayedResponder:
    """On the owner's side: a responder whose client is connected to another worker."""

    def __init__(self, pipe: Pipe, address: str) -> None:
        self.address = address
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self._pipe = pipe
        self._paused = False
        self._over = False
        pipe.on_message = self._hear
        pipe.on_close = self._closed

    @property
    def is_paused(self) -> bool:
        """True while the far end cannot take more."""
        return self._paused

    def answer(self, reply: Reply) -> None:
        """See ``gateway.ports.Responder``."""
        self._send(["answer", reply.status, reply.fields, reply.body])
        self._finish()

    def start(self, status: int, fields: bytes) -> None:
        """See ``gateway.ports.Responder``."""
        self._send(["start", status, fields])

    def write(self, part: bytes) -> None:
        """See ``gateway.ports.Responder``."""
        self._send(["write", part])

    def end(self) -> None:
        """See ``gateway.ports.Responder``."""
        self._send(["end"])
        self._finish()

    def abort(self) -> None:
        """See ``gateway.ports.Responder``."""
        self._send(["abort"])
        self._finish()

    def _send(self, payload: list[Any]) -> None:
        if not self._over:
            self._pipe.send(payload)

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._pipe.close()

    def _hear(self, payload: Any) -> None:
        match payload:
            case ["paused"]:
                self._paused = True
            case ["writable"]:
                self._paused = False
                if self.on_writable is not None:
                    self.on_writable()

    def _closed(self, _: str) -> None:
        if not self._over:
            self._over = True
            if self.on_gone is not None:
                self.on_gone()


class RelayingClient:
    """On the connected side: feed what the owner says into the real responder."""

    def __init__(self, responder: Responder, ended: Callable[[Responder, bool], None]) -> None:
        """``ended(responder, started)`` answers a request whose owner went away."""
        self._responder = responder
        self._ended = ended
        self._started = False
        self._over = False
        self._pipe: Pipe | None = None

    def attach(self, pipe: Pipe) -> None:
        """The channel to the owner is open."""
        self._pipe = pipe
        self._responder.on_gone = self._gone
        self._responder.on_writable = self._writable

    def hear(self, payload: Any) -> None:
        """One frame from the owner."""
        responder = self._responder
        match payload:
            case ["answer", int() as status, bytes() as fields, bytes() as body]:
                self._finish()
                responder.answer(Reply(status, fields, body))
            case ["start", int() as status, bytes() as fields]:
                self._started = True
                responder.start(status, fields)
            case ["write", bytes() as part]:
                responder.write(part)
                if responder.is_paused and self._pipe is not None:
                    self._pipe.send(["paused"])
            case ["end"]:
                self._finish()
                responder.end()
            case ["abort"]:
                self._finish()
                responder.abort()

    def closed(self, _: str) -> None:
        """The channel ended: after an answer that is right, before it the owner has died."""
        if not self._over:
            self._finish()
            self._ended(self._responder, self._started)

    def _finish(self) -> None:
        self._over = True
        self._responder.on_gone = None

    def _gone(self) -> None:
        if not self._over and self._pipe is not None:
            self._over = True
            self._pipe.close("client gone")

    def _writable(self) -> None:
        if not self._over and self._pipe is not None:
            self._pipe.send(["writable"])
