"""A recording MCP server over Streamable HTTP, both eras, whose answers a test scripts: truth, lies, bombs and silence.

Runs in threads of the test process on blocking sockets, so that a script is a plain function that sends what it likes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

MODERN = "2026-07-28"
PATIENCE = 15.0  # seconds; the bound of every wait
_READ_ONLY = {"annotations": {"readOnlyHint": True}}


def tool(name: str, *, read_only: bool = True, **schema: Any) -> dict[str, Any]:
    """A tool definition."""
    made: dict[str, Any] = {"name": name, "inputSchema": {"type": "object", **schema}}
    return {**made, "annotations": {"readOnlyHint": read_only}}


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for a condition and return its value; fail with ``what`` after a bound."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for: {what}"
        time.sleep(0.005)
    return found


class Ask:
    """One HTTP request as it came, byte for byte, and the socket to answer on."""

    def __init__(self, head: bytes, body: bytes, conn: socket.socket) -> None:
        self.head = head
        self.body = body
        self.conn = conn
        lines = head.decode("latin-1").split("\r\n")
        self.verb, self.target, _ = lines[0].split(" ", 2)
        self.lines = [
            (name.strip(), value.strip())
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        ]
        self.fields = {name.lower(): value for name, value in self.lines}
        self.session = ""  # the one that this request opened
        self.listens = False  # whether it only makes a session that was opened ready, or asks for its stream
        try:
            self.json: Any = json.loads(body) if body else None
        except ValueError:
            self.json = None

    @property
    def raw(self) -> bytes:
        """Everything that came."""
        return self.head + self.body

    @property
    def method(self) -> str:
        """The JSON-RPC method, or ""."""
        return self.json.get("method", "") if isinstance(self.json, dict) else ""

    @property
    def params(self) -> dict[str, Any]:
        """The params, or an empty object."""
        return (self.json or {}).get("params") or {}

    @property
    def is_modern(self) -> bool:
        """Whether the message carries the envelope of the 2026 era."""
        meta = self.params.get("_meta")
        return isinstance(meta, dict) and "io.modelcontextprotocol/protocolVersion" in meta

    # -- ways to answer -----------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.conn.sendall(data)

    def reply(self, status: int, body: bytes = b"", **fields: str) -> None:
        """A complete response; header names with underscores."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.send(f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def say(self, value: Any, status: int = 200, **fields: str) -> None:
        """A JSON body."""
        self.reply(status, json.dumps(value).encode(), **{"Content_Type": "application/json", **fields})

    def result(self, result: dict[str, Any], **fields: str) -> None:
        """A JSON-RPC result for this request."""
        if self.is_modern:
            result = {"resultType": "complete", **result}
        self.say({"jsonrpc": "2.0", "id": self.json["id"], "result": result}, **fields)

    def start_events(self, **fields: str) -> None:
        """The head of an event stream."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.send(
            f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode()
        )

    def chunk(self, data: bytes) -> None:
        """One chunk of a chunked body."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, value: Any, event_id: str = "") -> None:
        """One message as an event."""
        mark = f"id: {event_id}\n".encode() if event_id else b""
        self.chunk(mark + b"data: " + json.dumps(value).encode() + b"\n\n")

    def end(self) -> None:
        """The end of a chunked body."""
        self.send(b"0\r\n\r\n")

    def is_gone(self) -> bool:
        """Whether the far end has closed the connection; waits 50 ms at most."""
        try:
            ready, _, _ = select.select([self.conn], [], [], 0.05)
            return bool(ready) and self.conn.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True


Script = Callable[[Ask], Any]


