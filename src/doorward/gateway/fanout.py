"""One question to many servers, and their answers as one: the federated endpoint's lists and handshakes.

A server that fails is left out and logged; the others still answer. Names carry the configured server name (SF-69).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from doorward import __version__
from doorward.base import limits
from doorward.base.errors import UpstreamError
from doorward.gateway.desk import DeafSink, Desk
from doorward.gateway.handshakes import speaks_known, unknown_version
from doorward.gateway.naming import LISTS, rename_items, renamer
from doorward.gateway.ports import Cancel, Link, Sink
from doorward.gateway.routes import join_uri, split_uri
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Era, Message

if TYPE_CHECKING:
    from doorward.gateway.exchange import Exchange

_log = logging.getLogger("doorward.fanout")
_PAGES_COUNT = 50
_ANSWER_SECONDS = 30.0  # a server that keeps the others waiting for longer is left out
_HANDSHAKE_SECONDS = 60.0  # as long as a server may take to start
_NAME = {"name": "doorward", "title": "Doorward", "version": __version__}

Cut = Callable[[Message, str], Message]


def _nothing() -> None:
    """Cancel what is over."""


class _Part:
    """The sink for one server's share of a fanned-out request."""

    def __init__(self, fan: FanLink, server: str, link: Link, sink: Sink) -> None:
        self._fan = fan
        self._server = server
        self._link = link
        self._sink = sink
        self._pages = 0
        self._bytes = 0  # of the pages so far
        self._rename = renamer(server)
        self.result: dict[str, Any] | None = None
        self.items: list[Any] = []
        self.error: dict[str, Any] | None = None
        self.over = False
        self.is_late = False  # its acknowledgement is not waited for any more
        self.acknowledged: Message | None = None
        self.cancel: Cancel = _nothing
        self.cancel_timer: Cancel = _nothing
        self.on_writable: Callable[[], None] | None = None

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._sink.is_paused

    def ask(self, message: Message) -> None:
        """Send this server its message."""
        self._pages += 1
        page = _Page(self)
        cancel = self._link.post(self._fan.cut(message, self._server), page)
        if page.is_live:
            self.cancel = cancel

    def overdue(self) -> None:
        """The others have waited long enough."""
        if self._fan.method == "subscriptions/listen":
            self.is_late = True
            self._fan.acknowledge()
        elif not self.over:
            self.cancel()
            self.failed(UpstreamError("upstream-timeout", "The protected server did not answer in time."))

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """Parts are gathered; the client's stream opens when something has to be said."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """Gather the response; hand notifications on."""
        if message.kind != "response":
            if message.method == "notifications/subscriptions/acknowledged":
                self.acknowledged = message
                self._rename_filter(message)
                return self._fan.acknowledge()
            if self._fan.may_pass(message, self._server, self._link):
                self._rename(message)
                self._fan.notify(message)
            return None
        result = message.value.get("result")
        if not isinstance(result, dict):
            error = message.value.get("error")
            self.error = (
                error if isinstance(error, dict) else {"code": codes.INTERNAL_ERROR, "message": "error"}
            )
            return self._finish()
        if self._fan.method == "initialize" and not speaks_known(result):
            return self.failed(unknown_version())
        self.result = result
        key = LISTS.get(self._fan.method)
        if key is None:
            return self._finish()
        page = result.get(key)
        self.items += page if isinstance(page, list) else []
        cursor = result.get("nextCursor")
        if isinstance(cursor, str) and self._pages < _PAGES_COUNT:
            self._bytes += len(encode_json(page))
            if self._bytes <= limits.LISTED_BYTES:
                return self.ask(self._fan.page(cursor))
        return self._finish()

    def _rename_filter(self, message: Message) -> None:
        wanted = (message.params or {}).get("notifications")
        if not isinstance(wanted, dict):
            return
        if isinstance(wanted.get("resourceSubscriptions"), list):
            uris = wanted["resourceSubscriptions"]
            wanted["resourceSubscriptions"] = [
                join_uri(self._server, uri) for uri in uris if isinstance(uri, str)
            ]

    def done(self) -> None:
        self._finish()

    def failed(self, error: UpstreamError) -> None:
        _log.warning("a server is left out", extra={"server": self._server, "code": error.code})
        self.error = {"code": codes.UPSTREAM_FAILED, "message": error.tell}
        self._finish()

    def _finish(self) -> None:
        if not self.over:
            self.over = True
            self.cancel_timer()
            self._fan.acknowledge()
            self._fan.arrived()


class _Page:
    """The sink for one page: its end is not the end of a list of many."""

    def __init__(self, part: _Part) -> None:
        self.on_writable: Callable[[], None] | None = None
        self.is_live = True
        self._part = part

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._part.is_paused

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``. After the response nothing of this page counts."""
        if self.is_live:
            self.is_live = message.kind != "response"
            self._part.message(message, event_id, status)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if self.is_live:
            self.is_live = False
            self._part.done()

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if self.is_live:
            self.is_live = False
            self._part.failed(error)


