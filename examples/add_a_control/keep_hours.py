"""Outside of working hours, only tools that read may be called."""

from __future__ import annotations

from typing import ClassVar

from doorward.base.clock import Clock
from doorward.controls.control import Answer, Call, Control, Facts, Refuse

_DAY_SECONDS = 86_400
_HOUR_SECONDS = 3_600


class KeepHours(Control):
    """Refuse tools that change things outside of the hours from ``first`` to ``last`` (UTC, ``last`` excluded).

    Fails: a tool of which nothing is known counts as one that changes things.
    """

    slug: ClassVar[str] = "keep-hours"
    partly: ClassVar[tuple[str, ...]] = ("S10.3",)

    def __init__(self, clock: Clock, first: int = 7, last: int = 19) -> None:
        self._clock = clock
        self._first = first
        self._last = last

    def request(self, call: Call, seen: Facts) -> Answer:
        if call.message.method != "tools/call" or call.read_only:
            return None
        hour = int(self._clock.now() % _DAY_SECONDS) // _HOUR_SECONDS
        if self._first <= hour < self._last:
            return None
        return Refuse(
            reason=f"called at {hour:02d} h UTC, open from {self._first:02d} to {self._last:02d}",
            tell="This tool changes things, and that is possible in working hours only.",
            help=f"Call it again between {self._first:02d}:00 and {self._last:02d}:00 UTC.",
        )
