"""From entries to files: gathers what became whole since the last checkpoint, and writes it (in a thread)."""

from __future__ import annotations

from pathlib import Path

from doorward.adapters.ledger_disk import list_files, place_file, read_file, sync_folder
from doorward.audit.checkpoint import unsigned_checkpoint
from doorward.audit.tiles import TileName, join_entries, tail_path, tile_of, tiles_of
from doorward.audit.tree import TILE_WIDTH, Tree


class Batch:
    """Entries and tiles on their way to disk."""

    def __init__(self, bundle: list[bytes]) -> None:
        self.first = False  # publish even though nothing is new
        self.edge = 0  # sequence number up to which entries were added
        self._bundle = list(bundle)
        self._tiles: list[tuple[TileName, bytes]] = []

    def add(self, entries: list[bytes]) -> None:
        """Take entries in order."""
        for entry in entries:
            self._bundle.append(entry)
            self.edge += 1
            if len(self._bundle) == TILE_WIDTH:
                name = TileName(-1, self.edge // TILE_WIDTH - 1)
                self._tiles.append((name, join_entries(self._bundle)))
                self._bundle = []

    def finish(self, level: int, index: int, hashes: list[bytes]) -> None:
        """Take a hash tile that became full."""
        self._tiles.append((TileName(level, index), b"".join(hashes)))

    def take(self, tree: Tree) -> list[tuple[str, bytes]]:
        """All files that a checkpoint over ``tree`` needs and that are not written yet: (path, content)."""
        tiles, self._tiles = self._tiles, []
        tiles += [(name, b"".join(tree.levels[name.level])) for name in tiles_of(tree.size)]
        if self._bundle:
            tiles.append((TileName(-1, tree.size // TILE_WIDTH, len(self._bundle)), join_entries(self._bundle)))
        return [(name.path, content) for name, content in tiles]


def write_batch(folder: Path, scratch: Path, files: list[tuple[str, bytes]]) -> None:
    """Write files durably; raises OSError."""
    touched: set[Path] = set()
    for path, content in files:
        target = folder / path
        if not target.parent.is_dir():
            missing = [target.parent]
            while not missing[-1].parent.is_dir():
                missing.append(missing[-1].parent)
            touched.update(one.parent for one in missing)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place_file(scratch, target, content)
        touched.add(target.parent)
    for parent in touched:
        sync_folder(parent)


def place_checkpoint(folder: Path, scratch: Path, note: str, size: int, obsolete: list[int]) -> None:
    """Put a new checkpoint in force, then remove partial tiles that no reader of the last two needs, and old tails."""
    before = read_file(folder / "checkpoint")
    place_file(scratch, folder / "checkpoint", note.encode())
    sync_folder(folder)
    keep = {name.path for name in needed(size)}
    if before is not None:
        last = unsigned_checkpoint(before).size
        keep |= {name.path for name in needed(last)}
        for name in needed(last):
            _prune(folder, name, keep)
    for name in needed(size):
        _prune(folder, name, keep)
    for start in obsolete:
        (folder / tail_path(start)).unlink(missing_ok=True)
    if obsolete:
        sync_folder(folder / "tail")


def needed(size: int) -> list[TileName]:
    """The partial files of a log of ``size`` entries."""
    bundle = [TileName(-1, size // TILE_WIDTH, size % TILE_WIDTH)] if size % TILE_WIDTH else []
    return [*tiles_of(size), *bundle]


def _prune(folder: Path, name: TileName, keep: set[str]) -> None:
    partials = TileName(name.level, name.index, 1).path.removesuffix("/1")
    if not (folder / partials).is_dir():
        return
    for path in list_files(folder / partials):
        found = tile_of(f"{partials}/{path}")
        if found is not None and found.path not in keep:
            (folder / found.path).unlink(missing_ok=True)
