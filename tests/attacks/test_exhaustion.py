"""Attacks by too much: floods of calls, sessions, pages, events and bytes, from clients and from servers."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.base import limits
from tests.attacks.kit import ERAS, Target, target
from tests.stack.kit import at_once
from tests.stack.wire import Answer, Wire, until
from tests.stand_ins.http_server import Ask

FAILED = -31008
MEGABYTE = 1 << 20
CROWD = 6
TABLES = {"limits.principal.mallory": {"calls": 10_000, "per_seconds": 60, "concurrent": CROWD}}


@pytest.fixture(scope="module")
def gate() -> Iterator[Target]:
    with target(tables=TABLES) as found:
        yield found


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def resident(gate: Target) -> int:
    """Memory of all workers in bytes."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in gate.stack.worker_pids()]
    return sum(pages) * 4096


def bombed(gate: Target, era: str, script: Callable[[Ask], Any]) -> Answer:
    """A call whose server answers by ``script``; ordinary traffic passes before and after."""
    gate.passes(era)
    gate.upstream.on["tools/call"] = script
    try:
        return gate.call(era)
    finally:
        del gate.upstream.on["tools/call"]
        gate.passes(era)


# -- T-77: bytes of a server -----------------------------------------------------------------------------------------------


def endless_event(ask: Ask) -> None:
    ask.start_events()
    ask.chunk(b"data: ")
    for _ in range(64):
        ask.chunk(b"a" * MEGABYTE)


def endless_line(ask: Ask) -> None:
    ask.start_events()
    for _ in range(64):
        ask.chunk(b"a" * MEGABYTE)


