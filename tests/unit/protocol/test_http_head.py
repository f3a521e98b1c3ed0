"""Heads: what is understood, what is refused, and that llhttp never sees more in the same bytes than we do."""

from __future__ import annotations

import contextlib

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.base.errors import CallerError, UpstreamError
from doorward.controls.control import Head
from doorward.protocol import http_head
from doorward.protocol.http_head import (
    check_partial_head,
    parse_request_head,
    parse_response_head,
    plain_fields,
)

TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


def request(*lines: str, first: str = "GET /x HTTP/1.1", host: bool = True) -> bytes:
    return "\r\n".join([first, *(["Host: a"] if host else []), *lines, "", ""]).encode("latin-1")


def refused(block: bytes) -> int:
    with pytest.raises(CallerError) as caught:
        parse_request_head(block)
    return caught.value.status


def test_a_head_is_taken_apart() -> None:
    head = parse_request_head(
        request("Accept: a", "ACCEPT:  b  ", "Content-Length: 5", first="POST /x?y=?z HTTP/1.1"), Head
    )
    assert isinstance(head, Head)
    assert (head.verb, head.path, head.query, head.content_length) == ("POST", "/x", "y=?z", 5)
    assert head.fields == {"host": "a", "accept": "a, b", "content-length": "5"}
    assert head.repeated == {"accept"}
    assert head.keep_alive
    assert not head.chunked


def test_http_1_0_never_keeps_its_connection() -> None:
    assert not parse_request_head(request("Connection: keep-alive", first="GET / HTTP/1.0")).keep_alive


@pytest.mark.parametrize("value", ["close", "Close", "upgrade, close", "close,x"])
def test_close_is_understood_in_any_place(value: str) -> None:
    assert not parse_request_head(request(f"Connection: {value}")).keep_alive


@pytest.mark.parametrize("host", ["a", "a.b-c:80", "127.0.0.1:8808", "[::1]", "[::1]:80"])
def test_hosts_that_are_hosts_pass(host: str) -> None:
    assert parse_request_head(request(f"Host: {host}", host=False)).fields["host"] == host


@pytest.mark.parametrize(
    "host", ["", "a b", "a,b", "u@a", "a/b", "a:b", "http://a", "[::1", "a:123456", "a?b"]
)
def test_hosts_that_are_none_are_refused(host: str) -> None:
    assert refused(request(f"Host: {host}", host=False)) == 400


@pytest.mark.parametrize("minor", [0, 1])
def test_a_missing_host_is_refused_in_both_versions(minor: int) -> None:
    assert refused(request(first=f"GET / HTTP/1.{minor}", host=False)) == 400


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Authorization",
        "Origin",
        "Content-Type",
        "Mcp-Session-Id",
        "Mcp-Param-X",
        "Last-Event-ID",
        "Content-Encoding",
    ],
)
def test_a_field_that_decides_comes_once(name: str) -> None:
    assert refused(request(f"{name}: a", f"{name.upper()}: a")) == 400


def test_a_chunked_body_and_http_1_0_do_not_go_together() -> None:
    assert refused(request("Transfer-Encoding: chunked", first="POST / HTTP/1.0")) == 400


@pytest.mark.parametrize("value", ["Chunked", "chunked, chunked", "identity", "chunked;q=1", '"chunked"'])
def test_no_coding_but_the_word_chunked_is_known(value: str) -> None:
    assert refused(request(f"Transfer-Encoding: {value}")) in (400, 501)


@given(st.text(max_size=24))
def test_a_length_is_digits_or_refused(text: str) -> None:
    if text.strip(" \t") and not (text.strip(" \t").isascii() and text.strip(" \t").isdigit()):
        block = (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: "
            + text.encode("utf-8", "surrogatepass")
            + b"\r\n\r\n"
        )
        assert refused(block) == 400


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=8))
def test_fields_that_can_be_written_are_read_back(pairs: list[tuple[str, str]]) -> None:
    wanted: dict[str, list[str]] = {}
    pairs = [(f"X-{name}", value) for name, value in pairs]
    for name, value in pairs:
        wanted.setdefault(name.lower(), []).append(value.strip(" "))
    head = parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + plain_fields(pairs) + b"\r\n")
    assert {name: head.fields[name] for name in wanted} == {
        name: ", ".join(values) for name, values in wanted.items()
    }
    assert head.repeated == {name for name, values in wanted.items() if len(values) > 1}


