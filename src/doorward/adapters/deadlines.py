"""One coarse timer for every deadline of a loop: a request sets a number instead of making a timer."""

from __future__ import annotations

import asyncio
from typing import Protocol

NEVER = float("inf")
TICK_SECONDS = 0.2


class Timed(Protocol):
    """Something with a deadline, on the scale of ``Deadlines.now``; ``NEVER`` when nothing is awaited."""

    deadline: float

    def on_deadline(self) -> None:
        """The deadline has passed; it must be moved, or the watch ended, or this is called again next tick."""


class Deadlines:
    """Looks at everything watched once per tick. ``now`` is the loop's time in seconds as of the last tick."""

    __slots__ = ("_handle", "_loop", "_tick_seconds", "_watched", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_seconds: float = TICK_SECONDS) -> None:
        self._loop = loop
        self._tick_seconds = tick_seconds
        self._watched: set[Timed] = set()
        self._handle: asyncio.TimerHandle | None = None
        self.now = loop.time()

    def watch(self, timed: Timed) -> None:
        """Look at ``timed`` from now on."""
        self._watched.add(timed)
        if self._handle is None:
            self.now = self._loop.time()
            self._handle = self._loop.call_later(self._tick_seconds, self._tick)

    def forget(self, timed: Timed) -> None:
        """Look at ``timed`` no more."""
        self._watched.discard(timed)

    def close(self) -> None:
        """End the timer."""
        self._watched.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        now = self.now = self._loop.time()
        if self._watched:
            self._handle = self._loop.call_later(self._tick_seconds, self._tick)
        else:
            self._handle = None
        for timed in [one for one in self._watched if one.deadline <= now]:
            timed.on_deadline()
