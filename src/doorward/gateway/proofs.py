"""Each proof of possession counts once, however many workers there are: the supervisor keeps the marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.controls.control import ProofMark

IN_FLIGHT_COUNT = 1_024  # questions of one worker under way at once
AskOnce = Callable[
    [dict[str, Any], Callable[[Any], None]], None
]  # (payload, then); then(None): nobody answers


class ProofDesk:
    """The worker's side."""

    def __init__(self, ask: AskOnce) -> None:
        self._ask = ask
        self._waiting = 0

    def use(self, mark: ProofMark, then: Callable[[bool | None], None]) -> None:
        """Use a proof up. ``then`` hears True the first time, False when it was used, None when that cannot be known."""
        if self._waiting >= IN_FLIGHT_COUNT:
            return then(None)
        self._waiting += 1

        def answered(found: Any) -> None:
            self._waiting -= 1
            # SECURITY: nothing but these two words counts; whatever else comes back is "cannot be known".
            then({"first": True, "used": False}.get(found) if isinstance(found, str) else None)

        return self._ask({"key": mark.key, "digest": mark.digest, "expires_at": mark.expires_at}, answered)
