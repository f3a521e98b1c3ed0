from __future__ import annotations

from typing import Any

import pytest

from doorward.protocol import headers
from doorward.protocol.envelope import message_of, request
from doorward.protocol.json_door import parse_json

VERSION = "2026-07-28"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "deep": {"type": "object", "properties": {"tenant": {"type": "string", "x-mcp-header": "Tenant"}}},
        "plain": {"type": "string"},
    },
}


def call(arguments: dict[str, Any], name: str = "deploy") -> Any:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return request(1, "tools/call", {"name": name, "arguments": arguments, "_meta": meta})


def lowered(fields: list[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in fields}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("us-west1", "us-west1"),
        ("", ""),
        ("a b", "a b"),
        (" a", "=?base64?IGE=?="),
        ("a\t", "=?base64?YQk=?="),
        ("é", "=?base64?w6k=?="),
        ("a\r\nX: y", "=?base64?YQ0KWDogeQ==?="),
        ("=?base64?IGE=?=", "=?base64?PT9iYXNlNjQ/SUdFPT89?="),
    ],
)
def test_values_survive_a_header_field(value: str, field: str) -> None:
    assert headers.encode_value(value) == field
    assert headers.decode_value(field) == value


@pytest.mark.parametrize(
    "field", ["=?base64?!!?=", "=?base64?IGF=?=", "=?base64?/w==?=", "=?base64?YQ?=", "=?base64?YR==?="]
)
def test_a_malformed_wrapping_has_no_value(field: str) -> None:
    assert headers.decode_value(field) is None


def test_the_fields_of_a_call_are_written_from_its_body() -> None:
    message = call({"region": "eu ", "count": 42, "dry": False, "deep": {"tenant": "é"}, "plain": "x"})
    assert headers.modern_fields(message, VERSION, SCHEMA) == [
        ("MCP-Protocol-Version", VERSION),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "deploy"),
        ("Mcp-Param-Region", "=?base64?ZXUg?="),
        ("Mcp-Param-Count", "42"),
        ("Mcp-Param-Dry", "false"),
        ("Mcp-Param-Tenant", "=?base64?w6k=?="),
    ]


def test_null_and_absent_arguments_have_no_field() -> None:
    fields = headers.modern_fields(call({"region": None, "deep": {}}), VERSION, SCHEMA)
    assert [name for name, _ in fields] == ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"]


def test_what_we_write_matches() -> None:
    message = call(
        {"region": "=?base64?x?=", "count": 9007199254740993, "dry": True, "deep": {"tenant": " "}}
    )
    assert (
        headers.check_mirror(lowered(headers.modern_fields(message, VERSION, SCHEMA)), message, SCHEMA)
        is None
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-protocol-version", None),
        ("mcp-method", None),
        ("mcp-method", "tools/list"),
        ("mcp-method", "Tools/Call"),
        ("mcp-name", None),
        ("mcp-name", "other"),
        ("mcp-name", "DEPLOY"),
        ("mcp-name", "=?base64?!!?="),
        ("mcp-param-region", "us"),
        ("mcp-param-region", None),
        ("mcp-param-count", "43"),
        ("mcp-param-count", "4.2e1"),
        ("mcp-param-count", "9007199254740992"),
        ("mcp-param-dry", "True"),
        ("mcp-param-tenant", "someone"),
    ],
)
def test_a_field_that_lies_is_told(name: str, value: str | None) -> None:
    message = call({"region": "eu", "count": 42, "dry": True})
    fields = lowered(headers.modern_fields(message, VERSION, SCHEMA))
    if value is None:
        del fields[name]
    else:
        fields[name] = value
    assert headers.check_mirror(fields, message, SCHEMA) is not None


@pytest.mark.parametrize(
    ("number", "field"), [("42", "42.0"), ("42.0", "42"), ("-0", "0"), ("42.00", "42.0")]
)
def test_integers_are_compared_as_numbers(number: str, field: str) -> None:
    message = call(parse_json(b'{"count":%s}' % number.encode()))
    fields = lowered(headers.modern_fields(message, VERSION, SCHEMA))
    fields["mcp-param-count"] = field
    assert headers.check_mirror(fields, message, SCHEMA) is None


def test_fields_that_no_schema_declares_are_left_alone() -> None:
    message = call({})
    fields = {**lowered(headers.modern_fields(message, VERSION)), "mcp-param-other": "x"}
    assert headers.check_mirror(fields, message, SCHEMA) is None
    assert headers.check_mirror(fields, message, None) is None


def test_resources_and_tasks_are_named_too() -> None:
    assert headers.mirrored_name(request(1, "resources/read", {"uri": "file:///é"})) == "file:///é"
    assert headers.mirrored_name(request(1, "tasks/get", {"taskId": "t"})) == "t"
    assert headers.mirrored_name(request(1, "tools/list", {"name": "x"})) is None
    assert headers.mirrored_name(message_of({"jsonrpc": "2.0", "id": 1, "method": "tools/call"})) is None


def annotated(annotation: Any, kind: Any = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": annotation}


@pytest.mark.parametrize(
    "schema",
    [
        annotated("Root", "object"),
        {"type": "object", "properties": {"a": annotated("")}},
        {"type": "object", "properties": {"a": annotated("a b")}},
        {"type": "object", "properties": {"a": annotated("a\r\nX")}},
        {"type": "object", "properties": {"a": annotated("a:")}},
        {"type": "object", "properties": {"a": annotated("é")}},
        {"type": "object", "properties": {"a": annotated(7)}},
        {"type": "object", "properties": {"a": annotated("A", "number")}},
        {"type": "object", "properties": {"a": annotated("A", "object")}},
        {"type": "object", "properties": {"a": annotated("A", ["string", "null"])}},
        {"type": "object", "properties": {"a": {"x-mcp-header": "A"}}},
        {"type": "object", "properties": {"a": annotated("Same"), "b": annotated("sAME")}},
        {"type": "object", "properties": {"a": {"type": "array", "items": annotated("A")}}},
        {"type": "object", "allOf": [{"properties": {"a": annotated("A")}}]},
        {"type": "object", "$defs": {"x": annotated("A")}},
        {"type": "object", "if": {"properties": {"a": annotated("A")}}},
    ],
)
def test_invalid_annotations_are_found(schema: dict[str, Any]) -> None:
    assert headers.invalid_annotations({"name": "x", "inputSchema": schema}) is not None
    assert headers.declared_params(schema) == ()


def test_valid_annotations_and_mere_data_pass() -> None:
    assert headers.invalid_annotations({"name": "x", "inputSchema": SCHEMA}) is None
    data = {"type": "object", "default": {"x-mcp-header": "a b"}, "examples": [{"x-mcp-header": 1}]}
    assert headers.invalid_annotations({"name": "x", "inputSchema": data}) is None
    named_so = {"type": "object", "properties": {"properties": {"type": "string", "x-mcp-header": "P"}}}
    assert headers.declared_params(named_so) == ((("properties",), "P", "string"),)
