"""The HTTP face towards clients: one small object a connection, no task, no timer and no future a request."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from doorward.adapters.deadlines import NEVER, Deadlines
from doorward.adapters.http_listener import FaceCaps, HttpListener
from doorward.adapters.http_turn import Turn
from doorward.adapters.outbox import Outbox
from doorward.adapters.tls_face import TlsConnection, TlsDoor
from doorward.base import limits
from doorward.base.errors import CallerError
from doorward.controls.control import Certificate, Head
from doorward.gateway.ports import Front, Reply
from doorward.protocol.chunks import ChunkDecoder
from doorward.protocol.http_head import END_OF_HEAD, check_partial_head

JOIN_BYTES = 16_384  # a larger body is written by itself instead of being copied behind its head
AHEAD_BYTES = 65_536  # pipelined bytes that wait while an exchange is under way; more stops the reading
SKIP_BYTES = 65_536  # an unread body of at most this size is read and dropped to keep a refused connection
LINGER_BYTES = 4_194_304  # read and dropped after a closing answer, so that no reset destroys the answer
LINGER_SECONDS = 2.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOTHING = (b"\0", Head(verb="", path="", query="", fields={}, repeated=frozenset()))  # matches no head


class HttpFace(asyncio.Protocol):
    """One client connection. Requests are served strictly one after the other, in order."""

    __slots__ = (
        "_address",
        "_buffer",
        "_certificate",
        "_closing",
        "_consuming",
        "_decoder",
        "_dropped",
        "_front",
        "_head",
        "_last",
        "_left",
        "_listener",
        "_partial",
        "_parts",
        "_skip",
        "_stopped",
        "_turn",
        "deadline",
        "paused",
        "transport",
    )

    def __init__(self, listener: HttpListener, certificate: Certificate | None = None) -> None:
        self._listener = listener
        self._certificate = certificate  # of the client, as TLS has verified it
        self._front = listener.front
        self._last: tuple[bytes, Head] = _NOTHING  # the head before, which the next one mostly repeats
        self._address = ""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set by connection_made
        self.deadline = NEVER
        self.paused = False  # the client reads too slowly
        self._turn: Turn | None = None  # the exchange under way
        self._buffer = b""  # an incomplete head, or what came while an exchange is under way
        self._partial = False  # part of a head or body is here: silence is 408 now
        self._head: Head | None = None  # the request whose body is arriving
        self._left = 0  # bytes of that body that are missing (Content-Length)
        self._decoder: ChunkDecoder | None = None
        self._parts: list[bytes] | None = None
        self._skip = 0  # bytes of a refused request's body to drop
        self._closing = False  # nothing that arrives from now on is served
        self._dropped = 0
        self._consuming = False
        self._stopped = False  # reading is paused

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        listener = self._listener
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        if not listener.admit(self, self._address):
            self._closing = True
            self.transport.abort()
            return
        listener.deadlines.watch(
            self
        )  # first, for the clock of deadlines stands still while nothing is watched
        self.deadline = listener.deadlines.now + listener.caps.head_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        listener = self._listener
        listener.dismiss(self, self._address)
        listener.deadlines.forget(self)
        self._closing = True
        self._buffer = b""
        self._parts = None
        turn = self._turn
        if turn is not None:
            self._turn = None
            turn.lose()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.abort()
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self._turn is not None or self.paused:
            self._keep(data)
            return
        if self._head is None and not self._skip:
            # As ``_consume`` does it, for what most reads are: one whole request.
            self._consuming = True
            try:
                data = self._read_head(data)
            except Exception as error:  # noqa: BLE001 - as in ``_consume``
                self._fault(error)
            finally:
                self._consuming = False
            if not data:
                return
        self._consume(data)

    def eof_received(self) -> bool:
        """A client that is done sending has gone, as far as an exchange under way is concerned (nginx does the same)."""
        if self._turn is None and not self._closing and self._partial:
            self._broken(CallerError("http-cut-off", "The request was cut off.", status=400))
        elif self._turn is not None:
            return False
        else:
            self._closing = True
            self._listener.outbox.after(self.transport, self.transport.close)
        return True

    def pause_writing(self) -> None:
        self.paused = True
        self.deadline = self._listener.deadlines.now + self._listener.caps.stall_seconds

    def resume_writing(self) -> None:
        self.paused = False
        turn = self._turn
        if turn is not None:
            self.deadline = NEVER
            if turn.on_writable is not None:
                turn.on_writable()
        elif not self._closing:
            self.deadline = self._listener.deadlines.now + self._listener.caps.idle_seconds
            self._go_on()

    def on_deadline(self) -> None:
        """Silence for too long: say 408 to half a request, and just close what is idle, stalled or lingering."""
        if self._closing or self.paused:
            self.abort()
        elif self._partial:
            self._broken(CallerError("http-timeout", "The request took too long to arrive.", status=408))
        elif self._turn is None:
            self._closing = True
            self.transport.close()

    # Reading.

    def _consume(self, data: bytes) -> None:
        self._consuming = True
        try:
            while data and self._turn is None and not self._closing and not self.paused:
                if self._skip:
                    dropped = min(self._skip, len(data))
                    self._skip -= dropped
                    data = data[dropped:]
                elif self._head is None:
                    data = self._read_head(data)
                else:
                    data = self._read_body(self._head, data)
        except Exception as error:  # noqa: BLE001  # a parse error or a bug in the front: nothing is served
            self._fault(error)
        finally:
            self._consuming = False
        if data and not self._closing:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        """Let bytes wait for the exchange under way, and stop reading when there are many."""
        self._buffer = data
        if len(data) > AHEAD_BYTES and not self._stopped:
            self._stopped = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Serve what has waited."""
        if self._stopped:
            self._stopped = False
            self.transport.resume_reading()
        if self._buffer and not self._consuming:
            data = self._buffer
            self._buffer = b""
            self._consume(data)

    def _read_head(self, data: bytes) -> bytes:
        """Take a head off ``data``; the bytes that are left to look at."""
        block, head = self._last
        if not data.startswith(
            block
        ):  # a head holds its own end, so that an equal beginning is an equal head
            end = data.find(END_OF_HEAD, 0, limits.HEAD_BYTES)
            if end < 0:
                self._await_head(data)
                return b""
            self._last = block, head = self._listener.head_of(data[: end + 4], self._certificate)
        start = len(block)
        front = self._front
        refusal = front.head(head, self._address)
        if refusal is not None:
            return self._refuse(head, refusal, data[start:])
        length = head.content_length
        if not length and not head.chunked:
            self._serve(head, b"")
            return data[start:]
        limit = front.body_limit(head)
        if length is None:
            self._decoder = ChunkDecoder(limit)
        elif length > limit:
            raise CallerError("body-too-large", f"A body has at most {limit} bytes here.", status=413)
        elif start + length <= len(data):
            stop = start + length
            # As ``_serve`` does, for most requests.
            self._partial = False
            self.deadline = NEVER
            turn = self._turn = Turn(self, head, self._address)
            front.body(head, data[start:stop], turn)
            return data[stop:]
        else:
            self._left = length
        self._await_body(head, told=start < len(data))
        return data[start:]

    def _await_head(self, data: bytes) -> None:
        """Keep the beginning of a head, if it can still become one."""
        check_partial_head(data)
        if not self._partial:
            self._partial = True
            self.deadline = self._listener.deadlines.now + self._listener.caps.head_seconds
        self._buffer = data

    def _await_body(self, head: Head, *, told: bool) -> None:
        """Gather a body. ``told``: the client sends it without waiting for a 100."""
        listener = self._listener
        self._head = head
        self._parts = []
        self._partial = True
        self.deadline = listener.deadlines.now + listener.caps.body_seconds
        if head.expects_continue and not told:
            listener.outbox.write(self.transport, CONTINUE)

    def _read_body(self, head: Head, data: bytes) -> bytes:
        parts = cast("list[bytes]", self._parts)
        decoder = self._decoder
        if decoder is not None:
            more, done, rest = decoder.feed(data)
            parts.extend(more)
        else:
            part = data[: self._left]
            rest = data[self._left :]
            parts.append(part)
            self._left -= len(part)
            done = not self._left
        if done:
            self._head = self._decoder = self._parts = None
            self._serve(head, b"".join(parts))
        return rest

    def _serve(self, head: Head, body: bytes) -> None:
        self._partial = False
        self.deadline = NEVER
        turn = self._turn = Turn(self, head, self._address)
        self._front.body(head, body, turn)

    # Answering.

    def _refuse(self, head: Head, refusal: Reply, rest: bytes) -> bytes:
        """Answer before the body was read; the connection lives on only if that body's end is certain and near."""
        self._partial = False
        length = head.content_length or 0
        missing = length - len(rest)
        keep = not head.chunked and not (head.expects_continue and missing > 0) and missing <= SKIP_BYTES
        self.deadline = self._listener.deadlines.now + self._listener.caps.idle_seconds
        self.reply(head, refusal, keep=keep)
        if not keep:
            return b""
        self._skip = length
        return rest

    def _fault(self, error: Exception) -> None:
        turn = self._turn
        if turn is not None:
            self._turn = None
            if not turn.drop():  # part of an answer is out: it cannot be mended
                self.abort()
                return
        self._broken(error)

    def _broken(self, error: Exception) -> None:
        self._partial = False
        self._head = self._decoder = self._parts = None
        self.reply(None, self._listener.front.broken(error, self._address), keep=False)

    def reply(self, head: Head | None, reply: Reply, *, keep: bool) -> None:
        """Write a whole answer and, unless ``keep`` and everything else allow another request, close after it."""
        listener = self._listener
        keep = keep and head is not None and head.keep_alive and not reply.close and not listener.draining
        body = reply.body
        status = reply.status
        opening = listener.opening(status)
        if keep and status == 200 and head is not None and head.verb == "POST":
            size = b"Content-Length: %d\r\n\r\n" % len(body)
            fields = head.answer_fields + reply.fields
            if len(body) <= JOIN_BYTES:
                listener.outbox.write(self.transport, b"".join((opening, fields, size, body)))
            else:
                listener.outbox.write(self.transport, b"".join((opening, fields, size)))
                listener.outbox.write(self.transport, body)
            return
        if status == 204 or status == 304:
            size = b""
            body = b""
        else:
            size = b"Content-Length: %d\r\n" % len(body)
        if head is not None and head.verb == "HEAD":
            body = b""
        ending = b"\r\n" if keep else b"Connection: close\r\n\r\n"
        fields = reply.fields if head is None else head.answer_fields + reply.fields
        listener.outbox.write(self.transport, b"".join((opening, fields, size, ending, body)))
        if not keep:
            self._shut()

    def open_stream(self, head: Head, status: int, fields: bytes) -> None:
        """Write the head of a streamed answer."""
        if head.minor == 0:
            framing = b"Connection: close\r\n\r\n"
        elif head.keep_alive and not self._listener.draining:
            framing = b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            framing = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        self._last = _NOTHING  # a stream may stay for long, and nothing may follow it
        self.transport.set_write_buffer_limits(limits.STREAM_BUFFER_BYTES)
        self._listener.outbox.write(
            self.transport, self._listener.opening(status) + head.answer_fields + fields + framing
        )

    def send(self, data: bytes) -> None:
        """Write a part of a streamed answer."""
        self._listener.outbox.write(self.transport, data)

    def close_stream(self, head: Head, last: bytes) -> None:
        """Finish a streamed answer."""
        if last:
            self._listener.outbox.write(self.transport, last)
        self.transport.set_write_buffer_limits()
        if not head.keep_alive or self._listener.draining:
            self._shut()

    def over(self, turn: Turn) -> None:
        """The answer of ``turn`` is complete: go on with the next request."""
        if self._turn is not turn:
            return
        self._turn = None
        if self._closing:
            return
        listener = self._listener
        caps = listener.caps
        self.deadline = listener.deadlines.now + (caps.stall_seconds if self.paused else caps.idle_seconds)
        if self._buffer or self._stopped:
            self._go_on()

    def _shut(self) -> None:
        """Close once everything is written; the peer's last bytes are read so that no reset destroys the answer."""
        self._closing = True
        self._buffer = b""
        self.deadline = self._listener.deadlines.now + LINGER_SECONDS
        self._listener.outbox.after(self.transport, self._end_writing)

    def _end_writing(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        if self._stopped:
            self._stopped = False
            transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def forget_certificate(self) -> None:
        """The authorities that vouched for the client's certificate are not in force any more."""
        if self._certificate is not None:
            self._certificate = None
            self._last = _NOTHING
            self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close a connection that waits for a request."""
        if self._turn is None and not self._partial and not self._closing:
            self._closing = True
            self._listener.outbox.after(self.transport, self.transport.close)

    def abort(self) -> None:
        """Break the connection at once."""
        self._closing = True
        turn = self._turn
        if turn is not None:
            self._turn = None
            turn.lose()
        self._listener.outbox.forget(self.transport)
        self.transport.abort()


async def listen(
    host: str,
    port: int,
    front: Front,
    outbox: Outbox,
    deadlines: Deadlines,
    *,
    caps: FaceCaps | None = None,
    tls: ssl.SSLContext | None = None,
    reuse_port: bool = True,
    sock: socket.socket | None = None,
    backlog: int = 1_024,
) -> HttpListener:
    """Accept clients on ``host``:``port``, or on the bound socket ``sock``. Raises OSError when it cannot."""
    listener = HttpListener(front, outbox, deadlines, caps)
    loop = asyncio.get_running_loop()

    door = listener.door = None if tls is None else TlsDoor(tls)

    def make() -> HttpFace | TlsConnection:
        if door is None:
            return HttpFace(listener)
        return TlsConnection(door, deadlines, lambda certificate: HttpFace(listener, certificate))

    # A TLS connection is the protocol of its plain transport without being an asyncio.Protocol by name.
    factory = cast("Callable[[], asyncio.Protocol]", make)
    if sock is not None:
        server = await loop.create_server(factory, sock=sock, backlog=backlog)
    else:
        server = await loop.create_server(factory, host, port, reuse_port=reuse_port, backlog=backlog)
    listener.attach(server)
    return listener
