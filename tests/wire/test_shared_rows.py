"""Rows of wire data that somebody else keeps, where DOORWARD_SHARED_ROWS names their folder; none are ours."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from doorward.base.errors import CallerError
from doorward.controls.check_shape import CheckShape
from doorward.controls.control import Call, Head, Refuse
from doorward.identity.principal import LOCAL
from doorward.protocol.envelope import encode, parse_message
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.sse import SseReader, write_event

FOLDER = os.environ.get("DOORWARD_SHARED_ROWS", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="DOORWARD_SHARED_ROWS names no folder")

# What the door lets through, by the rows' own expectations; everything else in the file is refused.
SERVED = {
    "nul-in-name", "neg-zero", "int-2^53+1", "int-2^64", "empty-str-id", "id-str-1-vs-int-1", "u2028", "u0085-vt-ff",
    "name-unicode-confusable", "name-nfkc", "name-ws", "proto-pollution", "client-sends-response", "cancel-other",
    "progress-token-steal", "huge-string-20MB",
}  # fmt: skip


def rows(name: str) -> list[dict[str, Any]]:
    path = Path(FOLDER) / name
    if not FOLDER or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def generated(name: str) -> bytes:
    """Bodies that are too large to be kept as rows."""
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping","x":%s}'
    return {
        "id-1MB": b'{"jsonrpc":"2.0","id":"' + b"x" * 1_000_000 + b'","method":"ping"}',
        "deep-array-100k": ping % (b"[" * 100_000 + b"]" * 100_000),
        "deep-obj-20k": ping % (b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
        "batch-10k": b"[" + b",".join([ping % b"1"] * 10_000) + b"]",
        "hash-collide": b"{" + b",".join(b'"%d":0' % number for number in range(20_001)) + b"}",
    }[name]


def is_refused(body: bytes) -> bool:
    try:
        message = parse_message(body)
    except CallerError as error:
        assert error.status == 400
        return True
    head = Head(verb="POST", path="/x/mcp", query="", fields={}, repeated=frozenset())
    call = Call(head=head, principal=LOCAL, server="x", era="legacy", message=message, event="")
    return isinstance(CheckShape().request(call, {}), Refuse)


@pytest.mark.parametrize("row", rows("json-rpc-bodies.jsonl"), ids=lambda row: str(row["id"]))
def test_a_body_has_the_expected_outcome(row: dict[str, Any]) -> None:
    body = base64.b64decode(row["b64"]) if row["b64"] is not None else generated(row["id"])
    assert is_refused(body) is (row["id"] not in SERVED)
    if row["id"] in SERVED:
        written = encode(parse_message(body))
        assert json.loads(written) == json.loads(body)


@pytest.mark.parametrize("row", rows("sse.jsonl"), ids=lambda row: str(row["id"]))
def test_a_payload_stays_within_its_event(row: dict[str, Any]) -> None:
    data = encode_json({"text": row["payload"].encode().decode("unicode_escape")})
    (event,) = SseReader(1_000_000).feed(write_event(data))
    assert parse_json(event.data.encode()) == parse_json(data)
