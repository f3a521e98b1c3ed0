"""The way to one HTTP server: what is written, what is believed, and which era a server is taken to speak."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.gateway.timers import Timers

from doorward.base.errors import UpstreamError
from doorward.gateway.http_link import HttpUpstream
from doorward.protocol.envelope import message_of
from doorward.protocol.http_head import parse_response_head
from doorward.protocol.message import Message


class Sent:
    """One request that went out, and the server's side of it."""

    def __init__(self, head: bytes, body: bytes, sink: Any, hold: bool) -> None:
        self.verb = head.split(b" ", 1)[0].decode()
        self.fields = {
            line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip()
            for line in head.decode().split("\r\n")[1:]
            if line
        }
        self.head, self.body, self.sink, self.hold = head, body, sink, hold
        self.cancelled = self.paused = self.lingers = False

    @property
    def id(self) -> Any:
        return json.loads(self.body)["id"]

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def linger(self) -> None:
        self.lingers = True

    def open(self, status: int = 200, kind: str = "application/json", **fields: str) -> None:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        framing = "" if status == 204 else "Transfer-Encoding: chunked\r\n"
        block = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{more}{framing}\r\n"
        self.sink.on_head(parse_response_head(block.encode()))

    def data(self, part: bytes) -> None:
        if not self.cancelled:
            self.sink.on_data(part)

    def end(self) -> None:
        if not self.cancelled:
            self.sink.on_end()

    def reply(self, body: bytes | dict[str, Any] = b"", status: int = 200, **fields: str) -> None:
        self.open(status, **fields)
        if body:
            self.data(body if isinstance(body, bytes) else json.dumps(body).encode())
        self.end()

    def event(self, value: Any = None, text: str = "") -> None:
        self.data((text or f"data: {json.dumps(value)}\n\n").encode())


class Origin:
    """Implements ``gateway.ports.HttpOrigin`` in memory."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def send(self, head: bytes, body: bytes, sink: Any, *, hold: bool = False) -> Sent:
        self.sent.append(Sent(head, body, sink, hold))
        return self.sent[-1]


class Ear:
    """A message sink."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.statuses: list[int] = []
        self.streams: list[tuple[int | None, str]] = []
        self.ends = 0
        self.error: UpstreamError | None = None
        self.is_paused = False
        self.on_writable: Callable[[], None] | None = None

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None:
        self.streams.append((retry_ms, event_id))

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        self.messages.append(message)
        self.statuses.append(status)

    def done(self) -> None:
        self.ends += 1

    def failed(self, error: UpstreamError) -> None:
        self.ends += 1
        self.error = error

    @property
    def code(self) -> str:
        return self.error.code if self.error is not None else ""


class Case:
    """An upstream, and one link to it."""

    def __init__(self) -> None:
        self.origin = Origin()
        self.timers = Timers()
        self.upstream = HttpUpstream(
            "s", self.origin, "up.example", "/mcp?x=1", b"Authorization: Bearer theirs\r\n", lambda *_: None, self.timers
        )  # fmt: skip

    def link(self, era: Any = "legacy") -> Any:
        found: list[Any] = []
        self.upstream.link("p", era, "2025-11-25", {}, found.append)
        if era == "modern" and not found:
            self.origin.sent[-1].reply({"jsonrpc": "2.0", "id": "doorward-probe", "result": {}})
        return found[0]

    def post(
        self, link: Any, method: str = "tools/list", id: Any = 7
    ) -> tuple[Sent, Ear, Callable[[], None]]:
        value = {"jsonrpc": "2.0", "method": method, "params": {}}
        if id is not None:
            value["id"] = id
        ear = Ear()
        cancel = link.post(message_of(value), ear)
        return self.origin.sent[-1], ear, cancel

    def asked(self) -> tuple[Sent, Ear]:
        sent, ear, _ = self.post(self.link())
        return sent, ear


@pytest.fixture
def case() -> Case:
    return Case()


RESULT = {"jsonrpc": "2.0", "id": 7, "result": {"tools": []}}


# -- what is written ------------------------------------------------------------------------------------------------


def test_a_request_is_written_from_settings_and_the_message_alone(case: Case) -> None:
    sent, _ = case.asked()
    assert sent.head.startswith(b"POST /mcp?x=1 HTTP/1.1\r\nHost: up.example\r\n")
    assert set(sent.fields) == {
        "host",
        "user-agent",
        "authorization",
        "accept",
        "content-type",
        "content-length",
    }
    assert sent.fields["authorization"] == "Bearer theirs"
    assert int(sent.fields["content-length"]) == len(sent.body)


