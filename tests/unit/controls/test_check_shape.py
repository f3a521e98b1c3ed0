from __future__ import annotations

from typing import Any

import pytest

from doorward.controls.check_shape import CheckShape, is_deeper
from doorward.controls.control import Call, Head, Note, Refuse
from doorward.identity.principal import LOCAL
from doorward.protocol.envelope import notification, request, response
from doorward.protocol.message import Era, Message

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def call(message: Message, era: Era = "legacy") -> Call:
    head = Head(verb="POST", path="/time/mcp", query="", fields={}, repeated=frozenset())
    return Call(head=head, principal=LOCAL, server="time", era=era, message=message, event="e")


def judge(message: Message, era: Era = "legacy") -> Refuse | None:
    verdict = CheckShape().request(call(message, era), {})
    assert verdict is None or isinstance(verdict, Refuse)
    return verdict


GOOD: list[tuple[str, dict[str, Any] | None]] = [
    (
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
    ),
    ("ping", None),
    ("tools/list", None),
    ("tools/list", {"cursor": ""}),
    ("tools/call", {"name": "x"}),
    ("tools/call", {"name": "x" * 128, "arguments": {"a": [1]}, "_meta": {"progressToken": 1}}),
    ("prompts/get", {"name": "p", "arguments": {"a": "b"}}),
    ("resources/read", {"uri": "file:///x"}),
    (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": ""}},
    ),
    (
        "completion/complete",
        {"ref": {"type": "ref/resource", "uri": "x:{y}"}, "argument": {"name": "a", "value": "b"}},
    ),
    ("logging/setLevel", {"level": "info"}),
    ("tasks/get", {"taskId": "t"}),
]
BAD: list[tuple[str, dict[str, Any] | None]] = [
    ("initialize", None),
    ("initialize", {"protocolVersion": 1, "capabilities": {}}),
    ("initialize", {"protocolVersion": "2025-11-25", "capabilities": []}),
    ("tools/list", {"cursor": 5}),
    ("tools/list", {"cursor": None}),
    ("tools/call", None),
    ("tools/call", {"arguments": {}}),
    ("tools/call", {"name": ""}),
    ("tools/call", {"name": "x" * 129}),
    ("tools/call", {"name": ["x"]}),
    ("tools/call", {"name": "x", "arguments": '{"path":"/etc/passwd"}'}),
    ("tools/call", {"name": "x", "arguments": None}),
    ("tools/call", {"name": "x", "arguments": []}),
    ("tools/call", {"name": "x", "_meta": []}),
    ("tools/call", {"name": "x", "_meta": {"progressToken": 1.5}}),
    ("tools/call", {"name": "x", "_meta": {"progressToken": True}}),
    ("prompts/get", {"name": "p", "arguments": {"a": 1}}),
    ("resources/read", {}),
    ("resources/read", {"uri": "x" * 9_000}),
    ("completion/complete", {"ref": "p", "argument": {"name": "a", "value": "b"}}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a"}}),
    ("logging/setLevel", {"level": "loud"}),
    ("tasks/get", {"taskId": 7}),
]


@pytest.mark.parametrize(("method", "params"), GOOD)
def test_well_shaped_requests_pass(method: str, params: dict[str, Any] | None) -> None:
    assert judge(request(1, method, params)) is None


@pytest.mark.parametrize(("method", "params"), BAD)
def test_misshapen_params_are_invalid(method: str, params: dict[str, Any] | None) -> None:
    verdict = judge(request(1, method, params))
    assert verdict is not None
    assert (verdict.code, verdict.status) == (-32602, 200)


UNKNOWN = [
    "Tools/Call",
    "tools/call ",
    "tools\u2215call",
    "rpc.discover",
    "notifications/cancelled",
    "server/discover",
]


@pytest.mark.parametrize("method", UNKNOWN)
def test_unknown_methods_are_not_found(method: str) -> None:
    verdict = judge(request(1, method, {"name": "delete_file"}))
    assert verdict is not None
    assert (verdict.code, verdict.status) == (-32601, 200)


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "nope"])
def test_the_modern_era_answers_404_for_unknown_and_removed_methods(method: str) -> None:
    verdict = judge(request(1, method, {"_meta": META}), "modern")
    assert verdict is not None
    assert (verdict.code, verdict.status) == (-32601, 404)


