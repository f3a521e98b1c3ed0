"""Between the flow and one server: no list of definitions gets past before each of them has been weighed against its pin.

Lists, and the instructions of a server, are compared where they arrive, as the server wrote them and before any translation. What is
new or differs goes to the supervisor, which keeps the pins; the list waits for its answer, and nobody else does.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from doorward.base.clock import Clock
from doorward.base.errors import UpstreamError
from doorward.catalogue.definition import KINDS, canonical, name_of, pin_of
from doorward.catalogue.pins import Row
from doorward.gateway.naming import LISTS
from doorward.gateway.ports import Cancel, Link, Sink, Upstream
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.message import Era, Message

_WATCHED = frozenset({*LISTS, "initialize", "server/discover"})
_PAGES_COUNT = 1_024  # whole pages that are known to be as approved
_SEEN_COUNT = 16_384  # offers of which the supervisor has heard
_VERIFIED_COUNT = 16_384
VERIFIED_SECONDS = (
    300.0  # after which a principal's first call lists again: a server may change without a word
)
_UNAVAILABLE = UpstreamError(
    "pins-unavailable",
    "The definitions of the protected server could not be compared with the approved ones.",
)

_NO_LIST = UpstreamError("upstream-no-list", "The protected server answered with something that is no list.")

Present = Callable[
    [dict[str, Any], Callable[[Any], None]], None
]  # ask the supervisor; then(None) when it does not answer


class PinDesk:
    """What a worker knows of pins."""

    def __init__(self, present: Present, clock: Clock) -> None:
        self._present = present
        self._clock = clock
        self.enforce = True  # whether lists are changed; else everything is compared and put on record only
        self.apart: frozenset[str] = frozenset()  # servers that keep a process for each principal
        self.compares = True  # False where match-pin is off
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._clean: OrderedDict[tuple[str, str, bytes], None] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, str, str, str], None] = OrderedDict()
        self._verified: OrderedDict[tuple[str, str], float] = OrderedDict()

    def adopt(self, rows: Iterable[Row]) -> None:
        """Take over newer rows."""
        for row in rows:
            key = (row.server, row.kind, row.name)
            known = self._rows.get(key)
            if known is None or row.version > known.version:
                self._rows[key] = row
                self._clean.clear()
                self._seen.clear()

    def renew(self, rows: Iterable[Row]) -> None:
        """Take over all rows of a snapshot; what was heard after it was made stays."""
        for row in rows:
            key = (row.server, row.kind, row.name)
            known = self._rows.get(key)
            if known is None or row.version >= known.version:  # settings may say otherwise what is served
                self._rows[key] = row
        if not self.compares:
            self._verified.clear()  # nothing was compared under the settings that end now
        self._clean.clear()
        self._seen.clear()

    def row(self, server: str, kind: str, name: str) -> Row | None:
        """What is known of an item; None before any server has offered it."""
        return self._rows.get((server, kind, name))

    def view_of(self, server: str, principal: str) -> str:
        """Whose view of a server a principal shares: its own where there is a process for each, else everybody's."""
        return principal if server in self.apart else ""

    def is_verified(self, server: str, principal: str) -> bool:
        """Whether the server's tools as this principal is shown them were compared lately.

        Only a server that keeps a process for each principal knows whom it talks to; for others there is one view.
        """
        at = self._verified.get((server, self.view_of(server, principal)))
        return at is not None and self._clock.monotonic() - at < VERIFIED_SECONDS

    def _verify(self, server: str, principal: str) -> None:
        view = (server, self.view_of(server, principal))
        self._verified[view] = self._clock.monotonic()
        self._verified.move_to_end(view)
        if len(self._verified) > _VERIFIED_COUNT:
            self._verified.popitem(last=False)

    def admit(
        self,
        server: str,
        key: str,
        result: dict[str, Any],
        principal: str,
        then: Callable[[UpstreamError | None], None],
    ) -> None:
        """Have a page of a list compared, and put definitions that stay in force in the place of changed ones."""
        if key not in result:
            return then(None)
        items = result[key]
        if not isinstance(items, list):
            return then(_NO_LIST if self.enforce else None)
        page = (server, key, hashlib.sha256(encode_json(items)).digest())
        is_last = key == "tools" and not result.get("nextCursor")

        def compared(error: UpstreamError | None) -> None:
            if error is None:
                if self._settle(server, key, items):
                    self._clean[page] = None
                    if len(self._clean) > _PAGES_COUNT:
                        self._clean.popitem(last=False)
                if is_last:
                    self._verify(server, principal)
            then(error)

        if page in self._clean:
            if is_last:
                self._verify(server, principal)
            return then(None)
        kind = KINDS[key]
        offers = [(name, canonical(item)) for item in items if (name := name_of(kind, item))]
        return self._offer(server, kind, offers, principal, compared)

    def admit_instructions(
        self,
        server: str,
        result: dict[str, Any],
        principal: str,
        then: Callable[[UpstreamError | None], None],
    ) -> None:
        """As ``admit`` for what a server tells the model to do; what is not approved is taken out."""
        text = result.get("instructions")
        if not isinstance(text, str) or not text:
            return then(None)

        def compared(error: UpstreamError | None) -> None:
            row = self.row(server, "instructions", "")
            as_approved = row is not None and row.served == "current" and pin_of(canonical(text)) == row.pin
            if error is None and self.enforce and not as_approved:
                del result["instructions"]
                if row is not None and row.form:
                    result["instructions"] = parse_json(row.form)
            then(error)

        return self._offer(server, "instructions", [("", canonical(text))], principal, compared)

    def _offer(
        self,
        server: str,
        kind: str,
        offers: list[tuple[str, bytes]],
        principal: str,
        then: Callable[[UpstreamError | None], None],
    ) -> None:
        news = [
            (name, form) for name, form in offers if not self._is_heard(server, kind, name, form, principal)
        ]
        if not news:
            return then(None)

        def answered(rows: Any) -> None:
            if rows is None:
                return then(_UNAVAILABLE)
            self.adopt(rows)
            for name, form in news:
                self._seen[(server, kind, name, pin_of(form), principal)] = None
            while len(self._seen) > _SEEN_COUNT:
                self._seen.popitem(last=False)
            return then(None)

        # All offers of a name go together, for two definitions under one name are not the approved one.
        names = {name for name, _ in news}
        whole = [(name, form) for name, form in offers if name in names]
        return self._present(
            {"server": server, "kind": kind, "principal": principal, "items": whole}, answered
        )

    def _is_heard(self, server: str, kind: str, name: str, form: bytes, principal: str) -> bool:
        row = self._rows.get((server, kind, name))
        if row is None:
            return False
        pin = pin_of(form)
        return (pin == row.pin and row.state == "approved") or (
            server,
            kind,
            name,
            pin,
            principal,
        ) in self._seen

    def _settle(self, server: str, key: str, items: list[Any]) -> bool:
        """Put earlier definitions that stay in force into the list; True when all are as approved now.

        Each is held against its pin here: the row may be newer than the answer to this offer, and speak of another definition.
        """
        kind = KINDS[key]
        clean, placed = True, set()
        for place, item in enumerate(items):
            name = name_of(kind, item)
            row = self._rows.get((server, kind, name))
            is_approved = row is not None and row.state == "approved"
            as_approved = is_approved and row is not None and pin_of(canonical(item)) == row.pin
            clean = clean and as_approved
            if row is None or not self.enforce:
                continue
            if is_approved and not as_approved:
                items[place] = None
            elif row.form:
                items[place] = parse_json(row.form) if name not in placed else None
                placed.add(name)
        items[:] = [item for item in items if item is not None]
        return clean


