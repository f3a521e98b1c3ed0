"""Check one log: its entries make its tiles, its tiles make its signed root, and there is nothing else."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.audit.checkpoint import folder_of, key_id, open_note, parse_checkpoint, signers_of
from doorward.audit.tiles import (
    TileName,
    join_entries,
    read_tail,
    split_entries,
    tail_start,
    tile_of,
    tiles_of,
)
from doorward.audit.tree import HASH_BYTES, TILE_WIDTH, Tree, leaf_hash
from doorward.base.errors import TamperError

if TYPE_CHECKING:
    from doorward.audit.verify import Shelf


class Problem(msgspec.Struct, frozen=True):
    """Something that does not hold: in which log, from which entry on, in which file, and what."""

    log: str
    seq: int | None
    file: str
    what: str


class _Stop(Exception):  # noqa: N818 - not an error: the rest of this log cannot be judged
    pass


class LogCheck:
    """One pass over one log."""

    def __init__(self, origin: str, files: list[str], shelf: Shelf, public_key: bytes) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        self._shelf = shelf
        self._public_key = public_key
        self._folder = folder_of(origin)
        self._tree = Tree()
        self._wanted: dict[int, list[tuple[str, str]]] = {}
        self._bundle: list[bytes] = []
        self._size = 0  # entries under the checkpoint
        self._tail: list[bytes] = []
        self._tail_from = 0
        self._left: set[str] = set(files)
        self._widths: dict[tuple[int, int], list[TileName]] = {}
        for path in files:
            name = tile_of(path)
            if name is not None:
                self._widths.setdefault((name.level, name.index), []).append(name)
        # What a live writer removes is read first; everything else in a log never changes.
        self._early: dict[str, bytes | None] = {}
        self._early["checkpoint"] = shelf.read(f"{self._folder}/checkpoint")
        for path in sorted(files, reverse=True):
            if path.startswith("tail/") or "/" in path and path.rpartition("/")[0].endswith(".p"):
                self._early[path] = shelf.read(f"{self._folder}/{path}")

    def want(self, size: int, root_hex: str, source: str) -> None:
        """Demand that the log had this root at this size, according to ``source``."""
        self._wanted.setdefault(size, []).append((root_hex, source))

    def run(self) -> dict[str, Any]:
        """Check everything; the log's line of the report."""
        try:
            self._check()
        except _Stop:
            pass
        else:
            for path in sorted(self._left):
                self._problem(None, path, "the file is not part of the log")
        count = self._tree.size
        return {
            "origin": self.origin,
            "entries": count,
            "root": base64.b64encode(self._tree.root()).decode(),
            "first_seq": 0 if count else None,
            "last_seq": count - 1 if count else None,
            "signed_entries": self._size,
        }

    def _problem(self, seq: int | None, path: str, what: str) -> None:
        self.problems.append(Problem(self.origin, seq, f"{self._folder}/{path}", what))

    def _read(self, path: str) -> bytes | None:
        if path in self._early:
            return self._early[path]
        return self._shelf.read(f"{self._folder}/{path}")

    def _check(self) -> None:
        self._read_checkpoint()
        self._read_tails()
        for index in range(self._size // TILE_WIDTH):
            self._take(self._entries_of(TileName(-1, index)))
        if self._size % TILE_WIDTH:
            self._take(self._entries_of(TileName(-1, self._size // TILE_WIDTH, self._size % TILE_WIDTH)))
        if self._size == 0:
            self._reach()
        self._take(self._tail[self._size - self._tail_from :])
        self._check_edge()
        for size in sorted(self._wanted):
            for _, source in self._wanted[size]:
                self._problem(
                    self._tree.size, "checkpoint", f"the log is shorter than {source} ({size} entries)"
                )

    def _read_checkpoint(self) -> None:
        self._left.discard("checkpoint")
        note = self._early["checkpoint"]
        if note is None:
            self._problem(None, "checkpoint", "the checkpoint is missing")
            raise _Stop
        try:
            checkpoint = parse_checkpoint(open_note(note, self.origin, self._public_key))
            if signers_of(note) != [(self.origin, key_id(self.origin, self._public_key))]:
                raise TamperError("note-signers", "The note carries a signature of an unknown key.")
        except TamperError as error:
            self._problem(None, "checkpoint", error.tell)
            raise _Stop from error
        if checkpoint.origin != self.origin:
            self._problem(None, "checkpoint", "the checkpoint is another log's")
            raise _Stop
        self._size = checkpoint.size
        self.want(checkpoint.size, checkpoint.root.hex(), "its checkpoint")

    def _read_tails(self) -> None:
        starts = sorted(start for path in self._left if (start := tail_start(path)) is not None)
        if not starts:
            self._problem(self._size, "tail", "the tail is missing")
            raise _Stop
        self._tail_from = starts[0]
        for start in starts:
            path = f"tail/{start:020d}"
            self._left.discard(path)
            content = self._early[path]
            if content is None:
                self._problem(start, path, "the tail cannot be read")
                raise _Stop
            tail = read_tail(content, self.origin, start)
            known = self._tail_from + len(self._tail)
            if start > known or tail.problem:
                what = tail.problem or "entries before this tail are missing"
                self._problem(start + len(tail.entries) if tail.problem else known, path, what)
                raise _Stop
            overlap = known - start
            if tail.entries[:overlap] != self._tail[start - self._tail_from :][: len(tail.entries)]:
                self._problem(start, path, "two tails disagree")
                raise _Stop
            self._tail += tail.entries[overlap:]
        if not self._tail_from <= self._size <= self._tail_from + len(self._tail):
            self._problem(self._size, f"tail/{starts[-1]:020d}", "the tail does not reach the checkpoint")
            raise _Stop

    def _entries_of(self, name: TileName) -> list[bytes]:
        content = self._read(name.path)
        if content is None and name.width < TILE_WIDTH:
            content = self._read(TileName(-1, name.index).path)  # it became full since
        first = name.index * TILE_WIDTH
        if content is None:
            self._problem(first, name.path, "the entries are missing")
            raise _Stop
        entries = split_entries(content)
        if entries is None or len(entries) < name.width:
            self._problem(first, name.path, "the lengths of the entries do not add up")
            raise _Stop
        if name.width == TILE_WIDTH and len(entries) > TILE_WIDTH:
            self._problem(first, name.path, "there are too many entries")
            raise _Stop
        return entries[: name.width]

    def _take(self, entries: list[bytes]) -> None:
        for entry in entries:
            seq = self._tree.size
            if self._tail_from <= seq < self._size and self._tail[seq - self._tail_from] != entry:
                self._problem(seq, TileName(-1, seq // TILE_WIDTH).path, "the entry differs from the tail")
            self._bundle.append(entry)
            self._tree.add(leaf_hash(entry), self._finished)
            if self._tree.size in self._wanted:
                self._reach()
            if len(self._bundle) == TILE_WIDTH:
                self._compare_bundle((self._tree.size - 1) // TILE_WIDTH)
                self._bundle = []

    def _reach(self) -> None:
        root = self._tree.root().hex()
        for expected, source in self._wanted.pop(self._tree.size, []):
            if root != expected:
                self._problem(
                    None, "checkpoint", f"the first {self._tree.size} entries have another root than {source}"
                )

    def _finished(self, level: int, index: int, hashes: list[bytes]) -> None:
        required = (index + 1) * TILE_WIDTH ** (level + 1) <= self._size
        self._compare_tiles(level, index, hashes, TileName(level, index) if required else None)

    def _check_edge(self) -> None:
        needed = {(name.level, name.index): name for name in tiles_of(self._size)}
        for level, hashes in enumerate(self._tree.levels):
            index = self._tree.size // TILE_WIDTH ** (level + 1)
            self._compare_tiles(level, index, hashes, needed.get((level, index)))
        self._compare_bundle(self._tree.size // TILE_WIDTH)

    def _compare_tiles(self, level: int, index: int, hashes: list[bytes], required: TileName | None) -> None:
        names = self._widths.get((level, index), [])
        if required is not None and not any(name in (required, TileName(level, index)) for name in names):
            self._problem(index * TILE_WIDTH ** (level + 1), required.path, "the tile is missing")
        for name in names:
            if name.width > len(hashes):
                continue  # stays in _left: it claims more than the log has
            self._left.discard(name.path)
            content = self._read(name.path)
            if content != b"".join(hashes[: name.width]):
                self._problem(
                    self._first_difference(name, hashes, content), name.path, "the tile is not of its entries"
                )

    @staticmethod
    def _first_difference(name: TileName, hashes: list[bytes], content: bytes | None) -> int:
        span = 1 << (8 * name.level)
        for place in range(name.width):
            at = place * HASH_BYTES
            if content is None or content[at : at + HASH_BYTES] != hashes[place]:
                return (name.index * TILE_WIDTH + place) * span
        return name.index * TILE_WIDTH * span

    def _compare_bundle(self, index: int) -> None:
        for name in self._widths.get((-1, index), []):
            if name.width > len(self._bundle):
                continue
            self._left.discard(name.path)
            if self._read(name.path) != join_entries(self._bundle[: name.width]):
                self._problem(index * TILE_WIDTH, name.path, "the bundle differs from the log")
