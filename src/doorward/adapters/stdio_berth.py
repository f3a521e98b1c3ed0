"""The place of one stdio process: starts and restarts it, speaks the handshake, and keeps callers' ids apart.

Several client sessions of one principal share a process (MCP basic/transports, stdio: one client per process as far as
the server can tell), so request ids, progress tokens and subscription ids are ours towards the server and are put back
on the way to the caller. What the server asks or says on its own goes to whoever it can belong to, and to nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from doorward import __version__
from doorward.adapters.stdio_child import ChildEvents, StdioChild
from doorward.base import limits
from doorward.base.errors import OperatorError, UpstreamError
from doorward.gateway.http_link import wrong_era
from doorward.protocol import codes
from doorward.protocol.envelope import error, notification, request, response, with_id
from doorward.protocol.message import Era, Message, MessageId

_log = logging.getLogger("doorward.stdio")
_MODERN_ERRORS = frozenset({codes.HEADER_MISMATCH, codes.MISSING_CAPABILITY, codes.UNSUPPORTED_VERSION})
_META = "io.modelcontextprotocol/"
_SUBSCRIPTION = _META + "subscriptionId"
_TO_EVERYONE = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
_ASKED_COUNT = 256  # requests of one server that wait for a client's answer
_QUEUE_COUNT = 1_024  # messages that wait for a server to start


class Outlet(Protocol):
    """Where an attachment's messages go: a channel of the bus."""

    @property
    def is_congested(self) -> bool: ...

    def message(self, number: int, message: Message) -> None: ...

    def done(self, number: int) -> None: ...

    def failed(self, number: int, error: UpstreamError) -> None: ...


class Attachment:
    """One client session (legacy) or one worker's clients of a principal (modern) at a process."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.calls: dict[int, _Call] = {}  # by the number of the post
        self.listeners: list[int] = []

    def latest(self) -> int | None:
        """The number to send on what belongs to no particular call: the latest call, else a listener."""
        if self.calls:
            return next(reversed(self.calls))
        return self.listeners[-1] if self.listeners else None

    def listener(self) -> int | None:
        """The number to send on what the server says to everyone."""
        if self.listeners:
            return self.listeners[-1]
        return next(reversed(self.calls)) if self.calls else None


class _Call(msgspec.Struct, eq=False):
    """A request under way."""

    owner: Attachment
    number: int
    ours: int  # the id that the server sees
    id: MessageId
    method: str
    token: Any = None
    timer: asyncio.TimerHandle | None = None


class _Asked(msgspec.Struct, frozen=True):
    """A request of the server that waits for a client's answer."""

    owner: Attachment
    id: MessageId


class _Own(msgspec.Struct, frozen=True):
    """A request that Doorward itself put to the server."""

    answered: Callable[[Message], None]


Starter = Callable[[ChildEvents], Awaitable[StdioChild]]


class _Tie:
    """Ties one process to its berth; what a process says after it was cut loose is not heard."""

    def __init__(self, berth: Berth) -> None:
        self._berth: Berth | None = berth

    def cut(self) -> None:
        """Hear nothing more."""
        self._berth = None

    def on_message(self, message: Message) -> None:
        if self._berth is not None:
            self._berth.on_message(message)

    def on_malformed(self) -> None:
        if self._berth is not None:
            self._berth.on_malformed()

    def on_exit(self, error: UpstreamError) -> None:
        berth, self._berth = self._berth, None
        if berth is not None:
            berth.on_exit(error)

    def on_drained(self) -> None: ...


