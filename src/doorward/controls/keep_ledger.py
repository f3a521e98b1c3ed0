"""Every attempt is on record, in a log that shows when it was changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from doorward.controls.control import Posture

Health = tuple[Literal["ok", "failing", "unknown"], str]


class KeepLedger(Posture):
    """The ledger: two records a call, in tiled logs with signed checkpoints; without it nothing is served."""

    slug: ClassVar[str] = "keep-ledger"
    covers: ClassVar[tuple[str, ...]] = ("S5.3",)
    floor: ClassVar[bool] = True

    def __init__(self, health: Callable[[], Health] | None = None) -> None:
        """``health`` looks at the running writers; without it nothing is known."""
        self._health = health

    def probe(self) -> Health:
        """Ask the writers."""
        if self._health is None:
            return "unknown", "the ledger is not running here"
        return self._health()
