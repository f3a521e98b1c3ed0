"""One connection to a server: sends a request, reads its response, and believes nothing that is ambiguous."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from doorward.adapters.deadlines import NEVER
from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.protocol.chunks import ChunkDecoder, only_chunk
from doorward.protocol.http_head import END_OF_HEAD, ResponseHead

if TYPE_CHECKING:
    from doorward.adapters.http_out import Exchange, HttpPool

_log = logging.getLogger("doorward.upstream")
INTERIM_HEADS = 8  # responses of class 1xx before the real one
JOIN_BYTES = 16_384  # a larger body is written by itself instead of being copied behind its head
_UNTIL_CLOSE = -1


class ServerWire(asyncio.Protocol):
    """One kept connection. At most one exchange at a time; requests are never pipelined."""

    __slots__ = (
        "_buffer", "_decoder", "_exchange", "_head", "_interim", "_is_chunked", "_left", "_pool", "_stopped", "_taken",
        "_used", "deadline", "transport",
    )  # fmt: skip

    def __init__(self, pool: HttpPool) -> None:
        self._pool = pool
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set by connection_made
        self.deadline = NEVER
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._head: ResponseHead | None = None
        self._left = 0  # bytes of the body that are missing, or _UNTIL_CLOSE
        self._is_chunked = False
        self._decoder: ChunkDecoder | None = None  # made with the first bytes of a chunked body
        self._taken = 0  # bytes of the body so far, where they are bounded
        self._interim = 0
        self._used = False  # carried an exchange before this one
        self._stopped = False  # reading is paused

    def begin(self, exchange: Exchange) -> None:
        """Send a request on this idle connection."""
        self._exchange = exchange
        exchange.wire = self
        self.deadline = exchange.deadline
        outbox = self._pool.outbox
        body = exchange.body
        if len(body) <= JOIN_BYTES:
            outbox.write(self.transport, exchange.head + body)
        else:
            outbox.write(self.transport, exchange.head)
            outbox.write(self.transport, body)
        if exchange.paused:
            self.pause()

    def pause(self) -> None:
        """Stop reading."""
        if not self._stopped and not self.transport.is_closing():
            self._stopped = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._stopped and not self.transport.is_closing():
            self._stopped = False
            self.transport.resume_reading()

    def linger(self) -> None:
        """The exchange under way waits for somebody."""
        if self._exchange is not None:
            self._pool.linger(self._exchange)

    def abort(self) -> None:
        """Close at once and give the exchange's place back, without a word to its sink."""
        exchange = self._exchange
        self._exchange = None
        self._pool.outbox.forget(self.transport)
        self.transport.abort()
        if exchange is not None:
            self._pool.release(exchange, None)

    def break_off(self, error: UpstreamError) -> None:
        """Close at once and tell the sink why."""
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.fail(error)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._pool.deadlines.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        pool = self._pool
        pool.lost(self)
        pool.deadlines.forget(self)
        exchange = self._exchange
        if exchange is None:
            return
        if self._left == _UNTIL_CLOSE and exc is None:
            self._complete(exchange)
            return
        self._exchange = None
        never_sent = pool.outbox.forget(self.transport)
        untouched = self._head is None and not self._buffer and not self._interim
        if (
            not exchange.over
            and untouched
            and (never_sent or (self._used and exchange.head.startswith(b"GET ")))
        ):
            pool.retry(exchange)
            return
        pool.release(exchange, None)
        detail = str(exc) if exc is not None else ""
        exchange.fail(_broke("The server closed the connection before its answer was complete.", detail))

    def on_deadline(self) -> None:
        """An idle connection has waited long enough, or a response has not come in time."""
        if self._exchange is None:
            self._pool.lost(self)
            self.transport.close()
            self.deadline = NEVER
        else:
            self.break_off(UpstreamError("upstream-timeout", "The server did not answer in time."))

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nobody asked
            self.transport.abort()
            return
        if self._head is None and self._pool.outbox.holds(self.transport):
            self._start_over(exchange)  # an answer to a question that was not sent yet
            return
        try:
            if self._head is None:
                self._read_head(exchange, data)
            else:
                self._read_body(exchange, data)
        except UpstreamError as error:
            self.break_off(error)
        except CallerError as error:
            if error.status == 413:
                self.break_off(_too_large())
            else:
                self.break_off(_broke("The server's HTTP response cannot be trusted.", error.tell))
        except Exception as error:  # noqa: BLE001 - a fault of ours that this answer found; nobody is left waiting
            _log.error("a server's answer could not be handled", exc_info=error)
            self.break_off(_broke("The server's answer cannot be passed on."))

    def _start_over(self, exchange: Exchange) -> None:
        """Not one byte of the request has left: send it on another connection."""
        self._exchange = None
        self._pool.outbox.forget(self.transport)
        self.transport.abort()
        self._pool.retry(exchange)

    # Reading.

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(END_OF_HEAD, 0, limits.HEAD_BYTES)
            if end < 0:
                if len(data) > limits.HEAD_BYTES:
                    raise _broke(
                        "The server's HTTP response cannot be trusted.", "its response head is too large"
                    )
                self._buffer = data
                return
            head = self._pool.head_of(data[: end + 4])
            data = data[end + 4 :]
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101 or self._interim > INTERIM_HEADS:
                raise _broke("The server changed the protocol or sent too many interim responses.")
        self._buffer = b""
        self._head = head
        if data:
            limit = self._pool.caps.reply_bytes
            if head.content_length == len(data) <= limit:
                self._left = 0
                self._deliver(exchange, head, data)
                return
            if head.chunked and hasattr(exchange.sink, "on_whole"):
                part = only_chunk(data, 0 if head.is_stream else limit)
                if part is not None and not exchange.head.startswith(b"HEAD "):
                    self._left = 0
                    self._deliver(exchange, head, part)
                    return
        if exchange.hold:
            self.deadline = NEVER
            exchange.head = exchange.head[:5]  # the verb; the rest was sent, and the stream may stay for long
        self._open_body(exchange, head)
        exchange.sink.on_head(head)
        if self._exchange is exchange:
            if self._left == 0 and not self._is_chunked:
                self._complete(exchange, extra=bool(data))
            elif data:
                self._read_body(exchange, data)

    def _deliver(self, exchange: Exchange, head: ResponseHead, body: bytes) -> None:
        """The common case: head and body came in one read."""
        if hasattr(exchange.sink, "on_whole"):
            self._complete(exchange, body=body)
            return
        exchange.sink.on_head(head)
        if self._exchange is exchange:
            exchange.sink.on_data(body)
            if self._exchange is exchange:
                self._complete(exchange)

    def _open_body(self, exchange: Exchange, head: ResponseHead) -> None:
        length = head.content_length
        limit = self._limit_of(head)
        self._taken = 0
        self._left = 0
        if exchange.head.startswith(b"HEAD "):
            return
        if head.chunked:
            self._is_chunked = True
        elif length is None:
            self._left = _UNTIL_CLOSE
        elif limit and length > limit:
            raise _too_large()
        else:
            self._left = length

    def _limit_of(self, head: ResponseHead) -> int:
        return 0 if head.is_stream else self._pool.caps.reply_bytes

    def _read_body(self, exchange: Exchange, data: bytes) -> None:
        if self._is_chunked:
            if self._decoder is None:
                self._decoder = ChunkDecoder(self._limit_of(cast("ResponseHead", self._head)))
            parts, done, rest = self._decoder.feed(data)
            if parts:
                exchange.sink.on_data(parts[0] if len(parts) == 1 else b"".join(parts))
        elif self._left == _UNTIL_CLOSE:
            self._taken += len(data)
            head = cast("ResponseHead", self._head)
            if not head.is_stream and self._taken > self._pool.caps.reply_bytes:
                raise _too_large()
            exchange.sink.on_data(data)
            return
        else:
            rest = b""
            if len(data) > self._left:
                rest = data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            done = self._left == 0
            exchange.sink.on_data(data)
        if done and self._exchange is exchange:
            self._complete(exchange, extra=bool(rest))

    def _complete(self, exchange: Exchange, *, extra: bool = False, body: bytes | None = None) -> None:
        """The response is whole: keep the connection if it can be trusted to be at its beginning again.

        ``body`` is given where it came with its head, to a sink that takes both at once.
        """
        head = self._head
        keep = not extra and head is not None and head.keep_alive and self._left == 0
        self._exchange = self._head = self._decoder = None
        self._is_chunked = False
        self._interim = 0
        self._used = True
        sink = exchange.finish()
        if keep and not self.transport.is_closing():
            if self._stopped:
                self.resume()
            self._pool.release(exchange, self)
        else:
            self._pool.release(exchange, None)
            self.transport.abort()
        try:
            if body is None:
                sink.on_end()
            else:
                sink.on_whole(head, body)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - as in data_received; the exchange is no longer this connection's
            _log.error("a server's answer could not be handled", exc_info=error)
            sink.on_fail(_broke("The server's answer cannot be passed on."))


def _broke(tell: str, detail: str = "") -> UpstreamError:
    return UpstreamError("upstream-broke", tell, detail)


def _too_large() -> UpstreamError:
    return UpstreamError("upstream-too-large", "The server's answer is larger than the gateway takes.")
