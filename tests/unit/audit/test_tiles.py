"""Names and contents of log files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.audit.tiles import (
    TileName,
    frame,
    join_entries,
    read_tail,
    split_entries,
    tail_head,
    tile_of,
    tiles_of,
)


def test_paths_are_those_of_the_specification() -> None:
    assert TileName(0, 1234067).path == "tile/0/x001/x234/067"
    assert TileName(-1, 0, 112).path == "tile/entries/000.p/112"


def test_a_tree_of_70000_has_the_partial_tiles_that_the_specification_names() -> None:
    assert [(name.level, name.index, name.width) for name in tiles_of(70_000)] == [
        (0, 273, 112),
        (1, 1, 17),
        (2, 0, 1),
    ]
    assert [(name.level, name.index, name.width) for name in tiles_of(256)] == [(1, 0, 1)]


@given(st.integers(-1, 7), st.integers(0, 10**9), st.integers(1, 256))
def test_paths_read_back(level: int, index: int, width: int) -> None:
    name = TileName(level, index, width)
    assert tile_of(name.path) == name


@pytest.mark.parametrize(
    "path", ["tile/00/000", "tile/0/x000/001", "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/1", "x"]
)
def test_other_spellings_are_no_paths(path: str) -> None:
    assert tile_of(path) is None


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_bundles_read_back(entries: list[bytes]) -> None:
    assert split_entries(join_entries(entries)) == entries


@given(st.binary(max_size=100))
def test_any_bytes_are_a_bundle_or_not(content: bytes) -> None:
    entries = split_entries(content)
    assert entries is None or join_entries(entries) == content


@given(st.data())
def test_any_changed_byte_of_a_tail_is_seen(data: st.DataObject) -> None:
    whole = bytearray(
        tail_head("a", 0) + frame(join_entries([b"one", b"two"])) + frame(join_entries([b"three"]))
    )
    assert read_tail(bytes(whole), "a", 0).entries == [b"one", b"two", b"three"]
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    assert read_tail(bytes(whole), "a", 0).problem
