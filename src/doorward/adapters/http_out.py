"""The HTTP face towards servers: a pool of kept connections to exactly one host and port.

Redirects are never followed: the caller sees the 3xx. A request is sent again by itself only when not one of its
bytes left (the kept connection was found closed first), or when it is a GET on a kept connection that closed
before the first byte of a response; a posted message may have been acted on, so its loss is told, not repaired.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec

from doorward.adapters.deadlines import NEVER, Deadlines
from doorward.adapters.http_wire import ServerWire
from doorward.adapters.outbox import Outbox
from doorward.base import limits
from doorward.base.errors import UpstreamError
from doorward.gateway.ports import HttpSink
from doorward.protocol.http_head import ResponseHead, parse_response_head

MEMO_HEADS = 1_024
MEMO_HEAD_BYTES = 2_048  # larger heads are parsed each time


class PoolCaps(msgspec.Struct, frozen=True):
    """Bounds of one pool: counts, seconds and bytes."""

    in_flight: int = 256
    holds: int = 4_096  # streams that may stay silent for long
    waiting: int = 1_024
    connect_seconds: float = 10.0
    response_seconds: float = limits.UPSTREAM_SECONDS
    idle_seconds: float = (
        4.0  # below the 5 s after which common servers close, so that no request meets a closing door
    )
    reply_bytes: int = limits.REPLY_BYTES


class _Silence:
    """The sink of an exchange that is over: keeps no one alive and says nothing."""

    def on_head(self, head: ResponseHead) -> None: ...

    def on_data(self, part: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fail(self, error: UpstreamError) -> None: ...


_SILENCE = _Silence()


class Exchange:
    """One request and where its response goes. Implements ``gateway.ports.HttpHandle``."""

    __slots__ = ("body", "deadline", "head", "hold", "over", "paused", "sink", "wire")

    def __init__(self, head: bytes, body: bytes, sink: HttpSink, hold: bool, deadline: float) -> None:  # noqa: FBT001
        self.head = head
        self.body = body
        self.sink = sink
        self.hold = hold
        self.deadline = deadline  # for the whole response; for a held stream only for its head
        self.wire: ServerWire | None = None
        self.over = False
        self.paused = False

    def cancel(self) -> None:
        """Drop the exchange; no callback follows."""
        if self.over:
            return
        wire = self.wire
        self.finish()
        if wire is not None:
            wire.abort()

    def pause(self) -> None:
        """Stop reading the response."""
        self.paused = True
        if self.wire is not None and not self.over:
            self.wire.pause()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if self.wire is not None and not self.over:
            self.wire.resume()

    def linger(self) -> None:
        """Make room for others: this response waits for somebody. Its deadline stays as it is."""
        if self.wire is not None and not self.over:
            self.wire.linger()

    def finish(self) -> HttpSink:
        """The exchange is over; the sink gets its last call from the caller and is then forgotten."""
        sink = self.sink
        self.over = True
        self.wire = None
        self.sink = _SILENCE
        return sink

    def fail(self, error: UpstreamError) -> None:
        """Tell the sink, once, that nothing more will come."""
        if not self.over:
            self.finish().on_fail(error)


class HttpPool:
    """Implements ``gateway.ports.HttpOrigin``. ``host`` and ``port`` come from configuration only.

    ``check_peer`` sees the server's certificate (DER) before a byte of a request is sent, and raises UpstreamError to
    refuse it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        outbox: Outbox,
        deadlines: Deadlines,
        *,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        caps: PoolCaps | None = None,
        check_peer: Callable[[bytes], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.outbox = outbox
        self.deadlines = deadlines
        self.caps = caps or PoolCaps()
        self._in_flight = self.caps.in_flight
        self._idle_seconds, self._response_seconds = self.caps.idle_seconds, self.caps.response_seconds
        self.deadline = NEVER  # of the first exchange in the queue
        self._tls = tls
        self._server_hostname = server_hostname or host
        self._check_peer = check_peer
        self._idle: list[ServerWire] = []
        self._wires: set[ServerWire] = set()
        self._waiting: deque[Exchange] = deque()
        self._busy = 0  # exchanges that hold one of the in_flight places
        self._holds = 0
        self._dials: set[asyncio.Task[None]] = set()
        self._memo: dict[bytes, ResponseHead] = {}
        self._closed = False

    def send(self, head: bytes, body: bytes, sink: HttpSink, *, hold: bool = False) -> Exchange:
        """Send one request; see ``gateway.ports.HttpOrigin``. ``on_fail`` is never called before this returns."""
        exchange = Exchange(head, body, sink, hold, self.deadlines.now + self._response_seconds)
        if not hold and self._busy < self._in_flight and self._idle and not self._closed:
            self._busy += 1
            wire = self._idle.pop()
            if wire.transport.is_closing():
                self._start(exchange)
            else:
                wire.begin(exchange)
        elif hold:
            if self._closed or self._holds >= self.caps.holds:
                self._refuse(exchange)
                return exchange
            self._holds += 1
            self._start(exchange)
        elif self._busy < self.caps.in_flight and not self._closed:
            self._busy += 1
            self._start(exchange)
        elif len(self._waiting) < self.caps.waiting and not self._closed:
            self._waiting.append(exchange)
            if self.deadline == NEVER:
                self.deadline = exchange.deadline
                self.deadlines.watch(self)
        else:
            self._refuse(exchange)
        return exchange

    @property
    def is_busy(self) -> bool:
        """True while a request other than a held stream has not had its whole response."""
        return self._busy > 0

    def close(self) -> None:
        """Break every connection; what is under way fails."""
        self._closed = True
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.fail(_gone("The gateway is closing this server's connections."))
        for dial in list(self._dials):
            dial.cancel()
        for wire in list(self._wires):
            wire.break_off(_gone("The gateway is closing this server's connections."))
        self.deadlines.forget(self)

    def on_deadline(self) -> None:
        """Give up on what has waited for a free place for too long."""
        now = self.deadlines.now
        while self._waiting and (self._waiting[0].over or self._waiting[0].deadline <= now):
            self._waiting.popleft().fail(UpstreamError("upstream-timeout", "The server is too busy."))
        self._watch_queue()

    # What a connection calls.

    def head_of(self, block: bytes) -> ResponseHead:
        """The parsed head of these bytes, from the memo where it can. Raises UpstreamError."""
        head = self._memo.get(block)
        if head is None:
            head = parse_response_head(block)
            # A head that opens a session comes once.
            if len(block) <= MEMO_HEAD_BYTES and "mcp-session-id" not in head.fields:
                if len(self._memo) >= MEMO_HEADS:
                    self._memo.clear()
                self._memo[block] = head
        return head

    def release(self, exchange: Exchange, wire: ServerWire | None) -> None:
        """``exchange`` needs its place no more; ``wire``, if any, can take another."""
        if wire is not None:
            wire.deadline = self.deadlines.now + self._idle_seconds
            self._idle.append(wire)
        if exchange.hold:
            self._holds -= 1
        else:
            self._leave_place()

    def linger(self, exchange: Exchange) -> None:
        """``exchange`` waits for somebody, so that it counts among the streams that may stay silent for long."""
        if not exchange.hold and self._holds < self.caps.holds:
            exchange.hold = True
            self._holds += 1
            self._leave_place()

    def _leave_place(self) -> None:
        self._busy -= 1
        if self._waiting:
            self._start_next()
        if self.deadline != NEVER:
            self._watch_queue()

    def _start_next(self) -> None:
        while self._waiting:
            following = self._waiting.popleft()
            if not following.over:
                self._busy += 1
                self._start(following)
                break

    def lost(self, wire: ServerWire) -> None:
        """``wire`` is closed."""
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)

    def retry(self, exchange: Exchange) -> None:
        """Send again what never reached the server, on a connection of its own."""
        exchange.wire = None
        self._dial(exchange)

    def _start(self, exchange: Exchange) -> None:
        idle = self._idle
        while idle:
            wire = idle.pop()
            if not wire.transport.is_closing():
                wire.begin(exchange)
                return
        self._dial(exchange)

    def _dial(self, exchange: Exchange) -> None:
        dial = asyncio.get_running_loop().create_task(self._connect(exchange))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _connect(self, exchange: Exchange) -> None:
        """Cold path: open a connection, then send."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.caps.connect_seconds):
                transport, wire = await loop.create_connection(
                    lambda: ServerWire(self),
                    self.host,
                    self.port,
                    ssl=self._tls,
                    server_hostname=self._server_hostname if self._tls is not None else None,
                )
            self._wires.add(wire)
            self._look_at_peer(transport)
        except asyncio.CancelledError:
            self._give_up(exchange, _gone("The gateway is closing this server's connections."))
            raise
        except UpstreamError as error:
            self._give_up(exchange, error)
        except TimeoutError:
            self._give_up(
                exchange, UpstreamError("upstream-timeout", "The server did not take the connection in time.")
            )
        except ssl.SSLCertVerificationError as error:
            told = "The server's certificate does not hold: its authority, its name or its time."
            self._give_up(exchange, UpstreamError("upstream-certificate", told, str(error)))
        except (OSError, ssl.SSLError) as error:
            self._give_up(exchange, _gone("The server cannot be reached.", str(error)))
        else:
            if exchange.over:  # cancelled meanwhile: the connection is good for the next
                self.release(exchange, wire)
            else:
                wire.begin(exchange)

    def _look_at_peer(self, transport: asyncio.Transport) -> None:
        """Refuse a server whose certificate is not the expected one, before it has seen a request."""
        if self._check_peer is None:
            return
        secured = cast("ssl.SSLObject", transport.get_extra_info("ssl_object"))
        try:
            self._check_peer(secured.getpeercert(binary_form=True) or b"")
        except UpstreamError:
            transport.abort()
            raise

    def _give_up(self, exchange: Exchange, error: UpstreamError) -> None:
        self.release(exchange, None)
        exchange.fail(error)

    def _refuse(self, exchange: Exchange) -> None:
        error = _gone("Too many calls are waiting for this server.")
        asyncio.get_running_loop().call_soon(exchange.fail, error)

    def _watch_queue(self) -> None:
        if self._waiting:
            self.deadline = self._waiting[0].deadline
        else:
            self.deadline = NEVER
            self.deadlines.forget(self)


def _gone(tell: str, detail: str = "") -> UpstreamError:
    return UpstreamError("upstream-unreachable", tell, detail)