@given(
    st.lists(
        st.sampled_from(
            [b"GET", b"POST", b" ", b"/x", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b":", b"Host: a\r\n", b"\t", b"\0",
             b"Content-Length: 3\r\n", b"Content-Length", b"Transfer-Encoding: chunked\r\n", b"X: y\r\n", b"\x80", b"5", b","]
        ),
        max_size=14,
    )
)  # fmt: skip
def test_whatever_we_take_llhttp_takes_and_reads_alike(pieces: list[bytes]) -> None:
    block = b"GET /x HTTP/1.1\r\nHost: h\r\n" + b"".join(pieces) + b"\r\n\r\n"
    block = block[: block.index(b"\r\n\r\n") + 4]
    try:
        head = parse_request_head(block)
    except CallerError:
        return
    seen: list[tuple[bytes, bytes]] = []

    class Receiver:
        def on_header(self, name: bytes, value: bytes) -> None:
            seen.append((name, value))

    parser = httptools.HttpRequestParser(Receiver())
    parser.feed_data(block)
    assert {name.decode().lower() for name, _ in seen} == set(head.fields)
    assert len(seen) == len(block.split(b"\r\n")) - 3


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_refused_and_nothing_else(junk: bytes) -> None:
    for parse, error in ((parse_request_head, CallerError), (parse_response_head, UpstreamError)):
        with contextlib.suppress(error):
            parse(junk + b"\r\n\r\n")  # type: ignore[operator]


@given(st.integers(1, 60))
def test_the_beginning_of_a_good_head_is_never_refused(at: int) -> None:
    check_partial_head(request("Content-Length: 5", "Accept: application/json")[:at])


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01\x02\x00\n", b"GET /x\r\n", b"\r\n", b"GET / HTTP/1.1\nHost", b"SSH-2.0\r\n"]
)
def test_what_can_never_become_a_head_is_refused_early(start: bytes) -> None:
    with pytest.raises(CallerError):
        check_partial_head(start)


def test_a_response_head_is_taken_apart() -> None:
    head = parse_response_head(
        b"HTTP/1.1 200 Fine \xe9\r\nContent-Type: a\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )
    assert (head.status, head.content_length, head.chunked, head.keep_alive) == (200, None, False, True)
    assert head.repeated == {"set-cookie"}


@pytest.mark.parametrize("status", [100, 103, 204, 304])
def test_some_responses_never_have_a_body(status: int) -> None:
    assert parse_response_head(b"HTTP/1.1 %d X\r\n\r\n" % status).content_length == 0


@pytest.mark.parametrize("status", [b"099", b"600", b"2000", b"20", b"abc", b"+20"])
def test_a_status_has_three_digits(status: bytes) -> None:
    with pytest.raises(UpstreamError):
        parse_response_head(b"HTTP/1.1 " + status + b" X\r\n\r\n")


@pytest.mark.parametrize(
    "pair", [("X\r\nY", "a"), ("X", "a\r\nY: b"), ("X", "a\0"), ("", "a"), ("X ", "a"), ("X", "\u0100")]
)
def test_a_field_that_would_break_the_head_is_not_written(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        plain_fields([pair])


def test_a_repeated_mcp_header_is_a_header_mismatch() -> None:
    block = b"POST /x/mcp HTTP/1.1\r\nHost: a\r\nMcp-Name: a\r\nmcp-name: b\r\n\r\n"
    with pytest.raises(CallerError) as caught:
        parse_request_head(block)
    assert (caught.value.status, caught.value.rpc_code) == (400, -32020)


def _read(block: bytes) -> object:
    try:
        head = parse_request_head(block)
    except CallerError as error:
        return error.status, error.tell
    return head.fields, head.repeated, head.content_length, head.chunked, head.keep_alive


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["Accept", "ACCEPT", "Authorization", "Content-Length", "Content-Type", "Host", "Mcp-Name",
                 "Connection", "Transfer_Encoding", "Transfer-Encoding", "X-Any"]
            ),
            st.one_of(VALUE, st.sampled_from(["5", "05", "chunked", "close", "a", "\xe9", " a ", ""])),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_what_is_remembered_of_single_lines_changes_no_verdict(lines: list[tuple[str, str]]) -> None:
    block = request(*(f"{name}: {value}" for name, value in lines))
    http_head._REQUEST_LINES._kept.clear()
    fresh = _read(block)
    assert _read(block) == fresh
    for name, value in lines:  # each of them known from another head
        _read(request(f"{name}: {value}"))
    assert _read(block) == fresh
    assert len(http_head._REQUEST_LINES._kept) <= http_head._KEPT_LINES
