"""Time comes in through the front: nothing else in the project reads a clock."""

from __future__ import annotations

import datetime as _datetime
import time as _time
from typing import Protocol


class Clock(Protocol):
    """Wall time and monotonic time."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""


class SystemClock:
    """The machine's own clocks. Read several times for each call, so without a frame of ours between."""

    now = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)


class FakeClock:
    """A clock that tests move by hand."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.at += seconds


def rfc3339(seconds: float) -> str:
    """Write a Unix time as RFC 3339 in UTC with milliseconds, such as 2026-11-23T18:33:00.000Z."""
    moment = _datetime.datetime.fromtimestamp(seconds, tz=_datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
