"""One MCP tool call with nothing but the standard library: the demo's proof, readable as a protocol example."""

from __future__ import annotations

import http.client
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorward.base.errors import OperatorError, UpstreamError

_CALL_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Call(msgspec.Struct, frozen=True):
    """A tool call on an endpoint."""

    url: str
    token: str
    tool: str
    arguments: dict[str, Any]


def _post(url: str, token: str, value: dict[str, Any], session: str) -> tuple[int, str, Any]:
    """Send one message: (status, session id, the message that came back or None)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_CALL_SECONDS)
    fields = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if token:
        fields["Authorization"] = f"Bearer {token}"
    if session:
        fields["Mcp-Session-Id"] = session
    try:
        connection.request("POST", parts.path, msgspec.json.encode(value), fields)
        response = connection.getresponse()
        found = response.headers.get("Mcp-Session-Id", session)
        body = response.read()
    finally:
        connection.close()
    if response.headers.get_content_type() == "text/event-stream":
        events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ") and len(line) > 6]
        body = events[-1] if events else b""
    return response.status, found, msgspec.json.decode(body) if body else None


def prove(call: Call) -> str:
    """Open a session, call the tool, close nothing: what the server answered, shortened.

    Raises: UpstreamError when the answer is no good result.
    """
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "doorward-demo", "version": "1"},
    }
    status, session, answer = _post(
        call.url, call.token, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}, ""
    )
    _expect(status, answer)
    _post(call.url, call.token, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
    params = {"name": call.tool, "arguments": call.arguments}
    status, _, answer = _post(
        call.url, call.token, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}, session
    )
    result = _expect(status, answer)
    if result.get("isError"):
        raise UpstreamError("demo-call", f"{call.tool} answered with an error: {result}")
    text = " ".join(str(block.get("text", "")) for block in result.get("content", []))
    return " ".join(text.split())[:60]


def _expect(status: int, answer: Any) -> dict[str, Any]:
    result = answer.get("result") if isinstance(answer, dict) else None
    if status != 200 or not isinstance(result, dict):
        error = answer.get("error", {}).get("message") if isinstance(answer, dict) else None
        raise UpstreamError("demo-call", f"status {status}: {error or 'no result'}")
    return result


def refused_without_token(url: str) -> str:
    """Make a call without a token and tell how it was refused. Raises: UpstreamError when it was not."""
    status, _, answer = _post(url, "", {"jsonrpc": "2.0", "id": 3, "method": "tools/list"}, "")
    if status != 401:
        raise UpstreamError("demo-call", f"a call without a token got status {status}, not 401")
    return f"refused: 401, event {answer['error']['data']['event']}"


def wait_for_http(port: int, child: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until something answers HTTP on a port of 127.0.0.1. Raises: OperatorError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if child.poll() is not None:
            raise OperatorError(
                "demo-start", f"The HTTP server ended at once (exit code {child.returncode})."
            )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
        try:
            connection.request("GET", "/mcp")
            connection.getresponse().read()
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return
        finally:
            connection.close()
    raise OperatorError("demo-start", f"The HTTP server did not answer within {seconds:g} s.")
