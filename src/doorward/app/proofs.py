"""The office that remembers which proofs of possession were used (RFC 9449 §11.1), for all workers.

The marks are in memory: they live for a minute or so. That a supervisor which starts anew knows none of the old ones is told to the
workers as ``since``: they take no proof that could be older.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from doorward.app.office import Answering, Office
from doorward.base.errors import StoreError

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor

MARKS_COUNT = 200_000
MARKS_PER_KEY = 20_000  # so that nobody can fill it for the others
_SLACK_SECONDS = 10.0  # beyond the time in which a proof is taken


class Marks:
    """Which proofs were used, each until it could not be used anyway."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._until: dict[str, tuple[str, float]] = {}  # digest -> key, end
        self._ends: deque[tuple[float, str]] = deque()  # by arrival; ends differ by little
        self._per_key: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._until)

    def use(self, key: str, digest: str, expires_at: float) -> str:
        """Mark a proof: "first", "used", or "full" when there is no place to remember it in."""
        now = self._now()
        self._sweep(now)
        if digest in self._until:
            return "used"
        here = self._per_key.get(key, 0)
        if len(self._until) >= MARKS_COUNT or here >= MARKS_PER_KEY:
            return "full"
        self._until[digest] = (key, expires_at + _SLACK_SECONDS)
        self._ends.append((expires_at + _SLACK_SECONDS, digest))
        self._per_key[key] = here + 1
        return "first"

    def _sweep(self, now: float) -> None:
        # In order of arrival: one that ends late keeps those behind it a little longer, never shorter.
        while self._ends and self._ends[0][0] <= now:
            _, digest = self._ends.popleft()
            key, _ = self._until.pop(digest)
            left = self._per_key[key] - 1
            if left:
                self._per_key[key] = left
            else:
                del self._per_key[key]


class Proofs(Office):
    """Keeps the marks."""

    name = "proofs"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self.marks = Marks()
        self._since = time.time()

    def paper(self) -> Any:
        """See ``Office``."""
        return {"since": self._since}

    def asks(self) -> Mapping[str, Answering]:
        """See ``Office``."""
        return {"proof-once": self._once}

    def _once(self, index: int, payload: Any) -> str:
        match payload:
            case {"key": str(key), "digest": str(digest), "expires_at": (int() | float()) as expires_at}:
                return self.marks.use(key, digest, min(float(expires_at), time.time() + 3_600.0))
            case _:
                raise StoreError("bus-payload", "A worker asked for a proof's mark in a wrong way.")
