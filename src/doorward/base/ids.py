"""Identifiers: 26-character event ids that sort by time, and random handles."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_HIGH_BITS = 60
_LOW_BITS = 20


def _write_base32(value: int, pairs: int) -> str:
    text = ""
    for _ in range(pairs):
        text = _PAIRS[value & 1023] + text
        value >>= 10
    return text


class EventIds:
    """Mint ids in the ULID form: 48 bits of milliseconds, 80 bits of chance, growing within a millisecond."""

    __slots__ = ("_low", "_millisecond", "_prefix")

    def __init__(self) -> None:
        self._millisecond = -1
        self._prefix = ""
        self._low = 0

    def mint(self) -> str:
        """Return a fresh id of 26 characters."""
        millisecond = time.time_ns() // 1_000_000
        low = self._low + 1
        if millisecond > self._millisecond or low >> _LOW_BITS:
            # A clock that stands still or goes back keeps the order; a full counter borrows from the next millisecond.
            self._millisecond = max(millisecond, self._millisecond + 1)
            self._prefix = _write_base32(self._millisecond, 5) + _write_base32(
                secrets.randbits(_HIGH_BITS), 6
            )
            low = secrets.randbits(_LOW_BITS - 1)
        self._low = low
        return self._prefix + _PAIRS[low >> 10] + _PAIRS[low & 1023]


def mint_handle(size_bytes: int = 32) -> str:
    """Return a URL-safe random handle of ``size_bytes`` bytes (256 bits unless told otherwise)."""
    return secrets.token_urlsafe(size_bytes)
