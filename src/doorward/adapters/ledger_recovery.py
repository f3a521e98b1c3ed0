"""Open a log for writing: rebuild the right edge from its tiles, take over what was not in tiles yet, drop nothing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from doorward.adapters.ledger_disk import place_file, read_file, sync_folder
from doorward.audit.checkpoint import open_note, parse_checkpoint, unsigned_checkpoint
from doorward.audit.tiles import (
    TileName,
    read_tail,
    split_entries,
    split_hashes,
    tail_head,
    tail_path,
    tail_start,
    tiles_of,
)
from doorward.audit.tree import HASH_BYTES, TILE_WIDTH, Tree, leaf_hash
from doorward.base.errors import StoreError, TamperError


class Opened(msgspec.Struct):
    """A log as it was found."""

    tree: Tree  # as of the last checkpoint
    bundle: list[bytes]  # the entries of the unfinished bundle at the last checkpoint
    later: list[bytes]  # entries that are on disk but not under a checkpoint
    tails: list[int]  # first sequence numbers of the tail files, oldest first
    problems: list[str]  # what had to be cut off


def mismatch(what: str) -> StoreError:
    """The error for a log that is not what its checkpoint says."""
    return StoreError(
        "ledger-mismatch", f"The ledger does not match its checkpoint: {what}. Run `doorward audit verify`."
    )


def open_log(folder: Path, scratch: Path, origin: str, public_key: bytes | None) -> Opened:
    """Read an existing log, or start an empty one.

    Raises:
        StoreError: ``ledger-mismatch`` when entries, tiles and checkpoint disagree.
        OSError: the disk.
    """
    for part in ("tile/entries", "tail"):
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    note = read_file(folder / "checkpoint")
    tree, bundle = Tree(), []
    if note is not None:
        size, root = _claimed(note, origin, public_key)
        tree = _load_edge(folder, size)
        if tree.root() != root:
            raise mismatch("the tiles have another root")
        bundle = _load_bundle(folder, tree)
    opened = Opened(tree, bundle, [], [], [])
    starts = sorted(
        start for name in os.listdir(folder / "tail") if (start := tail_start(f"tail/{name}")) is not None
    )
    if note is not None and not starts:
        raise mismatch("its tail is gone")
    for start in starts:
        _take_tail(folder, scratch, origin, start, opened, last=start == starts[-1])
    return opened


def _claimed(note: bytes, origin: str, public_key: bytes | None) -> tuple[int, bytes]:
    try:
        text = None if public_key is None else open_note(note, origin, public_key)
        checkpoint = unsigned_checkpoint(note) if text is None else parse_checkpoint(text)
    except TamperError as error:
        raise mismatch(error.tell) from error
    if checkpoint.origin != origin:
        raise mismatch("the checkpoint is another log's")
    return checkpoint.size, checkpoint.root


def _read_wide(folder: Path, name: TileName) -> bytes | None:
    """The file of a partial tile, or the full one that took its place."""
    content = read_file(folder / name.path)
    return content if content is not None else read_file(folder / TileName(name.level, name.index).path)


def _load_edge(folder: Path, size: int) -> Tree:
    tree = Tree()
    tree.size = size
    for name in tiles_of(size):
        content = _read_wide(folder, name)
        hashes = None if content is None else split_hashes(content[: name.width * HASH_BYTES], name.width)
        if hashes is None:
            raise mismatch(f"{name.path} is missing or short")
        while len(tree.levels) <= name.level:
            tree.levels.append([])
        tree.levels[name.level] = hashes
    return tree


def _load_bundle(folder: Path, tree: Tree) -> list[bytes]:
    width = tree.size % TILE_WIDTH
    if not width:
        return []
    name = TileName(-1, tree.size // TILE_WIDTH, width)
    content = _read_wide(folder, name)
    entries = None if content is None else split_entries(content)
    if entries is None or [leaf_hash(entry) for entry in entries[:width]] != tree.levels[0]:
        raise mismatch(f"{name.path} does not match its tile")
    return entries[:width]


def _take_tail(folder: Path, scratch: Path, origin: str, start: int, opened: Opened, *, last: bool) -> None:
    path = folder / tail_path(start)
    content = read_file(path)
    if content is None:
        raise mismatch(f"{tail_path(start)} cannot be read")
    tail = read_tail(content, origin, start)
    known = opened.tree.size + len(opened.later)
    if tail.problem:
        if not (tail.torn and last):
            raise mismatch(f"{tail_path(start)}: {tail.problem}")
        # Only a write that never finished: whoever waited for it was never told that it is on record.
        kept = content[: tail.good_bytes] if tail.good_bytes else tail_head(origin, start)
        place_file(scratch, path, kept)
        sync_folder(folder / "tail")
        opened.problems.append(
            f"{len(content) - tail.good_bytes} bytes after entry {start + len(tail.entries)} were cut off"
        )
    if start > known:
        raise mismatch(f"entries {known} to {start} are missing")
    first_open = opened.tree.size - len(opened.bundle)
    for seq, entry in enumerate(tail.entries, start):
        if seq >= known:
            opened.later.append(entry)
        elif seq >= opened.tree.size:
            if opened.later[seq - opened.tree.size] != entry:
                raise mismatch(f"entry {seq} is there twice and differs")
        elif seq >= first_open and opened.bundle[seq - first_open] != entry:
            raise mismatch(f"entry {seq} differs from its bundle")
    opened.tails.append(start)
