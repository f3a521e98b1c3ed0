"""One request of a legacy client to a modern server, over as many rounds of questions as the server needs (SEP-2322)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Protocol

from doorward.base.errors import UpstreamError
from doorward.gateway.ports import Cancel, Later, Link, Sink
from doorward.protocol import cell_a, codes
from doorward.protocol.message import Message

Ready = Callable[[Link | UpstreamError], None]
Reach = Callable[[Ready], None]
ROUNDS_COUNT = (
    8  # as many as the SDKs' own shims; the time of a call is bounded by ``limits.UPSTREAM_SECONDS``
)
PAUSES_COUNT = 64  # of one call: how often a server may want to be asked again without a question
_PAUSE_FIRST_MS, _PAUSE_LAST_MS = 250, 8_000
_UNANSWERED = "The server asked for something that this client did not give."
_TOO_OFTEN = "The server asked too often."
_UNKNOWN_TYPE = "The protected server answered in a way that this protocol version cannot express."


def _nothing() -> None:
    """Cancel what is over."""


class Relation(Protocol):
    """What a call needs of its session's link."""

    def reach(self, then: Ready) -> None: ...

    def failed(self, code: str) -> None: ...

    def next_id(self, word: str) -> str: ...

    polls: bool
    later: Later

    def rest(self, call: BridgedCall) -> str: ...

    def ask(self, message_id: str, call: BridgedCall, key: str) -> None: ...

    def over(self, call: BridgedCall) -> None: ...

    def translated(self, message: Message, result: dict[str, Any]) -> dict[str, Any]: ...


