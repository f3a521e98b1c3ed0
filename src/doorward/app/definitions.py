"""The office that keeps the pins: what servers offer is weighed here, once for all workers, and written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.app.office import Answering, Office
from doorward.base.clock import rfc3339
from doorward.base.errors import CallerError, StoreError
from doorward.catalogue.changes import changes_between
from doorward.catalogue.definition import pin_of
from doorward.catalogue.pins import FORM_BYTES, Change, Item, PinBook, Row, Scanned, row_of
from doorward.console.acts import Act, Asked
from doorward.detect.definition import report_on
from doorward.gateway.routes import join_name, join_uri
from doorward.identity.principal import subject_of
from doorward.protocol.json_door import parse_json

if TYPE_CHECKING:
    from doorward.adapters.state import State
    from doorward.app.supervisor import Supervisor
    from doorward.catalogue.server import ServerSpec

SPACE = "pins"
_SEEN_APART = 8  # further first sights of one batch go on record as one
_CHANGES_APART = 64  # further changes of one batch likewise: a server may change thousands at each list
_KINDS = ("tool", "prompt", "resource", "template", "instructions")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Item).decode

Scan = Callable[[str, Any], Scanned]


class Presented(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker saw a server offer to a principal: names with canonical definitions."""

    server: str
    kind: str
    principal: str
    items: list[tuple[str, bytes]]


def scan(kind: Any, definition: Any) -> Scanned:
    """What the poisoning scan finds in one definition."""
    report = report_on(kind, definition)
    return Scanned(report.verdict, tuple(msgspec.to_builtins(finding) for finding in report.findings))


