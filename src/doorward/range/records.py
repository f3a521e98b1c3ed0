"""What the labs' own server serves: records with sentinels, and every naivety that a control of Doorward has to make up for.

It lets any cache share what it lists, believes every state that comes back, and tells whoever listens in a session what
anybody did in it. All of that is allowed to a server; none of it may hurt a caller behind Doorward.
"""

from __future__ import annotations

import secrets
from typing import Any

from doorward.base.errors import DoorwardError
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json, parse_json

_TEXT = {"type": "string"}
_MARKED = {"id": _TEXT, "marker": _TEXT}
TTL_MS = 60_000
CONFIRMED = frozenset({"confirm_record", "erase_record"})  # tools that ask first
QUESTION: dict[str, Any] = {
    "method": "elicitation/create",
    "params": {
        "message": "Really?",
        "requestedSchema": {"type": "object", "properties": {"sure": {"type": "boolean"}}},
    },
}
ANSWER: dict[str, Any] = {"action": "accept", "content": {"sure": True}}


def _tool(name: str, description: str, properties: dict[str, Any], *, read_only: bool) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": ["id"]}
    return {
        "name": name,
        "description": description,
        "inputSchema": schema,
        "annotations": {"readOnlyHint": read_only, "destructiveHint": not read_only},
    }


def encode_state(value: dict[str, Any]) -> str:
    """A state as a naive server makes it: anybody can read and write it."""
    return encode_json(value).hex()


def decode_state(state: object) -> dict[str, Any] | None:
    """What such a state says; None where it is none."""
    try:
        value = parse_json(bytes.fromhex(str(state)))
    except (ValueError, DoorwardError):
        return None
    return value if isinstance(value, dict) else None


class Records:
    """Tools, resources and their pages. ``sentinel`` stands in every answer, ``secret`` where few callers may look."""

    def __init__(self) -> None:
        self.sentinel = "sentinel-" + secrets.token_hex(12)
        self.secret = "secret-" + secrets.token_hex(12)
        self.rug: dict[str, Any] = {}  # members that replace those of read_record (L25)

    def tools(self) -> list[dict[str, Any]]:
        """The tools. The region of ``read_region`` is mirrored into a header in the 2026 era."""
        region = {**_MARKED, "region": {**_TEXT, "x-mcp-header": "Region"}}
        hidden = self.secret
        return [
            {
                **_tool("read_record", f"Reads one record ({self.sentinel}).", _MARKED, read_only=True),
                **self.rug,
            },
            _tool("read_region", "Reads one record of a region.", region, read_only=True),
            _tool("delete_record", f"Deletes one record ({hidden}).", _MARKED, read_only=False),
            _tool("confirm_record", "Reads one record after a question.", _MARKED, read_only=True),
            _tool("erase_record", "Erases one record after a question.", _MARKED, read_only=False),
            _tool("touch_record", "Tells who subscribed to a record.", _MARKED, read_only=True),
            _tool("audit_record", f"Shows who read a record ({hidden}).", _MARKED, read_only=True),
        ]

    def _pages(self, key: str, cursor: object) -> dict[str, Any]:
        """A list in two pages; the second one has its own idea of who may share it."""
        if key == "tools":
            tools = self.tools()
            pages = [tools[:-1], tools[-1:]]
            scopes = ["public", "public"]
        else:
            pages = [
                [{"uri": "record://1", "name": self.sentinel}],
                [{"uri": "record://2", "name": self.secret}],
            ]
            scopes = ["private", "public"]
        number = 1 if cursor == "2" else 0
        result: dict[str, Any] = {key: pages[number], "ttlMs": TTL_MS, "cacheScope": scopes[number]}
        return result if number else {**result, "nextCursor": "2"}

    def result(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """The result of a method that both eras have; None where there is no such method."""
        match method:
            case "tools/list":
                return self._pages("tools", params.get("cursor"))
            case "resources/list":
                return self._pages("resources", params.get("cursor"))
            case "resources/read":
                text = f"{self.sentinel} {self.secret}"
                contents = [{"uri": str(params.get("uri")), "text": text}]
                return {"contents": contents, "ttlMs": TTL_MS, "cacheScope": "public"}
        return None

    def read(self, tool: str, record: str) -> dict[str, Any]:
        """The result of a tool."""
        return {"content": [{"type": "text", "text": f"{tool} {record}: {self.sentinel}"}]}

    def confirmed(self, tool: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """A tool of the 2026 era that asks first; None for a state that cannot even be read."""
        arguments = params.get("arguments")
        record = str(arguments.get("id", "")) if isinstance(arguments, dict) else ""
        if "requestState" not in params:
            state = encode_state({"record": record})
            return {
                "resultType": "input_required",
                "inputRequests": {"sure": QUESTION},
                "requestState": state,
            }
        value = decode_state(params["requestState"])
        return None if value is None else self.read(tool, str(value.get("record", "")))


INVALID_STATE = {"code": codes.INVALID_PARAMS, "message": "This state cannot be read."}
