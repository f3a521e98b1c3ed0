"""One event stream towards a legacy client: numbered events, a bounded replay buffer, a client that comes and goes.

Implements 2025-11-25 basic/transports "Resumability and Redelivery": event ids are unique in the session, name their
stream, and a stream never replays another stream's messages.
"""

from __future__ import annotations

from collections.abc import Callable

from doorward.base import limits
from doorward.gateway.answers import STREAM_FIELDS
from doorward.gateway.ports import Responder
from doorward.protocol.sse import write_event

_RETRY_MS = 300_000  # the longest that a server may ask a client to stay away
KEEP_ALIVE = b": keep-alive\n\n"


class Stream:
    """Events for one POST, or for what the server says on its own."""

    __slots__ = (
        "_buffer",
        "_buffer_bytes",
        "_delivered",
        "_sequence",
        "expires_at",
        "finished",
        "heard",
        "key",
        "on_writable",
        "responder",
        "rests_since",
        "upstream_event",
        "waits_upstream",
        "wakes",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self.responder: Responder | None = None
        self.finished = False
        self.heard = False  # something was written since the last keep-alive round
        self.upstream_event = ""  # last event id that the server gave: where to resume it
        self.waits_upstream = False  # the server closed its stream early and wants to be asked again
        self.on_writable: Callable[[], None] | None = None  # called each time that a client can take more
        self.wakes: list[Callable[[], None]] | None = None  # called once when a client can take more
        self.rests_since = 0.0  # monotonic seconds: when it was first seen finished
        self.expires_at = 0.0  # Unix seconds: when the token behind the attached client ends; 0 is never
        self._sequence = 0
        self._delivered = 0  # the last event that was written to some client
        self._buffer: list[tuple[int, bytes]] | None = None  # the newest events with their numbers
        self._buffer_bytes = 0

    @property
    def is_paused(self) -> bool:
        """True while the attached client cannot take more."""
        return self.responder is not None and self.responder.is_paused

    @property
    def size_bytes(self) -> int:
        """What is kept for resumption."""
        return self._buffer_bytes

    @property
    def is_attached(self) -> bool:
        """True while a client listens."""
        return self.responder is not None

    def attach(self, responder: Responder, after: int | None, extra_fields: bytes = b"") -> None:
        """Start the answer to a client, with all kept events after ``after`` (None: those no client got yet)."""
        after = self._delivered if after is None else after
        previous = self.responder
        self.responder = responder
        if previous is not None:
            previous.on_gone = None
            previous.end()  # a client that resumes a stream replaces itself
        responder.on_gone = self._gone
        responder.on_writable = self._writable
        responder.start(200, STREAM_FIELDS + extra_fields)
        for sequence, event in self._buffer or ():
            if sequence > after:
                responder.write(event)
                self._delivered = max(self._delivered, sequence)
        if self.finished:
            self._end()
        elif not responder.is_paused:
            self._writable()  # what waited for the client before need not wait for this one

    def _gone(self) -> None:
        self.responder = None
        self._writable()  # a source must not stay paused for a client that left

    def wake_later(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once, when a client can take more."""
        if self.wakes is None:
            self.wakes = [wake]
        else:
            self.wakes.append(wake)

    def _writable(self) -> None:
        if self.wakes:
            wakes, self.wakes = self.wakes, None
            for wake in wakes:
                wake()
        if self.on_writable is not None:
            self.on_writable()

    def prime(self, retry_ms: int | None = None) -> None:
        """Send an event id with empty data, so that the client can resume from the very start."""
        # A server's wish to be left alone for longer would keep the client from what others say.
        self.send(b"", None if retry_ms is None else min(retry_ms, _RETRY_MS))

    def send(self, data: bytes, retry_ms: int | None = None) -> None:
        """Send one message (or an empty priming event) and keep it for resumption."""
        sequence = self._sequence = self._sequence + 1
        event = write_event(data, f"{self.key}-{sequence}", retry_ms)
        if self._buffer is None:
            self._buffer = [(sequence, event)]
            self._buffer_bytes = len(event)
        else:
            self._buffer.append((sequence, event))
            self._buffer_bytes += len(event)
            self._bound(self._buffer)
        self.heard = True
        if self.responder is not None:
            self.responder.write(event)
            self._delivered = sequence

    def _bound(self, kept: list[tuple[int, bytes]]) -> None:
        """Forget the oldest events beyond the caps."""
        while len(kept) > limits.REPLAY_EVENTS or (
            self._buffer_bytes > limits.REPLAY_BYTES and len(kept) > 1
        ):
            self._buffer_bytes -= len(kept.pop(0)[1])

    def keep_alive(self) -> None:
        """Write a comment if nothing else was written since the last round."""
        if self.responder is not None and not self.heard and not self.finished:
            self.responder.write(KEEP_ALIVE)
        self.heard = False

    def finish(self) -> None:
        """Nothing more will come on this stream."""
        self.finished = True
        self._end()

    def suspend(self) -> None:
        """End the client's answer for now; the stream can be resumed."""
        self._end()

    def _end(self) -> None:
        responder, self.responder = self.responder, None
        if responder is not None:
            responder.on_gone = None
            responder.end()
            self._writable()  # nor for one that left


def parse_event_id(event_id: str) -> tuple[str, int] | None:
    """Stream key and sequence number of one of our event ids."""
    key, dash, number = event_id.rpartition("-")
    if not dash or not key or not number.isascii() or not number.isdigit() or len(number) > 12:
        return None
    return key, int(number)
