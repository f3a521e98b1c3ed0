"""The bus between the supervisor and one worker: asks, one-way messages and channels over an inherited socket pair.

A frame is four bytes of length (big endian) and one MessagePack array whose first member is its kind. There is no path
in the file system and no other way in: both ends come from one ``socketpair``. When the other end goes away, everything
that waits fails at once.

Channels are flow-controlled by a window of bytes in each direction: a receiver that is paused stops granting credit,
and the sender then keeps what it is given, up to ``BACKLOG_BYTES``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.adapters.bus_frames import FRAME_BYTES, LENGTH_BYTES, FrameReader, pack_error, unpack_error
from doorward.base import errors

if TYPE_CHECKING:
    import socket

WINDOW_BYTES = (
    1_048_576  # unacknowledged bytes of one channel and direction; one larger message may still pass alone
)
BACKLOG_BYTES = (
    67_108_864  # what a channel keeps for a receiver that does not read; beyond it the channel is closed
)
WRITE_BUFFER_BYTES = 268_435_456  # an end that reads nothing at all is lost
_CREDIT_BYTES = WINDOW_BYTES // 4  # acknowledge in portions of this

# Kinds of frames. Channel numbers are positive when sent by the end that opened the channel, negative by the other.
_TELL, _ASK, _ANSWER, _FAULT, _OPEN, _DATA, _CLOSE, _CREDIT = range(8)

_log = logging.getLogger("doorward.bus")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def _deaf(_: Any) -> None:
    """What a channel does with messages until somebody listens."""


def _call(listener: Callable[..., None], *arguments: Any) -> bool:
    """Call a listener; False when it failed, which is on the log and must not end the bus."""
    try:
        listener(*arguments)
    except Exception:  # noqa: BLE001
        _log.exception("a listener on the bus failed")
        return False
    return True


class Channel:
    """A two-way stream of messages within a bus connection. Messages arrive in order, a close after all of them."""

    def __init__(
        self,
        peer: Peer,
        number: int,
        *,
        on_message: Callable[[Any], None] = _deaf,
        on_close: Callable[[str], None] = _deaf,
    ) -> None:
        self.on_message = on_message
        self.on_close = on_close  # called once with a reason, unless this end closed the channel itself
        self.on_writable: Callable[[], None] | None = None  # called when ``is_congested`` turns false
        self._peer = peer
        self._number = number
        self._credit = WINDOW_BYTES  # bytes that may still be sent
        self._outgoing: deque[bytes] = deque()
        self._outgoing_bytes = 0
        self._incoming: deque[tuple[Any, int]] = deque()  # while paused
        self._consumed = 0  # bytes taken and not yet acknowledged
        self._paused = False
        self._delivering = False
        self._ended: str | None = None  # the other end closed, with this reason
        self._closing: str | None = None  # this end closed, with this reason
        self._over = False

    @property
    def is_closed(self) -> bool:
        """True once either end has closed the channel."""
        return self._over or self._closing is not None or self._ended is not None

    @property
    def is_congested(self) -> bool:
        """True while messages wait here because the other end does not take them: stop producing."""
        return bool(self._outgoing)

    def send(self, payload: Any) -> None:
        """Send one message; quietly dropped once the channel is closed."""
        if self.is_closed:
            return
        frame = _encode([_DATA, self._number, payload])
        if len(frame) > FRAME_BYTES:
            self._fail("bus-frame")
            return
        if self._outgoing or self._credit <= 0:
            self._outgoing.append(frame)
            self._outgoing_bytes += len(frame)
            if self._outgoing_bytes > BACKLOG_BYTES:
                self._fail("bus-overflow")
            return
        self._credit -= len(frame)
        self._peer.write_frame(frame)

    def close(self, reason: str = "") -> None:
        """End the channel; what was sent before still arrives. No callback follows at this end."""
        if self.is_closed:
            self._forget()
            return
        self._closing = reason
        self._incoming.clear()
        if not self._outgoing:
            self._finish()

    def pause(self) -> None:
        """Deliver nothing until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        """Deliver again, beginning with what arrived meanwhile."""
        self._paused = False
        self._deliver()

    # -- called by the peer -------------------------------------------------------------------------------------

    def take(self, payload: Any, size: int) -> None:
        """A message arrived that took ``size`` bytes of the window."""
        if self.is_closed:
            return
        self._incoming.append((payload, size))
        self._deliver()

    def granted(self, size: int) -> None:
        """The other end took ``size`` bytes."""
        self._credit += size
        waited = bool(self._outgoing)
        while self._outgoing and self._credit > 0:
            frame = self._outgoing.popleft()
            self._outgoing_bytes -= len(frame)
            self._credit -= len(frame)
            self._peer.write_frame(frame)
        if self._outgoing:
            return
        if self._closing is not None:
            self._finish()
        elif waited and self.on_writable is not None:
            _call(self.on_writable)

    def ended(self, reason: str) -> None:
        """The other end closed the channel, or is gone."""
        if self._over:
            return
        if self._closing is not None:
            self._forget()
            return
        if self._ended is None:
            self._ended = reason
            self._outgoing.clear()
        self._deliver()

    # -- inside -------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._incoming and not self._paused and self._closing is None and not self._over:
                payload, size = self._incoming.popleft()
                self._acknowledge(size)
                if not _call(self.on_message, payload):
                    self._fail("bus-fault")
                    return
        finally:
            self._delivering = False
        if self._ended is not None and not self._incoming and not self._over and not self._paused:
            self._forget()
            _call(self.on_close, self._ended)

    def _acknowledge(self, size: int) -> None:
        self._consumed += size
        if self._consumed >= _CREDIT_BYTES and self._ended is None:
            self._peer.write_frame(_encode([_CREDIT, self._number, self._consumed]))
            self._consumed = 0

    def _fail(self, reason: str) -> None:
        """Close at both ends, telling both."""
        self._peer.write_frame(_encode([_CLOSE, self._number, reason]))
        self._forget()
        _call(self.on_close, reason)

    def _finish(self) -> None:
        self._peer.write_frame(_encode([_CLOSE, self._number, self._closing]))
        self._forget()

    def _forget(self) -> None:
        self._over = True
        self._outgoing.clear()
        self._incoming.clear()
        self._peer.forget(self._number)


