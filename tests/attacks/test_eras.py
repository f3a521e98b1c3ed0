"""Speaking another era opens nothing: every message is of exactly one era, and what guards a server guards it in all four cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.suite import everything_over_http
from tests.stack.kit import LEGACY, MODERN, Stack, running
from tests.stack.wire import Answer, Events

MISMATCH, UNSUPPORTED, NO_ENVELOPE = -32020, -32022, -32602
VERSION = "io.modelcontextprotocol/protocolVersion"
ENVELOPE = {VERSION: MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
CAN = {"elicitation": {}, "sampling": {}, "roots": {}}
FORM = {"name": "test_elicitation", "arguments": {"message": "Who?"}}
FILLED = {"action": "accept", "content": {"username": "mallory", "email": "m@example.org"}}
CELLS = [("legacy", "old"), ("legacy", "new"), ("modern", "old"), ("modern", "new")]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Doorward before a server of each era; mallory may use one tool only."""
    tables: dict[str, dict[str, Any]] = {
        "roles.few": {"servers": ["*"], "tools": ["test_simple_text"]},
    }
    asks = ["sampling", "elicitation", "roots"]
    with everything_over_http("legacy") as old, everything_over_http("modern") as new:
        servers = {
            name: {"url": f"http://127.0.0.1:{port}/mcp", "allow_requests": asks}
            for name, port in (("old", old), ("new", new))
        }
        with running(servers, tables=tables) as one:
            yield one


# -- which era a message is of (stricter than the SDKs, which decide by the header alone) --------------------------------

CALL = {"name": "test_simple_text", "arguments": {}}
TABLE: list[tuple[str, str | None, str, dict[str, Any], int, int]] = [
    # what, header, method, _meta, status, code
    ("modern header, no envelope", MODERN, "tools/call", {}, 400, NO_ENVELOPE),
    (
        "modern header, other version inside",
        MODERN,
        "tools/call",
        {**ENVELOPE, VERSION: LEGACY},
        400,
        MISMATCH,
    ),
    ("unknown header, modern body", "2031-01-01", "tools/call", ENVELOPE, 400, MISMATCH),
    ("unknown in both", "2031-01-01", "tools/call", {**ENVELOPE, VERSION: "2031-01-01"}, 400, UNSUPPORTED),
    ("unknown header, no envelope", "2031-01-01", "tools/call", {}, 400, NO_ENVELOPE),
    ("unknown header, initialize", "2031-01-01", "initialize", {}, 400, 0),
    ("nonsense header", "latest", "tools/call", {}, 400, NO_ENVELOPE),
    ("legacy header, modern body", LEGACY, "tools/call", ENVELOPE, 400, MISMATCH),
    ("no header, modern body", None, "tools/call", ENVELOPE, 400, MISMATCH),
    ("no header, modern initialize", None, "initialize", ENVELOPE, 400, MISMATCH),
    ("no header, no session", None, "tools/call", {}, 400, 0),
    ("legacy header, no session", LEGACY, "tools/call", {}, 400, 0),
    ("modern header, initialize", MODERN, "initialize", ENVELOPE, 404, -32601),
    ("modern header, ping", MODERN, "ping", ENVELOPE, 404, -32601),
]


@pytest.mark.parametrize("server", ["old", "new"])
@pytest.mark.parametrize(
    ("what", "header", "method", "meta", "status", "code"), TABLE, ids=[row[0] for row in TABLE]
)
def test_a_message_that_is_not_of_exactly_one_era_is_refused(
    stack: Stack, server: str, what: str, header: str | None, method: str, meta: Any, status: int, code: int
) -> None:
    params = {**(CALL if method == "tools/call" else {}), **({"_meta": meta} if meta else {})}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    fields = {"MCP_Protocol_Version": header, "Mcp_Method": method}
    if method == "tools/call":
        fields["Mcp_Name"] = CALL["name"]
    answer = stack.ask(server, body, **{name: value for name, value in fields.items() if value is not None})
    assert answer.status == status, (what, answer)
    assert "result" not in answer.json
    assert not code or answer.json["error"]["code"] == code, answer


@pytest.mark.parametrize(("era", "server"), CELLS)
def test_honest_messages_pass_in_every_cell(stack: Stack, era: str, server: str) -> None:
    answer = stack.call(era, server, "test_simple_text")
    assert answer.status == 200 and answer.json["result"]["content"], answer
    assert ("resultType" in answer.json["result"]) == (era == "modern")


