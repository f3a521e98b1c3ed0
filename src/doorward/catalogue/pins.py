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
NAME_CHARS = 2_048  # URIs are names too
SERVER_BYTES = 67_108_864  # all definitions that are kept of one server
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
        self._bytes: dict[str, int] = {}  # of all definitions of a server

    def add(self, item: Item) -> None:
        """Take over what was written down."""
        self.items[(item.server, item.kind, item.name)] = item
        self._counts[item.server] = self._counts.get(item.server, 0) + 1
        self._weighed(item, 0)

    def _weighed(self, item: Item, before: int) -> None:
        self._bytes[item.server] = self._bytes.get(item.server, 0) + _size(item) - before

    def no_room(self, server: str, name: str, form: bytes) -> str:
        """Why a definition that is new here is not kept at all; "" when it may be."""
        if self._counts.get(server, 0) >= ITEMS_COUNT:
            return "the server offers too many items"
        if len(name) > NAME_CHARS:
            return "the name is too long"
        if self._bytes.get(server, 0) + 2 * len(form) > SERVER_BYTES:
            return "the server's definitions are too large together"
        return ""

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
        if item.state == "rejected" and pin == item.offered_pin:
            return True  # whoever else is shown it: an operator has said no to exactly this
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
        if unkept := self.no_room(item.server, item.name, form):
            return Change("definition-refused", _moved(item, "held", now), unkept)
        self.add(item)
        if len(form) > FORM_BYTES:
            return Change("definition-refused", _moved(item, "held", now), "the definition is too large")
        item.offered = form
        self._weighed(item, 0)
        if trust == "first-use" and scan.verdict != "block":
            item.approved, item.pin, item.approved_by = form, pin, "first-use"
            self._weighed(item, len(form))
            return Change("definition-pinned", _moved(item, "approved", now), "first use")
        why = "the scan found it dangerous" if scan.verdict == "block" else f"trust is {trust}"
        return Change("definition-held", _moved(item, "held", now), why)

    def _agreed(self, item: Item, principal: str, now: float) -> Change | None:
        was = item.offers.pop(principal, None)
        if item.state == "held" and not item.offers:
            before = _size(item)
            item.offered, item.offered_pin = item.approved, item.pin
            self._weighed(item, before)
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

    def _drifted(self, item: Item, form: bytes, pin: str, scan: Scanned, now: float) -> Change:
        before = _size(item)
        has_room = self._bytes.get(item.server, 0) + 2 * len(form) <= SERVER_BYTES
        kept = form if len(form) <= FORM_BYTES and has_room else b""
        item.offered, item.offered_pin, item.scan = kept, pin, scan
        self._weighed(item, before)
        return Change("definition-changed", _moved(item, "held", now), f"{pin} is offered")

    def approve(self, server: str, kind: str, name: str, pin: str, by: str, now: float) -> Item:
        """Put exactly the definition with this pin in force. Raises: CallerError."""
        item = self.find(server, kind, name)
        if pin == item.offered_pin and item.offered:
            before = _size(item)
            item.approved, item.pin = item.offered, pin
            self._weighed(item, before)
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
        """Refuse what is offered; another one that was approved before stays for ``on_change = "keep"``."""
        item = self.find(server, kind, name)
        if item.pin == item.offered_pin:
            # SECURITY: what is refused is not approved any more, or a server would have it back by a change there and back.
            before = _size(item)
            item.approved, item.pin, item.offers = b"", "", {}
            self._weighed(item, before)
        item.approved_by = by
        return _moved(item, "rejected", now)

    def put_back(self, item: Item, before: Item) -> None:
        """Undo a decision that could not be written down; its version goes on, for workers may have heard of it."""
        size, version = _size(item), item.version + 1
        for field in before.__struct_fields__:
            setattr(item, field, getattr(before, field))
        item.version = version
        self._weighed(item, size)

    def rows(self, server: str, on_change: str) -> list[Row]:
        """What workers must know of a server's items."""
        return [row_of(item, on_change) for item in list(self.items.values()) if item.server == server]


def row_of(item: Item, on_change: str) -> Row:
    """An item as workers see it."""
    served = item.served(on_change)
    form = item.approved if served == "previous" else b""
    return Row(item.server, item.kind, item.name, item.version, item.pin, item.state, served, form)


def _size(item: Item) -> int:
    return len(item.approved) + len(item.offered)


def _moved(item: Item, state: State, now: float) -> Item:
    item.state, item.since = state, now
    item.version += 1
    return item
