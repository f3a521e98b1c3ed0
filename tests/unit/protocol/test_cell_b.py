"""Cell B as translation: the envelope goes, what a modern result must have comes, and all else keeps its value."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from doorward.protocol import cell_b
from doorward.protocol.envelope import notification, request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(min_size=1, max_size=6), JSON, max_size=4)
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
    "io.modelcontextprotocol/logLevel": "info",
}
OWN = ("_meta", "inputResponses", "requestState")


@given(OBJECTS, OBJECTS)
def test_a_request_loses_its_envelope_and_nothing_else(params: dict[str, Any], meta: dict[str, Any]) -> None:
    meta.pop("progressToken", None)
    own = {name: value for name, value in params.items() if name not in OWN}
    message = request("a", "tools/call", {**own, "_meta": {**meta, **ENVELOPE}})
    before = copy.deepcopy(message.value)
    sent = cell_b.stripped(message, "dw-1", None)
    assert sent.id == sent.value["id"] == "dw-1"
    assert sent.value["params"] == ({**own, "_meta": meta} if meta else own)
    assert message.value == before, "the client's own message stays as it is"


def test_a_progress_token_of_ours_stands_for_the_clients() -> None:
    message = request(1, "tools/call", {"_meta": {**ENVELOPE, "progressToken": "theirs"}})
    assert cell_b.stripped(message, "dw-1", "dw-1").value["params"]["_meta"] == {"progressToken": "dw-1"}


@given(st.sampled_from(["tools/call", "prompts/get", "resources/read", "prompts/list"]), OBJECTS)
def test_a_result_gets_what_the_era_demands_and_keeps_the_rest(method: str, result: dict[str, Any]) -> None:
    added = {"resultType", "ttlMs", "cacheScope", "_meta"}
    before = {name: value for name, value in result.items() if name not in added}
    cell_b.to_modern_result(method, result, {"name": "s", "version": "1"})
    assert {name: value for name, value in result.items() if name not in added} == before
    assert result["resultType"] == "complete"
    assert ("ttlMs" in result and result["cacheScope"] == "private") or method in (
        "tools/call",
        "prompts/get",
    )
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"] == {"name": "s", "version": "1"}


def test_tasks_of_the_old_core_are_hidden() -> None:
    result = {"tools": [{"name": "a", "execution": {"taskSupport": "optional"}}, {"name": "b"}, 7]}
    cell_b.to_modern_result("tools/list", result, None)
    assert result["tools"] == [{"name": "a"}, {"name": "b"}, 7]
    assert "tasks" not in cell_b.discovery_of({"capabilities": {"tasks": {}, "tools": {}}})["capabilities"]


def test_codes_of_the_old_era_do_not_get_out() -> None:
    for code in (-32002, -32042):
        error = {"code": code, "message": "m"}
        cell_b.to_modern_error(error)
        assert error["code"] == -32602


def test_urls_to_open_become_input_requests_without_ids() -> None:
    url = {"mode": "url", "url": "https://a.example/", "message": "Go", "elicitationId": "e1"}
    found = cell_b.urls_of({"code": -32042, "data": {"elicitations": [url, 7]}})
    assert found == {
        "url-0": {
            "method": "elicitation/create",
            "params": {"mode": "url", "url": "https://a.example/", "message": "Go"},
        }
    }
    for other in (None, 7, {"code": -32602}, {"code": -32042, "data": []}):
        assert cell_b.urls_of(other) == {}


def test_only_what_the_server_serves_is_honoured() -> None:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["a", 7, "b"]}
    served = {
        "capabilities": {"tools": {"listChanged": True}, "prompts": {}, "resources": {"subscribe": True}}
    }
    assert cell_b.honoured(wanted, served, 1) == {"toolsListChanged": True, "resourceSubscriptions": ["a"]}
    assert cell_b.honoured("all", {}, 9) == {}


def test_a_subscription_hears_what_it_covers_under_its_own_id() -> None:
    kept = {"toolsListChanged": True, "resourceSubscriptions": ["a"]}
    heard = cell_b.stamped(notification("notifications/tools/list_changed"), kept, 7)
    assert heard is not None
    assert heard.value["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
    assert cell_b.stamped(notification("notifications/prompts/list_changed"), kept, 7) is None
    for uri, covered in (("a", True), ("b", False)):
        updated = notification("notifications/resources/updated", {"uri": uri})
        assert (cell_b.stamped(updated, kept, 7) is not None) == covered


@given(
    st.one_of(
        st.text(max_size=80), st.from_regex(r"(ask|url)-[0-9]+", fullmatch=True), st.integers(), st.none()
    )
)
def test_whatever_a_server_calls_its_question_the_name_is_plain_and_none_of_ours(name: Any) -> None:
    found = cell_b.name_of(request("q", "elicitation/create", {"_meta": {cell_b.NAME_KEY: name}}))
    if found is not None:
        assert found == name and found.isascii() and 0 < len(found) <= 64 and found.isprintable()
        assert not found.startswith(("ask-", "url-")) and " " not in found