class PinnedUpstream:
    """A server whose lists are compared with their pins; see ``gateway.ports.Upstream``."""

    def __init__(self, inner: Upstream, name: str, desk: PinDesk) -> None:
        self._inner = inner
        self._name = name
        self._desk = desk

    def link(
        self,
        principal: str,
        era: Era,
        version: str,
        capabilities: dict[str, Any],
        ready: Callable[[Link | UpstreamError], None],
    ) -> None:
        """See ``gateway.ports.Upstream``."""

        def found(link: Link | UpstreamError) -> None:
            if isinstance(link, UpstreamError):
                return ready(link)
            return ready(_PinnedLink(link, self._name, principal, self._desk))

        self._inner.link(principal, era, version, capabilities, found)


class _PinnedLink:
    """Implements ``gateway.ports.Link``."""

    __slots__ = ("_desk", "_inner", "_name", "_principal", "close", "listen")

    def __init__(self, inner: Link, name: str, principal: str, desk: PinDesk) -> None:
        self._inner = inner
        self._name = name
        self._principal = principal
        self._desk = desk
        self.listen = inner.listen
        self.close = inner.close

    def negotiated(self, version: str) -> None:
        """The server answered initialize with this version."""
        tell = getattr(self._inner, "negotiated", None)
        if tell is not None:
            tell(version)

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if message.method in _WATCHED and message.kind == "request" and self._desk.compares:
            sink = _ComparingSink(sink, self._name, LISTS.get(message.method), self._principal, self._desk)
        return self._inner.post(message, sink)


class _ComparingSink:
    """Holds the response back until its definitions are compared; implements ``gateway.ports.Sink``."""

    def __init__(self, sink: Sink, server: str, key: str | None, principal: str, desk: PinDesk) -> None:
        self._sink = sink
        self._server = server
        self._key = key
        self._principal = principal
        self._desk = desk
        self._is_comparing = False
        self._after: Callable[[], None] | None = (
            None  # what the server's end means, once the response has gone on
        )

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._sink.is_paused

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return self._sink.on_writable

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        self._sink.on_writable = wake

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``."""
        self._sink.streaming(retry_ms, event_id)

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        result = message.value.get("result")
        if message.kind != "response" or not isinstance(result, dict):
            return self._sink.message(message, event_id, status)
        self._is_comparing = True

        def compared(error: UpstreamError | None) -> None:
            self._is_comparing = False
            if error is not None:
                return self._sink.failed(error)
            self._sink.message(message, event_id, status)
            if self._after is not None:
                self._after()
            return None

        if self._key is None:
            return self._desk.admit_instructions(self._server, result, self._principal, compared)
        return self._desk.admit(self._server, self._key, result, self._principal, compared)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if self._is_comparing:
            self._after = self._sink.done
        else:
            self._sink.done()

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if self._is_comparing:
            self._after = lambda: self._sink.failed(error)
        else:
            self._sink.failed(error)
