"""A port that adds a bearer token to every request and changes nothing else, for clients that cannot send one.

Heads and bodies go on byte by byte, Host and Origin with them, so that what lies behind still judges the real request.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.stack.wire import PATIENCE

_CHUNK = 65_536


class TokenShim:
    """Listens on a port of its own until ``close``; what lies behind is told by ``aim``, as it may need the port."""

    def __init__(self) -> None:
        self._target = ("127.0.0.1", 0)
        self._line = b""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def aim(self, port: int, token: str) -> None:
        """Send requests to this port of this machine, with this token."""
        self._target = ("127.0.0.1", port)
        self._line = f"Authorization: Bearer {token}\r\n".encode()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> TokenShim:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target, PATIENCE)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self._lock:
            self._sockets |= {near, far}
        back = threading.Thread(target=self._answers, args=(far, near), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            self._requests(near, far)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR if _half_closed(near) else socket.SHUT_RDWR)
        back.join()
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(_CHUNK):
                near.sendall(data)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = near.recv(_CHUNK)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            start, _, fields = head.partition(b"\r\n")
            far.sendall(start + b"\r\n" + self._line + fields + b"\r\n\r\n")
            left = _content_length(fields)
            while left > 0:
                if not data:
                    data = near.recv(_CHUNK)
                    if not data:
                        return
                far.sendall(data[:left])
                left, data = left - len(data[:left]), data[left:]


def _content_length(fields: bytes) -> int:
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
        assert name.lower() != b"transfer-encoding", "the shim takes bodies by their length only"
    return 0


def _half_closed(near: socket.socket) -> bool:
    """Whether the client may still read: it has sent its end, and nothing is broken."""
    return near.fileno() >= 0 and near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
