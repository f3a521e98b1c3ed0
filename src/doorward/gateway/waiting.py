"""Requests whose token somebody else must vouch for: their questions are asked at once, and what they may send is bounded.

Nobody stands behind such a request yet, so what all of them together announce is counted, for as long as a body may take
(``limits.BODY_SECONDS``), and beyond the bound there is no room: 503 before a byte of the body is read.
"""

from __future__ import annotations

from collections import deque

from doorward.base import limits
from doorward.base.clock import Clock
from doorward.controls.control import Head

ROOM_BYTES = 67_108_864  # of one worker
UNANNOUNCED_BYTES = 262_144  # what a body without a length may have while nobody stands behind it
LEAST_BYTES = 4_096  # what a request costs us even without a body


class WaitingRoom:
    """Counts what nobody stands behind yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held = 0
        self._until: deque[tuple[float, int]] = deque()

    def admit(self, head: Head) -> bool:
        """Ask the head's question, unless there is no room. The head is judged anew when the answer is there."""
        now = self._clock.monotonic()
        while self._until and self._until[0][0] <= now:
            self._held -= self._until.popleft()[1]
        size = max(LEAST_BYTES, UNANNOUNCED_BYTES if head.chunked else head.content_length or 0)
        if head.pending is None or self._held + size > ROOM_BYTES:
            return False
        self._held += size
        self._until.append((now + limits.BODY_SECONDS, size))

        def settled() -> None:
            head.generation = -1

        head.pending(settled)
        return True
