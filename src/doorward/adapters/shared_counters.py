"""Exact limits over all workers: one piece of memory that every worker maps, and a lock of a byte when there are several.

A key's last ``calls`` admissions stand in a ring; another one is admitted when the ring is not full or its oldest entry
has left the window. So in any window of ``per_seconds`` exactly up to ``calls`` are admitted, whoever asks, and a refused
attempt costs nothing of it. What turns out refused later (by policy, say) is given back and fills a bucket of its own.
Calls under way are counted in one column for each worker, which the supervisor empties when that worker dies.

The table is bounded. A key is forgotten only when nothing of it can matter any more; when no place is left, new keys are
refused. A process may be killed at any instant: whatever it had half done loses at most a little memory, never a count.
Times are seconds of the system-wide monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Callable

from doorward.base.clock import SystemClock
from doorward.base.errors import OperatorError, StoreError
from doorward.controls.limit_rate import UNDERWAY_COUNT, Demand, Denied, Ticket

WORKERS_COUNT = 64  # columns; more worker processes than this are refused at start
KEYS_COUNT = 16_384  # entries of the table; untouched ones take no memory
HEAP_BYTES = 167_772_160  # rings; reserved, not used: memory is taken when it is touched
_PROBES = 64  # places where a key may stand
_MAGIC = 0x0001_4452_5744_0001

# Words (8 bytes) of the header, and of one entry.
_HEAP_TOP, _FREE = 1, 8  # next unused word of the heap; heads of the free lists by power of two
_HEADER_WORDS = 512
_, _HIGH, _RING, _CAPACITY, _NEXT, _COUNT, _CLASS = range(7)
_PER, _REFUSED, _REFUSED_AT, _TOUCHED = range(8, 12)  # floats
_COLUMNS = 16  # sixteen words of four columns
_ENTRY_WORDS = 32
# Most of an entry in one read: low, high, ring, capacity, next, count; and the level of refused attempts.
_MOST = struct.Struct("=6Q24xd").unpack_from


def make_counters_file(workers: int, keys_count: int = KEYS_COUNT, heap_bytes: int = HEAP_BYTES) -> int:
    """Make the shared memory for so many workers; the descriptor is handed to each of them.

    Raises: StoreError ``counters-memory``.
    """
    size = _HEADER_WORDS * 8 + keys_count * _ENTRY_WORDS * 8 + heap_bytes
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("doorward-counters", os.MFD_CLOEXEC)
        else:  # pragma: no cover - systems without memfd: a file that has no name any more
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
    except OSError as error:
        raise StoreError(
            "counters-memory", "Memory for the limits cannot be had.", str(error.errno)
        ) from error
    header = (_MAGIC, 1, keys_count, workers)  # the first word of the heap stays unused: 0 means no ring
    os.pwrite(descriptor, b"".join(word.to_bytes(8, "little") for word in header), 0)
    return descriptor


class SharedCounters:
    """The counters as one process sees them."""

    def __init__(self, descriptor: int, worker: int, monotonic: Callable[[], float]) -> None:
        """``worker`` is this process's column. One worker alone needs no lock.

        Raises: StoreError ``counters-memory`` when the descriptor is something else; OperatorError ``limit-size``.
        """
        self._descriptor = descriptor
        self._worker = worker
        self._monotonic = monotonic
        self._memory = mmap.mmap(descriptor, 0)
        view = memoryview(self._memory)
        self._words = view.cast("Q")
        self._floats = view.cast("d")
        self._shorts = view.cast("H")
        if self._words[0] != _MAGIC:
            raise StoreError("counters-memory", "The memory of the limits is not what it should be.")
        self._keys = self._words[2]
        self._workers = self._words[3]
        self._shared = self._workers > 1
        if not 0 <= worker < self._workers <= WORKERS_COUNT:
            raise OperatorError("limit-size", f"At most {WORKERS_COUNT} workers are possible.")
        self._heap = _HEADER_WORDS + self._keys * _ENTRY_WORDS
        self._heap_words = len(self._words) - self._heap

    @classmethod
    def attach(cls, descriptor: int, worker: int) -> SharedCounters:
        """The counters behind an inherited descriptor, on the system's clock."""
        return cls(descriptor, worker, SystemClock().monotonic)

    # -- admission ----------------------------------------------------------------------------------------------

    def admit(self, demands: tuple[Demand, ...]) -> Ticket | Denied:
        """Admit under all demands or none. A ticket must come back by ``release`` or ``give_back``."""
        if not self._shared:
            return self._admit_one(demands)
        self._lock()
        try:
            return self._admit_one(demands)
        finally:
            self._unlock()

    def _admit_one(self, demands: tuple[Demand, ...]) -> Ticket | Denied:
        """What most attempts are: one demand, on a known key, with nothing against it. ``_admit`` does all others."""
        if len(demands) != 1:
            return self._admit(demands)
        one = demands[0]
        low, calls = one.low, one.calls
        entry = _HEADER_WORDS + low % self._keys * _ENTRY_WORDS
        found, high, ring, capacity, following, count, refused = _MOST(self._memory, entry * 8)
        if found != low or high != one.high or capacity != calls or refused > 0.0:
            return self._admit(demands)
        shorts, floats, workers = self._shorts, self._floats, self._workers
        cell = (entry + _COLUMNS) * 4
        underway = shorts[cell] if workers == 1 else sum(shorts[cell : cell + workers])
        now = self._monotonic()
        if underway >= (one.concurrent or UNDERWAY_COUNT) or (
            count >= calls and floats[ring + following] > now - one.per_seconds
        ):
            return self._admit(demands)
        words = self._words
        floats[ring + following] = now
        words[entry + _NEXT] = following + 1 if following + 1 < capacity else 0
        if count < capacity:
            words[entry + _COUNT] = count + 1
        floats[entry + _TOUCHED] = now
        shorts[cell + self._worker] += 1
        return Ticket(now, ((entry, low, high),))

    def _admit(self, demands: tuple[Demand, ...]) -> Ticket | Denied:
        words, floats, shorts = self._words, self._floats, self._shorts
        keys, workers = self._keys, self._workers
        now = self._monotonic()  # under the lock, so that rings are in order of time
        places: list[tuple[int, int, int]] = []
        for index, one in enumerate(demands):
            low, high, calls = one.low, one.high, one.calls
            entry = _HEADER_WORDS + low % keys * _ENTRY_WORDS
            if words[entry] != low or words[entry + _HIGH] != high or words[entry + _CAPACITY] != calls:
                entry = self._find(one, now)
                if entry < 0:
                    return Denied(index, "full", one.per_seconds)
            cell = (entry + _COLUMNS) * 4
            underway = shorts[cell] if workers == 1 else sum(shorts[cell : cell + workers])
            if underway >= (one.concurrent or UNDERWAY_COUNT):
                return Denied(index, "concurrent", 1.0)
            if words[entry + _COUNT] >= calls:
                oldest = floats[words[entry + _RING] + words[entry + _NEXT]]
                if oldest > now - one.per_seconds:
                    return Denied(index, "calls", oldest + one.per_seconds - now)
            if floats[entry + _REFUSED] > 0.0:
                excess = self._refused_level(entry, calls, one.per_seconds, now) + 1.0 - calls
                if excess > 0.0:
                    return Denied(index, "refused", excess * one.per_seconds / calls)
            places.append((entry, low, high))
        for entry, _, _ in places:
            following, count, capacity = words[entry + _NEXT], words[entry + _COUNT], words[entry + _CAPACITY]
            floats[words[entry + _RING] + following] = now
            words[entry + _NEXT] = following + 1 if following + 1 < capacity else 0
            if count < capacity:
                words[entry + _COUNT] = count + 1
            floats[entry + _TOUCHED] = now
            shorts[(entry + _COLUMNS) * 4 + self._worker] += 1
        return Ticket(now, tuple(places))

    def _refused_level(self, entry: int, calls: int, per_seconds: float, now: float) -> float:
        elapsed = now - self._floats[entry + _REFUSED_AT]
        return max(0.0, self._floats[entry + _REFUSED] - elapsed * calls / per_seconds)

    def release(self, ticket: Ticket) -> None:
        """The admitted attempt is over; its place in the window stays. Needs no lock: the column is ours alone."""
        words, shorts, column = self._words, self._shorts, self._worker
        for entry, low, high in ticket.places:
            cell = (entry + _COLUMNS) * 4 + column
            here = shorts[cell]
            if here and words[entry] == low and words[entry + _HIGH] == high:
                shorts[cell] = here - 1

    def give_back(self, ticket: Ticket) -> None:
        """The admitted attempt was refused after all: it leaves the window and fills the bucket of refused ones."""
        self._lock()
        try:
            self._give_back(ticket)
        finally:
            self._unlock()

    def _give_back(self, ticket: Ticket) -> None:
        now = self._monotonic()
        for entry, low, high in ticket.places:
            if self._words[entry] != low or self._words[entry + _HIGH] != high:
                continue
            self._take_out(entry, ticket.at)
            calls, per_seconds = self._words[entry + _CAPACITY], self._floats[entry + _PER]
            level = self._refused_level(entry, calls, per_seconds, now)
            self._floats[entry + _REFUSED_AT] = now
            self._floats[entry + _REFUSED] = min(float(calls), level + 1.0)
            self._floats[entry + _TOUCHED] = now
        self.release(ticket)

    def _take_out(self, entry: int, at: float) -> None:
        words, floats = self._words, self._floats
        ring, capacity, following = words[entry + _RING], words[entry + _CAPACITY], words[entry + _NEXT]
        carried: list[float] = []  # admissions after this one, newest first: they move up by one
        for back in range(1, words[entry + _COUNT] + 1):
            value = floats[ring + (following - back) % capacity]
            if value == at:
                break
            if value < at:
                return
            carried.append(value)
        else:
            return
        for distance, value in enumerate(carried, start=2):
            floats[ring + (following - distance) % capacity] = value
        words[entry + _NEXT] = (following - 1) % capacity
        words[entry + _COUNT] -= 1

    # -- the supervisor's part ----------------------------------------------------------------------------------

    def forget_worker(self, worker: int) -> None:
        """A worker died: nothing of it is under way any more. Only while no such worker runs."""
        for number in range(self._keys):
            entry = _HEADER_WORDS + number * _ENTRY_WORDS
            if self._words[entry]:
                self._shorts[(entry + _COLUMNS) * 4 + worker] = 0

    def keys_in_use(self) -> int:
        """Entries that were ever used, for metrics."""
        return sum(1 for number in range(self._keys) if self._words[_HEADER_WORDS + number * _ENTRY_WORDS])

    def close(self) -> None:
        """Unmap; the descriptor stays open."""
        for view in (self._words, self._floats, self._shorts):
            view.release()
        self._memory.close()

    # -- the table ----------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        # A record lock belongs to the process and goes with it: a killed worker never leaves it behind.
        if self._shared:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1)

    def _unlock(self) -> None:
        if self._shared:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1)

    def _find(self, one: Demand, now: float) -> int:
        """The entry of a key, made if it is new; -1 when there is no place."""
        words, low, high = self._words, one.low, one.high
        first = low % self._keys
        reusable = -1
        for probe in range(min(_PROBES, self._keys)):
            entry = _HEADER_WORDS + ((first + probe) % self._keys) * _ENTRY_WORDS
            found = words[entry]
            if found == low and words[entry + _HIGH] == high and words[entry + _CAPACITY] == one.calls:
                return entry
            if not found:
                return self._settle(entry if reusable < 0 else reusable, one, now)
            if reusable < 0 and self._is_stale(entry, now):
                reusable = entry
        return self._settle(reusable, one, now) if reusable >= 0 else -1

    def _is_stale(self, entry: int, now: float) -> bool:
        cell = (entry + _COLUMNS) * 4
        return self._floats[entry + _TOUCHED] + self._floats[entry + _PER] < now and not any(
            self._shorts[cell : cell + WORKERS_COUNT]
        )

    def _settle(self, entry: int, one: Demand, now: float) -> int:
        """Give an unused or stale entry to a key. Written so that a death in between leaves an empty ring at worst."""
        words, floats = self._words, self._floats
        size_class = (one.calls - 1).bit_length()
        if not words[entry + _RING] or words[entry + _CLASS] != size_class:
            ring = self._allocate(size_class)
            if not ring:
                return -1
            previous, previous_class = words[entry + _RING], words[entry + _CLASS]
            words[entry + _CAPACITY] = 0  # until it is whole, no key finds this entry
            words[entry + _RING], words[entry + _CLASS] = ring, size_class
            if previous:
                self._free(previous, previous_class)
        words[entry + _CAPACITY] = 0
        words[entry + _NEXT] = words[entry + _COUNT] = 0
        for word in range(entry + _COLUMNS, entry + _ENTRY_WORDS):
            words[word] = 0
        floats[entry + _PER] = one.per_seconds
        floats[entry + _REFUSED] = floats[entry + _REFUSED_AT] = 0.0
        floats[entry + _TOUCHED] = now
        words[entry + _HIGH], words[entry] = one.high, one.low
        words[entry + _CAPACITY] = one.calls
        return entry

    def _allocate(self, size_class: int) -> int:
        """A ring of 2**size_class words; 0 when the heap is full."""
        words = self._words
        free = words[_FREE + size_class]
        if free:
            words[_FREE + size_class] = words[free]
            return free
        size = 1 << size_class
        top = words[_HEAP_TOP]
        if top + size > self._heap_words:
            return 0
        words[_HEAP_TOP] = top + size
        return self._heap + top

    def _free(self, ring: int, size_class: int) -> None:
        self._words[ring] = self._words[_FREE + size_class]
        self._words[_FREE + size_class] = ring
