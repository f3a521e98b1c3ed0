"""Cell B: clients of the 2026 era before a server of the 2025 era (``protocol.cell_b`` has the translation).

One object stands for one session at the server, kept for one (principal, capability set) and used by all their requests: ids,
progress tokens and subscriptions of one caller never reach another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.base.errors import UpstreamError
from doorward.controls.gate_server_requests import KINDS
from doorward.controls.seal_state import STATE_INVALID
from doorward.gateway.cell_b_call import SESSION_GONE, ParkedCall, Place
from doorward.gateway.desk import DeafSink
from doorward.gateway.doubted import Doubted
from doorward.gateway.handshakes import speaks_known, unknown_version
from doorward.gateway.parks import ParkBook
from doorward.gateway.ports import Cancel, Later, Link, Sink
from doorward.protocol import cell_b, codes
from doorward.protocol.envelope import error, notification, request, response
from doorward.protocol.message import Message
from doorward.protocol.modern import CLIENT_INFO_KEY, LOG_LEVEL_KEY

_PARKS_COUNT = 64  # of one principal and capability set
_PARKED_BYTES = 4_194_304  # what they hold together: questions, and answers that came too early
_SUBSCRIPTIONS_COUNT = 64
_RESOURCES_COUNT = 256
KINDS_ASKED = frozenset(KINDS.values())
_AGAIN_FIRST_SECONDS, _AGAIN_LAST_SECONDS = 1.0, 30.0  # before a stream that ended is asked for again


def _nothing() -> None:
    """Cancel what is over."""


class ModernClientLink:
    """A session at a legacy server for modern clients of one principal; see ``gateway.ports.Link``."""

    cell = "modern-legacy"

    def __init__(
        self,
        inner: Link,
        capabilities: dict[str, Any],
        book: ParkBook,
        later: Later,
        again: Callable[[Message, Sink, Place], None],
        doubt: Callable[[UpstreamError], None],
    ) -> None:
        """``book`` numbers calls that wait; ``again`` sends a request over a fresh session in place of this one, and
        ``doubt`` hears why there could be no session at all."""
        self.capabilities = capabilities
        self.handshake: dict[str, Any] = {}
        self._may_be_asked = not KINDS_ASKED.isdisjoint(capabilities)
        self.is_over = False
        self.is_used = False
        self._inner = inner
        self._book = book
        self.later = later
        self._again = again
        self._doubt = doubt
        self._counter = 0
        self._is_ready = False
        self._waiting: list[tuple[Message, Sink, Place]] = []
        self._calls: set[ParkedCall] = set()
        self._parks: dict[int, ParkedCall] = {}
        self._log_level = ""
        self._ears: dict[_Subscription, None] = {}
        self._hearing: Cancel | None = None
        self._watched: dict[str, int] = {}
        self._delay_seconds = _AGAIN_FIRST_SECONDS
        self.doubted = Doubted(self._asking, self.send, later)

    def _asking(self) -> list[ParkedCall]:
        """The calls that could have asked what comes on the server's own stream."""
        return [call for call in self._calls if call.may_ask]

    @property
    def is_idle(self) -> bool:
        """True while nothing is under way."""
        return not self._calls and not self._ears and not self._waiting

    @property
    def parked_count(self) -> int:
        """Calls that wait for their callers to come back."""
        return len(self._parks)

    @property
    def server_info(self) -> Any:
        """What the server says of itself."""
        return self.handshake.get("serverInfo")

    # -- Link ---------------------------------------------------------------------------------------------------

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        return self.post_as(message, sink, is_second=False)

    def post_as(self, message: Message, sink: Sink, *, is_second: bool) -> Cancel:
        """Send a request for the first time, or for the second after an earlier session was lost."""
        self.is_used = True
        if message.kind != "request":
            sink.done()
            return _nothing
        state = (message.params or {}).get("requestState")
        if state is not None:
            return self._come_back(state, message, sink)
        if self._is_ready:
            return self._serve(message, sink, is_second=is_second)
        waiting = Place(is_second=is_second)
        self._waiting.append((message, sink, waiting))
        if len(self._waiting) == 1:
            self._shake(cell_b.meta_of(message).get(CLIENT_INFO_KEY))
        return waiting.cancel

    def _serve(self, message: Message, sink: Sink, *, is_second: bool) -> Cancel:
        if message.method == "server/discover":
            result = cell_b.discovery_of(self.handshake)
            cell_b.to_modern_result(message.method, result, self.server_info)
            answer = response(message.id or 0, result)
            answer.id = answer.value["id"] = message.id
            sink.message(answer)
            sink.done()
            return _nothing
        if message.method == "subscriptions/listen":
            return self._subscribe(message, sink)
        if message.method.startswith("tasks/"):  # another thing than the older era's (0055); never declared
            sink.message(error(message.id, codes.METHOD_NOT_FOUND, "Method not found"))
            sink.done()
            return _nothing
        self._set_level(str(cell_b.meta_of(message).get(LOG_LEVEL_KEY, "")))
        call = ParkedCall(self, message, sink, is_second=is_second)
        self._calls.add(call)
        if self._may_be_asked and call.may_ask:
            self._hear()
        return call.start()

    def _set_level(self, level: str) -> None:
        is_finer = not self._log_level or cell_b.severity(level) < cell_b.severity(self._log_level)
        if level and is_finer and "logging" in (self.handshake.get("capabilities") or {}):
            self._log_level = level
            self.send(request(self.number(), "logging/setLevel", {"level": level}), DeafSink())

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``. Clients of this era listen by a request."""
        sink.done()
        return _nothing

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        if not self.is_over:
            self.is_over = True
            problem = UpstreamError("stopped", "The session with the protected server ended.")
            for call in list(self._calls):
                call.stop(problem)
            self.doubted.close()
            self._fail_waiting(problem)
            self._fail_ears(problem)
            if self._hearing is not None:
                self._hearing()
            self._inner.close()

    def _fail_waiting(self, problem: UpstreamError) -> None:
        waiting, self._waiting = self._waiting, []
        for _, sink, place in waiting:
            if not place.is_cancelled:
                sink.failed(problem)

    def _fail_ears(self, problem: UpstreamError) -> None:
        ears, self._ears = self._ears, {}
        for ear in ears:
            ear.fail(problem)

    # -- the handshake ------------------------------------------------------------------------------------------

    def _shake(self, client_info: object) -> None:
        version = codes.LEGACY_VERSIONS[-1]
        message = cell_b.handshake(self.capabilities, client_info, self.number(), version)
        self._inner.post(message, _Shake(self))

    def agreed(self, result: dict[str, Any]) -> None:
        """The server has answered the handshake."""
        if not speaks_known(result):
            return self.not_agreed(unknown_version())
        self.handshake = result
        told = getattr(self._inner, "negotiated", None)
        if told is not None:
            told(str(result["protocolVersion"]))
        self._inner.post(notification("notifications/initialized"), DeafSink())
        self._is_ready = True
        waiting, self._waiting = self._waiting, []
        for message, sink, place in waiting:
            if not place.is_cancelled:
                place.go(self._serve(message, sink, is_second=place.is_second))
        return None

    def not_agreed(self, problem: UpstreamError) -> None:
        """There is no session: whoever waits hears why, and the next request tries anew."""
        self.is_over = True
        self._doubt(problem)
        self._inner.close()
        self._fail_waiting(problem)

    # -- for calls ----------------------------------------------------------------------------------------------

    def number(self) -> str:
        """A fresh id of ours, for a request or a progress token."""
        self._counter += 1
        return f"dw-{self._counter}"

    def send(self, message: Message, sink: Sink) -> Cancel:
        """Post on the session."""
        return self._inner.post(message, sink)

    def ended(self, call: ParkedCall) -> None:
        """A call is over."""
        self._calls.discard(call)
        for number in [number for number, one in self._parks.items() if one is call]:
            del self._parks[number]
            self._book.leave(number)
        self.doubted.look()

    @property
    def is_full(self) -> bool:
        """True when calls that wait for their clients hold as much as they may together."""
        return sum(call.held_bytes for call in self._calls) > _PARKED_BYTES

    def park(self, call: ParkedCall) -> str | None:
        """Keep a call for its client to come back; the state that names it, or None when too many wait."""
        if len(self._parks) >= _PARKS_COUNT or self.is_full:
            return None
        number = self._book.enter(call)
        self._parks[number] = call
        return self._book.name(number)

    def _come_back(self, state: object, message: Message, sink: Sink) -> Cancel:
        number = self._book.number(state)
        call = None
        if number is not None:
            # SECURITY: the sealed state is bound to its caller; that it is found among their own calls only is a wall more.
            call = self._parks.get(number) or self._book.anyones(number)
        if number is not None and not self._book.is_shared:
            self._parks.pop(number, None)
            self._book.leave(number)
        if call is None:  # another caller's, too old, or used before: all the same
            sink.message(error(message.id, codes.INVALID_PARAMS, STATE_INVALID))
            sink.done()
            return _nothing
        return call.resume(message, sink)

    def replace(self, message: Message, sink: Sink, place: Place) -> None:
        """The server has lost the session: send a request that it has not run over a new one."""
        self.lost()
        self._again(message, sink, place)

    def lost(self) -> None:
        """The server does not know the session any more: who listens in it has to listen anew."""
        if not self.is_over:
            self.is_over = True
            self._fail_ears(UpstreamError(SESSION_GONE, "The protected server ended the session."))

    # -- subscriptions ------------------------------------------------------------------------------------------

    def _subscribe(self, message: Message, sink: Sink) -> Cancel:
        if len(self._ears) >= _SUBSCRIPTIONS_COUNT:
            sink.failed(UpstreamError("upstream-too-many", "Too many subscriptions of this caller."))
            return _nothing
        wanted = (message.params or {}).get("notifications")
        kept = cell_b.honoured(wanted, self.handshake, _RESOURCES_COUNT)
        ear = _Subscription(self, message, kept, sink)
        self._ears[ear] = None
        ear.acknowledge()
        for uri in kept.get("resourceSubscriptions", ()):
            self._watched[uri] = self._watched.get(uri, 0) + 1
            if self._watched[uri] == 1:
                self.send(request(self.number(), "resources/subscribe", {"uri": uri}), DeafSink())
        self._hear()
        return ear.cancel

    def left(self, ear: _Subscription) -> None:
        """A client does not listen any more."""
        if self._ears.pop(ear, ear) is ear:
            return
        for uri in ear.kept.get("resourceSubscriptions", ()):
            self._watched[uri] = self._watched.get(uri, 1) - 1
            if not self._watched[uri]:
                del self._watched[uri]
                self.send(request(self.number(), "resources/unsubscribe", {"uri": uri}), DeafSink())
        self._rest()

    def _rest(self) -> None:
        """Close the server's own stream when nobody needs it."""
        if not self._ears and not self._may_be_asked and self._hearing is not None:
            hearing, self._hearing = self._hearing, None
            hearing()

    def _hear(self) -> None:
        """Open the server's own stream while somebody listens, or while a question could come on it."""
        is_needed = self._ears or (self._calls and self._may_be_asked)
        if self._hearing is None and is_needed and not self.is_over:
            self._hearing = _nothing
            cancel = self._inner.listen("", _Ear(self))
            if self._hearing is not None:
                self._hearing = cancel

    def heard(self, message: Message) -> None:
        """What the server says on its own: to every subscription that covers it."""
        if message.kind == "request":
            if message.method == "ping":
                self.send(response(message.id or 0, {}), DeafSink())
            else:
                self.doubted.ask(message)
        elif message.method == "notifications/progress":
            for call in list(self._calls):  # the token is ours, so it is one call's at most
                call.message(message)
        elif message.kind == "notification":
            for ear in list(self._ears):
                ear.hear(message)

    def deaf(self) -> None:
        """The server's stream ended: ask for it again after a while, as long as a client listens."""
        if self._hearing is None:
            return
        self._hearing = None
        self.later(self._delay_seconds, self._hear)
        self._delay_seconds = min(2 * self._delay_seconds, _AGAIN_LAST_SECONDS)


