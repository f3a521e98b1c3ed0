"""Cell A: a client of the 2025 era before a server of the 2026 era (``protocol.cell_a`` has the translation).

One object stands for one client session. It holds no session of the server's, for there is none: the client's declaration,
its log level and its subscriptions live here, and every request carries what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from doorward.base.errors import UpstreamError
from doorward.gateway.ports import Cancel, Link, Sink
from doorward.protocol import cell_a, codes
from doorward.protocol.envelope import error, request, response
from doorward.protocol.message import Message

ROUNDS_COUNT = 8  # questions after questions in one call, as the SDKs' own shims have it
_QUESTIONS_COUNT = 32  # in one round
_SUBSCRIPTIONS_COUNT = 256
_ASKING = frozenset({"tools/call", "prompts/get", "resources/read"})  # alone may ask back (MR-01)
_ASKED = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})
_ABSENT = frozenset({"tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tasks/update"})


def _nothing() -> None:
    """Cancel what is over."""


class LegacyClientLink:
    """A session of a legacy client with a modern server; see ``gateway.ports.Link``."""

    cell = "legacy-modern"

    def __init__(self, inner: Link, server: str, capabilities: dict[str, Any]) -> None:
        """``inner`` speaks the 2026 era and may be shared; ``capabilities`` are those that the server may hear of."""
        self._inner = inner
        self._server = server
        self._declared = cell_a.modern_capabilities(capabilities)
        self._client_info: dict[str, Any] = {"name": "unknown", "version": "0"}
        self._served: dict[str, Any] = {}
        self._log_level = ""
        self._uris: dict[str, None] = {}
        self._calls: dict[Any, _Call] = {}
        self._questions: dict[str, _Call] = {}
        self._counter = 0
        self._hearing: _Hearing | None = None

    # -- Link ---------------------------------------------------------------------------------------------------

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        if message.kind == "response":
            asker = self._questions.pop(str(message.id), None)
            if asker is not None:
                asker.answered(str(message.id), message)
            sink.done()
            return _nothing
        if message.kind == "notification":
            self._notified(message)
            sink.done()
            return _nothing
        return self._request(message, sink)

    def _notified(self, message: Message) -> None:
        """Only cancellation has a meaning for the server: the stream is closed (CF-13)."""
        if message.method == "notifications/cancelled" and message.params is not None:
            call = self._calls.get(message.params.get("requestId"))
            if call is not None:
                call.cancel()
                call.fail(UpstreamError("cancelled", "The call was cancelled."))

    def _request(self, message: Message, sink: Sink) -> Cancel:
        params = message.params or {}
        method = message.method
        if method == "initialize":
            return self._initialize(message, params, sink)
        if method in ("logging/setLevel", "resources/subscribe", "resources/unsubscribe", "ping"):
            return self._keep(message, params, sink)
        if method in _ABSENT:
            return self._say(
                sink, error(message.id, codes.METHOD_NOT_FOUND, "This server has no tasks of this kind.")
            )
        return _Call(self, message, sink).start()

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``. What the server says on its own comes by a subscription."""
        hearing = self._hearing = _Hearing(self, sink)
        hearing.begin()
        return hearing.cancel

    def close(self) -> None:
        """See ``gateway.ports.Link``. The link inside belongs to others too."""
        for call in list(self._calls.values()):
            call.cancel()
        if self._hearing is not None:
            self._hearing.cancel()

    # -- answered here ------------------------------------------------------------------------------------------

    @staticmethod
    def _say(sink: Sink, answer: Message) -> Cancel:
        sink.message(answer)
        sink.done()
        return _nothing

    def _keep(self, message: Message, params: dict[str, Any], sink: Sink) -> Cancel:
        uri = params.get("uri")
        if message.method == "logging/setLevel":
            self._log_level = str(params.get("level", ""))
        elif message.method == "resources/subscribe" and isinstance(uri, str):
            if len(self._uris) >= _SUBSCRIPTIONS_COUNT:
                return self._say(sink, error(message.id, codes.INVALID_PARAMS, "Too many subscriptions."))
            self._uris[uri] = None
            self._hear_anew()
        elif message.method == "resources/unsubscribe":
            self._uris.pop(str(uri), None)
            self._hear_anew()
        return self._say(sink, response(message.id or 0, {}))

    def _hear_anew(self) -> None:
        if self._hearing is not None:
            self._hearing.begin()

    def _initialize(self, message: Message, params: dict[str, Any], sink: Sink) -> Cancel:
        info = params.get("clientInfo")
        if isinstance(info, dict):
            self._client_info = info
        discover = Message("request", "server/discover", message.id, {}, {"jsonrpc": "2.0"})

        def discovered(result: dict[str, Any]) -> dict[str, Any]:
            served = result.get("capabilities")
            self._served = served if isinstance(served, dict) else {}
            return cell_a.handshake_of(result, params.get("protocolVersion"), self._server)

        return _Call(self, discover, sink, discovered).start()

    # -- for calls ----------------------------------------------------------------------------------------------

    def number(self, kind: str) -> str:
        """A fresh id of ours."""
        self._counter += 1
        return f"dw-{kind}-{self._counter}"

    def envelop(self, message: Message, number: str) -> Message:
        """A request of this client as the server gets it."""
        return cell_a.enveloped(message, number, self._declared, self._client_info, self._log_level)

    def send(self, message: Message, sink: Sink) -> Cancel:
        """Post on the link inside."""
        return self._inner.post(message, sink)

    def expect(self, number: str, call: _Call) -> None:
        """The client's answer to this question goes to that call."""
        self._questions[number] = call

    def forget(self, number: str) -> None:
        """Nobody waits for this answer any more."""
        self._questions.pop(number, None)

    def began(self, call: _Call) -> None:
        """A call is under way."""
        self._calls[call.id] = call

    def ended(self, call: _Call) -> None:
        """A call is over."""
        if self._calls.get(call.id) is call:
            del self._calls[call.id]

    def filter(self) -> dict[str, Any]:
        """What to hear of now."""
        return cell_a.listen_filter(self._served, tuple(self._uris))


