"""Sessions, states and cached results are their caller's own in every cell; with the control off the same attack works."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.controls.bind_session import BindSession
from doorward.controls.scope_cache import ScopeCache
from doorward.controls.seal_state import SealState
from doorward.gateway.states import STATE_SECONDS
from doorward.protocol.envelope import message_of
from tests.talks.talk import Ear, PlayedServer, Talk, bridged

CALL = {"name": "echo", "arguments": {"x": 1}}
CAN = {"elicitation": {}}
ASKED = {"method": "elicitation/create", "params": {"message": "sure?"}}
FILLED = {"ask-1": {"action": "accept", "content": {}}}
OWN_STATE = {"record": "alice"}


def crashing(*_: Any) -> Any:
    raise RuntimeError("no")


# -- sessions (legacy clients, either kind of server) -------------------------------------------------------------------


def session_talk(era: str, **options: Any) -> tuple[Talk, str]:
    server = PlayedServer(era)
    found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
    server.answers["server/discover"] = {"result": found}
    talk = Talk({"time": server}, **options)
    talk.gateway.snapshot.desk.upstreams["time"] = bridged(server)
    return talk, talk.open("time")


def thefts(talk: Talk, session: str) -> list[Ear]:
    fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25", "user": "bob"}
    return [
        talk.legacy("time", session, "tools/call", CALL, user="bob"),
        talk.legacy("time", session, "notifications/cancelled", {"requestId": 1}, id=None, user="bob"),
        talk.send("time", {"jsonrpc": "2.0", "id": "dw-1", "result": {}}, **fields),
        talk.send("time", None, verb="GET", **fields),
        talk.send("time", None, verb="DELETE", **fields),
    ]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_nothing_of_a_session_is_anybody_elses(era: str) -> None:
    talk, session = session_talk(era)
    seen = len(talk.servers["time"].seen)
    for ear in thefts(talk, session):
        assert ear.status == 404
        assert ear.json["error"]["data"]["control"] == "bind-session"
        assert "alice" not in ear.body.decode()
    assert len(talk.servers["time"].seen) == seen
    assert talk.legacy("time", session, "tools/call", CALL).json["result"], "its owner goes on"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_without_the_binding_a_session_id_is_all_that_it_takes(era: str) -> None:
    talk, session = session_talk(era, off=("bind-session",))
    call, notice, answer, stream, end = thefts(talk, session)
    assert call.json["result"]
    assert [notice.status, answer.status, stream.status, end.status] == [202, 202, 200, 200]
    assert talk.legacy("time", session, "tools/call", CALL).status == 404, "ended by somebody else"


def test_a_theft_is_an_alert_that_names_both_and_a_lost_session_is_not() -> None:
    talk, session = session_talk("legacy")
    stolen = talk.legacy("time", session, "tools/call", CALL, user="bob")
    lost = talk.legacy("time", "made-up", "tools/call", CALL, user="bob")
    alert, plain = (
        next(one for one in talk.journal.entries if one["event"] == ear.json["error"]["data"]["event"])
        for ear in (stolen, lost)
    )
    assert (alert["kind"], alert["principal"], alert["control"]) == ("alert", "bob", "bind-session")
    assert "alice" in alert["reason"]
    assert (plain["kind"], plain["reason"]) == ("call", "no such session")


def test_a_missing_session_id_is_told_apart_as_the_specification_wants() -> None:
    talk, _ = session_talk("legacy")
    assert talk.send("time", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status == 400


def test_a_binding_that_cannot_decide_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BindSession, "claim", crashing)
    talk, session = session_talk("legacy")
    for ear in thefts(talk, session):
        assert "result" not in ear.body.decode() and ear.body, ear.body


# -- states (modern clients, either kind of server) ---------------------------------------------------------------------


class StateTalk:
    """A modern client at a server that asks before it answers: of its own era with a naive state, or of the older one."""

    def __init__(self, era: str, **options: Any) -> None:
        self.server = PlayedServer(era)
        self.talk = Talk({"time": self.server}, allow_requests=("elicitation",), **options)
        self.timers: list[Any] = []
        upstream = bridged(self.server, self.talk.states.book)
        upstream._crossings._later = lambda _, run: self.timers.append(run) or (lambda: None)  # type: ignore[func-returns-value]
        self.talk.gateway.snapshot.desk.upstreams["time"] = upstream
        self.talk.modern("time", "tools/list", capabilities=CAN)
        self.era = era
        self.server.answers["tools/call"] = self._modern if era == "modern" else lambda _: None

    @staticmethod
    def _modern(message: Any) -> dict[str, Any]:
        params = message.params
        if "requestState" not in params:
            result = {
                "resultType": "input_required",
                "inputRequests": {"ask-1": ASKED},
                "requestState": OWN_STATE,
            }
            return {"result": result}
        text = f"secret of {params['requestState'].get('record')}"
        return {"result": {"content": [{"type": "text", "text": text}], "resultType": "complete"}}

    def ask(self, **extra: Any) -> Any:
        """Call the tool, and hear the question."""
        ear = self.talk.modern("time", "tools/call", CALL, capabilities=CAN, **extra)
        if self.era == "legacy":
            sink = self.server.sinks[-1]
            sink.message(message_of({"jsonrpc": "2.0", "id": "q", **ASKED}))
            self.timers[-1]()
        return ear.json["result"]["requestState"]

    def back(self, state: Any, call: Any = CALL, **extra: Any) -> Ear:
        """Come back with a state; a server of the older era answers when it has heard the answer."""
        sink, before = self.server.sinks[-1], len(self.server.seen)
        params = {**call, "requestState": state, "inputResponses": FILLED}
        ear = self.talk.modern("time", "tools/call", params, capabilities=CAN, **extra)
        if self.era == "legacy" and len(self.server.seen) > before:
            asked = next(one for one in reversed(self.server.seen) if one.method == "tools/call")
            content = [{"type": "text", "text": "secret of alice"}]
            sink.message(message_of({"jsonrpc": "2.0", "id": asked.id, "result": {"content": content}}))
        return ear


def refused(ear: Ear) -> bool:
    error = ear.json.get("error", {})
    return error.get("code") == -32602 and error["data"]["control"] == "seal-state"


ERAS = ["legacy", "modern"]


@pytest.mark.parametrize("era", ERAS)
def test_an_honest_client_comes_back_once(era: str) -> None:
    scene = StateTalk(era)
    state = scene.ask()
    assert isinstance(state, str) and "alice" not in state and "park" not in state
    assert "secret of alice" in scene.back(state).body.decode()
    seen = len(scene.server.seen)
    assert refused(scene.back(state)), "good once"
    assert len(scene.server.seen) == seen


@pytest.mark.parametrize("era", ERAS)
def test_a_state_opens_nothing_for_others_for_other_calls_too_late_or_changed(era: str) -> None:
    scene = StateTalk(era)
    state = scene.ask()
    seen = len(scene.server.seen)
    bob = scene.talk.token("time", "bob")
    assert refused(scene.back(state, token=bob))
    assert refused(scene.back(state, {**CALL, "arguments": {"x": 2}}))
    assert refused(scene.back(state, {"name": "delete", "arguments": {"x": 1}}))
    assert refused(scene.back(state[:30] + ("A" if state[30] != "A" else "B") + state[31:]))
    assert refused(scene.back({"record": "bob"}))
    scene.talk.clock.advance(STATE_SECONDS)
    scene.talk.freshness.tick(1)
    assert refused(scene.back(state, token=scene.talk.token("time")))
    assert [one.method for one in scene.server.seen[seen:] if one.method == "tools/call"] == []


def test_without_the_seal_the_servers_own_naive_state_is_the_callers_to_write() -> None:
    scene = StateTalk("modern", off=("seal-state",))
    state = scene.ask()
    assert state == OWN_STATE
    bob = scene.talk.token("time", "bob")
    assert "secret of carol" in scene.back({"record": "carol"}, token=bob).body.decode()
    assert (
        "secret of alice" in scene.back(state, {"name": "delete", "arguments": {}}, token=bob).body.decode()
    )
    assert "secret of alice" in scene.back(state).body.decode(), "again and again"


def test_without_the_seal_a_parked_call_is_whose_ever_guesses_its_number() -> None:
    scene = StateTalk("legacy", off=("seal-state",))
    state = scene.ask()
    head, _, number = state.rpartition("-")
    scene.ask()
    stolen = scene.back(
        f"{head}-{int(number) + 1}",
        {"name": "delete", "arguments": {}},
        token=scene.talk.token("time", "bob"),
    )
    assert "secret of alice" in stolen.body.decode()


@pytest.mark.parametrize("era", ERAS)
def test_with_the_seal_reporting_only_faults_are_on_record_and_nothing_is_refused_by_it(era: str) -> None:
    scene = StateTalk(era, report=("seal-state",))
    state = scene.ask()
    ear = scene.back(state, {**CALL, "arguments": {"x": 2}})
    assert "seal-state" not in ear.body.decode()
    assert any(
        "seal-state would refuse: a state of another request" in str(one)
        for one in scene.talk.journal.entries
    )


def test_a_seal_that_cannot_decide_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SealState, "claim", crashing)
    scene = StateTalk("modern")
    seen = len(scene.server.seen)
    assert "error" in scene.back("made up").json
    assert len(scene.server.seen) == seen


def test_a_state_that_is_too_large_to_carry_ends_the_call_in_sight() -> None:
    scene = StateTalk("modern")
    large = {"resultType": "input_required", "inputRequests": {"a": ASKED}, "requestState": "x" * 300_000}
    scene.server.answers["tools/call"] = {"result": large}
    ear = scene.talk.modern("time", "tools/call", CALL, capabilities=CAN)
    assert ear.json["error"]["code"] == -31008 and "result" not in ear.json


def test_what_policy_took_away_meanwhile_a_state_does_not_give_back() -> None:
    scene = StateTalk("modern")
    state = scene.ask()
    few = scene.talk.token("time", roles=())
    assert scene.back(state, token=few).json["error"]["data"]["control"] == "ask-policy"
    assert "secret of alice" in scene.back(state).body.decode(), "and it was not used up"


@pytest.mark.parametrize("path", ["", "time"])
def test_a_state_holds_at_both_endpoints_of_its_server(path: str) -> None:
    scene = StateTalk("modern")
    state = scene.ask()
    call = CALL if path else {**CALL, "name": "time__echo"}
    params = {**call, "requestState": state, "inputResponses": FILLED}
    ear = scene.talk.modern(path, "tools/call", params, capabilities=CAN)
    assert "secret of alice" in ear.body.decode()


# -- caches (modern clients) --------------------------------------------------------------------------------------------

LISTED = {"tools": [], "resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}


def scope_of(ear: Ear) -> str:
    return str(ear.json["result"]["cacheScope"])


@pytest.mark.parametrize(("method", "params"), [("tools/list", None), ("resources/read", {"uri": "a://b"})])
@pytest.mark.parametrize("scope", ["public", "private"])
def test_what_was_filtered_for_a_caller_is_private(method: str, params: Any, scope: str) -> None:
    server = PlayedServer("modern")
    server.answers[method] = {"result": {**LISTED, "cacheScope": scope}}
    ear = Talk({"time": server}).modern("time", method, params)
    assert scope_of(ear) == "private"
    assert ear.json["result"]["ttlMs"] == 60_000
    assert ear.field("Cache-Control") == "no-store"


def test_without_the_scope_a_server_decides_what_caches_share() -> None:
    server = PlayedServer("modern")
    server.answers["tools/list"] = {"result": dict(LISTED)}
    assert scope_of(Talk({"time": server}, off=("scope-cache",)).modern("time", "tools/list")) == "public"


def test_with_the_scope_reporting_only_it_is_on_record() -> None:
    server = PlayedServer("modern")
    server.answers["tools/list"] = {"result": dict(LISTED)}
    talk = Talk({"time": server}, report=("scope-cache",))
    assert scope_of(talk.modern("time", "tools/list")) == "public"
    assert any(f"{ScopeCache.slug} would rewrite" in str(one) for one in talk.journal.entries)


def test_a_legacy_servers_results_are_private_whatever_they_say() -> None:
    server = PlayedServer("legacy")
    server.answers["tools/list"] = {"result": dict(LISTED)}
    talk = Talk({"time": server}, off=("scope-cache",))
    talk.gateway.snapshot.desk.upstreams["time"] = bridged(server)
    result = talk.modern("time", "tools/list").json["result"]
    assert (result["cacheScope"], result["ttlMs"]) == ("private", 0)
