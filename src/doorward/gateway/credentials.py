"""What Doorward presents to a server that wants a token of its own authorization server: for itself, or for each caller.

The supervisor gets tokens and keeps them; a worker has header lines for as long as they last. A server whose credential
never varies has none of this in its way. What a caller sent is never presented.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from doorward.base.clock import Clock
from doorward.base.errors import UpstreamError
from doorward.controls.present_credential import Lack
from doorward.gateway.challenged import UpstreamRefusedError
from doorward.gateway.http_link import HttpUpstream
from doorward.gateway.ports import Cancel, Link, Sink
from doorward.identity.oauth_metadata import parse_challenge, scopes_of
from doorward.identity.principal import Principal
from doorward.protocol.message import Era, Message

_log = logging.getLogger("doorward.credentials")
Kind = Literal[
    "shared", "personal", "exchange"
]  # for all callers; for each; for each by the token that it sent
Ask = Callable[
    [dict[str, Any], Callable[[Any], None]], None
]  # (payload, then); then(None) where nobody answers
_LINES_COUNT = 8_192
_CALLERS_COUNT = 8_192
_UPSTREAMS_COUNT = 1_024  # callers of one server whose relation is kept
_GONE = UpstreamError("credential-unavailable", "The credential for the protected server cannot be had now.")


class CredentialMissingError(UpstreamError):
    """There is no credential for this caller; ``url`` is where they can change that, or ""."""

    def __init__(self, tell: str, url: str = "", detail: str = "") -> None:
        super().__init__("credential-missing", tell, detail)
        self.url = url


class _Line(msgspec.Struct, frozen=True):
    line: bytes
    again_at: float  # Unix seconds after which a fresh one is asked for, while this one still serves
    until: float


Found = bytes | UpstreamError
Then = Callable[[Found], None]


class CredentialBook:
    """The header lines of one worker, by server and caller."""

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._kinds: dict[str, Kind] = {}
        self._turn: Any = None
        self._lines: OrderedDict[tuple[str, str], _Line] = OrderedDict()
        self._flights: dict[tuple[str, str], list[Then]] = {}
        self._callers: OrderedDict[str, tuple[Principal, str]] = OrderedDict()
        self._refused: dict[tuple[str, str], tuple[bytes, tuple[str, ...]]] = {}

    def adopt(self, kinds: Mapping[str, Kind], turn: Any) -> None:
        """New settings. A new ``turn`` means that something was unlinked or changed: nothing cached is believed."""
        if turn != self._turn or dict(kinds) != self._kinds:
            self._lines.clear()
        self._turn = turn
        self._kinds = dict(kinds)

    def needs(self, server: str) -> bool:
        """True for a server that wants a token."""
        return server in self._kinds

    @property
    def is_idle(self) -> bool:
        """True where no server wants a token."""
        return not self._kinds

    def know(self, principal: Principal, authorization: str) -> None:
        """Remember who calls, and the token that a token exchange is about; it goes to the supervisor only."""
        before = self._callers.get(principal.key)
        if before is not None and before[0].attributes_digest() != principal.attributes_digest():
            for key in [key for key in self._lines if key[1] == principal.key]:
                del self._lines[key]  # another token may well be worth another credential
            before = None
        # A request that another worker handed over comes without its token: what this one saw last still counts.
        self._callers[principal.key] = (principal, authorization or (before[1] if before is not None else ""))
        self._callers.move_to_end(principal.key)
        if len(self._callers) > _CALLERS_COUNT:
            self._callers.popitem(last=False)

    def key_of(self, server: str, caller: str) -> str:
        """Under which name a caller's line is kept."""
        return "" if self._kinds.get(server) == "shared" else caller

    def get(self, server: str, caller: str) -> bytes | None:
        """The line, if there is one that lasts; asks for the next one in good time."""
        key = (server, self.key_of(server, caller))
        known = self._lines.get(key)
        if known is None:
            return None
        now = self._clock.now()
        if now >= known.until:
            del self._lines[key]
            return None
        if now >= known.again_at and key not in self._flights:
            self._flights[key] = []
            self._start(key, caller)
        return known.line

    def fetch(self, server: str, caller: str, then: Then) -> None:
        """The line, from the supervisor where there is none here; of many who want it one asks."""
        found = self.get(server, caller)
        if found is not None:
            return then(found)
        key = (server, self.key_of(server, caller))
        waiting = self._flights.get(key)
        if waiting is not None:
            waiting.append(then)
            return None
        self._flights[key] = [then]
        return self._start(key, caller)

    def obtain(self, server: str, principal: Principal) -> Lack | Awaitable[Lack | None] | None:
        """None once there is a line, or why there is none; see ``controls.present_credential``."""
        if self.get(server, principal.key) is not None:
            return None
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Lack | None] = loop.create_future()

        def then(found: Found) -> None:
            if not waiting.done():
                waiting.set_result(None if isinstance(found, bytes) else _lack(found))

        self.fetch(server, principal.key, then)
        return waiting.result() if waiting.done() else waiting

    def spent(self, server: str, caller: str, line: bytes, scopes: tuple[str, ...] = ()) -> None:
        """The server refused this line: forget it here; with ``scopes`` the server wants more."""
        key = (server, self.key_of(server, caller))
        known = self._lines.get(key)
        if known is not None and known.line == line:
            del self._lines[key]
        self._refused[key] = (line, scopes)

    def _start(self, key: tuple[str, str], caller: str) -> None:
        server = key[0]
        payload: dict[str, Any] = {"server": server}
        if key[1]:
            known = self._callers.get(caller)
            if known is None:
                return self._tell(key, _GONE)
            who = known[0]
            payload["caller"] = [who.tenant, who.issuer, who.subject, who.client]
            if self._kinds.get(server) == "exchange":
                payload["token"] = known[1]
        refused = self._refused.pop(key, None)
        if refused is not None:
            payload["spent"], payload["scopes"] = refused[0], list(refused[1])
        return self._ask(payload, lambda answer: self._answered(key, answer))

    def _answered(self, key: tuple[str, str], answer: Any) -> None:
        match answer:
            case {
                "line": bytes(line),
                "again_at": (int() | float()) as again_at,
                "until": (int() | float()) as until,
            }:
                if key[0] in self._kinds:
                    self._lines[key] = _Line(line, float(again_at), float(until))
                    self._lines.move_to_end(key)
                    if len(self._lines) > _LINES_COUNT:
                        self._lines.popitem(last=False)
                self._tell(key, line)
            case {"missing": str(tell), "url": str(url)}:
                self._tell(key, CredentialMissingError(tell, url))
            case _:
                self._tell(key, _GONE)

    def _tell(self, key: tuple[str, str], found: Found) -> None:
        for then in self._flights.pop(key, []):
            try:
                then(found)
            except Exception as error:  # noqa: BLE001 - the others still have to hear it
                _log.error("a request could not go on", exc_info=error)


