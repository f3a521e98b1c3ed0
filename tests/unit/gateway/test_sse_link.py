"""Where a server of the oldest transport may have its messages posted: at itself, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