class BridgedCall:
    """A request on its way through cell A: bounded rounds, each with bounded questions, one answer."""

    def __init__(self, relation: Relation, message: Message, upstream: Message, sink: Sink) -> None:
        """``message`` is the client's; ``upstream`` the first request that the server sees."""
        self._relation = relation
        self.message = message
        self.sink = sink
        self._upstream = upstream
        self._rounds = 0
        self._pauses = 0
        self._looks = 0
        self._state: object = None
        self._questions: list[str] = []  # keys still to be answered
        self._answers: dict[str, Any] = {}
        self._stop: Cancel = _nothing
        self.is_over = False

    def send(self, upstream: Message) -> None:
        """Send one round's request."""

        def reached(link: Link | UpstreamError) -> None:
            if self.is_over:
                return
            if isinstance(link, UpstreamError):
                return self._unreachable(link)
            turn = _Turn(self, upstream)
            stop = link.post(upstream, turn)
            if not turn.is_over:
                self._stop = stop
            return None

        self._rounds += 1
        self._relation.reach(reached)

    def _unreachable(self, error: UpstreamError) -> None:
        if error.code == "upstream-era":  # it speaks the handshake now: the client has to begin anew
            self._relation.failed(error.code)
            error = UpstreamError("upstream-session-gone", "The protected server ended the session.")
        self.failed(error)

    # -- ends ---------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop the server's work; the client hears nothing more."""
        if not self.is_over:
            stop = self._stop
            self._close()
            stop()

    def withdraw(self) -> None:
        """The client cancelled: the modern era's way is to drop the request (2026-07-28 basic/patterns/cancellation)."""
        if not self.is_over:
            self.cancel()
            self.sink.failed(UpstreamError("stopped", "The call was cancelled."))

    def failed(self, error: UpstreamError) -> None:
        """The server failed."""
        if not self.is_over:
            self._close()
            self._relation.failed(error.code)
            self.sink.failed(error)

    def _close(self) -> None:
        self.is_over = True
        self._stop = (
            _nothing  # it points back here: memory is free at once, and not when the cycle collector comes
        )
        self._relation.over(self)

    def _finish(self, message: Message) -> None:
        self._close()
        self.sink.message(message)
        self.sink.done()

    # -- what the server says -----------------------------------------------------------------------------------

    def response(self, message: Message) -> None:
        """The answer of one round."""
        asked = self.message
        if asked.id is None:
            return
        result = message.value.get("result")
        if not isinstance(result, dict):
            error = message.value.get("error")
            told = error if isinstance(error, dict) else {"code": codes.INTERNAL_ERROR, "message": "error"}
            if told.get("code") == codes.UNSUPPORTED_VERSION:
                self._relation.failed("upstream-era")
            value = {**message.value, "id": asked.id, "error": cell_a.legacy_error(asked.method, told)}
            return self._finish(Message("response", "", asked.id, None, value))
        match result.get("resultType", "complete"):
            case "complete":
                message.value["result"] = self._relation.translated(asked, result)
                message.id = message.value["id"] = asked.id
                return self._finish(message)
            case "input_required":
                return self._asks(result)
        return self.failed(UpstreamError("upstream-unusable", _UNKNOWN_TYPE))

    def notice(self, message: Message) -> None:
        """What belongs to the request. A modern server sends no requests of its own; one that does is not heard (SF-53)."""
        if message.kind == "notification" and not self.is_over:
            self.sink.message(cell_a.unsubscribed(message))

    def _asks(self, result: dict[str, Any]) -> None:
        """Put the server's questions to the client; each is judged like any request of a server."""
        try:
            questions = cell_a.questions_of(self.message.method, result)
        except UpstreamError as error:
            return self.failed(error)
        if self._rounds - self._pauses >= ROUNDS_COUNT or self._pauses >= PAUSES_COUNT:
            return self._finish(cell_a.failure(self.message, _TOO_OFTEN))
        self._state = result.get("requestState")
        self._answers = {}
        self._stop = _nothing
        self._questions = list(questions)
        if not questions:
            return self._pause()
        for key, asked in questions.items():
            if self.is_over:  # an earlier one was refused
                return None
            message_id = self._relation.next_id("ask")
            self._relation.ask(message_id, self, key)
            self.sink.message(cell_a.question(message_id, asked, secrets.token_urlsafe(16)))
        return None

    def _pause(self) -> None:
        """The server has let go of the request and wants to be asked again (SEP-2322: a state without questions).

        A legacy server would close its stream and have its client come back for the rest (SEP-1699): so the client is told to,
        if its version knows that, and otherwise waits.
        """
        pause_ms = min(_PAUSE_FIRST_MS << min(self._pauses, 8), _PAUSE_LAST_MS)
        self._pauses += 1
        if self._relation.polls:
            self.sink.streaming(pause_ms, self._relation.rest(self))
            self.sink.done()
        else:
            self._stop = self._relation.later(pause_ms / 1_000, self._retry)

    def resume(self, sink: Sink) -> Cancel:
        """The client has come back."""
        self.sink = sink
        self._retry()
        return self.cancel

    def look(self) -> None:
        """A second has gone by: a silent stream begins with something to resume it from."""
        self._looks += 1
        if self._looks == 2 and not self.is_over and self.message.method != "initialize":
            self.sink.streaming(_PAUSE_FIRST_MS)

    def answered(self, key: str, message: Message) -> None:
        """One answer has come; after the last the server is asked again."""
        if self.is_over:
            return
        result = message.value.get("result")
        if not isinstance(result, dict):
            self._finish(cell_a.failure(self.message, _UNANSWERED))
            return
        self._answers[key] = result
        if len(self._answers) == len(self._questions):
            self._retry()

    def _retry(self) -> None:
        answers, state = self._answers, self._state
        self._answers, self._state, self._questions = {}, None, []
        self.send(cell_a.retried(self._upstream, self._relation.next_id("retry"), answers, state))


class _Turn:
    """The sink of one round."""

    def __init__(self, call: BridgedCall, upstream: Message) -> None:
        self._call = call
        self._upstream = upstream
        self.is_over = False

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._call.sink.is_paused

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return self._call.sink.on_writable

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        self._call.sink.on_writable = wake

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """The client's stream opens when something has to be said: modern streams cannot be resumed."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        if self.is_over or self._call.is_over:
            return
        if message.kind != "response":
            self._call.notice(message)
        elif message.id == self._upstream.id and type(message.id) is type(self._upstream.id):
            self.is_over = True
            self._call.response(message)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if not self.is_over:
            self.is_over = True
            self._call.failed(
                UpstreamError("upstream-no-answer", "The protected server ended without an answer.")
            )

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if not self.is_over:
            self.is_over = True
            self._call.failed(error)
