"""One request of a modern client at a legacy server: what comes back on the way, and the question that parks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from doorward.base.errors import UpstreamError
from doorward.controls.gate_server_requests import question_fault
from doorward.gateway.desk import DeafSink
from doorward.gateway.parks import PARK_SECONDS
from doorward.gateway.ports import Cancel, Sink
from doorward.protocol import cell_b, codes
from doorward.protocol.envelope import error, notification, response
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message, MessageId
from doorward.protocol.modern import LOG_LEVEL_KEY

if TYPE_CHECKING:
    from doorward.gateway.cell_b import ModernClientLink

_ASKING = frozenset(
    {"tools/call", "prompts/get", "resources/read"}
)  # alone may end in input_required (MR-01)
_PENDING_COUNT = 32  # questions of one call that wait for an answer
_TOGETHER_SECONDS = 0.02
SESSION_GONE = "upstream-session-gone"


def _nothing() -> None:
    """Cancel what is over."""


class Place:
    """Where a request waits for a session; its cancel works before and after."""

    def __init__(self, *, is_second: bool) -> None:
        self.is_second = is_second
        self.is_cancelled = False
        self._cancel: Cancel = _nothing

    def go(self, cancel: Cancel) -> None:
        """It is under way now."""
        self._cancel = cancel
        if self.is_cancelled:
            cancel()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.is_cancelled = True
        self._cancel()


class ParkedCall:
    """A request under way at the server. Between a question and its answer it has no client: it is parked."""

    def __init__(
        self, link: ModernClientLink, message: Message, sink: Sink, *, is_second: bool = False
    ) -> None:
        """``is_second``: an earlier session was lost before the server ran it."""
        self._is_second = is_second
        self._link = link
        self._message = message
        self._sink: Sink | None = sink
        self._number = link.number()
        self._token: MessageId | None = None
        self._pending: dict[str, tuple[MessageId | None, dict[str, Any]]] = {}
        self._final: tuple[Message, int] | None = None
        self._failure: UpstreamError | None = None
        self._asked_count = 0
        given = (message.params or {}).get("inputResponses")
        self._ahead: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
        self.held_bytes = 0  # of questions and an answer that wait for the client
        self._is_over = False
        self._cancel: Cancel = _nothing
        self._cancel_timer: Cancel = _nothing
        self._replaced: Place | None = None  # where it is made once more, over another session
        self._take_token()

    @property
    def may_ask(self) -> bool:
        """True where a question may come on the way (MR-01): of a call that is not parked."""
        return self._message.method in _ASKING and self._sink is not None

    def _take_token(self) -> None:
        token = cell_b.meta_of(self._message).get("progressToken")
        self._token = token if type(token) in (str, int) else None

    def start(self) -> Cancel:
        """Send it to the server, under an id and a progress token of ours."""
        token = None if self._token is None else self._number
        cancel = self._link.send(cell_b.stripped(self._message, self._number, token), self)
        if not self._is_over:
            self._cancel = cancel
        return self.cancel

    def cancel(self) -> None:
        """Nobody waits any more: the link tells the server in its own era's way (CF-13)."""
        if self._is_over:
            if self._replaced is not None:
                self._replaced.cancel()
            return
        cancel = self._cancel
        self._end()
        if self._final is None and self._failure is None:
            cancel()

    def stop(self, problem: UpstreamError) -> None:
        """The session ends from our side: the server is told, and so is the client if there is one."""
        sink, over = self._sink, self._is_over
        self.cancel()
        if sink is not None and not over:
            sink.failed(problem)

    def _end(self) -> None:
        self._is_over = True
        self._cancel_timer()
        # These point back here: memory is free at once, and not when the cycle collector comes.
        self._cancel = self._cancel_timer = _nothing
        self._link.ended(self)

    # -- Sink ---------------------------------------------------------------------------------------------------

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return self._sink.on_writable if self._sink is not None else None

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        if self._sink is not None:
            self._sink.on_writable = wake

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._sink is not None and self._sink.is_paused

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``. A stream opens when something has to be said on it."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        if self._is_over:
            return
        if message.kind == "response":
            if message.id == self._number:
                self._answered(message)
        elif message.kind == "request":
            self.asked(message)
        else:
            self._notified(message)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if not self._is_over and self._final is None:
            self.failed(UpstreamError("upstream-no-answer", "The protected server ended without an answer."))

    def failed(self, problem: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if self._is_over or self._final is not None:
            return
        sink = self._sink
        if sink is None:
            self._failure = problem
            return
        self._end()
        if problem.code == SESSION_GONE and self._asked_count == 0 and not self._is_second:
            self._replaced = Place(is_second=True)
            # A server that knows no session has not run the request.
            self._link.replace(self._message, sink, self._replaced)
        else:
            sink.failed(problem)

    # -- from the server ----------------------------------------------------------------------------------------

    def _notified(self, message: Message) -> None:
        """Progress under the client's own token, and log lines where the request wanted some (SF-61)."""
        sink, params = self._sink, message.params or {}
        if sink is None:
            return
        if message.method == "notifications/progress":
            if self._token is not None and params.get("progressToken") == self._number:
                sink.message(notification(message.method, {**params, "progressToken": self._token}))
        elif message.method == "notifications/message":
            wanted = cell_b.meta_of(self._message).get(LOG_LEVEL_KEY)
            if wanted is not None and cell_b.severity(params.get("level")) >= cell_b.severity(wanted):
                sink.message(message)

    def asked(self, message: Message) -> None:
        """The server puts a question to the client of this call: it waits until the client comes back with the answer."""
        if message.method == "ping" and message.id is not None:
            self._link.send(response(message.id, {}), DeafSink())
            return
        fault = question_fault(message.method, message.params, self._link.capabilities)
        if fault or self._message.method not in _ASKING or len(self._pending) >= _PENDING_COUNT:
            refusal = error(message.id, codes.METHOD_NOT_FOUND, "This client cannot be asked that.")
            self._link.send(refusal, DeafSink())
            return
        self._asked_count += 1
        name = cell_b.name_of(message)
        if name is None or name in self._pending:
            name = f"ask-{self._asked_count}"
        elif isinstance(ahead := self._ahead.pop(name, None), dict) and message.id is not None:
            # The request came with the answer to the question of this name, and no state: as the 2026 era allows it.
            self._link.send(response(message.id, ahead), DeafSink())
            return
        self.held_bytes += len(encode_json(message.value))
        self._pending[name] = (message.id, cell_b.input_request_of(message))
        if self._sink is not None and len(self._pending) == 1:
            # A moment, so that questions asked together reach the client together.
            self._cancel_timer = self._link.later(_TOGETHER_SECONDS, self._park)

    def _answered(self, message: Message) -> None:
        if self._sink is not None:
            self._final = (message, 200)
            return self._deliver(message)
        # SECURITY: nobody takes it now, and a server may answer much and often (tests/talks/test_cell_b_endings.py).
        self.held_bytes += len(encode_json(message.value))
        if self._link.is_full:
            self.held_bytes = 0
            self._pending.clear()
            self._failure = UpstreamError(
                "upstream-too-large", "The protected server's answer is too large to keep."
            )
        else:
            self._final = (message, 200)
        return None

    def _deliver(self, message: Message) -> None:
        sink = self._sink
        if sink is None:
            return
        self._end()
        message.id = message.value["id"] = self._message.id
        result, problem = message.value.get("result"), message.value.get("error")
        if isinstance(result, dict):
            cell_b.to_modern_result(self._message.method, result, self._link.server_info)
        elif isinstance(problem, dict):
            urls = cell_b.urls_of(problem) if self._message.method in _ASKING else {}
            if urls and "elicitation" in self._link.capabilities:
                del message.value["error"]
                message.value["result"] = {"resultType": "input_required", "inputRequests": urls}
            else:
                cell_b.to_modern_error(problem)
        sink.message(message)
        sink.done()

    # -- parking ------------------------------------------------------------------------------------------------

    def _park(self) -> None:
        """Answer the client with the questions, and wait for it without holding anything but this object."""
        sink = self._sink
        if sink is None or self._is_over:
            return None
        state = self._link.park(self)
        if state is None:
            self._pending.clear()
            self.cancel()
            return sink.failed(UpstreamError("upstream-too-many", "Too many calls wait for their callers."))
        self._sink = None
        self._cancel_timer = self._link.later(PARK_SECONDS, self.cancel)  # MR-06
        asked = {key: one for key, (_, one) in self._pending.items()}
        result = {"resultType": "input_required", "inputRequests": asked, "requestState": state}
        answer = response(self._message.id or 0, result)
        answer.id = answer.value["id"] = self._message.id
        sink.message(answer)
        sink.done()
        self._link.doubted.look()
        return None

    def resume(self, message: Message, sink: Sink) -> Cancel:
        """The client has come back with answers; what it left out is asked again (MR-05)."""
        self._cancel_timer()
        self._message, self._sink = message, sink
        self._ahead = {}  # these answers are for what was asked, and not for a later question of the same name
        self._take_token()
        given = (message.params or {}).get("inputResponses")
        answers = given if isinstance(given, dict) else {}
        for key, (asked, _) in list(self._pending.items()):
            if isinstance(answers.get(key), dict) and asked is not None:
                del self._pending[key]
                self._link.send(response(asked, answers[key]), DeafSink())
        if self._is_over:
            return _nothing
        if self._final is not None:
            self._deliver(self._final[0])
        elif self._failure is not None:
            self._end()
            sink.failed(self._failure)
        elif self._pending:
            self._park()
        return self.cancel
