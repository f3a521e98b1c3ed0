"""What the 2026 era mirrors from the body into header fields, both ways (2026-07-28 basic/transports, SEP-2243).

Mirrored values are never trusted: towards a server they are written anew from the body, from a client they are only
compared with it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

from doorward.protocol.json_door import Number
from doorward.protocol.message import Message

NAMED_PARAMS = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
PARAM_PREFIX = "Mcp-Param-"
_ANNOTATION = "x-mcp-header"
_OPEN, _CLOSE = "=?base64?", "?="
_PLAIN = re.compile(r"[\x20-\x7e]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_DECIMAL = re.compile(r"(-?[0-9]{1,64})(?:\.0{1,64})?")
_TYPES = frozenset({"string", "integer", "boolean"})
# JSON Schema 2020-12 applicators other than "properties": below them an annotation is not reachable from arguments.
_ONE = ("items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties",
        "not", "if", "then", "else", "contentSchema")  # fmt: skip
_SOME = ("allOf", "anyOf", "oneOf", "prefixItems")
_KEYED = ("patternProperties", "dependentSchemas", "$defs", "definitions")
_POSITIONS_COUNT = 20_000
_KEPT_SCHEMAS = 512

Annotation = tuple[tuple[str, ...], str, str]  # path of property names, header token, JSON type


def encode_value(value: str) -> str:
    """Write a value for a header field; what would not survive there is wrapped as ``=?base64?...?=``."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _is_wrapped(value):
        return value
    return _OPEN + base64.b64encode(value.encode()).decode("ascii") + _CLOSE


def decode_value(field: str) -> str | None:
    """Read a header field written by ``encode_value``; None when its wrapping is malformed."""
    if not _is_wrapped(field):
        return field
    payload = field[len(_OPEN) : -len(_CLOSE)]
    try:
        raw = base64.b64decode(payload, validate=True)
        if base64.b64encode(raw).decode("ascii") != payload:
            return None  # two spellings of one value would slip past whoever compares spellings
        return raw.decode()
    except (binascii.Error, ValueError):
        return None


def _is_wrapped(text: str) -> bool:
    return text.startswith(_OPEN) and text.endswith(_CLOSE) and len(text) >= len(_OPEN) + len(_CLOSE)


def mirrored_name(message: Message) -> str | None:
    """What ``Mcp-Name`` has to say about this message, not yet encoded; None when it has none."""
    key = NAMED_PARAMS.get(message.method)
    if key is None or message.params is None:
        return None
    value = message.params.get(key)
    return value if type(value) is str else None


def modern_fields(
    message: Message, version: str, schema: dict[str, Any] | None = None
) -> list[tuple[str, str]]:
    """The header fields of one modern message, written from its body. ``schema`` is the called tool's inputSchema."""
    fields = [("MCP-Protocol-Version", encode_value(version)), ("Mcp-Method", encode_value(message.method))]
    name = mirrored_name(message)
    if name is not None:
        fields.append(("Mcp-Name", encode_value(name)))
    if schema is not None and message.method == "tools/call" and message.params is not None:
        arguments = message.params.get("arguments")
        for path, token, _ in declared_params(schema):
            text = _render(_value_at(arguments, path))
            if text is not None:
                fields.append((PARAM_PREFIX + token, encode_value(text)))
    return fields


@lru_cache(64)
def media_type(field: str) -> str:
    """A Content-Type without its parameters; servers send the same few again and again."""
    return field.split(";", 1)[0].strip().lower()


def written(fields: list[tuple[str, str]]) -> bytes:
    """Header fields as they are sent."""
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


@lru_cache(512)
def mirrored_lines(version: str, method: str, name: str | None) -> bytes:
    """The header lines of a message that mirrors no arguments; the same few are sent again and again."""
    named = {NAMED_PARAMS[method]: name} if name is not None else None
    return written(modern_fields(Message("request", method, None, named, {}), version))


def check_mirror(
    fields: Mapping[str, str], message: Message, schema: dict[str, Any] | None = None
) -> str | None:
    """Compare a modern request with its header fields (lower-case names); the reason of the first mismatch, or None.

    The reason holds no text of the peer. Fields that no schema declares are nobody's business.
    """
    meta = message.params.get("_meta") if message.params is not None else None
    version = fields.get("mcp-protocol-version")
    if version is None:
        return "The MCP-Protocol-Version header is missing."
    if type(meta) is not dict or meta.get("io.modelcontextprotocol/protocolVersion") != version:
        return "The MCP-Protocol-Version header does not match the body."
    if fields.get("mcp-method") is None:
        return "The Mcp-Method header is missing."
    if (reason := check_routing(fields, message)) is not None:
        return reason
    if mirrored_name(message) is not None and "mcp-name" not in fields:
        return "The Mcp-Name header is missing."
    if schema is not None and message.method == "tools/call" and message.params is not None:
        return _check_params(fields, message.params.get("arguments"), schema)
    return None


