"""Questions that a legacy server gives a name: their key, and answers that come with the first request (SEP-2322)."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.protocol import cell_b
from doorward.protocol.envelope import message_of, request
from tests.talks.talk import Ear
from tests.talks.test_cell_b_endings import CALL, FORMS, QUESTION, Scene

NAME = "dev.doorward/name"
ANSWER = {"action": "accept", "content": {"name": "Alice"}}


def named(name: Any, **more: Any) -> dict[str, Any]:
    return {**QUESTION, "_meta": {NAME: name, **more}}


def asked(scene: Scene, question: dict[str, Any], number: str = "q1") -> None:
    said = {"jsonrpc": "2.0", "method": "elicitation/create", "params": question, "id": number}
    pairs = zip(scene.server.seen, scene.server.sinks, strict=True)
    next(sink for message, sink in pairs if message.method == "tools/call").message(message_of(said))
    scene.timers.pass_by(1)


def told(scene: Scene) -> dict[str, Any]:
    """What the server got for its questions."""
    return {one.value["id"]: one.value["result"] for one in scene.server.seen if one.kind == "response"}


def requests(ear: Ear) -> dict[str, Any]:
    found: dict[str, Any] = ear.json["result"]["inputRequests"]
    return found


def test_a_named_question_has_its_name_as_key_and_the_client_does_not_see_how() -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", CALL)
    asked(scene, named("user_name", other=1))
    assert requests(ear)["user_name"]["params"] == {**QUESTION, "_meta": {"other": 1}}
    state = ear.json["result"]["requestState"]
    again = {**CALL, "requestState": state, "inputResponses": {"user_name": ANSWER}}
    scene.modern("tools/call", again, 2)
    assert told(scene) == {"q1": ANSWER}


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "ask-1", "url-0", 7, None, "\n"])
def test_what_is_no_name_gets_a_key_of_ours(name: Any) -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", CALL)
    asked(scene, named(name))
    assert list(requests(ear)) == ["ask-1"] and "_meta" not in requests(ear)["ask-1"]["params"]


def test_two_questions_of_one_name_are_two_questions() -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", CALL)
    scene.say("elicitation/create", named("same"), id="q1")
    asked(scene, named("same"), "q2")
    assert list(requests(ear)) == ["same", "ask-2"]


def test_an_answer_that_comes_with_the_request_meets_its_question_once() -> None:
    scene = Scene(FORMS)
    given = {"user_name": ANSWER, "unknown": {"action": "accept"}, "broken": 7}
    ear = scene.modern("tools/call", {**CALL, "inputResponses": given})
    asked(scene, named("user_name"))
    assert told(scene) == {"q1": ANSWER} and not ear.ended
    asked(scene, named("user_name"), "q2")
    assert list(requests(ear)) == ["user_name"], "the second time it is asked"


@pytest.mark.parametrize("question", [QUESTION, named("broken"), named("ask-1")])
def test_no_answer_is_taken_ahead_for_a_question_without_a_name(question: dict[str, Any]) -> None:
    scene = Scene(FORMS)
    given = {"ask-1": ANSWER, "broken": "text"}
    ear = scene.modern("tools/call", {**CALL, "inputResponses": given})
    asked(scene, question)
    assert told(scene) == {} and len(requests(ear)) == 1


def test_an_answer_to_one_question_is_none_to_a_later_one_of_the_same_name() -> None:
    scene = Scene(FORMS)
    ear = scene.modern("tools/call", CALL)
    asked(scene, named("confirm"))
    state = ear.json["result"]["requestState"]
    again = scene.modern(
        "tools/call", {**CALL, "requestState": state, "inputResponses": {"confirm": ANSWER}}, 2
    )
    asked(scene, named("confirm"), "q2")
    assert told(scene) == {"q1": ANSWER} and list(requests(again)) == ["confirm"]


def test_a_question_that_may_not_be_asked_is_not_answered_ahead_either() -> None:
    scene = Scene({})  # the client has declared nothing
    scene.modern("tools/call", {**CALL, "inputResponses": {"user_name": ANSWER}})
    scene.say("elicitation/create", named("user_name"), id="q1")
    refused = [one for one in scene.server.seen if one.kind == "response"]
    assert len(refused) == 1 and refused[0].is_error


def test_a_name_is_read_from_meta_only() -> None:
    assert cell_b.name_of(request("q", "elicitation/create", {NAME: "x"})) is None
    assert cell_b.name_of(request("q", "elicitation/create", {"_meta": {NAME: "x"}})) == "x"
    assert cell_b.name_of(request("q", "roots/list")) is None
