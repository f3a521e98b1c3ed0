"""A task is its maker's: another caller behind the same upstream credential can neither see, end nor list it."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.gateway.tasks import TaskSeal
from doorward.protocol.envelope import notification
from tests.talks.talk import LEGACY, PlayedServer, Talk


def made(era: str) -> tuple[Talk, PlayedServer]:
    server = PlayedServer()
    task = {"taskId": "t-1", "status": "working"}
    extra = {"resultType": "task"} if era == "modern" else {}
    server.answers = {
        "tools/call": lambda _: {"result": {"task": dict(task), **extra}},
        "tasks/get": lambda message: {"result": {**task, "taskId": message.params["taskId"]}},
        "tasks/cancel": lambda message: {"result": {**task, "taskId": message.params["taskId"]}},
        "tasks/list": lambda _: {"result": {"tasks": [dict(task), {"taskId": "of-another"}, {}, 5]}},
    }
    return Talk({"s": server, "other": PlayedServer()}), server


class Person:
    """Somebody with a session (or none) and a way to ask."""

    def __init__(self, talk: Talk, era: str, endpoint: str, user: str) -> None:
        self.talk, self.era, self.endpoint, self.user = talk, era, endpoint, user
        self.session = talk.open(endpoint, user) if era == "legacy" else ""

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        if self.era == "legacy":
            return self.talk.legacy(self.endpoint, self.session, method, params, user=self.user)
        fields = {"Mcp_Name": params["taskId"]} if "taskId" in params else {}
        return self.talk.modern(self.endpoint, method, params, user=self.user, **fields)

    def make(self) -> str:
        name = "echo" if self.endpoint else "s__echo"
        ear = self.ask("tools/call", {"name": name, "arguments": {}})
        return str(ear.json["result"]["task"]["taskId"])


@pytest.mark.parametrize("endpoint", ["s", ""])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_task_answers_to_its_maker_only(era: str, endpoint: str) -> None:
    talk, server = made(era)
    alice, mallory = Person(talk, era, endpoint, "alice"), Person(talk, era, endpoint, "mallory")
    task = alice.make()
    found = alice.ask("tasks/get", {"taskId": task})
    assert found.json["result"]["taskId"] == task, found.body
    assert server.seen[-1].params["taskId"] == "t-1"
    server.seen.clear()
    for stolen in (task, "t-1", "t-1.", f"{task}x", "." + task, "."):
        for method in ("tasks/get", "tasks/cancel"):
            ear = mallory.ask(method, {"taskId": stolen})
            assert ear.json["error"]["code"] == -32602, ear.body
    assert not [one for one in server.methods() if one.startswith("tasks/")]
    assert alice.ask("tasks/cancel", {"taskId": task}).json["result"]["taskId"] == task


def test_a_list_of_tasks_holds_what_its_session_made() -> None:
    talk, _ = made("legacy")
    alice, mallory = Person(talk, "legacy", "s", "alice"), Person(talk, "legacy", "s", "mallory")
    task = alice.make()
    assert [one["taskId"] for one in alice.ask("tasks/list", {}).json["result"]["tasks"]] == [task]
    assert mallory.ask("tasks/list", {}).json["result"]["tasks"] == []


def test_a_notice_about_a_task_reaches_its_maker_only() -> None:
    talk, server = made("legacy")
    ears = {}
    for user in ("alice", "mallory"):
        person = Person(talk, "legacy", "s", user)
        if user == "alice":
            task = person.make()
        ears[user] = talk.send(
            "s", None, verb="GET", user=user, Mcp_Session_Id=person.session, MCP_Protocol_Version=LEGACY
        )
    for link in server.links:
        for listener in link.listeners:
            listener.message(notification("notifications/tasks/status", {"taskId": "t-1", "status": "done"}))
    assert [one["params"]["taskId"] for one in ears["alice"].messages()] == [task]
    assert ears["mallory"].messages() == []


def test_a_seal_holds_for_one_caller_at_one_server() -> None:
    seal = TaskSeal(b"k" * 32)
    made_one = seal.seal("a", "s", "t.1")
    assert seal.open("a", "s", made_one) == "t.1"
    assert seal.open("b", "s", made_one) is None
    assert seal.open("a", "other", made_one) is None
    assert TaskSeal(b"l" * 32).open("a", "s", made_one) is None
    assert seal.open("a", "s", 5) is None and seal.open("a", "s", "t.1\u00e9") is None
