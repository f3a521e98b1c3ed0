"""All servers as one at /mcp: names carry their server, everybody sees what is theirs, and one that fails takes nobody along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.kit import LEGACY, Stack, running
from tests.stack.wire import Answer, until
from tests.stand_ins.http_server import HttpUpstream, tool

PEOPLE: dict[str, dict[str, Any]] = {
    "identity": {"users": [{"name": "alice", "roles": ["user"]}, {"name": "bob", "roles": ["first-only"]}]},
    "roles.first-only": {"servers": ["first"], "tools": ["echo"]},
}
UNKNOWN = -32602


class Pair:
    """Two servers with the same tools behind one gateway."""

    def __init__(self, stack: Stack, first: HttpUpstream, second: HttpUpstream) -> None:
        self.stack, self.first, self.second = stack, first, second

    def ask(self, era: str, method: str, params: Any = None, **more: Any) -> Answer:
        """A request to the federated endpoint."""
        if era == "modern":
            return self.stack.modern("", method, params, **more)
        session = more.pop("session", "") or self.stack.session(
            "", **{key: more[key] for key in more if key == "user"}
        )
        return self.stack.legacy("", session, method, params, **more)


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    first = HttpUpstream(tools=[tool("echo"), tool("delete", read_only=False)], name="same-name")
    second = HttpUpstream(tools=[tool("echo"), tool("other__odd")], name="same-name")
    with running({"first": first, "second": second}, workers=request.param, tables=PEOPLE) as stack:
        yield Pair(stack, first, second)


@pytest.fixture(params=["modern", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def names(answer: Answer, key: str = "tools", member: str = "name") -> list[str]:
    """The names in a list."""
    assert answer.status == 200, answer
    return [one[member] for one in answer.json["result"][key]]


def test_names_that_collide_are_told_apart_by_the_configured_server(pair: Pair, era: str) -> None:
    listed = names(pair.ask(era, "tools/list"))
    assert listed == ["first__echo", "first__delete", "second__echo", "second__other__odd"]
    for name, upstream, own in (
        ("first__echo", pair.first, "echo"), ("second__echo", pair.second, "echo"), ("second__other__odd", pair.second, "other__odd"),
    ):  # fmt: skip
        before = (len(pair.first.calls()), len(pair.second.calls()))
        answer = pair.ask(era, "tools/call", {"name": name, "arguments": {"a": 1}})
        assert answer.status == 200 and answer.text == '{"a": 1}', answer
        after = (len(pair.first.calls()), len(pair.second.calls()))
        assert sum(after) == sum(before) + 1
        seen = upstream.calls()[-1]
        assert seen.params["name"] == own
        if era == "modern":
            assert seen.fields["mcp-name"] == own, "the header is written anew with the body"


def test_resources_and_prompts_carry_their_server_too(pair: Pair, era: str) -> None:
    uris = names(pair.ask(era, "resources/list"), "resources", "uri")
    assert uris == ["first+file:///a", "second+file:///a"]
    assert names(pair.ask(era, "prompts/list"), "prompts") == ["first__greet", "second__greet"]
    answer = pair.ask(era, "resources/read", {"uri": uris[1]})
    assert answer.json["result"]["contents"][0]["uri"] == uris[1]
    assert pair.second.calls("resources/read")[-1].params["uri"] == "file:///a"


def test_a_caller_sees_and_reaches_only_the_servers_of_their_roles(pair: Pair, era: str) -> None:
    assert names(pair.ask(era, "tools/list", user="bob")) == ["first__echo"]
    assert pair.ask(era, "tools/call", {"name": "first__echo", "arguments": {}}, user="bob").status == 200
    session = pair.stack.session("", user="bob") if era == "legacy" else ""
    more = {"session": session} if session else {}
    before = len(pair.first.calls()) + len(pair.second.calls())
    hidden = ("first__delete", "second__echo", "nobody__echo", "echo", "first__nothing", "__echo", "first__")
    answers = [
        pair.ask(era, "tools/call", {"name": name, "arguments": {}}, user="bob", **more) for name in hidden
    ]
    assert len(pair.first.calls()) + len(pair.second.calls()) == before, "no call reached a server"
    plain = []
    for answer in answers:
        error = answer.json["error"]
        row = pair.stack.row_of(answer)
        assert row["verdict"] == "refuse", row
        plain.append((answer.status, error["code"], error["message"], tuple(sorted(error["data"]))))
    assert len(set(plain)) == 1 and plain[0][1] == UNKNOWN, plain


def test_a_token_is_for_one_endpoint_only(pair: Pair, era: str) -> None:
    stack = pair.stack
    for endpoint, other in (("", "first"), ("first", ""), ("first", "second")):
        bearer = f"Bearer {stack.token(other or 'mcp')}"
        before = pair.first.hits + pair.second.hits
        if era == "modern":
            answer = stack.modern(endpoint, "tools/list", Authorization=bearer)
        else:
            answer = stack.initialize(endpoint, Authorization=bearer)
        assert answer.status == 401 and pair.first.hits + pair.second.hits == before


def test_a_server_that_fails_takes_nobody_along(pair: Pair, era: str) -> None:
    pair.second.on[""] = lambda ask: ask.reply(500)
    try:
        assert names(pair.ask(era, "tools/list"))[:2] == ["first__echo", "first__delete"]
        answer = pair.ask(era, "tools/call", {"name": "first__echo", "arguments": {"b": 2}})
        assert answer.text == '{"b": 2}'
    finally:
        del pair.second.on[""]
    until(lambda: len(names(pair.ask(era, "tools/list"))) == 4, "the other server to be back")


def test_what_servers_say_on_their_own_comes_with_their_names(pair: Pair) -> None:
    before = {name: set(one.streams) for name, one in (("first", pair.first), ("second", pair.second))}
    session = pair.stack.session("")
    stream = pair.stack.events("", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
    for name, upstream in (("first", pair.first), ("second", pair.second)):
        theirs = until(lambda: set(upstream.streams) - before[name], "the stream").pop()  # noqa: B023
        params = {"uri": "file:///a"}
        upstream.push(
            theirs, {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params}
        )
        assert stream.next()["params"]["uri"] == f"{name}+file:///a"
    stream.close()
