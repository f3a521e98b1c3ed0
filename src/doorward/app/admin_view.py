"""What the admin plane sees of the supervisor."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from doorward import __version__
from doorward.adapters.ledger_read import LedgerReader, Question
from doorward.app.metrics import write_metrics
from doorward.base.clock import rfc3339
from doorward.range.index import labs_of
from doorward.settings import SLUGS

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor
    from doorward.controls.control import Control, Posture

_HOOKS = ("head", "request", "listing", "reply", "notice", "claim", "settled")
_CALLS_SECONDS = 1.0  # several open pages read the ledger once
_CALLS_COUNT = 50
_FIELDS = (
    "event", "time", "kind", "era", "principal", "server", "method", "item", "verdict", "control", "reason",
    "http_status", "outcome", "duration_us",
)  # fmt: skip


class AdminView:
    """Implements ``console.plane.AdminPort``."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.revoke = supervisor.revoke
        self.reload = supervisor.reload
        self._calls: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._reading = asyncio.Lock()

    def status(self) -> dict[str, Any]:
        """The state of the whole."""
        own = self._supervisor
        gateway = own.settings.gateway
        return {
            "ready": own.is_ready,
            "version": __version__,
            "profile": gateway.profile,
            "public_url": gateway.public_url,
            "durability": own.settings.audit.durability,
            "since": rfc3339(own.started_at),
            "revision": own.revision,
            "generation": own.generation,
            "generations": [worker.numbers.get("generation", 0) for _, worker in sorted(own.workers.items())],
            "workers": len(own.workers),
            "restarts": own.restarts,
            "last_reload_error": own.last_reload_error,
        }

    def workers(self) -> list[dict[str, Any]]:
        """The worker processes."""
        rows = []
        for index, worker in sorted(self._supervisor.workers.items()):
            numbers = worker.numbers
            rows.append(
                {
                    "index": index,
                    "pid": worker.pid,
                    "ready": worker.is_ready,
                    "generation": numbers.get("generation", 0),
                    "sessions": numbers.get("sessions", 0),
                    "streams": numbers.get("streams", 0),
                    "connections": numbers.get("connections", 0),
                    "requests": sum(int(row[-1]) for row in numbers.get("requests", [])),
                    "ledger_ok": bool(numbers.get("ledger_ok", False)),
                }
            )
        return rows

    def controls(self) -> list[dict[str, Any]]:
        """All controls and postures, with where their mode comes from and whether they hold."""
        from doorward.controls.order import ORDER, POSTURES

        seen = self._supervisor.postures.look()
        rows = [self._row(kind, place) for place, kind in enumerate(ORDER, start=1)]
        for place, posture in enumerate(POSTURES, start=len(ORDER) + 1):
            state, why = seen.get(posture.slug, ("unknown", ""))
            rows.append(
                {**self._row(posture, place), "kind": "posture", "hooks": [], "state": state, "why": why}
            )
        return rows

    def _row(self, kind: type[Control | Posture], place: int) -> dict[str, Any]:
        own = self._supervisor
        chosen = own.settings.controls.get(kind.slug)
        numbers = [worker.numbers for _, worker in sorted(own.workers.items())]
        crashes = sum(int(one.get("crashes", {}).get(kind.slug, 0)) for one in numbers)
        reported = bool(numbers) and all(numbers)
        state, why = ("ok", "") if reported else ("unknown", "a worker has not reported yet")
        if crashes:
            state, why = "degraded", f"it could not decide {crashes} times and refused; the log says why"
        events = [str(one.get("last_events", {}).get(kind.slug, "")) for one in numbers]
        return {
            "slug": kind.slug,
            "kind": "control",
            "covers": list(kind.covers),
            "partly": list(kind.partly),
            "hooks": [hook for hook in _HOOKS if hook in vars(kind)],
            "order": place,
            "mode": chosen.mode if chosen is not None else "enforce",
            "source": "file" if chosen is not None else "default",
            "since": rfc3339(own.mode_since.get(kind.slug, own.started_at)),
            "floor": SLUGS.get(kind.slug, False),
            "state": state,
            "why": why,
            "refusals": sum(int(one.get("refusals", {}).get(kind.slug, 0)) for one in numbers),
            "labs": labs_of(kind.slug),
            "last_event": max(events, default="") or None,  # ids grow with time
        }

    def servers(self) -> list[dict[str, Any]]:
        """The protected servers."""
        own = self._supervisor
        running = own.pool.running() if own.pool is not None else {}
        return [
            {
                "name": name,
                "kind": "stdio" if spec.is_stdio else "http",
                "sandbox": spec.sandbox if spec.is_stdio else "",
                "trust": spec.trust,
                "processes": running.get(name, 0),
                "state": self._state_of(spec.is_stdio, running.get(name, 0)),
            }
            for name, spec in own.settings.servers.items()
        ]

    @staticmethod
    def _state_of(is_stdio: bool, processes: int) -> str:  # noqa: FBT001
        if not is_stdio:
            return "remote"
        return "running" if processes else "starts when called"

    def limits(self) -> list[dict[str, Any]]:
        """The limits in force, widest first; members that are absent are as in the row "default"."""
        given = self._supervisor.settings.limits
        rows: list[dict[str, Any]] = [
            {"scope": "each principal", "name": "default", "calls": given.calls,
             "per_seconds": given.per_seconds, "concurrent": given.concurrent}
        ]  # fmt: skip
        named = [("principal", given.principal), ("server", given.server), ("tool", given.tool)]
        if given.address is not None:
            named.append(("address", {"each": given.address}))
        rows += [
            {"scope": scope, "name": name, "calls": one.calls, "per_seconds": one.per_seconds,
             "concurrent": one.concurrent}
            for scope, table in named
            for name, one in table.items()
        ]  # fmt: skip
        return rows

    async def calls(self) -> list[dict[str, Any]]:
        """The newest records of the ledger, one row for each call."""
        async with self._reading:
            read_at, rows = self._calls
            if time.monotonic() - read_at > _CALLS_SECONDS:
                rows = await asyncio.to_thread(self._read_calls)
                self._calls = (time.monotonic(), rows)
            return rows

    def _read_calls(self) -> list[dict[str, Any]]:
        reader = LedgerReader(self._supervisor.data_dir)
        return [
            {name: row.get(name) for name in _FIELDS} for row in reader.rows(Question(limit=_CALLS_COUNT))
        ]

    def metrics(self) -> str:
        """The Prometheus text format."""
        return write_metrics(
            self._supervisor, {str(row["slug"]): row["state"] == "degraded" for row in self.controls()}
        )
