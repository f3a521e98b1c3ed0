"""Attacks by a protected server: answers that two readers take differently, lists past the filter, lies about ids and roads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.attacks.kit import Target, target
from tests.stack.wire import Answer
from tests.stand_ins.http_server import Ask, HttpUpstream, tool

CANARY = "canary-5f0c"
FAILED = -31008
PEOPLE = {
    "identity": {"users": [{"name": "alice", "roles": ["user"]}, {"name": "bob", "roles": ["reader"]}]},
    "roles.reader": {"servers": ["*"], "tools": ["echo"]},
}


# Its definitions change from test to test, which would be found out before the lie that a test is about.
LIARS = {**PEOPLE, "servers.s": {"trust": "off"}}


@pytest.fixture(scope="module")
def gate(speaks: str) -> Iterator[Target]:
    with target(tables=LIARS, upstream=HttpUpstream(speaks)) as found:
        yield found


@pytest.fixture(scope="module")
def without_policy(speaks: str) -> Iterator[Target]:
    upstream = HttpUpstream(speaks)
    with target(tables=LIARS, off=("ask-policy",), upstream=upstream) as found:
        yield found


def lied_to(
    gate: Target, era: str, script: Callable[[Ask], Any], method: str = "tools/call", **more: Any
) -> Answer:
    """What a client gets when the server answers by ``script``; ordinary traffic passes before and after."""
    gate.passes(era)
    gate.upstream.on[method] = script
    try:
        if method == "tools/call":
            answer = gate.call(era, **more)
        elif era == "modern":
            answer = gate.stack.modern("s", method, **more)
        else:
            answer = gate.stack.legacy("s", gate.session(more.get("user", "alice")), method, **more)
    finally:
        del gate.upstream.on[method]
    gate.passes(era)
    return answer


def failed(gate: Target, answer: Answer, cause: str = "") -> None:
    """The lie was found out: the client hears that the server failed, nothing of what it said, and it is on record."""
    assert CANARY.encode() not in answer.body, answer
    assert answer.status == 200 and answer.code == FAILED, answer
    assert cause in answer.json["error"]["data"]["cause"], answer
    row = gate.stack.row_of(answer)
    assert (row["verdict"], row["outcome"], row["code"]) == ("allow", "upstream-failed", FAILED), row


def good_result(ask: Ask, text: str = CANARY) -> dict[str, Any]:
    """A tool result."""
    extra = {"resultType": "complete"} if ask.is_modern else {}
    return {
        "jsonrpc": "2.0",
        "id": ask.json["id"],
        "result": {"content": [{"type": "text", "text": text}], **extra},
    }


def changed(change: Callable[[bytes], bytes]) -> Callable[[Ask], None]:
    """A good answer, changed as text."""

    def script(ask: Ask) -> None:
        before = json.dumps(good_result(ask)).encode()
        after = change(before)
        assert after != before
        ask.reply(200, after, Content_Type="application/json")

    return script


def put(new: str, old: str) -> Callable[[bytes], bytes]:
    """Put text in the place of a part of the answer."""
    return lambda body: body.replace(old.encode(), new.encode("utf-8", "surrogatepass"))


# -- T-03: what the answer says must be one thing ---------------------------------------------------------------------------

AMBIGUOUS = {
    "Result": put('"Result": {}, "result"', '"result"'),
    "RESULT-after": lambda body: body[:-1] + b', "RESULT": {}}',
    "Id": put('"Id": 99, "id"', '"id"'),
    "Error": lambda body: body[:-1] + b', "Error": {"code": 1, "message": ""}}',
    "duplicate-result": put('"result": {}, "result"', '"result"'),
    "duplicate-deep": put('"type": "x", "type"', '"type"'),
    "nul-in-key": put('"te\\u0000xt": 1, "text"', '"text"'),
    "surrogate": put('"\\ud800"', f'"{CANARY}"'),
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "nan": put("NaN", f'"{CANARY}"'),
    "nesting": put("[" * 10_000 + "]" * 10_000, f'"{CANARY}"'),
    "digits": put("9" * 100_000, f'"{CANARY}"'),
    "trailing": lambda body: body + b"x",
    "two": lambda body: body + body,
    "batch": lambda body: b"[" + body + b"]",
    "result-and-error": lambda body: body[:-1] + b', "error": {"code": 1, "message": ""}}',
    "no-version": put('"x": "2.0"', '"jsonrpc": "2.0"'),
    "text": lambda body: b'"' + CANARY.encode() + b'"',
    "nothing": lambda body: b"",
    "html": lambda body: b"<html>" + CANARY.encode(),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_t_03_an_answer_that_readers_take_differently_never_reaches_the_client(
    gate: Target, era: str, name: str
) -> None:
    failed(gate, lied_to(gate, era, changed(AMBIGUOUS[name])), "upstream-malformed")


@pytest.mark.parametrize(
    "name", ["Result", "duplicate-result", "duplicate-deep", "nul-in-key", "surrogate", "nan"]
)
def test_t_03_the_same_holds_on_an_event_stream(gate: Target, era: str, name: str) -> None:
    def script(ask: Ask) -> None:
        ask.start_events()
        ask.chunk(b"data: " + AMBIGUOUS[name](json.dumps(good_result(ask)).encode()) + b"\n\n")
        ask.end()

    answer = lied_to(gate, era, script)
    assert CANARY.encode() not in answer.body and answer.code == FAILED, answer


# -- T-24: the filter of lists runs whatever shape the answer has --------------------------------------------------------------


def listed(shape: str) -> Callable[[Ask], None]:
    """tools/list in a shape."""

    def script(ask: Ask) -> None:
        extra = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"} if ask.is_modern else {}
        tools = [tool("echo"), tool("delete", description=CANARY)]
        value = {"jsonrpc": "2.0", "id": ask.json["id"], "result": {"tools": tools, **extra}}
        body = json.dumps(value).encode()
        match shape:
            case "json":
                ask.say(value)
            case "json-charset":
                ask.reply(200, body, Content_Type="Application/JSON;  charset=UTF-8")
            case "stream":
                ask.start_events()
                ask.event(value)
                ask.end()
            case "stream-in-pieces":
                ask.start_events()
                for byte in b"event: message\r\ndata: " + body + b"\r\n\r\n":
                    ask.chunk(bytes([byte]))
                ask.end()
            case "stream-after-notice":
                ask.start_events()
                ask.event(
                    {
                        "jsonrpc": "2.0",
                        "method": "notifications/message",
                        "params": {"level": "info", "data": 1},
                    }
                )
                ask.event(value)
                ask.event(value)
                ask.end()
            case "chunked":
                ask.send(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                for start in range(0, len(body), 7):
                    ask.chunk(body[start : start + 7])
                ask.end()
            case "gzip":
                ask.reply(200, gzip.compress(body), Content_Type="application/json", Content_Encoding="gzip")
            case "gzip-unmarked":
                ask.reply(200, gzip.compress(body), Content_Type="application/json")
            case "no-type":
                ask.reply(200, body)
            case "unknown-type":
                ask.reply(200, body, Content_Type="application/x-ndjson")
            case "text":
                ask.reply(200, body, Content_Type="text/plain")
            case status:
                ask.reply(int(status), body, Content_Type="application/json")

    return script


GOOD_SHAPES = ("json", "json-charset", "stream", "stream-in-pieces", "stream-after-notice", "chunked")
BAD_SHAPES = (
    "gzip", "gzip-unmarked", "no-type", "unknown-type", "text", "201", "202", "203", "206", "300", "301", "400", "404", "409",
    "418", "422", "500", "503",
)  # fmt: skip


@pytest.mark.parametrize("shape", GOOD_SHAPES)
def test_t_24_a_list_is_filtered_in_every_shape_that_is_served(
    gate: Target, without_policy: Target, era: str, shape: str
) -> None:
    answer = lied_to(gate, era, listed(shape), "tools/list", user="bob")
    assert [one["name"] for one in answer.json["result"]["tools"]] == ["echo"], answer
    assert CANARY.encode() not in answer.body
    everything = lied_to(gate, era, listed(shape), "tools/list", user="alice")
    assert [one["name"] for one in everything.json["result"]["tools"]] == ["echo", "delete"]
    unfiltered = lied_to(without_policy, era, listed(shape), "tools/list", user="bob")
    assert CANARY.encode() in unfiltered.body, "the control that filters is off here"


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_t_24_a_list_in_any_other_shape_is_dropped(gate: Target, era: str, shape: str) -> None:
    answer = lied_to(gate, era, listed(shape), "tools/list", user="bob")
    gate.forget("bob")  # 404 ends a session of the 2025 era
    assert CANARY.encode() not in answer.body and "result" not in answer.json, answer
    assert answer.code == FAILED


def test_t_24_a_hidden_tool_answers_as_an_unknown_one_in_a_call(
    gate: Target, without_policy: Target, era: str
) -> None:
    gate.passes(era, user="bob")
    before = len(gate.upstream.calls())
    hidden, unknown = (gate.call(era, tool=name, user="bob") for name in ("delete", "nonsense"))
    for answer in (hidden, unknown):
        assert gate.stack.row_of(answer)["control"] == "ask-policy"
        del answer.json["error"]["data"]["event"]
    assert hidden.status == unknown.status
    plain = [
        {**one.json["error"], "data": {**one.json["error"]["data"], "event": ""}} for one in (hidden, unknown)
    ]
    assert plain[0] == plain[1]
    assert len(gate.upstream.calls()) == before
    assert without_policy.call(era, tool="delete", user="bob").status == 200


def test_one_invalid_tool_is_dropped_with_a_finding_and_the_list_is_served(gate: Target, era: str) -> None:
    bad = [
        {"name": "no-schema"}, {"name": "", "inputSchema": {"type": "object"}}, {"name": 5, "inputSchema": {"type": "object"}},
        {"name": "sp ace", "inputSchema": {"type": "object"}}, tool("echo", description=CANARY), "text", None,
        {"name": "array", "inputSchema": {"type": "array"}}, {"name": "\u0435cho", "inputSchema": {"type": "object"}},
    ]  # fmt: skip
    if era == "modern":
        bad.append(tool("bad-mirror", properties={"a": {"type": "string", "x-mcp-header": "Bad Header"}}))
    for one in bad:
        gate.upstream.tools.insert(1, one)  # type: ignore[arg-type]
        try:
            answer = lied_to(
                gate,
                era,
                lambda ask: {"tools": gate.upstream.tools, "ttlMs": 0, "cacheScope": "private"},
                "tools/list",
            )
        finally:
            gate.upstream.tools.pop(1)
        assert [tool["name"] for tool in answer.json["result"]["tools"]] == ["echo", "delete"], (one, answer)


# -- T-48: the strict reading goes through all content at every depth ------------------------------------------------------------

DEEP = [[[{"a": [[{"b": {"c": "PLANT"}}]]}]]]
PLACES: dict[str, Any] = {
    "text": {"content": [{"type": "text", "text": "PLANT"}]},
    "text-annotations": {"content": [{"type": "text", "text": "x", "annotations": {"a": DEEP}}]},
    "second-block": {"content": [{"type": "text", "text": "x"}] * 9 + [{"type": "text", "text": "PLANT"}]},
    "resource-text": {"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "PLANT"}}]},
    "resource-blob": {"content": [{"type": "resource", "resource": {"uri": "file:///a", "blob": "PLANT"}}]},
    "resource-link": {"content": [{"type": "resource_link", "uri": "file:///a", "name": "PLANT"}]},
    "image": {"content": [{"type": "image", "data": "PLANT", "mimeType": "image/png"}]},
    "structured": {"content": [], "structuredContent": {"a": DEEP}},
    "meta": {"content": [], "_meta": {"a": DEEP}},
    "unknown-member": {"content": [], "later": DEEP},
}
WRONGS = {
    "duplicate-key": ('"PLANT"', '{"k": 1, "k": "' + CANARY + '"}'),
    "surrogate": ('"PLANT"', '"' + CANARY + '\\udc00"'),
    "nul-key": ('"PLANT"', '{"k\\u0000": "' + CANARY + '"}'),
    "control": ('"PLANT"', '"' + CANARY + '\x02"'),
}


def planted(value: Any, wrong: str) -> bytes:
    """JSON with something wrong at the planted place."""
    text = json.dumps(value)
    assert '"PLANT"' in text
    return text.replace(*WRONGS[wrong]).encode()


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("place", PLACES)
def test_t_48_nothing_hides_in_any_place_of_a_result(gate: Target, era: str, place: str, wrong: str) -> None:
    def script(ask: Ask) -> None:
        value = {**good_result(ask), "result": {**good_result(ask)["result"], **PLACES[place]}}
        ask.reply(200, planted(value, wrong), Content_Type="application/json")

    failed(gate, lied_to(gate, era, script), "upstream-malformed")


OTHER_PLACES: dict[str, Any] = {
    "error-message": {"error": {"code": -5, "message": "PLANT"}},
    "error-data": {"error": {"code": -5, "message": "x", "data": {"a": DEEP}}},
}
NOTICES: dict[str, Any] = {
    "progress": {
        "method": "notifications/progress",
        "params": {"progressToken": 1, "progress": 1, "message": "PLANT"},
    },
    "log": {"method": "notifications/message", "params": {"level": "info", "data": {"a": DEEP}}},
    "resource-updated": {"method": "notifications/resources/updated", "params": {"uri": "PLANT"}},
    "unknown": {"method": "notifications/later", "params": {"a": DEEP}},
}


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("place", [*OTHER_PLACES, *NOTICES])
def test_t_48_nothing_hides_in_errors_progress_and_logs(
    gate: Target, era: str, place: str, wrong: str
) -> None:
    def script(ask: Ask) -> None:
        if place in OTHER_PLACES:
            value = {"jsonrpc": "2.0", "id": ask.json["id"], **OTHER_PLACES[place]}
            return ask.reply(200, planted(value, wrong), Content_Type="application/json")
        ask.start_events()
        ask.chunk(b"data: " + planted({"jsonrpc": "2.0", **NOTICES[place]}, wrong) + b"\n\n")
        ask.event(good_result(ask))
        return ask.end()

    answer = lied_to(gate, era, script)
    assert CANARY.encode() not in answer.body and answer.code == FAILED, answer


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("method", ["prompts/list", "resources/list", "tools/list", "resources/read"])
def test_t_48_nothing_hides_in_lists_and_resources(gate: Target, era: str, method: str, wrong: str) -> None:
    def script(ask: Ask) -> None:
        key = {"prompts/list": "prompts", "resources/list": "resources", "tools/list": "tools"}.get(
            method, "contents"
        )
        item = {
            "name": "a",
            "uri": "file:///a",
            "description": "PLANT",
            "inputSchema": {"type": "object", "x": DEEP},
        }
        extra = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if ask.is_modern else {}
        value = {"jsonrpc": "2.0", "id": ask.json["id"], "result": {key: [item], **extra}}
        ask.reply(200, planted(value, wrong), Content_Type="application/json")

    params = {"uri": "file:///a"} if method == "resources/read" else None
    failed(gate, lied_to(gate, era, script, method, params=params), "upstream-malformed")


def test_t_48_sound_content_passes_in_all_these_places(gate: Target, era: str) -> None:
    for place, members in PLACES.items():
        script: Callable[[Ask], Any] = lambda ask, members=members: dict(members)
        answer = lied_to(gate, era, script)
        assert answer.status == 200 and "PLANT" in json.dumps(answer.json["result"]), (place, answer)
        for name, value in members.items():
            found = answer.json["result"][name]
            if name == "_meta":  # of a translated result it says which server gave it, too
                found = {key: one for key, one in found.items() if key in value}
            assert found == value


# -- lies about ids and roads ------------------------------------------------------------------------------------------------


def with_id(identity: Any) -> Callable[[Ask], None]:
    """An answer to another question."""
    return lambda ask: ask.say({**good_result(ask), "id": identity})


@pytest.mark.parametrize("identity", [2, "1", None, 1.0, 1.5, [], {}, "", -1, True], ids=repr)
def test_t_72_an_answer_with_another_id_is_nobodys(gate: Target, era: str, identity: Any) -> None:
    answer = lied_to(gate, era, with_id(identity))
    assert CANARY.encode() not in answer.body and answer.code == FAILED, answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_t_40_a_redirect_of_a_server_is_never_followed(gate: Target, era: str, status: int) -> None:
    elsewhere = HttpUpstream()
    try:
        answer = lied_to(gate, era, lambda ask: ask.reply(status, Location=elsewhere.url))
        failed(gate, answer, "upstream-status")
        assert elsewhere.hits == 0 and "location" not in answer.fields
    finally:
        elsewhere.close()


BROKEN_HTTP = {
    "no-http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "both-framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad-status": b"HTTP/1.1 abc OK\r\n\r\n",
    "nul-in-field": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "space-in-name": b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(5_000)) + b"\r\n",
    "long-field": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "interim-for-ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000,
    "gone": b"",
    "half": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("name", BROKEN_HTTP)
def test_t_79_broken_http_of_a_server_is_its_failure_only(gate: Target, era: str, name: str) -> None:
    workers = gate.stack.worker_pids()

    def script(ask: Ask) -> None:
        ask.send(BROKEN_HTTP[name])
        raise OSError("hang up")

    failed(gate, lied_to(gate, era, script))
    assert gate.stack.worker_pids() == workers


ODD_NOTICES: list[Any] = [
    {"method": "notifications/progress", "params": {"progressToken": {"a": 1}, "progress": 1}},
    {"method": "notifications/progress", "params": {"progressToken": [1], "progress": 1}},
    {"method": "notifications/progress", "params": {"progressToken": None}},
    {"method": "notifications/progress"},
    {"method": "notifications/progress", "params": {}},
    {"method": "notifications/message"},
    {"method": "notifications/message", "params": {"level": 5, "data": None}},
    {"method": "notifications/cancelled", "params": {"requestId": {"x": 1}}},
    {"method": "notifications/resources/updated", "params": {"uri": 5}},
    {"method": "notifications/tools/list_changed", "params": {"a": 1}},
    {"method": "notifications/subscriptions/acknowledged", "params": {"notifications": [1]}},
    {"method": "notifications/subscriptions/acknowledged", "params": {"notifications": {"a": {"b": 1}}}},
    {"method": "notifications/elicitation/complete", "params": {"elicitationId": {}}},
    {"method": "tools/call", "id": 5, "params": {"name": "x"}},
    {"method": "ping", "id": "x"},
    {"id": 99, "result": {}},
]


@pytest.mark.parametrize("number", range(len(ODD_NOTICES)))
@pytest.mark.parametrize("server", ["s", ""], ids=["own", "federated"])
def test_t_79_odd_notices_before_an_answer_do_no_harm(
    gate: Target, era: str, server: str, number: int
) -> None:
    workers = gate.stack.worker_pids()
    gate.passes(era)
    said = len(gate.stack.log())

    def script(ask: Ask) -> None:
        ask.start_events()
        ask.event({"jsonrpc": "2.0", **ODD_NOTICES[number]})
        ask.event(good_result(ask, "fine"))
        ask.end()

    name = "echo" if server else "s__echo"
    gate.upstream.on["tools/call"] = script
    try:
        session = gate.stack.session(server) if era == "legacy" else ""
        answer = gate.stack.call(era, server, name, session=session)
    finally:
        del gate.upstream.on["tools/call"]
    assert answer.status == 200 and (answer.code == FAILED or answer.text == "fine"), answer
    assert gate.stack.worker_pids() == workers
    assert '"level":"error"' not in gate.stack.log()[said:], gate.stack.log()[said:]
    gate.passes(era)
