"""The chunked coding: what is read, what is refused, and that the cut of the bytes changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import CallerError
from doorward.protocol.chunks import LAST_CHUNK, ChunkDecoder, encode_chunk


def decode(pieces: list[bytes], limit: int = 1_000) -> tuple[bytes, bool, bytes]:
    decoder = ChunkDecoder(limit)
    body = b""
    for index, piece in enumerate(pieces):
        parts, done, rest = decoder.feed(piece)
        body += b"".join(parts)
        if done:
            return body, True, rest + b"".join(pieces[index + 1 :])
    return body, False, b""


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(number % (len(data) + 1) for number in at)})
    return [data[left:right] for left, right in zip(edges, edges[1:], strict=False)]


@given(st.lists(st.binary(max_size=40), max_size=6), st.binary(max_size=20), st.lists(st.integers(0, 400)))
def test_any_cut_of_the_bytes_gives_the_same_body(parts: list[bytes], rest: bytes, at: list[int]) -> None:
    wire = b"".join(encode_chunk(part) for part in parts) + LAST_CHUNK + rest
    assert decode(cut(wire, at)) == (b"".join(parts), True, rest)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_any_cut_of_any_bytes_gives_the_same_outcome(wire: bytes, at: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            return decode(pieces)
        except CallerError as error:
            return error.status

    assert outcome([wire]) == outcome(cut(wire, at))


@pytest.mark.parametrize(
    "wire",
    [
        b"2_8\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5;a=b\r\nhello\r\n",
        b"5\nhello\n0\n\n",
        b"5\rX\nhello",
        b"\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n0\r\n",
        b"00000000000000005\r\n",
        b"0\r\nno-colon\r\n\r\n",
        b"0\r\nname : value\r\n\r\n",
        b"0\r\nname: a\x00b\r\n\r\n",
        b"0\r\nx: " + b"a" * 5_000 + b"\r\n\r\n",
        b"1;" + b"a" * 100_000,
    ],
)
def test_whatever_two_readers_could_read_differently_is_refused(wire: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        decode([wire])
    assert caught.value.status == 400


def test_a_body_over_the_limit_is_refused_by_its_announced_size() -> None:
    with pytest.raises(CallerError) as caught:
        ChunkDecoder(10).feed(b"b\r\n")
    assert caught.value.status == 413


def test_trailers_are_dropped() -> None:
    assert decode([b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\nrest"]) == (b"a", True, b"rest")


def test_a_flood_of_one_byte_chunks_is_refused() -> None:
    with pytest.raises(CallerError):
        ChunkDecoder(1_000_000).feed(b"1\r\na\r\n" * 20_000)


def test_a_stream_without_limit_takes_any_number_of_chunks() -> None:
    parts, done, _ = ChunkDecoder().feed(b"1\r\na\r\n" * 20_000)
    assert len(parts) == 20_000
    assert not done


@given(st.binary(max_size=40), st.sampled_from([0, 8, 64]))
def test_a_body_that_comes_in_one_read_is_judged_like_one_that_comes_byte_by_byte(
    body: bytes, limit: int
) -> None:
    wire = encode_chunk(body) + LAST_CHUNK
    for sent in (wire, wire[1:], b"0" + wire, wire.replace(b"\r\n0", b"0\r\n0", 1)):
        assert judged([sent], limit) == judged([sent[at : at + 1] for at in range(len(sent))], limit)


def judged(pieces: list[bytes], limit: int) -> tuple[bytes, bool] | int:
    decoder, parts, done = ChunkDecoder(limit), [], False
    try:
        for piece in pieces:
            if done:
                break
            more, done, _ = decoder.feed(piece)
            parts += more
    except CallerError as error:
        return error.status
    return b"".join(parts), done
