"""What one connection may carry: callers in turn, calls ahead of their answers, old clients, and careful ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.kit import Stack, running
from tests.stack.wire import Wire, until
from tests.stand_ins.http_server import HttpUpstream


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running({"s": HttpUpstream()}) as started:
        yield started


def call(stack: Stack, number: int, user: str = "alice", **fields: Any) -> bytes:
    body, given = stack.modern_message("tools/call", {"name": "echo", "arguments": {"n": number}}, id=number)
    return stack.request("s", body, user=user, **{**given, **fields})


def text(number: int) -> str:
    return f'{{"n": {number}}}'


def test_each_request_on_a_kept_connection_is_its_own_callers(stack: Stack) -> None:
    with Wire(stack.port) as wire:
        for number in range(1, 41):
            wire.send(call(stack, number, "alice" if number % 2 else "bob"))
            assert wire.read().text == text(number)
        wire.send(call(stack, 41, Authorization=None))
        assert wire.read().status == 401
        wire.send(call(stack, 42, "bob"))
        assert wire.read().text == text(42)
    for user in ("alice", "bob"):
        until(lambda user=user: len(stack.rows(principal=user, tool="echo")) >= 20, f"calls of {user}")


def test_a_session_is_not_shared_by_callers_on_one_connection(stack: Stack) -> None:
    session = stack.session("s")
    ping = stack.legacy_message("ping")
    with Wire(stack.port) as wire:
        for user, status in (("alice", 200), ("bob", 404), ("alice", 200)):
            wire.send(stack.request("s", ping, user=user, Mcp_Session_Id=session))
            assert wire.read().status == status


def test_calls_sent_ahead_are_answered_in_order(stack: Stack) -> None:
    with Wire(stack.port) as wire:
        wire.send(b"".join(call(stack, number, "alice" if number % 2 else "bob") for number in range(1, 21)))
        assert [wire.read().text for _ in range(20)] == [text(number) for number in range(1, 21)]


def test_a_refused_call_between_two_others_spoils_neither(stack: Stack) -> None:
    with Wire(stack.port) as wire:
        wire.send(call(stack, 1) + call(stack, 2, Authorization="Bearer x.y.z") + call(stack, 3))
        answers = [wire.read() for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 401, 200]
        assert (answers[0].text, answers[2].text) == (text(1), text(3))


def test_an_old_client_is_answered_and_its_connection_closed(stack: Stack) -> None:
    with Wire(stack.port) as wire:
        wire.send(call(stack, 7).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))
        answer = wire.read()
        assert answer.text == text(7) and wire.is_closed()


def test_an_old_client_hears_a_stream_until_the_connection_closes(stack: Stack) -> None:
    session = stack.session("s")
    with Wire(stack.port) as wire:
        wire.send(
            stack.request("s", verb="GET", Accept="text/event-stream", Mcp_Session_Id=session).replace(
                b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1
            )
        )
        status, lines = wire.read_head()
        fields = {name.lower(): value for name, value in lines}
        assert status == 200 and "transfer-encoding" not in fields and fields["connection"] == "close"
        assert stack.ask("s", verb="DELETE", Mcp_Session_Id=session).status == 200
        assert b"id: c-1" in b"".join(wire.parts())


def test_a_client_that_asks_first_is_told_to_go_on(stack: Stack) -> None:
    head, _, body = call(stack, 8, Expect="100-continue").partition(b"\r\n\r\n")
    with Wire(stack.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.read_head()[0] == 100
        wire.send(body)
        assert wire.read().text == text(8)


def test_a_client_that_asks_first_and_may_not_is_refused_before_its_body(stack: Stack) -> None:
    head = call(stack, 9, Expect="100-continue", Authorization=None).partition(b"\r\n\r\n")[0]
    with Wire(stack.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.read().status == 401


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/readyz", "/.well-known/oauth-protected-resource/s/mcp", "/.well-known/oauth-authorization-server", "/oauth/jwks"],
)  # fmt: skip
def test_a_documents_head_tells_of_it_without_it(stack: Stack, path: str) -> None:
    with Wire(stack.port) as wire:
        for verb in ("HEAD", "GET", "HEAD"):
            wire.send(stack.request(verb=verb, path=path, Authorization=None))
            answer = wire.read(verb)
            assert answer.status == 200 and int(answer.fields["content-length"]) > 0
            assert len(answer.body) == (int(answer.fields["content-length"]) if verb == "GET" else 0)


def test_clients_that_break_off_leave_nothing_behind(stack: Stack) -> None:
    def numbers() -> tuple[int, int]:
        found = {
            line.split("{")[0]: int(float(line.rsplit(" ", 1)[1]))
            for line in stack.admin("/metrics").body.decode().splitlines()
            if line.startswith(("doorward_connections{", "doorward_streams{"))
        }
        return found.get("doorward_connections", -1), found.get("doorward_streams", -1)

    session = stack.session("s")
    wires = []
    for number in range(60):
        wire = Wire(stack.port)
        request = call(stack, number)
        kind = number % 4
        if kind == 0:
            wire.send(request[: len(request) // 2])
        elif kind == 1:
            wire.send(request[:-3])
        elif kind == 2:
            wire.send(request * 3)
        else:
            wire.send(stack.request("s", verb="GET", Accept="text/event-stream", Mcp_Session_Id=session))
        wires.append(wire)
    for wire in wires:
        wire.close()
    stack.ask("s", verb="DELETE", Mcp_Session_Id=session)
    until(lambda: numbers() == (0, 0), "no connection and no stream to be left")
    assert stack.modern("s", "tools/call", {"name": "echo", "arguments": {}}).status == 200
