"""Timers that a test fires by hand."""

from __future__ import annotations

from collections.abc import Callable


class Timers:
    """Implements ``gateway.ports.Later``."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, run: Callable[[], None]) -> Callable[[], None]:
        entry = (seconds, run)
        self.set.append(entry)

        def cancel() -> None:
            if entry in self.set:
                self.set.remove(entry)

        return cancel

    def fire(self) -> None:
        """Let the time of every timer come."""
        due, self.set = self.set, []
        for _, run in due:
            run()
