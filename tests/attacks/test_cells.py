"""Every control of messages holds in all four cells of eras, and the same attack works there once the control is off.

Token, Origin, header, limit, session, state and cache have labs of their own, which run in the cells (test_range.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.suite import everything_over_http
from tests.stack.kit import LEGACY, Stack, running
from tests.stack.wire import Answer, until

SERVERS = {"legacy": "old", "modern": "new"}
CELLS = [f"{client}-{server}" for client in SERVERS for server in SERVERS]
OFF = ("check-shape", "ask-policy", "gate-server-requests")
CAN = {"elicitation": {}, "sampling": {}, "roots": {}}
# Each server has a tool that asks its client, in the way of its own era.
ASKING = {
    "old": {"name": "test_elicitation", "arguments": {"message": "Who?"}},
    "new": {"name": "test_input_required_result_elicitation", "arguments": {}},
}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, dict[str, Any]]]:
    """A server of each era only; neither may ask anything."""
    with everything_over_http("legacy") as old, everything_over_http("modern") as new:
        ports = {"old": old, "new": new}
        yield {name: {"url": f"http://127.0.0.1:{port}/mcp"} for name, port in ports.items()}


FEW = {"roles.few": {"servers": ["*"], "tools": ["test_simple_text"]}}


@pytest.fixture(scope="module")
def strict(servers: dict[str, Any]) -> Iterator[Stack]:
    """All controls on."""
    with running(servers, tables=FEW) as one:
        yield one


@pytest.fixture(scope="module")
def weak(servers: dict[str, Any]) -> Iterator[Stack]:
    """The same with three controls off."""
    with running(servers, tables=FEW, off=OFF) as one:
        yield one


def ask(stack: Stack, cell: str, method: str, params: dict[str, Any] | None = None, **fields: Any) -> Answer:
    """One request in a cell."""
    era, _, server = cell.partition("-")
    name = SERVERS[server]
    if era == "modern":
        return stack.modern(name, method, params, capabilities=CAN, **fields)
    session = stack.session(name, CAN, **fields)
    return stack.legacy(name, session, method, params, **fields)


def refused_by(answer: Answer) -> str:
    """Which control of Doorward's refused; "" where it was none."""
    data = answer.json.get("error", {}).get("data")
    return str(data.get("control", "")) if isinstance(data, dict) else ""


@pytest.mark.parametrize("cell", CELLS)
def test_the_record_of_a_call_says_which_cell_it_took(strict: Stack, cell: str) -> None:
    answer = ask(strict, cell, "tools/call", {"name": "test_simple_text", "arguments": {}})
    assert answer.json["result"]["content"]

    def row() -> dict[str, Any] | None:
        found = [one for one in strict.rows(tool="test_simple_text") if one.get("cell") == cell]
        return found[0] if found else None

    found = until(row, "the call on record")
    assert (found["era"], found["server"]) == (cell.split("-", maxsplit=1)[0], SERVERS[cell.split("-")[1]])
    assert (found["verdict"], found["outcome"]) == ("allow", "ok")


@pytest.mark.parametrize("cell", CELLS)
def test_a_tool_that_no_role_names_is_not_called(strict: Stack, weak: Stack, cell: str) -> None:
    def call(stack: Stack, tool: str) -> Answer:
        server = SERVERS[cell.split("-")[1]]
        few = f"Bearer {stack.token(server, 'mallory', ('few',))}"
        return ask(stack, cell, "tools/call", {"name": tool, "arguments": {}}, Authorization=few)

    assert call(strict, "test_simple_text").json["result"]["content"], "ordinary traffic passes"
    assert refused_by(call(strict, "greet")) == refused_by(call(strict, "no_such_tool")) == "ask-policy"
    answer = call(weak, "greet")
    assert not refused_by(answer), "with the control off it is the server that answers"


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("method", "params"), [("no/such", {}), ("completion/complete", {"ref": 5})])
def test_a_misshapen_request_does_not_reach_a_server(
    strict: Stack, weak: Stack, cell: str, method: str, params: dict[str, Any]
) -> None:
    assert refused_by(ask(strict, cell, method, params)) == "check-shape"
    theirs = ask(weak, cell, method, params)
    assert "error" in theirs.json and not refused_by(theirs), (
        "with the control off it is the server that answers"
    )


def asked(stack: Stack, cell: str) -> str:
    """What the client hears when a server asks it."""
    era, _, server = cell.partition("-")
    name = SERVERS[server]
    if era == "modern":
        return str(stack.modern(name, "tools/call", ASKING[name], capabilities=CAN).json)
    session = stack.session(name, CAN)
    body = stack.legacy_message("tools/call", ASKING[name], 5)
    fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": LEGACY}
    if stack.off:
        events = stack.events(name, body, **fields)
        try:
            return str(events.next())
        finally:
            events.close()
    return str(stack.ask(name, body, **fields).messages)


@pytest.mark.parametrize("cell", CELLS)
def test_a_server_that_may_not_ask_does_not_get_through_in_any_cell(
    strict: Stack, weak: Stack, cell: str
) -> None:
    assert ask(strict, cell, "tools/call", {"name": "test_simple_text", "arguments": {}}).json["result"]
    assert "elicitation/create" not in asked(strict, cell)
    assert "elicitation/create" in asked(weak, cell), "with the gate off the same server asks"
