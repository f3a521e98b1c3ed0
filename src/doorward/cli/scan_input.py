"""Read saved lists of tools: one JSON document or JSON lines, plain or as the JSON-RPC results that servers answer with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from doorward.base.errors import CallerError, OperatorError
from doorward.detect.definition import DefinitionKind
from doorward.protocol.json_door import parse_json

FILE_BYTES = 67_108_864  # one saved list; servers' lists are cut at half of that
STDIN = "-"
TOOLS_COUNT = 50_000  # of all files together
_LISTS: tuple[tuple[str, DefinitionKind], ...] = (
    ("tools", "tool"),
    ("prompts", "prompt"),
    ("resources", "resource"),
    ("resourceTemplates", "template"),
)


class Item(NamedTuple):
    """One definition as a file has it."""

    kind: DefinitionKind
    server: str
    value: Any
    file: str
    line: int

    @property
    def name(self) -> str:
        """Its name, "" when it has none."""
        name = self.value.get("name") if isinstance(self.value, dict) else None
        return name if isinstance(name, str) else self.kind if self.kind == "instructions" else ""


def _bad(file: str, tell: str, detail: str = "") -> OperatorError:
    return OperatorError("scan-input", f"{file}: {tell}", detail)


def _read(path: Path) -> bytes:
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(FILE_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise _bad(str(path), "this file cannot be read.", str(error)) from error
    if len(data) > FILE_BYTES:
        raise _bad(str(path), f"it is larger than {FILE_BYTES} bytes.")
    return data


def _documents(file: str, data: bytes) -> Iterator[tuple[int, Any]]:
    """The line and value of each document: the whole file where it is one, else each of its lines."""
    if not data.strip():
        raise _bad(file, "it is empty.")
    try:
        yield 1, parse_json(data)
    except CallerError as whole:
        lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
        if len(lines) < 2:
            raise _bad(
                file, f"it is no JSON that two readers agree on. {whole.tell}", whole.detail
            ) from whole
        for number, line in lines:
            try:
                value = parse_json(line)
            except CallerError as error:
                if number == lines[0][0]:
                    raise _bad(
                        file, f"it is neither JSON nor JSON lines. {whole.tell}", whole.detail
                    ) from whole
                raise _bad(file, f"line {number} is no JSON. {error.tell}", error.detail) from error
            yield number, value


def _server_of(value: dict[str, Any], fallback: str) -> str:
    server = value.get("server")
    if isinstance(server, dict):
        server = server.get("name")
    info = value.get("serverInfo")
    if not isinstance(server, str) and isinstance(info, dict):
        server = info.get("name")
    return server if isinstance(server, str) and server else fallback


def _items(value: Any, server: str, file: str, line: int) -> Iterator[Item]:
    """The definitions in one document, in order."""
    if isinstance(value, list):
        for one in value:
            yield Item("tool", server, one, file, line)
        return
    if not isinstance(value, dict):
        raise _bad(file, f"line {line} has neither tools nor a tool.")
    server = _server_of(value, server)
    inner = value.get("result")
    if isinstance(inner, dict):
        yield from _items(inner, server, file, line)
        return
    known = False
    for member, kind in _LISTS:
        listed = value.get(member)
        if isinstance(listed, list):
            known = True
            for one in listed:
                yield Item(kind, server, one, file, line)
        elif member == "tools" and listed is not None:
            raise _bad(file, "its member tools is no array.")
    if "instructions" in value and "name" not in value:
        known = True
        yield Item("instructions", server, value["instructions"], file, line)
    if known or "protocolVersion" in value:
        return
    tool = value.get("tool")
    if isinstance(tool, dict):
        yield Item("tool", server, tool, file, line)
    elif "name" in value or "inputSchema" in value:
        yield Item("tool", server, value, file, line)
    else:
        raise _bad(file, f'line {line} has no tools: a saved list looks like {{"tools": [...]}}.')


def _is_other_message(value: Any) -> bool:
    """A message of a recorded session that lists nothing: a request, an error, the result of a call."""
    if not isinstance(value, dict) or "jsonrpc" not in value:
        return False
    result = value.get("result")
    wanted = (*(member for member, _ in _LISTS), "instructions", "protocolVersion")
    return not isinstance(result, dict) or not any(member in result for member in wanted)


def read_items(paths: tuple[Path, ...]) -> list[Item]:
    """All definitions of all files, in order.

    Raises:
        OperatorError: ``scan-input``.
    """
    items: list[Item] = []
    for path in paths:
        file = str(path)
        stem = "stdin" if file == STDIN else path.stem
        others = documents = 0
        for line, value in _documents(file, _read(path)):
            documents += 1
            if _is_other_message(value):
                others += 1
                continue
            items.extend(_items(value, stem, file, line))
            if len(items) > TOOLS_COUNT:
                raise _bad(file, f"there are more than {TOOLS_COUNT} definitions.")
        if others == documents:
            raise _bad(file, "it holds messages, but none that lists tools.")
    return items
