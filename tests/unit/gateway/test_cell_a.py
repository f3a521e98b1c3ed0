"""The stateful part of cell A: what is remembered of a server, what is bounded, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.talks import talk

from doorward.base.errors import UpstreamError
from doorward.gateway import cell_a_listen
from doorward.gateway.bridge import BridgedUpstream, cell_of
from doorward.gateway.cell_a import CellALink
from doorward.gateway.ports import Link
from doorward.protocol.envelope import error, message_of, notification, request, response
from doorward.protocol.message import Message

ACK = notification("notifications/subscriptions/acknowledged", {})


class Server:
    """An upstream of one era whose answers the test gives by hand."""

    def __init__(self, era: str = "modern") -> None:
        self.era = era
        self.asked: list[str] = []
        self.posted: list[tuple[Message, Any]] = []
        self.cancelled: list[Message] = []

    def link(self, principal: str, era: str, version: str, capabilities: Any, ready: Any) -> None:
        self.asked.append(era)
        ready(self if era == self.era else UpstreamError("upstream-era", "The other era."))

    def post(self, message: Message, sink: Any) -> Callable[[], None]:
        self.posted.append((message, sink))
        return lambda: self.cancelled.append(message)

    def listen(self, last_event_id: str, sink: Any) -> Callable[[], None]:
        return lambda: None

    def close(self) -> None:
        raise AssertionError("the modern link belongs to everybody")

    def say(self, message: Message) -> None:
        """Answer the newest request."""
        self.posted[-1][1].message(message)


class Ear:
    """A sink that keeps what it hears."""

    is_paused = False

    def __init__(self) -> None:
        self.on_writable: Callable[[], None] | None = None
        self.heard: list[Message] = []
        self.ends: list[str] = []

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None: ...

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        self.heard.append(message)

    def done(self) -> None:
        self.ends.append("done")

    def failed(self, error: UpstreamError) -> None:
        self.ends.append(error.code)


def linked(bridge: BridgedUpstream) -> Any:
    found: list[Link | UpstreamError] = []
    bridge.link("alice", "legacy", "2025-11-25", {}, found.append)
    return found[0]


def bridged(server: Server) -> CellALink:
    link: CellALink = linked(talk.bridged(server))
    return link


def post(link: CellALink, method: str, params: dict[str, Any] | None = None, number: int = 1) -> Ear:
    ear = Ear()
    link.post(request(number, method, params), ear)
    return ear


def test_the_era_is_remembered_and_doubted_when_a_call_says_so() -> None:
    server = Server()
    bridge = talk.bridged(server)
    linked(bridge)
    assert server.asked == ["legacy", "modern"]
    link = linked(bridge)
    assert server.asked == ["legacy", "modern", "modern"] and cell_of(link, "legacy") == "legacy-modern"
    post(link, "tools/list")
    server.posted[-1][1].failed(UpstreamError("upstream-broke", "x"))
    linked(bridge)
    assert server.asked[-1] == "modern" and server.asked.count("legacy") == 1, "an outage is no evidence"
    post(link, "tools/list")
    server.posted[-1][1].failed(UpstreamError("upstream-status", "x"))
    linked(bridge)
    assert server.asked.count("legacy") == 2


def test_a_link_without_a_cell_passes_through() -> None:
    assert cell_of(None, "legacy") == ""
    assert cell_of(Server(), "legacy") == "legacy-legacy"
    assert cell_of(Server(), "modern") == "modern-modern"


def test_a_call_leaves_nothing_behind() -> None:
    server = Server()
    link = bridged(server)
    for end in ("answer", "failure", "cancel", "question"):
        ear = Ear()
        cancel = link.post(request(3, "tools/call", {"name": "t"}), ear)
        match end:
            case "answer":
                server.say(response(3, {"resultType": "complete", "content": []}))
            case "failure":
                server.posted[-1][1].failed(UpstreamError("upstream-broke", "x"))
            case "cancel":
                cancel()
            case "question":
                asked = {"a": {"method": "roots/list"}, "b": {"method": "roots/list"}}
                server.say(response(3, {"resultType": "input_required", "inputRequests": asked}))
                link.post(error(ear.heard[0].id, -32601, "not here"), Ear())
                link.post(response(str(ear.heard[1].id), {}), Ear())  # too late: nobody waits
                assert ear.heard[-1].value["result"]["isError"] is True
        assert not link._calls and not link._asked, end


def test_a_call_that_is_not_a_tools_fails_with_an_error() -> None:
    server = Server()
    link = bridged(server)
    ear = post(link, "resources/read", {"uri": "a://b"})
    asked = {"a": {"method": "roots/list"}}
    server.say(response(1, {"resultType": "input_required", "inputRequests": asked}))
    link.post(error(ear.heard[0].id, -1, "no"), Ear())
    assert ear.heard[-1].is_error and ear.heard[-1].id == 1 and ear.ends == ["done"]


def test_an_answer_to_another_question_is_not_heard() -> None:
    server = Server()
    ear = post(bridged(server), "tools/call", {"name": "t"})
    server.say(message_of({"jsonrpc": "2.0", "id": "1", "result": {}}))
    assert not ear.heard and not ear.ends


def test_tasks_of_the_core_are_unknown() -> None:
    server = Server()
    ear = post(bridged(server), "tasks/get", {"taskId": "t"})
    assert ear.heard[0].value["error"]["code"] == -32601 and not server.posted


def test_subscriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_a_listen, "URIS_COUNT", 2)
    monkeypatch.setattr(cell_a_listen, "WAITING_COUNT", 3)
    server = Server()
    link = bridged(server)
    ears = [post(link, "resources/subscribe", {"uri": f"a://{n}"}, n) for n in range(3)]
    assert ears[2].heard[0].value["error"]["code"] == -32602
    post(link, "resources/subscribe", {"uri": "a://0"})
    assert post(link, "resources/subscribe", {"uri": "a://1"}).heard[0].is_error, "too many wait"
    assert [one.id for one in server.cancelled] == [one.id for one, _ in server.posted[:-1]]
    server.say(ACK)
    assert ears[0].ends == ears[1].ends == ["done"]


def test_the_last_unsubscription_ends_the_stream() -> None:
    server = Server()
    link = bridged(server)
    post(link, "resources/subscribe", {"uri": "a://b"})
    server.say(ACK)
    gone = post(link, "resources/unsubscribe", {"uri": "a://b"}, 2)
    assert gone.heard[0].value["result"] == {} and len(server.cancelled) == 1


def test_a_stream_that_ends_is_said_to_whoever_listens_and_can_be_opened_again() -> None:
    server = Server()
    link = bridged(server)
    post(link, "resources/subscribe", {"uri": "a://b"})
    server.say(ACK)
    for how in ("done", "upstream-broke"):
        ear = Ear()
        link.listen("", ear)
        server.say(ACK)
        sink = server.posted[-1][1]
        sink.done() if how == "done" else sink.failed(UpstreamError(how, "x"))
        assert ear.ends == [how]
    link.listen("", Ear())
    assert server.posted[-1][0].params["notifications"] == {"resourceSubscriptions": ["a://b"]}  # type: ignore[index]
    link.close()
    assert server.cancelled[-1] is server.posted[-1][0]


@pytest.mark.parametrize("kept", [{}, {"resourceSubscriptions": []}, {"resourceSubscriptions": ["a://c"]}])
def test_a_subscription_that_the_server_does_not_keep_is_refused_and_forgotten(kept: dict[str, Any]) -> None:
    server = Server()
    link = bridged(server)
    ear = post(link, "resources/subscribe", {"uri": "a://b"})
    server.say(notification("notifications/subscriptions/acknowledged", {"notifications": kept}))
    assert ear.heard[0].value["error"]["code"] == -32002 and ear.ends == ["done"]
    again = post(link, "resources/subscribe", {"uri": "a://c"}, 2)
    asked = server.posted[-1][0]
    assert asked.params["notifications"]["resourceSubscriptions"] == ["a://c"]
    kept = {"resourceSubscriptions": ["a://c"]}
    server.say(notification("notifications/subscriptions/acknowledged", {"notifications": kept}))
    assert again.heard[0].value["result"] == {}