def test_a_session_and_its_version_are_repeated_once_they_are_known(case: Case) -> None:
    link = case.link()
    sent, _, _ = case.post(link, "initialize", 0)
    sent.reply({"jsonrpc": "2.0", "id": 0, "result": {}}, Mcp_Session_Id="up-1")
    link.negotiated("2025-06-18")
    sent, _, _ = case.post(link)
    assert sent.fields["mcp-session-id"] == "up-1" and sent.fields["mcp-protocol-version"] == "2025-06-18"
    cancel = link.listen("ev\r\nX: 1", Ear())
    listening = case.origin.sent[-1]
    assert listening.verb == "GET" and listening.hold and "x" not in listening.fields
    cancel()
    assert listening.cancelled
    link.close()
    link.close()
    assert [sent.verb for sent in case.origin.sent] == ["POST", "POST", "GET", "DELETE"]


@pytest.mark.parametrize("offered", ["", "x" * 513, "a b"])
def test_an_unusable_session_id_is_not_repeated(case: Case, offered: str) -> None:
    link = case.link()
    sent, _, _ = case.post(link, "initialize", 0)
    sent.reply({"jsonrpc": "2.0", "id": 0, "result": {}}, Mcp_Session_Id=offered)
    assert link.session_id == ""


def test_a_session_that_opens_after_its_link_was_closed_is_ended(case: Case) -> None:
    link = case.link()
    sent, _, _ = case.post(link, "initialize", 0)
    link.close()
    sent.reply({"jsonrpc": "2.0", "id": 0, "result": {}}, Mcp_Session_Id="up-1")
    assert case.origin.sent[-1].verb == "DELETE" and case.origin.sent[-1].fields["mcp-session-id"] == "up-1"


# -- what is believed -----------------------------------------------------------------------------------------------


def test_an_answer_ends_the_exchange(case: Case) -> None:
    sent, ear = case.asked()
    sent.reply(RESULT)
    assert ear.messages[0].value == RESULT and ear.ends == 1 and ear.error is None


@pytest.mark.parametrize("wrong", [8, "7", None, 7.0, True])
def test_an_answer_to_another_question_is_none(case: Case, wrong: Any) -> None:
    sent, ear = case.asked()
    sent.reply({"jsonrpc": "2.0", "id": wrong, "result": {}})
    assert ear.messages == [] and ear.ends == 1 and ear.code in ("upstream-wrong-id", "upstream-malformed")


def test_an_error_without_an_id_answers_what_was_asked(case: Case) -> None:
    sent, ear = case.asked()
    sent.reply({"jsonrpc": "2.0", "error": {"code": -32700, "message": "?"}})
    assert ear.messages[0].id == 7 and ear.messages[0].is_error


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"jsonrpc":"2.0","id":7,"id":7,"result":{}}', b'{"a":NaN}', b"\xef\xbb\xbf{}", b"null"]
)  # fmt: skip
def test_a_malformed_answer_fails_the_call(case: Case, body: bytes) -> None:
    sent, ear = case.asked()
    sent.reply(body)
    assert ear.messages == [] and ear.ends == 1 and ear.code == "upstream-malformed"


def test_an_unknown_media_type_fails_the_call(case: Case) -> None:
    sent, ear = case.asked()
    sent.open(kind="text/html")
    sent.data(b"<html>")
    sent.end()
    assert ear.code == "upstream-media-type" and ear.ends == 1 and sent.cancelled


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "upstream-refused"), (403, "upstream-refused"), (404, "upstream-status"), (500, "upstream-status"),
     (503, "upstream-status"), (302, "upstream-status"), (418, "upstream-status")],
)  # fmt: skip
def test_an_http_error_fails_the_call(case: Case, status: int, code: str) -> None:
    sent, ear = case.asked()
    sent.reply(b"secret detail", status, Location="http://evil.example/")
    assert ear.code == code and ear.ends == 1 and ear.messages == []
    assert len(case.origin.sent) == 1, "no redirect is followed"
    assert ear.error is not None and "secret" not in ear.error.tell + ear.error.detail


def test_a_404_within_a_session_is_its_end(case: Case) -> None:
    link = case.link()
    sent, _, _ = case.post(link, "initialize", 0)
    sent.reply({"jsonrpc": "2.0", "id": 0, "result": {}}, Mcp_Session_Id="up-1")
    sent, ear, _ = case.post(link)
    sent.reply(b"", 404)
    assert ear.code == "upstream-session-gone"
    before = len(case.origin.sent)
    link.close()
    assert len(case.origin.sent) == before, "what is gone is not ended again"


def test_a_json_rpc_error_with_status_400_is_the_servers_own_answer(case: Case) -> None:
    sent, ear = case.asked()
    sent.reply({"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": "no"}}, 400)
    assert ear.messages[0].is_error and ear.statuses == [400] and ear.error is None


def test_a_notification_is_taken_with_any_good_status(case: Case) -> None:
    for status in (200, 202, 204):
        sent, ear, _ = case.post(case.link(), "notifications/initialized", None)
        sent.reply(b"", status)
        assert ear.ends == 1 and ear.error is None


