"""How what hangs on a session at a legacy server ends: nobody is left without an answer, and the server is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from doorward.base.errors import UpstreamError
from doorward.gateway.bridge import BridgedUpstream
from doorward.gateway.doubted import DOUBT_SECONDS
from doorward.protocol.envelope import message_of
from tests.talks.talk import Ear, PlayedServer, Talk

CALL = {"name": "echo", "arguments": {"x": 1}}
LISTEN = {"notifications": {"toolsListChanged": True}}
LEVEL = "io.modelcontextprotocol/logLevel"
FORMS: dict[str, Any] = {"elicitation": {}}
GONE = UpstreamError("upstream-session-gone", "The protected server ended the session.")
AGES = 1e9


class Timers:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.left: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, run: Callable[[], None]) -> Callable[[], None]:
        item = (seconds, run)
        self.left.append(item)
        return lambda: self.left.remove(item) if item in self.left else None

    def pass_by(self, seconds: float) -> None:
        """Run what is due by then."""
        for item in [one for one in self.left if one[0] <= seconds]:
            if item in self.left:
                self.left.remove(item)
                item[1]()


class Scene:
    """A gateway before one legacy server that takes calls and says nothing for now."""

    def __init__(self, capabilities: dict[str, Any] | None = None) -> None:
        self.server = PlayedServer("legacy")
        self.talk = Talk({"time": self.server}, allow_requests=("elicitation", "roots", "sampling"))
        self.timers = Timers()
        self.bridge = BridgedUpstream(self.server, "time", self.talk.states.book, self.timers)
        self.talk.gateway.snapshot.desk.upstreams["time"] = self.bridge
        self.capabilities = capabilities or {}
        self.modern("tools/list")
        self.server.answers["tools/call"] = lambda _: None

    def modern(self, method: str, params: Any = None, number: int = 1) -> Ear:
        return self.talk.modern("time", method, params, id=number, capabilities=self.capabilities)

    def say(self, method: str, params: dict[str, Any], **more: Any) -> None:
        """The server says something about the last call."""
        self.server.sinks[-1].message(
            message_of({"jsonrpc": "2.0", "method": method, "params": params, **more})
        )


def test_every_call_of_a_lost_session_is_made_once_more() -> None:
    scene = Scene()
    ears = [scene.modern("tools/call", CALL, number) for number in (1, 2)]
    sinks = scene.server.sinks[-2:]
    del scene.server.answers["tools/call"]
    for sink in sinks:
        sink.failed(GONE)
    assert all("result" in ear.json for ear in ears)
    assert scene.server.methods().count("initialize") == 2


def test_a_server_that_loses_every_session_is_not_asked_for_ever() -> None:
    scene = Scene()
    ear = scene.modern("tools/call", CALL)
    scene.server.sinks[-1].failed(GONE)
    scene.server.sinks[-1].failed(GONE)
    assert "error" in ear.json
    assert scene.server.methods().count("tools/call") == 2


def test_a_subscription_ends_with_its_session_instead_of_going_deaf() -> None:
    scene = Scene()
    heard = scene.modern("subscriptions/listen", LISTEN, 9)
    assert heard.messages()
    scene.modern("tools/call", CALL)
    scene.server.sinks[-1].failed(GONE)
    assert heard.ended
    again = scene.modern("subscriptions/listen", LISTEN, 10)
    assert again.messages() and not again.ended


def test_a_stream_that_finds_its_session_gone_ends_its_subscriptions() -> None:
    scene = Scene()
    heard = scene.modern("subscriptions/listen", LISTEN, 9)
    scene.server.links[0].listeners[0].failed(GONE)
    assert heard.ended


def test_when_settings_take_a_server_away_nobody_waits_for_it() -> None:
    scene = Scene()
    ears = [scene.modern("tools/call", CALL), scene.modern("subscriptions/listen", LISTEN, 9)]
    scene.bridge.close()
    assert all(ear.ended for ear in ears)
    assert scene.server.links[0].closed_by_us


def test_a_refused_handshake_leaves_nothing_open() -> None:
    server = PlayedServer("legacy")
    server.answers["initialize"] = {"error": {"code": -32603, "message": "no"}}
    talk = Talk({"time": server})
    talk.gateway.snapshot.desk.upstreams["time"] = BridgedUpstream(server, "time", talk.states.book, Timers())
    assert "error" in talk.modern("time", "tools/list").json
    assert all(link.closed_by_us for link in server.links)


def test_a_question_that_the_client_cannot_take_is_answered_at_once_and_parks_nothing() -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", CALL)
    url = {"mode": "url", "message": "m", "url": "https://a.example/"}
    scene.say("elicitation/create", url, id="q1")
    scene.timers.pass_by(1)
    assert not ear.ended
    told = [message for message in scene.server.seen if message.kind == "response"]
    assert [message.value["id"] for message in told] == ["q1"] and told[0].is_error


def test_a_question_that_it_can_take_parks_and_is_given_up_when_nobody_comes_back() -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", CALL)
    scene.say("elicitation/create", {"message": "m", "requestedSchema": {"type": "object"}}, id="q1")
    scene.timers.pass_by(1)
    assert ear.json["result"]["resultType"] == "input_required"
    assert "notifications/cancelled" not in scene.server.methods()
    scene.timers.pass_by(AGES)
    assert "notifications/cancelled" in scene.server.methods()


def test_log_lines_below_the_wanted_level_are_left_out() -> None:
    scene = Scene()
    ear = scene.modern("tools/call", {**CALL, "_meta": {LEVEL: "error"}})
    for level in ("debug", "info", "error", "alert"):
        scene.say("notifications/message", {"level": level, "data": "d"})
    assert [message["params"]["level"] for message in ear.messages()] == ["error", "alert"]


def test_progress_on_the_servers_own_stream_finds_its_call() -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", {**CALL, "_meta": {"progressToken": "p"}})
    call = next(message for message in scene.server.seen if message.method == "tools/call")
    step = {"progressToken": call.params["_meta"]["progressToken"], "progress": 1}
    line = {"jsonrpc": "2.0", "method": "notifications/progress", "params": step}
    scene.server.links[0].listeners[0].message(message_of(line))
    assert [message["params"]["progressToken"] for message in ear.messages()] == ["p"]


QUESTION = {"message": "m", "requestedSchema": {"type": "object"}}


def back(scene: Scene, question: Ear) -> Ear:
    """The client comes back with an answer."""
    answers = {"ask-1": {"action": "decline"}}
    state = question.json["result"]["requestState"]
    return scene.modern("tools/call", {**CALL, "requestState": state, "inputResponses": answers}, 7)


def test_an_answer_that_comes_before_its_client_is_kept_within_bounds() -> None:
    for length, fits in ((100, True), (5_000_000, False)):
        scene = Scene(FORMS)
        asked = scene.modern("tools/call", CALL)
        call = scene.server.seen[-1]
        scene.say("elicitation/create", QUESTION, id="q1")
        scene.timers.pass_by(1)
        result = {"content": [{"type": "text", "text": "x" * length}]}
        scene.server.sinks[-1].message(message_of({"jsonrpc": "2.0", "id": call.id, "result": result}))
        answer = back(scene, asked)
        assert ("result" in answer.json) == fits
        assert fits or answer.json["error"]["code"] == -31008


def test_a_server_whose_questions_are_too_large_parks_nothing_more() -> None:
    scene = Scene(FORMS)
    ears = []
    for number in range(3):
        ears.append(scene.modern("tools/call", CALL, number))
        scene.say("elicitation/create", {**QUESTION, "message": "m" * 2_000_000}, id=f"q{number}")
        scene.timers.pass_by(1)
    kinds = ["result" in ear.json for ear in ears]
    assert kinds == [True, True, False]
    assert ears[2].json["error"]["code"] == -31008
    assert scene.server.methods().count("notifications/cancelled") == 1


# -- questions on the server's own stream: whose they are must be certain ------------------------------------------------


def own_question(scene: Scene, number: str = "q1", **more: Any) -> None:
    question = {
        "jsonrpc": "2.0",
        "id": number,
        "method": "elicitation/create",
        "params": {**QUESTION, **more},
    }
    scene.server.links[0].listeners[0].message(message_of(question))


def refusals(scene: Scene) -> list[Any]:
    return [one.id for one in scene.server.seen if one.kind == "response" and one.is_error]


def test_a_question_waits_until_only_one_call_could_have_asked_it() -> None:
    scene = Scene(FORMS)
    first, second = (scene.modern("tools/call", CALL, number) for number in (1, 2))
    asked = next(one for one in scene.server.seen if one.method == "tools/call")
    own_question(scene)
    scene.timers.pass_by(1)
    assert not first.ended and not second.ended and refusals(scene) == []
    result = {"content": []}
    scene.server.sinks[-2].message(message_of({"jsonrpc": "2.0", "id": asked.id, "result": result}))
    scene.timers.pass_by(1)
    assert first.json["result"]["resultType"] == "complete"
    assert second.json["result"]["inputRequests"]["ask-1"]["params"]["message"] == "m"


def test_a_question_goes_to_the_call_that_was_not_asked_yet() -> None:
    scene = Scene(FORMS)
    first, second = (scene.modern("tools/call", CALL, number) for number in (1, 2))
    own_question(scene, "q2", message="whose?")
    scene.say("elicitation/create", {**QUESTION, "message": "the second's"}, id="q1")
    scene.timers.pass_by(1)
    assert "the second's" in second.body.decode()
    scene.timers.pass_by(1)
    assert "whose?" in first.body.decode()


def test_a_question_that_stays_in_doubt_is_refused() -> None:
    scene = Scene(FORMS)
    ears = [scene.modern("tools/call", CALL, number) for number in (1, 2)]
    own_question(scene)
    scene.timers.pass_by(DOUBT_SECONDS)
    assert refusals(scene) == ["q1"]
    assert not any(ear.ended for ear in ears)


def test_a_question_without_any_call_is_refused_at_once_and_a_ping_is_answered() -> None:
    scene = Scene(FORMS)
    scene.modern("tools/call", CALL).leave()
    own_question(scene)
    assert refusals(scene) == ["q1"]
    scene.server.links[0].listeners[0].message(message_of({"jsonrpc": "2.0", "id": "p", "method": "ping"}))
    assert scene.server.seen[-1].id == "p" and not scene.server.seen[-1].is_error


@pytest.mark.parametrize(("count", "length"), [(40, 1), (4, 400_000)])
def test_questions_in_doubt_are_bounded(count: int, length: int) -> None:
    scene = Scene(FORMS)
    for number in (1, 2):
        scene.modern("tools/call", CALL, number)
    for number in range(count):
        own_question(scene, f"q{number}", message="m" * length)
    assert 0 < len(refusals(scene)) < count
    scene.bridge.close()
    scene.timers.pass_by(DOUBT_SECONDS)
    assert len(refusals(scene)) < count, "the session is over: nothing more is said"


# -- a call that is made once more ---------------------------------------------------------------------------------------


def test_a_client_that_leaves_cancels_the_call_that_was_made_once_more() -> None:
    scene = Scene()
    ear = scene.modern("tools/call", CALL)
    scene.server.sinks[-1].failed(GONE)
    again = [one for one in scene.server.seen if one.method == "tools/call"][-1]
    ear.leave()
    cancelled = [one for one in scene.server.seen if one.method == "notifications/cancelled"]
    assert [one.params["requestId"] for one in cancelled] == [again.id]


def test_a_client_that_leaves_before_there_is_a_new_session_is_not_served() -> None:
    scene = Scene()
    ear = scene.modern("tools/call", CALL)
    scene.server.answers["initialize"] = lambda _: None
    scene.server.sinks[-1].failed(GONE)
    shake = scene.server.sinks[-1]
    opening = scene.server.seen[-1]
    ear.leave()
    agreed = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "s", "version": "1"},
    }
    shake.message(message_of({"jsonrpc": "2.0", "id": opening.id, "result": agreed}))
    assert scene.server.methods().count("tools/call") == 1
