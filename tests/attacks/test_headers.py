"""Attacks by header fields: internal and routing ones, codings that nobody decodes, and copies that disagree with the body."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.protocol import codes
from tests.attacks.kit import Target, target
from tests.stack.kit import descendants, processes
from tests.stack.wire import Answer, Wire
from tests.stand_ins.http_server import HttpUpstream, tool

INTERNAL = {
    "X_Doorward_Principal": "admin", "X_Doorward_Internal": "1", "X_Internal_Auth": "default", "X_Forwarded_User": "admin",
    "X_Forwarded_For": "127.0.0.1", "X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "https",
    "X_Forwarded_Prefix": "/admin", "X_Real_IP": "127.0.0.1", "Forwarded": "for=127.0.0.1;host=evil.example",
    "X_Original_URL": "/other/mcp", "X_Rewrite_URL": "/other/mcp", "X_Authority": "evil.example", "X_Mcp_Server": "other",
    "X_HTTP_Method_Override": "DELETE", "X_Remote_User": "admin", "Remote_User": "admin", "X_Auth_Request_User": "admin",
    "X_Client_Cert": "admin", "X_Envoy_Internal": "true", "X_Amzn_Oidc_Identity": "admin",
}  # fmt: skip
PASSED_ON = {
    "Cookie": "session=of-the-client", "Proxy_Authorization": "Basic Zm9v", "Proxy_Connection": "keep-alive", "Via": "1.1 a",
    "X_Api_Key": "of-the-client", "Referer": "http://secret.example/", "Accept_Encoding": "gzip", "TE": "trailers",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "User_Agent": "client/1",
}  # fmt: skip
# Everything that Doorward says to a server of each era; nothing else may ever stand there.
OWN = {"host", "user-agent", "accept", "content-type", "content-length"}
OWN_OF = {
    "modern": OWN | {"mcp-protocol-version", "mcp-method", "mcp-name"},
    "legacy": OWN | {"mcp-protocol-version", "mcp-session-id"},
}


@pytest.fixture(scope="module")
def gate(speaks: str) -> Iterator[Target]:
    schema = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    tools = [tool("echo"), tool("delete", read_only=False), tool("regional", **schema)]
    upstream = HttpUpstream(speaks, tools)
    with target(upstream=upstream) as found:
        yield found


@pytest.fixture(scope="module")
def without_head_check(speaks: str) -> Iterator[Target]:
    with target(off=("check-head",), upstream=HttpUpstream(speaks)) as found:
        yield found


# -- T-01 ------------------------------------------------------------------------------------------------------------------


def test_t_01_no_header_stands_in_for_a_token(gate: Target, era: str) -> None:
    gate.passes(era)
    for name, value in INTERNAL.items():
        gate.refuses(
            lambda name=name, value=value: gate.post(era, Authorization=None, **{name: value}),  # type: ignore[misc]
            401, control="check-token",
        )  # fmt: skip
    gate.refuses(lambda: gate.post(era, Authorization=None, **INTERNAL), 401, control="check-token")
    for value in ("Bearer default", "Bearer ", "Bearer doorward", "Basic YWRtaW46YWRtaW4=", "bearer", "x"):
        before = gate.upstream.hits
        answer = gate.post(era, Authorization=value, **INTERNAL)
        assert answer.status in (400, 401) and gate.upstream.hits == before, answer


def test_t_01_a_call_without_token_works_once_the_control_is_off(era: str) -> None:
    with target(off=("check-token",)) as open_gate:
        open_gate.lets_through(lambda: open_gate.post(era))


def test_t_01_no_header_of_a_client_goes_to_a_server(gate: Target, era: str, speaks: str) -> None:
    answer = gate.passes(era, **INTERNAL, **PASSED_ON)
    seen = gate.upstream.calls()[-1]
    assert set(seen.fields) == OWN_OF[speaks], seen.head
    assert len(seen.lines) == len(seen.fields)
    assert seen.fields["host"] == f"127.0.0.1:{gate.upstream.port}" and seen.fields["user-agent"].startswith(
        "doorward/"
    )
    for value in (*INTERNAL.values(), *PASSED_ON.values()):
        assert len(value) < 6 or value.encode() not in seen.raw.replace(b"127.0.0.1", b""), value
    assert gate.stack.token("s").encode() not in gate.upstream.seen_bytes()
    row = gate.stack.rows(limit=1)[0]
    assert row["principal"] == "alice" and row["address"] == "127.0.0.1" and answer.status == 200


def test_t_01_no_header_chooses_another_server_or_verb(gate: Target, era: str) -> None:
    gate.passes(era, X_Original_URL="/nowhere", X_HTTP_Method_Override="DELETE", X_Authority="evil.example")
    assert gate.stack.rows(limit=1)[0]["server"] == "s"


def test_t_01_no_secret_stands_on_a_command_line_and_no_key_is_a_default(
    gate: Target, tmp_path: Path
) -> None:
    process = gate.stack.process
    assert process is not None
    keys = gate.stack.data_dir / "keys"
    secrets = [path.read_bytes() for path in keys.rglob("*") if path.is_file()]
    gate.stack.wait_admin()
    secrets.append((gate.stack.data_dir / "admin-token").read_bytes().strip())
    assert len(secrets) > 3
    table = processes()
    for pid in (process.pid, *descendants(process.pid)):
        seen = table[pid][1].encode() + Path(f"/proc/{pid}/environ").read_bytes()
        for secret in secrets:
            for form in (secret.strip(), secret.hex().encode()):
                assert form not in seen
    with target() as other:
        theirs = {
            path.name: path.read_bytes()
            for path in (other.stack.data_dir / "keys").rglob("*")
            if path.is_file()
        }
        assert not set(theirs.values()) & set(secrets), "every installation makes keys of its own"
        token = other.stack.token("s")
    gate.refuses(lambda: gate.post("modern", Authorization=f"Bearer {token}"), 401, control="check-token")


# -- T-23 ------------------------------------------------------------------------------------------------------------------


def test_t_23_a_body_in_another_character_set_is_refused(gate: Target, era: str) -> None:
    gate.passes(era)
    body, fields = gate.message(era)
    for charset in ("utf-16", "utf-7", "iso-8859-1", "utf-32", "x"):
        content = json.dumps(body).encode(charset if charset != "x" else "utf-8")
        gate.refuses(
            lambda content=content, charset=charset: gate.stack.ask(  # type: ignore[misc]
                "s", content, **{**fields, "Content_Type": f"application/json; charset={charset}"}
            ),
            415,
            control="check-head",
        )


CODINGS = {
    "gzip": gzip.compress, "deflate": zlib.compress, "br": bytes, "zstd": bytes, "x-gzip": gzip.compress,
    "identity, gzip": gzip.compress, "gzip, identity": gzip.compress,
}  # fmt: skip


@pytest.mark.parametrize("coding", CODINGS)
def test_t_23_a_coded_body_is_refused_and_never_passed_through(gate: Target, era: str, coding: str) -> None:
    gate.passes(era)
    body, fields = gate.message(era)
    content = CODINGS[coding](json.dumps(body).encode())
    gate.refuses(
        lambda: gate.stack.ask("s", content, **{**fields, "Content_Encoding": coding}),
        415,
        control="check-head",
    )


@pytest.mark.parametrize(
    "coding",
    ["gzip", "gzip, chunked", "chunked, gzip", "identity", "chunked, chunked", "xchunked", "", "chunked;q=1"],
)
def test_t_23_a_transfer_coding_other_than_chunked_is_refused(gate: Target, era: str, coding: str) -> None:
    body, fields = gate.message(era)
    content = json.dumps(body).encode()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    good = {**fields, "Content_Length": None}
    assert gate.stack.ask("s", chunked, **{**good, "Transfer_Encoding": "chunked"}).status == 200
    before = gate.upstream.hits
    answer = gate.stack.ask("s", chunked, **{**good, "Transfer_Encoding": coding})
    assert answer.status in (400, 501) and gate.upstream.hits == before, answer
    assert gate.stack.row_of(answer)["control"] == "check-head"


def smuggles(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Framings of which two readers see different requests."""
    return {
        "both": {**fields, "Transfer_Encoding": "chunked"},
        "two-lengths": {**fields, "Content_Length": ["5", "6"]},
        "length-list": {**fields, "Content_Length": "5, 5"},
        "plus": {**fields, "Content_Length": "+5"},
        "negative": {**fields, "Content_Length": "-5"},
        "hex": {**fields, "Content_Length": "0x5"},
        "space": {**fields, "Content_Length": "5 5"},
        "huge": {**fields, "Content_Length": "9" * 30},
        "te-twice": {**fields, "Content_Length": None, "Transfer_Encoding": ["chunked", "identity"]},
        "te-space": {**fields, "Content_Length": None, "Transfer_Encoding ": "chunked"},
        "te-tab": {**fields, "Content_Length": None, "Transfer_Encoding": "\tchunked\x0b"},
    }


