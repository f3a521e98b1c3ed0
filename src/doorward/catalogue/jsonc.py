"""JSON as people write it in settings: with comments and trailing commas; every value knows where it stands.

Clients keep their configuration in such files. They are changed by replacing spans of the text, so that comments, order and
spacing stay as their owner left them. A member that is named twice is refused: two readers could take either.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from doorward.base.errors import CallerError

DEPTH = 64
_SKIPPED = re.compile(r"[ \t\r\n]+|//[^\n]*|/\*.*?\*/", re.DOTALL)  # one piece of white space, or one comment
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")


class Member(msgspec.Struct, frozen=True):
    """One member of an object: its name, where the name begins, and its value."""

    name: str
    start: int
    value: Node


class Node(msgspec.Struct, frozen=True):
    """A value and its span ``[start, end)`` in the text, in code points. ``members`` where it is an object."""

    start: int
    end: int
    value: Any  # as json.loads would give it
    members: tuple[Member, ...] = ()

    def member(self, name: str) -> Node | None:
        """The value of a member, or None."""
        return next((one.value for one in self.members if one.name == name), None)


def parse_jsonc(text: str) -> Node:
    """Parse a whole text. Raises: CallerError ``config-syntax`` that names the line."""
    start = 1 if text.startswith("\ufeff") else 0
    node, at = _value(text, _skip(text, start), 0)
    if _skip(text, at) != len(text):
        raise _broken(text, at, "something stands after the end")
    return node


def _skip(text: str, at: int) -> int:
    while found := _SKIPPED.match(text, at):
        at = found.end()
    return at


def _value(text: str, at: int, depth: int) -> tuple[Node, int]:
    if depth > DEPTH:
        raise _broken(text, at, "it is nested too deep")
    opening = text[at : at + 1]
    if opening == "{":
        return _object(text, at, depth)
    if opening == "[":
        return _array(text, at, depth)
    if opening == '"':
        end, value = _string(text, at)
        return Node(at, end, value), end
    found = _SCALAR.match(text, at)
    if found is None:
        raise _broken(text, at, "a value is expected")
    return Node(at, found.end(), msgspec.json.decode(found.group())), found.end()


def _string(text: str, at: int) -> tuple[int, str]:
    found = _STRING.match(text, at)
    if found is None:
        raise _broken(text, at, "a text in quotes is expected")
    try:
        return found.end(), msgspec.json.decode(found.group(), type=str)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise _broken(text, at, "a text cannot be read") from error


def _object(text: str, start: int, depth: int) -> tuple[Node, int]:
    members: list[Member] = []
    names: set[str] = set()
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        begin = at
        at, name = _string(text, at)
        if name in names:
            raise _broken(text, begin, "a member is named twice")
        names.add(name)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise _broken(text, at, "a colon is expected")
        value, at = _value(text, _skip(text, at + 1), depth + 1)
        members.append(Member(name, begin, value))
        at = _separator(text, at, "}")
    plain = {one.name: one.value.value for one in members}
    return Node(start, at + 1, plain, tuple(members)), at + 1


def _array(text: str, start: int, depth: int) -> tuple[Node, int]:
    values: list[Any] = []
    at = _skip(text, start + 1)
    while text[at : at + 1] != "]":
        value, at = _value(text, at, depth + 1)
        values.append(value.value)
        at = _separator(text, at, "]")
    return Node(start, at + 1, values), at + 1


def _separator(text: str, at: int, closing: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1)
    if text[at : at + 1] != closing:
        raise _broken(text, at, f"a comma or {closing} is expected")
    return at


def _broken(text: str, at: int, why: str) -> CallerError:
    return CallerError("config-syntax", f"line {text.count(chr(10), 0, at) + 1}: {why}.")
