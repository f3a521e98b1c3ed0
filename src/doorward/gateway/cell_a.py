"""Cell A: a legacy client's session with a server that speaks only the modern era.

The first session with a server tries its own era; a server that is found to be modern-only is remembered as such until
something casts doubt on it. A server that knows the handshake gets its own link, and nothing of this file is in the way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from doorward.base.errors import UpstreamError
from doorward.gateway.cell_a_call import BridgedCall, Reach
from doorward.gateway.cell_a_listen import Subscriptions
from doorward.gateway.ports import Cancel, Later, Link, Sink, Upstream, never
from doorward.protocol import cell_a, codes, envelope
from doorward.protocol.message import Message, MessageId

_log = logging.getLogger("doorward.upstream")
Ready = Callable[[Link | UpstreamError], None]
_WRONG_ERA = "upstream-era"
_STATUSES = frozenset({"upstream-status", "upstream-media-type", "upstream-no-answer"})
# After these nobody can be sure any more which era the server speaks.
_DOUBTS = frozenset({_WRONG_ERA, *_STATUSES, "upstream-malformed"})
SILENCE_SECONDS = 1.0
POLLING_VERSION = "2025-11-25"  # the first whose clients know streams that are closed on the way (SEP-1699)
# What the modern era has no word for: tasks of the core are another thing than tasks of the extension.
_UNSPEAKABLE = frozenset({"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"})


def _nothing() -> None:
    """Cancel what is over."""


def _names_newer_era(message: Message) -> bool:
    """True for a handshake that was answered with a version of the era that has none: the server does not know it."""
    result = message.value.get("result")
    return isinstance(result, dict) and result.get("protocolVersion") in codes.MODERN_VERSIONS


class ModernServers:
    """One upstream's memory of its era, and the links of legacy clients to it."""

    def __init__(self, inner: Upstream, later: Later = never) -> None:
        self._inner = inner
        self._later = later
        self._is_modern_only = False

    def link(self, principal: str, version: str, capabilities: dict[str, Any], ready: Ready) -> None:
        """A link for a legacy client; see ``gateway.ports.Upstream``."""
        if self._is_modern_only:
            return self.open(principal, ready)

        def found(link: Link | UpstreamError) -> None:
            if not isinstance(link, UpstreamError):
                ready(FirstLink(self, principal, link))
            elif link.code == _WRONG_ERA:
                self.open(principal, ready)
            else:
                ready(link)

        return self._inner.link(principal, "legacy", version, capabilities, found)

    def open(self, principal: str, ready: Ready) -> None:
        """A bridged link, once the server is known to speak the modern era."""

        def reach(then: Ready) -> None:
            self._inner.link(principal, "modern", codes.MODERN_VERSIONS[-1], {}, then)

        def reached(link: Link | UpstreamError) -> None:
            if isinstance(link, UpstreamError):
                self.doubt(link.code)
                return ready(link)
            self._is_modern_only = True
            return ready(CellALink(reach, self.doubt, self._later))

        reach(reached)

    def doubt(self, code: str) -> None:
        """Something went wrong: ask the next session's handshake again, where it says something about the era."""
        if code in _DOUBTS:
            self._is_modern_only = False


class FirstLink:
    """A link whose ``initialize`` finds out which era the server speaks; ``chosen`` is what the session keeps."""

    cell = ""  # not known before the server has answered

    def __init__(self, server: ModernServers, principal: str, inner: Link) -> None:
        self._server = server
        self._principal = principal
        self.chosen: Link = inner
        self._is_over = False

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if message.method != "initialize":
            return self.chosen.post(message, sink)
        trial = _Trial(self, message, sink)
        cancel = self.chosen.post(message, trial)
        if not trial.is_switching:
            trial.cancel = cancel
        return trial.stop

    def switch(self, then: Ready) -> None:
        """The handshake failed: is it a modern server?"""

        def opened(link: Link | UpstreamError) -> None:
            if not isinstance(link, UpstreamError):
                if self._is_over:
                    link.close()
                    return
                self.chosen.close()
                self.chosen = link
            then(link)

        self._server.open(self._principal, opened)

    def negotiated(self, version: str) -> None:
        """Tell the chosen link what was agreed on."""
        tell = getattr(self.chosen, "negotiated", None)
        if tell is not None:
            tell(version)

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        return self.chosen.listen(last_event_id, sink)

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        self._is_over = True
        self.chosen.close()


