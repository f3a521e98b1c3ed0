"""Tasks are another thing in each era: none is declared, listed or made across them, and each era's own stay their caller's."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.protocol.envelope import message_of, notification
from tests.talks.talk import Ear, PlayedServer, Talk, bridged

CALL = {"name": "echo", "arguments": {"x": 1}}
EXTENSION = "io.modelcontextprotocol/tasks"
TASK = {"taskId": "t-1", "status": "working", "createdAt": "2026-01-01T00:00:00Z", "ttlMs": None}
CORE = {"tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}}


def crossed(era: str, **options: Any) -> tuple[Talk, PlayedServer]:
    """A gateway before a server of one era only, which has tasks in its own way."""
    server = PlayedServer(era)
    if era == "modern":
        capabilities: dict[str, Any] = {"tools": {}, "extensions": {EXTENSION: {}}}
        found = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"}
        server.answers["server/discover"] = {"result": found}
    else:
        info = {"name": "played", "version": "1"}
        agreed = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, **CORE}, "serverInfo": info}
        server.answers["initialize"] = {"result": agreed}
    for tool, how in zip(server.tools, ("optional", "required"), strict=True):
        tool["execution"] = {"taskSupport": how}
    talk = Talk({"time": server}, **options)
    talk.gateway.snapshot.desk.upstreams["time"] = bridged(server)
    return talk, server


# -- a legacy client before a modern server -------------------------------------------------------------------------------


def test_a_modern_servers_tasks_are_not_declared_to_a_legacy_client_nor_the_other_way_round() -> None:
    talk, server = crossed("modern")
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": CORE,
        "clientInfo": {"name": "c", "version": "1"},
    }
    ear = talk.send("time", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    assert ear.json["result"]["capabilities"] == {"tools": {}}
    session = ear.field("Mcp-Session-Id")
    assert session
    tools = talk.legacy("time", session, "tools/list").json["result"]["tools"]
    assert len(tools) == 2 and all("execution" not in tool for tool in tools)
    talk.legacy("time", session, "tools/call", {**CALL, "task": {"ttl": 1}})
    sent = server.seen[-1]
    assert sent.method == "tools/call" and "task" not in sent.params
    assert "tasks" not in str(sent.params["_meta"])


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel", "tasks/list"])
def test_a_legacy_client_finds_no_tasks_at_a_modern_server(method: str) -> None:
    talk, server = crossed("modern")
    session = talk.open("time")
    own = talk.gateway.snapshot.desk.tasks.seal(talk.table._sessions[session].principal, "time", "t-1")
    params = {} if method == "tasks/list" else {"taskId": own}
    assert talk.legacy("time", session, method, params).json["error"]["code"] == -32601
    assert method not in server.methods()


def test_a_modern_server_that_makes_a_task_unasked_is_told_on() -> None:
    talk, server = crossed("modern")
    session = talk.open("time")
    talk.legacy("time", session, "tools/list")
    server.answers["tools/call"] = {"result": {"resultType": "task", **TASK}}
    ear = talk.legacy("time", session, "tools/call", CALL)
    assert ear.json["error"]["data"]["cause"] == "upstream-unusable"


# -- a modern client before a legacy server -------------------------------------------------------------------------------


def test_a_legacy_servers_tasks_are_not_declared_to_a_modern_client_nor_the_other_way_round() -> None:
    talk, server = crossed("legacy")
    can = {"extensions": {EXTENSION: {}}}
    assert talk.modern("time", "server/discover", capabilities=can).json["result"]["capabilities"] == {
        "tools": {}
    }
    tools = talk.modern("time", "tools/list", capabilities=can).json["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["echo"], "what runs as a task only cannot be called from here"
    assert "execution" not in tools[0]
    talk.modern("time", "tools/call", {**CALL, "task": {"ttl": 1}}, capabilities=can)
    assert server.seen[-1].method == "tools/call" and "task" not in server.seen[-1].params
    opening = next(message for message in server.seen if message.method == "initialize")
    assert opening.params["capabilities"] == {}


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_modern_client_finds_no_tasks_at_a_legacy_server(method: str) -> None:
    talk, server = crossed("legacy")
    talk.modern("time", "tools/list")
    principal = next(link.principal for link in server.links)
    own = talk.gateway.snapshot.desk.tasks.seal(principal, "time", "t-1")
    params = {"taskId": own, **({"inputResponses": {}} if method == "tasks/update" else {})}
    ear = talk.modern("time", method, params, Mcp_Name=own)
    assert ear.status == 404 and ear.json["error"]["code"] == -32601
    assert method not in server.methods()


def test_what_a_legacy_server_says_of_tasks_is_not_heard_by_modern_clients() -> None:
    talk, server = crossed("legacy")
    heard = talk.modern(
        "time", "subscriptions/listen", {"notifications": {"toolsListChanged": True, "taskIds": ["t"]}}
    )
    assert "taskIds" not in heard.messages()[0]["params"]["notifications"]
    for listener in server.links[-1].listeners:
        listener.message(notification("notifications/tasks/status", TASK))
    assert len(heard.messages()) == 1


# -- the extension within its own era: what waits for input asks, and what is told is its caller's ------------------------


class Extended:
    """A modern client at a modern server that makes a task of every call."""

    def __init__(self, **options: Any) -> None:
        self.server = PlayedServer("modern")
        self.talk = Talk({"time": self.server, "other": PlayedServer("modern")}, **options)
        self.can = {"elicitation": {}, "extensions": {EXTENSION: {}}}
        self.ask("tools/list")
        self.server.answers["tools/call"] = {"result": {"resultType": "task", **TASK}}

    def ask(self, method: str, params: Any = None, **extra: Any) -> Ear:
        return self.talk.modern("time", method, params, capabilities=self.can, **extra)

    def make(self, **extra: Any) -> str:
        return str(self.ask("tools/call", CALL, **extra).json["result"]["taskId"])

    def get(self, task: str) -> Ear:
        return self.ask("tasks/get", {"taskId": task}, Mcp_Name=task)

    def listen(self, *tasks: Any, server: str = "time", **extra: Any) -> Ear:
        self.server.answers["subscriptions/listen"] = lambda _: None
        wanted = {"notifications": {"taskIds": list(tasks)}}
        return self.talk.modern(server, "subscriptions/listen", wanted, capabilities=self.can, id=9, **extra)

    def tell(self, task: str, **members: Any) -> None:
        meta = {"io.modelcontextprotocol/subscriptionId": 9}
        told = {**TASK, "taskId": task, "_meta": meta, **members}
        self.server.sinks[-1].message(notification("notifications/tasks", told))


WAITING = {
    "status": "input_required",
    "inputRequests": {"q": {"method": "elicitation/create", "params": {"message": "m"}}},
}


@pytest.mark.parametrize("allowed", [True, False])
def test_a_task_that_waits_for_input_asks_only_where_its_server_may(allowed: bool) -> None:
    scene = Extended(allow_requests=("elicitation",) if allowed else ())
    task = scene.make()
    scene.server.answers["tasks/get"] = {"result": {"resultType": "complete", **TASK, **WAITING}}
    answer = scene.get(task).json
    assert ("elicitation/create" in str(answer)) == allowed
    assert allowed or answer["error"]["data"]["control"] == "gate-server-requests"
    heard = scene.listen(task)
    scene.tell("t-1", **WAITING)
    assert ("elicitation/create" in str(heard.messages())) == allowed


def test_with_the_gate_off_a_task_asks_whatever_it_wants() -> None:
    scene = Extended(off=("gate-server-requests",))
    task = scene.make()
    scene.server.answers["tasks/get"] = {"result": {"resultType": "complete", **TASK, **WAITING}}
    assert "elicitation/create" in str(scene.get(task).json)


@pytest.mark.parametrize("asks", [{"q": {"method": "tools/call"}}, {"q": 5}, ["q"], 5, {"q": {}}])
def test_a_task_asks_nothing_that_no_server_may(asks: Any) -> None:
    scene = Extended(allow_requests=("elicitation", "sampling", "roots"))
    task = scene.make()
    scene.server.answers["tasks/get"] = {"result": {"resultType": "complete", **TASK, "inputRequests": asks}}
    assert scene.get(task).json["error"]["data"]["control"] == "gate-server-requests"


def test_a_task_that_goes_on_passes() -> None:
    scene = Extended()
    task = scene.make()
    scene.server.answers["tasks/get"] = {"result": {"resultType": "complete", **TASK}}
    assert scene.get(task).json["result"] == {"resultType": "complete", **TASK, "taskId": task}


def test_a_caller_hears_of_their_own_tasks_under_the_ids_that_they_know() -> None:
    scene = Extended()
    task = scene.make()
    heard = scene.listen(task)
    assert scene.server.seen[-1].params["notifications"]["taskIds"] == ["t-1"]
    kept = {
        "notifications": {"taskIds": ["t-1", "t-2", 5]},
        "_meta": {"io.modelcontextprotocol/subscriptionId": 9},
    }
    scene.server.sinks[-1].message(notification("notifications/subscriptions/acknowledged", kept))
    scene.tell("t-1")
    scene.tell("t-2")  # another caller's, which nobody here subscribed to
    scene.tell(task)
    acknowledged, *told = heard.messages()
    assert acknowledged["params"]["notifications"]["taskIds"] == [task]
    assert [one["params"]["taskId"] for one in told] == [task]


@pytest.mark.parametrize("server", ["time", ""])
def test_nobody_hears_of_anothers_task(server: str) -> None:
    scene = Extended()
    task = scene.make()
    bob = scene.talk.token(server, "bob")
    heard = scene.listen(task, "t-1", "t-1.", 5, None, server=server, token=bob)
    sent = [one for one in scene.server.seen if one.method == "subscriptions/listen"][-1]
    assert sent.params["notifications"]["taskIds"] == []
    scene.tell("t-1")
    assert "t-1" not in str(heard.messages())


def test_news_of_a_task_on_the_stream_of_a_call_goes_nowhere() -> None:
    scene = Extended()
    scene.server.answers["tools/call"] = lambda _: None
    ear = scene.ask("tools/call", CALL)
    scene.tell("t-1")
    assert ear.messages() == []
    done = {"jsonrpc": "2.0", "id": 1, "result": {"content": [], "resultType": "complete"}}
    scene.server.sinks[-1].message(message_of(done))
    assert ear.ended