class Definitions(Office):
    """Pins of every item of every server."""

    name = "pins"

    def __init__(self, supervisor: Supervisor, look: Scan = scan) -> None:
        super().__init__(supervisor)
        self._scan = look
        self._book = PinBook()
        self._owed: tuple[Presented, list[Change]] | None = (
            None  # weighed, but not written down and on record yet
        )
        self._turn = asyncio.Lock()  # one batch after the other: what is written down is what was decided

    async def open(self) -> None:
        """See ``Office.open``."""
        self._book = await asyncio.to_thread(read_pins, self.supervisor.ready_state())

    def paper(self) -> Any:
        """See ``Office.paper``."""
        return [
            msgspec.to_builtins(row, builtin_types=(bytes,))
            for name in self.supervisor.settings.servers
            for row in self._book.rows(name, self._on_change(name))
        ]

    def asks(self) -> Mapping[str, Answering]:
        """See ``Office.asks``."""
        return {"present": self._present}

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        body = {
            "type": "object",
            "required": ["server", "kind", "name", "pin"],
            "properties": {name: {"type": "string"} for name in ("server", "kind", "name", "pin")},
        }
        return (
            Act("GET", "tools", "Every known definition, its pin and its state.", self._list),
            Act("GET", "tools/diff", "One definition as approved and as offered.", self._diff),
            Act("POST", "tools/approve", "Put the definition with this pin in force.", self._approve, body),
            Act("POST", "tools/reject", "Refuse what is offered.", self._reject, body),
        )

    # -- what servers offer -------------------------------------------------------------------------------------

    async def _present(self, index: int, payload: Any) -> list[Any]:
        try:
            seen = msgspec.convert(payload, Presented)
        except msgspec.ValidationError as error:
            raise StoreError("bus-payload", "A worker presented definitions in a wrong way.") from error
        spec = self.supervisor.settings.servers.get(seen.server)
        if spec is None or seen.kind not in _KINDS:
            raise StoreError("bus-payload", "A worker presented definitions of an unknown server.")
        async with self._turn:
            changed = await self._settle()
            self._owed = (seen, await asyncio.to_thread(self._weigh, seen, spec.trust))
            changed += await self._settle()
        rows = self._rows_of(seen)
        self._tell(changed, but=index)
        return rows

    async def _settle(self) -> list[Item]:
        """Write and record what was weighed. Where that fails nobody gets an answer, and the next one comes here first."""
        if self._owed is None:
            return []
        seen, found = self._owed
        changed = [change.item for change in found if self._is_kept(change.item)]
        await self._write(changed)
        self._owed = None
        self._record(seen, found)
        return changed

    def _weigh(self, seen: Presented, trust: Any) -> list[Change]:
        book, now = self._book, time.time()
        forms: dict[str, set[bytes]] = {}
        for name, form in seen.items:
            forms.setdefault(name, set()).add(form)
        found = []
        for name, form in seen.items:
            pin = pin_of(form)
            if len(forms[name]) > 1 and self._is_approved(seen, name, pin):
                continue  # two definitions under one name: the approved one of them does not speak for both
            known = book.is_known(seen.server, seen.kind, name, pin, seen.principal)
            looks = not known and not self._is_approved(seen, name, pin) and self._has_room(seen, name, form)
            scan = self._look(seen.kind, form) if looks else Scanned()
            change = book.present(
                seen.server,
                seen.kind,  # type: ignore[arg-type]  # one of _KINDS
                name,
                form,
                principal=seen.principal,
                trust=trust,
                scan=scan,
                now=now,
            )
            if change is not None:
                found.append(change)
        return found

    def _has_room(self, seen: Presented, name: str, form: bytes) -> bool:
        """Whether it is kept at all: what is not needs no scan, however much of it a server makes up."""
        is_there = (seen.server, seen.kind, name) in self._book.items
        return len(form) <= FORM_BYTES and (is_there or not self._book.no_room(seen.server, name, form))

    def _is_kept(self, item: Item) -> bool:
        return self._book.items.get((item.server, item.kind, item.name)) is item

    def _is_approved(self, seen: Presented, name: str, pin: str) -> bool:
        item = self._book.items.get((seen.server, seen.kind, name))
        return item is not None and item.pin == pin

    def _look(self, kind: str, form: bytes) -> Scanned:
        try:
            return self._scan(kind, parse_json(form))
        except CallerError as error:  # a definition that our own reader refuses
            return Scanned("block", ({"rule": error.code, "message": error.tell},))

    def _rows_of(self, seen: Presented) -> list[Any]:
        """What the asking worker must know now: of every item that it named, but those that are not kept."""
        on_change = self._on_change(seen.server)
        rows = []
        for name, _ in seen.items:
            item = self._book.items.get((seen.server, seen.kind, name))
            if item is not None:
                rows.append(_packed(row_of(item, on_change)))
        return rows

    def _on_change(self, server: str) -> str:
        spec = self.supervisor.settings.servers.get(server)
        return spec.on_change if spec is not None else "withdraw"

    async def _write(self, items: Sequence[Item]) -> None:
        if items:
            rows = {f"{item.server}\0{item.kind}\0{item.name}": _encode(item) for item in items}
            await asyncio.to_thread(self.supervisor.ready_state().keep_all, SPACE, rows)

    def _tell(self, items: Sequence[Item], but: int | None = None) -> None:
        """Let the other workers know at once."""
        rows = [_packed(row_of(item, self._on_change(item.server))) for item in items]
        for number, worker in self.supervisor.workers.items():
            if rows and number != but:
                worker.peer.tell("pins", rows)

    def _record(self, seen: Presented, found: Sequence[Change]) -> None:
        by_method: dict[str, list[Change]] = {}
        for change in found:
            by_method.setdefault(change.method, []).append(change)
        for method, changes in by_method.items():
            verdict = "hold" if changes[0].item.state == "held" else "allow"
            if len(changes) > (_SEEN_APART if method == "definition-pinned" else _CHANGES_APART):
                self._note(method, seen, f"{len(changes)} of kind {seen.kind}", changes[0].reason, verdict)
                continue
            for change in changes:
                self._note(method, seen, change.item.name, change.reason, verdict)

    def _note(self, method: str, seen: Presented, item: str, reason: str, verdict: Any) -> None:
        self.supervisor.note(
            method,
            subject_of(seen.principal),
            kind="server",
            verdict=verdict,
            server=seen.server,
            item=item,
            control="match-pin",
            reason=reason,
        )

    # -- what operators do --------------------------------------------------------------------------------------

    def _list(self, asked: Asked) -> list[dict[str, Any]]:
        return listing(self._book, self.supervisor.settings.servers, asked.query.get("server", ""))

    def _diff(self, asked: Asked) -> dict[str, Any]:
        item = self._named(asked.query)
        return {
            **shown(item, self.supervisor.settings.servers[item.server]),
            "before": parse_json(item.approved) if item.approved else None,
            "after": parse_json(item.offered) if item.offered else None,
        }

    def _named(self, given: Mapping[str, Any]) -> Item:
        server, kind, name = (given.get(key, "") for key in ("server", "kind", "name"))
        if not all(isinstance(part, str) for part in (server, kind, name)):
            raise CallerError("definition-unknown", "Name the server, the kind and the item.", status=400)
        return self._book.find(server, kind or "tool", name)

    async def _approve(self, asked: Asked) -> dict[str, Any]:
        given = asked.body if isinstance(asked.body, dict) else {}
        async with self._turn:
            item = self._named(given)
            pin = str(given.get("pin", ""))
            before = msgspec.structs.replace(item)
            item = self._book.approve(item.server, item.kind, item.name, pin, asked.who, time.time())
            await self._decided(item, before, "definition-approved", asked.who, "allow")
        return shown(item, self.supervisor.settings.servers[item.server])

    async def _reject(self, asked: Asked) -> dict[str, Any]:
        given = asked.body if isinstance(asked.body, dict) else {}
        async with self._turn:
            item = self._named(given)
            before = msgspec.structs.replace(item)
            item = self._book.reject(item.server, item.kind, item.name, asked.who, time.time())
            await self._decided(item, before, "definition-rejected", asked.who, "refuse")
        return shown(item, self.supervisor.settings.servers[item.server])

    async def _decided(self, item: Item, before: Item, method: str, who: str, verdict: Any) -> None:
        try:
            await self._write([item])
        except StoreError:
            if verdict == "allow":
                self._book.put_back(item, before)  # an approval that is not written down is none
            raise
        self.supervisor.note(
            method,
            who,
            verdict=verdict,
            server=item.server,
            item=item.name,
            control="match-pin",
            reason=item.pin if verdict == "allow" else item.offered_pin,
        )
        self._tell([item])


