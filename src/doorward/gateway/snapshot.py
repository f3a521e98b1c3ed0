"""Everything that a worker's requests depend on, under one generation number; replaced whole, never edited."""

from __future__ import annotations

import msgspec

from doorward.base import limits
from doorward.base.clock import Clock
from doorward.gateway.desk import Desk
from doorward.gateway.pipeline import Pipeline
from doorward.gateway.routes import Routes


class Snapshot(msgspec.Struct, frozen=True):
    """What is in force."""

    generation: int
    routes: Routes
    pipeline: Pipeline
    desk: Desk
    body_bytes: int  # the largest request body


class Freshness:
    """Whether this worker still hears from the supervisor: one that is behind refuses (2 s)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_at = clock.monotonic()
        self._newest = 0

    def tick(self, generation: int) -> None:
        """The supervisor is there, and this is the generation in force."""
        self._heard_at = self._clock.monotonic()
        self._newest = max(self._newest, generation)

    def is_stale(self, generation: int) -> bool:
        """True when ``generation`` may no longer decide anything."""
        return generation < self._newest or self._clock.monotonic() - self._heard_at > limits.SNAPSHOT_SECONDS
