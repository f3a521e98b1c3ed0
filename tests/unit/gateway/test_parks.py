"""The state that a client carries opens its own call, once made, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.gateway.parks import ParkSeal, digest_of
from doorward.gateway.sessions import Seat
from doorward.protocol.envelope import request

KEY = b"k" * 32
HERE, THERE = Seat(0, b"incarnat"), Seat(1, b"incarnat")
BOUND = b"alice\0time\0"


def call(**params: object) -> object:
    return request(1, "tools/call", {"name": "echo", "arguments": {}, **params})


def test_the_worker_that_sealed_a_state_opens_it_and_every_worker_knows_whose_it_is() -> None:
    here, there = ParkSeal(KEY, HERE), ParkSeal(KEY, THERE)
    handle = here.fresh_handle()
    state = here.seal(handle, BOUND)
    assert here.open(state, BOUND) == handle
    assert there.open(state, BOUND) is None
    assert there.owner(call(requestState=state)) == HERE  # type: ignore[arg-type]


def test_a_restarted_worker_does_not_know_the_calls_of_its_life_before() -> None:
    state = ParkSeal(KEY, HERE).seal(b"h" * 16, BOUND)
    assert ParkSeal(KEY, Seat(0, b"anothers")).open(state, BOUND) is None


@pytest.mark.parametrize("bound", [b"bob\0time\0", b"alice\0mail\0", b"", BOUND + b"x"])
def test_a_state_is_bound_to_caller_server_and_request(bound: bytes) -> None:
    seal = ParkSeal(KEY, HERE)
    assert seal.open(seal.seal(b"h" * 16, BOUND), bound) is None


def test_another_installation_cannot_open_it() -> None:
    state = ParkSeal(KEY, HERE).seal(b"h" * 16, BOUND)
    assert ParkSeal(b"x" * 32, HERE).open(state, BOUND) is None


@given(st.integers(0, 200), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_changed_state_opens_anything(at: int, letter: str) -> None:
    seal = ParkSeal(KEY, HERE)
    state = seal.seal(b"h" * 16, BOUND)
    at %= len(state) - 1  # of the last character some bits carry nothing
    changed = state[:at] + letter + state[at + 1 :]
    assert seal.open(changed, BOUND) == (b"h" * 16 if changed == state else None)


@given(st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()), st.text().map("dwp.".__add__)))
def test_whatever_else_comes_is_survived(state: object) -> None:
    seal = ParkSeal(KEY, HERE)
    assert seal.open(state, BOUND) is None
    assert seal.owner(call(requestState=state)) is None  # type: ignore[arg-type]


def test_a_request_is_the_same_when_it_comes_again_with_answers() -> None:
    first, again = call(_meta={"a": 1}), call(_meta={"b": 2}, inputResponses={"ask-1": {}}, requestState="s")
    assert digest_of(first) == digest_of(again)  # type: ignore[arg-type]
    assert digest_of(first) != digest_of(call(arguments={"x": 1}))  # type: ignore[arg-type]
