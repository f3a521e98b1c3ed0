"""Policy is asked about everything that goes to a server, and what it hides answers as what is not there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from doorward.gateway.routes import join_uri, split_uri
from doorward.gateway.streams import Stream
from doorward.policy.roles import Role
from doorward.protocol.envelope import notification
from tests.talks.talk import PlayedServer, Talk

POLICY = {
    "all.cedar": """
permit(principal, action, resource);
forbid(principal, action == Action::"prompts/get", resource == Prompt::"s/secret");
forbid(principal, action in [Action::"resources/read", Action::"resources/subscribe"],
       resource == Resource::"s/file:///secret");
forbid(principal, action == Action::"logging/setLevel", resource == Server::"s");
forbid(principal, action == Action::"tasks/list", resource == Server::"s");
forbid(principal, action == Action::"prompts/list", resource == Server::"s");
"""
}


def _unknown(code: int, message: str) -> Any:
    return lambda _: {"error": {"code": code, "message": message, "data": {"of": "the server"}}}


CELLS = ["modern-modern", "modern-legacy", "legacy-legacy", "legacy-modern"]


def made(era: str = "both") -> tuple[Talk, PlayedServer, PlayedServer]:
    """``era``: of the servers; one that has not both is reached as the real gateway does."""
    servers = [PlayedServer(era), PlayedServer(era)]
    for server in servers:
        server.answers = {
            "prompts/get": _unknown(-32602, "Unknown prompt"),
            "resources/read": _unknown(-32002, "no such file"),
            "resources/subscribe": _unknown(-32602, "no such file"),
            "completion/complete": _unknown(-32602, "unknown reference"),
            "logging/setLevel": {"result": {}},
            "tasks/list": {"result": {"tasks": []}},
            "prompts/list": {"result": {"prompts": [{"name": "greet"}], "resultType": "complete"}},
        }
        if era == "modern":
            server.answers["resources/read"] = _unknown(-32602, "no such file")
    talk = Talk({"s": servers[0], "other": servers[1]}, policies=POLICY, bridge=era != "both")
    return talk, servers[0], servers[1]


def _shown(ear: Any) -> tuple[int, int, str, tuple[str, ...], str]:
    error = ear.json["error"]
    data = error.get("data") or {}
    return ear.status, error["code"], error["message"], tuple(sorted(data)), data.get("control", "")


ARGUMENT = {"name": "a", "value": ""}
PAIRS = {
    "prompt": ("prompts/get", {"name": "{n}secret"}, {"name": "{n}nope"}),
    "resource": ("resources/read", {"uri": "{u}file:///secret"}, {"uri": "{u}file:///nope"}),
    "subscribe": ("resources/subscribe", {"uri": "{u}file:///secret"}, {"uri": "{u}file:///nope"}),
    "completion of a prompt": (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "{n}secret"}, "argument": ARGUMENT},
        {"ref": {"type": "ref/prompt", "name": "{n}nope"}, "argument": ARGUMENT},
    ),
    "completion of a resource": (
        "completion/complete",
        {"ref": {"type": "ref/resource", "uri": "{u}file:///secret"}, "argument": ARGUMENT},
        {"ref": {"type": "ref/resource", "uri": "{u}file:///nope"}, "argument": ARGUMENT},
    ),
}


def _filled(value: Any, endpoint: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(one, endpoint) for name, one in value.items()}
    name, uri = ("", "") if endpoint else ("s__", "s+")
    return value.replace("{n}", name).replace("{u}", uri) if isinstance(value, str) else value


@pytest.mark.parametrize("what", PAIRS)
@pytest.mark.parametrize("endpoint", ["s", ""])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_hidden_answers_as_what_the_server_does_not_have(cell: str, endpoint: str, what: str) -> None:
    method, hidden, unknown = PAIRS[what]
    era, _, servers_era = cell.partition("-")
    if "modern" in cell and method == "resources/subscribe":
        pytest.skip("the 2026 era has no such method")
    talk, server, _ = made(servers_era)
    session = talk.open(endpoint) if era == "legacy" else ""

    def ask(params: dict[str, Any]) -> Any:
        params = _filled(params, endpoint)
        return _shown(
            talk.legacy(endpoint, session, method, params)
            if era == "legacy"
            else talk.modern(endpoint, method, params)
        )

    first = ask(hidden)
    assert method not in server.methods()
    second = ask(unknown)
    assert method in server.methods()
    assert first == second


def test_a_listed_prompt_keeps_its_servers_word_about_arguments() -> None:
    talk, _, other = made()
    other.answers["prompts/get"] = _unknown(-32602, "Missing argument: city")
    talk.modern("other", "prompts/list")
    error = talk.modern("other", "prompts/get", {"name": "greet"}).json["error"]
    assert error["message"] == "Missing argument: city"


@pytest.mark.parametrize("kind", ["ref/Prompt", "REF/PROMPT", "ref/tool", "", "prompt"])
def test_a_reference_of_an_odd_kind_completes_nothing(kind: str) -> None:
    """A server that overlooks the kind would complete what policy was never asked about."""
    talk, server, _ = made()
    server.answers["completion/complete"] = {"result": {"completion": {"values": ["secret value"]}}}
    reference = {"type": kind, "name": "secret"}
    ear = talk.modern("s", "completion/complete", {"ref": reference, "argument": ARGUMENT})
    assert "completion/complete" not in server.methods()
    assert ear.json["error"]["code"] == -32602


@pytest.mark.parametrize("uris", [["file:///secret"], ["file:///a", "file:///secret"], [5]])
def test_nobody_subscribes_to_a_hidden_resource(uris: list[Any]) -> None:
    talk, server, _ = made()
    ear = talk.modern("s", "subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
    assert "subscriptions/listen" not in server.methods()
    assert ear.json["error"]["code"] == -32602


def test_nobody_subscribes_to_a_hidden_resource_through_the_endpoint_of_all_servers() -> None:
    talk, server, other = made()
    server.answers["subscriptions/listen"] = other.answers["subscriptions/listen"] = lambda _: None
    uris = ["s+file:///secret", "s+file:///a", "other+file:///secret"]
    talk.modern("", "subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
    assert server.seen[-1].params["notifications"]["resourceSubscriptions"] == ["file:///a"]
    assert other.seen[-1].params["notifications"]["resourceSubscriptions"] == ["file:///secret"]


@pytest.mark.parametrize("method", ["logging/setLevel", "tasks/list", "prompts/list"])
def test_a_method_forbidden_at_a_server_is_not_sent_there_by_the_way_of_all_servers(method: str) -> None:
    talk, server, other = made()
    params = {"level": "debug"} if method == "logging/setLevel" else {}
    session = talk.open("")
    assert talk.legacy("", session, method, params).status == 200
    assert method not in server.methods()
    assert method in other.methods()
    if method == "prompts/list":
        listed = talk.modern("", method).json["result"]["prompts"]
        assert [one["name"] for one in listed] == ["other__greet"]
        assert method not in server.methods()


@pytest.mark.parametrize("what", PAIRS)
@pytest.mark.parametrize("cell", CELLS)
def test_on_the_endpoint_of_all_servers_a_hidden_server_answers_as_no_server(cell: str, what: str) -> None:
    method, params, _ = PAIRS[what]
    era, _, servers_era = cell.partition("-")
    if era == "modern" and method == "resources/subscribe":
        pytest.skip("the era has no such method")
    server, other = PlayedServer(servers_era), PlayedServer(servers_era)
    roles = {"user": Role(servers=("other",), tools=("*",))}
    talk = Talk({"s": server, "other": other}, roles=roles, bridge=True)
    session = talk.open("") if era == "legacy" else ""

    def ask(name: str) -> Any:
        filled = msgspec.json.decode(
            msgspec.json.encode(_filled(params, ""))
            .replace(b"s__", f"{name}__".encode())
            .replace(b"s+", f"{name}+".encode())
        )
        return _shown(
            talk.legacy("", session, method, filled) if era == "legacy" else talk.modern("", method, filled)
        )

    assert ask("s") == ask("nobody")
    assert method not in server.methods()


@pytest.mark.parametrize("cell", CELLS)
def test_on_the_endpoint_of_all_servers_a_hidden_servers_tool_answers_as_no_tool(cell: str) -> None:
    era, _, servers_era = cell.partition("-")
    server, other = PlayedServer(servers_era), PlayedServer(servers_era)
    roles = {"user": Role(servers=("other",), tools=("*",))}
    talk = Talk({"s": server, "other": other}, roles=roles, bridge=True)
    session = talk.open("") if era == "legacy" else ""

    def ask(name: str) -> Any:
        params = {"name": name, "arguments": {}}
        return _shown(
            talk.legacy("", session, "tools/call", params)
            if era == "legacy"
            else talk.modern("", "tools/call", params)
        )

    assert ask("s__echo") == ask("nobody__echo") == ask("other__nothing") == ask("nothing")
    assert "tools/call" not in server.methods()


@pytest.mark.parametrize(
    "uri",
    ["file:///a", "a__b:c", "my__file", "x+y__z:w", "x__y+z:w", "+", "__", "a", "http://h/__+", "::+__"],
)
def test_a_joined_uri_comes_apart_into_what_it_was_made_of(uri: str) -> None:
    assert split_uri(join_uri("s-1", uri)) == ("s-1", uri)


def test_a_server_cannot_keep_a_client_away_for_days() -> None:
    stream = Stream("c")
    stream.prime(9_999_999_999)
    assert b"retry: 300000\n" in stream._buffer[-1][1]


def test_a_hidden_resource_of_a_modern_server_is_subscribed_to_as_one_that_is_not_there() -> None:
    talk, server, _ = made("modern")
    session = talk.open("s")
    server.answers["subscriptions/listen"] = lambda _: None
    hidden = talk.legacy("s", session, "resources/subscribe", {"uri": "file:///secret"})
    assert "subscriptions/listen" not in server.methods()
    unknown = talk.legacy("s", session, "resources/subscribe", {"uri": "file:///nope"}, id=2)
    kept = {"notifications": {"resourceSubscriptions": []}}
    server.sinks[-1].message(notification("notifications/subscriptions/acknowledged", kept))
    assert _shown(hidden) == _shown(unknown)
