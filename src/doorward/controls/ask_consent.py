"""No client acts for a user who has not agreed to exactly that client, in the browser that the answer comes back to (M4)."""

from __future__ import annotations

from typing import ClassVar

from doorward.controls.control import Posture
from doorward.controls.keep_ledger import Health


class AskConsent(Posture):
    """The consent page of the authorization server, and what binds its answer to one browser, user, client and request."""

    slug: ClassVar[str] = "ask-consent"
    covers: ClassVar[tuple[str, ...]] = ("M4",)
    partly: ClassVar[tuple[str, ...]] = ("S7.2",)
    floor: ClassVar[bool] = True

    def __init__(self, mode: str = "", *, asks: bool = True) -> None:
        """``mode`` is that of the identity settings, "" where nothing runs; ``asks`` whether users are asked."""
        self._mode = mode
        self._asks = asks

    def probe(self) -> Health:
        """See that users are asked wherever we issue tokens to clients."""
        if not self._mode:
            return "unknown", "the authorization server is not running here"
        if self._mode not in ("embedded", "broker"):
            return "ok", "no authorization server runs here"
        if not self._asks:
            return "failing", "users are not asked (profile lab)"
        return "ok", "users are asked for each client, in the browser that gets the answer"
