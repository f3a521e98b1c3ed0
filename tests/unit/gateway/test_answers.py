"""What a client sees of refusals and errors: statuses, codes and header fields of each era in one table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.talks.talk import PlayedServer, Talk

from doorward.base.errors import CallerError, DoorwardError, StoreError, UpstreamError
from doorward.controls.control import Refuse
from doorward.gateway import answers
from doorward.protocol import codes

UP = UpstreamError("upstream-broke", "It broke.", "secret detail")


@pytest.mark.parametrize(
    ("refuse", "era", "status", "code"),
    [
        (Refuse(reason="r", tell="t"), "legacy", 200, -31001),
        (Refuse(reason="r", tell="t"), "modern", 200, -31001),
        (Refuse(reason="r", tell="t", code=codes.HEADER_MISMATCH), "modern", 400, codes.HEADER_MISMATCH),
        (Refuse(reason="r", tell="t", code=codes.METHOD_NOT_FOUND), "modern", 404, codes.METHOD_NOT_FOUND),
        (Refuse(reason="r", tell="t", code=codes.METHOD_NOT_FOUND), "legacy", 200, codes.METHOD_NOT_FOUND),
        (Refuse(reason="r", tell="t", code=codes.UNSUPPORTED_VERSION), "modern", 400, codes.UNSUPPORTED_VERSION),
        (Refuse(reason="r", tell="t", code=codes.LIMIT, status=429), "modern", 429, codes.LIMIT),
        (Refuse(reason="r", tell="t", status=403), "legacy", 403, -31001),
    ],
)  # fmt: skip
def test_a_refusal(refuse: Refuse, era: Any, status: int, code: int) -> None:
    reply = answers.refused(refuse, slug="x", event="E", message_id=5, method="tools/list", era=era)
    body = msgspec.json.decode(reply.body)
    assert (reply.status, body["id"], body["error"]["code"]) == (status, 5, code)
    assert body["error"]["data"]["control"] == "x" and body["error"]["data"]["event"] == "E"


def test_the_reason_for_the_record_is_not_told() -> None:
    reply = answers.refused(Refuse(reason="secret reason", tell="t"), slug="x", event="E", message_id=None)
    assert b"secret" not in reply.body and b'"id"' not in reply.body


def test_extra_fields_of_a_refusal_are_header_lines() -> None:
    refuse = Refuse(reason="r", tell="t", status=401, headers=(("WWW-Authenticate", 'Bearer scope="x"'),))
    reply = answers.refused(refuse, slug="x", event="E", message_id=None)
    assert reply.fields.startswith(b'WWW-Authenticate: Bearer scope="x"\r\n') and reply.fields.endswith(
        b"\r\n"
    )


@pytest.mark.parametrize(
    ("error", "era", "message_id", "status", "code"),
    [
        (CallerError("c", "t", status=413), None, None, 413, -32600),
        (CallerError("c", "t", rpc_code=-32602), "modern", 1, 400, -32602),
        (UP, "modern", 1, 200, codes.UPSTREAM_FAILED),
        (UP, "legacy", 1, 200, codes.UPSTREAM_FAILED),
        (UP, "legacy", None, 502, codes.UPSTREAM_FAILED),
        (UpstreamError("upstream-era", "t"), "modern", 1, 400, codes.UNSUPPORTED_VERSION),
        (UpstreamError("upstream-era", "t"), "legacy", 1, 200, codes.UPSTREAM_FAILED),
        (StoreError("s", "t"), "modern", 1, 503, codes.INTERNAL_ERROR),
        (DoorwardError("internal", "secret"), "modern", 1, 200, codes.INTERNAL_ERROR),
        (DoorwardError("internal", "secret"), None, None, 500, codes.INTERNAL_ERROR),
    ],
)  # fmt: skip
def test_a_failure(error: DoorwardError, era: Any, message_id: Any, status: int, code: int) -> None:
    reply = answers.failed(error, event="E", message_id=message_id, era=era)
    body = msgspec.json.decode(reply.body)
    assert (reply.status, body["error"]["code"], body.get("id")) == (status, code, message_id)
    assert b"secret" not in reply.body and body["error"]["data"]["event"] == "E"


# -- deny_as = "tool-result" ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_refused_tool_call_may_look_like_a_failed_tool(era: str) -> None:
    talk = Talk({"time": PlayedServer()}, deny_as="tool-result")
    params = {"name": "nope", "arguments": {}}
    if era == "legacy":
        ear = talk.legacy("time", talk.open("time"), "tools/call", params, id="a")
    else:
        ear = talk.modern("time", "tools/call", params, id="a")
    assert ear.status == 200 and ear.json["id"] == "a" and "error" not in ear.json
    result = ear.json["result"]
    assert result["isError"] is True and (result.get("resultType") == "complete") is (era == "modern")
    event = result["_meta"]["dev.doorward/refused"]["event"]
    assert event in result["content"][0]["text"]
    row = talk.journal.entries[-1]
    assert row["event"] == event and row["verdict"] == "refuse", "the record calls it what it is"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_what_is_no_tool_call_is_refused_as_an_error_all_the_same(era: str) -> None:
    talk = Talk({"time": PlayedServer()}, deny_as="tool-result")
    params = {"name": "nope"}
    if era == "legacy":
        ear = talk.legacy("time", talk.open("time"), "prompts/get", params)
    else:
        ear = talk.modern("time", "prompts/get", params)
    assert "error" in ear.json


def test_who_may_not_enter_gets_a_status_and_no_tool_result() -> None:
    talk = Talk({"time": PlayedServer()}, deny_as="tool-result")
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
    assert talk.send("time", call, token="").status == 401
