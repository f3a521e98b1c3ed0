"""Which definition of every item is approved, what its server offers now, and what follows from the two.

A pure state machine: the supervisor keeps one for all servers and writes down what it says; workers hold the rows. An offer
is kept for each principal, because a server may show another definition to another caller: that is drift as well.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from doorward.base.errors import CallerError
from doorward.catalogue.definition import Kind, pin_of

State = Literal["approved", "held", "withdrawn", "rejected"]
Served = Literal["current", "previous", "none"]
Trust = Literal["review", "first-use", "signed", "off"]
ITEMS_COUNT = 8_192  # of one server; what comes beyond is held without being kept
FORM_BYTES = 262_144  # a definition that is larger is never approved
_OFFERS_COUNT = 64  # principals whose drifting offer is told apart
_OTHERS = "*"  # stands for all principals beyond


class Scanned(msgspec.Struct, frozen=True):
    """What the scan of a definition found; findings as ``doorward scan --json`` writes them."""

    verdict: Literal["allow", "flag", "block"] = "allow"
    findings: tuple[dict[str, Any], ...] = ()


class Item(msgspec.Struct, kw_only=True):
    """One item of one server. ``approved`` and ``offered`` are canonical forms; "" means none."""

    server: str
    kind: Kind
    name: str
    version: int = 0  # grows with every change, so that a late row never wins
    state: State = "held"
    approved: bytes = b""
    pin: str = ""
    approved_by: str = ""
    since: float = 0.0  # Unix seconds of the last change of state
    offered: bytes = b""
    offered_pin: str = ""
    offers: dict[str, str] = {}  # principal -> pin, where it is not the approved one
    scan: Scanned = Scanned()

    def served(self, on_change: str) -> Served:
        """Which definition clients get."""
        if self.state == "approved":
            return "current"
        return "previous" if self.approved and on_change == "keep" else "none"


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker knows of an item. ``form`` only where an earlier definition stays in force."""

    server: str
    kind: Kind
    name: str
    version: int
    pin: str
    state: State
    served: Served
    form: bytes = b""

    @property
    def is_callable(self) -> bool:
        """True while clients may use it."""
        return self.served != "none"


class Change(msgspec.Struct, frozen=True):
    """One thing that happened to an item, for the record."""

    method: Literal[
        "definition-pinned",
        "definition-held",
        "definition-changed",
        "definition-restored",
        "definition-refused",
    ]
    item: Item
    reason: str


class PinBook:
    """All items of all servers."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str, str], Item] = {}
        self._counts: dict[str, int] = {}

    def add(self, item: Item) -> None:
        """Take over what was written down."""
        self.items[(item.server, item.kind, item.name)] = item
        self._counts[item.server] = self._counts.get(item.server, 0) + 1

    def find(self, server: str, kind: str, name: str) -> Item:
        """One item. Raises: CallerError ``definition-unknown``."""
        found = self.items.get((server, kind, name))
        if found is None:
            raise CallerError("definition-unknown", "No server has offered such an item.", status=404)
        return found

    def is_known(self, server: str, kind: str, name: str, pin: str, principal: str) -> bool:
        """Whether this offer would change nothing, so that there is nothing to scan."""
        item = self.items.get((server, kind, name))
        if item is None:
            return False
        if pin == item.pin:
            return item.state == "approved" and not item.offers
        return item.offers.get(principal) == pin or (not item.pin and pin == item.offered_pin)

    def present(
        self,
        server: str,
        kind: Kind,
        name: str,
        form: bytes,
        *,
        principal: str,
        trust: Trust,
        scan: Scanned,
        now: float,
    ) -> Change | None:
        """A server offers a definition to a principal; ``scan`` is what was found in it. None: nothing new."""
        pin = pin_of(form)
        item = self.items.get((server, kind, name))
        if item is None:
            return self._first(Item(server=server, kind=kind, name=name), form, pin, trust, scan, now)
        if item.pin and pin == item.pin:
            return self._agreed(item, principal, now)
        if self.is_known(server, kind, name, pin, principal):
            return None
        if item.pin:
            self._note_offer(item, principal, pin)
        return self._drifted(item, form, pin, scan, now)

    def _first(self, item: Item, form: bytes, pin: str, trust: Trust, scan: Scanned, now: float) -> Change:
        item.offered_pin, item.scan = pin, scan
        if self._counts.get(item.server, 0) >= ITEMS_COUNT:
            return Change("definition-refused", _moved(item, "held", now), "the server offers too many items")
        self.add(item)
        if len(form) > FORM_BYTES:
            return Change("definition-refused", _moved(item, "held", now), "the definition is too large")
        item.offered = form
        if trust == "first-use" and scan.verdict != "block":
            item.approved, item.pin, item.approved_by = form, pin, "first-use"
            return Change("definition-pinned", _moved(item, "approved", now), "first use")
        why = "the scan found it dangerous" if scan.verdict == "block" else f"trust is {trust}"
        return Change("definition-held", _moved(item, "held", now), why)

    @staticmethod
    def _agreed(item: Item, principal: str, now: float) -> Change | None:
        was = item.offers.pop(principal, None)
        if item.state == "held" and not item.offers:
            item.offered, item.offered_pin = item.approved, item.pin
            return Change(
                "definition-restored", _moved(item, "approved", now), "the approved definition is back"
            )
        if was is not None:
            item.version += 1
        return None

    @staticmethod
    def _note_offer(item: Item, principal: str, pin: str) -> None:
        is_new = principal not in item.offers and len(item.offers) >= _OFFERS_COUNT
        item.offers[_OTHERS if is_new else principal] = pin

    @staticmethod
    def _drifted(item: Item, form: bytes, pin: str, scan: Scanned, now: float) -> Change:
        kept = form if len(form) <= FORM_BYTES else b""
        item.offered, item.offered_pin, item.scan = kept, pin, scan
        return Change("definition-changed", _moved(item, "held", now), f"{pin} is offered")

    def approve(self, server: str, kind: str, name: str, pin: str, by: str, now: float) -> Item:
        """Put exactly the definition with this pin in force. Raises: CallerError."""
        item = self.find(server, kind, name)
        if pin == item.offered_pin and item.offered:
            item.approved, item.pin = item.offered, pin
        elif pin != item.pin or not item.approved:
            raise CallerError(
                "definition-stale",
                "That is not the definition which the server offers now; look at the difference again.",
                status=409,
            )
        item.approved_by = by
        item.offers = {who: other for who, other in item.offers.items() if other != item.pin}
        # Whoever is still shown something else keeps it held: an approval is of one definition, not of the item.
        return _moved(item, "held" if item.offers else "approved", now)

    def reject(self, server: str, kind: str, name: str, by: str, now: float) -> Item:
        """Refuse what is offered; a definition that was approved before stays for ``on_change = "keep"``."""
        item = self.find(server, kind, name)
        item.approved_by = by
        return _moved(item, "rejected", now)

    def rows(self, server: str, on_change: str) -> list[Row]:
        """What workers must know of a server's items."""
        return [row_of(item, on_change) for item in self.items.values() if item.server == server]


def row_of(item: Item, on_change: str) -> Row:
    """An item as workers see it."""
    served = item.served(on_change)
    form = item.approved if served == "previous" else b""
    return Row(item.server, item.kind, item.name, item.version, item.pin, item.state, served, form)


def _moved(item: Item, state: State, now: float) -> Item:
    item.state, item.since = state, now
    item.version += 1
    return item