def _keep_message(message: Message, server: str) -> Message:  # noqa: ARG001 - the shape of a Cut
    return message


class FanLink:
    """A link to many servers at once; made for one exchange (a legacy session keeps the links inside)."""

    cell = ""  # of several servers

    def __init__(
        self, desk: Desk, exchange: Exchange, links: dict[str, Link], era: Era, cut: Cut = _keep_message
    ) -> None:
        self._desk = desk
        self._exchange = exchange
        self._links = links
        self._era = era
        self.cut = cut
        self._message = exchange.call.message
        self.method = self._message.method
        self._parts: dict[str, _Part] = {}
        self._sink: Sink | None = None
        self._left = 0
        self._acknowledged = False

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if (
            message.kind != "request"
        ):  # a cancellation of what is under way here: to all, and nothing comes back
            for link in self._links.values():
                link.post(message, DeafSink())
            sink.done()
            return _nothing
        self._message, self._sink = message, sink
        self._parts = {name: _Part(self, name, link, sink) for name, link in self._links.items()}
        self._left = len(self._parts) + 1
        for name, part in list(self._parts.items()):
            part.ask(self._own(name))
            if not part.over:
                seconds = _HANDSHAKE_SECONDS if self.method == "initialize" else _ANSWER_SECONDS
                part.cancel_timer = self._desk.facts.later(seconds, part.overdue)
        self.arrived()
        return self._cancel

    def _own(self, server: str) -> Message:
        """The message for one server; a subscription names only that server's resources."""
        message = self._message
        if message.method != "subscriptions/listen" or message.params is None:
            return message
        wanted = message.params.get("notifications")
        if not isinstance(wanted, dict) or not isinstance(wanted.get("resourceSubscriptions"), list):
            return message
        mine = [split_uri(uri) for uri in wanted["resourceSubscriptions"] if isinstance(uri, str)]
        uris = [uri[1] for uri in mine if uri is not None and uri[0] == server]
        who, may_ask = self._exchange.call.principal, self._desk.may_ask
        uris = [uri for uri in uris if may_ask(who, "resources/subscribe", server, uri)]
        wanted = {**wanted, "resourceSubscriptions": uris}
        params = {**message.params, "notifications": wanted}
        value = {**message.value, "params": params}
        return Message(message.kind, message.method, message.id, params, value)

    def page(self, cursor: str) -> Message:
        """The message for a server's next page."""
        params = {**(self._message.params or {}), "cursor": cursor}
        value = {**self._message.value, "params": params}
        return Message("request", self.method, self._message.id, params, value)

    def _cancel(self) -> None:
        for part in self._parts.values():
            part.cancel_timer()
            part.cancel()

    @property
    def servers(self) -> tuple[str, ...]:
        """Whom it reaches."""
        return tuple(self._links)

    def may_pass(self, message: Message, server: str, link: Link) -> bool:
        """Whether the client may hear a notification of one server."""
        call = self._exchange.call
        capabilities = self._desk.declared(server, call.capabilities)
        exchange = self._exchange
        return self._desk.may_tell(
            message, server, capabilities, exchange.session, self._era, link, exchange.token
        )

    def notify(self, message: Message) -> None:
        """Hand a judged notification to the client."""
        self._exchange.pass_on(message)

    def acknowledge(self) -> None:
        """Acknowledge a subscription once every server has acknowledged its share or given up (SF-59)."""
        parts = self._parts.values()
        heard = [part.acknowledged for part in parts if part.acknowledged is not None]
        if (
            self._acknowledged
            or not heard
            or not all(part.acknowledged or part.over or part.is_late for part in parts)
        ):
            return
        self._acknowledged = True
        merged: dict[str, Any] = {}
        for message in heard:
            given = (message.params or {}).get("notifications")
            for name, value in given.items() if isinstance(given, dict) else ():
                known = merged.get(name)
                if isinstance(value, list) and isinstance(known, (list, type(None))):
                    merged[name] = [*(known or ()), *value]
                elif value is True and not isinstance(known, list):
                    merged[name] = True
        first = heard[0]
        params = {**(first.params or {}), "notifications": merged}
        value = {**first.value, "params": params}
        self._exchange.pass_on(Message("notification", first.method, None, params, value))

    def arrived(self) -> None:
        """One part is over; the last one makes the answer."""
        self._left -= 1
        if self._left or self._sink is None:
            return
        try:
            self._merge()
        except Exception as error:  # noqa: BLE001 - what one server said must not leave the client without an answer
            _log.error("answers could not be merged", exc_info=error)
            self._sink.failed(UpstreamError("upstream-unusable", "The servers' answers cannot be merged."))

    def _merge(self) -> None:
        key = LISTS.get(self.method)
        good = {name: part for name, part in self._parts.items() if part.result is not None}
        if self._parts and not good:
            part = next(iter(self._parts.values()))
            return self._answer(
                {"error": part.error or {"code": codes.UPSTREAM_FAILED, "message": "no server answered"}}
            )
        if key is not None:
            return self._answer({"result": self._merge_list(good, key)})
        if self.method == "initialize":
            return self._answer({"result": self._merge_handshake(good)})
        if self.method == "server/discover":
            return self._answer({"result": self._merge_discovery(good)})
        return self._answer({"result": {"resultType": "complete"} if self._era == "modern" else {}})

    def _answer(self, members: dict[str, Any]) -> None:
        if self._sink is None:
            return
        value = {"jsonrpc": "2.0", "id": self._message.id, **members}
        self._sink.message(Message("response", "", self._message.id, None, value))
        self._sink.done()

    def _merge_list(self, parts: dict[str, _Part], key: str) -> dict[str, Any]:
        items: list[Any] = []
        for name, part in parts.items():
            ruling = self._exchange.keep(name, part.items, key)
            if ruling is not None:
                _log.warning("a server's list is refused", extra={"server": name, "control": ruling.slug})
                continue
            rename_items(name, part.items, key)
            items += part.items
        result: dict[str, Any] = {key: items}
        if self._era == "modern":
            result.update(self._modern_members(parts))
        return result

    @staticmethod
    def _modern_members(parts: dict[str, _Part]) -> dict[str, Any]:
        times = [part.result.get("ttlMs") for part in parts.values() if part.result is not None]
        known = [value for value in times if isinstance(value, int) and value >= 0]
        meta = {"io.modelcontextprotocol/serverInfo": _NAME}
        ttl = min(known) if known and len(known) == len(times) else 0
        return {"resultType": "complete", "ttlMs": ttl, "cacheScope": "private", "_meta": meta}

    @staticmethod
    def _capabilities(parts: dict[str, _Part]) -> dict[str, Any]:
        """The union of what the servers serve; nothing is claimed that none of them does (SF-73)."""
        union: dict[str, Any] = {}
        for part in parts.values():
            served = (part.result or {}).get("capabilities")
            for name, value in served.items() if isinstance(served, dict) else ():
                if name in ("tools", "prompts", "resources", "logging", "completions") and isinstance(
                    value, dict
                ):
                    kept = union.setdefault(name, {})
                    kept.update({flag: True for flag, on in value.items() if on is True})
        return union

    def _merge_handshake(self, parts: dict[str, _Part]) -> dict[str, Any]:
        for name in [name for name in self._links if name not in parts]:
            self._links.pop(name).close()  # what did not shake hands has no part in the session
        for name, part in parts.items():
            negotiated = getattr(self._links[name], "negotiated", None)
            version = (part.result or {}).get("protocolVersion")
            if negotiated is not None and isinstance(version, str):
                negotiated(version)
        result = {
            "protocolVersion": self._exchange.call.version,
            "capabilities": self._capabilities(parts),
            "serverInfo": _NAME,
        }
        return result

    def _merge_discovery(self, parts: dict[str, _Part]) -> dict[str, Any]:
        return {
            "supportedVersions": list(codes.MODERN_VERSIONS),
            "capabilities": self._capabilities(parts),
            **self._modern_members(parts),
        }

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """A fanned-out request has no stream of its own to resume."""
        sink.done()
        return _nothing

    def close(self) -> None:
        """The links belong to the session."""
