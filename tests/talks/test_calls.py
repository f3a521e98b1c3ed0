"""Ordinary calls in both eras, and who may see what."""

from __future__ import annotations

from doorward.policy.roles import Role
from tests.talks.talk import PlayedServer, Talk

CALL = {"name": "echo", "arguments": {"x": 1}}


def test_a_modern_call_reaches_the_server_and_comes_back_with_two_records() -> None:
    time = PlayedServer()
    talk = Talk({"time": time})
    ear = talk.modern("time", "tools/call", CALL)
    assert ear.status == 200
    assert ear.json["result"]["content"][0]["text"] == '{"x":1}'
    kinds = [entry["record"] for entry in talk.journal.entries]
    assert kinds == ["decision", "outcome"]
    assert talk.journal.entries[0]["event"] == talk.journal.entries[1]["event"]
    assert time.methods() == ["tools/list", "tools/call"]


def test_a_legacy_session_lists_and_calls() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session = talk.open("time")
    listed = talk.legacy("time", session, "tools/list", {})
    assert [tool["name"] for tool in listed.json["result"]["tools"]] == ["echo", "delete"]
    called = talk.legacy("time", session, "tools/call", CALL, id="a")
    assert called.json["id"] == "a"
    assert called.json["result"]["content"][0]["text"] == '{"x":1}'


def test_a_list_of_the_modern_era_is_never_public() -> None:
    talk = Talk({"time": PlayedServer()})
    assert talk.modern("time", "tools/list").json["result"]["cacheScope"] == "private"


def test_a_hidden_tool_answers_exactly_as_an_unknown_one() -> None:
    for era in ("modern", "legacy"):
        server = PlayedServer()
        talk = Talk({"time": server}, roles={"user": Role(servers=("*",), tools=("echo", "nope"))})
        session = talk.open("time") if era == "legacy" else ""

        def call(name: str, talk: Talk = talk, session: str = session, era: str = era) -> dict:
            params = {"name": name, "arguments": {}}
            ear = (
                talk.legacy("time", session, "tools/call", params)
                if era == "legacy"
                else talk.modern("time", "tools/call", params)
            )
            error = ear.json["error"]
            return {
                "status": ear.status,
                "code": error["code"],
                "message": error["message"],
                "keys": sorted(error["data"]),
            }

        assert call("delete") == call("nope") == call("other")
        assert "tools/call" not in server.methods()
        lists = (
            talk.legacy("time", session, "tools/list", {})
            if era == "legacy"
            else talk.modern("time", "tools/list")
        )
        assert [tool["name"] for tool in lists.json["result"]["tools"]] == ["echo"]


def test_federated_lists_join_names_and_calls_find_their_server() -> None:
    time, files = PlayedServer(tools=("now",)), PlayedServer(tools=("now", "read"))
    talk = Talk({"time": time, "files": files})
    listed = talk.modern("", "tools/list").json["result"]
    assert [tool["name"] for tool in listed["tools"]] == ["time__now", "files__now", "files__read"]
    assert listed["cacheScope"] == "private"
    called = talk.modern("", "tools/call", {"name": "files__read", "arguments": {}})
    assert called.status == 200, called.body
    assert files.seen[-1].params["name"] == "read"
    assert talk.journal.entries[-2]["server"] == "files"
    assert (
        talk.modern("", "tools/call", {"name": "gone__read", "arguments": {}}).json["error"]["code"] == -32602
    )
    assert talk.modern("", "tools/call", {"name": "read", "arguments": {}}).json["error"]["code"] == -32602


def test_a_federated_legacy_session_reaches_all_servers() -> None:
    time, files = PlayedServer(tools=("now",)), PlayedServer(tools=("read",))
    talk = Talk({"time": time, "files": files})
    session = talk.open("")
    listed = talk.legacy("", session, "tools/list", {}).json["result"]["tools"]
    assert [tool["name"] for tool in listed] == ["time__now", "files__read"]
    raw = (
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"time__now","arguments":{"a":1.50}}}'
    )
    called = talk.send("", raw, Mcp_Session_Id=session)
    assert called.json["result"]["content"][0]["text"] == '{"a":1.50}'  # number lexemes are kept
    assert "notifications/initialized" in time.methods() and "notifications/initialized" in files.methods()


def test_another_principal_finds_no_session() -> None:
    talk = Talk({"time": PlayedServer()})
    session = talk.open("time")
    stolen = talk.legacy("time", session, "tools/list", {}, user="bob")
    unknown = talk.legacy("time", "made-up", "tools/list", {}, user="bob")
    assert stolen.status == unknown.status == 404
    told = [ear.json for ear in (stolen, unknown)]
    events = [one["error"]["data"].pop("event") for one in told]
    assert told[0] == told[1] and events[0] != events[1]
    assert talk.legacy("time", session, "tools/list", {}).status == 200


def test_a_session_ends_with_delete_and_a_missing_id_is_400() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    session = talk.open("time")
    assert talk.send("time", None, verb="DELETE", Mcp_Session_Id=session).status == 200
    assert server.links[0].closed_by_us
    assert talk.legacy("time", session, "tools/list", {}).status == 404
    assert talk.send("time", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status == 400


def test_no_token_is_401_with_a_challenge_and_no_error() -> None:
    talk = Talk({"time": PlayedServer()})
    ear = talk.send("time", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, token="")
    assert ear.status == 401
    challenge = ear.field("WWW-Authenticate") or ""
    assert "resource_metadata=" in challenge and "scope=" in challenge and "error=" not in challenge
    assert talk.journal.entries[-1]["kind"] == "auth"


def test_a_token_for_another_server_is_refused_on_every_method() -> None:
    talk = Talk({"time": PlayedServer(), "files": PlayedServer()})
    foreign = talk.token("files")
    for method in ("initialize", "ping", "tools/list", "tools/call", "server/discover"):
        ear = talk.send("time", {"jsonrpc": "2.0", "id": 1, "method": method}, token=foreign)
        assert ear.status == 401 and "invalid_token" in (ear.field("WWW-Authenticate") or "")
    assert talk.servers["time"].seen == []


def test_a_call_that_may_write_waits_for_the_disk() -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    talk.modern("time", "tools/list")
    talk.journal.hold = True
    read = talk.modern("time", "tools/call", CALL)
    assert read.ended
    write = talk.modern("time", "tools/call", {"name": "delete", "arguments": {}})
    assert (
        not write.ended and server.methods()[-1] == "tools/call" and server.seen[-1].params["name"] == "echo"
    )
    talk.journal.synced.pop()(None)
    assert write.ended and write.status == 200


def test_a_stale_worker_refuses() -> None:
    talk = Talk({"time": PlayedServer()})
    talk.clock.advance(1.9)
    assert talk.modern("time", "tools/list").status == 200
    talk.clock.advance(0.2)
    assert talk.modern("time", "tools/list").status == 503


def test_what_report_mode_lets_pass_is_on_record() -> None:
    """Also where the control judges heads, whose verdicts are shared by equal requests."""
    talk = Talk({"time": PlayedServer()}, report=("check-origin",))
    for _ in range(2):
        ear = talk.modern("time", "tools/call", CALL, Origin="http://evil.example")
        assert ear.status == 200
        decision = [entry for entry in talk.journal.entries if entry["record"] == "decision"][-1]
        assert any("check-origin would refuse" in note for note in decision["notes"])
