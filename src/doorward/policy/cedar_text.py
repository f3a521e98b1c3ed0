"""Cedar text cut into its policies with the line where each begins, for Cedar's own errors name no place."""

from __future__ import annotations

import re

# What matters to the cut: comments, string literals and the semicolon that ends a policy (Cedar grammar,
# tokens).
_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|"|;|\s+|[^\s;"/]+|/', re.DOTALL)


def statements_of(text: str) -> list[tuple[int, str]]:
    """Each policy with the line, from 1, of its first word. A last one without semicolon counts too."""
    found: list[tuple[int, str]] = []
    start: int | None = None
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if start is None and not piece.startswith("//") and not piece.isspace():
            start = token.start()
        if piece == ";" and start is not None:
            found.append((text.count("\n", 0, start) + 1, text[start : token.end()]))
            start = None
    if start is not None:
        found.append((text.count("\n", 0, start) + 1, text[start:]))
    return found
