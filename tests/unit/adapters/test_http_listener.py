"""The memo of heads that all connections of a port share."""

from __future__ import annotations

from typing import Any, cast

import pytest

from doorward.adapters.http_listener import HttpListener
from doorward.base.errors import CallerError


def test_a_head_that_differs_in_its_trace_context_only_is_parsed_once() -> None:
    listener = HttpListener(cast(Any, None), cast(Any, None), cast(Any, None))
    head = b"POST /a/mcp HTTP/1.1\r\nHost: a\r\n%bContent-Length: 3\r\n\r\n"
    trace = b"traceparent: 00-%032x-%016x-01\r\n"
    first = head % (trace % (1, 2))
    second = head % (trace % (3, 4))
    assert listener.head_of(first)[0] == first
    assert listener.head_of(second) == (second, listener.head_of(first)[1])
    assert listener.head_of(head % b"")[1] is listener.head_of(first)[1]


@pytest.mark.parametrize(
    "line",
    [
        b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01\n",  # a bare LF
        b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01\r\n folded\r\n",
        b"x: y\r\n traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01\r\n",
    ],
)
def test_a_trace_context_hides_no_malformed_line(line: bytes) -> None:
    listener = HttpListener(cast(Any, None), cast(Any, None), cast(Any, None))
    with pytest.raises(CallerError):
        listener.head_of(b"POST /a/mcp HTTP/1.1\r\nHost: a\r\n%bContent-Length: 3\r\n\r\n" % line)
