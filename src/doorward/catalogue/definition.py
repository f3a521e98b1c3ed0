"""What a server says of one item, and the pin over it: a digest of every leaf of the definition.

The canonical form has sorted members, no white space and one spelling of each number, as RFC 8785 has for the values that
definitions hold, so that reordering is no change and anything else is one.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from doorward.protocol.json_door import Number

Kind = Literal["tool", "prompt", "resource", "template", "instructions"]
KINDS: dict[str, Kind] = {
    "tools": "tool",
    "prompts": "prompt",
    "resources": "resource",
    "resourceTemplates": "template",
}
_NAMED_BY: dict[str, str] = {"tool": "name", "prompt": "name", "resource": "uri", "template": "uriTemplate"}
_EXACT = 2**53  # whole numbers beyond it have no single double


def _spell(value: object) -> object:
    if isinstance(value, Number):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < _EXACT else number
    msg = f"a {type(value).__name__} is no JSON value"
    raise TypeError(msg)


_encode = msgspec.json.Encoder(enc_hook=_spell, order="sorted").encode


def canonical(definition: Any) -> bytes:
    """The canonical form of a definition as ``parse_json`` gave it."""
    return _encode(definition)


def pin_of(form: bytes) -> str:
    """``sha256:...`` over a canonical form."""
    return "sha256:" + hashlib.sha256(form).hexdigest()


def name_of(kind: Kind, definition: Any) -> str:
    """What identifies an item in its server: name, URI or URI template; "" when it has none."""
    if kind == "instructions":
        return ""
    found = definition.get(_NAMED_BY[kind]) if isinstance(definition, dict) else None
    return found if isinstance(found, str) else ""
