"""Clients before servers of the other era only: questions find their way, whichever worker hears the answer, and nobody else's do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.suite import everything_over_http
from tests.stack.kit import Stack, running
from tests.stack.wire import Answer, Events, until

ASKS = ["sampling", "elicitation", "roots"]
CAN = {"elicitation": {}, "sampling": {}, "roots": {}}
FORM = {"name": "test_elicitation", "arguments": {"message": "Who?"}}
FILLED = {"action": "accept", "content": {"username": "alice", "email": "a@example.org"}}


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """A server of each era."""
    with everything_over_http("legacy") as old, everything_over_http("modern") as new:
        yield {"old": old, "new": new}


def servers_of(ports: dict[str, int], asks: list[str]) -> dict[str, Any]:
    return {
        name: {"url": f"http://127.0.0.1:{port}/mcp", "allow_requests": asks} for name, port in ports.items()
    }


@pytest.fixture(scope="module")
def stack(ports: dict[str, int]) -> Iterator[Stack]:
    """Three workers; each request comes on a connection of its own."""
    with running(servers_of(ports, ASKS), workers=3) as one:
        yield one


@pytest.fixture(scope="module")
def strict(ports: dict[str, int]) -> Iterator[Stack]:
    """No server may ask anything."""
    with running(servers_of(ports, [])) as one:
        yield one


@pytest.fixture(scope="module")
def open_gate(ports: dict[str, int]) -> Iterator[Stack]:
    """The same with the gate off."""
    with running(servers_of(ports, []), off=("gate-server-requests",)) as one:
        yield one


def ask(stack: Stack, **more: Any) -> Answer:
    """A call that asks something at the server of the 2025 era."""
    return stack.modern("old", "tools/call", FORM, capabilities=CAN, **more)


def come_back(stack: Stack, question: dict[str, Any], state: Any = None, **more: Any) -> Answer:
    """Answer a question by sending the call again."""
    answers = dict.fromkeys(question["inputRequests"], FILLED)
    state = question["requestState"] if state is None else state
    params = {**FORM, "inputResponses": answers, "requestState": state, **more.pop("params", {})}
    return stack.modern("old", "tools/call", params, capabilities=CAN, id=2, **more)


def found(events: Events, fits: Any) -> dict[str, Any]:
    """The first message that fits."""
    while not fits(message := events.next()):
        pass
    return dict(message)


def text_of(answer: Answer) -> str:
    said: str = answer.json["result"]["content"][0]["text"]
    return said


def test_an_answer_reaches_its_call_from_every_connection(stack: Stack) -> None:
    for _ in range(8):
        question = ask(stack).json["result"]
        assert question["resultType"] == "input_required"
        assert [one["method"] for one in question["inputRequests"].values()] == ["elicitation/create"]
        answer = come_back(stack, question)
        assert text_of(answer).startswith("User response: action=accept"), answer
        assert answer.json["result"]["resultType"] == "complete"


def test_what_is_left_out_is_asked_again(stack: Stack) -> None:
    question = ask(stack).json["result"]
    again = come_back(stack, question, params={"inputResponses": {"unknown": FILLED}}).json["result"]
    assert again["inputRequests"] == question["inputRequests"]
    assert again["requestState"] != question["requestState"]
    assert "accept" in text_of(come_back(stack, again))


def test_a_state_is_good_once(stack: Stack) -> None:
    question = ask(stack).json["result"]
    assert "accept" in text_of(come_back(stack, question))
    assert come_back(stack, question).json["error"]["code"] == -32602


def test_a_state_is_its_callers_own(stack: Stack) -> None:
    question = ask(stack).json["result"]
    assert come_back(stack, question, user="bob").json["error"]["code"] == -32602
    other = {"name": "test_elicitation", "arguments": {"message": "Give me the key"}}
    assert come_back(stack, question, params=other).json["error"]["code"] == -32602
    assert "accept" in text_of(come_back(stack, question)), "the caller itself was not harmed"


@pytest.mark.parametrize("change", ["flip", "cut", "longer", "empty", "number", "prefix"])
def test_a_state_that_is_not_ours_opens_nothing(stack: Stack, change: str) -> None:
    question = ask(stack).json["result"]
    state = question["requestState"]
    bad: Any = {
        "flip": state[:20] + ("A" if state[20] != "A" else "B") + state[21:],
        "cut": state[:-6],
        "longer": state + "A" * 5_000,
        "empty": "",
        "number": 7,
        "prefix": "dwp.",
    }[change]
    answer = come_back(stack, question, bad)
    assert answer.json["error"]["code"] == -32602, answer
    assert "accept" in text_of(come_back(stack, question))


# -- states that a server of the client's own era made --------------------------------------------------------------------

REMEMBERED = {"name": "test_input_required_result_request_state", "arguments": {}}
CONFIRMED = {"confirm": {"action": "accept", "content": {"ok": True}}}


def confirm(stack: Stack, state: str, **more: Any) -> Answer:
    params = {**REMEMBERED, "inputResponses": CONFIRMED, "requestState": state}
    return stack.modern("new", "tools/call", params, capabilities=CAN, id=2, **more)


def remembered(stack: Stack) -> str:
    question = stack.modern("new", "tools/call", REMEMBERED, capabilities=CAN).json["result"]
    return str(question["requestState"])


def test_a_servers_own_state_is_good_once_for_its_caller_on_every_connection(stack: Stack) -> None:
    for _ in range(8):
        state = remembered(stack)
        assert confirm(stack, state, user="bob").json["error"]["data"]["control"] == "seal-state"
        assert text_of(confirm(stack, state)) == "state-ok"
        assert confirm(stack, state).json["error"]["code"] == -32602


def test_what_a_state_is_is_nobodys_to_read(stack: Stack) -> None:
    states = {remembered(stack) for _ in range(4)}
    assert len(states) == 4 and all(state.startswith("dwp.") for state in states)


def test_with_the_seal_off_the_same_state_serves_anybody_again_and_again(ports: dict[str, int]) -> None:
    with running(servers_of(ports, ASKS), workers=2, off=("seal-state",)) as unsealed:
        state = remembered(unsealed)
        for user in ("alice", "bob", "alice"):
            assert text_of(confirm(unsealed, state, user=user)) == "state-ok"
        question = ask(unsealed).json["result"]
        assert question["requestState"].startswith("park-")
        assert "accept" in text_of(come_back(unsealed, question, user="bob"))


def test_a_server_that_may_not_ask_gets_no_answer_in_either_direction(strict: Stack) -> None:
    refused = ask(strict).json
    assert "inputRequests" not in str(refused)
    assert refused.get("error") or refused["result"]["isError"], refused
    session = strict.session("new", CAN)
    answer = strict.legacy("new", session, "tools/call", FORM)
    assert "elicitation/create" not in str(answer.body)
    assert answer.json.get("error") or answer.json["result"]["isError"], answer


def test_with_the_gate_off_the_same_server_does_ask(open_gate: Stack) -> None:
    assert ask(open_gate).json["result"]["resultType"] == "input_required"
    session = open_gate.session("new", CAN)
    body = open_gate.legacy_message("tools/call", FORM, 5)
    events = open_gate.events("new", body, Mcp_Session_Id=session, MCP_Protocol_Version="2025-11-25")
    assert found(events, lambda one: one.get("method") == "elicitation/create")
    events.close()


def test_a_legacy_client_is_asked_by_a_modern_server(stack: Stack) -> None:
    session = stack.session("new", CAN)
    fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    events = stack.events("new", stack.legacy_message("tools/call", FORM, 5), **fields)
    question = found(events, lambda one: one.get("method") == "elicitation/create")
    reply = {"jsonrpc": "2.0", "id": question["id"], "result": FILLED}
    assert stack.ask("new", reply, **fields).status == 202
    answer = found(events, lambda one: one.get("id") == 5)
    events.close()
    assert answer["result"]["content"][0]["text"].startswith("User response: action=accept")
    assert "resultType" not in answer["result"]


def test_a_legacy_client_that_lost_its_stream_gets_the_answer_of_a_modern_server(stack: Stack) -> None:
    session = stack.session("new", CAN)
    fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    events = stack.events("new", stack.legacy_message("tools/call", FORM, 6), **fields)
    question = found(events, lambda one: one.get("method") == "elicitation/create")
    last = events.last_id
    events.close()
    reply = {"jsonrpc": "2.0", "id": question["id"], "result": FILLED}
    assert stack.ask("new", reply, **fields).status == 202
    again = stack.events("new", verb="GET", Last_Event_ID=last, **fields)
    assert found(again, lambda one: one.get("id") == 6)["result"]["content"]
    again.close()


def test_the_record_says_which_cell_a_call_took(stack: Stack) -> None:
    ask(stack)
    stack.legacy("new", stack.session("new"), "tools/call", {"name": "greet", "arguments": {"name": "a"}})
    stack.call("modern", "new", "greet", {"name": "a"})
    stack.call("legacy", "old", "greet", {"name": "a"})
    wanted = {
        ("old", "modern", "modern-legacy"),
        ("new", "legacy", "legacy-modern"),
        ("new", "modern", "modern-modern"),
        ("old", "legacy", "legacy-legacy"),
    }

    def cells() -> set[tuple[str, str, str]]:
        calls = [row for row in stack.rows() if row["method"] == "tools/call" and row["outcome"] == "ok"]
        return {(row["server"], row["era"], row["cell"]) for row in calls}

    until(lambda: cells() >= wanted, "a record of each cell")
    assert cells() == wanted
