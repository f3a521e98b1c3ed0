"""The office that withdraws persons: every token that an issuer gave out for a subject until now counts for nothing.

Operators say so through the admin plane; issuers with ``events_audience`` by security events at ``/oauth/events`` (RFC 8935).
All workers know it with the next snapshot, and streams that the subject holds open end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.app.office import Office
from doorward.app.trust import WITHDRAWN, trusts_of
from doorward.base.clock import SystemClock, rfc3339
from doorward.base.errors import CallerError, StoreError
from doorward.console.acts import Act, Asked
from doorward.identity.budget import CheckBudget
from doorward.identity.security_events import (
    EVENT_BYTES,
    OLD_SECONDS,
    EventRefusal,
    SecurityEvent,
    issuer_named,
    read_event,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from doorward.app.issuers import Issuers
    from doorward.app.supervisor import Supervisor

_log = logging.getLogger("doorward.withdrawals")
_SPACE = "withdrawn"
_PATH = "/oauth/events"
_KEPT_SECONDS = 200_000.0  # longer than any token may live
_COUNT = 50_000


class Withdrawals(Office):
    """See the module."""

    name = WITHDRAWN

    def __init__(self, supervisor: Supervisor, issuers: Issuers) -> None:
        super().__init__(supervisor)
        self._issuers = issuers
        self._budget = CheckBudget(SystemClock())
        self._before: dict[
            tuple[str, str], float
        ] = {}  # (issuer, subject) -> tokens from before count for nothing

    async def open(self) -> None:
        """Take up what is kept."""
        rows = await asyncio.to_thread(self.supervisor.ready_state().all_kept, _SPACE, time.time())
        for row in rows.values():
            issuer, subject, before = msgspec.msgpack.decode(row, type=tuple[str, str, float])
            self._before[issuer, subject] = before

    def paper(self) -> Any:
        """All of them, as triples."""
        if not self._before:
            return None
        return [[issuer, subject, before] for (issuer, subject), before in self._before.items()]

    async def withdraw(self, issuer: str, subject: str, by: str, reason: str) -> float:
        """Withdraw one subject of an issuer from now on. Raises: StoreError."""
        now = time.time()
        for old in [who for who, before in self._before.items() if before < now - _KEPT_SECONDS]:
            del self._before[old]
        if len(self._before) >= _COUNT and (issuer, subject) not in self._before:
            raise StoreError(
                "withdrawals-full", "So many subjects were withdrawn lately that no more can be kept."
            )
        row = msgspec.msgpack.encode((issuer, subject, now))
        key = f"{issuer} {subject}"  # an issuer holds no space
        await asyncio.to_thread(
            self.supervisor.ready_state().keep, _SPACE, key, row, expires_at=now + _KEPT_SECONDS
        )
        self._before[issuer, subject] = now
        self.supervisor.push()
        self.supervisor.note(
            "subject-withdrawn", by, item=subject, control="check-token", reason=f"{issuer}: {reason}"
        )
        return now

    # -- issuers ------------------------------------------------------------------------------------------------

    def web_paths(self) -> Sequence[str]:
        """The receiver, where any issuer may send events."""
        return (
            (_PATH,) if any(one.events_audience for one in self.supervisor.settings.identity.issuers) else ()
        )

    def web(self) -> Sequence[BaseRoute]:
        """See ``Office.web``."""
        from starlette.routing import Route

        return [Route(_PATH, self._receive, methods=["POST"])]

    async def _receive(self, request: Request) -> Response:
        """RFC 8935: 202 for what is taken, 400 with a code for what is not."""
        from starlette.responses import JSONResponse, Response

        address = request.client.host if request.client is not None else ""
        if not self._budget.has_room(address):
            return Response(status_code=429, headers={"Retry-After": "1"})
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await request.body()
        if kind != "application/secevent+jwt" or len(body) > EVENT_BYTES or not body.isascii():
            found: SecurityEvent | EventRefusal = EventRefusal(
                "invalid_request", "Send one security event token."
            )
        else:
            found = await self._judge(body.decode("ascii"))
        if isinstance(found, EventRefusal):
            self._budget.charge(address)
            _log.warning("a security event was refused", extra={"error": found.error, "tell": found.tell})
            return JSONResponse({"err": found.error, "description": found.tell}, 400)
        return Response(status_code=202)

    async def _judge(self, token: str) -> SecurityEvent | EventRefusal:
        issuer = issuer_named(token)
        settings = self.supervisor.settings
        given = next(
            (one for one in settings.identity.issuers if one.issuer == issuer and one.events_audience), None
        )
        trust = next((one for one in trusts_of(settings) if one.issuer == issuer), None)
        if given is None or trust is None:
            return EventRefusal("invalid_issuer", "Events of this issuer are not taken here.")
        found = read_event(token, trust, self._issuers.keys(issuer), given.events_audience, time.time())
        if (
            isinstance(found, EventRefusal)
            and found.kid
            and await self._issuers.find(issuer, found.kid) == "known"
        ):
            found = read_event(token, trust, self._issuers.keys(issuer), given.events_audience, time.time())
        if isinstance(found, EventRefusal):
            return found
        # SECURITY: a replayed event would put the moment forward again and lock the person out of fresh tokens.
        now = time.time()
        fresh = await asyncio.to_thread(
            self.supervisor.ready_state().mark_once,
            "secevent",
            f"{issuer} {found.token_id}",
            now + 2 * OLD_SECONDS,
            now,
        )
        for subject in found.subjects if fresh else ():
            await self.withdraw(
                issuer, subject, issuer, ", ".join(kind.rpartition("/")[2] for kind in found.kinds)
            )
        return found

    # -- operators ----------------------------------------------------------------------------------------------

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        members = {"issuer": {"type": "string"}, "subject": {"type": "string"}, "reason": {"type": "string"}}
        schema = {"type": "object", "properties": members, "required": ["issuer", "subject"]}
        return [
            Act("GET", "withdrawals", "Subjects whose earlier tokens count for nothing.", self._list),
            Act(
                "POST",
                "withdrawals",
                "Withdraw all tokens that an issuer gave out for a subject until now.",
                self._act,
                schema,
            ),
        ]

    def _list(self, asked: Asked) -> list[dict[str, Any]]:
        return [
            {"issuer": issuer, "subject": subject, "before": rfc3339(before)}
            for (issuer, subject), before in self._before.items()
        ]

    async def _act(self, asked: Asked) -> dict[str, Any]:
        match asked.body:
            case {"issuer": str(issuer), "subject": str(subject)} if subject and len(subject) <= 1024:
                if issuer not in {one.issuer for one in self.supervisor.settings.identity.issuers}:
                    raise CallerError(
                        "issuer-unknown", "There is no such issuer in the settings.", status=404
                    )
                before = await self.withdraw(issuer, subject, asked.who, str(asked.body.get("reason", "")))
                return {"issuer": issuer, "subject": subject, "before": rfc3339(before)}
            case _:
                raise CallerError("body", 'Send {"issuer": text, "subject": text}.')
