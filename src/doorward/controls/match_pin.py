"""A tool, prompt or resource is served only as the definition that was approved.

What a server lists is compared with the pins before anything is done with it (gateway/pinned.py); here the items that are not
approved are left out of lists and refused when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from doorward.catalogue.definition import KINDS, Kind, name_of
from doorward.controls.control import Answer, Call, Control, Facts, Refuse
from doorward.protocol import codes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from doorward.catalogue.pins import Row

# The kinds that a method's item may be of; a URI is a resource of its own or comes from a template, which has no pin of its own.
_ITEMS: dict[str, Kind] = {
    "tools/call": "tool",
    "prompts/get": "prompt",
    "resources/read": "resource",
    "resources/subscribe": "resource",
}
_COMPLETED: dict[str, Kind] = {
    "ref/prompt": "prompt",
    "ref/resource": "template",
}  # what a completion refers to
_HELP = "An operator can look at the change with `doorward tools diff` and approve it with `doorward tools approve`."
_NOT_COMPARED = "What the protected server offers could not be compared with what was approved."
_CLOSED = ("review", "signed")  # trust under which nothing is served that nobody approved


class Pins(Protocol):
    """What the control asks of the pins."""

    enforce: bool  # False in report mode: lists stay as they are

    def row(self, server: str, kind: str, name: str) -> Row | None: ...

    def is_verified(self, server: str, principal: str) -> bool: ...


class MatchPin(Control):
    """Refuse and hide what is not approved, or is offered otherwise than it was approved.

    Fails: a list that cannot be compared does not arrive, and what is not known is not served.
    """

    slug: ClassVar[str] = "match-pin"
    covers: ClassVar[tuple[str, ...]] = ()
    partly: ClassVar[tuple[str, ...]] = ("S3.4", "S3.6")

    def __init__(self, pins: Pins, trust: Mapping[str, str]) -> None:
        """``trust`` maps each server to its trust policy."""
        self._pins = pins
        self._trust = trust

    def request(self, call: Call, seen: Facts) -> Answer:
        """See ``Control.request``."""
        kind = _kind_of(call)
        if kind is None or self._trust.get(call.server, "off") == "off":
            return None
        if call.listed and not self._pins.is_verified(call.server, call.principal.key):
            return Refuse(
                "definitions could not be listed", _NOT_COMPARED, code=codes.NOT_APPROVED, help=_HELP
            )
        row = self._pins.row(call.server, kind, call.item)
        if row is not None:
            return None if row.is_callable else _refusal(row)
        if kind == "tool":
            # The first call makes the gateway list the server's tools itself; then this is asked again.
            return _unknown() if call.listed else None
        return _unknown() if self._trust[call.server] in _CLOSED else None

    def listing(self, call: Call, items: list[dict[str, Any]], key: str) -> Answer:
        """See ``Control.listing``."""
        if self._trust.get(call.server, "off") == "off":
            return None
        kind, server = KINDS[key], call.server
        held = 0
        kept = []
        for item in items:
            row = self._pins.row(server, kind, name_of(kind, item))
            if row is not None and row.is_callable:
                kept.append(item)
            else:
                held += 1
        if held:
            call.notes.append(f"{self.slug}: {held} of {len(items)} {key} are not approved")
            if self._pins.enforce:
                items[:] = kept
        return None


def _kind_of(call: Call) -> Kind | None:
    """The kind of the item that a request names; None where it names none."""
    if call.message.method != "completion/complete":
        return _ITEMS.get(call.message.method)
    ref = (call.message.params or {}).get("ref")
    return _COMPLETED.get(str(ref.get("type"))) if isinstance(ref, dict) else None


def _refusal(row: Row) -> Refuse:
    changed = bool(row.pin)
    tell = (
        "This item is not as it was approved: the protected server has changed its definition."
        if changed
        else "This item has not been approved yet."
    )
    if row.state == "rejected":
        tell = "This item was rejected by an operator."
    return Refuse(f"definition is {row.state}", tell, code=codes.NOT_APPROVED, help=_HELP)


def _unknown() -> Refuse:
    return Refuse(
        "no approved definition", "This item has not been approved yet.", code=codes.NOT_APPROVED, help=_HELP
    )
