"""Clocks and how times are written."""

from __future__ import annotations

from doorward.base.clock import FakeClock, SystemClock, rfc3339


def test_times_are_written_as_rfc_3339_in_utc_with_milliseconds() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_488_600.25) == "2026-11-24T02:50:00.250Z"


def test_a_fake_clock_moves_by_hand_only() -> None:
    clock = FakeClock(10.0)
    assert clock.now() == clock.monotonic() == 10.0
    clock.advance(2.5)
    assert clock.now() == 12.5


def test_the_machines_clock_does_not_go_back() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.now() > 1_700_000_000
