"""What holds for every text: properties of the protocol room under random input."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from doorward.base.errors import CallerError, UpstreamError
from doorward.controls.check_shape import fault_in_notification, fault_in_params, fault_in_tool
from doorward.protocol import headers, legacy, modern
from doorward.protocol.envelope import encode, message_of, parse_message, request
from doorward.protocol.json_door import Number, encode_json, parse_json
from doorward.protocol.lines import LineReader
from doorward.protocol.sse import SseReader, write_event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20) + 1, 10**20 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
LEXEMES = st.from_regex(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
TRICKY = st.sampled_from(
    ['{"', '":', '"', "\\u0000", "\\ud800", "\\u0061", "a", "A", "jsonrpc", "2.0", "id", "method", "params", "-0", "1e999",
     "9" * 25, ",", "{", "}", "[", "]", "null", "NaN", " ", "\n", "\0", "\ufeff", "\u2028", "_meta", "name", "Name"]
)  # fmt: skip


def plain(value: Any) -> Any:
    """The value with its numbers as Python has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return float(value) if isinstance(value, Number) else value


@given(VALUES)
def test_reading_and_writing_keeps_every_value(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    written = encode_json(parse_json(text))
    assert plain(parse_json(written)) == value
    assert json.loads(written) == value
    assert len(written.decode().splitlines()) == 1


@given(st.lists(LEXEMES, min_size=1, max_size=5))
@example(["-0", "0", "-0.0", "1.10", "1E5"])
def test_the_digits_of_numbers_are_kept(lexemes: list[str]) -> None:
    text = ("[" + ",".join(lexemes) + "]").encode()
    assert encode_json(parse_json(text)) == text


@given(
    st.one_of(
        st.binary(max_size=200), st.lists(TRICKY, max_size=20).map(lambda parts: "".join(parts).encode())
    )
)
def test_the_parser_raises_nothing_but_caller_errors(body: bytes) -> None:
    try:
        value = parse_json(body)
    except CallerError as error:
        assert error.status == 400
        assert error.rpc_code == -32700
        return
    # What we take, the strictest common reader understands in the same way.
    assert plain(value) == json.loads(body)
    with contextlib.suppress(CallerError):
        message_of(value)


@given(VALUES)
def test_judging_a_message_raises_nothing_but_caller_errors(value: Any) -> None:
    for candidate in (
        value,
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": value},
        {"jsonrpc": "2.0", "id": value, "method": "x"},
        {"jsonrpc": "2.0", "id": 1, "error": value},
        {"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"_meta": value}},
    ):
        with contextlib.suppress(CallerError):
            message = message_of(candidate)
            assert plain(parse_message(encode(message)).value) == candidate
            for field in (None, "2026-07-28"):
                with contextlib.suppress(CallerError):
                    legacy.classify(field, message)
            with contextlib.suppress(CallerError):
                modern.envelope_of(message)


@given(st.sampled_from(sorted(legacy.CLIENT_REQUESTS | modern.CLIENT_REQUESTS)), st.dictionaries(
    st.sampled_from(["name", "arguments", "uri", "cursor", "_meta", "ref", "argument", "level", "taskId"]), VALUES))  # fmt: skip
def test_shapes_are_judged_without_raising(method: str, params: dict[str, Any]) -> None:
    fault_in_params(method, params)
    fault_in_notification("notifications/cancelled", params)
    fault_in_tool({**params, "inputSchema": params}, True)  # noqa: FBT003


@given(st.text(max_size=50).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text)))
@example("=?base64??=")
@example("=?base64?=")
def test_every_value_survives_a_header(value: str) -> None:
    field = headers.encode_value(value)
    assert field.isascii()
    assert field.isprintable()
    assert field == field.strip()
    assert headers.decode_value(field) == value


@given(st.text(st.characters(codec="latin-1"), max_size=40), st.binary(max_size=20))
def test_reading_a_header_never_raises(field: str, raw: bytes) -> None:
    headers.decode_value(field)
    headers.decode_value("=?base64?" + field + "?=")
    decoded = headers.decode_value("=?base64?" + base64.b64encode(raw).decode() + "?=")
    if decoded is not None:
        assert decoded.encode() == raw


@given(st.dictionaries(st.sampled_from(["a", "b"]), SCALARS), VALUES)
def test_what_we_mirror_matches_what_we_mirror(arguments: dict[str, Any], schema: Any) -> None:
    declared = {"type": "object", "properties": {
        "a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "integer", "x-mcp-header": "B"}}}  # fmt: skip
    meta = {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {}}
    body = encode(request(1, "tools/call", {"name": "x", "arguments": arguments, "_meta": meta}))
    message = parse_message(body)
    fields = {name.lower(): value for name, value in headers.modern_fields(message, "2026-07-28", declared)}
    assert headers.check_mirror(fields, message, declared) is None
    headers.invalid_annotations({"inputSchema": schema})


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut into pieces of the given sizes, and what is left."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


STREAMS = st.lists(
    st.sampled_from([b"data: x", b"data:", b"id: 1", b"id: a\0", b"retry: 5", b": c", b"event: e", b"\r", b"\n", b"\r\n",
                     b"\xef\xbb\xbf", b"\xc2", b"\x85", b"\xe2\x80\xa8", b" ", b"junk"]), max_size=40).map(b"".join)  # fmt: skip


@given(STREAMS, st.lists(st.integers(0, 5), max_size=60))
@example(b"\xef\xbb\xbfdata: x\r\n\r\n", [1, 1, 1, 1, 1, 6])
def test_a_stream_reads_the_same_however_it_is_cut(data: bytes, sizes: list[int]) -> None:
    def run(pieces: list[bytes]) -> list[Any]:
        reader, events = SseReader(1_000), list[Any]()
        try:
            for piece in pieces:
                events.extend(reader.feed(piece))
        except UpstreamError as error:
            return [error.code]
        return events

    assert run([data]) == run(cut(data, sizes)) == run([data[at : at + 1] for at in range(len(data))])


@given(st.binary(max_size=200), st.lists(st.integers(0, 9), max_size=60))
def test_lines_read_the_same_however_they_are_cut(data: bytes, sizes: list[int]) -> None:
    whole, pieces = LineReader(1_000), LineReader(1_000)
    assert whole.feed(data) == [line for piece in cut(data, sizes) for line in pieces.feed(piece)]


@given(VALUES)
def test_a_written_event_is_one_event(value: Any) -> None:
    data = encode_json(value)
    (event,) = SseReader(100_000).feed(write_event(data, "7"))
    assert (event.id, event.data.encode()) == ("7", data)
    assert LineReader(100_000).feed(data + b"\n") == [data]


@given(st.floats(allow_nan=False))
def test_only_numbers_within_a_double_pass(number: float) -> None:
    text = repr(number).replace("inf", "1e400").encode()
    try:
        assert float(parse_json(text)) == number
    except CallerError:
        assert math.isinf(number)
