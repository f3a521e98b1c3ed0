"""Sessions: sealed, capped, bound to their principal, and gone when their time is over."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.talks.talk import Ear

from doorward.base import limits
from doorward.base.clock import FakeClock
from doorward.base.errors import CallerError
from doorward.gateway.sessions import Seat, Session, SessionSeal, SessionTable
from doorward.identity.binding import Confirmation
from doorward.identity.principal import Principal

SEAT = Seat(3, b"incarnat")
SEAL = SessionSeal(b"k" * 32)


class Link:
    """What a session has with one server."""

    def __init__(self) -> None:
        self.closed = 0
        self.cancelled = 0

    def close(self) -> None:
        self.closed += 1


class Flight:
    """A call under way."""

    def __init__(self) -> None:
        self.ended = 0

    def session_ended(self) -> None:
        self.ended += 1

    def end_overdue(self) -> None: ...


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def table(clock: FakeClock) -> SessionTable:
    return SessionTable(SEAL, SEAT, clock)


def opened(table: SessionTable, principal: str = "p", endpoint: str = "time") -> Session:
    return table.make(principal, endpoint, "2025-11-25")


# -- seals ----------------------------------------------------------------------------------------------------------


def test_a_seal_opens_to_the_seat_that_minted_it() -> None:
    for _ in range(50):
        minted = SEAL.mint(SEAT)
        assert SEAL.open(minted) == SEAT
        assert minted.isascii() and minted.isprintable() and " " not in minted


def test_no_two_ids_are_equal() -> None:
    assert len({SEAL.mint(SEAT) for _ in range(1_000)}) == 1_000


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_no_id_with_a_flipped_bit_opens(place: int, bit: int) -> None:
    minted = SEAL.mint(SEAT)
    raw = bytearray(base64.urlsafe_b64decode(minted + "=" * (-len(minted) % 4)))
    raw[place % len(raw)] ^= 1 << bit
    assert SEAL.open(base64.urlsafe_b64encode(raw).decode().rstrip("=")) is None


@given(st.integers(min_value=0, max_value=80))
def test_no_cut_id_opens(length: int) -> None:
    minted = SEAL.mint(SEAT)
    assert SEAL.open(minted[: min(length, len(minted) - 1)]) is None


@given(st.text(max_size=300))
def test_no_made_up_id_opens(text: str) -> None:
    assert SEAL.open(text) is None


def test_an_id_of_another_installation_does_not_open() -> None:
    assert SessionSeal(b"j" * 32).open(SEAL.mint(SEAT)) is None


# -- who finds what -------------------------------------------------------------------------------------------------


def test_only_its_principal_finds_a_session_and_only_at_its_endpoint(table: SessionTable) -> None:
    session = opened(table)
    assert table.find(session.id, "p", "time") is session
    assert table.find(session.id, "q", "time") is None
    assert table.find(session.id, "p", "") is None
    assert table.find("nowhere", "p", "time") is None


# -- caps -----------------------------------------------------------------------------------------------------------


def test_a_principal_with_too_many_loses_its_own_oldest(
    table: SessionTable, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_PRINCIPAL", 3)
    other = opened(table, "other")
    own = []
    for _ in range(3):
        clock.advance(1)
        own.append(opened(table))
    clock.advance(1)
    table.find(own[0].id, "p", "time")
    fresh = opened(table)
    assert own[1].is_over and not own[0].is_over and not other.is_over and not fresh.is_over
    assert len(table) == 4


def test_a_full_table_takes_nobody(table: SessionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SESSIONS_TOTAL", 1)
    opened(table)
    assert table.is_full
    with pytest.raises(CallerError) as refused:
        opened(table, "q")
    assert refused.value.status == 429


# -- ends -----------------------------------------------------------------------------------------------------------


def test_the_end_of_a_session_ends_all_that_hangs_on_it(table: SessionTable) -> None:
    session = opened(table)
    link, flight, ear, late = Link(), Flight(), Ear(), Ear()
    heard: list[str] = []
    session.links["time"] = link  # type: ignore[assignment]
    session.flights[1] = flight
    session.listening["time"] = lambda: heard.append("cancelled")
    session.common.attach(ear, None)
    session.new_stream().attach(late, None)
    table.drop(session)
    table.drop(session)
    assert (link.closed, flight.ended, heard) == (1, 1, ["cancelled"])
    assert ear.ended and late.ended and len(table) == 0
    assert table._by_principal == {}


def test_an_idle_session_ends_and_a_busy_one_does_not(table: SessionTable, clock: FakeClock) -> None:
    idle, calling, listening = opened(table), opened(table), opened(table)
    calling.flights[1] = Flight()
    listening.common.attach(Ear(), None)
    clock.advance(limits.SESSION_IDLE_SECONDS + 1)
    table.sweep()
    assert (idle.is_over, calling.is_over, listening.is_over) == (True, False, False)
    clock.advance(limits.SESSION_ABSOLUTE_SECONDS)
    table.sweep()
    assert calling.is_over and listening.is_over and len(table) == 0


def test_a_stream_ends_with_its_clients_token_and_can_be_resumed(
    table: SessionTable, clock: FakeClock
) -> None:
    session = opened(table)
    ear = Ear()
    session.common.expires_at = clock.now() + 10
    session.common.attach(ear, None)
    clock.advance(9)
    table.sweep()
    assert not ear.ended
    clock.advance(1.5)
    table.sweep()
    assert ear.ended and not session.common.finished


def test_sessions_are_dropped_by_a_condition_and_all_at_the_end(table: SessionTable) -> None:
    one, two = opened(table, endpoint="a"), opened(table, endpoint="b")
    table.drop_where(lambda session: session.endpoint == "a")
    assert one.is_over and not two.is_over
    table.close()
    assert two.is_over and len(table) == 0


def test_too_many_open_questions_of_a_server_are_not_put(table: SessionTable) -> None:
    session = opened(table)
    link: Any = Link()
    ids = [session.ask(link, number, "time") for number in range(200)]
    assert len({one for one in ids if one}) == 128 and ids[-1] is None


# -- what is kept for resumption ------------------------------------------------------------------------------------


def test_finished_streams_give_way_by_number_and_by_size(table: SessionTable) -> None:
    session = opened(table)
    for _ in range(100):
        session.new_stream().finish()
    assert len(session.streams) <= 64
    big = []
    for _ in range(20):
        stream = session.new_stream()
        stream.send(b"x" * 1_000_000)
        stream.finish()
        big.append(stream)
    kept = sum(stream.size_bytes for stream in session.streams.values())
    assert kept <= 3 * 1_048_576
    assert session.stream_after(f"{big[-1].key}-0") is not None, "the newest stays"
    assert session.stream_after(f"{big[0].key}-0") is None


def test_a_stream_under_way_never_gives_way(table: SessionTable) -> None:
    session = opened(table)
    first = session.new_stream()
    for _ in range(100):
        session.new_stream()
    assert session.streams[first.key] is first


def test_a_finished_stream_is_kept_for_a_while_only(table: SessionTable, clock: FakeClock) -> None:
    session = opened(table)
    stream = session.new_stream()
    stream.send(b"{}")
    stream.finish()
    table.sweep()
    clock.advance(100)
    table.find(session.id, "p", "time")
    table.sweep()
    assert session.streams
    clock.advance(300)
    table.find(session.id, "p", "time")
    table.sweep()
    assert not session.streams and not session.is_over


# -- whose, and for how long ----------------------------------------------------------------------------------------


def test_an_id_holds_256_random_bits_and_no_two_are_alike() -> None:
    raw = [base64.urlsafe_b64decode(SEAL.mint(SEAT) + "==") for _ in range(20_000)]
    assert len({*raw}) == len(raw)
    plain = {SEAL._cipher.decrypt(one[:12], one[12:], b"doorward session 1")[10:] for one in raw}
    assert {len(one) for one in plain} == {32} and len(plain) == len(raw)
    ones = sum(int.from_bytes(one, "big").bit_count() for one in plain)
    assert abs(ones / (256 * len(plain)) - 0.5) < 0.002
    for bit in range(0, 256, 17):  # no bit of it leans to one side
        share = sum(int.from_bytes(one, "big") >> bit & 1 for one in plain) / len(plain)
        assert abs(share - 0.5) < 0.03


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, "yes"),
        ({"token_id": "fresh", "expires_at": 9e9}, "yes"),  # a refreshed token
        ({"roles": ()}, "yes"),  # rights that shrink are for policy to see
        ({"roles": ("user", "admin")}, "grown"),
        ({"scopes": ("mcp", "tickets:write")}, "grown"),
        ({"bound": Confirmation(key="k" * 43)}, "other"),
        ({"bound": Confirmation(key="k" * 43), "roles": ("user", "admin")}, "other"),
    ],
)
def test_a_session_goes_on_for_the_same_token_or_a_refreshed_one_only(
    table: SessionTable, changes: dict[str, Any], fits: str
) -> None:
    first = Principal("t", "i", "alice", "c", roles=("user",), scopes=("mcp",), token_id="first")
    session = opened(table)
    session.opened_by = first
    assert session.fits(msgspec.structs.replace(first, **changes)) == fits