class _Shake(DeafSink):
    """The sink for the answer to the handshake."""

    def __init__(self, link: ModernClientLink) -> None:
        super().__init__()
        self._link = link
        self._is_over = False

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        if message.kind != "response" or self._is_over:
            return
        self._is_over = True
        result = message.value.get("result")
        if isinstance(result, dict):
            self._link.agreed(result)
        else:
            tell = "The protected server refused the handshake."
            self._link.not_agreed(UpstreamError("upstream-handshake", tell))

    def done(self) -> None:
        self.failed(UpstreamError("upstream-no-answer", "The protected server did not answer the handshake."))

    def failed(self, problem: UpstreamError) -> None:
        if not self._is_over:
            self._is_over = True
            self._link.not_agreed(problem)


class _Subscription:
    """One ``subscriptions/listen`` of a client."""

    def __init__(self, link: ModernClientLink, message: Message, kept: dict[str, Any], sink: Sink) -> None:
        self.kept = kept
        self._link = link
        self._id = message.id if message.id is not None else ""
        self._sink = sink

    def acknowledge(self) -> None:
        """Say first what of the filter is kept (SF-59)."""
        self._sink.streaming()
        self._sink.message(cell_b.acknowledged(self.kept, self._id))

    def hear(self, message: Message) -> None:
        """Hand on what the subscription covers."""
        stamped = cell_b.stamped(message, self.kept, self._id)
        if stamped is not None:
            self._sink.message(stamped)

    def cancel(self) -> None:
        """The client closed its stream."""
        self._link.left(self)

    def fail(self, problem: UpstreamError) -> None:
        """There is nothing to hear any more."""
        self._sink.failed(problem)


class _Ear(DeafSink):
    """The sink for the server's own stream."""

    def __init__(self, link: ModernClientLink) -> None:
        super().__init__()
        self._link = link

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        self._link.heard(message)

    def done(self) -> None:
        self._link.deaf()

    def failed(self, error: UpstreamError) -> None:
        if error.code == SESSION_GONE:
            self._link.lost()
        else:
            self._link.deaf()
