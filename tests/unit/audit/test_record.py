"""Records hold no secrets, cannot be forged by peer text and fold into rows."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from doorward.audit.record import Records, Stored, digest, fold, strip_uri, tidy
from doorward.audit.tiles import ENTRY_BYTES

KEY = b"k" * 32
EVENT = "01M85NT5GKAZ2A8MH16TH3YS9R"


def call(records: Records, event: str = EVENT, **more: object) -> bytes:
    values: dict[str, object] = {
        "event": event, "at": 1_800_000_000.25, "era": "modern", "tenant": "t", "principal": "alice",
        "client": "cli", "server": "time", "method": "tools/call", "item": "get_time",
    }  # fmt: skip
    return records.decision(**{**values, **more})  # type: ignore[arg-type]


def test_a_decision_and_an_outcome_fold_into_one_row() -> None:
    records = Records("a/w0", KEY)
    ended = records.outcome(
        event=EVENT,
        at=1_800_000_001.0,
        outcome="ok",
        upstream_requests=1,
        duration_us=5,
        response_digest="b3k:1",
    )
    [row] = fold([Stored("a/w0", 4, call(records, session="s")), Stored("a/w0", 9, ended)])
    assert row["seq"] == [4, 9]
    assert row["time"] == "2027-01-15T08:00:00.250Z"
    assert (row["verdict"], row["outcome"], row["upstream_requests"], row["duration_us"]) == (
        "allow",
        "ok",
        1,
        5,
    )
    assert row["session"].startswith("b3k:")


def test_what_is_noted_after_the_decision_is_in_the_row_too() -> None:
    records = Records("a/w0", KEY)
    note = "check-shape: dropped 1 of 3 tools: its name is listed twice\x1b[2J"
    ended = records.outcome(
        event=EVENT, at=1.0, outcome="ok", upstream_requests=1, duration_us=5, notes=[note] * 40
    )
    plain, noted = call(records), call(records, verdict="note", notes=["limit-rate: first"])
    [row] = fold([Stored("a/w0", 0, plain), Stored("a/w0", 1, ended)])
    assert row["verdict"] == "note"
    assert len(row["notes"]) == 16
    assert "dropped 1 of 3 tools" in row["notes"][0]
    assert "\x1b" not in row["notes"][0]
    [row] = fold([Stored("a/w0", 0, noted), Stored("a/w0", 1, ended)])
    assert row["notes"][0] == "limit-rate: first"
    assert len(row["notes"]) == 17


def test_a_refused_call_is_one_record_with_its_reason() -> None:
    records = Records("a/w0", KEY)
    refused = call(
        records, verdict="refuse", control="ask-policy", reason="no role", code=-31001, http_status=200
    )
    [row] = fold([Stored("a/w0", 0, refused)])
    assert (row["verdict"], row["control"], row["code"], row["outcome"]) == (
        "refuse",
        "ask-policy",
        -31001,
        "error",
    )
    assert (row["seq"], row["upstream_requests"]) == ([0, 0], 0)


def test_a_call_without_outcome_is_unknown_unless_it_is_in_flight() -> None:
    entry = call(Records("a/w0", KEY))
    assert fold([Stored("a", 0, entry)])[0]["outcome"] == "unknown"
    assert fold([Stored("a", 0, entry, in_flight=True)])[0]["outcome"] is None


def test_a_refused_reply_turns_the_verdict() -> None:
    records = Records("a/w0", KEY)
    ended = records.outcome(
        event=EVENT,
        at=0,
        outcome="error",
        upstream_requests=1,
        duration_us=1,
        verdict="refuse",
        control="c",
        reason="r",
    )
    [row] = fold([Stored("a", 0, call(records)), Stored("a", 1, ended)])
    assert (row["verdict"], row["control"], row["outcome"]) == ("refuse", "c", "error")


peer_text = st.text(max_size=2_000) | st.text(alphabet='"\\\n\x00\ud800\u202e{}', max_size=40)


@given(st.fixed_dictionaries(dict.fromkeys(("tenant", "principal", "client", "server", "method", "item", "session", "address", "pin", "trace", "control", "reason"), peer_text)), st.lists(peer_text, max_size=30))  # fmt: skip
def test_peer_text_cannot_forge_members_or_grow_a_record_past_the_cap(
    told: dict[str, str], notes: list[str]
) -> None:
    entry = call(Records("a/w0", KEY), notes=notes, **told)
    assert len(entry) <= ENTRY_BYTES
    value = json.loads(entry)
    assert value["event"] == EVENT
    assert value["kind"] == "call"
    text = entry.decode()
    assert text.isprintable()


@given(st.fixed_dictionaries(dict.fromkeys(("method", "item", "reason", "principal", "address"), peer_text)))
def test_other_records_are_as_strict(told: dict[str, str]) -> None:
    entry = Records("a/w0", KEY).happening("auth", event=EVENT, at=0.0, notes=["x" * 999] * 99, **told)
    assert len(entry) <= ENTRY_BYTES
    assert json.loads(entry)["kind"] == "auth"


def test_uris_keep_no_secrets() -> None:
    for uri in (
        "https://bob:hunter2@host/path?token=hunter2#hunter2",
        "https://host?hunter2/path",
        "data:text/plain,hunter2",
        "file:///x?hunter2",
        "srv__https://hunter2@host/x",
        "mem:a#hunter2",
        "https://host?x@hunter2/y",
        "DATA:hunter2",
        "https://host#/hunter2",
    ):
        assert "hunter2" not in strip_uri(uri, KEY)
        entry = call(Records("a", KEY), method="resources/read", item=uri)
        assert b"hunter2" not in entry
    assert strip_uri("file:///etc/motd", KEY) == "file:///etc/motd"


def test_digests_are_keyed() -> None:
    assert digest(KEY, b"x") == Records("a", KEY).digest(b"x") != digest(b"o" * 32, b"x")


def test_tidy_cuts_and_spells_out() -> None:
    assert tidy("a\nb\u202e") == "a\\u{a}b\\u{202e}"
    assert len(tidy("x" * 1000, 10)) == 10


def test_unreadable_entries_are_rows_too() -> None:
    rows = fold([Stored("a", 0, b"\xff"), Stored("a", 1, b"[]"), Stored("a", 2, b"{}")])
    assert [row["seq"] for row in rows] == [[0, 0], [1, 1], [2, 2]]


def test_the_cache_of_constant_parts_is_bounded() -> None:
    records = Records("a", KEY)
    for number in range(9_000):
        call(records, item=str(number))
    assert len(records._parts) <= 4_096


@given(
    key=st.tuples(*[st.text(max_size=300)] * 12),
    at=st.floats(0, 4e9),
    numbers=st.tuples(*[st.integers(0, 10**9)] * 4),
)
def test_the_short_ways_write_what_the_long_ones_write(
    key: tuple[str, ...], at: float, numbers: tuple[int, int, int, int]
) -> None:
    records = Records("lab/doorward/x/w0", bytes(32))
    era, cell, tenant, principal, client, server, method, item, session, address, pin, issuer = key
    assert records.allowed(key, "E1", at, "b3k:1") == Records("lab/doorward/x/w0", bytes(32)).decision(
        event="E1", at=at, era=era, cell=cell, tenant=tenant, principal=principal, client=client, server=server, method=method,
        item=item, session=session, address=address, pin=pin, issuer=issuer, request_digest="b3k:1",
    )  # fmt: skip
    requests, duration, status, code = numbers
    assert records.ended("E1", at, "ok", requests, duration, "b3k:2", status, code) == records.outcome(
        event="E1", at=at, outcome="ok", upstream_requests=requests, duration_us=duration, response_digest="b3k:2",
        http_status=status, code=code,
    )  # fmt: skip