def _lack(error: UpstreamError) -> Lack:
    return Lack(error.tell, getattr(error, "url", ""), error.code)


Ready = Callable[[Link | UpstreamError], None]


class CredentialedUpstream:
    """A server that wants a token; see ``gateway.ports.Upstream``. Callers whose tokens differ share no relation."""

    def __init__(self, name: str, book: CredentialBook, make: Callable[[bytes], HttpUpstream]) -> None:
        self.name = name
        self._book = book
        self._make = make
        self._inner: OrderedDict[str, tuple[HttpUpstream, bytes]] = OrderedDict()

    def link(
        self, principal: str, era: Era, version: str, capabilities: dict[str, Any], ready: Ready
    ) -> None:
        """See ``gateway.ports.Upstream``."""

        def linked(link: Link | UpstreamError, line: bytes, *, is_second: bool) -> None:
            if not isinstance(link, UpstreamError):
                return ready(CredentialedLink(self, self._book, principal, link))
            if is_refused(link) and not is_second:  # what the server was asked before it could be linked to
                self._book.spent(self.name, principal, line)
                return self._book.fetch(self.name, principal, lambda found: got(found, is_second=True))
            return ready(missing(link) if is_refused(link) else link)

        def got(found: Found, *, is_second: bool = False) -> None:
            if isinstance(found, UpstreamError):
                return ready(found)
            inner = self.present(principal, found)
            return inner.link(
                principal, era, version, capabilities, lambda link: linked(link, found, is_second=is_second)
            )

        self._book.fetch(self.name, principal, got)

    def present(self, caller: str, line: bytes) -> HttpUpstream:
        """The caller's relation, presenting ``line`` from now on."""
        key = self._book.key_of(self.name, caller)
        known = self._inner.get(key)
        if known is None:
            known = (self._make(line), line)
            if len(self._inner) >= _UPSTREAMS_COUNT:
                self._inner.popitem(last=False)
        elif known[1] != line:
            known[0].present(line)
            known = (known[0], line)
        self._inner[key] = known
        self._inner.move_to_end(key)
        return known[0]


