from __future__ import annotations

import pytest

from doorward.base import limits
from doorward.base.errors import CallerError
from doorward.protocol.json_door import encode_json, parse_json

DUPLICATES = [
    b'{"a":1,"a":2}',
    b'{"a":1,"\\u0061":2}',
    b'{"x":{"path":"ok","path":"/etc/passwd"}}',
    b'[[{"a":1,"b":2,"a":1}]]',
]
NOT_JSON = [
    b"",
    b"   ",
    b"{",
    b'{"a":1,}',
    b"{'a':1}",
    b'{"a":1}/*x*/',
    b'{"a":1}{"b":2}',
    b'{"a":1}\n{"b":2}',
    b'{"a":1}\0',
    b")]}'\n{}",
    b'"a\nb"',
    b'"\x1b[2J"',
    b"[NaN]",
    b"[-Infinity]",
    b"[01]",
    b"[+1]",
    b"[.5]",
    b"[1.]",
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16-le"),
    "{}".encode("utf-16"),
    "{}".encode("utf-32-le"),
    b"+AHs-+AH0-",
    b'"\xff\xfe"',
    b'"\xc0\xae"',
    b'"\xe9"',
    b'"\xed\xa0\x80"',
    b'"\\ud83d"',
    b'"\\ude00x"',
    b'"\\ude00\\ud83d"',
    b'{"name\\ud800":1}',
]
UNWANTED = [
    b"[1e999]",
    b"[-1e+999]",
    b"[1" + b"0" * 400 + b".5]",
    b"[" + b"9" * 21 + b"]",
    b'{"a":{"b":[-' + b"9" * 21 + b"]}}",
    b"[18446744073709551616,1e999]",
    b'{"name\\u0000":1}',
    b'{"a":[{"b\\u0000c":1}]}',
]


@pytest.mark.parametrize("body", DUPLICATES)
def test_a_member_named_twice_is_refused(body: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.rpc_code) == (400, -32700)


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_not_json_in_utf8_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.rpc_code) == (400, -32700)


@pytest.mark.parametrize("body", UNWANTED)
def test_json_that_readers_understand_differently_is_refused(body: bytes) -> None:
    with pytest.raises(CallerError) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.rpc_code) == (400, -32700)


@pytest.mark.parametrize("digits", [5_000, 4_301, 100_000])
def test_an_endless_integer_is_refused(digits: int) -> None:
    with pytest.raises(CallerError) as caught:
        parse_json(b"[" + b"9" * digits + b"]")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "text",
    [
        b'{"n":1.10}',
        b'{"n":1e5}',
        b'{"n":-0}',
        b'{"n":[-0,0,-0.0]}',
        b'{"n":9007199254740993}',
        b'{"n":18446744073709551616}',
        b'{"n":99999999999999999999}',
        b'{"n":0.1000000000000000055511151231257827021181583404541015625}',
        b'{"n":1E-400}',
    ],
)
def test_numbers_keep_their_digits(text: bytes) -> None:
    assert encode_json(parse_json(text)) == text


def test_long_digit_runs_in_strings_are_nobodys_business() -> None:
    text = b'{"a":"' + b"9" * 4_000 + b'1e999 -0, NaN","b":"x-0]"}'
    assert encode_json(parse_json(text)) == text


def test_nesting_is_capped() -> None:
    depth = limits.NESTING_DEPTH
    parse_json(b"[" * depth + b"]" * depth)
    for kind in (b"[" * (depth + 2) + b"]" * (depth + 2), b'{"a":' * (depth + 1) + b"1" + b"}" * (depth + 1)):
        with pytest.raises(CallerError) as caught:
            parse_json(kind)
        assert caught.value.code == "json-depth"
    for depth in (500, 100_000):
        with pytest.raises(CallerError):
            parse_json(b"[" * depth + b"]" * depth)


def test_an_object_has_a_bounded_number_of_members() -> None:
    members = [b'"%d":0' % n for n in range(limits.KEYS_COUNT + 1)]
    parse_json(b"{" + b",".join(members[:-1]) + b"}")
    with pytest.raises(CallerError) as caught:
        parse_json(b"{" + b",".join(members) + b"}")
    assert caught.value.code == "json-members"


def test_nul_in_a_value_stays_whole() -> None:
    assert parse_json(b'{"path":"ok.txt\\u0000/../x"}') == {"path": "ok.txt\0/../x"}


def test_what_is_told_holds_no_text_of_the_peer() -> None:
    with pytest.raises(CallerError) as caught:
        parse_json(b'{"secret-key":1,"secret-key":2}')
    assert "secret" not in caught.value.tell


def test_no_line_separator_leaves_unescaped() -> None:
    text = 'a\u2028b\u2029c\x85d\x0b\x0c\r\n"é😀'
    written = encode_json({"t": text})
    assert len(written.decode().splitlines()) == 1
    assert parse_json(written) == {"t": text}
    assert "é😀".encode() in written


def test_what_is_no_json_value_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        encode_json({"x": object()})