# -- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_tells_what_comes_before_the_answer_and_ends(case: Case) -> None:
    sent, ear = case.asked()
    sent.open(kind="text/event-stream; charset=utf-8")
    sent.event(text="id: up-1\nretry: 500\ndata:\n\n")
    sent.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    sent.event(text="event: other\ndata: {}\n\n")
    sent.event(RESULT)
    sent.end()
    assert [message.kind for message in ear.messages] == ["notification", "response"]
    assert ear.streams == [(None, ""), (500, "up-1")] and ear.ends == 1


def test_a_stream_that_ends_or_breaks_without_an_answer_ends_the_sink_once(case: Case) -> None:
    for broken in (False, True):
        sent, ear = case.asked()
        sent.open(kind="text/event-stream")
        sent.event(text="data: {not")
        if broken:
            sent.sink.on_fail(UpstreamError("upstream-broke", "It broke."))
            sent.sink.on_fail(UpstreamError("upstream-broke", "It broke."))
        else:
            sent.end()
        assert ear.ends == 1 and ear.messages == [] and bool(ear.error) is broken


def test_a_malformed_event_or_a_wrong_id_on_a_stream_fails_the_call(case: Case) -> None:
    for text in (
        "data: {not json}\n\n",
        'data: {"jsonrpc":"2.0","id":9,"result":{}}\n\n',
        "data: " + "x" * 9_000_000,
    ):
        sent, ear = case.asked()
        sent.open(kind="text/event-stream")
        sent.event(text=text)
        sent.event(RESULT)
        assert ear.ends == 1 and ear.error is not None and ear.messages == [] and sent.cancelled


def test_a_slow_client_pauses_the_server_and_lets_it_go_on(case: Case) -> None:
    sent, ear = case.asked()
    sent.open(kind="text/event-stream")
    ear.is_paused = True
    sent.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    assert sent.paused and ear.on_writable is not None
    ear.on_writable()
    assert not sent.paused


def test_a_fault_in_the_sink_costs_this_exchange_only(case: Case) -> None:
    sent, ear = case.asked()

    def crash(*_: Any) -> None:
        raise RuntimeError

    ear.message = crash  # type: ignore[method-assign]
    sent.reply(RESULT)
    assert ear.code == "upstream-unusable" and ear.ends == 1


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_cancelled_call_frees_its_connection(case: Case, era: str) -> None:
    sent, ear, cancel = case.post(case.link(era))
    cancel()
    assert sent.cancelled
    sent.sink.on_fail(UpstreamError("upstream-broke", "It broke."))
    assert ear.ends == 0


def test_a_handshake_is_never_cut_off_for_then_nobody_would_end_its_session(case: Case) -> None:
    sent, _, cancel = case.post(case.link(), "initialize", 0)
    cancel()
    assert not sent.cancelled


# -- the era --------------------------------------------------------------------------------------------------------


def probe(case: Case) -> tuple[Sent, list[Any]]:
    found: list[Any] = []
    for _ in range(2):
        case.upstream.link("p", "modern", "2026-07-28", {}, found.append)
    assert found == [] and [sent.id for sent in case.origin.sent].count("doorward-probe") >= 1
    return case.origin.sent[-1], found


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"jsonrpc": "2.0", "id": "doorward-probe", "result": {"supportedVersions": ["2026-07-28"]}}),
        (400, {"jsonrpc": "2.0", "id": "doorward-probe", "error": {"code": -32022, "message": "version"}}),
        (400, {"jsonrpc": "2.0", "error": {"code": -32020, "message": "header"}}),
    ],
    ids=["discovered", "other version", "header mismatch"],
)
def test_these_answers_show_a_modern_server(case: Case, status: int, body: dict[str, Any]) -> None:
    sent, found = probe(case)
    sent.reply(body, status)
    assert len(found) == 2 and found[0] is found[1] and not isinstance(found[0], UpstreamError)
    case.upstream.link("p", "modern", "2026-07-28", {}, found.append)
    assert found[2] is found[0] and len(case.origin.sent) == 1
    assert case.timers.set == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"jsonrpc": "2.0", "id": "doorward-probe", "error": {"code": -32601, "message": "no"}}),
        (400, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no session"}}),
        (400, b"Bad Request: no valid session"),
        (404, b""),
        (405, b""),
        (406, b""),
        (202, b""),
    ],
    ids=["error", "400 with an old error", "400 with text", "404", "405", "406", "202"],
)
def test_these_answers_show_a_legacy_server(case: Case, status: int, body: Any) -> None:
    sent, found = probe(case)
    sent.reply(body, status)
    assert [error.code for error in found] == ["upstream-era"] * 2 and "2025-11-25" in found[0].tell
    assert case.timers.set == []