class Berth:
    """One (server, principal, era, version, capabilities) and its process, if it runs."""

    def __init__(
        self,
        name: str,
        era: Era,
        start: Starter,
        *,
        start_timeout_seconds: float,
        era_known: Callable[[Era, bool], None],
        needs_probe: Callable[[], bool],
        on_idle: Callable[[Berth], None],
    ) -> None:
        self.name = name
        self.era = era
        self.attachments: set[Attachment] = set()
        self.principal = ""
        self.handshake: dict[str, Any] | None = None  # params of the first client's initialize
        self._start = start
        self._start_timeout_seconds = start_timeout_seconds
        self._era_known = era_known
        self._needs_probe = needs_probe
        self._on_idle = on_idle
        self._child: StdioChild | None = None
        self._starting: asyncio.Task[None] | None = None
        self._leaving: StdioChild | None = None  # an ended process that may not be gone yet
        self._tie: _Tie | None = None
        self._suspect_legacy = False  # it left when it was asked for server/discover
        self._shake_failed: Callable[[UpstreamError], None] | None = None
        self._ready = False  # messages may flow
        self._shaking = False  # an initialize is under way
        self._shaken: Message | None = None  # this process's answer to initialize
        self._confirmed = False  # notifications/initialized was sent
        self._queue: deque[tuple[Attachment, int, Message]] = deque()
        self._waiting: list[Callable[[UpstreamError | None], None]] = []
        self._calls: dict[int, _Call | _Own] = {}
        self._asked: dict[str, _Asked] = {}
        self._counter = 0
        self._failures = 0
        self._answered = False
        self._not_before = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._retired = False
        self.strays = 0  # answers to questions nobody asked

    @property
    def is_running(self) -> bool:
        """True while a process of this berth lives or starts."""
        return self._child is not None or self._starting is not None

    @property
    def is_busy(self) -> bool:
        """True while calls are under way."""
        return bool(self._calls or self._queue)

    @property
    def pid(self) -> int | None:
        """The process id, while one runs."""
        return None if self._child is None else self._child.pid

    # -- towards the pool ---------------------------------------------------------------------------------------

    def attach(self, attachment: Attachment, ready: Callable[[UpstreamError | None], None]) -> None:
        """Let somebody in; ``ready`` hears None once messages may be posted, else why not."""
        self.attachments.add(attachment)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._ready:
            return ready(None)
        self._waiting.append(ready)
        self._wake()
        return None

    def detach(self, attachment: Attachment) -> None:
        """Somebody left: cancel their calls, answer what the server asked of them."""
        if attachment not in self.attachments:
            return
        self.attachments.discard(attachment)
        for call in list(attachment.calls.values()):
            self._cancel(call, "The client went away.")
        self._queue = deque(one for one in self._queue if one[0] is not attachment)
        for ours, asked in list(self._asked.items()):
            if asked.owner is attachment:
                del self._asked[ours]
                self._reply_gone(asked.id)
        self.drained()
        if not self.attachments:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(limits.CHILD_IDLE_SECONDS, self._on_idle, self)

    def post(self, attachment: Attachment, number: int, message: Message) -> None:
        """Take one message of a client. What happens to it comes back through the attachment's outlet."""
        if self._retired:
            return attachment.outlet.failed(
                number, UpstreamError("upstream-changed", "The protected server's settings changed; connect again.")
            )
        if len(self._queue) >= _QUEUE_COUNT:
            return attachment.outlet.failed(number, UpstreamError("upstream-busy", "Too much waits for this server."))
        self._queue.append((attachment, number, message))
        if self._ready:
            self._flush()
        else:
            self._wake()
        return None

    def cancel(self, attachment: Attachment, number: int) -> None:
        """The client does not want the answer any more."""
        call = attachment.calls.get(number)
        if call is not None:
            self._cancel(call, "The client cancelled.")
        elif number in attachment.listeners:
            attachment.listeners.remove(number)
        else:
            self._queue = deque(one for one in self._queue if one[0] is not attachment or one[1] != number)

    def drained(self) -> None:
        """An outlet can take more: read on if all can."""
        if self._child is not None and not any(one.outlet.is_congested for one in self.attachments):
            self._child.resume()

    def retire(self) -> None:
        """End in order because the settings changed: what is under way may still finish."""
        self._retired = True
        if not self.is_busy:
            self.stop()

    def stop(self) -> None:
        """End the process; calls under way fail."""
        self._retired = True
        for timer in (self._idle_timer, self._start_timer):
            if timer is not None:
                timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
        if self._child is not None:
            self._child.stop()
        self._fail_all(UpstreamError("upstream-exited", "The protected server was stopped."))

    async def wait(self) -> None:
        """Wait until the process is gone."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        for child in (self._child, self._leaving):
            if child is not None:
                await child.wait()

    # -- start --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._starting is not None or self._child is not None:
            return
        loop = asyncio.get_running_loop()
        left = self._not_before - loop.time()
        if left > 0:
            tell = f"The protected server stopped {self._failures} times in a row; it is started again in {left:.1f} s."
            return self._fail_all(UpstreamError("upstream-backoff", tell))
        self._starting = loop.create_task(self._run())
        return None

    async def _run(self) -> None:
        self._tie = tie = _Tie(self)
        try:
            child = await self._start(tie)
        except (UpstreamError, OperatorError) as problem:
            tie.cut()
            if isinstance(problem, OperatorError):
                problem = UpstreamError(problem.code, "The protected server cannot be started here.", problem.tell)
            self._starting = None
            return self._went_wrong(problem)
        finally:
            self._starting = None
        if not child.is_alive:
            tie.cut()
            return self._went_wrong(child.why_gone())
        self._child = child
        if self._retired:
            child.stop()
        elif self._suspect_legacy:
            self._probe_legacy()
        elif self.era == "modern" and self._needs_probe():
            self._probe()
        else:
            self._open()
        return None

    def _open(self) -> None:
        self._ready = True
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready(None)
        self._flush()

    def _probe(self) -> None:
        """Ask ``server/discover``; a server that keeps silent is asked ``initialize`` too, and the first answer decides."""
        meta = {
            _META + "protocolVersion": codes.MODERN_VERSIONS[-1],
            _META + "clientCapabilities": {},
            _META + "clientInfo": {"name": "doorward", "version": __version__},
        }
        self._ask("server/discover", {"_meta": meta}, self._discovered)
        loop = asyncio.get_running_loop()
        patience = min(limits.CHILD_PROBE_SECONDS, self._start_timeout_seconds / 2)
        self._start_timer = loop.call_later(patience, self._probe_legacy)

    def _probe_legacy(self) -> None:
        params = {
            "protocolVersion": codes.LEGACY_VERSIONS[-1],
            "capabilities": {},
            "clientInfo": {"name": "doorward", "version": __version__},
        }
        self._ask("initialize", params, lambda _: self._is_legacy())
        self._start_timer = asyncio.get_running_loop().call_later(self._start_timeout_seconds / 2, self._start_overdue)

    def _start_overdue(self) -> None:
        if self._child is not None:
            self._child.give_up(
                UpstreamError("upstream-start-timeout", "The protected server did not answer in time after its start.")
            )

    def _discovered(self, answer: Message) -> None:
        if self._ready or self._retired:
            return
        self._stop_start_timer()
        problem = answer.value.get("error")
        if problem is None or problem.get("code") in _MODERN_ERRORS:
            self._era_known("modern", True)
            self._calls.clear()
            self._open()
        else:
            self._is_legacy()

    def _is_legacy(self) -> None:
        """The server does not speak the modern era: everyone here hears so, and the process is not needed."""
        self._stop_start_timer()
        if self._ready or self._retired:
            return
        self._era_known("modern", False)
        self._fail_all(wrong_era("legacy", codes.LEGACY_VERSIONS))
        child, self._child = self._child, None
        if self._tie is not None:
            self._tie.cut()
        if child is not None:
            self._leaving = child
            child.stop()

    def _stop_start_timer(self) -> None:
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None

    def _ask(self, method: str, params: dict[str, Any], answered: Callable[[Message], None]) -> None:
        self._counter += 1
        self._calls[self._counter] = _Own(answered)
        self._send(request(self._counter, method, params))

    # -- from clients -------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        while self._queue and self._ready and not self._shaking:
            attachment, number, message = self._queue.popleft()
            self._deliver(attachment, number, message)

    def _deliver(self, attachment: Attachment, number: int, message: Message) -> None:
        if message.kind == "response":
            self._answer(attachment, message)
            return attachment.outlet.done(number)
        if self.era == "legacy":
            if message.method == "initialize" and message.kind == "request":
                return self._shake(attachment, number, message)
            if message.method == "notifications/initialized":
                self._confirm(message)
                return attachment.outlet.done(number)
            if self._shaken is None and self.handshake is not None:
                # A new process behind an old session: it gets the handshake that the session's client spoke.
                self._queue.appendleft((attachment, number, message))
                return self._shake_again()
        if message.kind == "notification":
            self._notify(attachment, message)
            return attachment.outlet.done(number)
        return self._call(attachment, number, message)

    def _call(self, attachment: Attachment, number: int, message: Message) -> None:
        self._counter += 1
        ours = self._counter
        call = _Call(attachment, number, ours, message.id if message.id is not None else "", message.method)
        sent = with_id(message, ours)
        meta = None if message.params is None else message.params.get("_meta")
        if isinstance(meta, dict) and "progressToken" in meta:
            call.token = meta["progressToken"]
            params = {**(message.params or {}), "_meta": {**meta, "progressToken": ours}}
            sent.value["params"] = params
        self._calls[ours] = call
        attachment.calls[number] = call
        if message.method != "subscriptions/listen":
            loop = asyncio.get_running_loop()
            call.timer = loop.call_later(limits.UPSTREAM_SECONDS, self._overdue, call)
        self._send(sent)

    def _overdue(self, call: _Call) -> None:
        self._cancel(call, "The request took too long.")
        call.owner.outlet.failed(
            call.number, UpstreamError("upstream-timeout", "The protected server did not answer in time.")
        )

    def _cancel(self, call: _Call, reason: str) -> None:
        if self._forget(call) and call.method != "initialize":
            self._send(notification("notifications/cancelled", {"requestId": call.ours, "reason": reason}))

    def _forget(self, call: _Call) -> bool:
        call.owner.calls.pop(call.number, None)
        if call.timer is not None:
            call.timer.cancel()
        found = self._calls.pop(call.ours, None) is not None
        if self._retired and not self.is_busy and self._child is not None:
            self._child.stop()
        return found

    def _notify(self, attachment: Attachment, message: Message) -> None:
        if message.method == "notifications/cancelled":
            wanted = (message.params or {}).get("requestId")
            for call in list(attachment.calls.values()):
                if type(call.id) is type(wanted) and call.id == wanted:
                    params = {**(message.params or {}), "requestId": call.ours}
                    self._send(notification(message.method, params))
            return
        self._send(message)

    def _answer(self, attachment: Attachment, message: Message) -> None:
        """A client's answer to what the server asked."""
        asked = self._asked.get(message.id) if isinstance(message.id, str) else None
        if asked is not None and asked.owner is attachment and isinstance(message.id, str):
            del self._asked[message.id]
            self._send(with_id(message, asked.id))

    def _send(self, message: Message) -> None:
        if self._child is None:
            return
        try:
            self._child.send(message)
        except UpstreamError as problem:
            self._child.give_up(problem)

    # -- the legacy handshake -----------------------------------------------------------------------------------

    def _shake(self, attachment: Attachment, number: int, message: Message) -> None:
        """The first initialize goes to the server, later ones are answered with what the server said then."""
        if self._shaken is not None:
            if message.id is not None:
                attachment.outlet.message(number, with_id(self._shaken, message.id))
            return attachment.outlet.done(number)
        params = message.params or {}

        def answered(answer: Message) -> None:
            self._shaking = False
            self._stop_start_timer()
            problem = answer.value.get("error")
            if problem is None:
                self._shaken, self.handshake = answer, params
                self._era_known("legacy", True)
            elif problem.get("code") in (codes.UNSUPPORTED_VERSION, codes.METHOD_NOT_FOUND):
                self._era_known("legacy", False)
                attachment.outlet.failed(number, wrong_era("modern", codes.MODERN_VERSIONS))
                return self._flush()
            if message.id is not None:
                attachment.outlet.message(number, with_id(answer, message.id))
            attachment.outlet.done(number)
            return self._flush()

        self._begin_shaking(params, answered, lambda problem: attachment.outlet.failed(number, problem))
        return None

    def _shake_again(self) -> None:
        def answered(answer: Message) -> None:
            self._shaking = False
            self._stop_start_timer()
            if answer.is_error:
                return self._fail_all(UpstreamError("upstream-handshake", "The restarted server refused its handshake."))
            self._shaken = answer
            self._confirm(notification("notifications/initialized"))
            return self._flush()

        self._begin_shaking(self.handshake or {}, answered, lambda _: None)

    def _begin_shaking(
        self,
        params: dict[str, Any],
        answered: Callable[[Message], None],
        failed: Callable[[UpstreamError], None],
    ) -> None:
        self._shaking = True
        self._shake_failed = failed
        loop = asyncio.get_running_loop()
        self._start_timer = loop.call_later(self._start_timeout_seconds, self._start_overdue)
        self._ask("initialize", params, answered)

    def _confirm(self, message: Message) -> None:
        if not self._confirmed:
            self._confirmed = True
            self._send(message)

    # -- from the server ----------------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """See ``ChildEvents``."""
        match message.kind:
            case "response":
                self._response(message)
            case "request":
                self._request(message)
            case _:
                self._notice(message)
        if self._child is not None and any(one.outlet.is_congested for one in self.attachments):
            self._child.pause()

    def _response(self, message: Message) -> None:
        call = self._calls.get(message.id) if type(message.id) is int else None
        if call is None:
            self.strays += 1
            _log.warning("a server answered a question nobody asked", extra={"server": self.name})
            return
        if isinstance(call, _Own):
            self._calls.pop(message.id, None)  # type: ignore[arg-type]
            return call.answered(message)
        self._answered = True
        self._forget(call)
        answer = with_id(message, call.id)
        if call.method == "subscriptions/listen":
            answer = _with_subscription(answer, call.id)
        call.owner.outlet.message(call.number, answer)
        return call.owner.outlet.done(call.number)

    def _request(self, message: Message) -> None:
        """The server asks something: of the client that works with it now, or else of one that listens."""
        if message.id is None:
            return
        if message.method == "ping":
            return self._send(response(message.id, {}))
        owner, number = self._addressee()
        if owner is None or number is None or len(self._asked) >= _ASKED_COUNT:
            return self._reply_gone(message.id)
        self._counter += 1
        ours = f"s{self._counter}"
        self._asked[ours] = _Asked(owner, message.id)
        return owner.outlet.message(number, with_id(message, ours))

    def _reply_gone(self, message_id: MessageId) -> None:
        self._send(error(message_id, codes.INTERNAL_ERROR, "No client is there to answer."))

    def _addressee(self) -> tuple[Attachment | None, int | None]:
        calls = [call for call in self._calls.values() if isinstance(call, _Call)]
        if calls:
            return calls[-1].owner, calls[-1].number
        for attachment in self.attachments:
            if attachment.listeners:
                return attachment, attachment.listeners[-1]
        return None, None

    def _notice(self, message: Message) -> None:
        params = message.params or {}
        meta = params.get("_meta")
        if message.method == "notifications/progress":
            return self._progress(message, params)
        if isinstance(meta, dict) and _SUBSCRIPTION in meta:
            call = self._call_of(meta[_SUBSCRIPTION])
            if call is not None:
                call.owner.outlet.message(call.number, _with_subscription(message, call.id))
            return None
        if message.method == "notifications/cancelled":
            for ours, asked in list(self._asked.items()):
                if asked.id == params.get("requestId") and type(asked.id) is type(params.get("requestId")):
                    del self._asked[ours]
                    number = asked.owner.latest()
                    if number is not None:
                        told = notification(message.method, {**params, "requestId": ours})
                        asked.owner.outlet.message(number, told)
            return None
        everyone = message.method in _TO_EVERYONE
        working = [one for one in self.attachments if one.calls]
        for attachment in list(self.attachments) if everyone or not working else working:
            number = attachment.listener() if everyone else attachment.latest()
            if number is not None:
                attachment.outlet.message(number, message)
        return None

    def _progress(self, message: Message, params: dict[str, Any]) -> None:
        """Progress of a live call, under the token that its caller chose; anything else is dropped (CF-15)."""
        call = self._call_of(params.get("progressToken"))
        if call is not None and call.token is not None:
            told = notification(message.method, {**params, "progressToken": call.token})
            call.owner.outlet.message(call.number, told)

    def _call_of(self, ours: Any) -> _Call | None:
        if type(ours) is str and ours.isascii() and ours.isdigit() and len(ours) < 19:
            ours = int(ours)  # some servers make strings of ids
        call = self._calls.get(ours) if type(ours) is int else None
        return call if isinstance(call, _Call) else None

    def on_malformed(self) -> None:
        """See ``ChildEvents``: when one call only is under way, the line can only have been its answer."""
        calls = [call for call in self._calls.values() if isinstance(call, _Call)]
        if len(calls) == 1:
            call = calls[0]
            self._forget(call)
            call.owner.outlet.failed(
                call.number, UpstreamError("upstream-malformed", "The protected server sent a malformed message.")
            )

    # -- the end of a process -----------------------------------------------------------------------------------

    def on_exit(self, error: UpstreamError) -> None:
        """The process is gone (see ``ChildEvents``)."""
        probing = self._child is not None and not self._ready and self.era == "modern"
        self._child = None
        if self._answered:
            self._failures = 0
        if self._retired:
            return self._reset(error)
        if probing and not self._suspect_legacy and error.code == "upstream-exited" and self._waiting:
            # Some legacy servers leave at the sight of an unknown request: ask a new process for a handshake.
            self._suspect_legacy = True
            self._calls.clear()
            self._stop_start_timer()
            self._starting = asyncio.get_running_loop().create_task(self._run())
            return None
        self._suspect_legacy = False
        return self._went_wrong(error)

    def _went_wrong(self, problem: UpstreamError) -> None:
        self._failures += 1
        delay = min(
            limits.CHILD_BACKOFF_FIRST_SECONDS * 2 ** min(self._failures - 1, 20), limits.CHILD_BACKOFF_LAST_SECONDS
        )
        self._not_before = asyncio.get_running_loop().time() + delay
        _log.warning(
            "a server is down",
            extra={"server": self.name, "code": problem.code, "cause": problem.detail[-600:], "again_seconds": delay},
        )
        self._reset(problem)

    def _reset(self, problem: UpstreamError) -> None:
        self._ready = self._confirmed = self._answered = False
        self._shaken = None
        self._asked.clear()
        self._stop_start_timer()
        self._fail_all(problem)

    def _fail_all(self, problem: UpstreamError) -> None:
        failed, self._shake_failed = self._shake_failed, None
        if failed is not None and self._shaking:
            failed(problem)
        self._shaking = False
        calls = [call for call in self._calls.values() if isinstance(call, _Call)]
        self._calls.clear()
        queue, self._queue = self._queue, deque()
        waiting, self._waiting = self._waiting, []
        for call in calls:
            call.owner.calls.pop(call.number, None)
            if call.timer is not None:
                call.timer.cancel()
            call.owner.outlet.failed(call.number, problem)
        for attachment, number, _ in queue:
            attachment.outlet.failed(number, problem)
        for ready in waiting:
            ready(problem)


def _with_subscription(message: Message, subscription: MessageId) -> Message:
    """The message with a client's own subscription id in ``_meta``, where it has one."""
    member = "params" if message.kind == "notification" else "result"
    inner = message.value.get(member)
    meta = inner.get("_meta") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(meta, dict) or _SUBSCRIPTION not in meta:
        return message
    inner = {**inner, "_meta": {**meta, _SUBSCRIPTION: subscription}}
    params = inner if member == "params" else None
    return Message(message.kind, message.method, message.id, params, {**message.value, member: inner})
