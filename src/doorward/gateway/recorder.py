"""Put every decision and outcome on record, and count them: what happened, never with what values."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from doorward.audit.record import Records
from doorward.base.clock import Clock
from doorward.base.errors import DoorwardError, StoreError
from doorward.base.ids import EventIds
from doorward.controls.control import Call, Head
from doorward.gateway.ports import Journal
from doorward.identity.principal import LOCAL

if TYPE_CHECKING:
    from doorward.gateway.exchange import Exchange
    from doorward.gateway.pipeline import Ruling
    from doorward.gateway.sessions import Session
    from doorward.identity.principal import Principal

_BUCKETS_US = (500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000)
_NOBODY_BURST = 2_000  # records of callers without an identity: at once ...
_NOBODY_PER_SECOND = 50.0  # ... and on the long run, by one worker
_PATH_CHARS = 256  # of a path that leads nowhere
_SERIES_COUNT = 5_000  # distinct label sets that are counted apart; further ones share one


class Recorder:
    """Writes this worker's records and keeps its counters."""

    def __init__(
        self, journal: Journal, digest_key: bytes, log: str, clock: Clock, ids: EventIds, own_issuer: str = ""
    ) -> None:
        self._own_issuers = (own_issuer, LOCAL.issuer)
        self._journal = journal
        self._records = Records(log, digest_key)
        self._clock = clock
        self._ids = ids
        self._requests: dict[tuple[str, str, str, int], int] = {}
        self._durations = [0] * (len(_BUCKETS_US) + 1)
        self._duration_sum_us = 0
        self._refusals: dict[str, int] = {}
        self._crashes: dict[str, int] = {}
        self._last_events: dict[str, str] = {}  # by control: the record of its last refusal
        self.digest = self._records.digest
        self._nobody_room: float = _NOBODY_BURST
        self._nobody_at = clock.monotonic()
        self._nobody_left_out = 0

    def _issuer(self, who: Principal | None) -> str:
        """Who vouches for a principal, where that is not Doorward itself."""
        return "" if who is None or who.issuer in self._own_issuers else who.issuer

    def when_synced(self, callback: Callable[[StoreError | None], None]) -> None:
        """Call back once all records so far are on disk."""
        self._journal.when_synced(callback)

    # -- calls --------------------------------------------------------------------------------------------------

    def decision(self, call: Call, request_digest: str, cell: str = "") -> None:
        """A call may go on; ``cell`` says the eras of client and server."""
        who = call.principal
        if not call.notes:
            method = call.message.method or "response"
            key = (call.era, cell, who.tenant, who.subject, who.client, call.server, method, call.item,
                   call.session, call.address, call.pin, self._issuer(who))  # fmt: skip
            self._journal.append(self._records.allowed(key, call.event, self._clock.now(), request_digest))
            return
        self._journal.append(
            self._records.decision(
                event=call.event,
                at=self._clock.now(),
                era=call.era,
                cell=cell,
                issuer=self._issuer(who),
                tenant=who.tenant,
                principal=who.subject,
                client=who.client,
                server=call.server,
                method=call.message.method or "response",
                item=call.item,
                pin=call.pin,
                session=call.session,
                address=call.address,
                request_digest=request_digest,
                verdict="note",
                notes=call.notes,
            )
        )
        call.notes.clear()  # what comes from here on belongs to the outcome

    def refusal(self, call: Call, request_digest: str, ruling: Ruling, status: int) -> None:
        """A call was refused: decision and outcome in one."""
        who = call.principal
        self._count_refusal(ruling.slug, call.event, crashed=ruling.crashed)
        self._count(call.server, call.message.method, "refuse", status)
        self._journal.append(
            self._records.decision(
                event=call.event,
                at=self._clock.now(),
                era=call.era,
                issuer=self._issuer(who),
                tenant=who.tenant,
                principal=who.subject,
                client=who.client,
                server=call.server,
                method=call.message.method or "response",
                item=call.item,
                pin=call.pin,
                session=call.session,
                address=call.address,
                request_digest=request_digest,
                verdict="refuse",
                control=ruling.slug,
                reason=ruling.refuse.reason,
                code=ruling.refuse.code,
                http_status=status,
                notes=call.notes,
            )
        )

    def outcome(
        self,
        exchange: Exchange,
        outcome: str,
        status: int,
        code: int,
        body: bytes,
        ruling: Ruling | None = None,
    ) -> None:
        """How a call ended. ``ruling`` is the refusal of its reply, where a control refused that."""
        call = exchange.call
        duration_us = (time.monotonic_ns() - exchange.started_ns) // 1000
        key = (call.server, call.message.method, "allow" if ruling is None else "refuse", status)
        if key in self._requests:
            self._requests[key] += 1
        else:
            self._count(*key)
        self._observe(duration_us)
        if ruling is None and not call.notes:
            self._journal.append(
                self._records.ended(
                    call.event, self._clock.now(), outcome, exchange.upstream_requests, duration_us,
                    self.digest(body) if body else "", status, code,
                )
            )  # fmt: skip
            return
        refused = {}
        if ruling is not None:
            self._count_refusal(ruling.slug, call.event, crashed=ruling.crashed)
            refused = {"verdict": "refuse", "control": ruling.slug, "reason": ruling.refuse.reason}
        self._journal.append(
            self._records.outcome(
                event=call.event,
                at=self._clock.now(),
                outcome=outcome,
                upstream_requests=exchange.upstream_requests,
                duration_us=duration_us,
                response_digest=self.digest(body) if body else "",
                http_status=status,
                code=code,
                notes=call.notes,
                **refused,
            )
        )

    # -- everything else ----------------------------------------------------------------------------------------

    def head_refused(self, head: Head, ruling: Ruling, event: str, address: str) -> None:
        """A request was refused on its head alone."""
        who = head.principal
        refuse = ruling.refuse
        self._count_refusal(ruling.slug, event, crashed=ruling.crashed)
        self._count(head.server or "", head.verb, "refuse", refuse.status)
        if who is None and not self._has_room_for_nobody():
            return
        self._journal.append(
            self._records.happening(
                "auth" if ruling.slug == "check-token" else "call",
                event=event,
                at=self._clock.now(),
                method=head.verb,
                verdict="refuse",
                issuer=self._issuer(who),
                tenant=who.tenant if who is not None else "",
                principal=who.subject if who is not None else "",
                client=who.client if who is not None else "",
                server=head.server or "",
                item=head.path[:_PATH_CHARS] if head.server is None else "",
                control=ruling.slug,
                reason=refuse.reason,
                code=refuse.code,
                http_status=refuse.status,
                address=address,
            )
        )

    def _has_room_for_nobody(self) -> bool:
        """Whether a refusal of somebody unknown gets a record of its own: a flood must not fill the disk.

        Further ones are counted, and the count goes on record once there is room again.
        """
        now = self._clock.monotonic()
        gained = (now - self._nobody_at) * _NOBODY_PER_SECOND
        self._nobody_at = now
        self._nobody_room = min(_NOBODY_BURST, self._nobody_room + gained)
        if self._nobody_room < 1.0:
            self._nobody_left_out += 1
            return False
        self._nobody_room -= 1.0
        if self._nobody_left_out:
            count, self._nobody_left_out = self._nobody_left_out, 0
            self._journal.append(
                self._records.happening(
                    "alert",
                    event=self._ids.mint(),
                    at=self._clock.now(),
                    method="",
                    verdict="refuse",
                    control="keep-ledger",
                    reason=f"{count} refusals of unknown callers were counted only",
                )
            )
        return True

    def broken(self, error: DoorwardError, event: str, address: str) -> None:
        """Bytes that are no HTTP request."""
        self._count_refusal("check-head", event)
        if not self._has_room_for_nobody():
            return
        self._journal.append(
            self._records.happening(
                "call",
                event=event,
                at=self._clock.now(),
                method="",
                verdict="refuse",
                control="check-head",
                reason=error.code,
                code=getattr(error, "rpc_code", 0),
                http_status=getattr(error, "status", 400),
                address=address,
            )
        )

    def caller_error(self, head: Head, error: Any, event: str, address: str) -> None:
        """A body that is no message, or a message that does not fit its session."""
        who = head.principal
        self._count_refusal("check-shape", event)
        self._count(head.server or "", head.verb, "refuse", error.status)
        self._journal.append(
            self._records.happening(
                "call",
                event=event,
                at=self._clock.now(),
                method=head.verb,
                verdict="refuse",
                issuer=self._issuer(who),
                tenant=who.tenant if who is not None else "",
                principal=who.subject if who is not None else "",
                client=who.client if who is not None else "",
                server=head.server or "",
                control="check-shape",
                reason=error.code,
                code=error.rpc_code,
                http_status=error.status,
                address=address,
            )
        )

    def claim_refused(self, head: Head, ruling: Ruling, event: str, address: str, *, is_alert: bool) -> None:
        """A caller named a session that is not there, or (``is_alert``) is somebody else's."""
        who, refuse = head.principal, ruling.refuse
        self._count_refusal(ruling.slug, event, crashed=ruling.crashed)
        self._count(head.server or "", head.verb, "refuse", refuse.status)
        self._journal.append(
            self._records.happening(
                "alert" if is_alert else "call",
                event=event,
                at=self._clock.now(),
                method=head.verb,
                verdict="refuse",
                tenant=who.tenant if who is not None else "",
                principal=who.subject if who is not None else "",
                client=who.client if who is not None else "",
                server=head.server or "",
                control=ruling.slug,
                reason=refuse.reason,
                code=refuse.code,
                http_status=refuse.status,
                address=address,
            )
        )

    def session_event(self, head: Head, method: str, event: str, address: str, status: int) -> None:
        """A stream was opened or a session ended."""
        who = head.principal
        self._count(head.server or "", method, "allow", status)
        self._journal.append(
            self._records.happening(
                "call",
                event=event,
                at=self._clock.now(),
                method=method,
                verdict="allow",
                issuer=self._issuer(who),
                tenant=who.tenant if who is not None else "",
                principal=who.subject if who is not None else "",
                client=who.client if who is not None else "",
                server=head.server or "",
                http_status=status,
                address=address,
            )
        )

    def notice_refused(self, server: str, method: str, session: Session | None, ruling: Ruling) -> None:
        """A server said or asked something that its client may not hear."""
        event = self._ids.mint()
        self._count_refusal(ruling.slug, event, crashed=ruling.crashed)
        self._journal.append(
            self._records.happening(
                "alert",
                event=event,
                at=self._clock.now(),
                method=method,
                verdict="refuse",
                principal=session.principal if session is not None else "",
                server=server,
                control=ruling.slug,
                reason=ruling.refuse.reason,
                code=ruling.refuse.code,
            )
        )

    # -- numbers ------------------------------------------------------------------------------------------------

    def _count(self, server: str, method: str, verdict: str, status: int) -> None:
        key = (server, method, verdict, status)
        seen = self._requests.get(key)
        if seen is None and len(self._requests) >= _SERIES_COUNT:
            key, seen = ("", "other", verdict, 0), self._requests.get(("", "other", verdict, 0))
        self._requests[key] = (seen or 0) + 1

    def _count_refusal(self, slug: str, event: str, *, crashed: bool = False) -> None:
        self._refusals[slug] = self._refusals.get(slug, 0) + 1
        self._last_events[slug] = event
        if crashed:
            self._crashes[slug] = self._crashes.get(slug, 0) + 1

    def _observe(self, duration_us: int) -> None:
        self._duration_sum_us += duration_us
        self._durations[bisect_left(_BUCKETS_US, duration_us)] += 1

    def numbers(self) -> dict[str, Any]:
        """Counters since the start of this worker."""
        return {
            "requests": [[*key, str(status), count] for (*key, status), count in self._requests.items()],
            "refusals": dict(self._refusals),
            "crashes": dict(self._crashes),
            "last_events": dict(self._last_events),
            "duration_bounds_us": list(_BUCKETS_US),
            "durations": list(self._durations),
            "duration_sum_us": self._duration_sum_us,
        }
