"""Calls that wait for their client to come back, as one worker keeps them: each has a number in this worker's life.

A client of the 2026 era answers a server's question by sending its request again, with a state that it may not read
(2026-07-28 basic/patterns/mrtr). The state of a parked call is its name here; ``gateway.states`` seals what clients carry.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from doorward.gateway.sessions import Seat

if TYPE_CHECKING:
    from doorward.gateway.cell_b_call import ParkedCall

PARK_SECONDS = 240.0  # a person may take as long; the call itself may last a minute more
_NAME = re.compile(r"park-([0-9]{1,5})-([0-9a-f]{16})-([0-9]{1,15})", re.ASCII)


def seat_of(state: object) -> tuple[Seat, int] | None:
    """Which worker keeps the call of that name, and its number there; None for anything else."""
    found = _NAME.fullmatch(state) if isinstance(state, str) else None
    if found is None:
        return None
    return Seat(int(found[1]), bytes.fromhex(found[2])), int(found[3])


class ParkBook:
    """The parked calls of this worker."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.is_shared = False  # profile lab with seal-state off: whoever knows a name may use it
        self._counter = 0
        self._calls: dict[int, ParkedCall] = {}

    def enter(self, call: ParkedCall) -> int:
        """Give a call its number."""
        self._counter += 1
        self._calls[self._counter] = call
        return self._counter

    def name(self, number: int) -> str:
        """The state that stands for a call. Guessable: it leaves Doorward sealed."""
        return f"park-{self.seat.worker}-{self.seat.incarnation.hex()}-{number}"

    def number(self, state: object) -> int | None:
        """The number that a state means in this worker's life."""
        found = seat_of(state)
        return found[1] if found is not None and found[0] == self.seat else None

    def leave(self, number: int) -> None:
        """The call does not wait under this number any more."""
        self._calls.pop(number, None)

    def anyones(self, number: int) -> ParkedCall | None:
        """A call whoever asks, where nothing binds names to callers; else None."""
        return self._calls.get(number) if self.is_shared else None
