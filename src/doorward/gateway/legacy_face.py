"""The 2025 era towards clients: sessions, POST, GET and DELETE (2025-11-25 basic/transports, basic/lifecycle)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.base.errors import CallerError, UpstreamError
from doorward.controls.bind_session import SESSION_NOT_FOUND, BindSession, missing_session
from doorward.controls.control import Call, Claim, Head
from doorward.gateway import answers
from doorward.gateway.desk import DeafSink, Desk, caller_of
from doorward.gateway.exchange import Exchange
from doorward.gateway.fanout import FanLink
from doorward.gateway.naming import address, both, is_addressed, item_of, renamer
from doorward.gateway.pipeline import Ruling
from doorward.gateway.ports import Cancel, Later, Link, Reply, Responder, Sink
from doorward.gateway.routes import FEDERATED
from doorward.gateway.sessions import Session, SessionTable
from doorward.gateway.tasks import NOT_THEIRS, names_task
from doorward.identity.principal import Principal
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message

SESSION_ENDED = Reply(
    404, answers.JSON_FIELDS, answers.error_body(None, codes.INVALID_REQUEST, SESSION_NOT_FOUND)
)
_SESSION_MISSING = Reply(
    400,
    answers.JSON_FIELDS,
    answers.error_body(None, codes.INVALID_REQUEST, "The Mcp-Session-Id header is missing."),
)
_NOTICE_SECONDS = 5.0  # a client waits no longer until every server has taken its notification
# Before a server that ended its stream is listened to again; doubled each time, up to the last.
_AGAIN_FIRST_SECONDS, _AGAIN_LAST_SECONDS = 1.0, 30.0
_BROKEN = frozenset({"upstream-broke", "upstream-unreachable", "upstream-timeout"})  # may be better later


class CommonSink:
    """What one server says on its own, towards a session's common stream, as long as a client listens."""

    __slots__ = ("_delay_seconds", "_desk", "_last_event", "_link", "_renames", "_server", "_session")

    def __init__(self, desk: Desk, session: Session, server: str, link: Link) -> None:
        self._desk = desk
        self._session = session
        self._server = server
        self._link = link
        self._last_event = ""
        self._delay_seconds = _AGAIN_FIRST_SECONDS
        self._renames: Callable[[Message], None] | None = (
            None  # made when it is needed: most streams stay silent
        )

    def _rename(self, message: Message) -> None:
        if self._renames is None:
            session, server = self._session, self._server
            federated = renamer(server) if session.endpoint == FEDERATED else None
            self._renames = both(federated, self._desk.tasks.sealer(session.principal, server, "", session))
        self._renames(message)

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._session.common.is_paused

    @property
    def on_writable(self) -> Any:
        """See ``gateway.ports.Sink``. Several servers may wait for the one stream."""
        return None

    @on_writable.setter
    def on_writable(self, wake: Any) -> None:
        if wake is not None:
            self._session.common.wake_later(wake)

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """Our own stream is open already."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """Pass on what the client may hear; responses have no place here (SF-28)."""
        session = self._session
        self._delay_seconds = _AGAIN_FIRST_SECONDS
        self._last_event = event_id or self._last_event
        if message.kind == "response" or session.is_over:
            return
        capabilities = self._desk.declared(self._server, session.capabilities)
        if self._desk.may_tell(message, self._server, capabilities, session, "legacy", self._link):
            self._rename(message)
            session.common.send(encode_json(message.value))

    def listen(self) -> None:
        """Hear the server from now on, unless somebody does already."""
        session, server = self._session, self._server
        if server in session.listening or session.is_over:
            return
        session.listening[server] = _nothing
        cancel = self._link.listen(self._last_event, self)
        if server in session.listening:
            session.listening[server] = cancel

    def done(self) -> None:
        self._session.listening.pop(self._server, None)
        self._desk.facts.later(self._delay_seconds, self._listen_again)
        self._delay_seconds = min(2 * self._delay_seconds, _AGAIN_LAST_SECONDS)

    def _listen_again(self) -> None:
        if self._session.common.is_attached:  # a client that comes back later makes a sink of its own
            self.listen()

    def failed(self, error: UpstreamError) -> None:
        if error.code in _BROKEN:
            self.done()
            return
        self._session.listening.pop(self._server, None)
        if error.code == "upstream-session-gone":
            self._desk.end_session(self._session)


def _route(exchange: Exchange) -> None:
    """Send a judged request of a session where it belongs."""
    call, desk, session = exchange.call, exchange.desk, exchange.session
    method = call.message.method
    if session is None:
        exchange.go(UpstreamError("upstream-absent", _ABSENT))
    elif method == "tools/call" and call.server != FEDERATED:
        exchange.go(session.links.get(call.server) or UpstreamError("upstream-absent", _ABSENT))
    elif method == "ping":
        pong = Message("response", "", call.message.id, None, {"jsonrpc": "2.0", "id": None, "result": {}})
        exchange.answer_locally(pong)
    elif names_task(call.message) and call.message is call.sent:
        exchange.refuse(NOT_THEIRS)
    elif call.server == FEDERATED and is_addressed(call.message.method):
        exchange.refuse_unknown("no such server in the name")
    elif call.server == FEDERATED:
        # Asked anew for each server: policy may have changed since the session began.
        links = {
            name: link
            for name, link in session.links.items()
            if desk.may_ask(call.principal, method, name, "")
        }
        exchange.go(FanLink(desk, exchange, links, "legacy"))
    else:
        exchange.go(session.links.get(call.server) or UpstreamError("upstream-absent", _ABSENT))


class LegacyFace:
    """Serve requests of legacy clients whose sessions live in this worker."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table

    def post(
        self,
        desk: Desk,
        head: Head,
        message: Message,
        body: bytes,
        responder: Responder,
        event: str,
        session: Session | None,
    ) -> None:
        """Serve one message of a legacy client; without a session it can only be ``initialize``."""
        principal = caller_of(head)
        if message.method == "initialize" and message.kind == "request":
            return self._initialize(desk, head, principal, message, body, responder, event)
        if session is None:
            return self.refuse(desk, head, responder, event)
        session.caller = principal
        kind = message.kind
        if kind == "response":
            return self._answer(session, message, responder)
        call = self._call(desk, head, principal, session, message, event)
        call.address = responder.address
        if kind == "notification":
            return self._notify(desk, call, session, responder, body)
        if message.id in session.flights:
            raise CallerError("id-in-use", "This request id is in use in this session already.")
        exchange = Exchange(desk, call, responder, body, session)
        server, method = call.server, message.method
        if server != FEDERATED:
            kept = session.call_renames.get(server) if method == "tools/call" else None
            if kept is not None and kept[0] is desk:
                exchange.rename = kept[1]
            else:
                exchange.rename = self._rename_of(desk, session, server, method)
        exchange.route = _route
        return exchange.start()

    @staticmethod
    def _rename_of(desk: Desk, session: Session, server: str, method: str) -> Callable[[Message], None]:
        """What gives a server's replies the names that this client knows; kept for calls, which are most."""
        federated = renamer(server) if session.endpoint == FEDERATED else None
        sealer = desk.tasks.sealer(session.principal, server, method, session)
        rename = sealer if federated is None else both(federated, sealer)
        if method == "tools/call":
            session.call_renames[server] = (desk, rename)
        return rename

    def session_of(self, desk: Desk, head: Head, principal: Principal) -> Session | None:
        """The session that a head names, if it is this principal's."""
        session_id = head.fields.get("mcp-session-id", "")
        if not session_id:
            return None
        found = self._table.find(session_id, principal.key, head.server or FEDERATED)
        if found is None:
            return self._anothers(desk, head, principal)[0]
        match found.fits(principal):
            case "other":
                return None
            case "grown":
                self._table.drop(found)
                return None
        return found

    def _anothers(self, desk: Desk, head: Head, principal: Principal) -> tuple[Session | None, Ruling | None]:
        """A session that is not this principal's, if nothing binds sessions to their owners; else why not."""
        session = self._table.anyones(head.fields.get("mcp-session-id", ""), head.server or FEDERATED)
        if session is None:
            return None, Ruling(BindSession.slug, missing_session("no such session"))
        claim = Claim("session", f"the session of another principal: {session.principal}")
        ruling = desk.pipeline.judge_claim(None, principal, claim)
        return (session, None) if ruling is None else (None, ruling)

    def refuse(self, desk: Desk, head: Head, responder: Responder, event: str) -> None:
        """Refuse a request whose session is not there for its caller; whose it is stands on record only."""
        if not head.fields.get("mcp-session-id"):
            return responder.answer(_SESSION_MISSING)
        session_id, endpoint = head.fields["mcp-session-id"], head.server or FEDERATED
        is_alert = self._table.anyones(session_id, endpoint) is not None
        ruling = self._anothers(desk, head, caller_of(head))[1]
        if ruling is None:
            return responder.answer(SESSION_ENDED)  # it has just been let in, or has just ended
        desk.recorder.claim_refused(head, ruling, event, responder.address, is_alert=is_alert)
        reply = answers.refused(ruling.refuse, slug=ruling.slug, event=event, message_id=None)
        return responder.answer(reply)

    @staticmethod
    def _call(
        desk: Desk, head: Head, principal: Principal, session: Session, message: Message, event: str
    ) -> Call:
        server, sent, method = session.endpoint, message, message.method
        if server == FEDERATED and message.kind == "request" and is_addressed(method):
            found = address(message)
            if found is not None and found[0] in desk.servers:
                server, message = found
        elif method != "tools/call" and names_task(message):
            mine = desk.tasks.address(session.principal, (server,) if server else session.links, message)
            if mine is not None:
                server, message = mine
        call = Call(head=head, principal=principal, server=server, era="legacy", message=message, event=event)
        call.sent = sent
        call.session = session.id
        call.version = session.version
        declared = session.declared.get(server)
        if declared is None:
            declared = desk.declared(server, session.capabilities) if server else session.capabilities
            session.declared[server] = declared
        call.capabilities = declared
        call.item = item_of(message)
        return call

    def _notify(self, desk: Desk, call: Call, session: Session, responder: Responder, body: bytes) -> None:
        message = call.message
        targets = [link for name, link in session.links.items() if desk.may_use_server(call.principal, name)]
        if message.method == "notifications/cancelled":
            request_id = message.params.get("requestId") if message.params is not None else None
            flight = session.flights.get(request_id) if isinstance(request_id, (str, int)) else None
            if flight is not None and request_id is not None:
                session.unask(request_id)
            if flight is not None and flight.upstream_requests == 0:
                flight.stop("The call was cancelled before it began.")
                flight = None
            targets = [flight.link] if flight is not None and flight.link is not None else []
        exchange = Exchange(desk, call, responder, body, session)
        exchange.route = lambda going: going.go(_ManyLinks(targets, desk.facts.later))
        exchange.start()

    @staticmethod
    def _answer(session: Session, message: Message, responder: Responder) -> None:
        """Hand the client's answer to the server that asked; an answer nobody waits for is dropped."""
        asked = session.asked.pop(message.id, None) if isinstance(message.id, str) else None
        if asked is not None:
            message.id = message.value["id"] = asked.id
            asked.link.post(message, DeafSink())
        responder.answer(answers.ACCEPTED)

    # -- initialize ---------------------------------------------------------------------------------------------

    def _initialize(
        self,
        desk: Desk,
        head: Head,
        principal: Principal,
        message: Message,
        body: bytes,
        responder: Responder,
        event: str,
    ) -> None:
        endpoint = head.server or FEDERATED
        if self._table.is_full:
            raise CallerError("sessions-full", "Too many sessions are open; try again later.", status=429)
        params = message.params or {}
        offered = params.get("protocolVersion")
        version = offered if offered in codes.LEGACY_VERSIONS else codes.LEGACY_VERSIONS[-1]
        declared = params.get("capabilities")
        call = Call(
            head=head, principal=principal, server=endpoint, era="legacy", message=message, event=event
        )
        call.address = responder.address
        call.version = str(version)
        call.capabilities = declared if isinstance(declared, dict) else {}
        exchange = Exchange(desk, call, responder, body, None)
        opening = _Opening(self._table, desk, exchange, call.capabilities)
        exchange.on_result = opening.opened
        exchange.on_settled = opening.settled
        exchange.route = opening.route
        exchange.start()

    # -- GET and DELETE -----------------------------------------------------------------------------------------

    def get(self, desk: Desk, head: Head, responder: Responder, session: Session) -> None:
        """Open the common stream, or resume a stream after ``Last-Event-ID``."""
        principal = session.caller = caller_of(head)
        last = head.fields.get("last-event-id", "")
        if last:
            found = session.stream_after(last)
            if found is None:
                return responder.answer(SESSION_ENDED)
            stream, after = found
            stream.expires_at = principal.expires_at
            stream.attach(responder, after)
            for flight in list(session.flights.values()):
                if flight.stream is stream:
                    flight.resume()
            if stream is not session.common:
                return None
        else:
            session.common.expires_at = principal.expires_at
            session.common.attach(responder, None)
            if session.version >= "2025-11-25":
                session.common.prime()
        for server, link in session.links.items():
            if server not in session.listening:
                CommonSink(desk, session, server, link).listen()
        return None

    def delete(self, responder: Responder, session: Session) -> None:
        """End the session."""
        self._table.drop(session)
        return responder.answer(Reply(200, b""))


