"""The Merkle tree of RFC 6962 section 2.1, grown tile by tile: each level keeps only its unfinished tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256

TILE_WIDTH = 256  # hashes in a full tile: height 8 (C2SP tlog-tiles)
HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
_LEAF = sha256(b"\x00")  # where every leaf's hash begins; a copy costs less than a hash begun anew

Perfect = Callable[[int, int], bytes]
"""(height, index) -> hash of the index-th perfect subtree with 2**height leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash one log entry (RFC 6962 section 2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into one."""
    return sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: list[bytes]) -> bytes:
    """Root over a power of two of equally high subtrees."""
    while len(hashes) > 1:
        pairs = iter(hashes)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return hashes[0]


def _peaks(hashes: list[bytes]) -> list[bytes]:
    """Split hashes into runs of falling powers of two, left to right, and hash each run."""
    found = []
    begin, left = 0, len(hashes)
    while left:
        run = 1 << (left.bit_length() - 1)
        found.append(perfect_root(hashes[begin : begin + run]))
        begin += run
        left -= run
    return found


class Tree:
    """The right edge of a growing tree. ``levels[l]`` holds the hashes of the unfinished tile at level ``l``."""

    __slots__ = ("levels", "size")

    def __init__(self) -> None:
        self.size = 0
        self.levels: list[list[bytes]] = [[]]

    def add(self, leaf: bytes, finished: Callable[[int, int, list[bytes]], None] | None = None) -> None:
        """Append a leaf hash. ``finished(level, index, hashes)`` hears of every tile that this makes full."""
        bottom = self.levels[0]
        bottom.append(leaf)
        self.size += 1
        if len(bottom) == TILE_WIDTH:
            self._carry(finished)

    def _carry(self, finished: Callable[[int, int, list[bytes]], None] | None) -> None:
        level = 0
        while len(self.levels[level]) == TILE_WIDTH:
            full = self.levels[level]
            if finished is not None:
                finished(level, (self.size >> (8 * (level + 1))) - 1, full)
            self.levels[level] = []
            level += 1
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(perfect_root(full))

    def extend(self, entries: Iterable[bytes], finished: Callable[[int, int, list[bytes]], None]) -> None:
        """Append entries, hashing each."""
        bottom, size = self.levels[0], self.size
        begin = _LEAF.copy
        for entry in entries:
            leaf = begin()
            leaf.update(entry)
            bottom.append(leaf.digest())
            size += 1
            if len(bottom) == TILE_WIDTH:
                self.size = size
                self._carry(finished)
                bottom = self.levels[0]
        self.size = size

    def root(self) -> bytes:
        """The Merkle tree hash of everything so far."""
        peaks = [peak for hashes in reversed(self.levels) for peak in _peaks(hashes)]
        if not peaks:
            return EMPTY_ROOT
        root = peaks.pop()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root


def _split(count: int) -> int:
    """The largest power of two below ``count`` (which is at least 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def range_hash(begin: int, end: int, perfect: Perfect) -> bytes:
    """Merkle tree hash of the leaves ``begin`` up to ``end`` where ``begin`` is aligned as in RFC 6962 proofs."""
    count = end - begin
    if count & (count - 1) == 0:
        height = count.bit_length() - 1
        return perfect(height, begin >> height)
    middle = begin + _split(count)
    return node_hash(range_hash(begin, middle, perfect), range_hash(middle, end, perfect))


def inclusion_proof(index: int, size: int, perfect: Perfect) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1; raises ValueError for an index outside of the tree."""
    if not 0 <= index < size:
        msg = "the index is outside of the tree"
        raise ValueError(msg)
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(range_hash(middle, end, perfect))
            end = middle
        else:
            path.append(range_hash(begin, middle, perfect))
            begin = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, perfect: Perfect) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2; raises ValueError unless 0 < old <= new."""
    if not 0 < old <= new:
        msg = "a consistency proof needs 0 < old <= new"
        raise ValueError(msg)
    path: list[bytes] = []
    begin, end, whole = 0, new, True
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(range_hash(middle, end, perfect))
            end = middle
        else:
            path.append(range_hash(begin, middle, perfect))
            begin, whole = middle, False
    if not whole:
        path.append(range_hash(begin, end, perfect))
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """Check an inclusion proof (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, made = index, size - 1, leaf
    for part in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            made = node_hash(part, made)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            made = node_hash(made, part)
        place >>= 1
        last >>= 1
    return last == 0 and made == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> bool:
    """Check a consistency proof (RFC 9162 section 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old_made = new_made = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old_made = node_hash(part, old_made)
            new_made = node_hash(part, new_made)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            new_made = node_hash(new_made, part)
        place >>= 1
        last >>= 1
    return last == 0 and old_made == old_root and new_made == new_root
