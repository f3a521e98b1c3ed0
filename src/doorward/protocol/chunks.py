"""The chunked transfer coding (RFC 9112 7.1), read strictly and written plainly.

Chunk extensions are refused: nobody needs them, and readers that disagree about where one ends are how a second
request gets smuggled in. Trailers are checked, bounded and dropped: they never become header fields.
"""

from __future__ import annotations

import re

from doorward.base.errors import CallerError

LAST_CHUNK = b"0\r\n\r\n"
_WHOLE = b"\r\n" + LAST_CHUNK  # what follows the data of a body in one chunk
TRAILER_BYTES = 4_096
SIZE_DIGITS = 16  # 64 bits
_SMALL_CHUNKS = 10_000  # so many chunks of fewer than 16 bytes on average are an attack on our CPU

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


def encode_chunk(part: bytes) -> bytes:
    """Write one chunk. An empty ``part`` gives b"", because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""


def only_chunk(data: bytes, limit_bytes: int) -> bytes | None:
    """The body, where ``data`` is all of it in exactly one chunk; None for all else, which ``ChunkDecoder`` reads."""
    if not data.endswith(_WHOLE):
        return None
    stop = data.find(b"\r\n", 0, SIZE_DIGITS + 2)
    line = data[: max(stop, 0)]
    if _SIZE.fullmatch(line) is None:
        return None
    size = int(line, 16)
    if not 0 < size == len(data) - stop - 2 - len(_WHOLE) or 0 < limit_bytes < size:
        return None
    return data[stop + 2 : -len(_WHOLE)]


class ChunkDecoder:
    """Takes the bytes after a head, in any pieces, and gives the body's.

    ``limit_bytes`` bounds the decoded body; 0 means a stream without a bound.
    """

    __slots__ = ("_chunks", "_in_trailer", "_left", "_limit", "_line", "_need_end", "_seen", "_trailer_bytes")

    def __init__(self, limit_bytes: int = 0) -> None:
        self._limit = limit_bytes
        self._line = b""  # the beginning of a line whose end has not arrived
        self._left = 0  # bytes that the current chunk still owes
        self._need_end = False  # the chunk's data is complete, its CR LF is not
        self._in_trailer = False
        self._trailer_bytes = 0
        self._seen = 0
        self._chunks = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bool, bytes]:
        """Decode ``data``: the body parts in it, whether the body is complete, and the bytes after its end.

        Raises CallerError ``http-chunk`` (400) or ``body-too-large`` (413); the decoder is dead then.
        """
        if self._chunks == self._seen == 0 and data.endswith(_WHOLE):
            part = self._whole(data)
            if part is not None:
                return [part], True, b""
        parts: list[bytes] = []
        at = 0
        end = len(data)
        while at < end:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                continue
            line, at = self._next_line(data, at)
            if line is None:
                break
            if self._need_end:
                if line:
                    raise _broken("a chunk is longer than its size says")
                self._need_end = False
            elif self._in_trailer:
                if not line:
                    return parts, True, data[at:]
                self._check_trailer(line)
            else:
                self._open(line)
        return parts, False, b""

    def _whole(self, data: bytes) -> bytes | None:
        """The body, where ``data`` is exactly one chunk and the end, as one read often is; None for all else."""
        if self._line or self._left or self._need_end or self._in_trailer:
            return None
        part = only_chunk(data, self._limit)
        if part is not None:
            self._chunks, self._seen, self._in_trailer = 1, len(part), True
        return part

    def _next_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The line that ends at the next CR LF, which may have begun in an earlier piece."""
        limit = TRAILER_BYTES if self._in_trailer else 0 if self._need_end else SIZE_DIGITS
        stop = data.find(b"\n", at, at + limit + 2)
        if stop < 0:
            self._line += data[at : at + limit + 2]
            if len(self._line) > limit + 1 or (self._line and b"\r" in self._line[:-1]):
                raise _broken("a chunk's line is too long or has no CR LF")
            return None, len(data)
        line = self._line + data[at : stop + 1]
        self._line = b""
        if line[-2:-1] != b"\r" or len(line) > limit + 2:
            raise _broken("a chunk's line is too long or has no CR LF")
        return line[:-2], stop + 1

    def _open(self, line: bytes) -> None:
        if _SIZE.fullmatch(line) is None:
            raise _broken("a chunk size must be hexadecimal digits only")
        size = int(line, 16)
        if size == 0:
            self._in_trailer = True
            return
        self._left = size
        self._need_end = True
        if not self._limit:
            return
        self._seen += size
        self._chunks += 1
        if self._seen > self._limit:
            raise CallerError("body-too-large", f"A body has at most {self._limit} bytes here.", status=413)
        if self._chunks > _SMALL_CHUNKS and self._seen < self._chunks * 16:
            raise _broken("the chunks are too small")

    def _check_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > TRAILER_BYTES or _TRAILER.fullmatch(line) is None:
            raise _broken("the trailer is malformed or too large")


def _broken(why: str) -> CallerError:
    return CallerError("http-chunk", f"The chunked body is broken: {why}.", status=400)
