"""Writes whole tiles and bundles while their log goes on, so that publishing finds little left to do.

Nothing relies on these files before a checkpoint does, so they are not synced here: who publishes does that. After a
crash the next writer drops what no checkpoint covers, for a power cut may have spared it and not the tail that it is of;
then it makes it anew from the tail.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from doorward.adapters.ledger_disk import place_file
from doorward.audit.tiles import TileName, tile_of
from doorward.audit.tree import TILE_WIDTH

AHEAD_FILES = 4  # so many whole files are worth a turn of the thread: under a millisecond of work


class Ahead:
    """Files handed to the ledger's file thread before they are needed."""

    def __init__(self, folder: Path, scratch: Path, thread: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._scratch = scratch
        self._thread = thread
        self._under_way: list[Future[OSError | None]] = []
        self._unsynced = False

    def put(self, files: list[tuple[str, bytes]]) -> None:
        """Write these soon. What goes wrong is raised by ``settle``."""
        self._under_way.append(self._thread.submit(self._write, files))

    def _write(self, files: list[tuple[str, bytes]]) -> OSError | None:
        try:
            for path, content in files:
                target = self._folder / path
                if not target.parent.is_dir():
                    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                place_file(self._scratch, target, content, sync=False)
        except OSError as error:
            return error
        return None

    async def settle(self) -> bool:
        """Wait until all of it is written; True when something is not synced yet. Raises OSError."""
        while self._under_way:
            self._unsynced = True
            batch = list(self._under_way)
            written, _ = await asyncio.wait([asyncio.wrap_future(one) for one in batch])
            del self._under_way[: len(batch)]  # only now: a cancelled wait forgets nothing
            for one in written:
                if (error := one.result()) is not None:
                    raise error
        return self._unsynced

    def synced(self) -> None:
        """The file system was synced after the last ``settle``."""
        self._unsynced = False


def drop_unpublished(folder: Path, size: int) -> None:
    """Remove whole files that reach beyond a checkpoint over ``size`` entries; raises OSError."""
    level, span = -1, TILE_WIDTH  # entries that a file of this level covers
    while level < 1 or size >= span // TILE_WIDTH:
        edge, left = divmod(size, span)
        width = left // (span // TILE_WIDTH)
        # A whole file may stand for the partial one that the checkpoint needs.
        stands_in = bool(width) and not (folder / TileName(level, edge, width).path).exists()
        for near in {(folder / TileName(level, edge + further).path).parent for further in (0, 1000)}:
            for path in near.glob("[0-9][0-9][0-9]"):
                name = tile_of(path.relative_to(folder).as_posix())
                if name is not None and name.index >= edge + stands_in:
                    path.unlink()
        level += 1
        span = TILE_WIDTH ** (level + 1) if level > 0 else TILE_WIDTH
