"""Every text of a JSON value with its JSON Pointer (RFC 6901): members' names as well as values, in order, without recursion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

LEAVES = (
    20_000  # of one definition that are looked at; a definition with more is not one that anybody reviews
)
CHARS = 2_097_152  # of all texts of one definition


class Leaf(NamedTuple):
    """One text. ``is_name`` when it is a member's name; the pointer is then that of the member."""

    pointer: str
    text: str
    is_name: bool


def escape(name: str) -> str:
    """A member's name as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def leaves_of(value: Any) -> Iterator[Leaf]:
    """All texts of a value. Where the caps are reached, one empty name is the last."""
    pending: list[tuple[str, Any]] = [("", value)]
    count = chars = 0
    while pending:
        pointer, one = pending.pop()
        found: list[Leaf] = []
        if isinstance(one, str):
            found.append(Leaf(pointer, one, False))
        elif isinstance(one, dict):
            members = [(f"{pointer}/{escape(name)}", name, inner) for name, inner in one.items()]
            found += [Leaf(place, name, True) for place, name, _ in members]
            pending += [(place, inner) for place, _, inner in reversed(members)]
        elif isinstance(one, list):
            pending += [(f"{pointer}/{place}", inner) for place, inner in reversed(list(enumerate(one)))]
        for leaf in found:
            count += 1
            chars += len(leaf.text)
            if count > LEAVES or chars > CHARS:
                yield Leaf(leaf.pointer, "", True)
                return
            yield leaf


def depth_of(value: Any, most: int) -> int:
    """How deep objects and arrays are nested, counted up to ``most``; without recursion."""
    level = [value]
    for depth in range(most):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return depth + 1
    return most
