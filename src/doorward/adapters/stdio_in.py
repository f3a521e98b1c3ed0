"""The stdio face towards one client: lines in and out, served by the same front as HTTP requests (MCP basic/transports, stdio).

Each line becomes a request of the kind that an HTTP client of its era would send, so that every check, control and cell of the
bridge is the same one. Answers and events become lines; nothing but MCP messages is written, and logs go to stderr (ST-15).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any

from doorward.adapters.outbox import Outbox
from doorward.base import limits
from doorward.base.errors import CallerError, OperatorError, UpstreamError
from doorward.controls.control import Head
from doorward.gateway.ports import Front, Reply
from doorward.protocol import codes
from doorward.protocol.envelope import message_of
from doorward.protocol.headers import modern_fields
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.lines import LineReader
from doorward.protocol.message import Message
from doorward.protocol.modern import VERSION_KEY
from doorward.protocol.sse import SseReader

_log = logging.getLogger("doorward.stdio")
_WRITE_BYTES = limits.STREAM_BUFFER_BYTES
_READ_BYTES = 65_536
_BOTH_TYPES = "application/json, text/event-stream"
_LISTEN_AGAIN_SECONDS = 1.0

SchemaOf = Callable[
    [Message], dict[str, Any] | None
]  # the input schema of the tool that a message calls, as last listed


class StdioFace:
    """The whole face: one client, one server. Implements what a data plane needs of a listener."""

    port = 0

    def __init__(
        self,
        front: Front,
        outbox: Outbox,
        path: str,
        host: str,
        schema_of: SchemaOf,
        on_end: Callable[[], None],
    ) -> None:
        """``path`` and ``host`` are those of the server's endpoint; ``on_end`` is called when the client has gone."""
        self.faces: set[_Turn] = set()  # requests under way
        self.session = ""
        self._version = ""
        self._front = front
        self._outbox = outbox
        self._path = path
        self._host = host
        self._schema_of = schema_of
        self._on_end = on_end
        self._lines = LineReader(limits.LINE_BYTES)
        self._by_id: dict[Any, _Turn] = {}
        self._writer: asyncio.WriteTransport | None = None
        self._reader: asyncio.ReadTransport | None = None
        self._is_paused = False
        self._is_over = False

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take over stdin and stdout; whatever else is printed goes to stderr from now on. Raises: OperatorError, OSError."""
        loop = asyncio.get_running_loop()
        _check_descriptors()
        sys.stdout.flush()
        out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._writer, _ = await loop.connect_write_pipe(lambda: _Out(self), out)
        self._writer.set_write_buffer_limits(high=_WRITE_BYTES)
        mode = os.fstat(0).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            stdin = os.fdopen(os.dup(0), "rb", buffering=0)
            self._reader, _ = await loop.connect_read_pipe(lambda: _In(self), stdin)
        else:  # a terminal, a file or /dev/null, which no loop can wait for
            # A daemon: a read that waits for a person must not hold up the end.
            threading.Thread(target=self._read, args=(loop,), daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            while data := os.read(0, _READ_BYTES):
                loop.call_soon_threadsafe(self.feed, data)
            loop.call_soon_threadsafe(self.eof)

    def close(self) -> None:
        """Read no more."""
        if self._reader is not None and not self._reader.is_closing():
            self._reader.pause_reading()

    async def drain(self, seconds: float) -> None:
        """Let what is under way come to its end, for at most this long."""
        self.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while any(not turn.is_endless for turn in self.faces) and loop.time() < until:
            await asyncio.sleep(0.02)
        self._outbox.flush()
        if self._writer is not None:
            self._writer.close()

    def forget_heads(self) -> None:
        """There is no memo of heads: each line has its own."""

    # -- towards the front --------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes of the client."""
        try:
            lines = self._lines.feed(data)
        except UpstreamError:
            _log.error("the client sent a line that is too large")
            return self._end()
        for line in lines:
            self._take(line)
        return None

    def _take(self, line: bytes) -> None:
        try:
            value = parse_json(line)
        except CallerError as error:
            self.send(encode_json(_error(None, error.rpc_code, error.tell)))
            return
        method = value.get("method") if isinstance(value, dict) else None
        params = value.get("params") if isinstance(value, dict) else None
        meta = params.get("_meta") if isinstance(params, dict) else None
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        if isinstance(version, str) and method == "notifications/cancelled":
            return self._cancelled(params)
        version = version if isinstance(version, str) else ""
        asked = value.get("id") if isinstance(value, dict) and isinstance(method, str) else None
        turn = _Turn(self, asked, is_initialize=method == "initialize")
        turn.is_message = isinstance(method, str) or (isinstance(value, dict) and "id" in value)

        def go() -> None:
            self._serve(turn, "POST", self._fields_of(value, method, version), line)

        if version and method == "tools/call":
            turn.again = go  # once more when the first call has made the tool's schema known
        go()
        return None

    def _cancelled(self, params: Any) -> None:
        """2026 era over HTTP: whoever closes the stream cancels (CF-25); there is no message for it."""
        turn = self._by_id.get(_key(params.get("requestId") if isinstance(params, dict) else None))
        if turn is not None:
            turn.lose()

    def _fields_of(self, value: Any, method: Any, version: str) -> dict[str, str]:
        fields = {"host": self._host, "accept": _BOTH_TYPES, "content-type": "application/json"}
        if not version:
            if self.session and method != "initialize":
                fields["mcp-session-id"] = self.session
                fields["mcp-protocol-version"] = self._version
            return fields
        try:
            message = message_of(value)
        except CallerError:
            return {**fields, "mcp-protocol-version": version}  # the front says what is wrong with it
        mirrored = modern_fields(message, version, self._schema_of(message))
        return {**fields, **{name.lower(): text for name, text in mirrored}}

    def _serve(self, turn: _Turn, verb: str, fields: dict[str, str], body: bytes) -> None:
        head = Head(verb=verb, path=self._path, query="", fields=fields, repeated=frozenset())
        self.faces.add(turn)
        if turn.asked is not None:
            self._by_id[_key(turn.asked)] = turn
        refused = self._front.head(head, turn.address)
        if refused is None and len(body) > self._front.body_limit(head):
            refused = self._front.broken(
                CallerError("body-too-large", "The message is too large.", status=413), "stdio"
            )
        if refused is not None:
            return turn.answer(refused)
        return self._front.body(head, body, turn)

    def opened(self, session: str, version: str) -> None:
        """A session of the 2025 era has begun: hear what its server says on its own."""
        self.session, self._version = session, version
        self._listen(session)

    def _listen(self, session: str) -> None:
        if self.session != session or self._is_over:
            return
        fields = {
            "host": self._host,
            "accept": "text/event-stream",
            "mcp-session-id": session,
            "mcp-protocol-version": self._version,
        }
        again = lambda: asyncio.get_running_loop().call_later(_LISTEN_AGAIN_SECONDS, self._listen, session)  # noqa: E731
        self._serve(_Turn(self, None, is_endless=True, on_over=again), "GET", fields, b"")

    # -- towards the client -------------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """True while the client does not read."""
        return self._is_paused

    def send(self, line: bytes) -> None:
        """One message as a line, once its record is with the kernel."""
        writer: Any = self._writer
        if writer is not None and not writer.is_closing():
            self._outbox.write(writer, line.replace(b"\n", b" ") + b"\n")

    def over(self, turn: _Turn) -> None:
        """A request has its answer."""
        self.faces.discard(turn)
        if turn.asked is not None and self._by_id.get(_key(turn.asked)) is turn:
            del self._by_id[_key(turn.asked)]

    def pause(self, *, paused: bool) -> None:
        """The pipe to the client is full, or has room again."""
        self._is_paused = paused
        for turn in list(self.faces) if not paused else ():
            wake, turn.on_writable = turn.on_writable, None
            if wake is not None:
                wake()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.close()
            self._on_end()

    def eof(self) -> None:
        """The client has closed stdin: what it asked for is not wanted any more (ST-15)."""
        for turn in list(self.faces):
            turn.lose()
        self._end()


