"""Federated names: put on, taken off, and never understood in two ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.gateway.naming import address, item_of, rename_items, renamer
from doorward.gateway.routes import Routes, join_name, join_uri, split_name, split_uri
from doorward.protocol.envelope import message_of

SERVERS = st.from_regex(r"[a-z][a-z0-9-]{0,23}", fullmatch=True)
NAMES = st.text(min_size=1, max_size=60)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(SERVERS, NAMES)
def test_a_name_comes_back_as_it_was(server: str, name: str) -> None:
    assert split_name(join_name(server, name)) == (server, name)


@given(SERVERS, st.from_regex(r"[a-z][a-z0-9+.-]{0,10}:[ -~]{0,30}", fullmatch=True))
def test_a_uri_comes_back_as_it_was(server: str, uri: str) -> None:
    assert split_uri(join_uri(server, uri)) == (server, uri)


@given(NAMES)
def test_a_split_name_joins_to_what_it_was(name: str) -> None:
    found = split_name(name)
    assert found is None or join_name(*found) == name


@pytest.mark.parametrize("name", ["", "__", "__x", "x__", "x_y", "x"])
def test_what_is_no_federated_name_belongs_to_nobody(name: str) -> None:
    assert split_name(name) is None


@pytest.mark.parametrize("uri", ["", "+", "+file:///x", "time+", "file:///x"])
def test_what_is_no_federated_uri_belongs_to_nobody(uri: str) -> None:
    assert split_uri(uri) is None


def test_a_name_that_looks_federated_belongs_to_the_first_server_in_it() -> None:
    assert split_name("a__b__c") == ("a", "b__c")
    assert split_uri("a+b+file:///c") == ("a", "b+file:///c")
    assert split_uri("a__file:///c") == ("a", "file:///c")
    assert split_uri("a+file:///x__y") == ("a", "file:///x__y")


def request(method: str, **params: Any) -> Any:
    return message_of({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


@pytest.mark.parametrize(
    ("method", "params", "own"),
    [
        ("tools/call", {"name": "a__x"}, {"name": "x"}),
        ("prompts/get", {"name": "a__x"}, {"name": "x"}),
        ("resources/read", {"uri": "a+file:///x"}, {"uri": "file:///x"}),
        ("resources/subscribe", {"uri": "a+file:///x"}, {"uri": "file:///x"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "a__x"}}, {"ref": {"type": "ref/prompt", "name": "x"}}),
        ("completion/complete", {"ref": {"uri": "a+file:///{x}"}}, {"ref": {"uri": "file:///{x}"}}),
    ],
)  # fmt: skip
def test_an_addressed_request_finds_its_server_and_keeps_the_rest(method: str, params: Any, own: Any) -> None:
    message = request(method, **params, kept=[1])
    found = address(message)
    assert found is not None and found[0] == "a"
    assert found[1].params == {**own, "kept": [1]} and found[1].value["params"] is found[1].params
    assert message.params == {**params, "kept": [1]}, "what the client sent is not changed"


@given(st.sampled_from(["tools/call", "prompts/get", "resources/read", "completion/complete", "other"]),
       st.dictionaries(st.sampled_from(["name", "uri", "ref", "x"]), ANYTHING, max_size=4))  # fmt: skip
def test_no_params_break_the_addressing(method: str, params: dict[str, Any]) -> None:
    message = request(method, **params)
    assert isinstance(item_of(message), str)
    if method != "other":
        address(message)


@given(ANYTHING)
def test_no_result_breaks_the_renaming(anything: Any) -> None:
    rename = renamer("a")
    for member in ("content", "messages", "contents"):
        rename(message_of({"jsonrpc": "2.0", "id": 1, "result": {member: anything}}))
    rename(
        message_of(
            {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": anything}}
        )
    )
    if isinstance(anything, list):
        for key in ("tools", "prompts", "resources", "resourceTemplates"):
            rename_items("a", list(anything), key)


def test_uris_in_results_get_their_federated_form() -> None:
    result = {
        "content": [
            {"type": "resource_link", "uri": "file:///1", "name": "n"},
            {"type": "resource", "resource": {"uri": "file:///2", "text": "t"}},
            {"type": "text", "text": "file:///3"},
        ],
        "contents": [{"uri": "file:///4"}],
    }
    message = message_of({"jsonrpc": "2.0", "id": 1, "result": result})
    renamer("a")(message)
    found = message.value["result"]
    assert found["content"][0]["uri"] == "a+file:///1" and found["content"][0]["name"] == "n"
    assert found["content"][1]["resource"]["uri"] == "a+file:///2"
    assert found["content"][2]["text"] == "file:///3" and found["contents"][0]["uri"] == "a+file:///4"


@given(st.text(max_size=30))
def test_only_exact_paths_are_endpoints(path: str) -> None:
    routes = Routes(["time"], "http://x", {})
    expected = {"/time/mcp": "time", "/mcp": ""}.get(path)
    assert routes.server_of(path) == expected


@pytest.mark.parametrize("path", ["/TIME/mcp", "/time/mcp/", "//time/mcp", "/time/%6dcp", "/time/../time/mcp", "/time/mcp;x", "time/mcp"])  # fmt: skip
def test_no_spelling_of_a_path_is_another(path: str) -> None:
    assert Routes(["time"], "http://x", {}).server_of(path) is None
