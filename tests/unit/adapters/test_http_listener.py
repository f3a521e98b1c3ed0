"""The memo of heads that all connections of a port share."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.adapters.http_listener import FAMILY_HEADS, MEMO_HEADS, HttpListener
from doorward.base.errors import CallerError
from doorward.controls.control import Certificate, Head
from doorward.protocol.http_head import parse_request_head


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


def _listener() -> HttpListener:
    return HttpListener(cast(Any, None), cast(Any, None), cast(Any, None))


def _seen(read: Any) -> Any:
    try:
        head = read()
    except CallerError as error:
        return error.status, error.tell
    return (
        head.verb, head.path, head.query, head.fields, head.repeated, head.minor, head.keep_alive, head.content_length,
        head.chunked, head.expects_continue,
    )  # fmt: skip


LINES = st.sampled_from(
    [b"Host: a", b"Host: b", b"Expect: 100-continue", b"Connection: close", b"Transfer-Encoding: chunked", b"X: y",
     b"X: z", b"Mcp-Name: n", b"content-length: 7", b"Content-Length: 7", b"Content-length: 7", b" folded"]
)  # fmt: skip
LENGTHS = st.sampled_from(
    [
        b"0",
        b"5",
        b"05",
        b"4096",
        b"9" * 19,
        b"9" * 20,
        b"",
        b"+5",
        b"-5",
        b"5 ",
        b" 5",
        b"5, 5",
        b"0x5",
        b"\xb2",
        b"5\n",
        b"5\r",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    first=st.sampled_from([b"POST /a HTTP/1.1", b"POST /a?b HTTP/1.0", b"HEAD / HTTP/1.1"]),
    before=st.lists(LINES, max_size=3),
    name=st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Content-Length "]),
    after=st.lists(LINES, max_size=2),
    lengths=st.lists(LENGTHS, min_size=2, max_size=6),
)
def test_heads_that_differ_in_their_length_only_are_read_as_if_each_were_the_first(
    first: bytes, before: list[bytes], name: bytes, after: list[bytes], lengths: list[bytes]
) -> None:
    listener = _listener()
    for length in lengths:
        block = b"\r\n".join([first, b"Host: h", *before, name + b": " + length, *after, b"", b""])
        for _ in range(3):
            assert _seen(lambda: listener.head_of(block)[1]) == _seen(lambda: parse_request_head(block, Head))  # noqa: B023


def test_each_length_has_a_head_of_its_own_without_the_verdict_of_another() -> None:
    listener = _listener()
    block = b"POST /a/mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    listener.head_of(block % 1)
    known = listener.head_of(block % 1)[1]
    known.generation, known.refusal = 7, "judged"
    other = listener.head_of(block % 2)[1]
    assert (other.content_length, other.fields["content-length"], other.generation) == (2, "2", -1)
    assert other.refusal is None
    assert listener.head_of(block % 1)[1] is known
    assert listener.head_of(block % 2)[1] is other


def test_a_head_of_another_length_belongs_to_the_same_certificate_and_to_no_other() -> None:
    listener = _listener()
    block = b"POST /a/mcp HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n"
    trace = b"traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01\r\n"
    certificates = [None, Certificate("alice", 9.0), Certificate("bob", 9.0)]
    for length in (1, 1, 2, 3, 2, 1):
        for certificate in certificates:
            for line in (b"", trace):
                head = listener.head_of(block % (line, length), certificate)[1]
                assert head.certificate == certificate
                assert head.content_length == length
    assert len(listener._memo) == len(certificates)


@pytest.mark.parametrize("name", [b"DPoP", b"dpop", b"DPOP"])
def test_a_head_with_a_proof_is_not_kept(name: bytes) -> None:
    listener = _listener()
    block = b"POST /a/mcp HTTP/1.1\r\nHost: a\r\n%b: proof\r\nContent-Length: %d\r\n\r\n"
    heads = [listener.head_of(block % (name, length))[1] for length in (1, 1, 1, 2)]
    assert len({id(head) for head in heads}) == 4
    assert not listener._memo
    assert not listener._seen_once


def test_what_is_kept_of_heads_is_bounded() -> None:
    listener = _listener()
    for number in range(3 * MEMO_HEADS):
        listener.head_of(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % number)
        assert sum(len(family) for family in listener._memo.values()) <= MEMO_HEADS
    assert max(len(family) for family in listener._memo.values()) <= FAMILY_HEADS
    for number in range(MEMO_HEADS + 10):
        for _ in range(2):
            listener.head_of(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n" % number)
    assert sum(len(family) for family in listener._memo.values()) <= MEMO_HEADS
