"""Event streams towards legacy clients: numbered, replayed within bounds, and never mixed up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.talks.talk import Ear

from doorward.base import limits
from doorward.gateway.streams import KEEP_ALIVE, Stream, parse_event_id


def data(ear: Ear) -> list[bytes]:
    return [event.split(b"data: ", 1)[1].split(b"\n")[0] for event in ear.events if b"data: " in event]


def test_events_reach_an_attached_client_with_ids_of_their_stream() -> None:
    stream, ear = Stream("p7"), Ear()
    stream.attach(ear, None)
    stream.send(b"one")
    stream.send(b"two")
    assert data(ear) == [b"one", b"two"]
    assert [b"id: p7-1" in ear.events[0], b"id: p7-2" in ear.events[1]] == [True, True]


def test_a_client_that_comes_late_gets_what_no_client_got() -> None:
    stream, first, second = Stream("c"), Ear(), Ear()
    stream.send(b"early")
    stream.attach(first, None)
    first.leave()
    stream.send(b"late")
    stream.attach(second, None)
    assert data(first) == [b"early"] and data(second) == [b"late"]


@given(st.integers(min_value=0, max_value=30), st.integers(min_value=0, max_value=40))
def test_a_resumed_stream_replays_exactly_what_came_after(count: int, after: int) -> None:
    stream, ear = Stream("p1"), Ear()
    for number in range(1, count + 1):
        stream.send(b"%d" % number)
    stream.attach(ear, after)
    assert data(ear) == [b"%d" % number for number in range(after + 1, count + 1)]


def test_replay_is_bounded_by_number() -> None:
    stream, ear = Stream("p1"), Ear()
    for number in range(limits.REPLAY_EVENTS * 2):
        stream.send(b"%d" % number)
    stream.attach(ear, 0)
    assert len(ear.events) == limits.REPLAY_EVENTS


@given(st.lists(st.integers(min_value=0, max_value=600_000), min_size=1, max_size=12))
def test_replay_is_bounded_by_size_but_for_one_event(sizes: list[int]) -> None:
    stream = Stream("p1")
    for size in sizes:
        stream.send(b"x" * size)
    assert stream.size_bytes <= limits.REPLAY_BYTES or len(stream._buffer) == 1
    assert stream.size_bytes == sum(len(event) for _, event in stream._buffer)


def test_a_client_that_resumes_replaces_itself() -> None:
    stream, first, second = Stream("p1"), Ear(), Ear()
    stream.attach(first, None)
    stream.attach(second, 0)
    assert first.ended and not second.ended
    first.leave()
    stream.send(b"x")
    assert data(second) == [b"x"] and stream.is_attached


def test_a_finished_stream_replays_and_ends() -> None:
    stream, ear = Stream("p1"), Ear()
    stream.send(b"answer")
    stream.finish()
    stream.attach(ear, 0)
    assert data(ear) == [b"answer"] and ear.ended and not stream.is_attached


def test_silence_is_broken_by_comments_only() -> None:
    stream, ear = Stream("p1"), Ear()
    stream.attach(ear, None)
    stream.keep_alive()
    stream.send(b"x")
    stream.keep_alive()
    stream.keep_alive()
    assert [event == KEEP_ALIVE for event in ear.events] == [True, False, True]
    stream.finish()
    stream.keep_alive()
    assert ear.ended


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader_of_event_ids(text: str) -> None:
    found = parse_event_id(text)
    if found is not None:
        assert text.startswith(found[0] + "-") and found[1] >= 0


@pytest.mark.parametrize(
    "text", ["", "-", "c-", "-1", "c-x", "c--", "c-1.0", "c-٣", "c-9999999999999", "c-+1"]
)
def test_what_is_no_event_id_is_none(text: str) -> None:
    assert parse_event_id(text) is None


def test_the_stream_key_may_hold_a_dash() -> None:
    assert parse_event_id("a-b-12") == ("a-b", 12)
