"""Talk to a running Doorward through its admin socket: a file in the data folder that only its owner can open."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from doorward.base.errors import OperatorError

SOCKET_NAME = "admin.sock"
ANSWER_BYTES = 67_108_864
_SECONDS = 10.0
_ADDRESS_BYTES = 100  # macOS takes 104, Linux 108


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a socket that fits into an address of 108 bytes, however deep its folder lies (unix(7)).

    Raises: OSError where the folder is not there, or the system has no such names.
    """
    if len(os.fsencode(path)) < _ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as path:
            self.sock.connect(path)


class AdminClient:
    """One request at a time; answers are JSON documents."""

    def __init__(self, data_dir: Path, *, seconds: float = _SECONDS) -> None:
        self._path = data_dir / SOCKET_NAME
        self._seconds = seconds

    def get(self, path: str) -> Any:
        """Read ``path``, such as "/api/v1/controls".

        Raises:
            OperatorError: ``admin-not-running`` when nobody listens, else ``admin-refused`` or ``admin-answer``.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """Send ``body`` as JSON. Raises as ``get``."""
        return self._ask("POST", path, msgspec.json.encode({} if body is None else body))

    def delete(self, path: str) -> Any:
        """Delete what lies at ``path``. Raises as ``get``."""
        return self._ask("DELETE", path, None)

    def _ask(self, verb: str, path: str, body: bytes | None) -> Any:
        connection = _UnixConnection(self._path, self._seconds)
        fields = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(verb, path, body, fields)
            answer = connection.getresponse()
            content = answer.read(ANSWER_BYTES)
        except TimeoutError as error:
            raise OperatorError(
                "admin-answer", "The running Doorward does not answer; look at its log."
            ) from error
        except OSError as error:
            raise OperatorError(
                "admin-not-running",
                "No Doorward runs with this data folder: start it with `doorward serve`, or name its settings with --config.",
            ) from error
        except http.client.HTTPException as error:
            raise OperatorError("admin-answer", "The admin socket did not answer in HTTP.") from error
        finally:
            connection.close()
        try:
            document = msgspec.json.decode(content) if content else None
        except msgspec.DecodeError as error:
            raise OperatorError("admin-answer", "The admin socket did not answer with JSON.") from error
        if answer.status >= 400:
            raise _refusal(answer.status, document)
        return document


def _refusal(status: int, document: Any) -> OperatorError:
    reason = document.get("error") if isinstance(document, dict) else None
    code = reason.get("code") if isinstance(reason, dict) else None
    tell = (reason.get("tell") or reason.get("message")) if isinstance(reason, dict) else None
    return OperatorError(
        str(code or "admin-refused"), str(tell or f"The running Doorward answered {status}.")
    )
