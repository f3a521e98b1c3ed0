"""The office of alerts: what must not wait goes on record, is counted, and is told to receivers, the same thing once in a while.

Whatever puts a record of kind ``alert`` in the supervisor's log raises one; workers raise theirs over the bus.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.adapters.guarded_http import GuardedHttp
from doorward.app.office import Office
from doorward.base.addresses import NetworkRules
from doorward.base.clock import rfc3339
from doorward.base.errors import CallerError, DoorwardError, StoreError
from doorward.base.ids import EventIds
from doorward.console.acts import Act, Asked
from doorward.settings_common import OPEN_PROFILES

if TYPE_CHECKING:
    from doorward.adapters.bus import Peer
    from doorward.app.supervisor import Supervisor
    from doorward.settings_alerts import WebhookSettings

_log = logging.getLogger("doorward.alerts")
_SPACE = "alerts"
_KEPT_SECONDS = 30 * 86_400.0
_KEPT_COUNT = 1_000  # different ones; more are recorded and told, and their counts forgotten
_WAITING_COUNT = 256  # posts that wait for their receiver
_TRIES = 4
_TRY_SECONDS = 0.5  # before the second try, doubled each time


class Alert(msgspec.Struct, frozen=True):
    """One thing that happened, and how often."""

    id: str
    rule: str
    item: str
    server: str
    principal: str
    address: str
    reason: str
    first_at: float
    last_at: float
    told_at: float
    count: int


class Alerts(Office):
    """Counts, records and tells."""

    name = "alerts"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._ids = EventIds()
        self._posts: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._recording = False

    async def open(self) -> None:
        """See ``Office.open``."""
        self._http = self._client()
        if self.supervisor.chronicle is not None:
            self.supervisor.chronicle.on_alert = self._heard

    def renew(self) -> None:
        """See ``Office.renew``."""
        before, self._http = self._http, self._client()
        before.close()

    async def close(self) -> None:
        """See ``Office.close``: what is being told is told to its end, for a moment."""
        if self._posts:
            await asyncio.wait(self._posts, timeout=2.0)
        for task in self._posts:
            task.cancel()
        self._http.close()

    def _client(self) -> GuardedHttp:
        settings = self.supervisor.settings
        plain = settings.gateway.profile in OPEN_PROFILES
        return GuardedHttp(NetworkRules.of(settings.network.allow, plain_loopback=plain))

    def listen(self, peer: Peer) -> None:
        """Hear what a worker raises."""
        peer.on_tell("alert", self._told_by_worker)

    # -- raising ------------------------------------------------------------------------------------------------

    def _told_by_worker(self, payload: Any) -> None:
        match payload:
            case {
                "rule": str(rule),
                "item": str(item),
                "address": str(address),
                "server": str(server),
                "reason": str(reason),
            }:
                self._start(
                    {"method": rule, "item": item, "address": address, "server": server, "reason": reason},
                    record=True,
                )

    def _heard(self, row: dict[str, str]) -> None:
        """A record of kind alert was written."""
        if not self._recording:
            self._start(row, record=False)

    def _start(self, row: dict[str, str], *, record: bool) -> None:
        if len(self._posts) >= _WAITING_COUNT:
            _log.error("too many alerts wait", extra={"rule": row.get("method", "")})
            return
        task = asyncio.get_running_loop().create_task(self._take(row, record=record))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _take(self, row: dict[str, str], *, record: bool) -> None:
        now = time.time()
        try:
            async with self._turn:
                alert, is_news = await asyncio.to_thread(self._count, row, now)
        except StoreError as error:
            _log.error("an alert could not be counted", extra={"code": error.code})
            return
        if not is_news:
            return
        _log.warning("alert", extra={"rule": alert.rule, "item": alert.item, "server": alert.server})
        if record:
            self._recording = True
            try:
                self.supervisor.note(
                    alert.rule, alert.principal, kind="alert", server=alert.server, item=alert.item,
                    reason=alert.reason, address=alert.address,
                )  # fmt: skip
            finally:
                self._recording = False
        for hook in self.supervisor.settings.alerts.webhooks:
            await self._post(hook, alert)

    def _count(self, row: dict[str, str], now: float) -> tuple[Alert, bool]:
        state = self.supervisor.ready_state()
        parts = [row.get(name, "") for name in ("method", "item", "server", "principal")]
        key = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
        found = state.kept(_SPACE, key, now)
        before = None if found is None else msgspec.msgpack.decode(found[0], type=Alert)
        is_news = before is None or now - before.told_at >= self.supervisor.settings.alerts.repeat_seconds
        alert = Alert(
            before.id if before is not None else self._ids.mint(),
            parts[0],
            parts[1],
            parts[2],
            parts[3],
            row.get("address", ""),
            row.get("reason", ""),
            before.first_at if before is not None else now,
            now,
            now if is_news or before is None else before.told_at,
            before.count + 1 if before is not None else 1,
        )
        if before is not None or len(state.all_kept(_SPACE, now)) < _KEPT_COUNT:
            state.keep(_SPACE, key, msgspec.msgpack.encode(alert), expires_at=now + _KEPT_SECONDS)
        return alert, is_news

    async def _post(self, hook: WebhookSettings, alert: Alert) -> None:
        body = msgspec.json.encode(shown(alert))
        wait, why = _TRY_SECONDS, ""
        for number in range(_TRIES):
            try:
                fields = [("Content-Type", "application/json"), *await self._signature(hook, body)]
                got = await self._http.post(
                    hook.url, fields, body, ca_file=hook.ca_file or None, limit_bytes=65_536
                )
                if 200 <= got.status < 300:
                    return
                why = str(got.status)
            except DoorwardError as error:
                why = error.code
            if number < _TRIES - 1:
                await asyncio.sleep(wait)
                wait *= 2
        _log.error("an alert did not reach its receiver", extra={"rule": alert.rule, "why": why})
        self.supervisor.note("alert-not-delivered", "doorward", item=alert.id, reason=why)

    async def _signature(self, hook: WebhookSettings, body: bytes) -> list[tuple[str, str]]:
        if hook.secret is None:
            return []
        index = self.supervisor.settings.alerts.webhooks.index(hook)
        where = f"alerts.webhooks[{index}].secret"
        key = await asyncio.to_thread(self.supervisor.secrets.resolve, hook.secret, where, "sign-in")
        at = str(int(time.time()))
        mac = hmac.new(key.reveal(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        return [("X-Doorward-Signature", f"t={at},v1={mac}")]

    # -- seeing -------------------------------------------------------------------------------------------------

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        return (
            Act("GET", "alerts", "Alerts, newest first", self._list),
            Act("DELETE", "alerts/{id}", "Forget an alert: the next one like it is news", self._forget),
        )

    async def _list(self, _: Asked) -> list[dict[str, Any]]:
        rows = await asyncio.to_thread(self.supervisor.ready_state().all_kept, _SPACE, time.time())
        found = [msgspec.msgpack.decode(row, type=Alert) for row in rows.values()]
        return [shown(one) for one in sorted(found, key=lambda one: -one.last_at)]

    async def _forget(self, asked: Asked) -> dict[str, Any]:
        state = self.supervisor.ready_state()
        rows = await asyncio.to_thread(state.all_kept, _SPACE, time.time())
        for key, row in rows.items():
            if msgspec.msgpack.decode(row, type=Alert).id == asked.path["id"]:
                await asyncio.to_thread(state.drop, _SPACE, key)
                self.supervisor.note("alert-forgotten", asked.who, item=asked.path["id"])
                return {"forgotten": asked.path["id"]}
        raise CallerError("alert", "There is no such alert.", status=404)


def shown(alert: Alert) -> dict[str, Any]:
    """An alert as operators and receivers see it."""
    return {
        "id": alert.id,
        "rule": alert.rule,
        "item": alert.item,
        "server": alert.server,
        "principal": alert.principal,
        "address": alert.address,
        "reason": alert.reason,
        "first": rfc3339(alert.first_at),
        "last": rfc3339(alert.last_at),
        "count": alert.count,
    }
