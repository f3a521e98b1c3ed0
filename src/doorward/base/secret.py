"""A value that never prints itself."""

from __future__ import annotations

import hmac


class Secret:
    """Hold a secret so that logging, formatting or serialising it shows nothing."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> bytes:
        """Return the secret bytes; the one place where they leave."""
        return self._value

    def equals(self, other: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._value, other)

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        msg = "a Secret cannot be pickled"
        raise TypeError(msg)
