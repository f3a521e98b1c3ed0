"""Every error that leaves a room, in five branches by who must act.

``tell`` is safe to show to whoever sent the message; ``detail`` may hold peer text and goes to the log only.
Codes are stable: documented, tested and never reused.
"""

from __future__ import annotations


class DoorwardError(Exception):
    """Base of all errors that a room raises on purpose."""

    def __init__(self, code: str, tell: str, detail: str = "") -> None:
        super().__init__(f"{code}: {tell}")
        self.code = code
        self.tell = tell
        self.detail = detail


class CallerError(DoorwardError):
    """The message is wrong and the caller can mend it.

    ``status`` is the HTTP status, ``rpc_code`` the JSON-RPC error code of the answer, ``data`` its ``error.data``.
    """

    def __init__(
        self,
        code: str,
        tell: str,
        *,
        status: int = 400,
        rpc_code: int = -32600,
        detail: str = "",
        data: dict[str, object] | None = None,
    ) -> None:
        super().__init__(code, tell, detail)
        self.status = status
        self.rpc_code = rpc_code
        self.data = data
        self.message_id: str | int | None = None  # of the JSON-RPC request, once it is known


class UpstreamError(DoorwardError):
    """The protected server failed, lied or went away."""


class OperatorError(DoorwardError):
    """Settings, policy, keys or the machine are not fit; ``tell`` says what to do."""


class StoreError(DoorwardError):
    """The ledger, a cache or a database cannot be used; whatever depends on it refuses."""


class TamperError(DoorwardError):
    """A pin, a signature or a proof does not hold."""