def test_the_modern_era_needs_an_envelope_first_and_a_known_version_then() -> None:
    verdict = judge(request(1, "nope"), "modern")
    assert verdict is not None
    assert (verdict.code, verdict.status) == (-32602, 400)
    meta = {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
    verdict = judge(request(1, "nope", {"_meta": meta}), "modern")
    assert verdict is not None
    assert (verdict.code, verdict.status) == (-32022, 400)
    assert verdict.extra == {"supported": ["2026-07-28"], "requested": "2099-01-01"}
    assert judge(request(1, "server/discover", {"_meta": META}), "modern") is None


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    "method", ["tools/call", "notifications/tools/list_changed", "notifications/message", "x"]
)
def test_what_is_no_notification_of_a_client_is_refused(method: str, era: Era) -> None:
    verdict = judge(notification(method, {"name": "delete_file"}), era)
    assert verdict is not None
    assert verdict.status == 400


def test_notifications_of_clients_pass() -> None:
    assert judge(notification("notifications/initialized")) is None
    assert judge(notification("notifications/cancelled", {"requestId": "1"})) is None
    assert judge(notification("notifications/cancelled", {"requestId": None})) is not None
    assert judge(notification("notifications/progress", {"progressToken": True, "progress": 1})) is not None


def test_responses_are_a_legacy_thing() -> None:
    assert judge(response(1, {})) is None
    verdict = judge(response(1, {}), "modern")
    assert verdict is not None
    assert verdict.status == 400


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return {"type": "object", "properties": {"a": schema}}


def tool(name: Any, schema: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"} if schema is None else schema, **more}


@pytest.mark.parametrize(
    "bad",
    [
        {"inputSchema": {"type": "object"}},
        {"name": "x"},
        "not an object",
        tool(7),
        tool(""),
        tool("x" * 129),
        tool("a\x1b[2Jb"),
        tool("rе" + "ad"),  # a Cyrillic letter
        tool("x", {"type": "string"}),
        tool("x", []),
        tool("x", {"type": "object", "properties": []}),
        tool("x", deep(60)),
        tool("x", outputSchema=5),
        tool("x", annotations=[]),
        tool("x", description={"a": 1}),
        tool("good"),
    ],
)
def test_one_invalid_tool_is_dropped_and_the_rest_is_served(bad: Any) -> None:
    items = [tool("good"), bad, tool("also-good")]
    verdict = CheckShape().listing(call(request(1, "tools/list")), items, "tools")
    assert isinstance(verdict, Note)
    assert [item["name"] for item in items] == ["good", "also-good"]


def test_a_clean_listing_is_left_alone() -> None:
    items = [
        tool("a"),
        tool("b", deep(5), outputSchema={"type": "object"}, annotations={"readOnlyHint": True}),
    ]
    before = list(items)
    assert CheckShape().listing(call(request(1, "tools/list")), items, "tools") is None
    assert items == before


def test_invalid_header_annotations_matter_in_the_modern_era_only() -> None:
    bad = tool("x", {"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}})
    items = [bad]
    assert CheckShape().listing(call(request(1, "tools/list")), items, "tools") is None
    assert isinstance(CheckShape().listing(call(request(1, "tools/list"), "modern"), items, "tools"), Note)
    assert items == []


@pytest.mark.parametrize(("key", "good"), [("prompts", {"name": "p"}), ("resources", {"uri": "x:y"}),
                                           ("resourceTemplates", {"uriTemplate": "x:{y}"})])  # fmt: skip
def test_other_listings_are_filtered_too(key: str, good: dict[str, Any]) -> None:
    items: list[Any] = [good, {}, 5, None]
    assert isinstance(CheckShape().listing(call(request(1, "prompts/list")), items, key), Note)
    assert items == [good]


def test_what_is_noted_holds_no_text_of_the_peer() -> None:
    items = [tool("secret\n")]
    verdict = CheckShape().listing(call(request(1, "tools/list")), items, "tools")
    assert isinstance(verdict, Note)
    assert "secret" not in verdict.reason


def test_depth_is_counted_in_containers() -> None:
    assert not is_deeper("x", 0)
    assert is_deeper([], 0)
    assert not is_deeper([[]], 2)
    assert is_deeper([[[]]], 2)
