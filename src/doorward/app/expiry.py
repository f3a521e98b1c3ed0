"""When to say that a certificate runs out: at fixed distances, or sooner for those that live shortly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_DAY = 86_400.0
# Distance to the end, and the share of the whole life that replaces it where that is less.
_STEPS = ((30 * _DAY, 1 / 3), (7 * _DAY, 1 / 6), (_DAY, 1 / 20), (0.0, 0.0))


class Expiry:
    """Remembers what was said, so that each step is said once for each certificate."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}  # where -> its end, the step said last

    @staticmethod
    def step_of(not_before: float, not_after: float, now: float) -> int | None:
        """How near the end is: None for far, 3 for past it."""
        left, life = not_after - now, not_after - not_before
        reached = [step for step, (far, share) in enumerate(_STEPS) if left <= min(far, share * life)]
        return max(reached, default=None)

    def steps(self, rows: Mapping[str, tuple[float, float]], now: float) -> Iterator[tuple[str, float]]:
        """(where, seconds left) of every certificate, given as (not before, not after), that has come to a new step."""
        for where in [one for one in self._said if one not in rows]:
            del self._said[where]
        for where, (not_before, not_after) in rows.items():
            step = self.step_of(not_before, not_after, now)
            if step is None:
                self._said.pop(where, None)
                continue
            end, said = self._said.get(where, (not_after, -1))
            if end != not_after:
                said = -1
            if step > said:
                yield where, not_after - now
            self._said[where] = (not_after, max(step, said))
