"""A client of one era before a server of one era only: what tests in all four cells talk through."""

from __future__ import annotations

import base64
import json
from typing import Any

from doorward.cli.token import mint_token
from doorward.settings import load
from tests.stack.kit import LEGACY, Stack
from tests.stack.wire import Answer, Events
from tests.stand_ins.http_server import HttpUpstream

# A stdio server that shows how it was started.
LOOK = r"""
import json, os, sys
state = {"calls": 0, "who": os.urandom(8).hex()}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, params = asked.get("method"), asked.get("params") or {}
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "s", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]}
    elif method == "tools/call":
        state["calls"] += 1
        seen = {"argv": sys.argv[1:], "env": dict(os.environ), "who": state["who"], "calls": state["calls"],
                "nonce": params["arguments"].get("nonce")}
        result = {"content": [{"type": "text", "text": json.dumps(seen)}]}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


class Cell:
    """A client of one era before a server of one era only."""

    def __init__(self, stack: Stack, era: str, server: str, upstream: HttpUpstream) -> None:
        self.stack, self.era, self.server, self.upstream = stack, era, server, upstream
        self.server_era = upstream.era

    def session(self, user: str = "alice", capabilities: Any = None, **fields: Any) -> dict[str, str]:
        """The fields that a session needs; none in the newer era."""
        if self.era == "modern":
            return {}
        opened = self.stack.session(self.server, capabilities, user=user, **fields)
        return {"Mcp_Session_Id": opened, "MCP_Protocol_Version": LEGACY}

    def message(
        self, method: str, params: Any = None, capabilities: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        if self.era == "modern":
            body, fields = self.stack.modern_message(method, params, capabilities=capabilities)
            return body, dict(fields)
        return self.stack.legacy_message(method, params or {}), {}

    def send(self, method: str, params: Any = None, *, capabilities: Any = None, **fields: Any) -> Answer:
        """One request, in a fresh session where the era has them."""
        keep = {name: fields[name] for name in ("user", "Authorization") if name in fields}
        body, own = self.message(method, params, capabilities)
        session = {} if "Mcp_Session_Id" in fields else self.session(capabilities=capabilities, **keep)
        return self.stack.ask(self.server, body, **{**own, **session, **fields})

    def call(self, tool: str = "echo", arguments: Any = None, **more: Any) -> Answer:
        """A tool call."""
        params = {"name": tool, "arguments": arguments or {}, **more.pop("params", {})}
        return self.send("tools/call", params, **more)

    def open(self, params: Any, capabilities: Any = None, **fields: Any) -> Events:
        """A call whose answer is an event stream."""
        body, own = self.message("tools/call", params, capabilities)
        own |= {} if "Mcp_Session_Id" in fields else self.session(capabilities=capabilities)
        return self.stack.events(self.server, body, **{**own, **fields})

    def passes(self, **more: Any) -> None:
        """Ordinary traffic gets through."""
        answer = self.call(arguments={"ordinary": 1}, **more)
        assert answer.status == 200 and answer.text == '{"ordinary": 1}', answer


def document(stack: Stack, path: str, **fields: Any) -> Answer:
    """A document, without a token."""
    return stack.ask("", verb="GET", path=path, **{"Authorization": None, "Accept": "*/*", **fields})


def scoped(stack: Stack, server: str, *scopes: str) -> str:
    settings = load(stack.config).settings
    return f"Bearer {mint_token(settings, user='alice', server=server, scopes=scopes).access_token}"


def challenge_of(answer: Answer) -> dict[str, str]:
    """The parameters of the Bearer challenge."""
    kind, _, rest = answer.fields["www-authenticate"].partition(" ")
    assert kind == "Bearer"
    return {
        name: value.strip('"') for name, _, value in (one.strip().partition("=") for one in rest.split(", "))
    }


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
