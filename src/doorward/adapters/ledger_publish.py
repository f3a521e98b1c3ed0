"""From entries to files: gathers what became whole since the last checkpoint, and writes it (in a thread)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from doorward.adapters.ledger_disk import place_file, sync_file_system, sync_folder
from doorward.audit.tiles import TileName, join_entries, tail_path, tile_of, tiles_of
from doorward.audit.tree import TILE_WIDTH, Tree

FEW_FILES = 8  # more are synced at once: a commit of the journal for each costs more than all the rest


class Batch:
    """Entries and tiles on their way to disk."""

    def __init__(self, bundle: list[bytes]) -> None:
        self.first = False  # publish even though nothing is new
        self.edge = 0  # sequence number up to which entries were added
        self._bundle = list(bundle)
        self._tiles: list[tuple[TileName, bytes]] = []

    def add(self, entries: list[bytes]) -> None:
        """Take entries in order."""
        at = 0
        while at < len(entries):
            part = entries[at : at + TILE_WIDTH - len(self._bundle)]
            self._bundle += part
            self.edge += len(part)
            at += len(part)
            if len(self._bundle) == TILE_WIDTH:
                name = TileName(-1, self.edge // TILE_WIDTH - 1)
                self._tiles.append((name, join_entries(self._bundle)))
                self._bundle = []

    def finish(self, level: int, index: int, hashes: list[bytes]) -> None:
        """Take a hash tile that became full."""
        self._tiles.append((TileName(level, index), b"".join(hashes)))

    @property
    def whole(self) -> int:
        """How many whole files wait to be written."""
        return len(self._tiles)

    def take_whole(self) -> list[tuple[str, bytes]]:
        """The whole files so far: (path, content)."""
        tiles, self._tiles = self._tiles, []
        return [(name.path, content) for name, content in tiles]

    def take(self, tree: Tree) -> list[tuple[str, bytes]]:
        """All files that a checkpoint over ``tree`` needs and that are not written yet: (path, content)."""
        self.first = False
        tiles, self._tiles = self._tiles, []
        tiles += [(name, b"".join(tree.levels[name.level])) for name in tiles_of(tree.size)]
        if self._bundle:
            tiles.append(
                (TileName(-1, tree.size // TILE_WIDTH, len(self._bundle)), join_entries(self._bundle))
            )
        return [(name.path, content) for name, content in tiles]


def write_batch(
    folder: Path, scratch: Path, files: list[tuple[str, bytes]], *, others_unsynced: bool = False
) -> None:
    """Write files durably, and make durable what was written before without syncing; raises OSError."""
    many = others_unsynced or len(files) > FEW_FILES
    touched: set[Path] = set()
    for path, content in files:
        target = folder / path
        if not target.parent.is_dir():
            missing = [target.parent]
            while not missing[-1].parent.is_dir():
                missing.append(missing[-1].parent)
            touched.update(one.parent for one in missing)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place_file(scratch, target, content, sync=not many)
        touched.add(target.parent)
    if many:
        sync_file_system(folder)
    else:
        for parent in touched:
            sync_folder(parent)


def place_checkpoint(folder: Path, scratch: Path, note: str, tails: list[int], stale: set[str]) -> None:
    """Put a new checkpoint in force, then remove the tails and partial tiles that it makes obsolete; raises OSError."""
    place_file(scratch, folder / "checkpoint", note.encode())
    sync_folder(folder)
    drop_partials(folder, stale)
    for start in tails:
        (folder / tail_path(start)).unlink(missing_ok=True)
    if tails:
        sync_folder(folder / "tail")


def drop_partials(folder: Path, stale: set[str]) -> None:
    """Remove partial tiles, and their folders where they were the last; raises OSError."""
    for path in stale:
        (folder / path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: a wider one is in it
            (folder / path).parent.rmdir()


def partials_of(size: int) -> set[str]:
    """Paths of the partial files that a checkpoint over ``size`` entries needs."""
    bundle = [TileName(-1, size // TILE_WIDTH, size % TILE_WIDTH)] if size % TILE_WIDTH else []
    return {name.path for name in (*tiles_of(size), *bundle)}


def strays_of(folder: Path, size: int) -> set[str]:
    """Partial files near the right edge that a log of ``size`` entries does not need: a killed writer left them."""
    found: set[str] = set()
    for level in (-1, *range(len(tiles_of(size)) + 2)):
        index = size // TILE_WIDTH ** (max(level, 0) + 1)
        near = (folder / TileName(level, index).path).parent
        for path in near.glob("*.p/*"):
            name = tile_of(path.relative_to(folder).as_posix())
            if name is not None:
                found.add(name.path)
    return found - partials_of(size)
