"""Paths that are no MCP endpoints (``/oauth``, ``/connect``): parsed by the same face, answered by the supervisor.

What people and authorization clients send there is rare, small and whole: it crosses the bus as one message, so that codes,
consents and grants live in one place however many workers there are. Nothing of the supervisor's keys or state comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.controls.control import Head
from doorward.gateway.answers import JSON_FIELDS, NOT_READY
from doorward.gateway.ports import Reply

BODY_BYTES = 65_536  # no form of these pages is near this size
IN_FLIGHT_COUNT = 32  # requests of one worker that wait for the supervisor at once
_BROKEN = Reply(500, JSON_FIELDS, b'{"error":"server_error"}')
# What the answer itself may not say: the face writes framing and connection fields.
_OWN_FIELDS = frozenset(
    {"connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"}
)

AskWeb = Callable[
    [dict[str, Any], Callable[[Any], None]], None
]  # (payload, then); then(None) where nobody answers


class WebDoor:
    """The worker's side: what it hands over, and how an answer becomes a reply."""

    def __init__(self, ask: AskWeb) -> None:
        self._ask = ask
        self._waiting = 0

    def serve(self, head: Head, body: bytes, address: str, then: Callable[[Reply], None]) -> None:
        """Hand a request over; ``then`` gets exactly one reply."""
        if self._waiting >= IN_FLIGHT_COUNT:
            return then(NOT_READY)
        self._waiting += 1

        def answered(payload: Any) -> None:
            self._waiting -= 1
            then(NOT_READY if payload is None else reply_of(payload))

        payload = {
            "verb": head.verb,
            "path": head.path,
            "query": head.query,
            "fields": head.fields,
            "body": body,
            "address": address,
        }
        return self._ask(payload, answered)


def reply_of(payload: Any) -> Reply:
    """The supervisor's answer as a reply. Whatever could end a header line is refused."""
    match payload:
        case {"status": int(status), "fields": list(fields), "body": bytes(body)} if 200 <= status <= 599:
            lines = []
            for name, value in fields:
                line = f"{name}: {value}"
                if name.lower() in _OWN_FIELDS:
                    continue
                if not line.isascii() or not line.isprintable():
                    return _BROKEN
                lines.append(line.encode() + b"\r\n")
            return Reply(status, b"".join(lines), body)
        case _:
            return _BROKEN