class _In(asyncio.Protocol):
    def __init__(self, face: StdioFace) -> None:
        self._face = face

    def data_received(self, data: bytes) -> None:
        self._face.feed(data)

    def eof_received(self) -> None:
        self._face.eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._face.eof()


class _Out(asyncio.BaseProtocol):
    def __init__(self, face: StdioFace) -> None:
        self._face = face

    def pause_writing(self) -> None:
        self._face.pause(paused=True)

    def resume_writing(self) -> None:
        self._face.pause(paused=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._face.eof()


class _Turn:
    """One line and what comes back for it; implements ``gateway.ports.Responder``."""

    address = "stdio"

    def __init__(
        self,
        face: StdioFace,
        asked: Any,
        *,
        is_initialize: bool = False,
        is_endless: bool = False,
        on_over: Callable[[], Any] = lambda: None,
    ) -> None:
        self.asked = asked  # the id of the request, None for what wants no answer
        self.is_endless = is_endless
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self._face = face
        self.is_message = True  # False for JSON that is none: its error is told although it has no id
        self.again: Callable[[], None] | None = None
        self._is_initialize = is_initialize
        self._on_over = on_over
        self._events = SseReader(limits.EVENT_BYTES)
        self._is_over = False

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Responder``."""
        return self._face.is_paused

    def answer(self, reply: Reply) -> None:
        """See ``gateway.ports.Responder``."""
        if self._is_over:
            return
        if self.asked is not None or not self.is_message:
            if not self._send_answer(reply):
                return
        elif reply.status >= 400 and not self.is_endless:
            _log.warning("a message of the client was refused", extra={"status": reply.status})
        self._finish()

    def _send_answer(self, reply: Reply) -> bool:
        """Over stdio the status is lost, so an answer that names no request must name this one. False: asked once more."""
        try:
            value = parse_json(reply.body)
        except CallerError:
            value = None
        error = value.get("error") if isinstance(value, dict) else None
        if isinstance(error, dict) and error.get("code") == codes.HEADER_MISMATCH and self.again is not None:
            again, self.again = self.again, None
            again()
            return False
        if not isinstance(value, dict) or "jsonrpc" not in value:
            value = _error(self.asked, -32603, "The gateway could not serve this.")
        if self.asked is not None:
            value.setdefault("id", self.asked)
        self._face.send(encode_json(value))
        result = value.get("result")
        if self._is_initialize and isinstance(result, dict):
            session = _field(reply.fields, b"mcp-session-id")
            if session:
                self._face.opened(session, str(result.get("protocolVersion", "")))
        return True

    def start(self, status: int, fields: bytes) -> None:
        """See ``gateway.ports.Responder``."""

    def write(self, part: bytes) -> None:
        """See ``gateway.ports.Responder``."""
        if self._is_over:
            return
        for event in self._events.feed(part):
            if event.data:
                self._face.send(event.data.encode())

    def end(self) -> None:
        """See ``gateway.ports.Responder``."""
        self._finish()

    def abort(self) -> None:
        """See ``gateway.ports.Responder``."""
        if not self._is_over and self.asked is not None:
            self._face.send(encode_json(_error(self.asked, -32603, "The answer could not be completed.")))
        self._finish()

    def lose(self) -> None:
        """The client does not want the answer any more."""
        if self._is_over:
            return
        self._finish()
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._face.over(self)
            self._on_over()


def _check_descriptors() -> None:
    """Raises: OperatorError ``wrap-stdio`` where there is nobody to speak to, or no loop can wait for it."""
    try:
        os.fstat(0)
        mode = os.fstat(1).st_mode
    except OSError as error:
        raise OperatorError("wrap-stdio", "stdin or stdout is closed.") from error
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        raise OperatorError("wrap-stdio", "stdout must be a pipe or a terminal, not a file.")


def _key(message_id: Any) -> tuple[type, Any]:
    """Ids that look alike are not the same: 1 is not "1"."""
    return (type(message_id), message_id if isinstance(message_id, str | int) else None)


def _field(fields: bytes, name: bytes) -> str:
    for line in fields.split(b"\r\n"):
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip().decode("latin-1")
    return ""


def _error(message_id: Any, code: int, tell: str) -> dict[str, Any]:
    value: dict[str, Any] = {"jsonrpc": "2.0", "error": {"code": code, "message": tell}}
    return value if message_id is None else {**value, "id": message_id}
