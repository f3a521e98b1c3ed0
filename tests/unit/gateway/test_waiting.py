"""How much requests may hold while nobody stands behind them."""

from __future__ import annotations

from collections.abc import Callable

from doorward.base import limits
from doorward.base.clock import FakeClock
from doorward.controls.control import Head
from doorward.gateway.waiting import LEAST_BYTES, ROOM_BYTES, UNANNOUNCED_BYTES, WaitingRoom


def pending(length: int | None, *, chunked: bool = False) -> tuple[Head, list[Callable[[], None]]]:
    asked: list[Callable[[], None]] = []
    head = Head(verb="POST", path="/s/mcp", query="", fields={}, repeated=frozenset())
    head.content_length, head.chunked, head.generation = length, chunked, 7
    head.pending = asked.append
    return head, asked


def test_a_question_is_asked_at_once_and_its_answer_has_the_head_judged_anew() -> None:
    head, asked = pending(10)
    assert WaitingRoom(FakeClock()).admit(head)
    assert head.generation == 7
    asked[0]()
    assert head.generation == -1


def test_what_is_announced_is_bounded_and_room_comes_back_when_a_body_must_have_come() -> None:
    clock = FakeClock()
    room = WaitingRoom(clock)
    large = ROOM_BYTES // 4
    assert all(room.admit(pending(large)[0]) for _ in range(4))
    head, asked = pending(0)
    assert not room.admit(head) and asked == []
    clock.advance(limits.BODY_SECONDS)
    assert room.admit(head)


def test_small_and_unannounced_bodies_count_too() -> None:
    room = WaitingRoom(FakeClock())
    admitted = 0
    while room.admit(pending(None)[0]):
        admitted += 1
    assert admitted == ROOM_BYTES // LEAST_BYTES
    room = WaitingRoom(FakeClock())
    admitted = 0
    while room.admit(pending(None, chunked=True)[0]):
        admitted += 1
    assert admitted == ROOM_BYTES // UNANNOUNCED_BYTES


def test_a_head_without_a_question_is_not_let_wait() -> None:
    head, _ = pending(1)
    head.pending = None
    assert not WaitingRoom(FakeClock()).admit(head)
