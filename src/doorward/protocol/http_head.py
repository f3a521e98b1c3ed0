"""Heads of HTTP/1.1 messages, parsed once and strictly (RFC 9110, RFC 9112).

llhttp and our own grammar read the same bytes and both must agree: what one server reads differently from another is
how requests are smuggled, so every liberty that RFC 9112 grants a recipient (bare LF, folding, lists of lengths,
white space before the colon) is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn, TypeVar

import httptools
import msgspec

from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.protocol import codes

END_OF_HEAD = b"\r\n\r\n"
LENGTH_DIGITS = 19  # every such length fits 64 bits, so that no reader overflows

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELDS = rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
# A tab inside a value is lawful and unused, except by those who hope that some reader takes it for the end of a line.
_TABLESS = rb"(?:" + _TOKEN + rb":[\t ]*(?:[\x21-\x7e\x80-\xff][\x20-\x7e\x80-\xff]*)?\r\n)*\r\n"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([^ \r\n]+) HTTP/([0-9])\.([0-9])\r\n" + _TABLESS)
_REQUEST_LINE = re.compile(_TOKEN + rb" [^ \r\n]+ HTTP/[0-9]\.[0-9]")
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9](?: [\t\x20-\x7e\x80-\xff]*)?\r\n" + _FIELDS)
_TARGET = re.compile(rb"/[\x21\x22\x24-\x5b\x5d-\x7e]*")  # printable ASCII without space, "#" and "\"
_HOST = re.compile(r"[0-9A-Za-z._~-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")

_VERBS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_SINGLE = frozenset(
    {
        "authorization", "content-encoding", "content-length", "content-type", "expect", "host", "last-event-id",
        "origin", "proxy-authorization", "transfer-encoding",
    }
)  # fmt: skip
_SINGLE_IN_RESPONSES = frozenset(
    {"content-encoding", "content-length", "content-type", "location", "transfer-encoding"}
)
_DISGUISED = frozenset(
    {"transfer_encoding", "content_length"}
)  # servers with CGI roots read these as the real ones


class RequestHead:
    """The head of one request: what the wire said, no verdict on it.

    ``fields`` maps lower-case names to values. The values of a name that came more than once are joined with ", " and
    the name is in ``repeated``; names on which anything is decided never get there, they are refused.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "expects_continue",
        "fields",
        "keep_alive",
        "minor",
        "path",
        "query",
        "repeated",
        "verb",
    )

    def __init__(
        self, *, verb: str, path: str, query: str, fields: dict[str, str], repeated: frozenset[str]
    ) -> None:
        self.verb = verb
        self.path = path  # as sent, without query; percent signs untouched
        self.query = query
        self.fields = fields
        self.repeated = repeated
        self.minor = 1  # of the HTTP version: 1.1 or 1.0
        self.keep_alive = True
        self.content_length: int | None = None  # bytes; None: no body announced, or chunked
        self.chunked = False
        self.expects_continue = False


class ResponseHead(msgspec.Struct, frozen=True):
    """The head of one response. A body without ``content_length`` and not ``chunked`` ends with the connection."""

    status: int
    fields: dict[str, str]
    repeated: frozenset[str]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    is_stream: bool = False  # its content type is text/event-stream
    is_json: bool = False  # its content type is application/json


H = TypeVar("H", bound=RequestHead)


class _Gathered:
    """Receives llhttp's callbacks."""

    __slots__ = ("pairs", "target")

    def __init__(self) -> None:
        self.target = b""
        self.pairs: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))


def parse_request_head(block: bytes, make: Callable[..., H] = RequestHead) -> H:  # type: ignore[assignment]
    """Parse a whole request head, its final blank line included, into what ``make`` builds.

    Raises CallerError with status 400, 414, 417, 431, 501 or 505; after it the connection cannot be used again.
    """
    if len(block) > limits.HEAD_BYTES:
        check_partial_head(block)
    match = _REQUEST.fullmatch(block)
    if match is None:
        _explain_request(block)
    verb_bytes, target, major, minor = match.groups()
    if len(target) > limits.TARGET_BYTES:
        raise _too_long()
    lines = block.count(b"\n") - 2  # the grammar lets none pass that does not end a line
    if lines > limits.HEADER_FIELDS:
        raise _too_large()
    if major != b"1" or minor not in (b"0", b"1"):
        raise CallerError("http-version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.", status=505)
    verb, path, query = _read_request_line(verb_bytes, target)
    fields, repeated = _gather(block, target, lines, _REQUEST_LINES, _bad)
    head = make(verb=verb, path=path, query=query, fields=fields, repeated=repeated)
    head.minor = 0 if minor == b"0" else 1
    if not _is_host(fields.get("host", "")):
        raise _bad("Exactly one valid Host is needed.")
    head.keep_alive = head.minor == 1 and not _closes(fields)
    head.chunked, head.content_length = _request_framing(fields, head.minor)
    head.expects_continue = "expect" in fields and _expects(fields, head.minor)
    return head


