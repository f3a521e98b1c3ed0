"""The canonical form and the pin over it: every leaf counts, order and spelling do not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.catalogue.definition import canonical, name_of, pin_of
from doorward.protocol.json_door import parse_json

TOOL: dict[str, Any] = {
    "name": "send",
    "title": "Send",
    "description": "Sends a mail.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "to": {"type": "string", "description": "Whom.", "x-mcp-header": "To"},
            "kind": {"enum": ["a", "b"], "default": "a"},
            "size": {"type": "number", "maximum": 1.5},
        },
        "required": ["to"],
        "additionalProperties": False,
    },
    "outputSchema": {"type": "object", "properties": {"id": {"type": "string"}}},
    "annotations": {"readOnlyHint": False, "destructiveHint": True, "title": "Send"},
    "icons": [{"src": "https://example.com/i.png", "sizes": ["48x48"]}],
    "_meta": {"example.com/x": None},
}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all leaves."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [found for key, inner in enumerate(value) for found in leaves(inner, (*path, key))]
    return [path]


@pytest.mark.parametrize("path", leaves(TOOL), ids=lambda path: "/".join(map(str, path)))
def test_every_changed_leaf_changes_the_pin(path: tuple[Any, ...]) -> None:
    pins = set()
    for new in ("other", None, 7, True, False, [], {}, "string"):
        changed = copy.deepcopy(TOOL)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if type(holder[path[-1]]) is type(new) and holder[path[-1]] == new:
            continue
        holder[path[-1]] = new
        pins.add(pin_of(canonical(changed)))
    assert len(pins) >= 7
    assert pin_of(canonical(TOOL)) not in pins


@pytest.mark.parametrize("path", leaves(TOOL), ids=lambda path: "/".join(map(str, path)))
def test_every_leaf_that_goes_changes_the_pin(path: tuple[Any, ...]) -> None:
    changed = copy.deepcopy(TOOL)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    assert pin_of(canonical(changed)) != pin_of(canonical(TOOL))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('{"b": 1, "a": [1.0, 1e2, 0.5, -0.0]}', '{"a":[1,100,0.5,0],"b":1}'),
        ('{"\\u0061":"\\u00e9\\u2028\\n"}', '{"a":"\u00e9\u2028\\n"}'),
        ("12345678901234567890", "12345678901234567890"),
        ("[true,null,{}]", "[true,null,{}]"),
    ],
)
def test_the_canonical_form_has_one_spelling(text: str, form: str) -> None:
    assert canonical(parse_json(text.encode())).decode() == form


_names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def _turned(value: Any) -> Any:
    """The same with members in the other order."""
    if isinstance(value, dict):
        return {key: _turned(inner) for key, inner in reversed(value.items())}
    return [_turned(one) for one in value] if isinstance(value, list) else value


@given(_json)
def test_order_and_white_space_are_no_change(value: Any) -> None:
    plain = canonical(parse_json(json.dumps(value).encode()))
    spaced = json.dumps(_turned(value), indent=3, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert canonical(parse_json(spaced)) == plain
    assert canonical(parse_json(plain)) == plain  # once canonical, always canonical


def test_items_are_named_by_what_calls_name() -> None:
    assert name_of("tool", {"name": "a"}) == "a"
    assert name_of("resource", {"uri": "file:///a", "name": "a"}) == "file:///a"
    assert name_of("template", {"uriTemplate": "file:///{x}"}) == "file:///{x}"
    assert [name_of("tool", odd) for odd in ({}, {"name": 1}, [], "x", None)] == [""] * 5
