from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import OperatorError, TamperError
from doorward.identity.sealing import MasterKeys

BOUND = ("tokens", "alice", "1")


@given(st.binary(max_size=4_096), st.lists(st.text(max_size=20), max_size=4))
def test_what_was_sealed_opens_for_exactly_what_it_is_bound_to(value: bytes, bound: list[str]) -> None:
    keys = MasterKeys.generate()
    sealed = keys.seal(value, bound=tuple(bound))
    assert keys.open(sealed, bound=tuple(bound)) == value
    with pytest.raises(TamperError):
        keys.open(sealed, bound=(*bound, ""))


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_changed_bit_anywhere_does_not_open(place: int, bit: int) -> None:
    keys = MasterKeys.generate()
    sealed = bytearray(keys.seal(b"a refresh token", bound=BOUND))
    sealed[place % len(sealed)] ^= 1 << bit
    with pytest.raises(TamperError):
        keys.open(bytes(sealed), bound=BOUND)


@given(st.binary(max_size=300))
def test_anything_else_does_not_open(content: bytes) -> None:
    with pytest.raises(TamperError):
        MasterKeys.generate().open(content, bound=BOUND)


@pytest.mark.parametrize(
    "bound", [("tokens", "bob", "1"), ("codes", "alice", "1"), ("tokens", "alice", "2"), ("tokens",)]
)
def test_another_owner_purpose_or_version_does_not_open(bound: tuple[str, ...]) -> None:
    keys = MasterKeys.generate()
    with pytest.raises(TamperError):
        keys.open(keys.seal(b"x", bound=BOUND), bound=bound)


def test_names_that_could_run_into_each_other_do_not() -> None:
    keys = MasterKeys.generate()
    with pytest.raises(TamperError):
        keys.open(keys.seal(b"x", bound=("a,b", "c")), bound=("a", "b,c"))


def test_a_rotated_ring_opens_what_the_old_key_sealed_until_the_old_one_is_destroyed() -> None:
    old = MasterKeys.generate()
    sealed = old.seal(b"x", bound=BOUND)
    both = MasterKeys.from_bytes(old.rotated().to_bytes())
    assert both.open(sealed, bound=BOUND) == b"x"
    assert not both.is_current(sealed)
    assert both.is_current(both.seal(b"x", bound=BOUND))
    with pytest.raises(TamperError):
        both.alone().open(sealed, bound=BOUND)
    with pytest.raises(TamperError):
        old.open(both.seal(b"x", bound=BOUND), bound=BOUND)


def test_equal_values_are_sealed_differently_and_keys_print_nothing() -> None:
    keys = MasterKeys.generate()
    assert keys.seal(b"x", bound=BOUND) != keys.seal(b"x", bound=BOUND)
    assert keys.current in repr(keys)
    assert keys.to_bytes().decode().split('"')[-2] not in repr(keys)
    with pytest.raises(TypeError):
        pickle.dumps(keys)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"current":"a","keys":{}}',
        b'{"current":"a","keys":{"a":"00"}}',
        b'{"current":"a","keys":{"a":"' + b"00" * 32 + b'"}}',
        b'{"current":"a","keys":{"a":"zz"}}',
    ],
)
def test_a_key_file_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(OperatorError) as caught:
        MasterKeys.from_bytes(content)
    assert caught.value.code == "key-file-broken"
