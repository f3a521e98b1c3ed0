"""Server-sent events, read and written (WHATWG HTML §9.2.5-9.2.6; MCP basic/transports, Streamable HTTP)."""

from __future__ import annotations

import re

import msgspec

from doorward.base.errors import UpstreamError

_BOM = b"\xef\xbb\xbf"
_PLAIN = b"event: message\ndata: "
_BARE = b"data: "
_LINE_END = re.compile(rb"\r\n|\r|\n")
_RETRY_DIGITS = 10
_LINES_COUNT = 131_072  # of one event: a million short ones would hold up the loop for a second
_ID_BYTES = 1_024  # longer event ids are dropped like those with NUL


class SseEvent(msgspec.Struct, frozen=True):
    """One event. ``id`` is its own id field or "", ``retry`` the reconnection time in milliseconds or None."""

    event: str
    id: str
    data: str
    retry: int | None


def only_message(body: bytes, max_event_bytes: int) -> bytes | None:
    """The data, where a whole stream is exactly one ``message`` event of one line of ASCII, as most answers are; None for
    all else, which ``SseReader`` reads."""
    start = len(_PLAIN) if body.startswith(_PLAIN) else len(_BARE) if body.startswith(_BARE) else 0
    if not start or body[-2:] != b"\n\n" or len(body) > max_event_bytes or not body.isascii():
        return None
    data = body[start:-2]
    return data if data and b"\n" not in data and b"\r" not in data else None


class SseReader:
    """Read a stream in pieces of any size. An event that the end of the stream cuts off is never handed out."""

    __slots__ = (
        "_begun", "_data", "_event", "_has_fields", "_head", "_id", "_limit", "_retry", "_size", "_skip_lf", "_tail",
    )  # fmt: skip

    def __init__(self, max_event_bytes: int) -> None:
        self._limit = max_event_bytes
        self._tail: list[bytes] | None = None  # pieces of a line that has not ended yet
        self._size = 0  # bytes since the last blank line, comments included
        self._begun = False
        self._skip_lf = False  # the last piece ended in CR: a LF that follows belongs to it
        self._head = b""  # fewer than three first bytes, which may be the start of a byte order mark
        self._reset()

    def _reset(self) -> None:
        self._data: list[bytes] | None = None
        self._event = b""
        self._id = b""
        self._retry: int | None = None
        self._has_fields = False
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes and give the events that they complete.

        An event with an id or a retry time but no data is given too: MCP servers prime streams with it.
        Raises UpstreamError ``upstream-event-too-large`` when one event, or what comes between two, exceeds the cap, and
        ``upstream-event-encoding`` when an event is not UTF-8.
        """
        if not self._begun:
            if chunk.startswith(_PLAIN) and (event := self._whole(chunk)) is not None:
                return [event]
            chunk = self._strip_bom(chunk)
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if not chunk:
            return []
        lines = _LINE_END.split(chunk)
        rest = lines.pop()
        self._skip_lf = chunk[-1] == 0x0D
        events: list[SseEvent] = []
        for line in lines:
            self._grow(len(line) + 1)
            if self._tail is not None:
                self._tail.append(line)
                line = b"".join(self._tail)
                self._tail = None
            if line:
                self._take(line)
            else:
                if self._has_fields:
                    events.append(self._finish())
                self._reset()
        if rest:
            self._grow(len(rest))
            if self._tail is None:
                self._tail = [rest]
            else:
                self._tail.append(rest)
        return events

    def _whole(self, chunk: bytes) -> SseEvent | None:
        """The event, where a stream begins with exactly one of one line, as most answers do; None for all else."""
        data = chunk[len(_PLAIN) : -2]
        if self._head or chunk[-2:] != b"\n\n" or b"\n" in data or b"\r" in data or len(chunk) > self._limit:
            return None
        try:
            event = SseEvent("message", "", data.decode(), None)
        except UnicodeDecodeError:
            return None  # the long way tells what is wrong
        self._begun = True
        return event

    def _strip_bom(self, chunk: bytes) -> bytes:
        self._head += chunk
        if len(self._head) < len(_BOM) and _BOM.startswith(self._head):
            return b""
        chunk, self._head, self._begun = self._head, b"", True
        return chunk.removeprefix(_BOM)

    def _grow(self, count: int) -> None:
        self._size += count
        if self._size > self._limit or len(self._data or ()) > _LINES_COUNT:
            raise UpstreamError("upstream-event-too-large", "The server sent an event that is too large.")

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if not name:
            return  # a comment
        value = value.removeprefix(b" ")
        if name == b"data":
            if self._data is None:
                self._data = [value]
            else:
                self._data.append(value)
            self._has_fields = True
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if b"\0" not in value and len(value) <= _ID_BYTES:
                self._id = value
                self._has_fields = True
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self._retry = int(value)
            self._has_fields = True

    def _finish(self) -> SseEvent:
        data = b"\n".join(self._data or ())
        try:
            return SseEvent(self._event.decode() or "message", self._id.decode(), data.decode(), self._retry)
        except UnicodeDecodeError:
            raise UpstreamError(
                "upstream-event-encoding", "The server sent an event that is not UTF-8."
            ) from None


def write_event(data: bytes, event_id: str = "", retry_ms: int | None = None) -> bytes:
    """Write one event of the default type ``message``; ``data`` is JSON on one line, or b"" to prime a stream.

    Line ends inside ``data`` become further data lines, so nothing in it can end the event. ``event_id`` is ours:
    ASCII without line ends.
    """
    if retry_ms is None and b"\n" not in data and b"\r" not in data:
        return (
            b"id: %b\ndata: %b\n\n" % (event_id.encode("ascii"), data) if event_id else b"data: %b\n\n" % data
        )
    parts: list[bytes] = []
    if event_id:
        parts.append(b"id: " + event_id.encode("ascii") + b"\n")
    if retry_ms is not None:
        parts.append(b"retry: %d\n" % retry_ms)
    if b"\n" in data or b"\r" in data:
        parts.extend(b"data: " + line + b"\n" for line in _LINE_END.split(data))
        parts.append(b"\n")
    else:
        parts.append(b"data: " + data + b"\n\n")
    return b"".join(parts)


def write_comment() -> bytes:
    """Write a keep-alive that every reader ignores."""
    return b":\n\n"
