"""Names and contents of the files of a tiled log (C2SP tlog-tiles), and of the tail that is not in tiles yet.

A log's folder holds ``checkpoint``, ``tile/L/N[.p/W]``, ``tile/entries/N[.p/W]`` and ``tail/START``. The tail is
append-only: a first line of ours, then frames ``u32 length | u32 CRC-32 | entries``, one for each write.
"""

from __future__ import annotations

import re
from struct import Struct
from zlib import crc32

import msgspec

from doorward.audit.tree import HASH_BYTES, TILE_WIDTH

ENTRY_BYTES = 65_535  # a u16 length goes before each entry
FRAME_HEAD_BYTES = 8
_pack_length = Struct(">H").pack
_pack_frame_head = Struct(">II").pack
_TILE = re.compile(
    r"tile/(0|[1-9][0-9]?|entries)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)
_TAIL = re.compile(r"tail/([0-9]{20})", re.ASCII)


class TileName(msgspec.Struct, frozen=True):
    """A tile or bundle: ``level`` is -1 for entries, ``width`` is 256 when it is full."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where the file is, relative to the log's folder."""
        digits = f"{self.index % 1000:03d}"
        rest = self.index // 1000
        while rest:
            digits = f"x{rest % 1000:03d}/{digits}"
            rest //= 1000
        level = "entries" if self.level < 0 else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{digits}{partial}"


def tile_of(path: str) -> TileName | None:
    """Read a path back; None when it is not exactly what ``TileName.path`` writes."""
    found = _TILE.fullmatch(path)
    if found is None:
        return None
    level = -1 if found[1] == "entries" else int(found[1])
    index = int(found[2].replace("x", "").replace("/", ""))
    name = TileName(level, index, int(found[3]) if found[3] else TILE_WIDTH)
    return name if name.path == path else None


def tiles_of(size: int) -> list[TileName]:
    """The unfinished tiles of a tree of ``size`` leaves, lowest level first, without the entry bundle."""
    found = []
    level, count = 0, size
    while count:
        if count % TILE_WIDTH:
            found.append(TileName(level, count // TILE_WIDTH, count % TILE_WIDTH))
        count //= TILE_WIDTH
        level += 1
    return found


def split_hashes(tile: bytes, width: int) -> list[bytes] | None:
    """The hashes of a tile; None when it is not exactly ``width`` hashes long."""
    if len(tile) != width * HASH_BYTES:
        return None
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


def join_entries(entries: list[bytes]) -> bytes:
    """Write an entry bundle: each entry after its big-endian u16 length."""
    parts: list[bytes] = []
    for entry in entries:
        parts += (_pack_length(len(entry)), entry)
    return b"".join(parts)


def split_entries(bundle: bytes) -> list[bytes] | None:
    """Read an entry bundle; None when its lengths do not add up."""
    entries = []
    at, end = 0, len(bundle)
    while at < end:
        stop = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if stop > end or at + 2 > end:
            return None
        entries.append(bundle[at + 2 : stop])
        at = stop
    return entries


def tail_path(start: int) -> str:
    """The tail file whose first entry has sequence number ``start``."""
    return f"tail/{start:020d}"


def tail_start(path: str) -> int | None:
    """The first sequence number of a tail file, or None for another path."""
    found = _TAIL.fullmatch(path)
    return int(found[1]) if found is not None else None


def tail_head(origin: str, start: int) -> bytes:
    """The first line of a tail file: it binds the file to its log and place."""
    return f"doorward tail {origin} {start}\n".encode()


def frame(block: bytes) -> bytes:
    """Wrap one write of entries, so that a torn or changed one is seen."""
    return _pack_frame_head(len(block), crc32(block)) + block


class Tail(msgspec.Struct):
    """A tail file as read: its whole entries, the bytes they take, and what is wrong with the rest."""

    entries: list[bytes]
    good_bytes: int
    problem: str = ""
    torn: bool = False  # the last write did not finish; nothing after it was ever answered


def read_tail(content: bytes, origin: str, start: int) -> Tail:
    """Read a tail file as far as it is whole."""
    head = tail_head(origin, start)
    if not content.startswith(head):
        torn = head.startswith(content)
        return Tail([], 0, "the tail has another first line", torn=torn)
    at, end = len(head), len(content)
    entries: list[bytes] = []
    while at < end:
        length = int.from_bytes(content[at : at + 4], "big")
        stop = at + FRAME_HEAD_BYTES + length
        if at + FRAME_HEAD_BYTES > end or stop > end:
            return Tail(entries, at, "the last write is not whole", torn=True)
        block = content[at + FRAME_HEAD_BYTES : stop]
        more = split_entries(block) if crc32(block).to_bytes(4, "big") == content[at + 4 : at + 8] else None
        if not more:
            return Tail(entries, at, "a write in the tail was changed", torn=stop == end)
        entries += more
        at = stop
    return Tail(entries, at)
