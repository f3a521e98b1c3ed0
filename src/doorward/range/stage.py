"""What a lab's attack works with: requests of both eras in any shape, a transcript without tokens, and a judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from doorward.identity.metadata import endpoint_path
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json
from doorward.protocol.modern import CAPABILITIES_KEY, VERSION_KEY
from doorward.range.gate import Gate
from doorward.range.index import Cell, Era
from doorward.range.lab import Attempt, Outcome, Phase
from doorward.range.upstream import LabServer
from doorward.range.wire import Answer, Events, Fields, NoAnswerError, exchange, open_events, request_bytes

MODERN, LEGACY = codes.MODERN_VERSIONS[-1], codes.LEGACY_VERSIONS[-1]
PAUSE_SECONDS = 5.0  # for something that has to come
_POLL_SECONDS = 0.02
_BODY_CHARS = 4_096  # of each body in a transcript

Refused = Callable[[Answer], bool]


class Exchange(msgspec.Struct, frozen=True):
    """One line of the transcript; tokens and session ids are replaced by names."""

    phase: Phase
    variant: str
    request: dict[str, Any]
    response: dict[str, Any]


def era_of(cell: Cell) -> Era:
    """The era of the client."""
    return "legacy" if cell.startswith("legacy-") else "modern"


def server_era_of(cell: Cell) -> Era:
    """The era of the server."""
    return "legacy" if cell.endswith("-legacy") else "modern"


def server_name(era: Era) -> str:
    """The name of the server of an era: a lab has one of each."""
    return f"records-{era}"


class Stage:
    """One cell: a gateway, a server of one era, and whoever talks to it in one. ``phase`` is set by the runner."""

    def __init__(self, cell: Cell, gate: Gate, upstream: LabServer) -> None:
        self.cell = cell
        self.era = era_of(cell)
        self.server = server_name(server_era_of(cell))
        self.visitor = f"visitor-{cell}"  # an ordinary user
        self.records: list[dict[str, Any]] = []  # what has come on record while this stage looked
        self.gate = gate
        self.upstream = upstream
        self.phase: Phase = "vulnerable"
        self.transcript: list[Exchange] = []
        self._sessions: list[str] = []
        self._count = 0

    def fresh(self, word: str) -> str:
        """A text that has not been used on this stage."""
        self._count += 1
        return f"{word}-{self.cell}-{self.phase}-{self._count}"

    # -- what is sent -------------------------------------------------------------------------------------------

    def bearer(
        self, user: str, server: str = "", client: str = "doorward-range", role: str = "user"
    ) -> Fields:
        """The credentials of a user of a client; none where identity is off."""
        settings = self.gate.settings
        if settings is not None and settings.identity.mode == "off":
            return []
        return [("Authorization", f"Bearer {self.gate.token(user, server or self.server, client, role)}")]

    def message(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        number: int | None = 1,
        can: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A JSON-RPC message of this stage's era; a notification without ``number``. ``can``: what the client declares."""
        params = dict(params or {})
        if self.era == "modern":
            params["_meta"] = {VERSION_KEY: MODERN, CAPABILITIES_KEY: can or {}}
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        return message if number is None else {**message, "id": number}

    def fields_of(self, message: dict[str, Any], session: str = "") -> Fields:
        """The header fields that an honest client of this era sends with a message."""
        if self.era == "legacy":
            opening = message["method"] == "initialize"
            version = [] if opening else [("MCP-Protocol-Version", LEGACY)]
            return [*version, *([("Mcp-Session-Id", session)] if session else [])]
        found = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", message["method"])]
        name = message["params"].get("name") or message["params"].get("uri")
        return [*found, ("Mcp-Name", name)] if name else found

    async def post(
        self,
        variant: str,
        message: dict[str, Any],
        fields: Fields,
        *,
        server: str = "",
        host: str = "",
        query: str = "",
    ) -> Answer:
        """Send one message on a connection of its own; ``server`` "mcp" is all of them. Raises: NoAnswerError."""
        path = endpoint_path(server or self.server) + (f"?{query}" if query else "")
        return await self._send(variant, "POST", path, encode_json(message), fields, host)

    async def _send(
        self, variant: str, verb: str, path: str, body: bytes, fields: Fields, host: str = ""
    ) -> Answer:
        lines = self._lines(verb, body, fields, host)
        try:
            answer = await exchange(self.gate.host, self.gate.port, request_bytes(verb, path, lines, body))
        except NoAnswerError as trouble:
            self._note(variant, f"{verb} {path}", lines, body, {"trouble": str(trouble)})
            raise
        session = answer.fields.get("mcp-session-id", "")
        if session and session not in self._sessions:
            self._sessions.append(session)
        shown = {"status": answer.status, "fields": [[n, self._clean(v)] for n, v in answer.fields.items()]}
        self._note(variant, f"{verb} {path}", lines, body, {**shown, "body": self._text(answer.body)})
        return answer

    def _lines(self, verb: str, body: bytes, fields: Fields, host: str = "") -> Fields:
        lines: Fields = [("Host", host or self.gate.authority), ("Connection", "close")]
        lines.append(
            ("Accept", "application/json, text/event-stream" if verb == "POST" else "text/event-stream")
        )
        if verb == "POST":
            lines += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        return [*lines, *fields]

    async def end_session(self, variant: str, session: str, fields: Fields) -> Answer:
        """Ask for the end of a session (DELETE). Raises: NoAnswerError."""
        own: Fields = [("Mcp-Session-Id", session), ("MCP-Protocol-Version", LEGACY)]
        return await self._send(variant, "DELETE", endpoint_path(self.server), b"", [*own, *fields])

    async def hear(self, variant: str, session: str, fields: Fields) -> Events | Answer:
        """Open the stream of a session (GET); the answer where there is none. Raises: NoAnswerError."""
        path = endpoint_path(self.server)
        own: Fields = [("Mcp-Session-Id", session), ("MCP-Protocol-Version", LEGACY)]
        lines = self._lines("GET", b"", [*own, *fields])
        heard = await open_events(self.gate.host, self.gate.port, request_bytes("GET", path, lines, b""))
        told: dict[str, Any] = {"status": 200, "body": "(a stream)"}
        if isinstance(heard, Answer):
            told = {"status": heard.status, "body": self._text(heard.body)}
        self._note(variant, f"GET {path}", lines, b"", told)
        return heard

    async def look(self) -> list[dict[str, Any]]:
        """What has come on record since the last look; it is kept in ``records`` as well."""
        found = await self.gate.new_records()
        self.records += found
        return found

    async def open_session(self, variant: str, fields: Fields, *, host: str = "") -> tuple[Answer, str]:
        """Open a session of the 2025 era; its id, or "" where the answer is no result. Raises: NoAnswerError."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "doorward-range", "version": "1"},
        }
        message = self.message("initialize", params)
        answer = await self.post(variant, message, [*self.fields_of(message), *fields], host=host)
        session = answer.fields.get("mcp-session-id", "")
        if not answer.is_result or not session:
            return answer, ""
        done = self.message("notifications/initialized", number=None)
        await self.post(variant, done, [*self.fields_of(done, session), *fields], host=host)
        return answer, session

    async def visit(self, user: str) -> str:
        """The session of an ordinary user; "" in the era without sessions. Raises: NoAnswerError."""
        if self.era == "modern":
            return ""
        _, session = await self.open_session("ordinary use", self.bearer(user))
        if not session:
            raise NoAnswerError("an ordinary session cannot be opened")
        return session

    def call(self, tool: str, **arguments: str) -> dict[str, Any]:
        """A tool call."""
        return self.message("tools/call", {"name": tool, "arguments": arguments})

    async def ordinary_call(self, user: str) -> bool:
        """Whether an ordinary call is served with what only the server knows, and has reached it. Raises nothing."""
        marker = self.fresh("ordinary")
        try:
            session = await self.visit(user)
            message = self.call("read_record", id="1", marker=marker)
            fields = [*self.fields_of(message, session), *self.bearer(user)]
            answer = await self.post("ordinary use", message, fields)
        except NoAnswerError:
            return False
        return answer.is_result and self.leaks(answer) and self.upstream.saw(marker)

    # -- what came of it ----------------------------------------------------------------------------------------

    async def attempt(
        self,
        variant: str,
        message: dict[str, Any],
        fields: Fields,
        refused: Refused,
        *,
        server: str = "",
        host: str = "",
        query: str = "",
        always_blocked: bool = False,
    ) -> Attempt:
        """Send one message of an attack and judge what came of it.

        Exploited: it reached the server and was served. Blocked: it was refused exactly as ``refused`` says, nothing
        reached the server, and no answer holds the sentinel. Everything else is inconclusive.
        """
        before = self.upstream.requests
        try:
            answer = await self.post(variant, message, fields, server=server, host=host, query=query)
        except NoAnswerError as trouble:
            return Attempt(variant, "inconclusive", str(trouble), always_blocked=always_blocked)
        reached = self.upstream.requests > before
        marker = self._marker(message)
        if marker:
            reached = self.upstream.saw(marker)
        outcome: Outcome = "inconclusive"
        if answer.is_result and reached:
            outcome = "exploited"
        elif refused(answer) and self.upstream.requests == before and not self.leaks(answer):
            outcome = "blocked"
        why = f"status {answer.status}"
        if answer.error:
            why += f", code {answer.error.get('code')}"
        why += ", reached the server" if reached else ", did not reach the server"
        return Attempt(variant, outcome, why, answer.event, self.leaks(answer), always_blocked)

    @staticmethod
    def _marker(message: dict[str, Any]) -> str:
        arguments = message["params"].get("arguments")
        return str(arguments.get("marker", "")) if isinstance(arguments, dict) else ""

    def leaks(self, answer: Answer) -> bool:
        """Whether an answer holds what only the server knows."""
        return self.upstream.sentinel.encode() in answer.body

    # -- transcript ---------------------------------------------------------------------------------------------

    async def recorded(self, mark: int, method: str, user: str, seconds: float) -> str:
        """The event under which a user's request is on record since a mark; "" when none comes in time."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self.look()
                    for record in self.records[mark:]:
                        if record.get("method") == method and record.get("principal") == user:
                            return str(record.get("event", ""))
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return ""

    def note(self, variant: str, line: str, fields: Fields, body: bytes, answer: Answer) -> None:
        """Put an exchange that a lab made by itself into the transcript."""
        shown = {"status": answer.status, "fields": [[n, self._clean(v)] for n, v in answer.fields.items()]}
        self._note(variant, line, fields, body, {**shown, "body": self._text(answer.body)})

    def _note(self, variant: str, line: str, fields: Fields, body: bytes, response: dict[str, Any]) -> None:
        request = {
            "line": self._clean(f"{line} HTTP/1.1"),
            "fields": [[name, self._clean(value)] for name, value in fields],
            "body": self._text(body),
        }
        self.transcript.append(Exchange(self.phase, variant, request, response))

    def _text(self, body: bytes) -> str:
        text = self._clean(body.decode("utf-8", "replace"))
        return text if len(text) <= _BODY_CHARS else text[:_BODY_CHARS] + "..."

    def _clean(self, text: str) -> str:
        for number, token in enumerate(self.gate.issued, 1):
            text = text.replace(token, f"[token {number}]")
        for number, session in enumerate(self._sessions, 1):
            text = text.replace(session, f"[session {number}]")
        return text