# -- T-19: a control of a server holds on every road to it ---------------------------------------------------------------


@pytest.mark.parametrize("road", ["direct", "federated"])
@pytest.mark.parametrize(("era", "server"), CELLS)
def test_t_19_policy_holds_on_every_road_and_in_every_cell(
    stack: Stack, era: str, server: str, road: str
) -> None:
    endpoint = server if road == "direct" else ""
    prefix = "" if road == "direct" else f"{server}__"
    token = f"Bearer {stack.token(endpoint or 'mcp', 'mallory', ('few',))}"

    def call(tool: str) -> Answer:
        return stack.call(era, endpoint, f"{prefix}{tool}", Authorization=token)

    assert call("test_simple_text").json["result"]["content"], "ordinary traffic passes"
    denied, unknown = call("greet"), call("no_such_tool")
    assert denied.json["error"]["code"] == unknown.json["error"]["code"]
    assert denied.json["error"]["message"] == unknown.json["error"]["message"]
    session = stack.session(endpoint, Authorization=token) if era == "legacy" else ""
    listed = (
        stack.legacy(endpoint, session, "tools/list", Authorization=token)
        if era == "legacy"
        else stack.modern(endpoint, "tools/list", Authorization=token)
    )
    names = {tool["name"] for tool in listed.json["result"]["tools"]}
    assert f"{prefix}test_simple_text" in names and f"{prefix}greet" not in names


# -- T-55, T-71, T-74, T-75: what waits for one caller is no other caller's ----------------------------------------------


def first(events: Events, method: str) -> dict[str, Any]:
    while (message := events.next()).get("method") != method:
        pass
    return dict(message)


@pytest.mark.parametrize("server", ["old", "new"])
def test_t_55_a_question_of_the_2025_era_takes_its_answer_from_the_one_asked_only(
    stack: Stack, server: str
) -> None:
    session = stack.session(server, CAN)
    fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": LEGACY}
    events = stack.events(server, stack.legacy_message("tools/call", FORM, 5), **fields)
    question = first(events, "elicitation/create")
    forged = {"jsonrpc": "2.0", "id": question["id"], "result": FILLED}
    assert stack.ask(server, forged, user="mallory", **fields).status == 404
    own = stack.session(server, CAN, user="mallory")
    assert stack.ask(server, forged, user="mallory", **{**fields, "Mcp_Session_Id": own}).status == 202
    honest = {**FILLED, "content": {"username": "alice", "email": "a@example.org"}}
    assert stack.ask(server, {**forged, "result": honest}, **fields).status == 202
    answer = events.next()
    events.close()
    assert "alice" in str(answer) and "mallory" not in str(answer)


def test_t_55_a_question_of_the_2026_era_takes_its_answer_from_the_one_asked_only(stack: Stack) -> None:
    question = stack.modern("old", "tools/call", FORM, capabilities=CAN).json["result"]
    answers = dict.fromkeys(question["inputRequests"], FILLED)
    again = {**FORM, "requestState": question["requestState"], "inputResponses": answers}
    stolen = stack.modern("old", "tools/call", again, capabilities=CAN, user="mallory")
    assert stolen.json["error"]["code"] == -32602
    assert stack.modern("old", "tools/call", again, capabilities=CAN).json["result"]["content"]


@pytest.mark.parametrize("server", ["old", "new"])
def test_t_71_t_74_t_75_streams_and_sessions_are_their_owners_in_both_cells(
    stack: Stack, server: str
) -> None:
    session = stack.session(server, CAN)
    fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": LEGACY}
    events = stack.events(server, stack.legacy_message("tools/call", FORM, 9), **fields)
    first(events, "elicitation/create")
    last = events.last_id
    assert last
    for theft in (
        {"verb": "GET"},
        {"verb": "GET", "Last_Event_ID": last},
        {"verb": "DELETE"},
        {"body": stack.legacy_message("resources/subscribe", {"uri": "test://watched-resource"})},
    ):
        body = theft.pop("body", None)
        answer = stack.ask(server, body, user="mallory", **theft, **fields)  # type: ignore[arg-type]
        assert answer.status == 404, answer
    events.close()
    again = stack.events(server, verb="GET", Last_Event_ID=last, **fields)
    again.close()
