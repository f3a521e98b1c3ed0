from __future__ import annotations

import pytest

from doorward.base.errors import UpstreamError
from doorward.protocol.lines import LineReader

STREAM = b'{"a":1}\n{"b":2}\r\n\n\r\n{"c":"\xe2\x80\xa8\xc2\x85\x0b\x0c\r"}\nunfinished'
LINES = [b'{"a":1}', b'{"b":2}', b'{"c":"\xe2\x80\xa8\xc2\x85\x0b\x0c\r"}']


@pytest.mark.parametrize("size", [1, 2, 5, 1_000])
def test_only_lf_ends_a_line(size: int) -> None:
    reader = LineReader(100)
    assert [
        line for at in range(0, len(STREAM), size) for line in reader.feed(STREAM[at : at + size])
    ] == LINES


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_end_is_given_up(size: int, end: bytes) -> None:
    flood = b"x" * 101 + end
    reader = LineReader(100)
    with pytest.raises(UpstreamError) as caught:
        for at in range(0, len(flood), size):
            reader.feed(flood[at : at + size])
    assert caught.value.code == "upstream-line-too-large"


def test_the_longest_line_passes() -> None:
    reader = LineReader(100)
    assert reader.feed(b"x" * 50) == []
    assert reader.feed(b"x" * 50 + b"\n") == [b"x" * 100]
    assert reader.feed(b"y" * 100 + b"\n") == [b"y" * 100]