class HttpUpstream:
    """The server. ``on[METHOD] = script`` replaces an answer; ``on[""]`` everything; a dict returned is the result."""

    def __init__(
        self,
        era: str = "both",
        tools: list[dict[str, Any]] | None = None,
        name: str = "stand-in",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls  # another one may be set for the connections that come
        self.era = era
        self.name = name
        self.tools = tools if tools is not None else [tool("echo"), tool("delete", read_only=False)]
        self.on: dict[str, Script] = {}
        self.asks: list[Ask] = []
        self.sessions: set[str] = set()
        self.streams: dict[str, Ask] = {}  # session -> its GET stream
        self.answers: list[Any] = []  # JSON-RPC responses that clients posted
        self.release = threading.Event()  # lets ``hold`` go on
        self.release.set()
        self.held = 0
        self._lock = threading.Lock()
        self._conns: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/mcp"
        self._over = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop; open connections are cut."""
        self._over = True
        self.release.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            for conn in self._conns:
                with contextlib.suppress(OSError):
                    conn.shutdown(socket.SHUT_RDWR)

    def calls(self, method: str = "tools/call") -> list[Ask]:
        """The requests with this JSON-RPC method."""
        return [ask for ask in list(self.asks) if ask.method == method]

    @property
    def hits(self) -> int:
        """How many HTTP requests have come, without what Doorward sends in its own time to a session."""
        return len([ask for ask in list(self.asks) if not ask.listens])

    def seen_bytes(self) -> bytes:
        """Everything that has come."""
        return b"".join(ask.raw for ask in list(self.asks))

    def push(self, session: str, message: Any, event_id: str = "") -> None:
        """Say something on a session's GET stream."""
        until(lambda: session in self.streams, "the GET stream of the session")
        self.streams[session].event(message, event_id)

    # -- connections --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._over:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._conns.add(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(None)
        try:
            if self.tls is not None:
                plain, conn = conn, self.tls.wrap_socket(conn, server_side=True)
                with self._lock:
                    self._conns.discard(plain)
                    self._conns.add(conn)
            for ask in self._requests(conn):
                ask.listens = ask.fields.get("mcp-session-id") in self.sessions and (
                    ask.verb == "GET" or ask.method == "notifications/initialized"
                )
                self.asks.append(ask)
                self._answer(ask)
        except OSError:
            pass
        finally:
            with self._lock:
                self._conns.discard(conn)
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
            conn.close()

    def _requests(self, conn: socket.socket) -> Iterator[Ask]:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = conn.recv(65_536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                assert name.lower() != b"transfer-encoding", "Doorward frames its requests by length"
                if name.lower() == b"content-length":
                    length = int(value)
            while len(data) < length:
                more = conn.recv(65_536)
                if not more:
                    return
                data += more
            yield Ask(head + b"\r\n\r\n", data[:length], conn)
            data = data[length:]

    # -- the honest server --------------------------------------------------------------------------------------

    def _answer(self, ask: Ask) -> None:
        script = self.on.get(ask.method) or self.on.get("")
        if script is not None:
            found = script(ask)
            if isinstance(found, dict):
                ask.result(found)
            return None
        if ask.verb == "GET":
            return self._listen(ask)
        if ask.verb == "DELETE":
            self.sessions.discard(ask.fields.get("mcp-session-id", ""))
            return ask.reply(200)
        message = ask.json
        if not isinstance(message, dict):
            return ask.say({"jsonrpc": "2.0", "error": {"code": -32700, "message": "no JSON"}}, 400)
        if "method" not in message:
            self.answers.append(message)
            return ask.reply(202)
        if "id" not in message:
            return ask.reply(202)
        if ask.is_modern and self.era == "legacy":
            return ask.say(
                {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32600, "message": "session?"}}, 400
            )
        if not ask.is_modern and self.era == "modern":
            error = {"code": -32022, "message": "version", "data": {"supported": [MODERN], "requested": ""}}
            return ask.say({"jsonrpc": "2.0", "id": message["id"], "error": error}, 400)
        if (
            not ask.is_modern
            and ask.method != "initialize"
            and ask.fields.get("mcp-session-id") not in self.sessions
        ):
            return ask.say(
                {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32600, "message": "session"}}, 404
            )
        return self._method(ask)

    def _listen(self, ask: Ask) -> None:
        session = ask.fields.get("mcp-session-id", "")
        if session not in self.sessions:
            return ask.reply(404)
        ask.start_events()
        self.streams[session] = ask
        while not self._over and session in self.sessions and not ask.is_gone():
            pass  # ``push`` writes; this thread only keeps the connection
        return None

    def _method(self, ask: Ask) -> None:
        extra: dict[str, Any] = {"ttlMs": 1_000, "cacheScope": "private"} if ask.is_modern else {}
        capabilities = {"tools": {"listChanged": True}, "resources": {}, "prompts": {}, "logging": {}}
        match ask.method:
            case "initialize":
                session = (
                    base64.b32encode(f"{self.port}-{len(self.asks)}-{id(ask)}".encode()).decode().rstrip("=")
                )
                self.sessions.add(session)
                ask.session = session
                info = {"name": self.name, "version": "1"}
                result = {
                    "protocolVersion": ask.params["protocolVersion"],
                    "capabilities": capabilities,
                    "serverInfo": info,
                }
                return ask.result(result, Mcp_Session_Id=session)
            case "server/discover":
                return ask.result({"supportedVersions": [MODERN], "capabilities": capabilities, **extra})
            case "tools/list":
                return ask.result({"tools": self.tools, **extra})
            case "resources/list":
                return ask.result({"resources": [{"uri": "file:///a", "name": "a"}], **extra})
            case "resources/read":
                return ask.result({"contents": [{"uri": ask.params["uri"], "text": "content of a"}], **extra})
            case "prompts/list":
                return ask.result({"prompts": [{"name": "greet"}], **extra})
            case "tools/call":
                return self._tool(ask)
            case "logging/setLevel":
                return ask.result({})
        return ask.say(
            {
                "jsonrpc": "2.0",
                "id": ask.json["id"],
                "error": {"code": -32601, "message": "Method not found"},
            },
            404 if ask.is_modern else 200,
        )

    def _tool(self, ask: Ask) -> None:
        with self._lock:
            self.held += 1
        self.release.wait(PATIENCE)
        with self._lock:
            self.held -= 1
        text = json.dumps(ask.params.get("arguments"), sort_keys=True)
        return ask.result({"content": [{"type": "text", "text": text}]})
