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
    """Mint ids in the ULID form: 48 bits of milliseconds, 60 bits of chance, 20 of a counter.

    They grow, and two minters never meet; they are no secrets and must not be used as such. The chance is drawn when the
    counter is full, not for each id: a call is too cheap to pay for that.
    """

    __slots__ = ("_chance", "_low", "_millisecond", "_prefix", "_second", "_second_text")

    def __init__(self) -> None:
        self._millisecond = -1
        self._second = -1  # 1,024 milliseconds, to be exact
        self._second_text = ""
        self._chance = ""
        self._prefix = ""
        self._low = 1 << _LOW_BITS  # full: the first id draws the chance

    def mint(self) -> str:
        """Return a fresh id of 26 characters."""
        millisecond = time.time_ns() // 1_000_000
        low = self._low + 1
        if millisecond > self._millisecond or low >> _LOW_BITS:
            low = self._advance(millisecond, low)
        self._low = low
        return self._prefix + _PAIRS[low >> 10] + _PAIRS[low & 1023]

    def _advance(self, millisecond: int, low: int) -> int:
        if low >> _LOW_BITS:
            # A full counter borrows from the next millisecond, as does a clock that stands still or goes back.
            millisecond = max(millisecond, self._millisecond + 1)
            self._chance = _write_base32(secrets.randbits(_HIGH_BITS), 6)
            low = 0
        self._millisecond = millisecond
        if millisecond >> 10 != self._second:
            self._second = millisecond >> 10
            self._second_text = _write_base32(self._second, 4)
        self._prefix = self._second_text + _PAIRS[millisecond & 1023] + self._chance
        return low


def mint_handle(size_bytes: int = 32) -> str:
    """Return a URL-safe random handle of ``size_bytes`` bytes (256 bits unless told otherwise)."""
    return secrets.token_urlsafe(size_bytes)
