"""The record: every call has a decision and an outcome, and no value, token or answer is ever in it."""

from __future__ import annotations

import string
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.talks.talk import PlayedServer, Talk

SECRET = st.text(string.ascii_letters + string.digits, min_size=12, max_size=24).map(lambda text: "zq" + text)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SECRET, lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(SECRET, inner, min_size=1, max_size=2), max_leaves=4
)  # fmt: skip


def texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [text for one in value for text in texts(one)]
        case dict():
            return [text for key, one in value.items() for text in (key, *texts(one))]
    return []


def written(talk: Talk) -> str:
    return msgspec.json.encode(talk.journal.entries).decode()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arguments=st.dictionaries(SECRET, VALUES, min_size=1, max_size=3), answer=VALUES, era=st.sampled_from(["legacy", "modern"]), user=st.sampled_from(["alice", "bob"]))  # fmt: skip
def test_no_argument_answer_or_token_is_on_record(arguments: Any, answer: Any, era: str, user: str) -> None:
    server = PlayedServer()
    server.answers["tools/call"] = {
        "result": {"content": [{"type": "text", "text": str(answer)}], "structuredContent": {"a": answer}}
    }
    server.answers["prompts/get"] = {"error": {"code": -32602, "message": str(answer), "data": answer}}
    talk = Talk({"time": server})
    token = talk.token("time", user)
    if era == "legacy":
        session = talk.open("time", user=user)
        for method, name in (("tools/call", "echo"), ("tools/call", "nope"), ("prompts/get", "p")):
            talk.legacy(
                "time", session, method, {"name": name, "arguments": arguments}, user=user, token=token
            )
    else:
        for method, name in (("tools/call", "echo"), ("tools/call", "nope"), ("prompts/get", "p")):
            talk.modern("time", method, {"name": name, "arguments": arguments}, user=user, token=token)
    talk.send("time", {"jsonrpc": "2.0", "id": arguments, "method": "tools/call"}, token=token)
    talk.send("time", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, token=token[:-3] + "abc")
    found = written(talk)
    for text in (*texts(arguments), *texts(answer), token, *token.split(".")):
        assert text not in found, text


def test_every_call_has_a_decision_and_an_outcome_or_a_refusal() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    for name in ("echo", "nope", "delete"):
        talk.modern("time", "tools/call", {"name": name, "arguments": {}})
    talk.modern("time", "tools/list")
    by_event: dict[str, list[dict[str, Any]]] = {}
    for entry in talk.journal.entries:
        by_event.setdefault(entry["event"], []).append(entry)
    assert len(by_event) == 4
    for entries in by_event.values():
        kinds = [entry["record"] for entry in entries]
        refused = entries[0]["verdict"] == "refuse"
        assert kinds == (["decision"] if refused else ["decision", "outcome"])


def test_the_counters_stay_bounded_whatever_methods_clients_make_up() -> None:
    talk = Talk({"time": PlayedServer()})
    for number in range(6_000):
        talk.recorder._count("time", f"made-up/{number}", "refuse", 200)
    assert len(talk.recorder.numbers()["requests"]) <= 5_001


def test_durations_fall_into_their_buckets() -> None:
    recorder = Talk({}).recorder
    for microseconds in (0, 500, 501, 10_000_000, 99_000_000):
        recorder._observe(microseconds)
    numbers = recorder.numbers()
    assert sum(numbers["durations"]) == 5 and numbers["durations"][0] == 2 and numbers["durations"][-1] == 1
    assert numbers["duration_sum_us"] == 109_001_001
