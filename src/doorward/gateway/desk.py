"""What all exchanges under one snapshot share: controls, journal, facts and the rules for what servers say unasked."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from doorward.base.errors import DoorwardError, UpstreamError
from doorward.base.ids import EventIds
from doorward.catalogue.server import ServerSpec
from doorward.controls.control import Call, Head
from doorward.controls.gate_server_requests import allowed_capabilities
from doorward.controls.scope_cache import Narrow, ScopeCache
from doorward.gateway.facts import FactBook, ToolFacts
from doorward.gateway.pinned import PinDesk
from doorward.gateway.pipeline import Pipeline
from doorward.gateway.ports import Link, Upstream
from doorward.gateway.recorder import Recorder
from doorward.gateway.states import StateSeal
from doorward.gateway.tasks import TaskSeal, is_foreign
from doorward.identity.principal import Principal
from doorward.protocol import codes
from doorward.protocol.message import Era, Message, MessageId

if TYPE_CHECKING:
    from doorward.gateway.exchange import Exchange
    from doorward.gateway.sessions import Session

_log = logging.getLogger("doorward.desk")


def caller_of(head: Head) -> Principal:
    """Who sent a request. Raises DoorwardError where nobody was found out: no request runs under a stand-in."""
    if head.principal is None:
        raise DoorwardError("no-principal", "The caller of this request is not known.")
    return head.principal


def _is_live(message: Message, server: str, session: Session | None, token: MessageId | None) -> bool:
    """Progress is for calls under way, and no server makes progress in another one's call (CF-14)."""
    named = message.params.get("progressToken") if message.params is not None else None
    if type(named) is not int and type(named) is not str:
        return False
    if session is None:
        return type(named) is type(token) and named == token
    return session.tokens.get(named) in (server, "")  # "" is a call to all servers


class DeafSink:
    """A sink for messages to which no answer is awaited."""

    is_paused = False

    def __init__(self) -> None:
        self.on_writable: Callable[[], None] | None = None

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None: ...

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None: ...

    def done(self) -> None: ...

    def failed(self, error: UpstreamError) -> None:
        _log.debug("a message to a server was lost", extra={"code": error.code})


class Desk:
    """Shared by every exchange of a worker under one snapshot; a new snapshot makes a new desk."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        recorder: Recorder,
        facts: FactBook,
        ids: EventIds,
        servers: dict[str, ServerSpec],
        upstreams: dict[str, Upstream],
        may_use_server: Callable[[Principal, str], bool],
        end_session: Callable[[Session], None],
        deny_as: str,
        sync_all: bool,
        gate_requests: bool,
        live: set[Exchange],
        states: StateSeal,
        may_ask: Callable[[Principal, str, str, str], bool] | None = None,
        task_key: bytes = b"",
        pins: PinDesk | None = None,
        narrow: Narrow | None = None,
    ) -> None:
        """``task_key`` is shared by all workers; without one, task ids of this desk hold for this desk only.

        ``may_ask(principal, method, server, item)`` judges each server's part of what goes to all of them."""
        self.pipeline = pipeline
        self.recorder = recorder
        self.facts = facts
        self._pins = pins
        self.ids = ids
        self.servers = servers
        self.upstreams = upstreams
        self.may_use_server = may_use_server
        self.end_session = end_session
        self.deny_as = deny_as
        self.sync_all = sync_all  # every decision is on disk before the server is touched
        self._gate_requests = gate_requests
        self.live = live
        self.states = states
        self.narrow = narrow or ScopeCache.narrowing("enforce")  # what a server lets caches share of a result
        self.tasks = TaskSeal(task_key or secrets.token_bytes(32))
        self.may_ask = may_ask or (lambda principal, _, server, __: may_use_server(principal, server))

    def known_tool(self, call: Call) -> ToolFacts | None:
        """What is known of the tool of a call; None when the server's tools must be listed before it goes on."""
        known = self.facts.of(call.server, call.item)
        if known is None or self._pins is None or self.servers[call.server].trust == "off":
            return known
        if self._pins.row(call.server, "tool", call.item) is None:
            return None  # SECURITY: a list may hold more than is pinned, and only what is pinned runs
        return known if self._pins.is_verified(call.server, call.principal.key) else None

    def list_tools(self, call: Call, link: Link, then: Callable[[bool], None]) -> None:
        """List the server's tools on behalf of a call; ``then`` hears whether its tool exists."""
        pins, view, anew = self._pins, "", False
        if pins is not None and self.servers[call.server].trust != "off":
            view = pins.view_of(call.server, call.principal.key)
            anew = not pins.is_verified(call.server, call.principal.key)
        self.facts.ensure(call.server, call.item, call.message, link, then, anew=anew, view=view)

    def declared(self, server: str, capabilities: dict[str, Any]) -> dict[str, Any]:
        """The client capabilities that this server may hear of (CF-21): never more than the client declared."""
        if not self._gate_requests:
            return capabilities
        spec = self.servers.get(server)
        return allowed_capabilities(capabilities, spec.allow_requests if spec is not None else ())

    def may_tell(
        self,
        message: Message,
        server: str,
        capabilities: dict[str, Any],
        session: Session | None,
        era: Era,
        link: Link,
        token: MessageId | None = None,
        flight: MessageId | None = None,
    ) -> bool:
        """Judge what a server says unasked; requests get an id of ours. False: the client does not hear it.

        ``token`` is the progress token of the call on whose stream it came, ``flight`` that call's id.
        """
        method = message.method
        if method == "notifications/tools/list_changed":
            self.facts.changed(server)
        if method == "notifications/progress":
            return _is_live(message, server, session, token)
        if is_foreign(message, server, session, link):
            return False  # about a task that somebody else may have made
        ruling = self.pipeline.judge_notice(message, server, capabilities)
        if ruling is not None:
            self.recorder.notice_refused(server, method, session, ruling)
            self._deny(message, link, ruling.refuse.tell)
            return False
        if message.kind != "request":
            return True
        ours = (
            session.ask(link, message.id, server, flight) if session is not None and era == "legacy" else None
        )
        if ours is None:  # the 2026 era has no server requests on streams (SF-53)
            self._deny(message, link, "This client cannot be asked.")
            return False
        message.id = message.value["id"] = ours
        return True

    @staticmethod
    def _deny(message: Message, link: Link, tell: str) -> None:
        if message.kind != "request" or message.id is None:
            return
        error = {"code": codes.METHOD_NOT_FOUND, "message": tell}
        value = {"jsonrpc": "2.0", "id": message.id, "error": error}
        link.post(Message("response", "", message.id, None, value), DeafSink())
