"""A legacy client and a server that speaks only the modern era: the whole conversation, and what the gate still stops."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.base.errors import UpstreamError
from doorward.protocol.envelope import message_of
from tests.talks.talk import PlayedServer, Talk, bridged

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
FORM = {
    "method": "elicitation/create",
    "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}},
}
URL = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "Go", "url": "https://a.example/"},
}
ROOTS = {"method": "roots/list", "params": {}}
ASKS = ("elicitation", "roots", "sampling")
ABLE = {"elicitation": {"form": {}, "url": {}}, "roots": {}}
TEXT = {"content": [{"type": "text", "text": "done"}], "resultType": "complete"}
DISCOVERED = {
    "supportedVersions": ["2026-07-28"],
    "capabilities": {
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": False},
        "logging": {},
    },
    "resultType": "complete",
    "ttlMs": 0,
    "cacheScope": "private",
}


def modern_only() -> PlayedServer:
    server = PlayedServer("modern")
    server.answers["server/discover"] = {"result": DISCOVERED}
    return server


def talk_with(server: PlayedServer, **options: Any) -> Talk:
    options.setdefault("allow_requests", ASKS)
    talk = Talk({"time": server}, **options)
    upstreams = talk.gateway.snapshot.desk.upstreams
    upstreams["time"] = bridged(server)
    return talk


def call(talk: Talk, session: str, request_id: Any = 5, **params: Any) -> Any:
    return talk.legacy(
        "time", session, "tools/call", {"name": "echo", "arguments": {}, **params}, id=request_id
    )


def asking(*rounds: dict[str, Any]) -> Any:
    """Answers ``input_required`` round after round, then completes."""
    left = list(rounds)

    def answer(message: Any) -> dict[str, Any]:
        return {"result": {"resultType": "input_required", **left.pop(0)} if left else dict(TEXT)}

    return answer


def reply(talk: Talk, session: str, question: dict[str, Any], result: dict[str, Any]) -> None:
    body = {"jsonrpc": "2.0", "id": question["id"], **result}
    assert talk.send("time", body, Mcp_Session_Id=session).status == 202


def calls(server: PlayedServer) -> list[Any]:
    return [one for one in server.seen if one.method == "tools/call"]


def say(sink: Any, value: dict[str, Any]) -> None:
    sink.message(message_of({"jsonrpc": "2.0", **value}))


def test_the_handshake_and_a_call_are_translated_and_recorded() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time", capabilities={"roots": {}})
    ear = call(talk, session, _meta={"x/y": [1, None]})
    assert ear.json["result"]["content"] == [{"type": "text", "text": "{}"}]
    assert "resultType" not in ear.json["result"]
    sent = calls(server)[-1].params["_meta"]
    assert sent["x/y"] == [1, None] and sent[CAPABILITIES] == {"roots": {}}
    assert sent["io.modelcontextprotocol/clientInfo"] == {"name": "test", "version": "1"}
    assert "initialize" not in server.methods() and "notifications/initialized" not in server.methods()
    decided = [one for one in talk.journal.entries if one["record"] == "decision"]
    assert decided[-1]["method"] == "tools/call" and decided[-1]["cell"] == "legacy-modern"


def test_a_server_of_both_eras_is_passed_through() -> None:
    server = PlayedServer("both")
    talk = talk_with(server)
    session = talk.open("time")
    assert call(talk, session).status == 200
    assert "server/discover" not in server.methods()
    assert "_meta" not in calls(server)[-1].params
    [kept] = [one.links["time"] for one in talk.table._sessions.values()]
    assert kept is server.links[0], "after the handshake nothing stands between"
    assert talk.journal.entries[-2]["cell"] == "legacy-legacy"


@pytest.mark.parametrize("code", [-32601, -32022, -32602])
def test_a_server_that_refuses_the_handshake_is_asked_in_the_other_era(code: int) -> None:
    server = PlayedServer("both")
    server.answers["server/discover"] = {"result": DISCOVERED}
    server.answers["initialize"] = {"error": {"code": code, "message": "no"}}
    talk = talk_with(server)
    for _ in range(2):
        assert call(talk, talk.open("time")).status == 200
    assert server.methods().count("initialize") == 1, "the second session knows"


def test_a_server_that_answers_the_handshake_with_the_newer_version_is_asked_in_its_era() -> None:
    server = modern_only()
    server.era = "both"
    info = {"name": "s", "version": "1"}
    server.answers["initialize"] = {
        "result": {"protocolVersion": "2026-07-28", "capabilities": {}, "serverInfo": info}
    }
    talk = talk_with(server)
    assert call(talk, talk.open("time")).json["result"]["content"]
    decided = [one for one in talk.journal.entries if one["record"] == "decision"]
    assert decided[-1]["cell"] == "legacy-modern"


def test_a_server_of_neither_era_keeps_its_own_refusal() -> None:
    server = PlayedServer("legacy")
    server.answers["initialize"] = {"error": {"code": -32000, "message": "closed today"}}
    talk = talk_with(server)
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    assert talk.send("time", body).json["error"]["message"] == "closed today"


def test_a_server_that_turns_to_the_old_era_is_found_out() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time")
    server.era = "legacy"
    assert call(talk, session).json["error"]["data"]["cause"] == "upstream-session-gone"
    assert call(talk, session).status == 404
    assert call(talk, talk.open("time")).status == 200
    assert server.methods().count("initialize") == 1


def test_what_the_modern_era_lacks_is_done_here() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time")
    assert talk.legacy("time", session, "ping").json["result"] == {}
    assert talk.legacy("time", session, "notifications/roots/list_changed", id=None).status == 202
    assert talk.legacy("time", session, "logging/setLevel", {"level": "debug"}).json["result"] == {}
    wrong = talk.legacy("time", session, "logging/setLevel", {"level": "loud"})
    assert wrong.json["error"]["code"] == -32602
    assert call(talk, session).status == 200
    assert calls(server)[-1].params["_meta"]["io.modelcontextprotocol/logLevel"] == "debug"
    assert set(server.methods()) == {"server/discover", "tools/list", "tools/call"}


def test_questions_become_requests_and_answers_a_retry() -> None:
    server = modern_only()
    server.answers["tools/call"] = asking(
        {"inputRequests": {"who": FORM, "where": ROOTS, "go": URL}, "requestState": "s\u00e9al"}
    )
    talk = talk_with(server)
    session = talk.open("time", capabilities=ABLE)
    ear = call(talk, session)
    questions = {one["method"] + one["params"].get("mode", ""): one for one in ear.messages()}
    assert questions["elicitation/createurl"]["params"]["elicitationId"]
    accepted = {"action": "accept", "content": {"name": "Zo\u00eb"}}
    reply(talk, session, questions["elicitation/create"], {"result": accepted})
    reply(talk, session, questions["roots/list"], {"result": {"roots": []}})
    assert len(calls(server)) == 1 and not ear.ended
    reply(talk, session, questions["elicitation/createurl"], {"result": {"action": "accept"}})
    again = calls(server)[-1]
    assert again.id != 5 and again.params["requestState"] == "s\u00e9al"
    assert again.params["inputResponses"] == {
        "who": accepted,
        "where": {"roots": []},
        "go": {"action": "accept"},
    }
    assert ear.ended and ear.messages()[-1] == {
        "jsonrpc": "2.0",
        "id": 5,
        "result": {"content": TEXT["content"]},
    }


def test_a_server_that_may_not_ask_is_refused_on_record_and_the_call_ends() -> None:
    for options, declared in (({"allow_requests": ()}, ABLE), ({}, {})):
        server = modern_only()
        server.answers["tools/call"] = asking({"inputRequests": {"who": FORM, "where": ROOTS}})
        talk = talk_with(server, **options)
        session = talk.open("time", capabilities=declared)
        ear = call(talk, session)
        assert ear.ended and ear.json["result"]["isError"] is True
        assert len(calls(server)) == 1
        [alert] = [one for one in talk.journal.entries if one.get("kind") == "alert"]
        assert alert["control"] == "gate-server-requests" and alert["method"] == "elicitation/create"


def test_with_the_gate_off_the_same_question_reaches_the_client() -> None:
    server = modern_only()
    server.answers["tools/call"] = asking({"inputRequests": {"who": FORM}})
    talk = talk_with(server, allow_requests=(), off=("gate-server-requests",))
    assert call(talk, talk.open("time")).messages()[0]["method"] == "elicitation/create"


def test_a_client_that_fails_to_answer_ends_the_call() -> None:
    server = modern_only()
    server.answers["tools/call"] = asking({"inputRequests": {"who": FORM}})
    talk = talk_with(server)
    session = talk.open("time", capabilities=ABLE)
    ear = call(talk, session)
    reply(talk, session, ear.messages()[0], {"error": {"code": -1, "message": "no"}})
    assert ear.messages()[-1]["result"]["isError"] is True


def test_rounds_are_counted() -> None:
    server = modern_only()
    server.answers["tools/call"] = asking(*[{"inputRequests": {"r": ROOTS}} for _ in range(20)])
    talk = talk_with(server)
    session = talk.open("time", capabilities=ABLE)
    ear = call(talk, session)
    for number in range(7):
        reply(talk, session, ear.messages()[number], {"result": {"roots": []}})
    assert ear.messages()[-1]["result"]["isError"] is True
    assert len(calls(server)) == 8


def test_an_unknown_result_type_and_a_question_in_the_wrong_place_fail() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time")
    server.answers["tools/call"] = {"result": {"resultType": "task", "taskId": "t"}}
    assert call(talk, session).json["error"]["data"]["cause"] == "upstream-unusable"
    server.answers["prompts/list"] = {"result": {"resultType": "input_required", "requestState": "s"}}
    listed = talk.legacy("time", session, "prompts/list")
    assert listed.json["error"]["data"]["cause"] == "upstream-malformed"


def test_a_cancelled_call_is_dropped_at_the_server() -> None:
    server = modern_only()
    server.answers["tools/call"] = None
    talk = talk_with(server)
    session = talk.open("time")
    ear = call(talk, session)
    told = talk.legacy("time", session, "notifications/cancelled", {"requestId": 5}, id=None)
    assert told.status == 202 and ear.ended
    assert [one.method for link in server.links for one in link.cancelled] == ["tools/call"]
    assert "notifications/cancelled" not in server.methods()


def test_progress_passes_and_a_request_on_a_modern_stream_does_not() -> None:
    server = modern_only()
    server.answers["tools/call"] = None
    talk = talk_with(server)
    ear = call(talk, talk.open("time", capabilities=ABLE), _meta={"progressToken": "p"})
    sink = server.sinks[-1]
    say(sink, {"method": "notifications/progress", "params": {"progressToken": "p", "progress": 1}})
    say(sink, {"id": "q", **FORM})
    say(sink, {"id": 5, "result": dict(TEXT)})
    sink.done()
    assert [one.get("method") for one in ear.messages()] == ["notifications/progress", None]


def test_one_listening_follows_what_the_session_wants() -> None:
    server = modern_only()
    server.answers["subscriptions/listen"] = None
    talk = talk_with(server)
    session = talk.open("time")
    stream = talk.send("time", None, verb="GET", Mcp_Session_Id=session, Accept="text/event-stream")
    first, sink = server.seen[-1], server.sinks[-1]
    assert first.params["notifications"] == {"toolsListChanged": True}
    ack = {"method": "notifications/subscriptions/acknowledged", "params": {}}
    say(sink, ack)
    subscribed = talk.legacy("time", session, "resources/subscribe", {"uri": "a://b"}, id=9)
    second, newer = server.seen[-1], server.sinks[-1]
    assert second.params["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": ["a://b"]}
    assert not subscribed.ended, "not before the server listens"
    say(newer, ack)
    assert subscribed.json["result"] == {}
    assert [one.id for link in server.links for one in link.cancelled] == [first.id]
    meta = {"io.modelcontextprotocol/subscriptionId": second.id}
    say(newer, {"method": "notifications/resources/updated", "params": {"uri": "a://b", "_meta": meta}})
    assert stream.messages()[-1]["params"] == {"uri": "a://b"}
    talk.send("time", None, verb="DELETE", Mcp_Session_Id=session)
    assert [one.id for link in server.links for one in link.cancelled] == [first.id, second.id]
    assert not any(link.closed_by_us for link in server.links), "the modern link is shared"


def test_a_subscription_that_the_server_refuses_is_refused() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time")
    ear = talk.legacy("time", session, "resources/subscribe", {"uri": "a://b"})
    assert ear.json["error"]["code"] == -32601


def test_a_server_that_cannot_be_reached_costs_one_call() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time")
    server.answers["prompts/list"] = None
    ear = talk.legacy("time", session, "prompts/list")
    server.sinks[-1].failed(UpstreamError("upstream-broke", "The server broke."))
    assert ear.json["error"]["data"]["cause"] == "upstream-broke"
    assert call(talk, session).status == 200


def test_the_federated_endpoint_joins_servers_of_both_eras() -> None:
    new, old = modern_only(), PlayedServer("legacy", tools=("old",))
    talk = Talk({"new": new, "old": old}, allow_requests=ASKS)
    for name, server in (("new", new), ("old", old)):
        talk.gateway.snapshot.desk.upstreams[name] = bridged(server)
    session = talk.open("")
    listed = talk.legacy("", session, "tools/list").json["result"]["tools"]
    assert {one["name"] for one in listed} == {"new__echo", "new__delete", "old__old"}
    for name, cell in (("new__echo", "legacy-modern"), ("old__old", "legacy-legacy")):
        ear = talk.legacy("", session, "tools/call", {"name": name, "arguments": {}})
        assert ear.json["result"]["content"][0]["text"] == "{}"
        assert [one.get("cell") for one in talk.journal.entries if one["record"] == "decision"][-1] == cell


FORM_ROUND = {"inputRequests": {"a": FORM}, "requestState": "s"}


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_cancelled_call_takes_no_room_for_the_questions_that_it_asked(era: str) -> None:
    server = modern_only() if era == "modern" else PlayedServer("legacy")
    talk = talk_with(server)
    session = talk.open("time", capabilities=ABLE)
    call(talk, session)
    for number in range(200):
        if era == "modern":
            server.answers["tools/call"] = asking(FORM_ROUND)
            ear = call(talk, session, number)
        else:
            server.answers["tools/call"] = lambda _: None
            ear = call(talk, session, number)
            say(server.sinks[-1], {"id": "q", **FORM})
        assert [one["method"] for one in ear.messages()] == ["elicitation/create"], number
        talk.legacy("time", session, "notifications/cancelled", {"requestId": number}, id=None)
    assert talk.table._sessions[session].asked == {}


def test_what_another_call_asked_waits_on() -> None:
    server = modern_only()
    talk = talk_with(server)
    session = talk.open("time", capabilities=ABLE)
    call(talk, session)
    server.answers["tools/call"] = asking(FORM_ROUND, FORM_ROUND)
    call(talk, session, 1)
    ear = call(talk, session, 2)
    talk.legacy("time", session, "notifications/cancelled", {"requestId": 1}, id=None)
    reply(talk, session, ear.messages()[0], {"result": {"action": "decline"}})
    assert ear.messages()[-1]["result"]["content"]
