"""The one timer of a loop."""

from __future__ import annotations

import asyncio

import pytest

from doorward.adapters.deadlines import NEVER, Deadlines

pytestmark = pytest.mark.anyio


class Alarm:
    """Notes that it rang, and never rings again."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.rang = asyncio.Event()

    def on_deadline(self) -> None:
        self.deadline = NEVER
        self.rang.set()


async def test_a_deadline_that_has_passed_rings_and_a_later_one_does_not() -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), 0.01)
    soon, late, gone = Alarm(deadlines.now + 0.02), Alarm(deadlines.now + 60), Alarm(deadlines.now)
    for alarm in (soon, late, gone):
        deadlines.watch(alarm)
    deadlines.forget(gone)
    await asyncio.wait_for(soon.rang.wait(), 5)
    assert not late.rang.is_set()
    assert not gone.rang.is_set()
    deadlines.close()


async def test_the_timer_rests_while_nothing_is_watched_and_starts_again() -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), 0.01)
    alarm = Alarm(deadlines.now)
    deadlines.watch(alarm)
    await asyncio.wait_for(alarm.rang.wait(), 5)
    deadlines.forget(alarm)
    async with asyncio.timeout(5):
        while deadlines._handle is not None:
            await asyncio.sleep(0.002)
    alarm = Alarm(0.0)
    deadlines.watch(alarm)
    await asyncio.wait_for(alarm.rang.wait(), 5)
    deadlines.close()