@pytest.mark.parametrize("status", [401, 403, 500, 502, 503, 302, 429])
def test_an_outage_is_no_evidence_of_an_era_and_the_next_request_asks_again(case: Case, status: int) -> None:
    sent, found = probe(case)
    sent.reply(b"", status)
    assert len(found) == 2 and all(
        isinstance(error, UpstreamError) and error.code != "upstream-era" for error in found
    )
    again, found = probe(case)
    assert again is not sent
    again.sink.on_fail(UpstreamError("upstream-timeout", "Too late."))
    assert [error.code for error in found] == ["upstream-timeout"] * 2


def test_a_server_that_never_answers_the_question_holds_nobody_for_ever(case: Case) -> None:
    sent, found = probe(case)
    case.timers.fire()
    assert [error.code for error in found] == ["upstream-timeout"] * 2 and sent.cancelled
    again, found = probe(case)
    again.reply({"jsonrpc": "2.0", "id": "doorward-probe", "result": {}})
    assert len(found) == 2 and not isinstance(found[0], UpstreamError)


def test_one_that_fails_to_go_on_does_not_stop_the_others_who_wait(case: Case) -> None:
    found: list[Any] = []

    def crash(link: Any) -> None:
        raise RuntimeError

    case.upstream.link("p", "modern", "2026-07-28", {}, crash)
    case.upstream.link("p", "modern", "2026-07-28", {}, found.append)
    case.origin.sent[-1].reply({"jsonrpc": "2.0", "id": "doorward-probe", "result": {}})
    assert len(found) == 1


def test_a_modern_server_that_turns_out_to_be_legacy_now_is_asked_again(case: Case) -> None:
    link = case.link("modern")
    sent, ear, _ = case.post(link)
    sent.reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Missing session"}}, 400)
    assert ear.messages[0].is_error
    found: list[Any] = []
    case.upstream.link("p", "modern", "2026-07-28", {}, found.append)
    assert case.origin.sent[-1].id == "doorward-probe", "what was cached did not hold (CF-08)"


def test_a_response_on_which_the_server_asks_makes_room_for_others(case: Case) -> None:
    sent, ear = case.asked()
    sent.open(kind="text/event-stream")
    sent.event(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
    )
    assert not sent.lingers, "only a question waits for a person"
    sent.event({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}})
    assert sent.lingers
    assert [message.method for message in ear.messages] == ["notifications/progress", "elicitation/create"]


def opened(case: Case) -> Any:
    """A link with a session at the server."""
    link = case.link()
    sent, _, _ = case.post(link, "initialize", 0)
    sent.reply({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-11-25"}}, Mcp_Session_Id="abc")
    link.negotiated("2025-11-25")
    return link


def told(case: Case) -> list[Any]:
    """The cancellations that went out."""
    bodies = [json.loads(one.body) for one in case.origin.sent if one.body]
    return [one["params"]["requestId"] for one in bodies if one["method"] == "notifications/cancelled"]


def test_a_legacy_server_is_told_when_nobody_waits_any_more(case: Case) -> None:
    link = opened(case)
    sent, ear, cancel = case.post(link, "tools/call")
    cancel()
    cancel()
    assert sent.cancelled and told(case) == [7] and ear.ends == 0
    case.timers.fire()
    assert told(case) == [7, 7], "the first word may have overtaken the request on another connection"
    assert case.origin.sent[-1].fields["mcp-session-id"] == "abc"


def test_a_legacy_server_is_told_when_its_answer_is_overdue(case: Case) -> None:
    sent, ear, cancel = case.post(opened(case), "tools/call")
    sent.sink.on_fail(UpstreamError("upstream-timeout", "The server did not answer in time."))
    cancel()
    assert told(case) == [7] and ear.code == "upstream-timeout"


def test_what_needs_no_word_gets_none(case: Case) -> None:
    link = opened(case)
    sent, _, cancel = case.post(link, "tools/call")
    sent.reply({"jsonrpc": "2.0", "id": 7, "result": {}})
    cancel()  # it is over
    _, _, cancel = case.post(link, "notifications/roots/list_changed", None)
    cancel()
    modern, _, cancel = case.post(case.link("modern"), "tools/call")
    cancel()  # in the newer era leaving says it
    assert modern.cancelled and told(case) == []


def test_one_word_is_enough_once_the_server_has_begun_to_answer(case: Case) -> None:
    sent, _, cancel = case.post(opened(case), "tools/call")
    sent.open(kind="text/event-stream")
    cancel()
    case.timers.fire()
    assert told(case) == [7]


def test_a_session_that_has_ended_meanwhile_hears_no_second_word(case: Case) -> None:
    link = opened(case)
    _, _, cancel = case.post(link, "tools/call")
    cancel()
    link.close()
    case.timers.fire()
    assert told(case) == [7]
