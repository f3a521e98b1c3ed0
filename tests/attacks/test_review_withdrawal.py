"""Who has lost access hears nothing more: streams that were opened before do not outlive it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.stack.kit import LEGACY, running
from tests.stack.wire import Events, until
from tests.stand_ins.http_server import Ask, HttpUpstream

SECRET = "said after the access was withdrawn"
READER = {"servers": ["s"], "tools": ["echo"]}
CHANGES: dict[str, dict[str, Any]] = {
    "the role lost the server": {"roles.reader": {"servers": ["other"], "tools": ["echo"]}},
    "the role is gone": {"roles.reader": {"servers": [], "tools": []}},
}


def _left(events: Events, seconds: float = 15.0) -> bytes:
    """What the client still gets to hear until the stream ends, or for so long."""
    data = bytearray(events.wire._data)
    events.wire.sock.settimeout(seconds)
    with contextlib.suppress(OSError):
        while b"0\r\n\r\n" not in data:
            part = events.wire.sock.recv(65_536)
            if not part:
                break
            data += part
    return bytes(data)


@pytest.mark.parametrize("change", CHANGES)
def test_streams_end_when_their_caller_loses_the_server(change: str) -> None:
    upstream = HttpUpstream()
    heard: list[Ask] = []

    def listen(ask: Ask) -> None:
        ask.start_events()
        ask.event(
            {
                "jsonrpc": "2.0",
                "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": {"toolsListChanged": True}},
            }
        )
        heard.append(ask)
        until(ask.is_gone, "the end of the subscription")

    upstream.on["subscriptions/listen"] = listen
    with running({"s": upstream, "other": HttpUpstream()}, tables={"roles.reader": READER}) as stack:
        fields = {"Authorization": f"Bearer {stack.token('s', 'bob', ('reader',))}"}
        session = stack.session("s", **fields)
        common = stack.events(
            "s", None, verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, **fields
        )
        body, mirrored = stack.modern_message(
            "subscriptions/listen", {"notifications": {"toolsListChanged": True}}
        )
        subscription = stack.events("s", body, **mirrored, **fields)
        until(lambda: heard and upstream.streams, "both streams at the server")
        others = stack.events(
            "s",
            None,
            verb="GET",
            Mcp_Session_Id=stack.session("s"),
            MCP_Protocol_Version=LEGACY,
        )
        stack.write_settings(stack.settings_text(**CHANGES[change]))
        assert _left(common).endswith(b"0\r\n\r\n")
        assert b"access of this caller has changed" in _left(subscription)
        told = {
            "jsonrpc": "2.0",
            "method": "notifications/message",
            "params": {"level": "info", "data": SECRET},
        }
        for ask in [*upstream.streams.values(), *heard]:
            with contextlib.suppress(OSError):
                ask.event(told)
        assert others.next()["params"]["data"] == SECRET, "who kept the access still hears"
        assert SECRET.encode() not in _left(common, 0.2) + _left(subscription, 0.2)
        for stream in (common, subscription, others):
            stream.close()