@lru_cache(256)
def _read_request_line(verb_bytes: bytes, target: bytes) -> tuple[str, str, str]:
    """Verb, path and query. Raises CallerError."""
    verb = verb_bytes.decode("ascii")
    if verb not in _VERBS:
        raise CallerError("http-method", "This HTTP method is not known here.", status=501)
    if _TARGET.fullmatch(target) is None:
        raise _bad("The request target must be a path in printable ASCII.")
    path, _, query = target.decode("ascii").partition("?")
    return verb, path, query


@lru_cache(256)
def _is_host(host: str) -> bool:
    return _HOST.fullmatch(host) is not None


def parse_response_head(block: bytes) -> ResponseHead:
    """Parse a whole response head, its final blank line included.

    Raises UpstreamError ``upstream-broke`` for anything that two readers could understand differently and
    ``upstream-encoding`` for a content or transfer coding that was never asked for.
    """
    lines = block.count(b"\r\n") - 2
    if len(block) > limits.HEAD_BYTES or lines > limits.HEADER_FIELDS:
        raise _broke("its response head is too large")
    if _RESPONSE.fullmatch(block) is None:
        raise _broke("its response head is not HTTP/1.1")
    status = int(block[9:12])
    fields, repeated = _gather(block, None, lines, _RESPONSE_LINES, _broke)
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamError(
            "upstream-encoding", "The server compressed its answer although nobody asked for it."
        )
    length = fields.get("content-length")
    coding = fields.get("transfer-encoding")
    if coding is not None:
        if length is not None or block[7:8] == b"0" or status < 200 or status == 204:
            raise _broke("its response has two framings")
        if coding.lower() != "chunked":
            raise UpstreamError("upstream-encoding", "The server used a transfer coding other than chunked.")
    size = None if length is None else _length(length)
    if length is not None and size is None:
        raise _broke("its Content-Length is no number")
    if status < 200 or status in (204, 304):
        size = 0
    media_type = fields.get("content-type", "").partition(";")[0].strip().lower()
    return ResponseHead(
        status=status,
        fields=fields,
        repeated=repeated,
        content_length=size,
        chunked=coding is not None,
        keep_alive=block[7:8] == b"1" and not _closes(fields),
        is_stream=media_type == "text/event-stream",
        is_json=media_type == "application/json",
    )


def check_partial_head(buffer: bytes) -> None:
    """Refuse a head that can never become a good one, before its end has arrived.

    Raises CallerError 400 (a bare LF, or a first line that is no request line), 414 or 431.
    """
    line, found, _ = buffer.partition(b"\r\n")
    if len(buffer) > limits.HEAD_BYTES:
        raise _too_long() if len(line) > limits.TARGET_BYTES + 32 else _too_large()
    if buffer.count(b"\n") != buffer.count(b"\r\n") or b"\0" in buffer:
        raise _bad("Lines of a request head end in CR LF.")
    if found and _REQUEST_LINE.fullmatch(line) is None:
        raise _bad("This is no HTTP/1.1 request line.")


# Names that nearly every head has, as they are usually written: one text for all heads that are kept.
_USUAL = {
    spelled: name
    for name in (
        "accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection", "content-length",
        "content-type", "date", "host", "last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version",
        "mcp-session-id", "origin", "server", "traceparent", "transfer-encoding", "user-agent",
    )
    for spelled in (name.encode(), name.title().encode(), name.title().replace("Mcp-P", "MCP-P").encode())
}  # fmt: skip


_Line = tuple[str, str, bool]  # name in lower case, value, whether anything is decided on it
_KEPT_LINES = 2_048
_OWN = frozenset({"mcp-session-id", "last-event-id", "traceparent"})  # of one client, or of one request only
_KEPT_LINE_BYTES = 2_048
_NONE: frozenset[str] = frozenset()


