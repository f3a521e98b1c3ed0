"""One gateway, however many workers: sessions, streams, limits, marks and revocations are the same from every connection.

Clients here never pin a connection: each request is on a fresh one, which the kernel gives to any worker.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from doorward.base import limits
from tests.stack.kit import LEGACY, Stack, at_once, descendants, processes, running
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream, tool

CALLS = 20  # what the principal `counted` may do
DAY = 86_400
TABLES: dict[str, dict[str, Any]] = {
    f"limits.principal.counted-{era}": {"calls": CALLS, "per_seconds": DAY, "concurrent": 64}
    for era in ("modern", "legacy")
}
TABLES["limits.principal.crowded"] = {"calls": 10_000, "per_seconds": 60, "concurrent": 4}
INFO = "notifications/message"


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["one-worker", "two-workers", "three-workers"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    upstream = HttpUpstream(tools=[tool("echo"), tool("delete", read_only=False)])
    with running({"s": upstream}, workers=request.param, tables=TABLES) as started:
        assert len(started.worker_pids()) == request.param
        yield started


def server(stack: Stack) -> HttpUpstream:
    """The stand-in behind a stack."""
    found = stack.servers["s"]
    assert isinstance(found, HttpUpstream)
    return found


def note(text: str) -> dict[str, Any]:
    """What a server says on its own."""
    return {"jsonrpc": "2.0", "method": INFO, "params": {"level": "info", "data": text}}


def test_a_session_is_served_from_every_connection(stack: Stack) -> None:
    sessions = [stack.session("s") for _ in range(4)]
    asked = server(stack).hits
    for turn in range(6):
        for number, session in enumerate(sessions):
            answer = stack.call("legacy", "s", arguments={"n": number, "turn": turn}, session=session)
            assert answer.status == 200 and answer.text == f'{{"n": {number}, "turn": {turn}}}', answer
    assert server(stack).hits >= asked + 24
    for session in sessions:
        assert stack.ask("s", verb="DELETE", Mcp_Session_Id=session).status == 200
        assert [stack.legacy("s", session, "ping").status for _ in range(4)] == [404] * 4


def test_calls_of_many_clients_at_once_come_back_to_whom_they_belong(stack: Stack) -> None:
    sessions = [stack.session("s", user=f"user-{number}") for number in range(6)]

    def job(index: int) -> list[str]:
        user = f"user-{index % 6}"
        if index % 2:
            found = [
                stack.call("modern", "s", arguments={"i": index, "k": k}, user=user, id=k) for k in range(6)
            ]
        else:
            session = sessions[index % 6]
            found = [
                stack.legacy("s", session, "tools/call", {"name": "echo", "arguments": {"i": index, "k": k}}, id=100 * index + k, user=user)
                for k in range(6)
            ]  # fmt: skip
        return [one.text for one in found]

    for index, texts in enumerate(at_once(12, job)):
        assert texts == [f'{{"i": {index}, "k": {k}}}' for k in range(6)]


def test_the_session_of_another_principal_is_not_found_from_any_connection(stack: Stack) -> None:
    session = stack.session("s", user="alice")
    before = server(stack).hits
    for _ in range(6):
        assert stack.legacy("s", session, "tools/list", user="mallory").status == 404
        assert stack.ask("s", verb="GET", Mcp_Session_Id=session, user="mallory").status == 404
        assert stack.ask("s", verb="DELETE", Mcp_Session_Id=session, user="mallory").status == 404
    assert server(stack).hits == before
    assert stack.legacy("s", session, "ping").status == 200


def test_what_a_server_says_on_its_own_comes_on_the_stream_of_its_session(stack: Stack) -> None:
    upstream = server(stack)
    sessions = [stack.session("s") for _ in range(3)]
    upstreams = [stack_session(upstream, stack, one) for one in sessions]
    streams = [
        stack.events("s", verb="GET", Mcp_Session_Id=one, MCP_Protocol_Version=LEGACY) for one in sessions
    ]
    for number, theirs in enumerate(upstreams):
        upstream.push(theirs, note(f"for {number}"))
    for number, stream in enumerate(streams):
        assert stream.next()["params"]["data"] == f"for {number}"
        stream.close()


def stack_session(upstream: HttpUpstream, stack: Stack, session: str) -> str:
    """The stand-in's session id behind one of the gateway's."""
    before = len(upstream.asks)
    assert stack.legacy("s", session, "tools/list").status == 200
    return next(ask.fields["mcp-session-id"] for ask in upstream.asks[before:] if ask.method == "tools/list")


def test_a_stream_is_resumed_from_any_connection_without_loss_or_repetition(stack: Stack) -> None:
    upstream = server(stack)
    session = stack.session("s")
    theirs = stack_session(upstream, stack, session)
    stream = stack.events("s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
    heard = []
    upstream.push(theirs, note("0"))
    heard.append(stream.next()["params"]["data"])
    for number in range(1, 7):
        last = stream.last_id
        stream.close()
        upstream.push(theirs, note(str(number)))
        stream = stack.events(
            "s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, Last_Event_ID=last
        )
        heard.append(stream.next()["params"]["data"])
    assert heard == [str(number) for number in range(7)]
    stream.close()


def test_a_call_whose_client_went_away_is_picked_up_from_any_connection(stack: Stack) -> None:
    upstream = server(stack)
    go_on = threading.Event()

    def slowly(ask: Any) -> None:
        ask.start_events()
        ask.event(note("begun"))
        go_on.wait(15)
        ask.event(
            {
                "jsonrpc": "2.0",
                "id": ask.json["id"],
                "result": {"content": [{"type": "text", "text": "late"}]},
            }
        )
        ask.end()

    upstream.on["tools/call"] = slowly
    try:
        session = stack.session("s")
        body = stack.legacy_message("tools/call", {"name": "echo", "arguments": {}}, id="lost")
        stream = stack.events("s", body, Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
        assert stream.next()["params"]["data"] == "begun"
        stream.close()
        go_on.set()
        again = stack.events(
            "s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, Last_Event_ID=stream.last_id
        )
        answer = again.next()
        assert answer["id"] == "lost" and answer["result"]["content"][0]["text"] == "late"
        assert again.rest() == []
        assert (
            stack.ask(
                "s", verb="GET", Mcp_Session_Id=session, Last_Event_ID=stream.last_id, user="mallory"
            ).status
            == 404
        )
    finally:
        del upstream.on["tools/call"]


def test_what_a_server_asks_goes_to_its_client_and_the_answer_comes_back_from_any_connection() -> None:
    for workers in (1, 3):
        upstream = HttpUpstream()
        table = {"servers.s": {"allow_requests": ["elicitation"]}}
        with running({"s": upstream}, workers=workers, tables=table) as stack:
            session = stack.session("s", {"elicitation": {}})
            theirs = stack_session(upstream, stack, session)
            stream = stack.events("s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
            for number in range(4):
                params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
                upstream.push(
                    theirs, {"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": params}
                )
                asked = stream.next()
                assert asked["method"] == "elicitation/create"
                said = {
                    "jsonrpc": "2.0",
                    "id": asked["id"],
                    "result": {"action": "decline", "number": number},
                }
                assert stack.ask("s", said, Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY).status == 202
                answer = until(lambda: upstream.answers[number:], "the answer at the server")[0]
                assert answer == {
                    "jsonrpc": "2.0",
                    "id": number,
                    "result": {"action": "decline", "number": number},
                }
            stream.close()


# -- limits, marks, revocations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_exactly_as_many_calls_succeed_as_the_limit_says(stack: Stack, era: str) -> None:
    user = f"counted-{era}"
    # Opening a session is a call as well.
    session = stack.session("s", user=user) if era == "legacy" else ""
    left = CALLS - (1 if era == "legacy" else 0)
    stack.token("s", user)
    before = len(server(stack).calls())

    def job(index: int) -> list[tuple[int, Any]]:
        found = [stack.call(era, "s", session=session, user=user, id=10 * index + k) for k in range(3)]
        return [(one.status, one) for one in found]

    answers = [one for some in at_once(CALLS // 2, job) for one in some]
    statuses = [status for status, _ in answers]
    assert statuses.count(200) == left, statuses
    assert statuses.count(429) == len(statuses) - left
    refused = next(answer for status, answer in answers if status == 429)
    assert (
        int(refused.fields["retry-after"]) > 0 and refused.control == "limit-rate" and refused.code == -31009
    )
    assert len(server(stack).calls()) == before + left


def test_no_more_calls_are_under_way_than_the_limit_says(stack: Stack) -> None:
    upstream = server(stack)
    stack.token("s", "crowded")
    stack.modern("s", "tools/list", user="crowded")
    upstream.release.clear()
    before = len(upstream.calls())
    try:
        found: list[int] = []

        def job(_: int) -> None:
            found.append(stack.call("modern", "s", user="crowded").status)

        threads = [threading.Thread(target=job, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        until(lambda: len(found) == 8, "eight refusals while four calls wait")
        until(lambda: len(upstream.calls()) == before + 4, "four calls at the server")
        assert set(found) == {429}
        upstream.release.set()
        for thread in threads:
            thread.join(15)
        assert sorted(found) == [200] * 4 + [429] * 8
        assert stack.call("modern", "s", user="crowded").status == 200, "the places are free again"
    finally:
        upstream.release.set()


def test_a_request_id_is_used_once_at_a_time_in_a_session(stack: Stack) -> None:
    """A mark that counts once over all workers: of many equal ids at once, one call reaches the server."""
    upstream = server(stack)
    session = stack.session("s")
    assert stack.call("legacy", "s", session=session).status == 200
    upstream.release.clear()
    before = len(upstream.calls())
    try:
        found: list[Any] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(stack.call("legacy", "s", session=session, id="same"))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(found) == 7, "seven refusals")
        until(lambda: len(upstream.calls()) == before + 1, "one call at the server")
        assert {one.status for one in found} == {400}
    finally:
        upstream.release.set()
    for thread in threads:
        thread.join(15)
    assert sorted(one.status for one in found) == [200] + [400] * 7


def test_a_revoked_token_is_refused_everywhere_in_less_than_two_seconds(stack: Stack) -> None:
    token = stack.token("s", "leaver", fresh=True)
    bearer = {"Authorization": f"Bearer {token}"}
    session = stack.session("s", **bearer)
    stream = stack.events("s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, **bearer)
    assert stack.call("modern", "s", **bearer).status == 200
    jti = payload_of(token)["jti"]
    begun = time.monotonic()
    assert stack.admin("/api/v1/revocations", {"jti": jti, "until": time.time() + 600}).status == 200
    # In force when twelve connections in a row are refused.
    until(
        lambda: all(stack.modern("s", "tools/list", **bearer).status == 401 for _ in range(12)), "the refusal"
    )
    assert time.monotonic() - begun < 2.0
    assert stream.rest() == [], "the open stream ends"
    assert stack.legacy("s", session, "ping", **bearer).status == 401
    fresh = stack.token("s", "leaver", fresh=True)
    assert stack.legacy("s", session, "ping", Authorization=f"Bearer {fresh}").status == 404, (
        "its session has ended with it"
    )
    assert stack.modern("s", "tools/list", user="alice").status == 200


def payload_of(token: str) -> dict[str, Any]:
    """What a token says."""
    import base64
    import json

    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


# -- workers that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_killed_worker_takes_only_its_sessions_and_comes_again(workers: int) -> None:
    upstream = HttpUpstream()
    with running({"s": upstream}, workers=workers) as stack:
        sessions = [stack.session("s") for _ in range(5 * workers)]
        before = set(stack.worker_pids())
        victim = sorted(before)[0]
        streams = [
            stack.events("s", verb="GET", Mcp_Session_Id=one, MCP_Protocol_Version=LEGACY) for one in sessions
        ]
        os.kill(victim, signal.SIGKILL)
        fresh = until(lambda: set(stack.worker_pids()) - before, "another worker")
        assert len(fresh) == 1
        until(lambda: all(stack.is_ready() for _ in range(8)), "everybody to be ready")
        until(lambda: len(stack.worker_pids()) == workers, "as many workers as before")
        statuses = [stack.legacy("s", one, "ping").status for one in sessions]
        assert set(statuses) <= {200, 404}, statuses
        assert 404 in statuses or workers > 1, "the killed worker had sessions"
        if workers == 1:
            assert set(statuses) == {404}
        for status, session in zip(statuses, sessions, strict=True):
            again = [stack.call("legacy", "s", session=session).status for _ in range(3)]
            assert again == [status] * 3, "every connection says the same"
        for stream in streams:
            stream.close()
        for _ in range(2 * workers):
            session = stack.session("s")
            assert stack.call("legacy", "s", session=session, arguments={"a": 1}).text == '{"a": 1}'
        assert stack.command("audit", "verify", "--json").returncode == 0


def test_calls_at_other_workers_go_on_while_one_is_killed() -> None:
    upstream = HttpUpstream()
    with running({"s": upstream}, workers=3) as stack:
        stack.modern("s", "tools/list")
        over = threading.Event()
        found: list[Any] = []

        def job(_: int) -> None:
            while not over.wait(0.01):  # a pace that leaves the machine time to start a worker
                try:
                    found.append(stack.call("modern", "s", arguments={"a": 1}).status)
                except (ConnectionError, OSError) as error:
                    found.append(error)

        threads = [threading.Thread(target=job, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(found) > 30, "traffic")
        before = set(stack.worker_pids())
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(set(stack.worker_pids()) - before) == 1, "another worker")
        until(lambda: all(stack.is_ready() for _ in range(8)), "everybody to be ready")
        count = len(found)
        until(lambda: len(found) > count + 60, "more traffic")
        over.set()
        for thread in threads:
            thread.join(15)
        assert all(one == 200 for one in found[count + 3 :]), "all is well again"
        broken = [one for one in found if one != 200]
        # Only what the dead worker had in hand, and connections that came before its socket was gone, are lost.
        assert all(isinstance(one, OSError) for one in broken) and len(broken) <= 12, broken


def test_a_killed_supervisor_takes_everything_with_it() -> None:
    with running({"s": HttpUpstream()}, workers=3) as stack:
        assert stack.process is not None
        below = descendants(stack.process.pid)
        assert len(below) >= 3
        stack.process.kill()
        stack.process.wait(15)
        until(lambda: not set(below) & set(processes()), "the end of all workers")


def test_a_principal_has_a_bounded_number_of_sessions_over_all_workers() -> None:
    upstream = HttpUpstream()
    with running({"s": upstream}, workers=2) as stack:
        other = stack.session("s", user="bob")
        opened = [
            stack.initialize("s").fields["mcp-session-id"]
            for _ in range(2 * limits.SESSIONS_PER_PRINCIPAL + 20)
        ]
        alive = [one for one in opened if stack.legacy("s", one, "ping").status == 200]
        assert len(alive) <= 2 * limits.SESSIONS_PER_PRINCIPAL
        assert opened[-1] in alive and opened[0] not in alive
        assert stack.legacy("s", other, "ping", user="bob").status == 200
        until(lambda: len(upstream.sessions) <= len(alive) + 1, "the server's sessions to end as well")


def test_a_changed_list_that_one_session_hears_of_is_known_to_every_worker(stack: Stack) -> None:
    upstream = server(stack)
    upstream.tools.append(tool("gone"))

    def served() -> set[bool]:
        call = {"name": "gone", "arguments": {}}
        return set(at_once(24, lambda _: "result" in stack.modern("s", "tools/call", call).json))

    until(lambda: served() == {True}, "every worker to know the tool")
    session = stack.session("s")
    theirs = stack_session(upstream, stack, session)
    stream = stack.events("s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY)
    until(lambda: theirs in upstream.streams, "the server's own stream")
    upstream.tools.pop()
    assert served() == {True}, "nobody was told yet, and the server would still run it"
    upstream.push(theirs, {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    assert stream.next()["method"] == "notifications/tools/list_changed"
    until(lambda: served() == {False}, "every worker to know that it is gone")
    stream.close()
