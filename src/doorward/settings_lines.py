"""On which line of a TOML file each key stands (TOML 1.0), for error messages.

The reader of the standard library keeps no positions. This scanner runs only over text that it has accepted, and only
looks for keys; where it loses its way it stops, and the keys after that have no line.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from contextlib import suppress

Path = tuple[str | int, ...]

_BLANK = " \t\r\n"
_BARE_ENDS = " \t\r\n.=]"


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, int] = {}
        self._ends = [place for place, char in enumerate(text) if char == "\n"]
        self._tables: dict[Path, int] = {}  # arrays of tables: how many tables came so far

    def scan(self) -> None:
        prefix: Path = ()
        while self._skip_blank():
            if self.text.startswith("[[", self.at):
                prefix = self._header(2)
            elif self.text[self.at] == "[":
                prefix = self._header(1)
            else:
                self._pair(prefix)

    def _note(self, path: Path) -> None:
        line = bisect_right(self._ends, self.at - 1) + 1
        for length in range(1, len(path) + 1):
            self.found.setdefault(path[:length], line)

    def _skip_blank(self) -> bool:
        """Step over spaces, line ends and comments; False at the end of the text."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in _BLANK:
                self.at += 1
            else:
                return True
        return False

    def _header(self, brackets: int) -> Path:
        start = self.at
        self.at += brackets
        names = self._key()
        path: Path = ()
        for name in names[:-1]:
            path = (*path, name)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        path = (*path, names[-1])
        if brackets == 2:
            self._tables[path] = self._tables.get(path, 0) + 1
            path = (*path, self._tables[path] - 1)
        after, self.at = self.at, start
        self._note(path)
        self.at = self.text.index("]", after) + brackets
        return path

    def _pair(self, prefix: Path) -> None:
        start = self.at
        path = (*prefix, *self._key())
        after, self.at = self.at, start
        self._note(path)
        self.at = self.text.index("=", after) + 1
        self._value(path)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip_blank()
            names.append(self._name())
            self._skip_blank()
            if self.at >= len(self.text) or self.text[self.at] != ".":
                return names
            self.at += 1

    def _name(self) -> str:
        start = self.at
        if self.text[start] in "\"'":
            self._string()
            return next(iter(tomllib.loads(self.text[start : self.at] + " = 0")))
        while self.at < len(self.text) and self.text[self.at] not in _BARE_ENDS:
            self.at += 1
        if self.at == start:
            raise ValueError
        return self.text[start : self.at]

    def _value(self, path: Path) -> None:
        self._skip_blank()
        opening = self.text[self.at]
        if opening in "\"'":
            self._string()
        elif opening in "[{":
            self._inside(path, opening)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}\n#":
                self.at += 1

    def _inside(self, path: Path, opening: str) -> None:
        closing = "]" if opening == "[" else "}"
        self.at += 1
        count = 0
        while self._skip_blank() and self.text[self.at] != closing:
            if self.text[self.at] == ",":
                self.at += 1
            elif opening == "{":
                self._pair(path)
            else:
                self._note((*path, count))
                self._value((*path, count))
                count += 1
        self.at += 1

    def _string(self) -> None:
        quote = self.text[self.at]
        mark = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(mark)
        while not self.text.startswith(mark, self.at):
            if self.at >= len(self.text):
                raise ValueError
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(mark)
        while len(mark) == 3 and self.text.startswith(quote, self.at):
            self.at += 1  # up to two quotes may stand right before the closing three


def line_numbers(text: str) -> dict[Path, int]:
    """Key path -> line number from 1; elements of arrays have their index in the path."""
    scanner = _Scanner(text)
    with suppress(ValueError, IndexError, RecursionError):
        scanner.scan()  # the lines found so far are better than none
    return scanner.found
