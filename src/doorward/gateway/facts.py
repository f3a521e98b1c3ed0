"""What servers last listed: which tools exist, which say they only read, and their input schemas.

A hint is the server's own word and is used for one thing only: how soon a record must be on disk. Until approved pins
exist, a tool that no list has named is not callable, so that "unknown" and "hidden" answer alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from doorward.base import limits
from doorward.base.clock import Clock
from doorward.base.errors import UpstreamError
from doorward.gateway.ports import Cancel, Later, Link, never
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message

_PAGES_COUNT = (
    50  # a list longer than this many pages is cut: an endless cursor must not hold a call for ever
)
_SCHEMA_BYTES = (
    65_536  # a schema with header annotations that is larger is not kept: such a call has no copies to check
)
_TOOLS_COUNT = 4_096  # tools of one server that are remembered; a server that makes up new ones starts over
_NAME_CHARS = 128  # check-shape serves no longer ones
_SCHEMAS_BYTES = 8_388_608  # kept schemas of one server
_TELL_SECONDS = 0.05  # many changes at once are told to the other workers as one
_FRESH_SECONDS = 5.0  # an unknown name makes us list again, but not more often than this
_LIST_SECONDS = 10.0  # a server that does not list within this is one that cannot
_AGAIN_COUNT = 2  # a list that changes while it is read is read again this often


def _kept(schema: object) -> tuple[dict[str, Any] | None, int]:
    """A schema with header annotations and its size in bytes; None for all others, which nobody asks for."""
    if not isinstance(schema, dict):
        return None, 0
    text = encode_json(schema)
    wanted = b"x-mcp-header" in text and len(text) <= _SCHEMA_BYTES
    return (schema, len(text)) if wanted else (None, 0)


class ToolFacts(msgspec.Struct, frozen=True):
    """What is remembered of one listed tool. ``schema`` only where header fields repeat arguments."""

    read_only: bool
    schema: dict[str, Any] | None


class ServerFacts:
    """The tools of one server as last listed, over all principals."""

    __slots__ = ("changes_count", "failed_at", "listed_at", "schemas_bytes", "tools", "waiting")

    def __init__(self) -> None:
        self.tools: dict[str, ToolFacts] = {}
        self.schemas_bytes = 0  # of the schemas kept since the last start over
        self.listed_at = -1e9  # monotonic seconds
        self.failed_at = -1e9
        self.changes_count = 0  # how often the list changed while it was being read
        self.waiting: dict[str, list[Callable[[bool], None]]] = {}  # by whose view is being listed

    def start_over(self) -> None:
        """Forget the tools."""
        self.tools.clear()
        self.schemas_bytes = 0


def _untold(server: str) -> None:
    """There is nobody to tell."""


class FactBook:
    """Facts about all servers of this worker."""

    def __init__(self, clock: Clock, later: Later = never) -> None:
        self._clock = clock
        self.later = later
        self._servers: dict[str, ServerFacts] = {}
        self._telling: set[str] = set()
        self.tell: Callable[[str], None] = _untold  # the other workers, that a server's list has changed

    def of(self, server: str, tool: str) -> ToolFacts | None:
        """What is known of a tool; None when no list has named it."""
        facts = self._servers.get(server)
        return None if facts is None else facts.tools.get(tool)

    def schema_of(self, server: str, message: Message) -> dict[str, Any] | None:
        """The input schema of the tool that a ``tools/call`` names."""
        if message.method != "tools/call" or message.params is None:
            return None
        known = self.of(server, str(message.params.get("name", "")))
        return None if known is None else known.schema

    def learn(self, server: str, items: list[dict[str, Any]]) -> None:
        """Remember the tools of one page; bounded, whatever and however often a server lists."""
        _learn(self._servers.setdefault(server, ServerFacts()), items)

    def changed(self, server: str) -> None:
        """A server said so in a session of this worker. Some say it nowhere else, so the other workers are told."""
        self.forget(server)
        if server not in self._telling:
            self._telling.add(server)
            self.later(_TELL_SECONDS, lambda: self._tell(server))

    def _tell(self, server: str) -> None:
        self._telling.discard(server)
        self.tell(server)

    def forget(self, server: str) -> None:
        """The server says that its list changed, or it was started anew: list again before the next call."""
        facts = self._servers.get(server)
        if facts is None:
            return
        if not facts.waiting:
            del self._servers[server]
            return
        facts.start_over()
        facts.changes_count += 1

    def ensure(
        self,
        server: str,
        tool: str,
        template: Message,
        link: Link,
        then: Callable[[bool], None],
        *,
        anew: bool = False,
        view: str = "",
    ) -> None:
        """Call ``then`` with whether the tool exists, listing the server's tools first where that is needed.

        A server that cannot list (no tools capability, an error, silence) is taken at its word: ``then(True)``, and it
        will answer the call itself. ``anew`` lists whatever is known, over a link of this ``view``: another principal's list
        says nothing about what this one is shown.
        """
        facts = self._servers.setdefault(server, ServerFacts())
        if tool in facts.tools and not anew:
            return then(True)
        waiting = facts.waiting.get(view)
        if waiting is None and not anew:
            now = self._clock.monotonic()
            if now - facts.listed_at < _FRESH_SECONDS:
                return then(False)
            if now - facts.failed_at < _FRESH_SECONDS:
                return then(True)
        wake = lambda listed: then(tool in facts.tools or not listed)  # noqa: E731
        if waiting is not None:
            waiting.append(wake)
            return None
        facts.waiting[view] = [wake]
        return _Lister(self, facts, template, link, view).start()

    def listed(self, facts: ServerFacts, view: str, *, complete: bool) -> None:
        """A listing is over: answer everybody who waited for it."""
        if complete:
            facts.listed_at = self._clock.monotonic()
        else:
            facts.failed_at = self._clock.monotonic()
        for wake in facts.waiting.pop(view, ()):
            wake(complete)


def _learn(facts: ServerFacts, items: list[dict[str, Any]]) -> None:
    for item in items:
        name = item.get("name")
        if not isinstance(name, str) or len(name) > _NAME_CHARS:
            continue
        if len(facts.tools) >= _TOOLS_COUNT or facts.schemas_bytes > _SCHEMAS_BYTES:
            facts.start_over()
        annotations = item.get("annotations")
        schema, size = _kept(item.get("inputSchema"))
        facts.schemas_bytes += size
        facts.tools[name] = ToolFacts(
            isinstance(annotations, dict) and annotations.get("readOnlyHint") is True, schema
        )


class _Lister:
    """Our own ``tools/list``, page by page, over a caller's link."""

    def __init__(self, book: FactBook, facts: ServerFacts, template: Message, link: Link, view: str) -> None:
        self._book = book
        self._facts = facts
        self._view = view
        self._changes_seen = facts.changes_count
        self._link = link
        self._pages = 0
        self._bytes = 0
        self._again = 0
        self._over = False
        self._fresh: list[dict[str, Any]] = []
        self._cancel: Cancel = _nothing
        self._cancel_timer: Cancel = _nothing
        meta = (template.params or {}).get("_meta")
        self._meta = (
            {key: value for key, value in meta.items() if key != "progressToken"}
            if isinstance(meta, dict)
            else None
        )

    def start(self) -> None:
        """Ask for the first page, and do not wait for ever for the last."""
        self._cancel_timer = self._book.later(_LIST_SECONDS, self._overdue)
        self._next_page("")

    def _next_page(self, cursor: str) -> None:
        self._pages += 1
        params: dict[str, Any] = {}
        if cursor:
            params["cursor"] = cursor
        if self._meta is not None:
            params["_meta"] = self._meta
        request_id = f"doorward-list-{self._pages}"
        value: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": "tools/list", "params": params}
        page = _Page(self)
        cancel = self._link.post(Message("request", "tools/list", request_id, params, value), page)
        if not page.is_over:
            self._cancel = cancel

    def _overdue(self) -> None:
        if not self._over:
            self._cancel()
            self.end(complete=False)

    def page(self, result: Any) -> None:
        """One page has come."""
        if self._over:
            return None
        tools = result.get("tools") if isinstance(result, dict) else None
        if not isinstance(tools, list):
            return self.end(complete=False)
        self._fresh += [tool for tool in tools if isinstance(tool, dict)]
        cursor = result.get("nextCursor") if isinstance(result, dict) else None
        if isinstance(cursor, str) and self._pages < _PAGES_COUNT:
            self._bytes += len(encode_json(tools))
            if self._bytes <= limits.LISTED_BYTES:
                return self._next_page(cursor)
        if self._facts.changes_count != self._changes_seen and self._again < _AGAIN_COUNT:
            self._changes_seen = self._facts.changes_count
            self._again += 1
            self._fresh = []
            self._bytes = 0
            return self._next_page("")
        self._facts.start_over()
        _learn(self._facts, self._fresh)
        return self.end(complete=True)

    def end(self, *, complete: bool) -> None:
        """The list is whole, or there will be none."""
        if not self._over:
            self._over = True
            self._cancel_timer()
            self._book.listed(self._facts, self._view, complete=complete)


class _Page:
    """The sink for one page: what its server says after the answer belongs to nothing."""

    is_paused = False

    def __init__(self, lister: _Lister) -> None:
        self.on_writable: Callable[[], None] | None = None
        self.is_over = False
        self._lister = lister

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """A list may come over a stream; nothing to do."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        if message.kind == "response" and not self.is_over:
            self.is_over = True
            self._lister.page(message.value.get("result"))

    def done(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._lister.end(complete=False)

    def failed(self, error: UpstreamError) -> None:
        self.done()


def _nothing() -> None:
    """Cancel what is over."""
