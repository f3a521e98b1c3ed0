"""What the authorization server needs of whoever keeps its rows: compare-and-set, and taking a row away once."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Store(Protocol):
    """Rows under a space and a key. Every method is one transaction; Raises: StoreError."""

    def keep(self, space: str, key: str, value: bytes, *, expires_at: float = 0.0) -> None:
        """Write a row, whatever stood there."""

    def replace(
        self, space: str, key: str, value: bytes, *, seen: int, now: float, expires_at: float = 0.0
    ) -> bool:
        """Write a row only if it stands at version ``seen`` (0: only if there is none)."""

    def kept(self, space: str, key: str, now: float) -> tuple[bytes, int] | None:
        """A row's value and version."""

    def take(self, space: str, key: str, now: float) -> bytes | None:
        """A row's value, which is gone with it."""

    def all_kept(self, space: str, now: float) -> dict[str, bytes]:
        """All rows of a space."""

    def drop(self, space: str, key: str) -> bool:
        """Delete a row."""

    def mark_once(self, space: str, key: str, expires_at: float, now: float) -> bool:
        """Set a mark; False when it stands already."""


def hashed(secret: str) -> str:
    """The key or value under which a secret is kept: whoever reads the rows cannot use them."""
    return hashlib.sha256(secret.encode()).hexdigest()
