"""Identifiers: 26-character event ids that sort by time, and random handles."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_RANDOM_BITS = 80
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1


def _write_base32(value: int, pairs: int) -> str:
    return "".join(_PAIRS[(value >> (10 * place)) & 1023] for place in range(pairs - 1, -1, -1))


class EventIds:
    """Mint ids in the ULID form: 48 bits of milliseconds, 80 bits of chance, growing within a millisecond."""

    __slots__ = ("_millisecond", "_random", "_time_part")

    def __init__(self) -> None:
        self._millisecond = -1
        self._time_part = ""
        self._random = 0

    def mint(self) -> str:
        """Return a fresh id of 26 characters."""
        millisecond = time.time_ns() // 1_000_000
        if millisecond > self._millisecond:
            self._millisecond = millisecond
            self._time_part = _write_base32(millisecond, 5)
            self._random = secrets.randbits(_RANDOM_BITS)
        else:
            self._random = (self._random + 1 + (self._random & 0xFF)) & _RANDOM_MASK
        return self._time_part + _write_base32(self._random, 8)


def mint_handle(size_bytes: int = 32) -> str:
    """Return a URL-safe random handle of ``size_bytes`` bytes (256 bits unless told otherwise)."""
    return secrets.token_urlsafe(size_bytes)
