"""Newline-delimited messages on a byte stream (MCP basic/transports, stdio)."""

from __future__ import annotations

from doorward.base.errors import UpstreamError


class LineReader:
    """Cut a byte stream into lines at LF, in pieces of any size. No other character ends a line."""

    def __init__(self, max_line_bytes: int) -> None:
        self._limit = max_line_bytes
        self._tail: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and give the lines that they complete, without LF or CRLF; empty lines are left out.

        Raises UpstreamError ``upstream-line-too-large`` when a line exceeds the cap, ended or not.
        """
        lines = chunk.split(b"\n")
        rest = lines.pop()
        whole: list[bytes] = []
        for line in lines:
            if self._tail:
                self._tail.append(line)
                line = b"".join(self._tail)
                self._tail = []
                self._size = 0
            if len(line) > self._limit:
                raise _too_large()
            line = line.removesuffix(b"\r")
            if line:
                whole.append(line)
        if rest:
            self._size += len(rest)
            if self._size > self._limit:
                raise _too_large()
            self._tail.append(rest)
        return whole


def _too_large() -> UpstreamError:
    return UpstreamError("upstream-line-too-large", "The server sent a line that is too large.")
