"""The state that a client carries opens its own call, once and in time, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.clock import FakeClock
from doorward.gateway import states
from doorward.gateway.parks import ParkBook, seat_of
from doorward.gateway.sessions import Seat
from doorward.gateway.states import StateSeal, digest_of
from doorward.protocol.envelope import request
from doorward.protocol.message import Message

KEY = b"k" * 32
HERE, THERE = Seat(0, b"incarnat"), Seat(1, b"incarnat")
ALICE = ("alice", "time")


def seal_at(seat: Seat = HERE, key: bytes = KEY, clock: FakeClock | None = None) -> StateSeal:
    return StateSeal(key, seat, clock or FakeClock())


def call(**params: object) -> Message:
    return request(1, "tools/call", {"name": "echo", "arguments": {}, **params})


def sealed(seal: StateSeal, state: object = "s") -> str:
    made = seal.seal(*ALICE, call(), state)
    assert made is not None
    return made


@pytest.mark.parametrize("state", ["s", "", "é\0", {"a": [1]}, 7, None, "x" * 200_000])
def test_a_state_comes_back_as_its_server_gave_it(state: object) -> None:
    seal = seal_at()
    assert seal.open(*ALICE, call(requestState=sealed(seal, state))) == states.Opened(state)


def test_every_worker_knows_whose_a_state_is_and_that_one_alone_opens_it() -> None:
    here, there = seal_at(), seal_at(THERE)
    state = call(requestState=sealed(here))
    assert there.owner(state) == HERE
    assert "another worker" in there.open(*ALICE, state).fault
    assert not here.open(*ALICE, state).fault


def test_a_restarted_worker_does_not_know_the_states_of_its_life_before() -> None:
    state = call(requestState=sealed(seal_at()))
    assert "another life" in seal_at(Seat(0, b"anothers")).open(*ALICE, state).fault


@pytest.mark.parametrize("who", [("bob", "time"), ("alice", "mail"), ("alic", "etime"), ("", "")])
def test_a_state_is_bound_to_caller_and_server(who: tuple[str, str]) -> None:
    seal = seal_at()
    state = call(requestState=sealed(seal))
    assert "another caller" in seal.open(*who, state).fault
    assert not seal.open(*ALICE, state).fault, "a theft that failed has not used it up"


@pytest.mark.parametrize("other", [{"name": "delete"}, {"arguments": {"x": 1}}, {"more": 1}])
def test_a_state_is_bound_to_its_request(other: dict[str, Any]) -> None:
    seal = seal_at()
    state = sealed(seal)
    assert "another request" in seal.open(*ALICE, call(requestState=state, **other)).fault
    assert not seal.open(*ALICE, call(requestState=state, inputResponses={"a": {}})).fault


def test_a_state_is_good_once() -> None:
    seal = seal_at()
    state = call(requestState=sealed(seal))
    assert not seal.open(*ALICE, state).fault
    assert "used before" in seal.open(*ALICE, state).fault


@pytest.mark.parametrize(
    ("after", "is_late"), [(states.STATE_SECONDS - 1, False), (states.STATE_SECONDS, True)]
)
def test_a_state_runs_out(after: float, is_late: bool) -> None:
    clock = FakeClock()
    seal = seal_at(clock=clock)
    state = call(requestState=sealed(seal))
    clock.advance(after)
    assert ("too late" in seal.open(*ALICE, state).fault) == is_late


def test_another_installation_cannot_open_it() -> None:
    state = call(requestState=sealed(seal_at()))
    assert "did not seal" in seal_at(key=b"x" * 32).open(*ALICE, state).fault


def test_what_is_too_large_to_carry_is_not_sealed() -> None:
    assert seal_at().seal(*ALICE, call(), "x" * 300_000) is None


def test_a_callers_own_oldest_state_gives_way_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "_OWN_COUNT", 2)
    seal = seal_at()
    bobs = seal.seal("bob", "time", call(), "b")
    mine = [sealed(seal) for _ in range(3)]
    faults = [seal.open(*ALICE, call(requestState=state)).fault for state in mine]
    assert [bool(fault) for fault in faults] == [True, False, False]
    assert not seal.open("bob", "time", call(requestState=bobs)).fault


def test_when_all_room_is_taken_new_callers_wait_until_states_ran_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(states, "_TOTAL_COUNT", 3)
    clock = FakeClock()
    seal = seal_at(clock=clock)
    assert all(seal.seal(f"p{number}", "time", call(), "s") for number in range(3))
    assert seal.seal("late", "time", call(), "s") is None
    assert seal.seal("p1", "time", call(), "s"), "a caller's own gives way"
    assert seal.seal("late", "time", call(), "s") is None
    clock.advance(states.STATE_SECONDS)
    assert seal.seal("late", "time", call(), "s")


@given(st.integers(0, 400), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_changed_state_opens_anything(at: int, letter: str) -> None:
    seal = seal_at()
    state = sealed(seal)
    at %= len(state)
    changed = state[:at] + letter + state[at + 1 :]
    assert bool(seal.open(*ALICE, call(requestState=changed)).fault) == (changed != state)


@given(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()), st.text().map("dwp.".__add__)))
def test_whatever_else_comes_is_survived(state: object) -> None:
    seal = seal_at()
    assert seal.open(*ALICE, call(requestState=state)).fault
    assert seal.owner(call(requestState=state)) is None


def test_a_request_is_the_same_when_it_comes_again_with_answers() -> None:
    first, again = call(_meta={"a": 1}), call(_meta={"b": 2}, inputResponses={"ask-1": {}}, requestState="s")
    assert digest_of(first) == digest_of(again)
    assert digest_of(first) != digest_of(call(arguments={"x": 1}))


def test_the_name_of_a_parked_call_means_it_to_its_own_worker_only() -> None:
    here, there = ParkBook(HERE), ParkBook(THERE)
    assert here.number(here.name(7)) == 7
    assert there.number(here.name(7)) is None
    assert ParkBook(Seat(0, b"anothers")).number(here.name(7)) is None


@given(st.one_of(st.none(), st.integers(), st.text(), st.text().map("park-0-".__add__)))
def test_no_other_text_names_a_parked_call(state: object) -> None:
    assert seat_of(state) is None


def test_without_the_seal_a_parked_calls_own_name_says_where_it_is_kept() -> None:
    seal = seal_at()
    named = call(requestState=ParkBook(THERE).name(1))
    assert seal.owner(named) is None
    seal.switch(on=False)
    assert seal.owner(named) == THERE
