"""Attacks on the reading of messages: what two readers could understand differently is refused before anybody acts on it.

The strict reading itself cannot be switched off, so these have no twin; what it prevents is shown by the stand-in, whose
own reader takes the very same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.attacks.kit import Target, target
from tests.stack.wire import Wire
from tests.stand_ins.http_server import HttpUpstream

PARSE, INVALID, INVALID_PARAMS = -32700, -32600, -32602


@pytest.fixture(scope="module")
def gate(speaks: str) -> Iterator[Target]:
    with target(tables={"limits": {"body_bytes": 262_144}}, upstream=HttpUpstream(speaks)) as found:
        yield found


def forged(gate: Target, era: str, change: Callable[[bytes], bytes]) -> tuple[bytes, dict[str, Any]]:
    """A good call, changed as text."""
    body, fields = gate.message(era)
    before = json.dumps(body).encode()
    after = change(before)
    assert after != before
    return after, fields


def put(text: str, old: str = '"arguments": {}') -> Callable[[bytes], bytes]:
    """Put text in the place of a part of the call."""
    return lambda body: body.replace(old.encode(), text.encode("utf-8", "surrogatepass"))


CASE_VARIANTS = {
    "Name": put('"arguments": {}, "Name": "delete"'),
    "NAME": put('"arguments": {}, "NAME": "delete"'),
    "Arguments": put('"arguments": {}, "Arguments": {"x": 1}'),
    "METHOD": put('"METHOD": "tools/list", "method"', '"method"'),
    "Params": put('"Params": {"name": "delete"}, "params"', '"params"'),
    "Id": put('"Id": 7, "id"', '"id"'),
    "JSONRPC": put('"JSONRPC": "2.0", "jsonrpc"', '"jsonrpc"'),
    "long-s": put('"argument\u017f": {"x": 1}, "arguments": {}'),
    "_Meta": put('"arguments": {}, "_Meta": {}'),
}


@pytest.mark.parametrize("name", CASE_VARIANTS)
def test_t_02_a_case_variant_of_a_member_never_overrides_the_one_that_policy_saw(
    gate: Target, era: str, name: str
) -> None:
    gate.passes(era)
    body, fields = forged(gate, era, CASE_VARIANTS[name])
    gate.refuses(lambda: gate.stack.ask("s", body, **fields), 400, control="check-shape", code=INVALID)
    gate.passes(era)


def test_t_02_members_of_arguments_are_the_servers_own_and_come_as_they_were(gate: Target, era: str) -> None:
    arguments = {"Name": 1, "name": 2, "NAME": 3, "Arguments": {"a": 1, "A": 2}}
    answer = gate.call(era, arguments)
    assert json.loads(answer.text) == arguments


def test_t_02_what_policy_saw_is_what_the_server_gets(gate: Target, era: str) -> None:
    gate.call(era, {"x": 1.0, "y": 12345678901234567890})
    assert (
        b'"x":1.0' in gate.upstream.calls()[-1].body
        and b"12345678901234567890" in gate.upstream.calls()[-1].body
    )


HOSTILE_JSON = {
    "duplicate-name": put('"arguments": {}, "name": "delete"'),
    "duplicate-method": put('"method": "tools/list", "method"', '"method"'),
    "duplicate-deep": put('"arguments": {"a": [{"b": 1, "b": 2}]}'),
    "duplicate-escaped": put('"arguments": {}, "n\\u0061me": "delete"'),
    "nul-in-key": put('"arguments": {"na\\u0000me": 1}'),
    "nul-in-envelope": put('"arguments": {}, "name\\u0000": "delete"'),
    "lone-surrogate-key": put('"arguments": {"\\ud800": 1}'),
    "lone-surrogate-value": put('"arguments": {"a": "\\udfff"}'),
    "raw-surrogate": put('"arguments": {"a": "\ud800"}'),
    "byte-order-mark": lambda body: b"\xef\xbb\xbf" + body,
    "utf-16": lambda body: body.decode().encode("utf-16"),
    "bad-utf-8": lambda body: body.replace(b'"arguments": {}', b'"arguments": {"a": "\xff\xfe"}'),
    "overlong-utf-8": lambda body: body.replace(b'"arguments": {}', b'"arguments": {"a": "\xc0\xaf"}'),
    "nan": put('"arguments": {"a": NaN}'),
    "infinity": put('"arguments": {"a": -Infinity}'),
    "nesting-10000": put('"arguments": {"a": ' + "[" * 10_000 + "]" * 10_000 + "}"),
    "nesting-10000-open": lambda body: b'{"a":' * 10_000,
    "digits-100000": put('"arguments": {"a": ' + "9" * 100_000 + "}"),
    "digits-21": put('"arguments": {"a": ' + "9" * 21 + "}"),
    "leading-zero": put('"arguments": {"a": 01}'),
    "plus": put('"arguments": {"a": +1}'),
    "hexadecimal": put('"arguments": {"a": 0x1}'),
    "comment": put('"arguments": {} /* c */'),
    "trailing-comma": put('"arguments": {"a": 1,}'),
    "single-quotes": put("'arguments': {}"),
    "control-character": put('"arguments": {"a": "\x01"}'),
    "second-document": lambda body: body + b"{}",
    "trailing-nul": lambda body: body + b"\0",
    "cut": lambda body: body[:-1],
    "empty": lambda body: b"",
    "spaces": lambda body: b"  \n ",
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_t_04_a_text_that_readers_take_differently_is_refused_with_a_parse_error(
    gate: Target, era: str, name: str
) -> None:
    body, fields = forged(gate, era, HOSTILE_JSON[name])
    gate.refuses(lambda: gate.stack.ask("s", body, **fields), 400, control="check-shape", code=PARSE)


def test_t_04_ordinary_texts_of_every_script_pass_unchanged(gate: Target, era: str) -> None:
    arguments = {"a": "é\u4e2d\U0001f600\u202e\x7f", "b": [[[[]]]], "c": -0.5e-10, "d": {"e": None, "": True}}
    assert json.loads(gate.call(era, arguments).text) == arguments


BATCHES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "of-one": lambda call: [call],
    "mixed": lambda call: [{"jsonrpc": "2.0", "id": 9, "method": "ping"}, call],
    "of-notifications": lambda call: [{"jsonrpc": "2.0", "method": "notifications/initialized"}] * 3,
    "empty": lambda call: [],
    "nested": lambda call: [[call]],
    "of-1000": lambda call: [call] * 1000,
}


@pytest.mark.parametrize("name", BATCHES)
def test_t_22_a_batch_is_refused_whole(gate: Target, era: str, name: str) -> None:
    gate.passes(era)
    call, fields = gate.message(era)
    gate.refuses(
        lambda: gate.stack.ask("s", BATCHES[name](call), **fields), 400, control="check-shape", code=INVALID
    )


MALFORMED: dict[str, Any] = {
    "string": "text",
    "number": 1,
    "null": None,
    "no-version": {"id": 1, "method": "ping"},
    "old-version": {"jsonrpc": "1.0", "id": 1, "method": "ping"},
    "null-id": {"jsonrpc": "2.0", "id": None, "method": "ping"},
    "float-id": {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
    "object-id": {"jsonrpc": "2.0", "id": {}, "method": "ping"},
    "boolean-id": {"jsonrpc": "2.0", "id": True, "method": "ping"},
    "long-id": {"jsonrpc": "2.0", "id": "x" * 10_000, "method": "ping"},
    "number-method": {"jsonrpc": "2.0", "id": 1, "method": 5},
    "empty-method": {"jsonrpc": "2.0", "id": 1, "method": ""},
    "array-params": {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]},
    "string-params": {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": "x"},
    "both": {"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}},
    "result-and-error": {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
    "error-text": {"jsonrpc": "2.0", "id": 1, "error": "boom"},
    "nothing": {},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_t_79_malformed_json_rpc_is_answered_and_the_gateway_goes_on(
    gate: Target, era: str, name: str
) -> None:
    _, fields = gate.message(era)
    body = json.dumps(MALFORMED[name]).encode()
    code = INVALID_PARAMS if "params" in name else INVALID
    gate.refuses(lambda: gate.stack.ask("s", body, **fields), 400, control="check-shape", code=code)
    gate.passes(era)


# -- sizes, by count and not by promise ------------------------------------------------------------------------------


def test_t_77_a_body_beyond_the_limit_is_refused_when_it_is_announced(gate: Target, era: str) -> None:
    gate.passes(era)
    body, fields = gate.message(era)
    body["params"]["arguments"] = {"a": "x" * 300_000}
    gate.refuses(
        lambda: gate.stack.ask("s", body, **fields), 413, control="check-head", reason="body-too-large"
    )
    body["params"]["arguments"] = {"a": "x" * 200_000}
    assert gate.stack.ask("s", body, **fields).status == 200


def test_t_77_a_chunked_body_is_refused_when_it_has_grown_too_large(gate: Target, era: str) -> None:
    _, fields = gate.message(era)
    head = gate.stack.request("s", b"", **{**fields, "Content_Length": None, "Transfer_Encoding": "chunked"})
    before = gate.upstream.hits
    with Wire(gate.stack.port) as wire:
        wire.send(head)
        chunk = b"4000\r\n" + b"[" * 0x4000 + b"\r\n"
        for _ in range(20):  # more than the limit; the end never comes
            wire.send(chunk)
        answer = wire.read()
    assert answer.status == 413 and gate.upstream.hits == before
    row = gate.stack.row_of(answer)
    assert row["verdict"] == "refuse" and row["http_status"] == 413
    gate.passes(era)


def test_t_77_heads_are_bounded_in_every_direction(gate: Target) -> None:
    stack = gate.stack
    gate.passes()
    good = stack.request("s", {}).partition(b"\r\n\r\n")[0]
    cases = {
        431: [good + b"\r\nX-A: " + b"a" * 40_000, good + b"".join(b"\r\nX-%d: a" % n for n in range(150))],
        414: [good.replace(b"/s/mcp", b"/s/mcp?" + b"a" * 5_000)],
    }
    before = gate.upstream.hits
    for status, heads in cases.items():
        for head in heads:
            answer = stack.raw(head + b"\r\n\r\n")
            assert answer.status == status, answer
            assert stack.row_of(answer)["http_status"] == status
    assert gate.upstream.hits == before
    gate.passes()


def test_t_77_a_head_without_end_is_cut_off_in_time(gate: Target) -> None:
    """Fifty slow clients, a byte at a time and silent, against the ten seconds that a head may take."""
    gate.passes()
    wires = [Wire(gate.stack.port) for _ in range(50)]
    try:
        for number, wire in enumerate(wires):
            wire.send(b"POST /s/mcp HTTP/1.1\r\nHost: " if number % 2 else b"")
        gate.passes()
        for number, wire in enumerate(wires):
            if number % 2:
                assert wire.read_head()[0] == 408
            assert wire.is_closed()
    finally:
        for wire in wires:
            wire.close()
    gate.passes()