def endless_data_lines(ask: Ask) -> None:
    ask.start_events()
    for _ in range(64):
        ask.chunk(b"data: a\n" * (MEGABYTE // 8))


def endless_chunks(ask: Ask) -> None:
    ask.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(128):
        ask.chunk(b" " * MEGABYTE)


def announced(ask: Ask) -> None:
    ask.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n")
    for _ in range(128):
        ask.send(b" " * MEGABYTE)


def until_close(ask: Ask) -> None:
    ask.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
    for _ in range(128):
        ask.send(b" " * MEGABYTE)


def gzip_bomb(ask: Ask) -> None:
    ask.reply(
        200, gzip.compress(b" " * (64 * MEGABYTE)), Content_Type="application/json", Content_Encoding="gzip"
    )


BOMBS = {
    one.__name__: one
    for one in (
        endless_event,
        endless_line,
        endless_data_lines,
        endless_chunks,
        announced,
        until_close,
        gzip_bomb,
    )
}


@pytest.mark.parametrize("name", BOMBS)
def test_t_77_a_bomb_of_a_server_is_cut_off_by_count(gate: Target, era: str, name: str) -> None:
    gate.passes(era)
    before = resident(gate)
    answer = bombed(gate, era, BOMBS[name])
    assert answer.code == FAILED, answer
    last = answer.json["error"]["data"]["event"]
    assert until(lambda: gate.stack.rows(event=last), "the record")[0]["outcome"] == "upstream-failed"
    assert resident(gate) - before < 160 * MEGABYTE, "one bomb may cost what one answer may, and its copies"


def test_t_77_a_large_honest_answer_passes(gate: Target, era: str) -> None:
    text = "x" * (3 * MEGABYTE)
    answer = bombed(gate, era, lambda ask: {"content": [{"type": "text", "text": text}]})
    assert answer.text == text


# -- T-103: storms -------------------------------------------------------------------------------------------------------------


def storm(at: Target, era: str, user: str) -> list[int]:
    """Many calls at once to a server that lets them wait; the statuses of those that do not."""
    at.call(era, user=user)
    at.upstream.release.clear()
    found: list[int] = []
    before = at.upstream.held

    def job(number: int) -> None:
        found.append(at.call(era, user=user, id=1_000 + number).status)

    threads = [threading.Thread(target=job, args=(number,)) for number in range(3 * CROWD)]
    try:
        for thread in threads:
            thread.start()
        until(lambda: at.upstream.held - before + len(found) >= 3 * CROWD, "every call to arrive somewhere")
        return list(found)
    finally:
        at.upstream.release.set()
        for thread in threads:
            thread.join(15)
        assert sorted(set(found)) in ([200], [200, 429])


def test_t_103_a_storm_of_calls_is_held_to_the_limit(gate: Target, era: str) -> None:
    gate.passes(era)
    refused = storm(gate, era, "mallory")
    assert refused == [429] * (2 * CROWD)
    gate.passes(era, user="mallory")
    gate.passes(era)
    rows = gate.stack.rows(control="limit-rate", principal="mallory")
    assert len(rows) >= 2 * CROWD and "limit-concurrent" in rows[0]["reason"]


def test_t_103_works_against_a_gateway_without_limits(era: str) -> None:
    with target(tables=TABLES, off=("limit-rate",)) as open_gate:
        assert storm(open_gate, era, "mallory") == []


def test_t_103_a_list_without_end_holds_no_call_for_ever(gate: Target, era: str) -> None:
    """The gateway's own reading of lists is bounded; a client that pages for ever is the limit's business."""
    gate.passes(era)
    pages = 0

    def endless(ask: Ask) -> dict[str, Any]:
        nonlocal pages
        pages += 1
        tools = gate.upstream.tools if pages == 1 else []
        return {"tools": tools, "nextCursor": f"page-{pages}", "ttlMs": 0, "cacheScope": "private"}

    gate.upstream.on["tools/list"] = endless
    try:
        answer = gate.call(era, tool=f"never-listed-{era}")
    finally:
        del gate.upstream.on["tools/list"]
    assert answer.code in (-32602, FAILED), answer
    assert pages <= 200
    gate.passes(era)


class Flood:
    """Progress without end for a client that does not read."""

    def __init__(self) -> None:
        self.sent = 0
        self.over = False
        self._seen = (-1, 0.0)

    def __call__(self, ask: Ask) -> None:
        token = ask.params["_meta"]["progressToken"]
        ask.start_events()
        pad = "x" * 4_096
        try:
            for self.sent in range(100_000):
                params = {"progressToken": token, "progress": self.sent, "message": pad}
                ask.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        finally:
            self.over = True

    def is_held_back(self) -> bool:
        """True when nothing has gone out for half a second."""
        now = time.monotonic()
        if self._seen[0] != self.sent:
            self._seen = (self.sent, now)
        return now - self._seen[1] > 0.5


def test_t_103_a_stream_that_never_ends_costs_no_memory_for_a_client_that_does_not_read(
    gate: Target, era: str
) -> None:
    gate.passes(era)
    before = resident(gate)
    flood = gate.upstream.on["tools/call"] = Flood()
    params = {"name": "echo", "arguments": {}, "_meta": {"progressToken": "p"}}
    if era == "modern":
        body, fields = gate.stack.modern_message("tools/call", params)
    else:
        body = gate.stack.legacy_message("tools/call", params, id="flood")
        fields = {"Mcp_Session_Id": gate.session(), "MCP_Protocol_Version": "2025-11-25"}
    wire = Wire(gate.stack.port, rcvbuf=4_096)
    try:
        wire.send(gate.stack.request("s", body, **fields))
        assert wire.read_head()[0] == 200
        until(flood.is_held_back, "back-pressure at the server")
        assert 0 < flood.sent < 50_000 and not flood.over
        assert resident(gate) - before < 48 * MEGABYTE
    finally:
        del gate.upstream.on["tools/call"]
        wire.close()
    if era == "legacy":
        # There a client that leaves has not cancelled; the end of its session does.
        assert gate.stack.ask("s", verb="DELETE", Mcp_Session_Id=gate.session()).status == 200
        gate.forget("alice")
    until(lambda: flood.over, "the server to be hung up on")
    assert flood.sent < 99_999
    gate.passes(era)


# -- T-76: sessions ------------------------------------------------------------------------------------------------------------


def test_t_76_a_flood_of_sessions_ends_the_flooders_own_and_nobody_elses(gate: Target) -> None:
    stack = gate.stack
    other = stack.session("s", user="bob")
    first = stack.session("s", user="flooder")
    floods = limits.SESSIONS_PER_PRINCIPAL + 20
    opened = [
        one
        for some in at_once(5, lambda _: [stack.initialize("s", user="flooder") for _ in range(floods // 5)])
        for one in some
    ]
    assert all(answer.status == 200 for answer in opened)
    assert stack.legacy("s", first, "ping", user="flooder").status == 404, "the longest idle went first"
    assert stack.legacy("s", other, "ping", user="bob").status == 200
    assert stack.legacy("s", opened[-1].fields["mcp-session-id"], "ping", user="flooder").status == 200
    alive = [stack.legacy("s", one.fields["mcp-session-id"], "ping", user="flooder").status for one in opened]
    assert alive.count(200) <= limits.SESSIONS_PER_PRINCIPAL
    before = gate.upstream.hits
    assert stack.initialize("s", Authorization=None).status == 401 and gate.upstream.hits == before
    assert limits.SESSION_IDLE_SECONDS <= 3_600 and limits.SESSIONS_TOTAL <= 100_000


def test_t_76_a_session_id_is_long_random_and_cannot_be_made_up(gate: Target) -> None:
    ids = {gate.stack.session("s") for _ in range(10)}
    assert len(ids) == 10 and all(len(one) >= 32 and one.isascii() and one.isprintable() for one in ids)
    for one in ids:
        forged = one[:-3] + ("AAA" if one[-3:] != "AAA" else "BBB")
        assert gate.stack.legacy("s", forged, "ping").status == 404
    for text in ("x", "A" * 64, "A" * 1_000, "../../etc", one[::-1]):
        assert gate.stack.legacy("s", text, "ping").status == 404


# -- T-72: answers that cross ------------------------------------------------------------------------------------------------------


def crossing(gate: Target, rounds: int) -> None:
    """Clients of both eras with the same ids at the same time, some of which leave in the middle."""
    users = ("ann", "ben", "cyn", "dan")
    sessions = {user: gate.stack.session("s", user=user) for user in users}

    def job(index: int) -> int:
        user, done = users[index % 4], 0
        with Wire(gate.stack.port) as wire:
            for turn in range(rounds):
                mark = f"{user}-{index}-{turn}"
                params = {"name": "echo", "arguments": {"mark": mark}}
                if index < 4:
                    body, fields = gate.stack.modern_message("tools/call", params, id=turn % 5)
                    more: dict[str, Any] = dict(fields)
                else:
                    body = gate.stack.legacy_message("tools/call", params, id=1_000 * index + turn)
                    more = {"Mcp_Session_Id": sessions[user], "MCP_Protocol_Version": "2025-11-25"}
                request = gate.stack.request("s", body, user=user, **more)
                if turn % 10 == 9:  # leave before the answer
                    with Wire(gate.stack.port) as leaving:
                        leaving.send(request)
                    continue
                wire.send(request)
                answer = wire.read()
                assert answer.status == 200 and json.loads(answer.text) == {"mark": mark}, (mark, answer)
                assert answer.json["id"] == body["id"]
                done += 1
        return done

    assert sum(at_once(8, job, seconds=30 + rounds / 20)) == 8 * (rounds - rounds // 10)


def test_t_72_answers_never_cross_between_clients_with_the_same_ids(gate: Target) -> None:
    crossing(gate, 60)


@pytest.mark.full
def test_t_72_answers_never_cross_in_a_hundred_thousand_calls(gate: Target) -> None:
    crossing(gate, 12_500)


def test_t_72_a_cancellation_reaches_only_the_callers_own_call(gate: Target) -> None:
    upstream = gate.upstream
    sessions = {user: gate.stack.session("s", user=user) for user in ("ann", "ben")}
    upstream.release.clear()
    before = upstream.held
    found: dict[str, Answer] = {}

    def job(user: str) -> None:
        found[user] = gate.stack.legacy(
            "s", sessions[user], "tools/call", {"name": "echo", "arguments": {"u": user}}, id=7, user=user
        )

    threads = [threading.Thread(target=job, args=(user,)) for user in sessions]
    try:
        for thread in threads:
            thread.start()
        until(lambda: upstream.held == before + 2, "both calls at the server")
        seen = len(upstream.calls("notifications/cancelled"))
        for params in ({"requestId": 7}, {"requestId": 8}, {"requestId": "7"}):
            gate.stack.legacy("s", sessions["ann"], "notifications/cancelled", params, id=None, user="ann")
        cancelled = upstream.calls("notifications/cancelled")[seen:]
        assert len(cancelled) == 1, "only the cancellation of a call under way goes on"
        theirs = {ask.fields["mcp-session-id"]: ask.params["arguments"]["u"] for ask in upstream.calls()[-2:]}
        assert theirs[cancelled[0].fields["mcp-session-id"]] == "ann"
    finally:
        upstream.release.set()
        for thread in threads:
            thread.join(15)
    assert found["ben"].text == '{"u": "ben"}'
