"""What the attackers of the labs make of what they get, and the cache through which one of them looks."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.range.labs.l21 import changed
from doorward.range.labs.l34 import SharedCache
from doorward.range.records import decode_state, encode_state
from doorward.range.wire import Answer


def test_a_readable_state_becomes_another_records() -> None:
    assert decode_state(changed(encode_state({"record": "1"}))) == {"record": "of-somebody-else"}


def test_a_numbered_state_becomes_the_call_before_it() -> None:
    assert changed("park-0-00ff-12") == "park-0-00ff-11"


def test_of_a_sealed_state_one_letter_is_another() -> None:
    state = "dwp." + "A" * 40
    other = changed(state)
    assert len(other) == len(state)
    assert sum(a != b for a, b in zip(state, other, strict=True)) == 1


def answer(**hints: Any) -> Answer:
    return Answer(200, {}, b"", [{"result": {"tools": [], **hints}}])


@pytest.mark.parametrize(
    ("hints", "own", "others"),
    [
        ({"ttlMs": 60_000, "cacheScope": "public"}, True, True),
        ({"ttlMs": 60_000, "cacheScope": "private"}, True, False),
        ({"ttlMs": 60_000}, True, False),
        ({"ttlMs": 0, "cacheScope": "public"}, False, False),
        ({"cacheScope": "public"}, False, False),
    ],
)
def test_the_cache_keeps_to_the_hints(hints: dict[str, Any], own: bool, others: bool) -> None:
    cache = SharedCache()
    cache.keep("tools/list", {}, "alice", answer(**hints))
    assert (cache.find("tools/list", {}, "alice") is not None) == own
    assert (cache.find("tools/list", {}, "bob") is not None) == others
    assert cache.find("tools/list", {"cursor": "2"}, "alice") is None


def test_an_error_is_not_kept() -> None:
    cache = SharedCache()
    cache.keep("tools/list", {}, "alice", Answer(200, {}, b"", [{"error": {"code": 1}}]))
    assert cache.find("tools/list", {}, "alice") is None
