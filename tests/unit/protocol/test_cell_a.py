"""Cell A's translation: what nobody knows passes value-equal, what differs between the eras is said in the other's way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import UpstreamError
from doorward.protocol import cell_a, modern
from doorward.protocol.envelope import notification, request

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
members = st.dictionaries(st.text(max_size=8), plain, max_size=5)


@given(members, members, members)
def test_enveloping_changes_nothing_but_the_envelope(
    params: dict[str, Any], meta: dict[str, Any], capabilities: dict[str, Any]
) -> None:
    before = {**params, "_meta": meta}
    sent = cell_a.enveloped(request(7, "tools/call", before), capabilities, {"name": "c", "version": "1"})
    assert sent.params is not None and sent.value["params"] is sent.params
    envelope = modern.envelope_of(sent)
    assert (envelope.version, envelope.capabilities) == ("2026-07-28", capabilities)
    ours = {modern.VERSION_KEY, modern.CAPABILITIES_KEY, modern.CLIENT_INFO_KEY}
    assert {key: one for key, one in sent.params["_meta"].items() if key not in ours} == meta
    assert {key: one for key, one in sent.params.items() if key != "_meta"} == params
    assert before == {**params, "_meta": meta}, "the client's message is left as it was"


@given(members)
def test_stripping_changes_nothing_but_what_the_era_added(result: dict[str, Any]) -> None:
    added = {"resultType": "complete", "ttlMs": 5, "cacheScope": "public"}
    assert cell_a.legacy_result("resources/read", {**result, **added}) == result


def test_a_client_cannot_bring_answers_state_or_capabilities_of_its_own() -> None:
    smuggled = {
        "name": "t",
        "inputResponses": {"a": {}},
        "requestState": "stolen",
        "_meta": {
            modern.CAPABILITIES_KEY: {"sampling": {}},
            modern.CLIENT_INFO_KEY: {"name": "other"},
            modern.LOG_LEVEL_KEY: "debug",
        },
    }
    sent = cell_a.enveloped(request(1, "tools/call", smuggled), {}, None)
    assert sent.params == {
        "name": "t",
        "_meta": {modern.CAPABILITIES_KEY: {}, modern.VERSION_KEY: "2026-07-28"},
    }


def test_tasks_are_not_declared_to_a_modern_server() -> None:
    declared = {"tasks": {}, "roots": {}, "extensions": {cell_a.TASKS_KEY: {}, "x/y": {}}}
    assert cell_a.client_capabilities(declared) == {"roots": {}, "extensions": {"x/y": {}}}


def test_initialize_is_answered_from_discover() -> None:
    discovered = {
        "supportedVersions": ["2026-07-28"],
        "resultType": "complete",
        "ttlMs": 1,
        "cacheScope": "public",
        "capabilities": {"tools": {}, "extensions": {cell_a.TASKS_KEY: {}}},
        "instructions": "be kind",
        "_meta": {cell_a.SERVER_INFO_KEY: {"name": "s", "version": "2"}, "x": 1},
    }
    assert cell_a.initialized(discovered, "2025-06-18") == {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "s", "version": "2"},
        "instructions": "be kind",
        "_meta": {"x": 1},
    }
    bare = cell_a.initialized({}, "2026-07-28")
    assert bare["protocolVersion"] == "2025-11-25"
    assert bare["serverInfo"] == {"name": "unnamed", "version": "unknown"}


SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}}


def test_what_legacy_validators_reject_is_taken_away() -> None:
    array = {"name": "a", "outputSchema": {"type": "array"}, "inputSchema": SCHEMA}
    thing = {"name": "b", "outputSchema": {"type": "object"}}
    listed = cell_a.legacy_result("tools/list", {"tools": [array, thing]})["tools"]
    assert listed == [{"name": "a", "inputSchema": SCHEMA}, thing]
    text = {"type": "text", "text": "[1]"}
    assert cell_a.legacy_result("tools/call", {"content": [], "structuredContent": [1]}) == {
        "content": [text]
    }
    kept = {"content": [text], "structuredContent": {"a": 1}}
    assert cell_a.legacy_result("tools/call", kept) == kept


@pytest.mark.parametrize(
    ("method", "code", "becomes"),
    [
        ("resources/read", -32602, -32002),
        ("tools/call", -32602, -32602),
        ("tools/call", -32020, -32603),
        ("tools/call", -32022, -32603),
        ("tools/call", -32021, -32600),
        ("tools/call", -32601, -32601),
    ],
)
def test_error_codes_are_said_as_the_client_knows_them(method: str, code: int, becomes: int) -> None:
    assert cell_a.legacy_error(method, {"code": code, "message": "m"})["code"] == becomes


def test_a_missing_capability_is_named() -> None:
    data = {"requiredCapabilities": {"sampling": {}}, "other": 1}
    told = cell_a.legacy_error("tools/call", {"code": -32021, "message": "m", "data": data})
    assert told["data"] == {"requiredCapabilities": {"sampling": {}}}


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tools/list", {"requestState": "s"}),
        ("tools/call", {}),
        ("tools/call", {"inputRequests": []}),
        ("tools/call", {"inputRequests": {"a": {"method": "tools/call"}}}),
        ("tools/call", {"inputRequests": {"a": 1}}),
        ("tools/call", {"inputRequests": {"a": {"method": "roots/list", "params": []}}}),
        ("tools/call", {"inputRequests": {str(n): {"method": "roots/list"} for n in range(33)}}),
        ("tools/call", {"requestState": "s" * 300_000}),
    ],
)
def test_questions_without_meaning_are_refused(method: str, result: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError):
        cell_a.questions_of(method, result)


@given(plain)
def test_whatever_a_server_asks_is_read_or_refused(asked: Any) -> None:
    try:
        found = cell_a.questions_of("tools/call", {"inputRequests": asked})
    except UpstreamError:
        return
    assert all(one["method"] in cell_a.ASKABLE for one in found.values())


def test_a_question_for_a_url_gets_an_id_and_others_stay() -> None:
    url = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://a.example/"}}
    assert cell_a.question("q", url, "e1").params == {**url["params"], "elicitationId": "e1"}  # type: ignore[dict-item]
    form = {"method": "elicitation/create", "params": {"message": "m"}}
    assert cell_a.question("q", form, "e1").params == {"message": "m"}
    assert "params" not in cell_a.question("q", {"method": "roots/list"}, "e1").value


def test_a_retry_carries_the_exact_state() -> None:
    first = cell_a.enveloped(request(1, "tools/call", {"name": "t"}), {}, None)
    again = cell_a.retried(first, "r", {"a": {"action": "accept"}}, "st\u00e5te")
    assert again.id == again.value["id"] == "r"
    assert again.params == {
        **(first.params or {}),
        "inputResponses": {"a": {"action": "accept"}},
        "requestState": "st\u00e5te",
    }
    assert "requestState" not in (cell_a.retried(first, "r", {}, None).params or {})


def test_a_subscription_id_is_taken_out_and_the_rest_stays() -> None:
    meta = {modern.SUBSCRIPTION_KEY: 3, "x": 1}
    told = cell_a.unsubscribed(notification("notifications/resources/updated", {"uri": "u", "_meta": meta}))
    assert told.params == {"uri": "u", "_meta": {"x": 1}}
    bare = cell_a.unsubscribed(notification("n", {"_meta": {modern.SUBSCRIPTION_KEY: 3}}))
    assert bare.params == {}
    assert cell_a.unsubscribed(notification("n")).value == {"jsonrpc": "2.0", "method": "n"}


def test_a_filter_names_what_may_change() -> None:
    capabilities = {"tools": {"listChanged": True}, "prompts": {"listChanged": False}, "resources": 1}
    assert cell_a.listen_filter(capabilities, []) == {"toolsListChanged": True}
    assert cell_a.listen_filter({}, ["u"]) == {"resourceSubscriptions": ["u"]}


def test_a_tool_that_a_modern_client_has_to_drop_is_dropped_for_the_legacy_one() -> None:
    def tool(name: str, annotation: object) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": annotation}}}
        return {"name": name, "inputSchema": schema}

    listed = {"tools": [tool("good", "Region"), tool("empty", ""), tool("odd", "a b"), {"name": "plain"}, 7]}
    kept = cell_a.legacy_result("tools/list", {**listed, "resultType": "complete"})["tools"]
    assert kept == [tool("good", "Region"), {"name": "plain"}, 7]
