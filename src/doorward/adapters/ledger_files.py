"""One worker's log on disk: appended in memory, written once a loop turn, synced by a thread, published in tiles.

Hot path: ``append`` keeps a record, ``flush`` hands all of them to the kernel with one write to the tail file. Each
tick (and at close) everything so far becomes tiles, bundles and a signed checkpoint (C2SP tlog-tiles); the tail is
started anew when it is long, and the old one removed once its entries are in durable bundles.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from doorward.adapters.ledger_ahead import AHEAD_FILES, Ahead, drop_unpublished
from doorward.adapters.ledger_disk import place_file, sync_folder, write_all
from doorward.adapters.ledger_publish import (
    Batch,
    drop_partials,
    partials_of,
    place_checkpoint,
    strays_of,
    write_batch,
)
from doorward.adapters.ledger_recovery import open_log
from doorward.audit.checkpoint import folder_of, is_origin
from doorward.audit.record import Records
from doorward.audit.tiles import ENTRY_BYTES, frame, join_entries, tail_head, tail_path
from doorward.audit.tree import Tree
from doorward.base.clock import Clock
from doorward.base.errors import StoreError
from doorward.base.ids import EventIds

_log = logging.getLogger("doorward.ledger")
TICK_SECONDS = 1.0  # how long an entry may be without a signed checkpoint
TAIL_BYTES = 4_194_304  # a longer tail is started anew at the next tick
HASH_BATCH = 32  # entries hashed in one go: about 40 us, so that no loop turn is long
HASHED_KEPT = 4_096  # hashed entries that may wait at the front of the list
SIGN_SECONDS = 10.0  # without a signature for so long, the log counts as failed

Synced = Callable[[StoreError | None], None]


class LedgerWriter:
    """Writes the log ``origin`` below ``directory``, which is ``{data_dir}/ledger``. One loop, one writer a log."""

    def __init__(
        self,
        directory: Path,
        origin: str,
        sign: Callable[[str, int, bytes], Awaitable[str]],
        clock: Clock,
        sync_ms: float,
        *,
        public_key: bytes | None = None,
    ) -> None:
        """``sign(origin, size, root)`` gives the checkpoint note. With ``public_key`` (32 bytes, Ed25519) the
        checkpoint found at start must be signed by it. ``problems`` lists afterwards what had to be cut off."""
        if not is_origin(origin):
            raise StoreError("ledger-name", "The log has no proper name.")
        self.origin = origin
        self.problems: list[str] = []
        self.failed: StoreError | None = None
        self.on_failed: Callable[[StoreError], None] | None = None  # told once, in the loop
        self.published = 0  # entries under the last checkpoint
        self._folder = directory / folder_of(origin)
        self._scratch = directory.parent / "ledger-state"
        self._sign = sign
        self._clock = clock
        self._sync_seconds = sync_ms / 1000
        self._public_key = public_key
        self._count = 0
        self._buffer: list[bytes] = []
        self._unhashed: list[bytes] = []
        self._hashed = 0  # so many at the front of it are in the tree
        self._tree = Tree()
        self._batch = Batch([])
        self._tail = -1
        self._tail_bytes = 0
        self._tail_start = 0
        self._old_tails: list[int] = []  # go when the next checkpoint is in force
        self._partials: set[str] = set()  # partial files that may be on disk
        self._due = False
        self._retired: list[int] = []  # descriptors of older tails that still have to be synced and closed
        self._unsynced = False
        self._waiting: list[Synced] = []
        self._syncing = False
        self._sync_timer: asyncio.TimerHandle | None = None
        self._hash_soon = False
        self._lock = -1
        self._unsigned_since: float | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._publishing = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._sync_thread = ThreadPoolExecutor(1, "ledger-sync")
        self._file_thread = ThreadPoolExecutor(1, "ledger-files")
        self._ahead = Ahead(self._folder, self._scratch, self._file_thread)

    @property
    def unsigned_seconds(self) -> float:
        """For how long the signer has refused or not answered; 0.0 when all is well."""
        return 0.0 if self._unsigned_since is None else self._clock.monotonic() - self._unsigned_since

    # -- hot path -----------------------------------------------------------------------------------------------

    def append(self, entry: bytes) -> int:
        """Keep a record for the next ``flush``; its sequence number. Raises StoreError for one over 65,535 bytes."""
        if len(entry) > ENTRY_BYTES:
            raise StoreError("ledger-entry", "A record is too long for the ledger.")
        self._buffer.append(entry)
        seq = self._count
        self._count = seq + 1
        return seq

    def flush(self) -> None:
        """Hand all kept records to the kernel with one write.

        Raises:
            StoreError: ``ledger-write``; the log takes nothing from then on.
        """
        if self.failed is not None:
            raise self.failed
        entries = self._buffer
        if not entries:
            return
        self._buffer = []
        block = frame(join_entries(entries))
        try:
            done = os.write(self._tail, block)
            if done < len(block):
                write_all(self._tail, block[done:])
        except OSError as error:
            raise self._fail("ledger-write", error) from error
        self._tail_bytes += len(block)
        self._unhashed += entries
        if not self._hash_soon and len(self._unhashed) - self._hashed >= HASH_BATCH:
            self._hash_soon = True
            self._loop.call_soon(self._hash_some)
        if not self._unsynced:
            self._unsynced = True
            if self._sync_timer is None:
                self._sync_timer = self._loop.call_later(self._sync_seconds, self._sync_due)

    def when_synced(self, callback: Synced) -> None:
        """Call back in the loop once everything appended so far is on disk, or cannot be. Records are flushed here."""
        try:
            self.flush()
        except StoreError as error:
            self._loop.call_soon(callback, error)
            return
        self._waiting.append(callback)
        self._start_sync()

    def _hash_some(self) -> None:
        self._hash_soon = False
        begin, end = self._hashed, min(self._hashed + HASH_BATCH, len(self._unhashed))
        self._integrate(self._unhashed[begin:end])
        self._hashed = end
        if end > HASHED_KEPT:  # cutting the front off every time would copy a long rest again and again
            del self._unhashed[:end]
            self._hashed = 0
        if len(self._unhashed) - self._hashed >= HASH_BATCH:
            self._hash_soon = True
            self._loop.call_soon(self._hash_some)

    def _integrate(self, entries: list[bytes]) -> None:
        self._batch.add(entries)
        self._tree.extend(entries, self._batch.finish)
        if self._batch.whole >= AHEAD_FILES:
            self._ahead.put(self._batch.take_whole())

    # -- syncing ------------------------------------------------------------------------------------------------

    def _sync_due(self) -> None:
        self._sync_timer = None
        self._due = self._unsynced and self._syncing
        if self._unsynced:
            self._start_sync()

    def _start_sync(self) -> None:
        if self._syncing:
            return
        self._due = False
        self._syncing = True
        self._unsynced = False
        callbacks, self._waiting = self._waiting, []
        retired, self._retired = self._retired, []
        tail = self._tail
        self._sync_thread.submit(self._sync, tail, retired, callbacks)

    def _sync(self, tail: int, retired: list[int], callbacks: list[Synced]) -> None:
        problem: OSError | None = None
        try:
            for descriptor in (*retired, tail):
                os.fdatasync(descriptor)
            for descriptor in retired:
                os.close(descriptor)
        except OSError as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(self._synced, problem, callbacks)

    def _synced(self, problem: OSError | None, callbacks: list[Synced]) -> None:
        self._syncing = False
        error = self._fail("ledger-sync", problem) if problem is not None else self.failed
        if error is not None:
            callbacks, self._waiting = callbacks + self._waiting, []
        elif self._waiting or self._due:
            self._start_sync()
        elif self._unsynced and self._sync_timer is None:
            self._sync_timer = self._loop.call_later(self._sync_seconds, self._sync_due)
        for callback in callbacks:
            callback(error)

    def _fail(self, code: str, cause: BaseException) -> StoreError:
        if self.failed is None:
            detail = f"{type(cause).__name__}: {cause}"
            self.failed = StoreError(code, "The ledger cannot be written, so nothing is served.", detail)
            _log.critical("ledger failed", extra={"log": self.origin, "code": code, "detail": detail})
            if self.on_failed is not None:
                self.on_failed(self.failed)
        return self.failed

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open or continue the log and publish its first checkpoint.

        Raises:
            StoreError: ``ledger-mismatch``, ``ledger-busy`` (another process writes it), ``ledger-write``, or what
                signing raises.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._open()
            await self.publish()
            drop_unpublished(
                self._folder, self.published
            )  # only now: the signer knows the log to be no older
        except OSError as error:
            self._let_go()
            raise self._fail("ledger-write", error) from error
        except BaseException:
            self._let_go()
            raise
        self._ticker = asyncio.create_task(self._tick(), name=f"ledger {self.origin}")

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError("ledger-busy", "Another process writes this ledger.") from error
        opened = open_log(self._folder, self._scratch, self.origin, self._public_key)
        self._tree = opened.tree
        self.published = opened.tree.size
        self.problems = opened.problems
        drop_partials(self._folder, strays_of(self._folder, self.published))
        self._partials = partials_of(self.published)
        self._batch = Batch(opened.bundle)
        self._batch.edge = self.published
        self._unhashed = opened.later
        self._count = self.published + len(opened.later)
        self._old_tails = [start for start in opened.tails if start != self._count]
        self._tail_start = self._count
        self._new_tail()
        self._tell_problems()
        started = self._scratch / f"{folder_of(self.origin)}.started"
        place_file(self._scratch, started, str(self._count).encode())
        self._batch.first = True  # the signer has to agree that this is where the log was

    def _tell_problems(self) -> None:
        records, ids = Records(self.origin, bytes(32)), EventIds()
        for problem in self.problems:
            _log.error("ledger was torn", extra={"log": self.origin, "detail": problem})
            self.append(
                records.happening(
                    "server", event=ids.mint(), at=self._clock.now(), method="ledger-torn", verdict="note",
                    control="keep-ledger", reason=problem,
                )
            )  # fmt: skip

    def _new_tail(self) -> None:
        path = self._folder / tail_path(self._count)
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        if os.fstat(descriptor).st_size == 0:
            write_all(descriptor, tail_head(self.origin, self._count))
        sync_folder(self._folder / "tail")
        if self._tail >= 0:
            self._retired.append(self._tail)
        self._tail, self._tail_bytes = descriptor, 0
        if self._tail_start != self._count:
            self._old_tails.append(self._tail_start)
            self._tail_start = self._count

    async def _tick(self) -> None:
        while self.failed is None:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.publish()
            except StoreError as error:
                now = self._clock.monotonic()
                since = self._unsigned_since = self._unsigned_since or now
                _log.warning("no checkpoint", extra={"log": self.origin, "code": error.code})
                if now - since > SIGN_SECONDS or error.code == "ledger-conflict":
                    self._fail("ledger-unsigned", error)
            except Exception as error:  # noqa: BLE001 - without checkpoints nothing may go on
                self._fail("ledger-unsigned", error)

    async def publish(self) -> None:
        """Put everything so far into tiles under a signed checkpoint; raises StoreError."""
        async with self._publishing:
            self.flush()
            while len(self._unhashed) - self._hashed > HASH_BATCH:  # after a crash there may be many
                self._hash_some()
                await asyncio.sleep(0)
            batch, self._unhashed, self._hashed = self._unhashed[self._hashed :], [], 0
            self._integrate(batch)
            size, root = self._tree.size, self._tree.root()
            if size == self.published and not self._batch.first:
                return
            files = self._batch.take(self._tree)
            if self._tail_bytes > TAIL_BYTES and size == self._count:
                self._rotate()
            obsolete = list(self._old_tails)
            # A reader that holds the checkpoint before this one still finds its partial tiles.
            kept = partials_of(size) | partials_of(self.published)
            stale = self._partials - kept
            try:
                unsynced = await self._ahead.settle()
                write = partial(write_batch, self._folder, self._scratch, files, others_unsynced=unsynced)
                await self._loop.run_in_executor(self._file_thread, write)
                self._ahead.synced()
                await self._until_synced()
                note = await self._sign(self.origin, size, root)
                await self._loop.run_in_executor(
                    self._file_thread, place_checkpoint, self._folder, self._scratch, note, obsolete, stale
                )
            except OSError as error:
                raise self._fail("ledger-write", error) from error
            except StoreError:
                self._batch.first = True  # try again at the next tick, with nothing new
                raise
            self.published, self._unsigned_since = size, None
            self._partials = kept
            self._old_tails = self._old_tails[len(obsolete) :]

    def _rotate(self) -> None:
        try:
            self._new_tail()
        except OSError as error:
            raise self._fail("ledger-write", error) from error

    async def _until_synced(self) -> None:
        done: asyncio.Future[StoreError | None] = self._loop.create_future()
        self.when_synced(lambda error: None if done.done() else done.set_result(error))
        error = await done
        if error is not None:
            raise error

    async def close(self) -> None:
        """Publish what is left and let go. Raises StoreError when that fails; it is closed all the same."""
        if self._ticker is not None:
            async with self._publishing:
                self._ticker.cancel()  # never within a publication: the files that it has taken would be lost
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        try:
            if self.failed is None and self._tail >= 0:
                await self.publish()
                drop_partials(self._folder, self._partials - partials_of(self.published))
        except OSError as error:
            raise self._fail("ledger-write", error) from error
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._sync_timer is not None:
            self._sync_timer.cancel()
        self._sync_thread.shutdown(wait=True)
        self._file_thread.shutdown(wait=True)
        for descriptor in (*self._retired, self._tail, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._tail = self._lock = -1
        self._retired = []
