from __future__ import annotations

from typing import Any

import pytest

from doorward.controls.check_head import CheckHead, accepted, is_json
from doorward.controls.control import Call, Head, Refuse
from doorward.identity.principal import LOCAL
from doorward.protocol import headers
from doorward.protocol.envelope import notification, request
from doorward.protocol.message import Era, Message

BOTH = "application/json, text/event-stream"
PLAIN = {"accept": BOTH, "content-type": "application/json"}
MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}


def head(
    verb: str = "POST", fields: dict[str, str] | None = None, repeated: frozenset[str] = frozenset()
) -> Head:
    made = Head(
        verb=verb, path="/time/mcp", query="", fields=PLAIN if fields is None else fields, repeated=repeated
    )
    made.server = "time"
    return made


def judge(made: Head) -> Refuse | None:
    verdict = CheckHead(1_000).head(made)
    assert verdict is None or isinstance(verdict, Refuse)
    return verdict


def status(made: Head) -> int:
    verdict = judge(made)
    return 0 if verdict is None else verdict.status


def test_an_ordinary_post_passes_and_is_marked() -> None:
    made = head()
    assert judge(made) is None
    assert made.accepts_json
    assert made.accepts_stream


@pytest.mark.parametrize("verb", ["PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "post", "PROPFIND"])
def test_other_verbs_are_told_which_are_allowed(verb: str) -> None:
    verdict = judge(head(verb))
    assert verdict is not None
    assert verdict.status == 405
    assert verdict.headers == (("Allow", "POST, GET, DELETE"),)


@pytest.mark.parametrize("accept", [None, "application/json", "text/event-stream", "text/html",
                                    "application/json, text/event-stream;q=0", "application/json;q=0.0, text/*"])  # fmt: skip
def test_a_post_that_cannot_take_both_kinds_is_406(accept: str | None) -> None:
    fields = {**PLAIN, "accept": accept} if accept is not None else {"content-type": "application/json"}
    assert status(head(fields=fields)) == 406


@pytest.mark.parametrize("accept", ["*/*", "application/*, text/*", "TEXT/EVENT-STREAM , application/JSON;q=0.5",
                                    "application/json;charset=utf-8,text/event-stream;q=0.001"])  # fmt: skip
def test_ranges_and_weights_are_understood(accept: str) -> None:
    assert accepted(accept) == (True, True)


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json-patch+json",
     "application/jsonp", "application/json, text/plain", "application/json; charset=utf-16", "text/json"],
)  # fmt: skip
def test_other_media_types_are_415(kind: str | None) -> None:
    assert not is_json(kind)
    fields = {"accept": BOTH} if kind is None else {"accept": BOTH, "content-type": kind}
    assert status(head(fields=fields)) == 415


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"']
)
def test_json_in_utf8_is_taken(kind: str) -> None:
    assert is_json(kind)


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip, br", "deflate"])
def test_compressed_bodies_are_415(coding: str) -> None:
    assert status(head(fields={**PLAIN, "content-encoding": coding})) == 415


def test_an_announced_body_over_the_limit_is_413() -> None:
    made = head()
    made.content_length = 1_000
    assert status(made) == 0
    made.content_length = 1_001
    assert status(made) == 413


@pytest.mark.parametrize(
    "name", ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "mcp-param-x"]
)
def test_repeated_mcp_headers_are_refused(name: str) -> None:
    verdict = judge(head(fields={**PLAIN, name: "a, b"}, repeated=frozenset({name})))
    assert verdict is not None
    assert (verdict.status, verdict.code) == (400, -32020)


def test_a_legacy_get_needs_a_stream() -> None:
    assert status(head("GET", {"accept": "text/event-stream"})) == 0
    assert status(head("GET", {"accept": "application/json"})) == 406
    assert status(head("GET", {})) == 406
    assert status(head("DELETE", {})) == 0


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_the_modern_era_has_only_post(verb: str) -> None:
    verdict = judge(head(verb, {"accept": BOTH, "mcp-protocol-version": MODERN}))
    assert verdict is not None
    assert (verdict.status, verdict.headers) == (405, (("Allow", "POST"),))


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_an_unknown_version_on_a_session_verb_is_400(verb: str) -> None:
    assert status(head(verb, {"accept": BOTH, "mcp-protocol-version": "1999-01-01"})) == 400


def test_an_unknown_version_on_a_post_is_left_to_the_body() -> None:
    assert status(head(fields={**PLAIN, "mcp-protocol-version": "1999-01-01"})) == 0


@pytest.mark.parametrize("value", ["a b", "a\tb", "é", "x" * 1_025, "../x\r\nX: y"])
@pytest.mark.parametrize("name", ["mcp-session-id", "last-event-id"])
def test_session_headers_are_visible_ascii(name: str, value: str) -> None:
    assert status(head("GET", {"accept": BOTH, name: value})) == 400


def test_paths_that_are_not_mcp_are_left_to_their_own_handler() -> None:
    made = head("PUT", {})
    made.server = None
    assert judge(made) is None


def call(
    message: Message, fields: dict[str, str], era: Era = "modern", schema: dict[str, Any] | None = None
) -> Call:
    made = Call(head=head(fields=fields), principal=LOCAL, server="time", era=era, message=message, event="e")
    made.schema = schema
    return made


def test_mirrored_headers_must_agree_with_the_body() -> None:
    control = CheckHead(1_000)
    message = request(1, "tools/call", {"name": "safe", "arguments": {}, "_meta": META})
    fields = {name.lower(): value for name, value in headers.modern_fields(message, MODERN)}
    assert control.request(call(message, fields), {}) is None
    verdict = control.request(call(message, {**fields, "mcp-name": "other"}), {})
    assert isinstance(verdict, Refuse)
    assert (verdict.status, verdict.code) == (400, -32020)


def test_a_missing_envelope_is_left_to_check_shape() -> None:
    assert CheckHead(1_000).request(call(request(1, "tools/list"), {"mcp-method": "other"}), {}) is None


def test_lying_headers_are_refused_in_the_legacy_era_too() -> None:
    control = CheckHead(1_000)
    message = request(1, "tools/call", {"name": "delete_file"})
    assert control.request(call(message, {}, "legacy"), {}) is None
    for fields in ({"mcp-method": "tools/list"}, {"mcp-name": "safe_tool"}):
        verdict = control.request(call(message, fields, "legacy"), {})
        assert isinstance(verdict, Refuse)
        assert verdict.status == 400


def test_a_notification_needs_no_headers_but_may_not_lie() -> None:
    control = CheckHead(1_000)
    message = notification("notifications/cancelled", {"requestId": 1})
    assert control.request(call(message, {}), {}) is None
    assert isinstance(control.request(call(message, {"mcp-method": "tools/call"}), {}), Refuse)
