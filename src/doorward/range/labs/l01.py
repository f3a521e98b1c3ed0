"""L01, open server: whoever reaches the port reads everybody's records, because nobody asks for a token."""

from __future__ import annotations

from typing import ClassVar

from doorward.identity.metadata import FEDERATED, endpoint_path
from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.stage import LEGACY, Stage
from doorward.range.wire import Answer, Fields


def _refused(answer: Answer) -> bool:
    """401 with a challenge that says where tokens come from (RFC 6750 section 3, RFC 9728 section 5.1)."""
    challenge = answer.fields.get("www-authenticate", "")
    return answer.status == 401 and challenge.startswith("Bearer ") and "resource_metadata=" in challenge


class OpenServer(Lab):
    """Lists, tool calls and resources without a token, with an invented one, and with a good one in the query."""

    name: ClassVar[str] = "L01"
    vulnerable: ClassVar[Tables] = {"controls.check-token": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.check-token": {"mode": "enforce"}}

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        found: list[Attempt] = []
        credentials: list[tuple[str, Fields, str]] = [
            ("no token", [], ""),
            ("an invented token", [("Authorization", "Bearer invented")], ""),
            # RFC 9700 section 4.3.2: a token in the query is no token.
            (
                "a good token in the query",
                [],
                f"access_token={stage.gate.token(stage.visitor, stage.server)}",
            ),
        ]
        for who, fields, query in credentials:
            found += await self._open(stage, who, fields, query)
            found += await self._read(stage, who, session, fields, query)
        return found

    @staticmethod
    async def _open(stage: Stage, who: str, fields: Fields, query: str) -> list[Attempt]:
        """The first thing that a client says, to the server's own endpoint and to that of all servers."""
        found = []
        opening = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        first = ("initialize", opening) if stage.era == "legacy" else ("tools/list", None)
        for server in (stage.server, FEDERATED):
            message = stage.message(*first)
            lines = [*stage.fields_of(message), *fields]
            variant = f"{who}: {first[0]} at {endpoint_path(server)}"
            found.append(await stage.attempt(variant, message, lines, _refused, server=server, query=query))
        return found

    @staticmethod
    async def _read(stage: Stage, who: str, session: str, fields: Fields, query: str) -> list[Attempt]:
        """The session, where there is one, is somebody else's: it must not stand for a token."""
        messages = [
            ("list resources", stage.message("resources/list")),
            ("read one person's record", stage.call("read_record", id="alice", marker=stage.fresh("alice"))),
            ("read another's record", stage.call("read_record", id="bob", marker=stage.fresh("bob"))),
            ("delete a record", stage.call("delete_record", id="bob", marker=stage.fresh("gone"))),
            ("read a resource", stage.message("resources/read", {"uri": "record://1"})),
        ]
        found = []
        for what, message in messages:
            lines = [*stage.fields_of(message, session), *fields]
            found.append(await stage.attempt(f"{who}: {what}", message, lines, _refused, query=query))
        return found


LAB = OpenServer()
