"""What a lab's attack works with: requests of both eras in any shape, a transcript without tokens, and a judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from doorward.identity.metadata import endpoint_path
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json
from doorward.protocol.modern import CAPABILITIES_KEY, VERSION_KEY
from doorward.range.gate import Gate
from doorward.range.index import Era
from doorward.range.lab import Attempt, Outcome, Phase
from doorward.range.upstream import LabServer
from doorward.range.wire import Answer, Fields, NoAnswerError, exchange, request_bytes

MODERN, LEGACY = codes.MODERN_VERSIONS[-1], codes.LEGACY_VERSIONS[-1]
SERVER = "records"
_BODY_CHARS = 4_096  # of each body in a transcript

Refused = Callable[[Answer], bool]


class Exchange(msgspec.Struct, frozen=True):
    """One line of the transcript; tokens and session ids are replaced by names."""

    phase: Phase
    variant: str
    request: dict[str, Any]
    response: dict[str, Any]


class Stage:
    """One gateway, its server and whoever talks to it. ``phase`` is set by the runner."""

    def __init__(self, era: Era, gate: Gate, upstream: LabServer) -> None:
        self.era = era
        self.gate = gate
        self.upstream = upstream
        self.phase: Phase = "vulnerable"
        self.transcript: list[Exchange] = []
        self._sessions: list[str] = []
        self._count = 0

    def fresh(self, word: str) -> str:
        """A text that has not been used on this stage."""
        self._count += 1
        return f"{word}-{self.phase}-{self._count}"

    # -- what is sent -------------------------------------------------------------------------------------------

    def bearer(self, user: str, server: str = SERVER, client: str = "doorward-range") -> Fields:
        """The credentials of a user of a client; none where identity is off."""
        settings = self.gate.settings
        if settings is not None and settings.identity.mode == "off":
            return []
        return [("Authorization", f"Bearer {self.gate.token(user, server, client)}")]

    def message(
        self, method: str, params: dict[str, Any] | None = None, *, number: int | None = 1
    ) -> dict[str, Any]:
        """A JSON-RPC message of this stage's era; a notification without ``number``."""
        params = dict(params or {})
        if self.era == "modern":
            params["_meta"] = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}
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
        server: str = SERVER,
        host: str = "",
        query: str = "",
    ) -> Answer:
        """Send one message on a connection of its own; ``server`` "mcp" is all of them. Raises: NoAnswerError."""
        body = encode_json(message)
        path = endpoint_path(server) + (f"?{query}" if query else "")
        lines: Fields = [
            ("Host", host or self.gate.authority),
            ("Accept", "application/json, text/event-stream"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *fields,
        ]
        try:
            answer = await exchange(self.gate.host, self.gate.port, request_bytes("POST", path, lines, body))
        except NoAnswerError as trouble:
            self._note(variant, path, lines, body, {"trouble": str(trouble)})
            raise
        session = answer.fields.get("mcp-session-id", "")
        if session and session not in self._sessions:
            self._sessions.append(session)
        shown = {"status": answer.status, "fields": [[n, self._clean(v)] for n, v in answer.fields.items()]}
        self._note(variant, path, lines, body, {**shown, "body": self._text(answer.body)})
        return answer

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
        server: str = SERVER,
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

    def _note(self, variant: str, path: str, fields: Fields, body: bytes, response: dict[str, Any]) -> None:
        request = {
            "line": self._clean(f"POST {path} HTTP/1.1"),
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
