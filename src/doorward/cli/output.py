"""What commands print: one JSON document, or plain aligned text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


def print_json(value: Any) -> None:
    """Write exactly one document on stdout."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def paint(text: str, colour: str, stream: Any = None) -> str:
    """Colour for a terminal, plain text elsewhere (https://no-color.org)."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def printable(value: object) -> str:
    """One line of text without anything that a terminal would obey."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[object]], colours: Sequence[Sequence[str]] = ()
) -> None:
    """Aligned columns; the last one is never padded. ``colours`` are those of the cells, "" for none."""
    lines = [list(titles), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for number, line in enumerate(lines):
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths[:-1], strict=True)]
        cells.append(line[-1])
        if number and colours:
            cells = [
                paint(cell, colour) if colour else cell
                for cell, colour in zip(cells, colours[number - 1], strict=True)
            ]
        text = "  ".join(cells).rstrip()
        sys.stdout.write((paint(text, "bold") if number == 0 else text) + "\n")