class Peer(asyncio.Protocol):
    """One end of a bus connection. Use it from its event loop only."""

    def __init__(self, on_close: Callable[[str], None] | None = None) -> None:
        """``on_close(reason)`` is called once when the other end is gone or broken."""
        self.on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._lost: str | None = None
        self._counter = 0
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._answers: dict[str, Callable[[Any], Any | Awaitable[Any]]] = {}
        self._tells: dict[str, Callable[[Any], None]] = {}
        self._accepts: dict[str, Callable[[Any, Channel], None]] = {}
        self._channels: dict[int, Channel] = {}  # by the number that this end sends
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def over(cls, sock: socket.socket, on_close: Callable[[str], None] | None = None) -> Peer:
        """Speak on one end of a ``socketpair``; the peer owns the socket from now on."""
        sock.setblocking(False)
        peer = cls(on_close)
        await asyncio.get_running_loop().create_unix_connection(lambda: peer, sock=sock)
        return peer

    @property
    def is_lost(self) -> bool:
        """True once the other end is gone."""
        return self._lost is not None

    # -- what both ends use -------------------------------------------------------------------------------------

    def answer(self, topic: str, fn: Callable[[Any], Any | Awaitable[Any]]) -> None:
        """Answer asks on ``topic`` with what ``fn`` returns; ``DoorwardError`` that it raises crosses to the asker."""
        self._answers[topic] = fn

    def on_tell(self, topic: str, fn: Callable[[Any], None]) -> None:
        """Call ``fn`` with each one-way message on ``topic``."""
        self._tells[topic] = fn

    def accept(self, topic: str, fn: Callable[[Any, Channel], None]) -> None:
        """Let ``fn`` have the channels that the other end opens on ``topic``; it sets their callbacks before returning."""
        self._accepts[topic] = fn

    async def ask(self, topic: str, payload: Any, *, timeout_seconds: float = 5.0) -> Any:
        """Ask the other end and wait.

        Raises: StoreError ``bus-lost`` or ``bus-timeout``; whatever error of ours the other end raised.
        """
        if self._lost is not None:
            raise _lost_error(self._lost)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        number = self._next()
        self._asks[number] = future
        timer = loop.call_later(timeout_seconds, self._timed_out, number, topic)
        try:
            self.write_frame(_encode([_ASK, number, topic, payload]))
            return await future
        finally:
            timer.cancel()
            self._asks.pop(number, None)

    def tell(self, topic: str, payload: Any) -> None:
        """Send one way; dropped when the other end is gone."""
        self.write_frame(_encode([_TELL, topic, payload]))

    def open(
        self, topic: str, payload: Any, *, on_message: Callable[[Any], None], on_close: Callable[[str], None]
    ) -> Channel:
        """Open a channel. ``on_close`` is called, never from inside this call, when the other end will not have it."""
        number = self._next()
        channel = Channel(self, number, on_message=on_message, on_close=on_close)
        if self._lost is not None:
            asyncio.get_running_loop().call_soon(channel.ended, self._lost)
            return channel
        self._channels[number] = channel
        self.write_frame(_encode([_OPEN, number, topic, payload]))
        return channel

    def close(self) -> None:
        """Hang up after what was written has been sent. ``on_close`` is called at both ends."""
        if self._transport is not None:
            self._transport.close()

    # -- for channels -------------------------------------------------------------------------------------------

    def write_frame(self, frame: bytes) -> None:
        """Put one encoded frame on the wire."""
        transport = self._transport
        if transport is None or self._lost is not None or transport.is_closing():
            return
        if len(frame) > FRAME_BYTES:
            raise errors.StoreError("bus-frame", "A message is too long for the bus.", str(len(frame)))
        transport.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
        if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
            self._break("the other end does not read")

    def forget(self, number: int) -> None:
        """A channel is over."""
        self._channels.pop(number, None)

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        try:
            frames = self._reader.feed(data)
        except errors.StoreError as error:
            return self._break(error.tell)
        for frame in frames:
            if self._lost is not None:
                return None
            try:
                self._dispatch(_decode(frame), len(frame))
            except Exception:  # noqa: BLE001 - logged, and refused
                _log.exception("a frame on the bus could not be served")
                return self._break("a frame that cannot be understood")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._give_up("the other end is gone" if exc is None else type(exc).__name__)

    # -- inside -------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    def _break(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        asks, self._asks = self._asks, {}
        for future in asks.values():
            if not future.done():
                future.set_exception(_lost_error(reason))
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.ended("bus-lost")
        for task in self._tasks:
            task.cancel()
        if self.on_close is not None:
            _call(self.on_close, reason)

    def _timed_out(self, number: int, topic: str) -> None:
        future = self._asks.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(
                errors.StoreError("bus-timeout", "Another process did not answer in time.", topic)
            )

    def _dispatch(self, frame: Any, size: int) -> None:
        match frame:
            case [0, str(topic), payload]:
                self._hear(topic, payload)
            case [1, int(number), str(topic), payload]:
                self._serve(number, topic, payload)
            case [2, int(number), payload]:
                self._settle(number, payload, None)
            case [3, int(number), packed]:
                self._settle(number, None, unpack_error(packed))
            case [4, int(number), str(topic), payload] if number > 0:
                self._opened(number, topic, payload)
            case [5, int(number), payload]:
                if (channel := self._channels.get(-number)) is not None:
                    channel.take(payload, size)
            case [6, int(number), str(reason)]:
                if (channel := self._channels.get(-number)) is not None:
                    channel.ended(reason)
            case [7, int(number), int(granted)]:
                if (channel := self._channels.get(-number)) is not None:
                    channel.granted(granted)
            case _:
                raise errors.StoreError("bus-frame", "A frame on the bus is not one of ours.")

    def _hear(self, topic: str, payload: Any) -> None:
        listener = self._tells.get(topic)
        if listener is not None:
            _call(listener, payload)

    def _settle(self, number: int, payload: Any, error: errors.DoorwardError | None) -> None:
        future = self._asks.pop(number, None)
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(payload)

    def _serve(self, number: int, topic: str, payload: Any) -> None:
        fn = self._answers.get(topic)
        try:
            if fn is None:
                raise errors.StoreError("bus-topic", "Nobody answers this on the bus.", topic)
            found = fn(payload)
        except Exception as error:  # noqa: BLE001 - every failure reaches the asker
            return self._fault(number, topic, error)
        if isawaitable(found):
            self._spawn(self._serve_later(number, topic, found))
            return None
        return self._reply(number, topic, found)

    async def _serve_later(self, number: int, topic: str, waiting: Awaitable[Any]) -> None:
        try:
            found = await waiting
        except Exception as error:  # noqa: BLE001 - every failure reaches the asker
            return self._fault(number, topic, error)
        return self._reply(number, topic, found)

    def _reply(self, number: int, topic: str, found: Any) -> None:
        try:
            self.write_frame(_encode([_ANSWER, number, found]))
        except Exception as error:  # noqa: BLE001 - an answer that cannot be written is a fault, not silence
            self._fault(number, topic, error)

    def _fault(self, number: int, topic: str, error: Exception) -> None:
        if not isinstance(error, errors.DoorwardError):
            _log.error("an answer on the bus failed", exc_info=error, extra={"topic": topic})
        self.write_frame(_encode([_FAULT, number, pack_error(error)]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _opened(self, number: int, topic: str, payload: Any) -> None:
        channel = Channel(self, -number)
        self._channels[-number] = channel
        fn = self._accepts.get(topic)
        if fn is None:
            channel.close("bus-topic")
            return
        try:
            fn(payload, channel)
        except errors.DoorwardError as error:
            channel.close(error.code)
        except Exception:  # noqa: BLE001 - logged, and refused
            _log.exception("a channel could not be accepted", extra={"topic": topic})
            channel.close("bus-fault")


def _lost_error(reason: str) -> errors.StoreError:
    return errors.StoreError("bus-lost", "Another process of the gateway is gone.", reason)


def join(channel: Channel, target: Peer, payload: Any) -> None:
    """Pump a channel into a new one towards ``target``, both ways, with back-pressure."""
    far = target.open("relay", payload, on_message=lambda _: None, on_close=channel.close)
    for source, sink in ((channel, far), (far, channel)):
        _pump(source, sink)
    channel.on_close = far.close


def _pump(source: Channel, sink: Channel) -> None:
    def carry(message: Any) -> None:
        sink.send(message)
        if sink.is_congested:
            source.pause()

    source.on_message = carry
    sink.on_writable = source.resume
