"""One message from door to door: judged, recorded, sent, answered, recorded again.

The same object is the sink of what the server says. No step waits or makes a task; whatever fails refuses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from doorward.base import limits
from doorward.base.errors import CallerError, DoorwardError, StoreError, UpstreamError
from doorward.controls.ask_policy import AskPolicy, unknown_item
from doorward.controls.control import Call
from doorward.gateway import answers
from doorward.gateway.bridge import cell_of
from doorward.gateway.desk import Desk
from doorward.gateway.handshakes import speaks_known, unknown_version
from doorward.gateway.naming import LISTS
from doorward.gateway.pipeline import Ruling
from doorward.gateway.ports import Cancel, Link, Reply, Responder
from doorward.gateway.sessions import Session
from doorward.gateway.streams import Stream
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message
from doorward.protocol.sse import write_event

_log = logging.getLogger("doorward.exchange")

# Results that carry cache hints in the 2026 era (server/utilities/caching); ours vary by caller, hence private.
_CACHEABLE = frozenset({*LISTS, "server/discover", "resources/read"})


class Exchange:
    """A posted message on its way, and the sink for the server's answer to it."""

    __slots__ = (
        "_cancel",
        "_decided",
        "_gone",
        "_ready",
        "_streaming",
        "call",
        "desk",
        "extra_fields",
        "finished",
        "link",
        "on_result",
        "on_settled",
        "on_writable",
        "rename",
        "request_digest",
        "responder",
        "route",
        "session",
        "started_ns",
        "stream",
        "token",
        "upstream_requests",
    )

    def __init__(
        self, desk: Desk, call: Call, responder: Responder, body: bytes, session: Session | None
    ) -> None:
        self.desk = desk
        self.call = call
        self.responder = responder
        self.session = session
        self.request_digest = desk.recorder.digest(body)
        self.started_ns = time.monotonic_ns()
        self.stream: Stream | None = None  # legacy: can be resumed; modern streams are plain
        self.link: Link | None = None
        self.route: Callable[[Exchange], None] | None = None  # finds the link and calls ``go``
        self.on_result: Callable[[dict[str, Any]], None] | None = None  # sees and edits a successful result
        self.on_settled: Callable[[], None] | None = None  # told when the exchange is over
        self.rename: Callable[[Message], None] | None = None  # federated: the server's names become ours
        self.extra_fields = b""  # further header lines of the answer
        self.on_writable: Callable[[], None] | None = None
        self.upstream_requests = 0
        self.finished = False
        self.token: Any = None
        self._streaming = False
        self._decided = False
        self._ready = False  # judged, and nothing was against it
        self._gone = False  # the client has left
        self._cancel: Cancel | None = None

    # -- towards the server -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Judge the message and send it on."""
        message = self.call.message
        if self.session is not None and message.kind == "request" and message.id is not None:
            self.session.flights[message.id] = self
        self.responder.on_gone = self._client_gone
        try:
            self.desk.pipeline.judge_request(self.call, self._ruled)
        except Exception as error:  # noqa: BLE001 - a bug must leave nothing open behind it
            self._crashed(error)

    def _crashed(self, error: Exception) -> None:
        _log.error("exchange failed", exc_info=error, extra={"event": self.call.event})
        if not self.finished:
            self._finish_error(DoorwardError("internal", "internal"), "error")

    def _ruled(self, ruling: Ruling | None) -> None:
        if self.finished:
            return
        if ruling is not None:
            self.refuse(ruling)
            return
        self._ready = True
        if self._gone:
            self._client_gone()
        if self.route is not None and not self.finished:
            self.route(self)

    def go(self, link: Link | UpstreamError) -> None:
        """Continue over a link, or fail with the reason why there is none."""
        if self.finished:
            return
        try:
            if isinstance(link, UpstreamError):
                self._decide()
                self.failed(link)
                return
            self.link = link
            call = self.call
            if call.message.method == "tools/call":
                known = self.desk.known_tool(call)
                if known is None:
                    self.desk.list_tools(call, link, self._found)
                    return
                call.read_only = known.read_only
            self._record()
        except Exception as error:  # noqa: BLE001 - others wait for the same link
            self._crashed(error)

    def _found(self, exists: bool) -> None:  # noqa: FBT001 - a callback of the fact book
        if self.finished:
            return
        if not exists:
            self.refuse_unknown("no list has named this tool")
            return
        call = self.call
        call.listed = True
        known = self.desk.facts.of(call.server, call.item)
        if known is not None:
            call.read_only = known.read_only
            call.schema = known.schema if call.era == "modern" else None
        # Now that the definition is known, it is compared with its pin, and the header's copies of arguments with the schema.
        self.desk.pipeline.judge_request(call, self._ruled_again)

    def _ruled_again(self, ruling: Ruling | None) -> None:
        if ruling is not None:
            self.refuse(ruling)
        else:
            self._record()

    def _record(self) -> None:
        call, desk = self.call, self.desk
        if not self._decided:
            self._decided = True
            desk.recorder.decision(call, self.request_digest, cell_of(self.link, call.era))
        if desk.sync_all or (not call.read_only and call.message.method == "tools/call"):
            desk.recorder.when_synced(self._synced)
        else:
            self._send()

    def _synced(self, error: StoreError | None) -> None:
        if self.finished:
            return
        if error is not None:
            self._finish_with(
                answers.failed(error, event=self.call.event, message_id=self.call.message.id), "error"
            )
        else:
            self._send()

    def _decide(self) -> None:
        if not self._decided:
            self._decided = True
            self.desk.recorder.decision(self.call, self.request_digest, cell_of(self.link, self.call.era))

    def _send(self) -> None:
        message, session, link = self.call.message, self.session, self.link
        if link is None:
            return
        params = message.params
        if params is not None and "_meta" in params:
            meta = params["_meta"]
            if isinstance(meta, dict) and isinstance(meta.get("progressToken"), (str, int)):
                self.token = meta["progressToken"]
                if session is not None and message.kind == "request":
                    session.tokens[self.token] = self.call.server
        self.upstream_requests += 1
        cancel = link.post(message, self)
        if not self.finished:
            self._cancel = cancel

    def _client_gone(self) -> None:
        # 2025 era: a lost connection is not a cancellation (SF-31), but nobody will ever know the session that an
        # initialize would open. 2026 era: it is one, and must stop the work (SF-52).
        self._gone = True
        if self.finished or not self._ready:
            return
        if self.call.era == "modern" or self.call.message.method == "initialize":
            if self._cancel is not None:
                self._cancel()
            self._decide()
            self._settle("cancelled", 499, 0, b"")

    # -- from the server ----------------------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """See ``gateway.ports.Sink``."""
        return self.stream.is_paused if self.stream is not None else self.responder.is_paused

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        """See ``gateway.ports.Sink``."""
        if self.finished or self.call.message.method == "initialize" or self.call.message.kind != "request":
            return
        self._open_stream()
        if self.stream is not None and event_id:
            self.stream.upstream_event = event_id
            self.stream.prime(retry_ms)
        elif self.stream is not None and retry_ms is not None:
            self.stream.prime(retry_ms)

    def _open_stream(self) -> None:
        if self._streaming:
            return
        self._streaming = True
        if self.session is not None:
            self.stream = self.session.new_stream()
            self.stream.expires_at = self.call.principal.expires_at
            self.stream.on_writable = self._writable
            if not self._gone:
                self.stream.attach(self.responder, 0, self.extra_fields)
        else:
            self.desk.live.add(self)
            self.responder.on_writable = self._writable
            self.responder.start(200, answers.STREAM_FIELDS + self.extra_fields)

    def _writable(self) -> None:
        wake, self.on_writable = self.on_writable, None
        if wake is not None:
            wake()

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        """See ``gateway.ports.Sink``."""
        if self.finished:
            return
        if self.stream is not None and event_id:
            self.stream.upstream_event = event_id
        if message.kind == "response":
            if message.id == self.call.message.id and type(message.id) is type(self.call.message.id):
                self._respond(message, status)
        elif self.call.message.method != "initialize" and self.call.message.kind == "request":
            self._notice(message)

    def _notice(self, message: Message) -> None:
        call, link = self.call, self.link
        if link is None or not self.desk.may_tell(
            message, call.server, call.capabilities, self.session, call.era, link, self.token, call.message.id
        ):
            return
        if self.rename is not None:
            self.rename(message)
        self.pass_on(message)

    def pass_on(self, message: Message) -> None:
        """Send the client a judged notification or request, on this call's stream."""
        if not self.finished:
            self._open_stream()
            self._write(encode_json(message.value))

    def answer_locally(self, message: Message) -> None:
        """Answer without a server, on record like everything else."""
        self._decide()
        self._respond(message, 200)

    def _write(self, data: bytes) -> None:
        if self.stream is not None:
            self.stream.send(data)
        else:
            self.responder.write(write_event(data))

    def _respond(self, message: Message, status: int) -> None:
        call, value = self.call, message.value
        value["id"] = call.message.id
        result = value.get("result")
        ruling: Ruling | None = None
        if isinstance(result, dict) and call.message.method != "tools/call":
            if call.message.method == "initialize" and not speaks_known(result):
                self.failed(unknown_version())
                return
            ruling = self._judge(result)
        if ruling is None:
            ruling = self.desk.pipeline.judge_reply(call, message)
        if ruling is not None:
            self._answer_refusal(ruling, "error")
            return
        if self.on_result is not None and isinstance(result, dict):
            try:
                self.on_result(result)
            except CallerError as unfit:
                self._finish_error(unfit, "error")
                return
        if self.rename is not None:
            self.rename(message)
        body = encode_json(value)
        if "error" in value:
            error = value["error"]
            code = error.get("code", 0) if isinstance(error, dict) else 0
            if status == 200 and call.era == "modern":
                status = answers.modern_status(code)
            self._complete(body, "error", status if call.era == "modern" else 200, code)
        else:
            outcome = "error" if isinstance(result, dict) and result.get("isError") is True else "ok"
            self._complete(body, outcome, 200, 0)

    def _judge(self, result: dict[str, Any]) -> Ruling | None:
        call = self.call
        method = call.message.method
        key = LISTS.get(method)
        if key is not None and call.server:
            items = result.get(key)
            if isinstance(items, list):
                ruling = self.keep(call.server, items, key)
                if ruling is not None:
                    return ruling
        if call.era == "modern" and method in _CACHEABLE and result.get("cacheScope") == "public":
            self.desk.narrow(call, result)  # what a caller may see is its own (2026-07-28 caching; SF-58)
        return None

    def keep(self, server: str, items: list[Any], key: str) -> Ruling | None:
        """Drop what this caller may not see from one server's list, in place, and learn from what is left."""
        call = self.call
        items[:] = [item for item in items if isinstance(item, dict)]
        was, call.server = call.server, server
        try:
            if key == "tools":
                self.desk.facts.learn(server, items)
            return self.desk.pipeline.judge_listing(call, items, key)
        finally:
            call.server = was

    def _complete(self, body: bytes, outcome: str, status: int, code: int) -> None:
        if self._streaming:
            self._settle(outcome, 200, code, body)
            self._write(body)
            self._end_stream()
        else:
            self._settle(outcome, status, code, body)
            self.responder.answer(Reply(status, self.extra_fields + answers.JSON_FIELDS, body))

    def _end_stream(self) -> None:
        if self.stream is not None:
            self.stream.finish()
        else:
            self.responder.end()

    def done(self) -> None:
        """See ``gateway.ports.Sink``."""
        if self.finished:
            return
        if self.call.message.kind != "request":
            self._finish_with(answers.ACCEPTED, "ok")
        elif self.stream is not None and self.stream.upstream_event and self.session is not None:
            self._suspend(self.stream)
        else:
            self.failed(UpstreamError("upstream-no-answer", "The protected server ended without an answer."))

    def _suspend(self, stream: Stream) -> None:
        """The server closed its stream but will go on when it is asked again (SEP-1699)."""
        stream.waits_upstream = True
        stream.suspend()

    def resume(self) -> None:
        """The client came back for a stream that the server had closed early: ask the server to go on."""
        if self.stream is not None and self.link is not None and self.stream.waits_upstream:
            self.stream.waits_upstream = False
            self._cancel = self.link.listen(self.stream.upstream_event, self)

    def stop(self, tell: str) -> None:
        """End a live stream from our side: its token was revoked, or the gateway drains."""
        self._stop(UpstreamError("stopped", tell))

    def failed(self, error: UpstreamError) -> None:
        """See ``gateway.ports.Sink``."""
        if self.finished:
            return
        _log.warning(
            "upstream failed", extra={"server": self.call.server, "code": error.code, "detail": error.detail}
        )
        self._finish_error(error, "upstream-failed")
        if error.code == "upstream-session-gone" and self.session is not None:
            self.desk.end_session(self.session)

    def end_overdue(self) -> None:
        """Give up a call that has taken longer than any may (CF-12): a server that closed its stream early may never go on."""
        if time.monotonic_ns() - self.started_ns > limits.UPSTREAM_SECONDS * 1e9 and not self.finished:
            if self._cancel is not None:
                self._cancel()
            self.failed(UpstreamError("upstream-timeout", "The protected server did not answer in time."))

    def session_ended(self) -> None:
        """The client's session is over: the call with it."""
        self._stop(UpstreamError("session-ended", "The session ended before the answer came."))

    def _stop(self, why: UpstreamError) -> None:
        if not self.finished:
            if self._cancel is not None:
                self._cancel()
            self._finish_error(why, "cancelled")

    # -- ends ---------------------------------------------------------------------------------------------------

    def refuse(self, ruling: Ruling) -> None:
        """Refuse before the server is touched."""
        call = self.call
        self._decided = True
        refuse = ruling.refuse
        status = refuse.status
        if status == 200 and call.era == "modern":
            status = answers.modern_status(refuse.code)
        self.desk.recorder.refusal(call, self.request_digest, ruling, status)
        self._answer_refusal(ruling, "refused")

    def refuse_unknown(self, reason: str) -> None:
        """Refuse an item that does not exist, just as one that this caller may not see is refused."""
        self.refuse(Ruling(AskPolicy.slug, unknown_item(self.call, reason)))

    def _answer_refusal(self, ruling: Ruling, outcome: str) -> None:
        call = self.call
        reply = answers.refused(
            ruling.refuse,
            slug=ruling.slug,
            event=call.event,
            message_id=call.message.id,
            method=call.message.method,
            deny_as=self.desk.deny_as,
            era=call.era,
        )
        if self._streaming or outcome != "refused":
            _log.warning("reply refused", extra={"control": ruling.slug, "reason": ruling.refuse.reason})
        self._finish_with(reply, outcome, ruling.refuse.code, ruling if outcome != "refused" else None)

    def _finish_error(self, error: DoorwardError, outcome: str) -> None:
        self._decide()
        call = self.call
        reply = answers.failed(error, event=call.event, message_id=call.message.id, era=call.era)
        self._finish_with(reply, outcome, answers.code_of(error))

    def _finish_with(self, reply: Reply, outcome: str, code: int = 0, ruling: Ruling | None = None) -> None:
        """End with a prepared answer, as an event where the stream has begun."""
        if self.finished:
            return
        self._settle(outcome, 200 if self._streaming else reply.status, code, reply.body, ruling)
        if self._streaming:
            self._write(reply.body)
            self._end_stream()
        else:
            self.responder.on_gone = None
            self.responder.answer(reply)

    def _settle(
        self, outcome: str, status: int, code: int, body: bytes, ruling: Ruling | None = None
    ) -> None:
        self.finished = True
        desk, call = self.desk, self.call
        if not self._streaming:
            self.responder.on_gone = None
        else:
            desk.live.discard(self)
        session = self.session
        if session is not None:
            message_id = call.message.id
            if message_id is not None and session.flights.get(message_id) is self:
                del session.flights[message_id]
                if self.token is not None:
                    session.tokens.pop(self.token, None)
        if outcome != "refused":
            desk.recorder.outcome(self, outcome, status, code, body, ruling)
        desk.pipeline.settle(call, outcome)
        if self.on_settled is not None:
            settled, self.on_settled = self.on_settled, None
            settled()
        # What points back here is let go, so that memory is free at once and not when the cycle collector comes.
        self._cancel = self.link = self.route = self.on_result = self.on_writable = None
        if self.stream is not None:
            self.stream.on_writable = None