class _Lines:
    """What header lines of usual names come to: most clients repeat most of theirs.

    Equal bytes have an equal verdict. It holds bearer tokens, as the memo of whole heads does, and is bounded likewise;
    heads that share a line share its text, too.
    """

    def __init__(self, single: frozenset[str], bad: Callable[[str], Exception]) -> None:
        self._single = single
        self._bad = bad
        self._kept: dict[tuple[bytes, bytes], _Line] = {}
        self.find = self._kept.get

    def judge(self, pair: tuple[bytes, bytes]) -> _Line:
        """Judge a line that is not kept."""
        raw_name, raw_value = pair
        usual = _USUAL.get(raw_name)
        name = usual or raw_name.decode("ascii").lower()
        value = raw_value.decode("latin-1").strip(" \t")
        if name in _DISGUISED:
            raise self._bad(f"{name} is a framing field in disguise")
        decides = name in self._single or name.startswith("mcp-")
        if decides and not value.isascii():
            raise self._bad(f"{name} must be ASCII")
        line = (name, value, decides)
        if usual is not None and name not in _OWN and len(raw_value) <= _KEPT_LINE_BYTES:
            if len(self._kept) >= _KEPT_LINES:
                self._kept.clear()
            self._kept[pair] = line
        return line


def _gather(
    block: bytes, target: bytes | None, count: int, lines: _Lines, bad: Callable[[str], Exception]
) -> tuple[dict[str, str], frozenset[str]]:
    """Let llhttp read the same head and hold it against our own count of lines."""
    gathered = _Gathered()
    parser = (
        httptools.HttpResponseParser(gathered) if target is None else httptools.HttpRequestParser(gathered)
    )
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # an offer to upgrade is never taken up
    except httptools.HttpParserError as error:
        raise bad("HTTP framing is ambiguous or broken") from error
    if len(gathered.pairs) != count or (target is not None and gathered.target != target):
        raise bad("HTTP framing is ambiguous")
    fields: dict[str, str] = {}
    repeated: set[str] | None = None
    find = lines.find
    for pair in gathered.pairs:
        name, value, decides = find(pair) or lines.judge(pair)
        if name in fields:
            if decides and target is not None and name.startswith("mcp-"):
                raise _mirrored_twice()
            if decides:
                raise bad(f"{name} must not be repeated")
            repeated = repeated or set()
            repeated.add(name)
            value = f"{fields[name]}, {value}"
        fields[name] = value
    return fields, frozenset(repeated) if repeated else _NONE


def _request_framing(fields: dict[str, str], minor: int) -> tuple[bool, int | None]:
    length = fields.get("content-length")
    coding = fields.get("transfer-encoding")
    if coding is None:
        if length is None:
            return False, None
        size = _length(length)
        if size is None:
            raise _bad("Content-Length must be one plain decimal number.")
        return False, size
    if length is not None or minor == 0:
        raise _bad("Transfer-Encoding goes neither with Content-Length nor with HTTP/1.0.")
    if coding != "chunked":
        raise CallerError("http-coding", "The only transfer coding taken here is chunked.", status=501)
    return True, None


def _expects(fields: dict[str, str], minor: int) -> bool:
    expect = fields.get("expect")
    if expect is None:
        return False
    if expect.lower() != "100-continue":
        raise CallerError("http-expect", "The only expectation met here is 100-continue.", status=417)
    return minor == 1


def _closes(fields: dict[str, str]) -> bool:
    connection = fields.get("connection")
    return connection is not None and "close" in [part.strip() for part in connection.lower().split(",")]


def _length(text: str) -> int | None:
    if not 0 < len(text) <= LENGTH_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


def _explain_request(block: bytes) -> NoReturn:
    check_partial_head(block)
    if block.count(b"\r\n") - 2 > limits.HEADER_FIELDS:
        raise _too_large()
    raise _bad("A header line of this request is malformed.")


def _bad(tell: str) -> CallerError:
    return CallerError("http-head", tell, status=400)


def _mirrored_twice() -> CallerError:
    # Two values cannot both repeat the body (2026-07-28 basic/transports/streamable-http, server validation).
    return CallerError(
        "http-head", "An Mcp header must not be repeated.", status=400, rpc_code=codes.HEADER_MISMATCH
    )


def _too_long() -> CallerError:
    return CallerError(
        "http-target", f"A request target has at most {limits.TARGET_BYTES} bytes.", status=414
    )


def _too_large() -> CallerError:
    tell = f"A request head has at most {limits.HEAD_BYTES} bytes and {limits.HEADER_FIELDS} fields."
    return CallerError("http-head-size", tell, status=431)


def _broke(why: str) -> UpstreamError:
    return UpstreamError("upstream-broke", "The server's HTTP response cannot be trusted.", why)


def plain_fields(pairs: list[tuple[str, str]]) -> bytes:
    """Encode header fields, each line ending in CRLF. Raises ValueError for a name or value that would break the head."""
    lines: list[str] = []
    for name, value in pairs:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"header {name!r} cannot be written")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


_NAME = re.compile(_TOKEN.decode("ascii"))
_VALUE = re.compile("[\t\x20-\x7e\x80-\xff]*")
_REQUEST_LINES = _Lines(_SINGLE, _bad)
_RESPONSE_LINES = _Lines(_SINGLE_IN_RESPONSES, _broke)
