from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorward.adapters.sealed_state import PREFIX, SealedState, owner_key
from doorward.adapters.state import FILE, State
from doorward.base.errors import TamperError
from doorward.identity.sealing import MasterKeys

CANARY = b"canary-5c2d9e-refresh-token"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def sealed(state: State) -> SealedState:
    return SealedState(state, MasterKeys.generate())


def test_rows_come_back_and_the_file_does_not_tell_them(sealed: SealedState, tmp_path: Path) -> None:
    sealed.keep("tokens", "alice", CANARY, now=1.0)
    assert sealed.kept("tokens", "alice", 2.0) == (CANARY, 1)
    sealed.keep("tokens", "alice", CANARY + b"2", now=3.0, expires_at=10.0)
    assert sealed.kept("tokens", "alice", 4.0) == (CANARY + b"2", 2)
    assert sealed.kept("tokens", "alice", 11.0) is None
    sealed.keep("tokens", "bob", CANARY, now=1.0)
    assert sealed.all_kept("tokens", 2.0) == {"alice": CANARY + b"2", "bob": CANARY}
    for path in tmp_path.glob(f"{FILE}*"):
        assert b"canary" not in path.read_bytes()


def test_a_row_is_written_only_by_who_saw_the_version_before(sealed: SealedState) -> None:
    assert sealed.replace("s", "k", b"1", seen=0, now=1.0)
    assert not sealed.replace("s", "k", b"2", seen=0, now=1.0)
    assert sealed.replace("s", "k", b"2", seen=1, now=1.0)
    assert not sealed.replace("s", "k", b"3", seen=1, now=1.0)
    assert sealed.kept("s", "k", 1.0) == (b"2", 2)


def test_of_two_who_take_a_row_one_gets_it(sealed: SealedState) -> None:
    sealed.keep("s", "k", b"once", now=1.0)
    gate, found = threading.Barrier(4), []

    def take() -> None:
        gate.wait()
        found.append(sealed.take("s", "k", 2.0))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [None, None, None, b"once"] or found.count(b"once") == 1
    assert sealed.take("s", "k", 2.0) is None


def raw(state: State, space: str, key: str) -> bytes:
    found = state.kept(PREFIX + space, key, 1.0)
    assert found is not None
    return found[0]


def test_a_row_in_another_place_does_not_open(sealed: SealedState, state: State) -> None:
    sealed.keep("tokens", "alice", b"a", now=1.0)
    sealed.keep("tokens", "bob", b"b", now=1.0)
    sealed.keep("codes", "alice", b"c", now=1.0)
    stolen = raw(state, "tokens", "alice")
    for space, key in (("tokens", "bob"), ("codes", "alice")):
        state.drop(PREFIX + space, key)
        state.keep(PREFIX + space, key, stolen)
        for attempt in (sealed.kept, sealed.take):
            with pytest.raises(TamperError) as caught:
                attempt(space, key, 2.0)
            assert caught.value.code == "sealed-broken"


def test_a_row_put_back_to_what_it_was_does_not_open(
    sealed: SealedState, tmp_path: Path, state: State
) -> None:
    sealed.keep("tokens", "alice", b"old", now=1.0)
    before = raw(state, "tokens", "alice")
    sealed.keep("tokens", "alice", b"new", now=1.0)
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE kept SET value = ?", (before,))
    connection.close()
    with pytest.raises(TamperError):
        sealed.kept("tokens", "alice", 2.0)


def test_a_rotation_seals_all_rows_anew_and_an_old_backup_opens_no_more(
    sealed: SealedState, state: State
) -> None:
    for number in range(20):
        sealed.keep("tokens", f"user{number}", str(number).encode(), now=1.0, expires_at=100.0 + number)
    sealed.keep("codes", "x", b"y", now=1.0)
    backup = raw(state, "tokens", "user3")
    old = sealed.keys
    sealed.keys = old.rotated()
    assert sealed.rewrap(2.0) == (21, 0)
    assert sealed.rewrap(2.0) == (0, 0)
    sealed.keys = sealed.keys.alone()
    assert sealed.all_kept("tokens", 3.0)["user3"] == b"3"
    assert sealed.kept("tokens", "user0", 100.5) is None, "a row keeps when it expires"
    with pytest.raises(TamperError):
        sealed.keys.open(backup, bound=("tokens", "user3", "1"))


def test_a_row_that_does_not_open_is_left_and_counted(sealed: SealedState, state: State) -> None:
    sealed.keep("tokens", "good", b"1", now=1.0)
    state.keep(PREFIX + "tokens", "bad", b"nonsense")
    sealed.keys = sealed.keys.rotated()
    assert sealed.rewrap(2.0) == (1, 1)


def test_owners_share_no_key() -> None:
    assert owner_key("a", "b|c") != owner_key("a|b", "c")
    assert owner_key("a", "") != owner_key("a")
