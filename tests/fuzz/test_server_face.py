"""Whatever a server answers: its caller gets an answer in time, nothing crashes, and everybody else goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.kit import Target, target
from tests.fuzz.mutations import bounded, change, operations, reshape, tree_steps
from tests.stack.wire import Answer
from tests.stand_ins.http_server import Ask, HttpUpstream, tool

METHODS = ("tools/call", "tools/list", "initialize", "resources/list", "resources/read", "prompts/list")
ERAS = st.sampled_from(["modern", "legacy"])


@pytest.fixture(scope="module")
def gate() -> Iterator[Target]:
    # What mutated lists define is no change that anybody should approve.
    tables = {"servers.s": {"trust": "off"}}
    with target(upstream=HttpUpstream(tools=[tool("echo")]), tables=tables) as found:
        found.session()
        found.passes("modern")
        workers = found.stack.worker_pids()
        yield found
        found.upstream.on.clear()
        found.forget("alice")
        for era in ("modern", "legacy"):
            found.passes(era)
        assert found.stack.worker_pids() == workers, "a worker died"
        assert "Traceback" not in found.stack.log(), found.stack.log()[-4000:]


def ask(gate: Target, era: str, method: str) -> Answer:
    """A good request; one that opens a session has no era but the older."""
    params = {
        "tools/call": {"name": "echo", "arguments": {}, "_meta": {"progressToken": "p"}}, "resources/read": {"uri": "file:///a"},
    }.get(method)  # fmt: skip
    if method == "initialize":
        return gate.stack.initialize("s")
    if era == "modern":
        return gate.stack.modern("s", method, params)
    answer = gate.stack.legacy("s", gate.session(), method, params)
    if answer.status == 404:  # the server ended the session, as it may
        gate.forget("alice")
        answer = gate.stack.legacy("s", gate.session(), method, params)
    return answer


def good(question: Ask) -> dict[str, Any]:
    """An honest answer."""
    result: dict[str, Any] = {
        "tools/call": {"content": [{"type": "text", "text": "x"}, {"type": "resource_link", "uri": "file:///a", "name": "a"}]},
        "tools/list": {"tools": [tool("echo", properties={"a": {"type": "string"}})], "nextCursor": "c"},
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "a", "version": "1"}},
        "resources/list": {"resources": [{"uri": "file:///a", "name": "a"}]},
        "resources/read": {"contents": [{"uri": "file:///a", "text": "t"}]},
        "prompts/list": {"prompts": [{"name": "p", "arguments": [{"name": "a"}]}]},
    }[question.method]  # fmt: skip
    if question.is_modern:
        result = {**result, "resultType": "complete", "ttlMs": 5, "cacheScope": "public"}
    return {"jsonrpc": "2.0", "id": question.json["id"], "result": result}


def notices(question: Ask) -> list[dict[str, Any]]:
    """What may come before an answer."""
    return [
        {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": "p", "progress": 1, "total": 2},
        },
        {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": {"a": 1}}},
        {
            "jsonrpc": "2.0",
            "id": 3,
            "method": "sampling/createMessage",
            "params": {"messages": [], "maxTokens": 1},
        },
        {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
        good(question),
    ]


def check(gate: Target, answer: Answer, method: str) -> None:
    """The law: an answer to this very question, or an honest failure."""
    assert answer.status in (200, 400, 404), answer
    if answer.fields.get("content-type", "").startswith("text/event-stream"):
        last = answer.messages[-1]
    else:
        last = answer.json
    assert ("result" in last) != ("error" in last), answer
    assert last["jsonrpc"] == "2.0" and last["id"] == (0 if method == "initialize" else 1), answer


def played(gate: Target, era: str, method: str, script: Any) -> None:
    """One question with this answer, judged."""
    asked: list[Ask] = []

    def once(question: Ask) -> None:
        # What the gateway asks of its own accord meanwhile (a list) is answered well.
        if question.method == method and not asked:
            asked.append(question)
            script(question)
        else:
            question.say(good(question))

    gate.upstream.on[method] = once
    try:
        check(gate, ask(gate, era, method), method)
    finally:
        gate.upstream.on.pop(method, None)


@bounded(250)
@given(era=ERAS, method=st.sampled_from(METHODS), steps=tree_steps, stream=st.booleans())
def test_reshaped_answers(gate: Target, era: str, method: str, steps: list[Any], stream: bool) -> None:
    def script(question: Ask) -> None:
        if not stream:
            return question.say(reshape(good(question), steps))
        question.start_events()
        for message in reshape(notices(question), steps):
            question.event(message)
        return question.end()

    played(gate, era, method, script)


@bounded(250)
@given(
    era=ERAS,
    method=st.sampled_from(METHODS),
    steps=operations,
    shape=st.sampled_from(["json", "chunked", "stream"]),
)
def test_mutated_bytes_of_answers(gate: Target, era: str, method: str, steps: list[Any], shape: str) -> None:
    def script(question: Ask) -> None:
        body = json.dumps(good(question)).encode()
        kind, framing = b"application/json", b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        if shape == "chunked":
            framing = b"Transfer-Encoding: chunked\r\n\r\n7\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                body[:7],
                len(body) - 7,
                body[7:],
            )
        elif shape == "stream":
            events = b"".join(
                b"event: message\ndata: " + json.dumps(one).encode() + b"\n\n" for one in notices(question)
            )
            kind, framing = (
                b"text/event-stream",
                b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(events), events),
            )
        question.send(change(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n" + framing, steps))
        raise OSError("hang up, so that what is unfinished ends")

    played(gate, era, method, script)
