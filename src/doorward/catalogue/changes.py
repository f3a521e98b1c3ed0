"""What a changed definition means: every differing leaf with a class by its weight for security.

Classes from light to heavy: ``spelling``, ``wording``, ``new-optional-parameter``, ``new-free-text-parameter``,
``schema-widened``, ``schema-narrowed``, ``removed-parameter``, ``required-parameter``, ``hint-flipped``, ``instruction``, ``other``.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

import msgspec

Weight = Literal[
    "spelling",
    "wording",
    "new-optional-parameter",
    "new-free-text-parameter",
    "schema-widened",
    "schema-narrowed",
    "removed-parameter",
    "required-parameter",
    "hint-flipped",
    "instruction",
    "other",
]
HARMLESS: frozenset[Weight] = frozenset(
    {"spelling", "new-optional-parameter"}
)  # may be approved without a person
_TEXTS = frozenset({"description", "title", "instructions", "$comment", "summary"})
_SCHEMAS = frozenset({"inputSchema", "outputSchema"})
_PLAIN = re.compile(r"[A-Za-z]{3,24}")
_NEAR = 0.8  # how alike two words must be to count as one word spelled twice
_SHOWN_CHARS = 2_000
# Keywords of JSON Schema 2020-12 that take values away when they grow (True) or when they shrink (False).
_NARROWING = {
    "minimum": True, "exclusiveMinimum": True, "minLength": True, "minItems": True, "minProperties": True,
    "maximum": False, "exclusiveMaximum": False, "maxLength": False, "maxItems": False, "maxProperties": False,
}  # fmt: skip


class FieldChange(msgspec.Struct, frozen=True):
    """One difference. ``field`` is a JSON Pointer; ``before`` and ``after`` are texts, "" where there was nothing."""

    field: str
    weight: Weight = msgspec.field(name="class")
    before: str
    after: str


def changes_between(before: Any, after: Any) -> list[FieldChange]:
    """All differences of two definitions, in the order of the fields."""
    found: list[FieldChange] = []
    _compare(before, after, (), found)
    return found


def are_harmless(changes: list[FieldChange]) -> bool:
    """True when each change is of a class that needs no person."""
    return all(change.weight in HARMLESS for change in changes)


def words_between(before: str, after: str) -> list[tuple[Literal["same", "gone", "new"], str]]:
    """Two texts word by word, white space kept."""
    old, new = re.findall(r"\s+|\S+", before), re.findall(r"\s+|\S+", after)
    parts: list[tuple[Literal["same", "gone", "new"], str]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            parts.append(("same", "".join(old[a:b])))
            continue
        if b > a:
            parts.append(("gone", "".join(old[a:b])))
        if d > c:
            parts.append(("new", "".join(new[c:d])))
    return parts


def _compare(before: Any, after: Any, path: tuple[str, ...], found: list[FieldChange]) -> None:
    pending: list[tuple[Any, Any, tuple[str, ...]]] = [(before, after, path)]
    while pending:
        old, new, here = pending.pop()
        if type(old) is type(new) and isinstance(old, dict):
            names = sorted({*old, *new}, reverse=True)
            pending += [(old.get(name, _NOTHING), new.get(name, _NOTHING), (*here, name)) for name in names]
        elif type(old) is type(new) and isinstance(old, list) and len(old) == len(new) and not _is_set(here):
            pending += [
                (a, b, (*here, str(i))) for i, (a, b) in reversed(list(enumerate(zip(old, new, strict=True))))
            ]
        elif type(old) is not type(new) or old != new:
            found.append(FieldChange(_pointer(here), _weigh(old, new, here), _shown(old), _shown(new)))


def _weigh(old: Any, new: Any, path: tuple[str, ...]) -> Weight:
    last = path[-1] if path else ""
    in_schema = bool(path) and path[0] in _SCHEMAS
    if path[:1] == ("annotations",):
        return "wording" if last == "title" else "hint-flipped"
    if in_schema and len(path) >= 3 and path[-2] == "properties":
        return _weigh_parameter(old, new)
    if in_schema and last == "required":
        return "required-parameter"
    if isinstance(old, str | _Nothing) and isinstance(new, str | _Nothing) and last in _TEXTS:
        return _weigh_text("" if old is _NOTHING else str(old), "" if new is _NOTHING else str(new))
    if in_schema:
        return _weigh_keyword(old, new, last)
    return "other"


def _weigh_parameter(old: Any, new: Any) -> Weight:
    if new is _NOTHING:
        return "removed-parameter"
    if old is not _NOTHING:
        return "other"
    free = (
        isinstance(new, dict)
        and new.get("type", "string") == "string"
        and not {"enum", "const", "format"} & {*new}
    )
    return "new-free-text-parameter" if free or not isinstance(new, dict) else "new-optional-parameter"


def _weigh_text(old: str, new: str) -> Weight:
    """``spelling`` only where every changed word is a near twin of the one before; a longer text is ``wording``."""
    gone = [part.split() for kind, part in words_between(old, new) if kind == "gone" and part.strip()]
    come = [part.split() for kind, part in words_between(old, new) if kind == "new" and part.strip()]
    if len(gone) != len(come):
        return "wording"
    for left, right in zip(gone, come, strict=True):
        if len(left) != len(right) or not all(map(_is_respelled, left, right)):
            return "wording"
    return "spelling"


def _is_respelled(left: str, right: str) -> bool:
    a, b = _PLAIN.fullmatch(left.strip(".,;:()")), _PLAIN.fullmatch(right.strip(".,;:()"))
    if a is None or b is None:
        return False
    return difflib.SequenceMatcher(None, a.group().lower(), b.group().lower()).ratio() >= _NEAR


def _weigh_keyword(old: Any, new: Any, keyword: str) -> Weight:
    """Whether a schema takes less or more than before, by the one keyword that differs."""
    if keyword == "enum" and isinstance(old, list) and isinstance(new, list):
        kept = [value for value in old if value in new]
        return "schema-widened" if len(kept) == len(old) else "schema-narrowed"
    if keyword in _NARROWING and all(
        isinstance(value, int | float) or value is _NOTHING for value in (old, new)
    ):
        if old is _NOTHING or new is _NOTHING:
            return "schema-narrowed" if old is _NOTHING else "schema-widened"
        return "schema-narrowed" if (float(new) > float(old)) is _NARROWING[keyword] else "schema-widened"
    if keyword in ("enum", "const", "pattern", "format", "type"):
        return "schema-widened" if new is _NOTHING else "schema-narrowed"
    if keyword == "additionalProperties":
        return "schema-narrowed" if new is False else "schema-widened"
    return "other"


class _Nothing:
    """Where one of the two definitions has no value."""


_NOTHING: Any = _Nothing()


def _is_set(path: tuple[str, ...]) -> bool:
    """Lists whose members have no place of their own."""
    return bool(path) and path[-1] in ("required", "enum")


def _pointer(path: tuple[str, ...]) -> str:
    """RFC 6901."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