class CredentialedLink:
    """A link that presents what lasts at each message; see ``gateway.ports.Link``."""

    def __init__(
        self, upstream: CredentialedUpstream, book: CredentialBook, caller: str, inner: Link
    ) -> None:
        self._upstream = upstream
        self._book = book
        self._caller = caller
        self._inner = inner

    def negotiated(self, version: str) -> None:
        """The server answered initialize with this version."""
        tell = getattr(self._inner, "negotiated", None)
        if tell is not None:
            tell(version)

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        attempt = _Attempt(
            self._upstream, self._book, self._caller, sink, lambda own: self._inner.post(message, own)
        )
        attempt.start()
        return attempt.cancel

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        attempt = _Attempt(
            self._upstream, self._book, self._caller, sink, lambda own: self._inner.listen(last_event_id, own)
        )
        attempt.start()
        return attempt.cancel

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        self._inner.close()


class _Attempt:
    """One message under a credential: if the server refuses that, once more under a fresh one, then never again."""

    def __init__(
        self,
        upstream: CredentialedUpstream,
        book: CredentialBook,
        caller: str,
        sink: Sink,
        send: Callable[[Sink], Cancel],
    ) -> None:
        self._upstream = upstream
        self._book = book
        self._caller = caller
        self._sink = sink
        self._send = send
        self._line = b""
        self._is_second = False
        self._is_over = False
        self._cancel: Cancel | None = None

    def start(self) -> None:
        """Send, at once where the credential is here."""
        self._book.fetch(self._upstream.name, self._caller, self._got)

    def _got(self, found: Found) -> None:
        if self._is_over:
            return
        if isinstance(found, UpstreamError):
            self._is_over = True
            self._sink.failed(found)
            return
        if self._is_second and found == self._line:  # nothing else is to be had
            self._end(None)
            return
        self._line = found
        self._upstream.present(self._caller, found)
        cancel = self._send(self)
        if not self._is_over:
            self._cancel = cancel

    def cancel(self) -> None:
        """Drop it."""
        self._is_over = True
        if self._cancel is not None:
            self._cancel()

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return self._sink.on_writable

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        self._sink.on_writable = wake

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._sink.is_paused

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``."""
        self._sink.streaming(retry_ms, event_id)

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        self._sink.message(message, event_id, status)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        self._is_over = True
        self._sink.done()

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``. A refused message did nothing at the server: it may be sent again."""
        if self._is_over:
            return
        if not is_refused(error):
            self._is_over = True
            self._sink.failed(error)
        elif self._is_second:
            self._end(error)
        else:
            self._is_second = True
            self._book.spent(self._upstream.name, self._caller, self._line, wanted_scopes(error))
            self._book.fetch(self._upstream.name, self._caller, self._got)

    def _end(self, error: UpstreamError | None) -> None:
        self._is_over = True
        self._sink.failed(missing(error))


def is_refused(error: UpstreamError) -> bool:
    """True where another credential may help: 401, or 403 with a challenge that says so."""
    return isinstance(error, UpstreamRefusedError) and (error.status == 401 or bool(wanted_scopes(error)))


def wanted_scopes(error: UpstreamError) -> tuple[str, ...]:
    """The scopes that a server's ``insufficient_scope`` names (RFC 6750 section 3.1)."""
    if not isinstance(error, UpstreamRefusedError) or error.status != 403:
        return ()
    told = parse_challenge(error.challenge)
    return scopes_of(told.get("scope", "")) if told.get("error") == "insufficient_scope" else ()


def missing(error: UpstreamError | None) -> CredentialMissingError:
    """What a caller hears when even a fresh credential was refused."""
    status = f"{error.status}" if isinstance(error, UpstreamRefusedError) else ""
    return CredentialMissingError(
        "The protected server refused the credential that Doorward has for it.", "", status
    )
