"""The servers that desktop clients start: read from the text of their configuration files, and rewritten in place.

Pure functions over texts. Formats: ``mcpServers`` (Claude, Cursor, Windsurf, Gemini CLI, Copilot), ``servers`` (VS Code), ``context_servers``
(Zed), all JSON with comments, and ``[mcp_servers.NAME]`` tables in TOML (Codex CLI).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal

import msgspec

from doorward.base.errors import CallerError
from doorward.catalogue.jsonc import Node, parse_jsonc

Format = Literal["mcpServers", "servers", "context_servers", "claude-code", "toml"]
KEPT = "(kept by Doorward)"  # what stands where a secret stood
_URLS = ("url", "serverUrl", "httpUrl")
_GONE_WITH_URL = ("headers", "http_headers", "bearer_token_env_var", "env_http_headers")


class Entry(msgspec.Struct, frozen=True):
    """One server of a configuration. ``path`` are the names that lead to it in the file."""

    name: str
    path: tuple[str, ...]
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}
    bearer_env: str = ""  # Codex CLI: the variable that holds the token
    is_off: bool = False
    is_ambiguous: bool = (
        False  # names a command and a URL: which of them a client takes, only the client knows
    )

    @property
    def is_wrapped(self) -> bool:
        """True when it goes through Doorward already."""
        return (
            len(self.command) > 1
            and self.command[0].rpartition("/")[2] == "doorward"
            and self.command[1] == "wrap"
        )


class Rewrite(msgspec.Struct, frozen=True):
    """What an entry becomes: a command, and the variables whose values are kept elsewhere."""

    command: tuple[str, ...]
    kept_env: tuple[str, ...] = ()


def entries_of(kind: Format, text: str) -> list[Entry]:
    """All servers in a text, in its order. Raises: CallerError ``config-syntax``."""
    if kind == "toml":
        return [_entry(name, ("mcp_servers", name), table) for name, table in _toml_tables(text).items()]
    root = parse_jsonc(text) if text.strip() else None
    return [] if root is None else [_entry(path[-1], path, node.value) for path, node in _nodes(kind, root)]


def rewritten(kind: Format, text: str, rewrites: Mapping[tuple[str, ...], Rewrite]) -> str:
    """The text with some entries going through Doorward; everything else stays as it is, to the byte.

    Raises: CallerError ``config-rewrite`` where the result would not say exactly that.
    """
    fresh = _rewritten_toml(text, rewrites) if kind == "toml" else _rewritten_json(kind, text, rewrites)
    try:
        after = {entry.path: entry for entry in entries_of(kind, fresh)}
    except CallerError as error:
        raise CallerError("config-rewrite", f"It cannot be rewritten safely: {error.tell}") from error
    for entry in entries_of(kind, text):
        found, wanted = after.pop(entry.path, None), rewrites.get(entry.path)
        fine = found == entry if wanted is None else _is_rewritten(found, wanted)
        if not fine:
            raise CallerError(
                "config-rewrite", "It cannot be rewritten safely: an entry would not be as it should."
            )
    return fresh


def _is_rewritten(found: Entry | None, wanted: Rewrite) -> bool:
    return (
        found is not None
        and found.command == wanted.command
        and not found.url
        and all(found.env.get(name) == KEPT for name in wanted.kept_env)
    )


def _rewritten_json(kind: Format, text: str, rewrites: Mapping[tuple[str, ...], Rewrite]) -> str:
    edits: list[tuple[int, int, str]] = []
    for path, node in _nodes(kind, parse_jsonc(text)):
        if path in rewrites:
            edits += _edits(node, rewrites[path])
    for start, end, fresh in sorted(edits, reverse=True):
        text = text[:start] + fresh + text[end:]
    return text


def _nodes(kind: Format, root: Node) -> list[tuple[tuple[str, ...], Node]]:
    """Path and node of each server."""
    places: list[tuple[str, ...]] = [(kind if kind != "claude-code" else "mcpServers",)]
    if kind == "claude-code":  # one file holds the user's servers and those of each project
        projects = root.member("projects")
        places += [("projects", one.name, "mcpServers") for one in (projects.members if projects else ())]
    found = []
    for place in places:
        node: Node | None = root
        for name in place:
            node = node.member(name) if node is not None else None
        found += [((*place, one.name), one.value) for one in (node.members if node is not None else ())]
    return [(path, node) for path, node in found if isinstance(node.value, dict)]


def _entry(name: str, path: tuple[str, ...], table: Mapping[str, Any]) -> Entry:
    program, args = table.get("command"), table.get("args")
    if isinstance(program, dict):  # an older form of Zed's
        args, program = program.get("args"), program.get("path")
    words = [program, *(args if isinstance(args, list) else ())] if isinstance(program, str) else []
    url = next((table[key] for key in _URLS if isinstance(table.get(key), str)), "")
    headers = table.get("headers", table.get("http_headers"))
    bearer = table.get("bearer_token_env_var")
    return Entry(
        name=name,
        path=path,
        command=tuple(str(word) for word in words),
        env=_texts(table.get("env")),
        url=url,
        is_ambiguous=bool(url and program is not None),
        headers=_texts(headers),
        bearer_env=bearer if isinstance(bearer, str) else "",
        is_off=table.get("disabled") is True or table.get("enabled") is False,
    )


def _texts(value: Any) -> dict[str, str]:
    return {str(key): str(one) for key, one in value.items()} if isinstance(value, dict) else {}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _list(words: Sequence[str]) -> str:
    return "[" + ", ".join(_json(word) for word in words) + "]"


def _edits(node: Node, rewrite: Rewrite) -> list[tuple[int, int, str]]:
    """Replacements of spans in one entry."""
    program, args = _json(rewrite.command[0]), _list(rewrite.command[1:])
    members = {one.name: one for one in node.members}
    edits: list[tuple[int, int, str]] = []
    if "command" in members:
        value = members["command"].value
        if isinstance(value.value, dict):
            edits.append((members["command"].start, value.end, f'"command": {program}, "args": {args}'))
            edits += _without(node, {"args"})
        elif "args" in members:
            edits.append((value.start, value.end, program))
            edits.append((members["args"].value.start, members["args"].value.end, args))
        else:
            edits.append((value.start, value.end, f'{program}, "args": {args}'))
    else:
        key = next(name for name in _URLS if name in members and isinstance(members[name].value.value, str))
        edits.append((members[key].start, members[key].value.end, f'"command": {program}, "args": {args}'))
        if "type" in members:
            edits.append((members["type"].value.start, members["type"].value.end, '"stdio"'))
        edits += _without(node, {"args", *_URLS, *_GONE_WITH_URL} - {key})
    env = members["env"].value if "env" in members else None
    for one in env.members if env is not None else ():
        if one.name in rewrite.kept_env:
            edits.append((one.value.start, one.value.end, _json(KEPT)))
    return edits


def _without(node: Node, names: AbstractSet[str]) -> list[tuple[int, int, str]]:
    """Take members out, with the commas that belong to them; one span for those that stand together."""
    spans: list[tuple[int, int, str]] = []
    start, kept_end = -1, -1  # where a run of such members begins, and where the member before it ends
    for one in node.members:
        if one.name in names:
            start = one.start if start < 0 else start
            continue
        if start >= 0:
            spans.append((start, one.start, ""))
        start, kept_end = -1, one.value.end
    if start >= 0:
        spans.append((kept_end if kept_end >= 0 else start, node.members[-1].value.end, ""))
    return spans


def _toml_tables(text: str) -> dict[str, Any]:
    import tomllib

    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallerError("config-syntax", f"it is not TOML: {error}.") from error
    tables = raw.get("mcp_servers")
    return (
        {name: one for name, one in tables.items() if isinstance(one, dict)}
        if isinstance(tables, dict)
        else {}
    )


def _rewritten_toml(text: str, rewrites: Mapping[tuple[str, ...], Rewrite]) -> str:
    import tomlkit

    try:
        document: Any = tomlkit.parse(text)
        for (*_, name), rewrite in rewrites.items():
            table = document["mcp_servers"][name]
            for key in (*_URLS, *_GONE_WITH_URL):
                if key in table:
                    del table[key]
            table["command"] = rewrite.command[0]
            table["args"] = list(rewrite.command[1:])
            for variable in rewrite.kept_env:
                table["env"][variable] = KEPT
        return tomlkit.dumps(document)
    except (tomlkit.exceptions.TOMLKitError, KeyError, TypeError) as error:
        raise CallerError(
            "config-rewrite", "It cannot be rewritten safely: it is TOML of an odd kind."
        ) from error
