"""A client that says exactly the bytes it is told to, on plain sockets, and reads answers strictly."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

PATIENCE = 15.0  # seconds; the bound of every wait


class Answer:
    """One HTTP answer."""

    def __init__(self, status: int, lines: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.lines = lines
        self.fields = {name.lower(): value for name, value in lines}
        self.body = body

    @property
    def json(self) -> Any:
        """The body as JSON; of an event stream its last message."""
        if self.fields.get("content-type", "").startswith("text/event-stream"):
            return self.messages[-1]
        return json.loads(self.body)

    @property
    def messages(self) -> list[Any]:
        """The messages of an event stream."""
        found = [one for one in self.body.decode().split("\n") if one.startswith("data: ") and len(one) > 6]
        return [json.loads(one[6:]) for one in found]

    @property
    def code(self) -> int | None:
        """The JSON-RPC error code, if this is an error."""
        try:
            return int(self.json["error"]["code"])
        except (ValueError, KeyError, TypeError, IndexError):
            return None

    @property
    def text(self) -> str:
        """The text of a tool's first content block."""
        return str(self.json["result"]["content"][0]["text"])

    @property
    def control(self) -> str:
        """The control that refused."""
        return str(self.json["error"]["data"]["control"])

    def __repr__(self) -> str:
        return f"<{self.status} {self.fields} {self.body[:400]!r}>"


class Wire:
    """One connection."""

    def __init__(
        self,
        port: int | str,
        *,
        rcvbuf: int = 0,
        seconds: float = PATIENCE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``port`` on loopback, or the path of a Unix socket; ``tls`` is spoken where it is given."""
        unix = isinstance(port, str)
        self.sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(seconds)
        try:
            self.sock.connect(port if unix else ("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        if not unix:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            plain = self.sock
            try:
                self.sock = tls.wrap_socket(plain, server_hostname="127.0.0.1")
            except OSError:
                plain.close()
                raise
        self._data = b""
        self._lines: list[tuple[str, str]] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def send(self, data: bytes) -> None:
        """Say bytes as they are; a far end that has answered and closed is no error here."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def _more(self) -> bool:
        data = self.sock.recv(65_536)
        self._data += data
        return bool(data)

    def _line(self) -> bytes:
        while b"\r\n" not in self._data:
            if not self._more():
                raise ConnectionError(f"closed in the middle of a line: {self._data[:200]!r}")
        line, _, self._data = self._data.partition(b"\r\n")
        return line

    def read_head(self) -> tuple[int, list[tuple[str, str]]]:
        """Status and fields of an answer."""
        status = self._line().split(b" ")
        assert status[0] == b"HTTP/1.1", status
        lines = []
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            lines.append((name, value.strip()))
        self._lines = lines
        return int(status[1]), lines

    def read(self, verb: str = "POST") -> Answer:
        """One whole answer."""
        status, lines = self.read_head()
        body = b"" if verb == "HEAD" or status in (204, 304) else b"".join(self.parts())
        return Answer(status, lines, body)

    def parts(self) -> Iterator[bytes]:
        """The body of the answer whose head was read, as it comes."""
        fields = {name.lower(): value for name, value in self._lines}
        if fields.get("transfer-encoding") == "chunked":
            while size := int(self._line(), 16):
                while len(self._data) < size + 2:
                    if not self._more():
                        raise ConnectionError("closed in the middle of a chunk")
                yield self._data[:size]
                self._data = self._data[size + 2 :]
            assert self._line() == b""
            return
        if "content-length" in fields:
            length = int(fields["content-length"])
            while len(self._data) < length:
                if not self._more():
                    raise ConnectionError("closed in the middle of a body")
            yield self._data[:length]
            self._data = self._data[length:]
            return
        while self._more():
            pass
        yield self._data
        self._data = b""

    def is_closed(self) -> bool:
        """Read on and tell whether the far end closes without another answer. Raises TimeoutError if it does neither."""
        try:
            while data := self.sock.recv(65_536):
                self._data += data
        except ConnectionResetError:
            return True
        return True


class Events:
    """The events of one answer as they come: (id, message or None)."""

    def __init__(self, wire: Wire) -> None:
        self._parts = wire.parts()
        self._buffer = ""
        self.wire = wire
        self.last_id = ""

    def close(self) -> None:
        """Leave."""
        self.wire.close()

    def next(self, *, empty: bool = False) -> Any:
        """The next message; with ``empty`` also a priming event, as None. Raises StopIteration at the end."""
        while True:
            while "\n\n" not in self._buffer:
                self._buffer += next(self._parts).decode()
            block, _, self._buffer = self._buffer.partition("\n\n")
            data = None
            for line in block.split("\n"):
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "data":
                    data = (data or "") + value
            if data:
                return json.loads(data)
            if data is not None and empty:
                return None

    def rest(self) -> list[Any]:
        """All messages up to the end; then leave."""
        found = []
        with contextlib.suppress(StopIteration):
            while True:
                found.append(self.next())
        self.close()
        return found


def until(condition: Any, what: str, seconds: float = PATIENCE) -> Any:
    """Wait for a condition and return its value; fail with ``what`` after a bound."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for: {what}"
        time.sleep(0.01)
    return found
