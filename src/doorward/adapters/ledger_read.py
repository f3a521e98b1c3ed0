"""Read the ledger from its files: verify it, and answer questions about it, with or without a running Doorward."""

from __future__ import annotations

import fcntl
import heapq
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from doorward.adapters.ledger_disk import list_files, read_file
from doorward.adapters.ledger_signer import KEY_NAME, VKEY_FILE, read_signed
from doorward.audit.checkpoint import folder_of, read_vkey
from doorward.audit.record import Fold, Stored, parse_record
from doorward.audit.tiles import TileName, read_tail, split_entries, tail_start, tile_of
from doorward.audit.tree import TILE_WIDTH
from doorward.audit.verify import Report, verify
from doorward.base.errors import OperatorError, TamperError

_LOOKS = 4  # a problem that a live writer causes is gone at another look
_LOOK_SECONDS = 0.3


class DiskShelf:
    """The ledger folder as ``audit.verify.Shelf``."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    def paths(self) -> list[str]:
        """See ``audit.verify.Shelf``."""
        return list_files(self._ledger)

    def read(self, path: str) -> bytes | None:
        """See ``audit.verify.Shelf``."""
        try:
            return read_file(self._ledger / path)
        except OSError:
            return None


def find_public_key(data_dir: Path) -> bytes:
    """The ledger's public key of this installation: from the signing key where it can be read, else the public file.

    Raises:
        OperatorError: ``ledger-key`` when there is none or it is broken, ``key-file-...`` as the keys do.
    """
    if os.path.lexists(data_dir / "keys" / f"{KEY_NAME}.pem") and os.access(data_dir / "keys", os.X_OK):
        from doorward.adapters.key_files import load_or_create_ed25519

        return load_or_create_ed25519(data_dir, KEY_NAME).public_key().public_bytes_raw()
    try:
        content = read_file(data_dir / "ledger-state" / VKEY_FILE)
        if content is not None:
            return read_vkey(content.decode("utf-8", "replace"))[1]
    except (OSError, TamperError) as error:
        raise OperatorError("ledger-key", "The ledger's public key cannot be read.") from error
    raise OperatorError(
        "ledger-key",
        "This data folder has no ledger yet, or its key is gone; give the key with --vkey, or the right --config.",
    )


def verify_folder(data_dir: Path, public_key: bytes, witnesses: Sequence[bytes] = ()) -> Report:
    """Verify all logs of a ``data_dir``; looks again while a writer is at work and problems may come from that."""
    shelf = DiskShelf(data_dir / "ledger")
    report = Report(ok=True, completeness="unwitnessed", entries=0, logs=[], problems=[])
    for look in range(_LOOKS):
        before = _print_of(data_dir)
        report = verify(shelf, public_key, signed=_signed(data_dir), witnesses=witnesses)
        if report.ok or _print_of(data_dir) == before:
            break
        if look + 1 < _LOOKS:
            time.sleep(_LOOK_SECONDS)
    return report


def _signed(data_dir: Path) -> dict[str, tuple[int, str]]:
    try:
        return read_signed(data_dir / "ledger-state")
    except OSError:
        return {}


def _print_of(data_dir: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and change times of everything in the ledger: equal prints mean that nobody wrote."""
    found = []
    ledger = data_dir / "ledger"
    for path in list_files(ledger):
        try:
            stat = os.lstat(ledger / path)
            found.append((path, stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((path, -1, 0))
    return found


class Question(msgspec.Struct, frozen=True):
    """What rows somebody wants; empty members want everything. Times are RFC 3339 UTC texts of one form."""

    principal: str = ""
    tool: str = ""
    server: str = ""
    control: str = ""
    verdict: str = ""
    kind: str = ""
    since: str = ""
    until: str = ""
    event: str = ""
    limit: int = 100

    def fits(self, row: dict[str, Any]) -> bool:
        """Whether a row is wanted."""
        for name in ("principal", "server", "control", "verdict", "kind", "event"):
            wanted = getattr(self, name)
            if wanted and row.get(name) != wanted:
                return False
        if self.tool and (row.get("item") != self.tool or row.get("method") not in ("tools/call", "", None)):
            return False
        moment = str(row.get("time", ""))
        return (not self.since or moment >= self.since) and (not self.until or moment < self.until)


class LedgerReader:
    """Reads entries backwards, log by log, from bundles and tails."""

    def __init__(self, data_dir: Path) -> None:
        self._ledger = data_dir / "ledger"
        self._state = data_dir / "ledger-state"

    def logs(self) -> list[str]:
        """Origins of all logs that have a folder."""
        if not self._ledger.is_dir():
            return []
        return sorted(one.name.replace("+", "/") for one in self._ledger.iterdir() if one.is_dir())

    def entries(self, log: str) -> Iterator[Stored]:
        """All entries of a log, newest first. Holes are passed over: ``verify`` tells of them."""
        folder = self._ledger / folder_of(log)
        alive_from = self._alive_from(log)
        tail: dict[int, bytes] = {}
        for path in reversed(list_files(folder / "tail") if (folder / "tail").is_dir() else []):
            start = tail_start(f"tail/{path}")
            content = None if start is None else self._read(folder / "tail" / path)
            if start is not None and content is not None:
                tail.update(enumerate(read_tail(content, log, start).entries, start))
        for seq in sorted(tail, reverse=True):
            yield Stored(log, seq, tail[seq], seq >= alive_from)
        below = min(tail, default=None)
        for first, path in self._bundles(folder):
            if below is not None and first >= below:
                continue
            content = self._read(folder / path)
            entries = (None if content is None else split_entries(content)) or []
            for place in range(len(entries) - 1, -1, -1):
                seq = first + place
                if below is None or seq < below:
                    yield Stored(log, seq, entries[place], seq >= alive_from)
            below = first

    @staticmethod
    def _bundles(folder: Path) -> list[tuple[int, str]]:
        root = folder / "tile" / "entries"
        names = [tile_of(f"tile/entries/{path}") for path in (list_files(root) if root.is_dir() else [])]
        known = [name for name in names if name is not None]
        known.sort(key=lambda name: (name.index, name.width), reverse=True)
        best: dict[int, TileName] = {}
        for name in known:
            best.setdefault(name.index, name)
        return [(name.index * TILE_WIDTH, name.path) for name in best.values()]

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return read_file(path)
        except OSError:
            return None

    def _alive_from(self, log: str) -> float:
        """The first entry that a living writer wrote; infinity when none lives."""
        try:
            descriptor = os.open(self._ledger / folder_of(log), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return float("inf")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            started = self._read(self._state / f"{folder_of(log)}.started") or b""
            return int(started) if started.isdigit() else 0
        finally:
            os.close(descriptor)
        return float("inf")

    def ends(self) -> dict[str, int]:
        """The last sequence number of each log (-1: none)."""
        return {log: next((stored.seq for stored in self.entries(log)), -1) for log in self.logs()}

    def newer(self, seen: dict[str, int]) -> list[dict[str, Any]]:
        """Records after those in ``seen``, which is brought up to date, oldest first."""
        found: list[dict[str, Any]] = []
        for log in self.logs():
            last = seen.get(log, -1)
            for stored in self.entries(log):
                if stored.seq <= last:
                    break
                seen[log] = max(seen.get(log, -1), stored.seq)
                found.append(parse_record(stored))
        found.sort(key=lambda record: str(record.get("time", "")))
        return found

    def rows(self, question: Question) -> Iterator[dict[str, Any]]:
        """Folded rows of all logs that fit, newest first, at most ``question.limit`` (0: all)."""
        streams = [self._folded(log) for log in self.logs()]
        return self._pick(streams, question)

    def records(self, question: Question) -> Iterator[dict[str, Any]]:
        """Records as they were written, with ``log`` and ``seq``, newest first."""
        streams = [self._raw(log) for log in self.logs()]
        return self._pick(streams, question)

    def _folded(self, log: str) -> Iterator[dict[str, Any]]:
        joiner = Fold()
        for stored in self.entries(log):
            row = joiner.add(stored)
            if row is not None:
                yield row

    def _raw(self, log: str) -> Iterator[dict[str, Any]]:
        return map(parse_record, self.entries(log))

    @staticmethod
    def _pick(streams: list[Iterator[dict[str, Any]]], question: Question) -> Iterator[dict[str, Any]]:
        count = 0
        for row in heapq.merge(*streams, key=lambda row: str(row.get("time", "")), reverse=True):
            if question.fits(row):
                yield row
                count += 1
                if count == question.limit:
                    return
