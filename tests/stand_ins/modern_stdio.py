"""A stdio server of the 2026 era only, on nothing but the standard library: one tool, one question, no handshake."""

from __future__ import annotations

import json
import sys
from typing import Any

COMPLETE = {"resultType": "complete"}
CACHED = {**COMPLETE, "ttlMs": 0, "cacheScope": "private"}
FORM = {"type": "object", "properties": {"name": {"type": "string"}}}


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a request; None where the method is unknown."""
    match method:
        case "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **CACHED}
        case "tools/list":
            return {"tools": [{"name": "ask", "inputSchema": {"type": "object"}}], **CACHED}
        case "tools/call":
            given = params.get("inputResponses", {}).get("name")
            if given is None:
                asked = {
                    "method": "elicitation/create",
                    "params": {"message": "Who?", "requestedSchema": FORM},
                }
                return {
                    "resultType": "input_required",
                    "inputRequests": {"name": asked},
                    "requestState": "s",
                }
            text = f"{given['content']['name']} {params['requestState']}"
            return {"content": [{"type": "text", "text": text}], **COMPLETE}
    return None


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    params = message.get("params", {})
    if "io.modelcontextprotocol/protocolVersion" not in params.get("_meta", {}):
        data = {"supported": ["2026-07-28"], "requested": ""}
        return {"error": {"code": -32022, "message": "Unsupported protocol version", "data": data}}
    result = result_of(message["method"], params)
    return {"result": result} if result is not None else {"error": {"code": -32601, "message": "Unknown"}}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked and "method" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer(asked)}), flush=True)