def read_pins(state: State) -> PinBook:
    """All pins as they were written down. Raises: StoreError."""
    book = PinBook()
    for content in state.all_kept(SPACE, time.time()).values():
        try:
            book.add(_decode(content))
        except msgspec.MsgspecError as error:
            raise StoreError(
                "pins-broken", "The pins in the state cannot be read; restore a backup."
            ) from error
    return book


def listing(book: PinBook, servers: Mapping[str, ServerSpec], server: str = "") -> list[dict[str, Any]]:
    """All items, or one server's, as ``doorward tools list --json`` shows them."""
    return [
        shown(item, servers[item.server])
        for _, item in sorted(book.items.items())
        if item.server in servers and server in ("", item.server)
    ]


def shown(item: Item, spec: ServerSpec) -> dict[str, Any]:
    """One item for people and programs."""
    served = item.served(spec.on_change)
    join = join_uri if item.kind in ("resource", "template") else join_name
    return {
        "server": item.server,
        "name": item.name,
        "federated_name": join(item.server, item.name) if item.name else "",
        "kind": item.kind,
        "state": item.state,
        "served": served,
        "callable": served != "none",
        "pin": item.pin,
        "offered_pin": item.offered_pin,
        "trust": spec.trust,
        "approved_by": item.approved_by,
        "since": rfc3339(item.since),
        "verdict": item.scan.verdict,
        "findings": list(item.scan.findings),
        "changes": _changes(item),
    }


def _changes(item: Item) -> list[Any]:
    if not item.approved or not item.offered or item.approved == item.offered:
        return []
    found = changes_between(parse_json(item.approved), parse_json(item.offered))
    return [msgspec.to_builtins(change) for change in found]


def _packed(row: Row) -> Any:
    return msgspec.to_builtins(row, builtin_types=(bytes,))