_ABSENT = "This server was not available when the session began; start a new session."


def _nothing() -> None:
    """Cancel what has not begun."""


class _ManyLinks:
    """A notification to every server of a session: accepted when the last of them has taken it, or after a while."""

    cell = ""  # of several servers

    def __init__(self, links: list[Link], later: Later) -> None:
        self._links = links
        self._later = later

    def post(self, message: Message, sink: Sink) -> Cancel:
        """Send to all; failures do not matter to a notification."""
        left = set(range(len(self._links)))
        cancel_timer = _nothing

        def taken(number: int) -> None:
            left.discard(number)
            if not left:
                cancel_timer()
                sink.done()

        class Part(DeafSink):
            def __init__(self, number: int) -> None:
                super().__init__()
                self._number = number

            def done(self) -> None:
                taken(self._number)

            def failed(self, error: UpstreamError) -> None:
                taken(self._number)

        for number, link in enumerate(self._links):
            link.post(message, Part(number))
        if left:
            cancel_timer = self._later(_NOTICE_SECONDS, sink.done)
        elif not self._links:
            sink.done()
        return cancel_timer

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """Notifications have nothing to listen to."""
        return _nothing

    def close(self) -> None:
        """Nothing is owned here."""


class _Opening:
    """An ``initialize`` under way: finds the links, and makes the session once the servers have agreed."""

    def __init__(
        self, table: SessionTable, desk: Desk, exchange: Exchange, capabilities: dict[str, Any]
    ) -> None:
        self._table = table
        self._desk = desk
        self._exchange = exchange
        self._capabilities = capabilities
        self._links: dict[str, Link] = {}

    def route(self, exchange: Exchange) -> None:
        """Reach the server, or all servers that the caller may use."""
        call, desk = exchange.call, self._desk
        if call.server != FEDERATED:
            call.message = self._cut(call.message, call.server)
            return self._reach(call.server, exchange.go)
        names = [name for name in desk.servers if desk.may_use_server(call.principal, name)]
        if not names:
            return exchange.go(FanLink(desk, exchange, {}, "legacy"))
        left = [len(names)]

        def reached(_: Link | UpstreamError) -> None:
            left[0] -= 1
            if left[0] == 0:
                self._links = {name: self._links[name] for name in names if name in self._links}
                exchange.go(FanLink(desk, exchange, self._links, "legacy", self._cut))

        for name in names:
            self._reach(name, reached)
        return None

    def _reach(self, server: str, then: Any) -> None:
        call = self._exchange.call

        def ready(link: Link | UpstreamError) -> None:
            if not isinstance(link, UpstreamError):
                if self._exchange.finished:  # the client has left: nobody would ever close it
                    link.close()
                    return
                self._links[server] = link
            then(link)

        declared = self._desk.declared(server, self._capabilities)
        self._desk.upstreams[server].link(call.principal.key, "legacy", call.version, declared, ready)

    def _cut(self, message: Message, server: str) -> Message:
        """The message as this server may see it: with the capabilities it may hear of."""
        params = dict(message.params or {})
        params["capabilities"] = self._desk.declared(server, self._capabilities)
        value = dict(message.value)
        value["params"] = params
        return Message(message.kind, message.method, message.id, params, value)

    def opened(self, result: dict[str, Any]) -> None:
        """The server agreed: make the session and tell the client its id."""
        call = self._exchange.call
        version = result.get("protocolVersion")
        session = self._table.make(call.principal.key, call.server, str(version))
        session.capabilities = self._capabilities
        session.caller = session.opened_by = call.principal
        # A link that tried a server's era stands aside now for the one that it chose.
        session.links = {name: getattr(link, "chosen", link) for name, link in self._links.items()}
        self._links = {}
        for link in session.links.values():
            negotiated = getattr(link, "negotiated", None)
            if negotiated is not None and call.server != FEDERATED:
                negotiated(str(version))
        self._exchange.extra_fields = f"Mcp-Session-Id: {session.id}\r\n".encode()

    def settled(self) -> None:
        """However it ended: links that no session took over are closed."""
        links, self._links = self._links, {}
        for link in links.values():
            link.close()
