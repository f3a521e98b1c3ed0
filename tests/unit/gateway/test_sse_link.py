"""Where a server of the oldest transport may have its messages posted: at itself, and nowhere else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.test_http_link import Case

from doorward.gateway.sse_link import endpoint_target

HOST, TARGET = "mcp.example.com:8443", "/a/sse?x=1"


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("/messages/?session_id=7", "/messages/?session_id=7"),
        ("messages?s=1", "/a/messages?s=1"),
        ("?s=1", "/a/sse?s=1"),
        (f"https://{HOST}/messages", "/messages"),
        (f"https://{HOST.upper()}/m", "/m"),
    ],
)
def test_an_endpoint_on_the_same_server_is_taken(told: str, wanted: str) -> None:
    assert endpoint_target(HOST, TARGET, told) == wanted


@pytest.mark.parametrize(
    "told",
    [
        "",
        "https://evil.example/messages",
        "//evil.example/messages",
        "https://mcp.example.com/messages",  # another port
        f"https://user@{HOST}/messages",
        f"https://{HOST}@evil.example/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "\\\\evil.example\\m",
        "/m\r\nHost: evil.example",
        "/m\nx",
        "/ä",
        "/a b",
        "/" + "a" * 3_000,
        "http://[::1/m",
    ],
)
def test_any_other_endpoint_is_refused(told: str) -> None:
    assert endpoint_target(HOST, TARGET, told) is None


@given(st.text(max_size=60))
def test_whatever_is_told_the_target_is_a_plain_path(told: str) -> None:
    found = endpoint_target(HOST, TARGET, told)
    assert found is None or (
        found.startswith("/") and found.isascii() and " " not in found and "\n" not in found
    )


def test_a_server_of_the_oldest_transport_hears_when_nobody_waits() -> None:
    case = Case()
    case.upstream.speaks_sse = True
    link = case.link()
    case.post(link, "initialize", 0)
    stream = case.origin.sent[0]
    stream.open(kind="text/event-stream")
    stream.event(text="event: endpoint\ndata: /messages?s=1\n\n")
    _, ear, cancel = case.post(link, "tools/call")
    cancel()
    cancel()
    told = json.loads(case.origin.sent[-1].body)
    assert told["method"] == "notifications/cancelled" and told["params"]["requestId"] == 7
    assert sum(b"notifications/cancelled" in one.body for one in case.origin.sent) == 1 and ear.ends == 0
    answered, _, cancel = case.post(link, "tools/list", 8)
    stream.event({"jsonrpc": "2.0", "id": 8, "result": {}})
    cancel()  # it is over
    assert case.origin.sent[-1] is answered