class _Call:
    """One request of the client's: the sink for the server's answer, and the rounds of questions before it."""

    def __init__(
        self,
        link: LegacyClientLink,
        message: Message,
        sink: Sink,
        convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.id = message.id
        self.on_writable: Callable[[], None] | None = None
        self._link = link
        self._message = message
        self._sink = sink
        self._convert = convert
        self._sent = message
        self._rounds = 0
        self._waiting: dict[str, str] = {}  # our number -> the server's name of the question
        self._answers: dict[str, Any] = {}
        self._state: object = None
        self._leg: _Leg | None = None
        self._over = False

    def start(self) -> Cancel:
        """Send it."""
        self._link.began(self)
        self._go(self._link.envelop(self._message, self._link.number("call")))
        return self.cancel

    def _go(self, message: Message) -> None:
        self._sent = message
        leg = self._leg = _Leg(self, self._sink)
        leg.begin(self._link, message)

    def cancel(self) -> None:
        """Stop; nothing more is said."""
        self._end()
        if self._leg is not None:
            self._leg.cut()

    def _end(self) -> None:
        self._over = True
        self._link.ended(self)
        for number in self._waiting:
            self._link.forget(number)
        self._waiting.clear()

    def fail(self, problem: UpstreamError) -> None:
        """The server failed, or the call was given up."""
        self._end()
        self._sink.failed(problem)

    # -- from the server ----------------------------------------------------------------------------------------

    def heard(self, message: Message, status: int) -> None:
        """One message of the server's about this call."""
        if self._over:
            return
        if message.kind != "response":
            cell_a.to_legacy_notification(message)
            if message.kind == "notification":
                self._sink.message(message)
            return  # the era has no requests of servers (SF-53)
        result = message.value.get("result")
        if isinstance(result, dict) and result.get("resultType") == "input_required":
            return self._ask(result)
        self._end()
        message.id = message.value["id"] = self.id
        if isinstance(result, dict):
            if result.get("resultType", "complete") != "complete":
                return self._refuse("The protected server answered with a result of an unknown type.")
            if self._convert is not None:
                message.value["result"] = self._convert(result)
            else:
                cell_a.to_legacy_result(self._message.method, result)
        elif isinstance(message.value.get("error"), dict):
            cell_a.to_legacy_error(message.value["error"])
        self._sink.message(message, "", status)
        self._sink.done()
        return None

    def done(self) -> None:
        """The server has nothing more to say in this leg."""
        if not self._over and not self._waiting:
            self._end()
            self._sink.done()

    # -- questions ----------------------------------------------------------------------------------------------

    def _ask(self, result: dict[str, Any]) -> None:
        self._rounds += 1
        asked = result.get("inputRequests", {})
        if self._message.method not in _ASKING or self._rounds > ROUNDS_COUNT or not _is_askable(asked):
            return self._refuse("The protected server asked for more than it may.")
        if self._leg is not None:
            self._leg.retire()
        self._answers, self._state = {}, result.get("requestState")
        if not asked:
            return self._retry()
        questions = [(self._link.number("ask"), key, one) for key, one in asked.items()]
        for number, key, _ in questions:
            self._waiting[number] = key
            self._link.expect(number, self)
        for number, key, one in questions:
            if not self._over:
                self._sink.message(cell_a.legacy_question(key, one, number))
        return None

    def answered(self, number: str, message: Message) -> None:
        """The client's answer to one question, or the refusal of whoever would not let it be asked."""
        key = self._waiting.pop(number, None)
        if self._over or key is None:
            return
        result = message.value.get("result")
        if not isinstance(result, dict):
            return self._refuse("The client did not answer what the protected server needs to know.")
        self._answers[key] = result
        if not self._waiting:
            self._retry()
        return None

    def _retry(self) -> None:
        self._go(cell_a.retried(self._sent, self._link.number("call"), self._answers, self._state))

    def _refuse(self, tell: str) -> None:
        """End the call with an error that its client understands: a tool's own for tools, the protocol's for the rest."""
        self._end()
        if self._message.method == "tools/call":
            told = {"content": [{"type": "text", "text": tell}], "isError": True}
            answer = response(self.id or 0, told)
        else:
            answer = error(self.id, codes.INTERNAL_ERROR, tell)
        answer.id = answer.value["id"] = self.id
        self._sink.message(answer)
        self._sink.done()


def _is_askable(asked: object) -> bool:
    return (
        isinstance(asked, dict)
        and len(asked) <= _QUESTIONS_COUNT
        and all(isinstance(one, dict) and one.get("method") in _ASKED for one in asked.values())
    )


class _Leg:
    """The sink for one request on the way: a call has one leg for each round."""

    def __init__(self, call: _Call, sink: Sink) -> None:
        self._call = call
        self._sink = sink
        self._live = True
        self._cancel: Cancel = _nothing

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

    def begin(self, link: LegacyClientLink, message: Message) -> None:
        """Send the request of this leg."""
        cancel = link.send(message, self)
        if self._live:
            self._cancel = cancel

    def retire(self) -> None:
        """The answer of this leg has come; what follows on it counts no more."""
        self._live = False

    def cut(self) -> None:
        """Close the stream: that is how this era cancels (SF-52)."""
        if self._live:
            self._live = False
            self._cancel()

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``. The era has no event ids and nothing to resume."""
        if self._live:
            self._sink.streaming()

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        if self._live:
            self._call.heard(message, status)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if self._live:
            self._live = False
            self._call.done()

    def failed(self, problem: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if self._live:
            self._live = False
            self._call.fail(problem)


class _Hearing:
    """What the server says on its own: one subscription, made anew whenever the client's wishes change."""

    def __init__(self, link: LegacyClientLink, sink: Sink) -> None:
        self._link = link
        self._sink = sink
        self._over = False
        self._round = 0
        self._cancel: Cancel = _nothing

    def begin(self) -> None:
        """Subscribe to what is wanted now, in place of what was."""
        if self._over:
            return
        self._cancel()
        self._cancel = _nothing
        self._round += 1
        wanted = self._link.filter()
        if not wanted:
            return
        ask = request("", "subscriptions/listen", {"notifications": wanted})
        sink = _Heard(self, self._round)
        cancel = self._link.send(self._link.envelop(ask, self._link.number("listen")), sink)
        if sink.is_live:
            self._cancel = cancel

    def cancel(self) -> None:
        """The client does not listen any more."""
        self._over = True
        cancel, self._cancel = self._cancel, _nothing
        cancel()

    def counts(self, number: int) -> bool:
        """Whether what comes on a subscription still matters."""
        return not self._over and number == self._round

    @property
    def sink(self) -> Sink:
        """The client's end."""
        return self._sink


class _Heard:
    """The sink for one subscription."""

    def __init__(self, hearing: _Hearing, number: int) -> None:
        self._hearing = hearing
        self._number = number
        self.is_live = True

    @property
    def on_writable(self) -> Callable[[], None] | None:
        """See ``gateway.ports.Sink``."""
        return self._hearing.sink.on_writable

    @on_writable.setter
    def on_writable(self, wake: Callable[[], None] | None) -> None:
        self._hearing.sink.on_writable = wake

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self._hearing.sink.is_paused

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``. The client's stream is open already."""

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``. The acknowledgement is ours alone."""
        if (
            message.kind != "notification"
            or message.method == "notifications/subscriptions/acknowledged"
            or not self._hearing.counts(self._number)
        ):
            return
        cell_a.to_legacy_notification(message)
        self._hearing.sink.message(message)

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        self.is_live = False
        if self._hearing.counts(self._number):
            self._hearing.sink.done()

    def failed(self, problem: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        self.is_live = False
        if self._hearing.counts(self._number):
            self._hearing.sink.failed(problem)
