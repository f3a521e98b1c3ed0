from __future__ import annotations

import pytest

from doorward.base.errors import CallerError
from doorward.protocol import envelope
from doorward.protocol.envelope import message_of, parse_message


def call(params: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params.encode() + b"}"


def test_the_three_kinds_are_told_apart() -> None:
    request = parse_message(b'{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{"cursor":""}}')
    assert (request.kind, request.method, request.id, request.params) == (
        "request",
        "tools/list",
        "a",
        {"cursor": ""},
    )
    assert request.params is request.value["params"]
    note = parse_message(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert (note.kind, note.id, note.params) == ("notification", None, None)
    answer = parse_message(b'{"jsonrpc":"2.0","id":7,"result":{}}')
    assert (answer.kind, answer.method, answer.id, answer.is_error) == ("response", "", 7, False)
    failure = parse_message(b'{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"x"}}')
    assert (failure.kind, failure.id, failure.is_error) == ("response", 7, True)


@pytest.mark.parametrize("body", [b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}',
                                  b'{"jsonrpc":"2.0","error":{"code":1,"message":""}}'])  # fmt: skip
def test_an_error_may_name_no_request(body: bytes) -> None:
    assert parse_message(body).id is None


@pytest.mark.parametrize(
    "message_id", ['""', '"1"', "0", "-5", "99999999999999999999", '"' + "x" * 256 + '"']
)
def test_integers_and_strings_are_ids(message_id: str) -> None:
    message = parse_message(b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % message_id.encode())
    assert envelope.encode(message) == b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % message_id.encode()


@pytest.mark.parametrize(
    "message_id",
    [
        "null",
        "true",
        "1.0",
        "1.5",
        "1e0",
        "-0",
        "{}",
        "[]",
        '{"a":1}',
        '"' + "x" * 257 + '"',
        "9" * 21,
        "9" * 5000,
    ],
)
def test_nothing_else_is_an_id(message_id: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_message(b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % message_id.encode())
    assert caught.value.status == 400
    if "9" not in message_id:
        assert caught.value.rpc_code == -32600


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"},1,null]',
        b'[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}},{"jsonrpc":"2.0","id":2,"method":"ping"}]',
        b"null",
        b"true",
        b'"x"',
        b"1",
        b"{}",
        b'{"id":1,"method":"tools/list"}',
        b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
        b'{"jsonrpc":2.0,"id":1,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"method":["tools/call"]}',
        b'{"jsonrpc":"2.0","id":1,"method":null}',
        b'{"jsonrpc":"2.0","id":1,"method":""}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","error":null}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"params":{}}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":null,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":null}',
        b'{"jsonrpc":"2.0","id":1,"error":"x"}',
        b'{"jsonrpc":"2.0","id":1,"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1.0,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"x"}}',
    ],
)
def test_what_is_no_single_message_is_refused(body: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        parse_message(body)
    assert (caught.value.status, caught.value.rpc_code) == (400, -32600)


@pytest.mark.parametrize("params", ["null", "[]", '["delete_file",{}]', '"x"', "1"])
def test_params_are_an_object(params: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_message(call(params))
    assert (caught.value.status, caught.value.rpc_code) == (400, -32602)
    assert caught.value.message_id == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"ID":2,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","Params":{}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","paramſ":{}}'.encode(),
        '{"jsonrpc":"2.0","ıd":1,"method":"tools/list"}'.encode(),
        b'{"JSONRPC":"2.0","jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}',
        call('{"name":"safe","Name":"delete_file","arguments":{}}'),
        call('{"name":"safe","arguments":{},"argument\\u017f":{"path":"/etc/passwd"}}'),
        call('{"name":"safe","ARGUMENTS":{}}'),
        call('{"name":"safe","_META":{}}'),
        call('{"name":"safe","_meta":{"io.modelcontextprotocol/ProtocolVersion":"2026-07-28"}}'),
        call('{"name":"safe","_meta":{"progresstoken":1}}'),
    ],
)
def test_a_member_in_other_letter_case_is_refused(body: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        parse_message(body)
    assert caught.value.code == "message-case-variant"


@pytest.mark.parametrize(
    "body",
    [
        call('{"name":"safe","arguments":{"Name":1,"name":2,"ID":3,"__proto__":{"x":1}}}'),
        call('{"name":"safe","_meta":{"com.example/thing":1},"vendor":true}'),
        b'{"jsonrpc":"2.0","id":1,"result":{"Name":1,"name":2}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","x":"y"}',
    ],
)
def test_other_members_are_carried_as_they_are(body: bytes) -> None:
    assert envelope.encode(parse_message(body)) == body


def test_string_and_integer_ids_stay_apart() -> None:
    assert parse_message(b'{"jsonrpc":"2.0","id":"1","method":"ping"}').id == "1"
    assert parse_message(b'{"jsonrpc":"2.0","id":1,"method":"ping"}').id == 1


def test_what_is_built_can_be_read_back() -> None:
    for built in (
        envelope.request(1, "tools/call", {"name": "x"}),
        envelope.request("a", "ping"),
        envelope.notification("notifications/progress", {"progress": 1}),
        envelope.notification("notifications/initialized"),
        envelope.response(5, {"tools": []}),
        envelope.error(5, -32601, "no", {"a": 1}),
        envelope.error(None, -32700, "no"),
    ):
        assert parse_message(envelope.encode(built)) == built


def test_an_id_is_replaced_without_touching_the_original() -> None:
    original = envelope.request("client-1", "tools/call", {"name": "x"})
    moved = envelope.with_id(original, 9)
    assert (moved.id, moved.value["id"], original.id, original.value["id"]) == (9, 9, "client-1", "client-1")
    assert moved.params is original.params


def test_a_parsed_list_is_a_batch() -> None:
    with pytest.raises(CallerError) as caught:
        message_of([])
    assert caught.value.code == "message-batch"
