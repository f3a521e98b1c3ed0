"""Structure-aware mutations: of bytes with the words of HTTP, JSON and event streams, and of JSON values as trees."""

from __future__ import annotations

import copy
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("DOORWARD_FUZZ_EXAMPLES", "0"))  # 0: the bounded form of `make test`


def bounded(examples: int) -> settings:
    """Settings of a fuzz test: ``examples`` in `make test`, what the environment says in `make fuzz`."""
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        database=None,
        print_blob=True,
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )


WORDS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b":", b" ", b"\t", b",", b";", b'"', b"\\", b"{", b"}", b"[", b"]", b"0",
    b"-1", b"1e999", b"99999999999999999999999", b"NaN", b"null", b"true", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80",
    b"\\u0000", b"\\ud800", b"\\udc00", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"POST ", b"GET ", b"Host: x\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b"Trailer: X\r\n",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"ffffffffffffffff\r\n", b"data: ", b"data:\n", b"event: message\n", b"event: x\n", b"id: 1\n", b"id: \0\n",
    b"retry: 99999999999\n", b": comment\n", b'"jsonrpc":', b'"id":', b'"method":', b'"params":', b'"result":', b'"error":', b'"_meta":',
    b'"Result":', b'"ID":', b'"name":', b'"2.0"', b"Mcp-Session-Id: x\r\n", b"Mcp-Method: x\r\n", b"Mcp-Name: =?base64?eA==?=\r\n",
    b"MCP-Protocol-Version: 2099-01-01\r\n", b"Last-Event-ID: c-1\r\n", b"Origin: null\r\n",
]  # fmt: skip

_place = st.floats(0, 1, exclude_max=True)
_operation = st.one_of(
    st.tuples(st.just("insert"), _place, st.sampled_from(WORDS)),
    st.tuples(st.just("insert"), _place, st.binary(min_size=1, max_size=6)),
    st.tuples(st.just("replace"), _place, st.sampled_from(WORDS)),
    st.tuples(st.just("delete"), _place, st.integers(1, 40)),
    st.tuples(st.just("flip"), _place, st.integers(0, 255)),
    st.tuples(st.just("repeat"), _place, st.integers(1, 60)),
    st.tuples(st.just("cut"), _place, st.none()),
    st.tuples(st.just("line"), _place, st.sampled_from(WORDS)),
)
operations = st.lists(_operation, min_size=1, max_size=4)


def change(base: bytes, steps: list[Any]) -> bytes:
    """Apply byte operations; a place is a share of the length."""
    data = base
    for kind, share, value in steps:
        at = int(share * len(data))
        match kind:
            case "insert":
                data = data[:at] + value + data[at:]
            case "replace":
                data = data[:at] + value + data[at + len(value) :]
            case "delete":
                data = data[:at] + data[at + value :]
            case "flip":
                data = data[:at] + bytes([value]) + data[at + 1 :]
            case "repeat":
                data = data[:at] + data[at : at + value] * 2 + data[at + value :]
            case "cut":
                data = data[:at]
            case "line":  # after the next line end, where the words of a head or of an event belong
                end = data.find(b"\n", at) + 1
                data = data[:end] + value + data[end:]
    return data


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20), st.sampled_from(["", "2.0", "echo", "tools/call", "2026-07-28", "\x00", "\u202e", "a" * 5_000]),
)  # fmt: skip
values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_tree_step = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 500), values),
    st.tuples(st.just("drop"), st.integers(0, 500), st.none()),
    st.tuples(st.just("add"), st.integers(0, 500), st.tuples(st.sampled_from(["_meta", "id", "result", "error", "x", "name", "uri", "params"]), values)),
    st.tuples(st.just("rename"), st.integers(0, 500), st.sampled_from([str.upper, str.title, str.swapcase])),
    st.tuples(st.just("nest"), st.integers(0, 500), st.integers(1, 260)),
)  # fmt: skip
tree_steps = st.lists(_tree_step, min_size=1, max_size=3)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    found: list[tuple[Any, Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        found.append((value, key))
        found += places(inner)
    return found


def reshape(base: Any, steps: list[Any]) -> Any:
    """Apply tree operations to a copy."""
    tree = copy.deepcopy(base)
    for kind, number, value in steps:
        known = places(tree)
        if not known:
            return tree
        container, key = known[number % len(known)]
        match kind:
            case "set":
                container[key] = value
            case "drop":
                del container[key]
            case "add" if isinstance(container, dict):
                container[value[0]] = value[1]
            case "rename" if isinstance(container, dict):
                container[value(key)] = container.pop(key)
            case "nest":
                inner = container[key]
                for _ in range(value):
                    inner = [inner]
                container[key] = inner
    return tree
