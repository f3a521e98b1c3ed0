"""What the admin plane sees of the supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from doorward.base.clock import rfc3339
from doorward.range.index import labs_of
from doorward.settings import SLUGS

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor
    from doorward.controls.control import Control, Posture


def _escape(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class AdminView:
    """Implements ``console.plane.AdminPort``."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.revoke = supervisor.revoke
        self.reload = supervisor.reload

    def status(self) -> dict[str, Any]:
        """The state of the whole."""
        own = self._supervisor
        return {
            "ready": all(one.is_ready for one in own.workers.values()),
            "profile": own.settings.gateway.profile,
            "since": rfc3339(own.started_at),
            "revision": own.revision,
            "generation": own.generation,
            "generations": [worker.numbers.get("generation", 0) for _, worker in sorted(own.workers.items())],
            "workers": len(own.workers),
            "restarts": own.restarts,
            "last_reload_error": own.last_reload_error,
        }

    def controls(self) -> list[dict[str, Any]]:
        """All controls and postures, with where their mode comes from."""
        from doorward.controls.order import ORDER, POSTURES

        own = self._supervisor
        healthy = all(one.numbers.get("ledger_ok", True) for one in own.workers.values())
        rows = []
        kinds: tuple[type[Control] | type[Posture], ...] = (*ORDER, *POSTURES)
        for order, kind in enumerate(kinds):
            chosen = own.settings.controls.get(kind.slug)
            hooks = [
                h for h in ("head", "request", "listing", "reply", "notice", "settled") if h in vars(kind)
            ]
            state = "ok" if order < len(ORDER) or (kind.slug == "keep-ledger" and healthy) else "unknown"
            rows.append(
                {
                    "slug": kind.slug,
                    "kind": "control" if order < len(ORDER) else "posture",
                    "covers": list(kind.covers),
                    "hooks": hooks,
                    "order": order,
                    "mode": chosen.mode if chosen is not None else "enforce",
                    "source": "file" if chosen is not None else "default",
                    "since": rfc3339(own.started_at),
                    "floor": SLUGS.get(kind.slug, False),
                    "state": state,
                    "labs": labs_of(kind.slug),
                    "last_event": None,
                }
            )
        return rows

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
            }
            for name, spec in own.settings.servers.items()
        ]

    def metrics(self) -> str:
        """The Prometheus text format."""
        own = self._supervisor
        lines = [f"doorward_workers {len(own.workers)}", f"doorward_worker_restarts_total {own.restarts}"]
        for index, worker in sorted(own.workers.items()):
            numbers = worker.numbers
            for name in ("sessions", "streams", "connections"):
                lines.append(f'doorward_{name}{{worker="{index}"}} {int(numbers.get(name, 0))}')
            for row in numbers.get("requests", []):
                labels = ",".join(
                    f'{name}="{_escape(v)}"'
                    for name, v in zip(("server", "method", "verdict", "status"), row[:-1], strict=False)
                )
                lines.append(f'doorward_requests_total{{worker="{index}",{labels}}} {int(row[-1])}')
            total = 0
            for bound, count in zip(
                [*numbers.get("duration_bounds_us", []), "+Inf"], numbers.get("durations", []), strict=False
            ):
                total += count
                edge = bound if bound == "+Inf" else bound / 1e6
                lines.append(f'doorward_request_seconds_bucket{{worker="{index}",le="{edge}"}} {total}')
        if own.pool is not None:
            lines += [
                f'doorward_children{{server="{_escape(n)}"}} {c}' for n, c in own.pool.running().items()
            ]
        return "\n".join(lines) + "\n"
