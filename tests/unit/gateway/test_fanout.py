"""One question to many servers: some answer, some fail, some never say anything."""

from __future__ import annotations

from typing import Any

import pytest
from tests.talks.talk import LEGACY, PlayedServer, Talk
from tests.unit.gateway.timers import Timers

from doorward.base.errors import UpstreamError
from doorward.protocol.envelope import message_of

ACK = "notifications/subscriptions/acknowledged"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


def say(sink: Any, value: dict[str, Any]) -> None:
    sink.message(message_of({"jsonrpc": "2.0", **value}))


def talk_of(**servers: PlayedServer) -> tuple[Talk, Timers]:
    talk, timers = Talk(servers), Timers()
    talk.facts.later = timers
    return talk, timers


def names(ear: Any) -> list[str]:
    return [tool["name"] for tool in ear.json["result"]["tools"]]


@pytest.mark.parametrize(
    "answer",
    [{"error": {"code": -32601, "message": "no"}}, {"result": {}}, {"result": {"tools": "x"}}],
    ids=["error", "nothing", "no list"],
)
def test_a_server_that_cannot_list_is_left_out(answer: Any) -> None:
    one, two = PlayedServer(), PlayedServer(tools=("b",))
    one.answers["tools/list"] = answer
    talk, timers = talk_of(one=one, two=two)
    assert names(talk.modern("", "tools/list")) == ["two__b"]
    assert timers.set == []


def test_a_server_of_the_other_era_is_left_out() -> None:
    talk, _ = talk_of(one=PlayedServer(era="legacy"), two=PlayedServer(tools=("b",)))
    assert names(talk.modern("", "tools/list")) == ["two__b"]


def test_a_server_that_breaks_off_is_left_out() -> None:
    one = PlayedServer()
    one.answers["tools/list"] = None
    talk, _ = talk_of(one=one, two=PlayedServer(tools=("b",)))
    ear = talk.modern("", "tools/list")
    assert not ear.ended
    one.sinks[0].failed(UpstreamError("upstream-broke", "It broke."))
    assert names(ear) == ["two__b"]


def test_a_server_that_never_answers_is_left_out_in_the_end() -> None:
    one = PlayedServer()
    one.answers["tools/list"] = None
    talk, timers = talk_of(one=one, two=PlayedServer(tools=("b",)))
    ear = talk.modern("", "tools/list")
    assert not ear.ended
    timers.fire()
    assert names(ear) == ["two__b"] and len(one.links[0].cancelled) == 1
    say(one.sinks[0], {"id": 1, "result": {"tools": []}})
    assert talk.live == set() and timers.set == []


def test_where_no_server_answers_the_client_hears_so() -> None:
    one = PlayedServer()
    one.answers["tools/list"] = None
    talk, timers = talk_of(one=one)
    ear = talk.modern("", "tools/list")
    timers.fire()
    assert ear.json["error"]["code"] == -31008


def test_a_session_opens_without_a_server_that_never_shakes_hands() -> None:
    one, two = PlayedServer(), PlayedServer(tools=("b",))
    one.answers["initialize"] = None
    talk, timers = talk_of(one=one, two=two)
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    ear = talk.send("", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    timers.fire()
    session = ear.field("Mcp-Session-Id")
    assert session and one.links[0].closed_by_us
    assert names(talk.legacy("", session, "tools/list", {})) == ["two__b"]


def test_a_caller_without_any_server_gets_an_empty_list() -> None:
    from doorward.policy.roles import Role

    talk = Talk({"one": PlayedServer()}, roles={"user": Role(servers=(), tools=())})
    assert names(talk.modern("", "tools/list")) == []


class Subscribed:
    """A subscription to two servers."""

    def __init__(self) -> None:
        self.one, self.two = PlayedServer(), PlayedServer()
        self.one.answers["subscriptions/listen"] = self.two.answers["subscriptions/listen"] = None
        self.talk, self.timers = talk_of(one=self.one, two=self.two)
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["one+file:///a", "two+file:///b"]}
        self.ear = self.talk.modern("", "subscriptions/listen", {"notifications": wanted}, id="sub")

    def acknowledge(self, server: PlayedServer, **granted: Any) -> None:
        params = {"notifications": granted, "_meta": {SUBSCRIPTION: "sub"}}
        say(server.sinks[-1], {"method": ACK, "params": params})

    def heard(self) -> list[str]:
        return [message["method"] for message in self.ear.messages() if "method" in message]


def test_each_server_is_asked_for_its_own_resources_only() -> None:
    case = Subscribed()
    for server, uri in ((case.one, "file:///a"), (case.two, "file:///b")):
        assert server.seen[-1].params["notifications"]["resourceSubscriptions"] == [uri]


def test_a_subscription_is_acknowledged_once_when_all_have() -> None:
    case = Subscribed()
    case.acknowledge(case.one, toolsListChanged=True, resourceSubscriptions=["file:///a"])
    assert case.heard() == []
    case.acknowledge(case.two, resourceSubscriptions=["file:///b"])
    case.acknowledge(case.two, resourceSubscriptions=["file:///b"])
    assert case.heard() == [ACK]
    granted = case.ear.messages()[0]["params"]["notifications"]
    assert granted == {"toolsListChanged": True, "resourceSubscriptions": ["one+file:///a", "two+file:///b"]}


def test_a_subscription_is_acknowledged_without_a_server_that_fails() -> None:
    case = Subscribed()
    case.acknowledge(case.one, toolsListChanged=True)
    case.two.sinks[-1].failed(UpstreamError("upstream-broke", "It broke."))
    assert case.heard() == [ACK] and not case.ear.ended


def test_a_subscription_is_acknowledged_without_a_server_that_says_nothing_and_goes_on() -> None:
    case = Subscribed()
    case.acknowledge(case.one, toolsListChanged=True)
    case.timers.fire()
    assert case.heard() == [ACK] and not case.ear.ended
    updated = {"method": "notifications/resources/updated", "params": {"uri": "file:///b", "_meta": {SUBSCRIPTION: "sub"}}}  # fmt: skip
    say(case.two.sinks[-1], updated)
    assert case.heard() == [ACK, "notifications/resources/updated"]
    assert case.ear.messages()[1]["params"]["uri"] == "two+file:///b"


def test_a_client_that_leaves_its_subscription_ends_it_everywhere() -> None:
    case = Subscribed()
    case.acknowledge(case.one, toolsListChanged=True)
    case.ear.leave()
    assert [len(server.links[0].cancelled) for server in (case.one, case.two)] == [1, 1]
    assert case.talk.live == set() and case.timers.set == []
