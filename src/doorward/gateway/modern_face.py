"""The 2026 era towards clients: every request stands alone (2026-07-28 basic/index, transports/streamable-http)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from doorward.base.errors import CallerError, UpstreamError
from doorward.controls.control import Call, Claim, Head
from doorward.gateway import answers
from doorward.gateway.bridge import cell_of
from doorward.gateway.desk import Desk, caller_of
from doorward.gateway.exchange import Exchange
from doorward.gateway.fanout import FanLink
from doorward.gateway.naming import address, both, is_addressed, item_of, renamer
from doorward.gateway.ports import Link, Responder
from doorward.gateway.routes import FEDERATED
from doorward.gateway.states import ASKING, with_state
from doorward.gateway.tasks import NOT_THEIRS, OwnTasks, names_task
from doorward.protocol.message import Message

_VERSION = "io.modelcontextprotocol/protocolVersion"
_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


def _params_fields(head: Head) -> tuple[tuple[str, str], ...]:
    """The Mcp-Param-* fields of a request: what no schema declares has to be passed on (SF-44)."""
    found = head.params_fields
    if found is None:
        found = tuple([pair for pair in head.fields.items() if pair[0].startswith("mcp-param-")])
        head.params_fields = found
    return found


def _cut(message: Message, capabilities: dict[str, Any]) -> Message:
    """The message with the client capabilities that a server may hear of."""
    meta = (message.params or {}).get("_meta") or {}
    if meta.get(_CAPABILITIES) == capabilities:
        return message
    params = dict(message.params or {})
    meta = dict(meta)
    meta[_CAPABILITIES] = capabilities
    params["_meta"] = meta
    value = dict(message.value)
    value["params"] = params
    return Message(message.kind, message.method, message.id, params, value, message.params_fields)


def _comes_back(exchange: Exchange) -> bool:
    """Give a request that brings a state back the one that its server knows; False where it was refused."""
    call, desk = exchange.call, exchange.desk
    if not desk.states.is_on:
        return True
    opened = desk.states.open(call.principal.key, call.server, call.message)
    if not opened.fault:
        call.message = with_state(call.message, opened.state)
        return True
    ruling = desk.pipeline.judge_claim(call, call.principal, Claim("state", opened.fault))
    if ruling is not None:
        exchange.refuse(ruling)
    return ruling is None


def _over(heard: OwnTasks, exchange: Exchange) -> Callable[[Link | UpstreamError], None]:
    """What takes a link for a subscription to tasks."""

    def go(link: Link | UpstreamError) -> None:
        own = link if isinstance(link, UpstreamError) else heard.over(link, cell_of(link, "modern"))
        exchange.go(own)

    return go


class ModernFace:
    """Serve requests of modern clients."""

    def post(
        self, desk: Desk, head: Head, message: Message, body: bytes, responder: Responder, event: str
    ) -> None:
        """Serve one message. Clients of this era send requests only (SF-55)."""
        if message.kind == "response":
            raise CallerError("response-posted", "Clients of this revision do not send responses.")
        if message.kind == "notification":
            return responder.answer(answers.ACCEPTED)  # none is defined for HTTP; it goes nowhere
        principal = caller_of(head)
        server, own = head.server or FEDERATED, message
        method = message.method
        if server == FEDERATED and is_addressed(method):
            found = address(message)
            if found is not None and found[0] in desk.servers:
                server, own = found
        elif method != "tools/call" and names_task(message):
            mine = desk.tasks.address(principal.key, (server,) if server else desk.servers, message)
            if mine is not None:
                server, own = mine
        heard = OwnTasks() if message.method == "subscriptions/listen" else None
        if heard is not None:
            own = desk.tasks.subscribed(principal.key, server, own, heard)
        call = Call(head=head, principal=principal, server=server, era="modern", message=own, event=event)
        call.sent = message
        own.params_fields = _params_fields(head)
        call.address = responder.address
        meta = (message.params or {}).get("_meta")
        if isinstance(meta, dict):
            declared = meta.get(_CAPABILITIES)
            call.capabilities = declared if isinstance(declared, dict) else {}
            call.version = str(meta.get(_VERSION, ""))
        call.item = item_of(own)
        known = desk.facts.of(server, call.item) if method == "tools/call" else None
        call.schema = known.schema if known is not None else None
        exchange = Exchange(desk, call, responder, body, None)
        if server != FEDERATED:
            rename = desk.tasks.sealer(principal.key, server, method, heard)
            if head.server == FEDERATED:
                rename = both(renamer(server), rename)
            exchange.rename = desk.states.sealer(call, rename) if method in ASKING else rename
        exchange.route = self._route if heard is None else partial(self._route, heard=heard)
        return exchange.start()

    def _route(self, exchange: Exchange, heard: OwnTasks | None = None) -> None:
        """Send a judged request where it belongs; ``heard`` is what a subscription may tell of tasks."""
        call, desk = exchange.call, exchange.desk
        if call.message is call.sent and names_task(call.message):
            exchange.refuse(NOT_THEIRS)
        elif call.server != FEDERATED:
            if "requestState" in (call.message.params or ()) and not _comes_back(exchange):
                return
            call.capabilities = desk.declared(call.server, call.capabilities)
            call.message = _cut(call.message, call.capabilities)
            go = exchange.go if heard is None else _over(heard, exchange)
            desk.upstreams[call.server].link(
                call.principal.key, "modern", call.version, call.capabilities, go
            )
        elif is_addressed(call.message.method):
            exchange.refuse_unknown("no such server in the name")
        else:
            self._reach_all(desk, exchange)

    @staticmethod
    def _reach_all(desk: Desk, exchange: Exchange) -> None:
        call = exchange.call
        method = call.message.method
        names = [name for name in desk.servers if desk.may_ask(call.principal, method, name, "")]
        links: dict[str, Link] = {}
        left = [len(names)]

        def cut(message: Message, server: str) -> Message:
            return _cut(message, desk.declared(server, call.capabilities))

        def arrived() -> None:
            ordered = {name: links[name] for name in names if name in links}
            exchange.go(FanLink(desk, exchange, ordered, "modern", cut))

        if not names:
            return arrived()
        for name in names:

            def ready(link: Link | UpstreamError, name: str = name) -> None:
                if not isinstance(link, UpstreamError):
                    links[name] = link
                left[0] -= 1
                if left[0] == 0:
                    arrived()

            capabilities = desk.declared(name, call.capabilities)
            desk.upstreams[name].link(call.principal.key, "modern", call.version, capabilities, ready)
        return None
