"""What servers last listed: which tools exist, which say they only read, and their input schemas.

A hint is the server's own word and is used for one thing only: how soon a record must be on disk. Until approved pins
exist, a tool that no list has named is not callable, so that "unknown" and "hidden" answer alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from doorward.base.clock import Clock
from doorward.base.errors import UpstreamError
from doorward.gateway.ports import Link
from doorward.protocol.message import Message

_PAGES_COUNT = (
    50  # a list longer than this many pages is cut: an endless cursor must not hold a call for ever
)
_FRESH_SECONDS = 5.0  # an unknown name makes us list again, but not more often than this


class ToolFacts(msgspec.Struct, frozen=True):
    """What is remembered of one listed tool."""

    read_only: bool
    schema: dict[str, Any] | None


class ServerFacts:
    """The tools of one server as last listed, over all principals."""

    __slots__ = ("listed_at", "tools", "waiting")

    def __init__(self) -> None:
        self.tools: dict[str, ToolFacts] = {}
        self.listed_at = -1e9  # monotonic seconds
        self.waiting: list[Callable[[bool], None]] = []


class FactBook:
    """Facts about all servers of this worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._servers: dict[str, ServerFacts] = {}

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
        """Remember the tools of one page."""
        facts = self._servers.setdefault(server, ServerFacts())
        for item in items:
            name = item.get("name")
            if not isinstance(name, str):
                continue
            annotations = item.get("annotations")
            schema = item.get("inputSchema")
            facts.tools[name] = ToolFacts(
                isinstance(annotations, dict) and annotations.get("readOnlyHint") is True,
                schema if isinstance(schema, dict) else None,
            )

    def forget(self, server: str) -> None:
        """The server says that its list changed, or it was started anew: list again before the next call."""
        self._servers.pop(server, None)

    def ensure(
        self, server: str, tool: str, template: Message, link: Link, then: Callable[[bool], None]
    ) -> None:
        """Call ``then`` with whether the tool exists, listing the server's tools first where that is needed.

        A server that cannot list (no tools capability, an error) is taken at its word: ``then(True)``, and it will
        answer the call itself.
        """
        facts = self._servers.setdefault(server, ServerFacts())
        if tool in facts.tools:
            return then(True)
        if self._clock.monotonic() - facts.listed_at < _FRESH_SECONDS:
            return then(False)
        facts.waiting.append(lambda listed: then(tool in facts.tools or not listed))
        if len(facts.waiting) == 1:
            _Lister(self, server, facts, template, link).next_page("")
        return None

    def listed(self, facts: ServerFacts, *, complete: bool) -> None:
        """A listing is over: answer everybody who waited for it."""
        if complete:
            facts.listed_at = self._clock.monotonic()
        waiting, facts.waiting = facts.waiting, []
        for wake in waiting:
            wake(complete)


class _Lister:
    """Our own ``tools/list``, page by page, over a caller's link."""

    is_paused = False

    def __init__(
        self, book: FactBook, server: str, facts: ServerFacts, template: Message, link: Link
    ) -> None:
        self.on_writable: Callable[[], None] | None = None
        self._book = book
        self._server = server
        self._facts = facts
        self._link = link
        self._pages = 0
        self._answered = False
        self._fresh: list[dict[str, Any]] = []
        meta = (template.params or {}).get("_meta")
        self._meta = (
            {key: value for key, value in meta.items() if key != "progressToken"}
            if isinstance(meta, dict)
            else None
        )

    def next_page(self, cursor: str) -> None:
        """Ask for one page."""
        self._pages += 1
        params: dict[str, Any] = {}
        if cursor:
            params["cursor"] = cursor
        if self._meta is not None:
            params["_meta"] = self._meta
        request_id = f"doorward-list-{self._pages}"
        value: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": "tools/list", "params": params}
        self._answered = False
        self._link.post(Message("request", "tools/list", request_id, params, value), self)

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """A list may come over a stream; nothing to do."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        if message.kind != "response":
            return
        self._answered = True
        result = message.value.get("result")
        tools = result.get("tools") if isinstance(result, dict) else None
        if not isinstance(tools, list):
            return self._book.listed(self._facts, complete=False)
        self._fresh += [tool for tool in tools if isinstance(tool, dict)]
        cursor = result.get("nextCursor") if isinstance(result, dict) else None
        if isinstance(cursor, str) and self._pages < _PAGES_COUNT:
            return self.next_page(cursor)
        self._facts.tools.clear()
        self._book.learn(self._server, self._fresh)
        return self._book.listed(self._facts, complete=True)

    def done(self) -> None:
        if not self._answered:
            self._book.listed(self._facts, complete=False)

    def failed(self, error: UpstreamError) -> None:
        if not self._answered:
            self._book.listed(self._facts, complete=False)
