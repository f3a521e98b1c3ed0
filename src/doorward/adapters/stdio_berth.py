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
from typing import Any

from doorward import __version__
from doorward.adapters.stdio_child import ChildEvents, StdioChild, Tie
from doorward.adapters.stdio_traffic import Attachment, Call, Traffic
from doorward.base import limits
from doorward.base.errors import DoorwardError, UpstreamError
from doorward.gateway.http_reply import wrong_era
from doorward.protocol import codes
from doorward.protocol.envelope import notification, with_id
from doorward.protocol.message import Era, Message

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


Starter = Callable[[ChildEvents], Awaitable[StdioChild]]


class Berth(Traffic):
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
        super().__init__(name)
        self.era = era
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
        self._tie: Tie | None = None
        self._suspect_legacy = False  # it left when it was asked for server/discover
        self._shake_failed: Callable[[UpstreamError], None] | None = None
        self._ready = False  # messages may flow
        self._shaking = False  # an initialize is under way
        self._shaken: Message | None = None  # this process's answer to initialize
        self._confirmed = False  # notifications/initialized was sent
        self._queue: deque[tuple[Attachment, int, Message]] = deque()
        self._waiting: list[Callable[[UpstreamError | None], None]] = []
        self._failures = 0
        self._not_before = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._retired = False

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
                number,
                UpstreamError("upstream-changed", "The protected server's settings changed; connect again."),
            )
        if len(self._queue) >= _QUEUE_COUNT:
            return attachment.outlet.failed(
                number, UpstreamError("upstream-busy", "Too much waits for this server.")
            )
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
        self._tie = tie = Tie(self)
        try:
            child = await self._start(tie)
        except UpstreamError as problem:
            tie.cut()
            self._starting = None
            return self._went_wrong(problem)
        except Exception as problem:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            tie.cut()
            self._starting = None
            code = problem.code if isinstance(problem, DoorwardError) else "upstream-start"
            return self._went_wrong(
                UpstreamError(
                    code,
                    "The protected server cannot be started here.",
                    f"{type(problem).__name__}: {problem}",
                )
            )
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
        self._start_timer = asyncio.get_running_loop().call_later(
            self._start_timeout_seconds / 2, self._start_overdue
        )

    def _start_overdue(self) -> None:
        if self._child is not None:
            self._child.give_up(
                UpstreamError(
                    "upstream-start-timeout", "The protected server did not answer in time after its start."
                )
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

    def _settled(self) -> None:
        if self._retired and not self.is_busy and self._child is not None:
            self._child.stop()

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
                return self._fail_all(
                    UpstreamError("upstream-handshake", "The restarted server refused its handshake.")
                )
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
            limits.CHILD_BACKOFF_FIRST_SECONDS * 2 ** min(self._failures - 1, 20),
            limits.CHILD_BACKOFF_LAST_SECONDS,
        )
        self._not_before = asyncio.get_running_loop().time() + delay
        _log.warning(
            "a server is down",
            extra={
                "server": self.name,
                "code": problem.code,
                "cause": problem.detail[-600:],
                "again_seconds": delay,
            },
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
        calls = [call for call in self._calls.values() if isinstance(call, Call)]
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
