from __future__ import annotations

import pytest

from doorward.base.errors import UpstreamError
from doorward.protocol.sse import SseEvent, SseReader, write_comment, write_event

STREAM = (
    b"\xef\xbb\xbf: hello\n\n"
    b"id: 1\r\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n"
    b"data:no space\rdata:  two spaces\r\r"
    b"id: a\0b\ndata: x\n\n"
    b"id: prime\nretry: 250\ndata:\n\n"
    b"retry: +5\nretry: \xd9\xa3\ndata\nunknown: y\n\n"
    b"event: other\ndata: \xe2\x80\xa8\xc2\x85\n\n"
    b"event: nothing\n\n"
    b"data: cut off"
)  # fmt: skip
EVENTS = [
    SseEvent("message", "1", '{"a":\n1}', None),
    SseEvent("message", "", "no space\n two spaces", None),
    SseEvent("message", "", "x", None),
    SseEvent("message", "prime", "", 250),
    SseEvent("message", "", "", None),
    SseEvent("other", "", "\u2028\x85", None),
]


def test_a_stream_is_read_by_the_rules() -> None:
    assert SseReader(1_000).feed(STREAM) == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_the_size_of_pieces_makes_no_difference(size: int) -> None:
    reader = SseReader(1_000)
    events = [event for at in range(0, len(STREAM), size) for event in reader.feed(STREAM[at : at + size])]
    assert events == EVENTS


@pytest.mark.parametrize(
    "flood",
    [
        b"data: " + b"x" * 200,
        b"data: xxxxxxxxxxxxxxxx\n" * 20,
        b": xxxxxxxxxxxxxxxxxxxx\n" * 20,
        b"event: " + b"x" * 200 + b"\n",
    ],
)
@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_an_event_without_end_is_given_up(flood: bytes, size: int) -> None:
    reader = SseReader(100)
    with pytest.raises(UpstreamError) as caught:
        for at in range(0, len(flood), size):
            reader.feed(flood[at : at + size])
    assert caught.value.code == "upstream-event-too-large"


def test_many_small_events_are_no_large_one() -> None:
    assert len(SseReader(100).feed(b"data: 1\n\n" * 1_000)) == 1_000


def test_an_event_that_is_not_utf8_is_given_up() -> None:
    with pytest.raises(UpstreamError) as caught:
        SseReader(100).feed(b"data: \xff\n\n")
    assert caught.value.code == "upstream-event-encoding"


def test_a_huge_retry_is_ignored() -> None:
    assert SseReader(100).feed(b"retry: 99999999999\ndata: 1\n\n") == [SseEvent("message", "", "1", None)]


def test_a_long_id_is_ignored() -> None:
    assert SseReader(10_000).feed(b"id: " + b"x" * 2_000 + b"\ndata: 1\n\n") == [
        SseEvent("message", "", "1", None)
    ]


def test_what_is_written_can_be_read() -> None:
    written = (
        write_event(b'{"a":1}', "7", 500)
        + write_comment()
        + write_event(b"a\nb\r\nc\rd")
        + write_event(b"", "8")
    )
    assert SseReader(1_000).feed(written) == [
        SseEvent("message", "7", '{"a":1}', 500),
        SseEvent("message", "", "a\nb\nc\nd", None),
        SseEvent("message", "8", "", None),
    ]


def test_nothing_in_the_data_starts_another_event() -> None:
    written = write_event(b'x\n\nevent: message\ndata: {"jsonrpc":"2.0","id":2,"result":{}}\n\n')
    assert len(SseReader(1_000).feed(written)) == 1


@pytest.mark.parametrize(
    "stream",
    [
        b"event: message\ndata: {}\n\n",
        b"event: message\ndata: \n\n",
        b"event: message\ndata: a\rdata: b\n\n",
        b"event: message\ndata: a\r\n\n",
        b"event: message\ndata: a\n\ndata: b\n\n",
        b"event: message\ndata: a\nid: 3\n\n",
        b"event: message\ndata: \xff\n\n",
        b"event: message\ndata: " + b"x" * 200 + b"\n\n",
    ],
)
def test_an_event_that_comes_in_one_read_is_read_like_one_that_comes_byte_by_byte(stream: bytes) -> None:
    assert heard([stream]) == heard([stream[at : at + 1] for at in range(len(stream))])


def heard(pieces: list[bytes]) -> list[SseEvent] | str:
    reader, events = SseReader(100), []
    try:
        for piece in pieces:
            events += reader.feed(piece)
    except UpstreamError as error:
        return error.code
    return events
