"""Event ids and handles."""

from __future__ import annotations

import time

import pytest

from doorward.base import ids
from doorward.base.ids import EventIds, mint_handle

ALPHABET = set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_ids_have_26_characters_grow_and_never_repeat() -> None:
    minter = EventIds()
    minted = [minter.mint() for _ in range(50_000)]
    assert all(len(one) == 26 and set(one) <= ALPHABET for one in minted[:100])
    assert minted == sorted(minted)
    assert len(set(minted)) == len(minted)


def test_an_id_begins_with_its_time() -> None:
    before = time.time_ns() // 1_000_000
    minted = EventIds().mint()
    after = time.time_ns() // 1_000_000
    value = 0
    for letter in minted[:10]:
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    assert before <= value <= after


def test_a_full_counter_and_a_clock_that_goes_back_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [5_000_000_000_000]
    monkeypatch.setattr(ids.time, "time_ns", lambda: at[0] * 1_000_000)
    minter = EventIds()
    first = minter.mint()
    at[0] -= 10_000
    second = minter.mint()
    minter._low = (1 << 20) - 1
    third = minter.mint()
    fourth = minter.mint()
    assert first < second < third < fourth
    assert third[10:22] != second[10:22], "a full counter draws new chance"


def test_two_minters_never_meet() -> None:
    one, other = EventIds(), EventIds()
    assert one.mint()[10:22] != other.mint()[10:22]


def test_handles_are_long_and_differ() -> None:
    assert len(mint_handle()) >= 43
    assert mint_handle() != mint_handle()