def check_routing(fields: Mapping[str, str], message: Message) -> str | None:
    """Compare ``Mcp-Method`` and ``Mcp-Name`` with the body where they are present, in either era."""
    method = fields.get("mcp-method")
    if method is not None and method != message.method:
        return "The Mcp-Method header does not match the body."
    name = fields.get("mcp-name")
    if name is not None and message.method in NAMED_PARAMS and decode_value(name) != mirrored_name(message):
        return "The Mcp-Name header does not match the body."
    return None


def _check_params(fields: Mapping[str, str], arguments: object, schema: dict[str, Any]) -> str | None:
    for path, token, kind in declared_params(schema):
        field = fields.get((PARAM_PREFIX + token).lower())
        text = _render(value := _value_at(arguments, path))
        if field is None and text is None:
            continue
        if field is None or text is None:
            return "An Mcp-Param header and its argument are not both present."
        decoded = decode_value(field)
        if decoded is None:
            return "An Mcp-Param header is not encoded properly."
        if decoded != text and not (kind == "integer" and _is_same_integer(value, decoded)):
            return "An Mcp-Param header does not match its argument."
    return None


def _is_same_integer(value: object, text: str) -> bool:
    # 42 and 42.0 are one integer to JSON Schema; compared as digits, since a double would blur large ones.
    ours, theirs = _DECIMAL.fullmatch(str(value)), _DECIMAL.fullmatch(text)
    return ours is not None and theirs is not None and int(ours[1]) == int(theirs[1])


def _render(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, Number)) else None


def _value_at(arguments: object, path: tuple[str, ...]) -> object:
    node = arguments
    for key in path:
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


# Schemas come from listings that are kept and read again for every call; an entry holds its schema, so ids stay true.
_kept: dict[int, tuple[dict[str, Any], tuple[Annotation, ...]]] = {}


def declared_params(schema: dict[str, Any]) -> tuple[Annotation, ...]:
    """The header annotations of an inputSchema; none where any of them is invalid: conforming clients drop the tool."""
    kept = _kept.get(id(schema))
    if kept is not None and kept[0] is schema:
        return kept[1]
    judged = _judge(schema)
    found = () if isinstance(judged, str) else judged
    if len(_kept) >= _KEPT_SCHEMAS:
        _kept.pop(next(iter(_kept)))
    _kept[id(schema)] = (schema, found)
    return found


def invalid_annotations(tool: Mapping[str, Any]) -> str | None:
    """Why the ``x-mcp-header`` annotations of a tool are invalid, or None. The reason holds no text of the peer."""
    schema = tool.get("inputSchema")
    if not isinstance(schema, dict):
        return None
    found = _judge(schema)
    return found if isinstance(found, str) else None


def _judge(schema: dict[str, Any]) -> tuple[Annotation, ...] | str:
    found: list[Annotation] = []
    tokens: set[str] = set()
    for count, (path, node) in enumerate(_positions(schema)):
        if count > _POSITIONS_COUNT:
            return "The schema is too large."
        if _ANNOTATION not in node:
            continue
        token, kind = node[_ANNOTATION], node.get("type")
        if not path:
            return "An x-mcp-header stands where no argument can be."
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return "An x-mcp-header is not a header token."
        if not isinstance(kind, str) or kind not in _TYPES:
            return "An x-mcp-header is on a property that is no string, integer or boolean."
        if token.lower() in tokens:
            return "Two properties have the same x-mcp-header."
        tokens.add(token.lower())
        found.append((path, token, kind))
    return tuple(found)


def _positions(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every place of a schema where a schema stands, with its path of properties (None: not reachable by arguments)."""
    pending: list[tuple[tuple[str, ...] | None, object]] = [((), schema)]
    while pending:
        path, node = pending.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        below: list[tuple[Literal[False] | str, object]] = []
        properties = node.get("properties")
        if isinstance(properties, dict):
            below.extend(properties.items())
        below.extend((False, node[key]) for key in _ONE if key in node)
        for key in _SOME:
            if isinstance(some := node.get(key), list):
                below.extend((False, one) for one in some)
        for key in _KEYED:
            if isinstance(keyed := node.get(key), dict):
                below.extend((False, one) for one in keyed.values())
        for name, one in reversed(below):
            pending.append((None if path is None or name is False else (*path, name), one))
