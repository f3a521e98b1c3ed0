"""Streams: progress, server requests, resumption, cancellation and what each era makes of a lost connection."""

from __future__ import annotations

from typing import Any

from doorward.base.errors import UpstreamError
from doorward.protocol.envelope import message_of
from tests.talks.talk import Ear, PlayedServer, Talk


def quiet(server: PlayedServer) -> None:
    """Let calls hang: the test plays the rest by hand."""
    server.answers["tools/call"] = None


def say(sink: Any, value: dict[str, Any]) -> None:
    sink.message(message_of({"jsonrpc": "2.0", **value}))


def finish(sink: Any, request_id: Any, text: str = "done") -> None:
    say(sink, {"id": request_id, "result": {"content": [{"type": "text", "text": text}]}})
    sink.done()


def hanging(talk: Talk, server: PlayedServer, **extra: Any) -> tuple[str, Ear, Any]:
    quiet(server)
    session = talk.open("time", **extra)
    params = {"name": "echo", "arguments": {}, "_meta": {"progressToken": "t1"}}
    ear = talk.legacy("time", session, "tools/call", params, id=5)
    return session, ear, server.sinks[-1]


def test_progress_opens_a_stream_and_the_answer_ends_it() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    _, ear, sink = hanging(talk, server)
    say(sink, {"method": "notifications/progress", "params": {"progressToken": "t1", "progress": 1}})
    say(sink, {"method": "notifications/progress", "params": {"progressToken": "other", "progress": 1}})
    finish(sink, 5)
    assert ear.ended and ear.streaming
    assert [message.get("method", "answer") for message in ear.messages()] == [
        "notifications/progress",
        "answer",
    ]


def test_a_server_request_is_denied_unless_settings_and_client_allow_it() -> None:
    ask = {
        "id": "q1",
        "method": "elicitation/create",
        "params": {"message": "hi", "requestedSchema": {"type": "object"}},
    }
    for allowed, declared, passes in (
        ((), {"elicitation": {}}, False),
        (("elicitation",), {}, False),
        (("elicitation",), {"elicitation": {}}, True),
    ):
        server = PlayedServer()
        talk = Talk({"time": server}, allow_requests=allowed)
        session, ear, sink = hanging(talk, server, capabilities=declared)
        say(sink, ask)
        if not passes:
            denied = server.seen[-1]
            assert denied.kind == "response" and denied.id == "q1" and denied.is_error
            assert not ear.streaming
            assert talk.journal.entries[-1]["kind"] == "alert"
            continue
        heard = ear.messages()[-1]
        assert heard["method"] == "elicitation/create" and heard["id"] != "q1"
        reply = {"jsonrpc": "2.0", "id": heard["id"], "result": {"action": "accept", "content": {}}}
        assert talk.send("time", reply, Mcp_Session_Id=session).status == 202
        assert server.seen[-1].id == "q1" and server.seen[-1].kind == "response"
        before = len(server.seen)
        assert talk.send("time", reply, Mcp_Session_Id=session).status == 202
        assert len(server.seen) == before, "an answer counts once"