class _Trial:
    """The sink of a first ``initialize``: a refusal leads to the other era, anything else goes on to the client."""

    def __init__(self, link: FirstLink, message: Message, sink: Sink) -> None:
        self._link = link
        self._message = message
        self._sink = sink
        self.is_switching = False
        self._is_over = False
        self.on_writable: Callable[[], None] | None = None
        self.cancel: Cancel = _nothing

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._sink.is_paused

    def stop(self) -> None:
        """The client has left."""
        self._is_over = True
        self.cancel()

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """A handshake is answered whole."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """The answer, or something that nobody may say before it."""
        if self.is_switching:
            return
        if message.kind == "response" and (message.is_error or _names_newer_era(message)):
            self._switch(lambda: self._refused(message, status))
        else:
            self._sink.message(message, event_id, status)

    def _refused(self, message: Message, status: int) -> None:
        self._sink.message(message, "", status)
        self._sink.done()

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if not self.is_switching:
            self._sink.done()

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if self.is_switching:
            return
        if error.code == _WRONG_ERA or error.code in _STATUSES:
            self._switch(lambda: self._sink.failed(error))
        else:
            self._sink.failed(error)

    def _switch(self, otherwise: Callable[[], None]) -> None:
        self.is_switching = True
        self._link.switch(lambda link: self._switched(link, otherwise))

    def _switched(self, link: Link | UpstreamError, otherwise: Callable[[], None]) -> None:
        if self._is_over:
            return
        if isinstance(link, UpstreamError):
            otherwise()
        else:
            self.cancel = link.post(self._message, self._sink)


class CellALink:
    """One legacy session's relation with a modern server; the modern link behind it is shared and never closed here."""

    cell = "legacy-modern"

    def __init__(self, reach: Reach, doubt: Callable[[str], None], later: Later = never) -> None:
        """``reach`` finds the modern link anew for each request: a process may have ended, an era may have changed."""
        self._reach = reach
        self._doubt = doubt
        self.later = later
        self.polls = False  # until the client has agreed on a version that knows of it
        self._is_looking = False
        self._resting: dict[str, BridgedCall] = {}
        self._capabilities: dict[str, Any] = {}
        self._client_info: dict[str, Any] | None = None
        self._offered: object = ""
        self._log_level = ""
        self._counter = 0
        self._calls: dict[MessageId, BridgedCall] = {}
        self._asked: dict[MessageId, tuple[BridgedCall, str]] = {}
        self._subscriptions = Subscriptions(reach, self._envelope)

    def _envelope(self, message: Message) -> Message:
        return cell_a.enveloped(message, self._capabilities, self._client_info, self._log_level)

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if message.kind == "response":
            return self._answered(message, sink)
        if message.kind == "notification":
            return self._told(message, sink)
        match message.method:
            case "ping":
                return self._reply(message, sink, {})
            case "logging/setLevel":
                return self._set_level(message, sink)
            case "resources/subscribe" | "resources/unsubscribe":
                return self._subscriptions.change(message, sink)
            case method if method in _UNSPEAKABLE:
                sink.message(envelope.error(message.id, codes.METHOD_NOT_FOUND, "Method not found"))
                sink.done()
                return _nothing
            case "initialize":
                return self._initialize(message, sink)
        return self._call(message, self._envelope(message), sink)

    def _call(self, message: Message, upstream: Message, sink: Sink) -> Cancel:
        call = BridgedCall(self, message, upstream, sink)
        if message.id is not None:
            self._calls[message.id] = call
            if self.polls and not self._is_looking:
                self._is_looking = True
                self.later(SILENCE_SECONDS, self._look)
        call.send(upstream)
        return call.cancel

    def _look(self) -> None:
        """Let clients of calls that take long hear something, and come back for the answer if their connection is lost."""
        for call in list(self._calls.values()):
            call.look()
        self._is_looking = bool(self._calls)
        if self._calls:
            self.later(SILENCE_SECONDS, self._look)

    def _initialize(self, message: Message, sink: Sink) -> Cancel:
        params = message.params or {}
        declared, info = params.get("capabilities"), params.get("clientInfo")
        self._capabilities = cell_a.client_capabilities(declared if isinstance(declared, dict) else {})
        self._client_info = info if isinstance(info, dict) else None
        self._offered = params.get("protocolVersion")
        discover = envelope.request(message.id if message.id is not None else 0, "server/discover", {})
        return self._call(message, self._envelope(discover), sink)

    @staticmethod
    def _reply(message: Message, sink: Sink, result: dict[str, Any]) -> Cancel:
        if message.id is not None:
            sink.message(envelope.response(message.id, result))
        sink.done()
        return _nothing

    def _set_level(self, message: Message, sink: Sink) -> Cancel:
        level = (message.params or {}).get("level")
        if not isinstance(level, str) or level not in cell_a.LOG_LEVELS:
            sink.message(envelope.error(message.id, codes.INVALID_PARAMS, "There is no such level."))
            sink.done()
            return _nothing
        self._log_level = level
        return self._reply(message, sink, {})

    def _told(self, message: Message, sink: Sink) -> Cancel:
        """Notifications of the client: only a cancellation has a counterpart in the modern era."""
        if message.method == "notifications/cancelled":
            request_id = (message.params or {}).get("requestId")
            call = self._calls.get(request_id) if isinstance(request_id, (str, int)) else None
            if call is not None:
                call.withdraw()
        sink.done()
        return _nothing

    def _answered(self, message: Message, sink: Sink) -> Cancel:
        """The client's answer to a question, or the gate's refusal to ask it."""
        waiting = self._asked.pop(message.id, None) if message.id is not None else None
        if waiting is not None:
            waiting[0].answered(waiting[1], message)
        sink.done()
        return _nothing

    # -- for the calls ------------------------------------------------------------------------------------------

    def reach(self, then: Ready) -> None:
        """Find the modern link."""
        self._reach(then)

    def failed(self, code: str) -> None:
        """A call failed: perhaps it says something about the server's era."""
        self._doubt(code)

    def next_id(self, word: str) -> str:
        """An id that no client made up within this session."""
        self._counter += 1
        return f"doorward-{word}-{self._counter}"

    def ask(self, message_id: str, call: BridgedCall, key: str) -> None:
        """Remember who waits for an answer."""
        self._asked[message_id] = (call, key)

    def over(self, call: BridgedCall) -> None:
        """A call has ended: nothing of it stays."""
        message_id = call.message.id
        if message_id is not None and self._calls.get(message_id) is call:
            del self._calls[message_id]
        if self._asked or self._resting:
            for asked in [one for one, waiting in self._asked.items() if waiting[0] is call]:
                del self._asked[asked]
            for handle in [one for one, resting in self._resting.items() if resting is call]:
                del self._resting[handle]

    def translated(self, message: Message, result: dict[str, Any]) -> dict[str, Any]:
        """A complete result as this session's client reads it."""
        if message.method != "initialize":
            kept = cell_a.legacy_result(message.method, result)
            before, after = result.get("tools"), kept.get("tools")
            if isinstance(before, list) and isinstance(after, list) and len(after) < len(before):
                _log.warning("a server lists tools whose x-mcp-header is invalid; they are left out")
            return kept
        found = cell_a.initialized(result, self._offered)
        self._subscriptions.capabilities = found["capabilities"]
        self.polls = found["protocolVersion"] >= POLLING_VERSION
        return found

    def rest(self, call: BridgedCall) -> str:
        """A call whose client goes away for a while; the event id with which it comes back."""
        handle = self.next_id("rest")
        self._resting[handle] = call
        return handle

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``. The modern era keeps no past: what can be resumed is a call that rests here."""
        resting = self._resting.pop(last_event_id, None)
        return resting.resume(sink) if resting is not None else self._subscriptions.listen(sink)

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        self._subscriptions.close()
        for call in list(self._calls.values()):
            call.cancel()