def test_t_23_a_smuggled_second_request_never_gets_through(gate: Target, era: str) -> None:
    gate.passes(era)
    _, fields = gate.message(era)
    inner = gate.stack.request("s", gate.message(era)[0], **fields)
    for name, attack in smuggles(fields).items():
        before = gate.upstream.hits
        with Wire(gate.stack.port) as wire:
            wire.send(gate.stack.request("s", b"0\r\n\r\n" + inner, **attack))
            answer = wire.read()
            assert answer.status in (400, 413), (name, answer)
            assert wire.is_closed(), name
        assert gate.upstream.hits == before, name


# -- T-105 -----------------------------------------------------------------------------------------------------------------

MISMATCHES: dict[str, dict[str, Any]] = {
    "method-lies": {"Mcp_Method": "tools/list"},
    "name-lies": {"Mcp_Name": "delete"},
    "name-in-other-case": {"Mcp_Name": "Echo"},
    "method-missing": {"Mcp_Method": None},
    "name-missing": {"Mcp_Name": None},
    "name-encoded-lie": {"Mcp_Name": "=?base64?ZGVsZXRl?="},
    "name-bad-base64": {"Mcp_Name": "=?base64?!!?="},
    "version-missing": {"MCP_Protocol_Version": None},
    "version-legacy": {"MCP_Protocol_Version": "2025-11-25"},
    "version-unknown": {"MCP_Protocol_Version": "2099-01-01"},
    "method-twice": {"Mcp_Method": ["tools/call", "tools/list"]},
    "name-twice": {"Mcp_Name": ["echo", "delete"]},
    "version-twice": {"MCP_Protocol_Version": ["2026-07-28", "2025-11-25"]},
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_t_105_a_header_that_disagrees_with_the_body_is_refused(gate: Target, name: str) -> None:
    gate.passes("modern")
    before = gate.upstream.hits
    answer = gate.post("modern", **MISMATCHES[name])
    assert answer.status == 400 and answer.code == codes.HEADER_MISMATCH, answer
    assert gate.upstream.hits == before
    row = gate.stack.row_of(answer)
    assert row["verdict"] == "refuse" and row["code"] == codes.HEADER_MISMATCH


def test_t_105_a_legacy_body_with_lying_routing_headers_is_refused_as_well(gate: Target) -> None:
    gate.passes("legacy")
    gate.refuses(
        lambda: gate.post("legacy", Mcp_Method="tools/list"),
        400,
        control="check-head",
        code=codes.HEADER_MISMATCH,
    )


def test_t_105_a_modern_body_never_runs_by_the_legacy_road(gate: Target) -> None:
    """With a session and legacy headers around it, policy on headers would decide about another call than the one that runs."""
    body, _ = gate.message("modern")
    _, legacy = gate.message("legacy")
    for fields in (legacy, {**legacy, "MCP_Protocol_Version": None}, {**legacy, "Mcp_Method": "tools/list"}):
        before = gate.upstream.hits
        answer = gate.stack.ask("s", body, **fields)
        assert answer.status == 400 and answer.code == codes.HEADER_MISMATCH and gate.upstream.hits == before


def test_t_105_parameters_in_headers_are_checked_against_the_arguments_and_written_anew(
    gate: Target, speaks: str
) -> None:
    assert gate.stack.modern("s", "tools/list").status == 200

    def call(arguments: dict[str, Any], **fields: Any) -> Answer:
        return gate.stack.modern("s", "tools/call", {"name": "regional", "arguments": arguments}, **fields)

    good = call({"region": "eu"}, Mcp_Param_Region="eu")
    assert good.status == 200, good
    wanted = "eu" if speaks == "modern" else None  # the older era has no such headers
    assert gate.upstream.calls()[-1].fields.get("mcp-param-region") == wanted
    before = gate.upstream.hits
    for fields in (
        {"Mcp_Param_Region": "us"},
        {"Mcp_Param_Region": "EU"},
        {"Mcp_Param_Region": ["eu", "us"]},
    ):
        answer = call({"region": "eu"}, **fields)
        assert answer.status == 400 and answer.code == codes.HEADER_MISMATCH, answer
    answer = call({}, Mcp_Param_Region="us")
    assert answer.status == 400 and answer.code == codes.HEADER_MISMATCH, answer
    assert gate.upstream.hits == before


def test_t_105_works_against_a_gateway_that_does_not_compare(without_head_check: Target) -> None:
    found = without_head_check
    assert (
        found.lets_through(lambda: found.post("modern", Mcp_Method="tools/list", Mcp_Name="other")).status
        == 200
    )
    found.lets_through(lambda: found.post("legacy", Mcp_Method="tools/list"))


def test_t_105_a_client_that_leaves_optional_headers_out_still_works(gate: Target) -> None:
    body, fields = gate.message("legacy")
    assert gate.stack.ask("s", body, Mcp_Session_Id=fields["Mcp_Session_Id"]).status == 200
    answer = gate.stack.modern("s", "tools/list", Mcp_Param_Unknown="x")
    assert answer.status == 200, "parameters that nobody declared are not ours to judge"