def test_the_switched_off_gate_lets_the_same_request_through() -> None:
    server = PlayedServer()
    talk = Talk({"time": server}, off=("gate-server-requests",))
    _, ear, sink = hanging(talk, server, capabilities={"elicitation": {}})
    say(sink, {"id": "q1", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
    assert ear.messages()[-1]["method"] == "sampling/createMessage"


def test_undeclared_capabilities_never_reach_the_server() -> None:
    server = PlayedServer()
    talk = Talk({"time": server}, allow_requests=("roots",))
    talk.open("time", capabilities={"sampling": {}, "roots": {"listChanged": True}, "elicitation": {}})
    assert server.seen[0].params["capabilities"] == {"roots": {"listChanged": True}}
    talk.modern("time", "tools/list", capabilities={"sampling": {}, "roots": {}})
    meta = server.seen[-1].params["_meta"]
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {"roots": {}}


def test_a_lost_legacy_connection_is_no_cancellation_and_the_stream_resumes() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session, ear, sink = hanging(talk, server)
    say(sink, {"method": "notifications/message", "params": {"level": "info", "data": "one"}})
    first = ear.events[0].decode().split("id: ")[1].split("\n")[0]
    ear.leave()
    assert server.links[0].cancelled == []
    say(sink, {"method": "notifications/message", "params": {"level": "info", "data": "two"}})
    finish(sink, 5)
    back = talk.send("time", None, verb="GET", Mcp_Session_Id=session, Last_Event_ID=first)
    assert [m.get("method", "answer") for m in back.messages()] == ["notifications/message", "answer"]
    assert back.ended
    other = talk.open("time", user="bob")
    stolen = talk.send("time", None, verb="GET", user="bob", Mcp_Session_Id=other, Last_Event_ID=first)
    assert stolen.messages() == []


def test_a_lost_modern_connection_cancels_the_call_upstream() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    talk.modern("time", "tools/list")
    quiet(server)
    ear = talk.modern("time", "tools/call", {"name": "echo", "arguments": {}})
    ear.leave()
    assert len(server.links[-1].cancelled) == 1
    assert talk.journal.entries[-1]["outcome"] == "cancelled"
    finish(server.sinks[-1], 1)
    assert not ear.ended


def test_cancelling_reaches_only_ones_own_calls() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session, _, _ = hanging(talk, server)
    mallory = talk.open("time", user="mallory")
    cancel = {"requestId": 5}
    assert (
        talk.legacy("time", mallory, "notifications/cancelled", cancel, id=None, user="mallory").status == 202
    )
    assert "notifications/cancelled" not in server.methods()
    assert talk.legacy("time", session, "notifications/cancelled", cancel, id=None).status == 202
    assert server.methods()[-1] == "notifications/cancelled"


def test_a_server_that_closes_its_stream_early_is_asked_again_on_resume() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session, ear, sink = hanging(talk, server)
    sink.streaming(500, "up-1")
    sink.done()
    assert ear.ended and b"retry: 500" in b"".join(ear.events)
    event = ear.events[-1].decode().split("id: ")[1].split("\n")[0]
    back = talk.send("time", None, verb="GET", Mcp_Session_Id=session, Last_Event_ID=event)
    assert not back.ended
    finish(server.links[0].listeners[-1], 5, "late")
    assert back.ended and back.messages()[-1]["result"]["content"][0]["text"] == "late"


def test_what_the_server_says_on_its_own_goes_to_the_common_stream_once() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session = talk.open("time")
    ear = talk.send("time", None, verb="GET", Mcp_Session_Id=session)
    assert ear.streaming and not ear.ended
    say(server.links[0].listeners[0], {"method": "notifications/tools/list_changed"})
    assert [message["method"] for message in ear.messages()] == ["notifications/tools/list_changed"]
    talk.send("time", None, verb="DELETE", Mcp_Session_Id=session)
    assert ear.ended and server.links[0].listeners == []


def test_an_upstream_failure_is_an_error_with_our_code_and_an_outcome() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    _, ear, sink = hanging(talk, server)
    sink.failed(UpstreamError("upstream-broke", "The protected server broke off.", "secret detail"))
    assert ear.json["error"]["code"] == -31008 and b"secret detail" not in ear.body
    assert talk.journal.entries[-1]["outcome"] == "upstream-failed"


def test_a_server_of_the_other_era_is_named() -> None:
    talk = Talk({"time": PlayedServer(era="legacy")})
    ear = talk.modern("time", "tools/list")
    assert ear.status == 400 and ear.json["error"]["code"] == -32022
    assert "2025-11-25" in ear.json["error"]["data"]["supported"]


def test_a_gone_upstream_session_ends_ours_so_that_the_client_starts_anew() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session, ear, sink = hanging(talk, server)
    sink.failed(UpstreamError("upstream-session-gone", "The protected server ended the session."))
    assert ear.ended
    assert talk.legacy("time", session, "tools/list", {}).status == 404


def test_sessions_idle_out_and_streams_end_with_their_token() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session = talk.open("time")
    ear = talk.send("time", None, verb="GET", Mcp_Session_Id=session)
    talk.clock.advance(3_601)
    talk.table.sweep()
    assert ear.ended
    talk.clock.advance(1_801)
    talk.table.sweep()
    assert len(talk.table) == 0


def test_a_flood_of_server_requests_is_bounded_and_the_call_still_ends() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session, ear, sink = hanging(talk, server)
    for number in range(300):
        say(sink, {"id": f"q{number}", "method": "ping"})
    heard = ear.messages()
    denied = [message for message in server.seen if message.kind == "response" and message.is_error]
    assert len(heard) + len(denied) == 300
    assert 0 < len(heard) <= 128
    answer = {"jsonrpc": "2.0", "id": heard[0]["id"], "result": {}}
    assert talk.send("time", answer, Mcp_Session_Id=session).status == 202
    say(sink, {"id": "again", "method": "ping"})
    assert len(ear.messages()) == len(heard) + 1, "an answer makes room for one more"
    finish(sink, 5)
    assert ear.ended
    assert ear.messages()[-1]["result"]["content"][0]["text"] == "done"
