"""How often and how much at once: exact limits for each principal, for its use of a server and of a tool (S4.4).

Identity comes from the verified token only; a new session, header or OAuth client gives nobody another allowance. All
limits that apply to a call are met together or the call is refused with 429. What a later control refuses goes back into
the window and fills a bucket of its own of the same size, so that probing is bounded too. Notifications, to which no
answer is owed, have their own window as well. Before authentication a window for each peer address applies.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections import OrderedDict
from typing import Any, Literal, Protocol

import msgspec

from doorward.base.errors import OperatorError
from doorward.controls.control import Call, Control, Facts, Refuse, Verdict
from doorward.protocol import codes

CALLS_COUNT = 100_000  # the longest window in calls that the counters hold
UNDERWAY_COUNT = 65_535  # the most calls under way that they hold
_MONTH_SECONDS = 2_592_000.0
_DEMANDS_KEPT = 4_096  # remembered keys, so that a call costs no hashing

Reason = Literal["calls", "concurrent", "refused", "full"]


class Limit(msgspec.Struct, frozen=True):
    """At most ``calls`` in any window of ``per_seconds``, and ``concurrent`` at once (0: any number)."""

    calls: int = 600
    per_seconds: float = 60.0
    concurrent: int = 32


class Limits(msgspec.Struct, frozen=True):
    """``principal`` replaces ``default`` for the subjects (or whole principal keys) it names. ``server`` and ``tool``
    ("server/tool") hold for each principal and add to it. ``address`` None: no limit before authentication."""

    default: Limit = Limit()
    principal: dict[str, Limit] = {}
    server: dict[str, Limit] = {}
    tool: dict[str, Limit] = {}
    address: Limit | None = None


class Demand(msgspec.Struct, frozen=True, gc=False):
    """One limit that an attempt must meet. ``low`` and ``high`` are the key's 16 bytes as two numbers."""

    low: int
    high: int
    calls: int
    per_seconds: float
    concurrent: int = 0


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """An admission: when, and under which entries."""

    at: float
    places: tuple[tuple[int, int, int], ...]


class Denied(msgspec.Struct, frozen=True):
    """Not admitted: which demand (by position) objected, why, and when to try again."""

    index: int
    reason: Reason
    retry_after_seconds: float


class Counters(Protocol):
    """Counters shared by all workers."""

    def admit(self, demands: tuple[Demand, ...]) -> Ticket | Denied:
        """Admit under all demands or none."""

    def release(self, ticket: Ticket) -> None:
        """An admitted attempt is over."""

    def give_back(self, ticket: Ticket) -> None:
        """An admitted attempt was refused after all."""


def demand(key: tuple[str, ...], limit: Limit) -> Demand:
    """The demand of a limit on a key; the limit is part of it, so that a changed limit starts a fresh count.

    Raises: OperatorError ``limit-size`` for what the counters cannot hold.
    """
    fits = 1 <= limit.calls <= CALLS_COUNT and 0 < limit.per_seconds <= _MONTH_SECONDS
    if not fits or not 0 <= limit.concurrent < UNDERWAY_COUNT:
        raise OperatorError(
            "limit-size", f"A limit may have 1 to {CALLS_COUNT} calls in at most 30 days; adjust [limits]."
        )
    content = msgspec.msgpack.encode((key, limit.calls, limit.per_seconds))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    low = int.from_bytes(digest[:8], "little") or 1
    return Demand(low, int.from_bytes(digest[8:], "little"), limit.calls, limit.per_seconds, limit.concurrent)


class LimitRate(Control):
    """Refuse what is too much, exactly, over all workers."""

    slug = "limit-rate"
    covers = ("S4.4",)

    def __init__(self, limits: Limits, counters: Counters) -> None:
        """Raises: OperatorError ``limit-size``."""
        self._limits = limits
        self._counters = counters
        self._known: OrderedDict[tuple[str, str, str, str], tuple[Demand, ...]] = OrderedDict()
        self._addresses: OrderedDict[str, tuple[Demand, ...]] = OrderedDict()
        self._tickets: dict[str, Ticket] = {}  # by event id, while the call is under way
        named = (*limits.principal.values(), *limits.server.values(), *limits.tool.values())
        for limit in (limits.default, *named, *([limits.address] if limits.address else [])):
            demand(("check",), limit)

    def admit_address(self, address: str) -> Refuse | None:
        """Judge a request by its peer address alone, before anything else is known (IPv6: by its /64)."""
        limit = self._limits.address
        if limit is None:
            return None
        demands = self._addresses.get(address)
        if demands is None:
            demands = (demand(("address", _network(address)), limit),)
            _remember(self._addresses, address, demands)
        found = self._counters.admit(demands)
        if isinstance(found, Ticket):
            self._counters.release(found)
            return None
        return _refuse(found, "peer address")

    def request(self, call: Call, seen: Facts) -> Verdict:
        """See ``Control``. A call that is judged again after a rewrite is counted once."""
        message = call.message
        kind = message.kind
        if call.event in self._tickets or kind == "response":
            return None
        tool = call.item if message.method == "tools/call" else ""
        found = self._known.get(key := (call.principal.key, call.server, tool, kind))
        if found is None:
            found = self._demands(call, tool, notice=kind != "request")
            _remember(self._known, key, found)
        admitted = self._counters.admit(found)
        if isinstance(admitted, Denied):
            return _refuse(admitted, ("principal", "server or tool")[min(admitted.index, 1)])
        if kind == "request":
            self._tickets[call.event] = admitted
        else:
            self._counters.release(admitted)
        return None

    def settled(self, call: Call, outcome: str) -> None:
        """See ``Control``: frees the place, or gives the whole admission back when the call was refused."""
        ticket = self._tickets.pop(call.event, None)
        if ticket is None:
            return
        if outcome == "refused":
            self._counters.give_back(ticket)
        else:
            self._counters.release(ticket)

    def adopt(self, previous: LimitRate) -> None:
        """Take over the calls under way of the control that this one replaces after a change of settings."""
        self._tickets = previous._tickets  # shared on purpose: calls settle with the control they began with

    def _demands(self, call: Call, tool: str, *, notice: bool) -> tuple[Demand, ...]:
        limits, principal = self._limits, call.principal
        person = f"{principal.tenant}|{principal.issuer}|{principal.subject}"
        own = limits.principal.get(call.principal.subject) or limits.principal.get(call.principal.key)
        kind = "notice" if notice else "call"
        demands = [demand((kind, person), own or limits.default)]
        if not notice:
            if (limit := limits.server.get(call.server)) is not None:
                demands.append(demand(("server", person, call.server), limit))
            if tool and (limit := limits.tool.get(f"{call.server}/{tool}")) is not None:
                demands.append(demand(("tool", person, call.server, tool), limit))
        return tuple(demands)


def _remember(table: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    if len(table) > _DEMANDS_KEPT:
        table.popitem(last=False)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)


def _refuse(denied: Denied, dimension: str) -> Refuse:
    seconds = max(1, math.ceil(denied.retry_after_seconds))
    tells = {
        "calls": "Too many calls in the current window.",
        "concurrent": "Too many calls at the same time.",
        "refused": "Too many refused attempts in the current window.",
        "full": "The table of limits is full, so new callers have to wait.",
    }
    return Refuse(
        reason=f"limit-{denied.reason} ({dimension})",
        tell=tells[denied.reason],
        code=codes.LIMIT,
        status=429,
        help=f"Try again in {seconds} s.",
        headers=(("Retry-After", str(seconds)),),
        extra={"retry_after_seconds": seconds},
    )
