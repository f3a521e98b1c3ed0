"""Attacks by way of somebody's browser: pages of other sites, rebound names, forms, sockets and redirects."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib.metadata import requires, version
from typing import Any

import pytest

from tests.attacks.kit import Target, target
from tests.stack.kit import LEGACY, descendants
from tests.stack.wire import Answer, Wire
from tests.stand_ins.http_server import HttpUpstream

EVIL = "https://evil.example"
REBOUND = "rebound.evil.example"


@pytest.fixture(scope="module")
def gate(speaks: str) -> Iterator[Target]:
    with target(upstream=HttpUpstream(speaks)) as found:
        found.stack.wait_admin()
        yield found


@pytest.fixture(scope="module")
def without_origin_check(speaks: str) -> Iterator[Target]:
    with target(off=("check-origin",), upstream=HttpUpstream(speaks)) as found:
        yield found


@pytest.fixture(scope="module")
def without_head_check(speaks: str) -> Iterator[Target]:
    with target(off=("check-head",), upstream=HttpUpstream(speaks)) as found:
        yield found


# -- T-05: cross-site calls --------------------------------------------------------------------------------------------

SIMPLE_TYPES = [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None, "", "*/*",
    "text/json", "application/json-rpc", "application/jsonp", "application/xml", "text/plain, application/json",
]  # fmt: skip


@pytest.mark.parametrize("kind", SIMPLE_TYPES, ids=str)
def test_t_05_a_media_type_that_a_page_may_send_without_asking_is_refused(
    gate: Target, era: str, kind: Any
) -> None:
    gate.passes(era)
    gate.refuses(lambda: gate.post(era, Content_Type=kind), 415, control="check-head", reason="content-type")


def test_t_05_two_media_types_are_no_media_type(gate: Target, era: str) -> None:
    twice = ["application/json", "text/plain"]
    gate.refuses(lambda: gate.post(era, Content_Type=twice), 400, control="check-head", reason="http-")


def test_t_05_ordinary_spellings_of_json_pass(gate: Target, era: str) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON", 'application/json;charset="UTF-8"'):
        assert gate.post(era, Content_Type=kind).status == 200


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://127.0.0.1.evil.example", "", "file://", "https://127.0.0.1"]
)
def test_t_05_a_page_of_another_origin_is_refused_even_with_a_good_token_and_cookie(
    gate: Target, era: str, origin: str
) -> None:
    gate.passes(era)
    gate.refuses(
        lambda: gate.post(era, Origin=origin, Cookie="session=valid"),
        403,
        control="check-origin",
        reason="origin",
    )
    gate.refuses(
        lambda: gate.post(era, Origin=origin, Authorization=None),
        403,
        control="check-origin",
        reason="origin",
    )
    gate.passes(era, Origin=gate.stack.url)


def test_t_05_works_against_a_gateway_that_does_not_check(
    without_head_check: Target, without_origin_check: Target, era: str
) -> None:
    without_head_check.lets_through(lambda: without_head_check.post(era, Content_Type="text/plain"))
    without_origin_check.lets_through(lambda: without_origin_check.post(era, Origin=EVIL))


# -- T-15 and its family: rebinding, as each SDK was open to it ----------------------------------------------------------


@pytest.mark.parametrize(
    "host", [REBOUND, f"{REBOUND}:80", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "0.0.0.0"]
)
def test_t_15_a_rebound_name_is_refused_on_the_data_plane(gate: Target, era: str, host: str) -> None:
    gate.passes(era)
    gate.refuses(lambda: gate.post(era, Host=host), 403, control="check-origin", reason="host-foreign")
    gate.passes(era, Host=f"localhost:{gate.stack.port}")


def test_t_15_a_rebound_name_is_refused_on_the_admin_plane(gate: Target) -> None:
    token = (gate.stack.data_dir / "admin-token").read_text().strip()

    def ask(host: str, origin: str = "") -> Answer:
        lines = f"Host: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
        lines += f"Origin: {origin}\r\n" if origin else ""
        with Wire(gate.stack.admin_port) as wire:
            wire.send(f"GET /api/v1/status HTTP/1.1\r\n{lines}\r\n".encode())
            return wire.read()

    good = f"127.0.0.1:{gate.stack.admin_port}"
    assert ask(good).status == 200 and ask(good, f"http://{good}").status == 200
    assert ask(REBOUND).status == 403 and ask(good, EVIL).status == 403 and ask(good, "null").status == 403
    with Wire(gate.stack.admin_port) as wire:
        wire.send(f"GET / HTTP/1.1\r\nHost: {good}\r\nHost: {REBOUND}\r\nConnection: close\r\n\r\n".encode())
        assert wire.read().status in (400, 403)


def test_t_63_typescript_sdk_a_rebound_initialize_opens_no_session(
    gate: Target, without_origin_check: Target
) -> None:
    gate.refuses(lambda: gate.stack.initialize("s", Host=REBOUND), 403, control="check-origin")
    opened = without_origin_check.lets_through(
        lambda: without_origin_check.stack.initialize("s", Host=REBOUND)
    )
    assert "mcp-session-id" in opened.fields


def test_t_64_python_sdk_a_rebound_call_reaches_no_server(
    gate: Target, without_origin_check: Target, era: str
) -> None:
    gate.refuses(lambda: gate.post(era, Host=REBOUND), 403, control="check-origin")
    assert (
        without_origin_check.lets_through(lambda: without_origin_check.post(era, Host=REBOUND)).status == 200
    )


def test_t_65_go_sdk_a_rebound_get_opens_no_stream(gate: Target, without_origin_check: Target) -> None:
    def listen(at: Target) -> Answer:
        fields = {"Mcp_Session_Id": at.session(), "MCP_Protocol_Version": LEGACY, "Host": REBOUND}
        with Wire(at.stack.port) as wire:
            wire.send(at.stack.request("s", verb="GET", **fields))
            status, lines = wire.read_head()
            body = b"" if status == 200 else b"".join(wire.parts())
            return Answer(status, lines, body)

    gate.session()
    gate.refuses(lambda: listen(gate), 403, control="check-origin")
    assert listen(without_origin_check).status == 200


def test_t_66_java_sdk_a_rebound_delete_ends_no_session(gate: Target, without_origin_check: Target) -> None:
    def end(at: Target, session: str) -> Answer:
        return at.stack.ask("s", verb="DELETE", Mcp_Session_Id=session, Host=REBOUND)

    session = gate.stack.session("s")
    gate.refuses(lambda: end(gate, session), 403, control="check-origin")
    assert gate.stack.legacy("s", session, "ping").status == 200
    assert end(without_origin_check, without_origin_check.stack.session("s")).status == 200


def test_t_67_rmcp_a_foreign_origin_is_refused_even_where_the_host_is_good(
    gate: Target, without_origin_check: Target, era: str
) -> None:
    gate.refuses(
        lambda: gate.post(era, Origin=f"http://{REBOUND}"), 403, control="check-origin", reason="origin"
    )
    without_origin_check.lets_through(lambda: without_origin_check.post(era, Origin=f"http://{REBOUND}"))


@pytest.mark.parametrize("verb", ["GET", "OPTIONS", "POST", "DELETE", "PUT", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/.well-known/oauth-protected-resource/mcp", "/mcp", "/nowhere"]
)
def test_t_68_ruby_sdk_every_path_and_verb_checks_the_name_first(gate: Target, path: str, verb: str) -> None:
    fields: dict[str, Any] = {"Authorization": None, "Content_Length": None}
    assert gate.stack.ask("", verb=verb, path=path, **fields).status not in (200, 202) or path != "/mcp"
    for lie in ({"Host": REBOUND}, {"Origin": EVIL}):
        answer = gate.stack.ask("", verb=verb, path=path, **fields, **lie)
        assert answer.status == 403, answer
        assert not [name for name in answer.fields if name.startswith("access-control-")]


# -- T-31: Host headers that two readers take differently ------------------------------------------------------------------


def host_lines(gate: Target) -> dict[str, bytes]:
    """The Host part of a request, good but for one thing."""
    good = gate.stack.host.encode()
    return {
        "duplicate": b"Host: %b\r\nHost: %b" % (good, good),
        "duplicate-other": b"Host: %b\r\nhost: evil.example" % good,
        "missing": b"X-A: b",
        "empty": b"Host:",
        "userinfo": b"Host: user@%b" % good,
        "userinfo-password": b"Host: %b:x@evil.example" % good,
        "path": b"Host: %b/../evil" % good,
        "port-garbage": b"Host: 127.0.0.1:80abc",
        "port-long": b"Host: 127.0.0.1:%b" % (b"0" * 20 + b"80"),
        "list": b"Host: %b, evil.example" % good,
        "space": b"Host: 127.0.0.1 :80",
        "tab": b"Host: %b\tevil" % good,
        "nul": b"Host: %b\0" % good,
        "fragment": b"Host: %b#evil" % good,
        "backslash": b"Host: evil.example\\@%b" % good,
        "high-bytes": b"Host: \xff\xfe",
        "space-before-colon": b"Host : %b" % good,
        "folded": b"Host: %b\r\n evil.example" % good,
    }


def test_t_31_a_host_header_that_is_not_exactly_one_authority_is_refused_before_routing(gate: Target) -> None:
    gate.passes()
    body, fields = gate.message("modern")
    request = gate.stack.request("s", body, **fields, connection="close")
    line = b"host: " + gate.stack.host.encode()
    assert line in request
    for name, lines in host_lines(gate).items():
        for path in (b"/s/mcp", b"/nowhere", b"/healthz"):
            attack = request.replace(line, lines).replace(b"/s/mcp", path, 1)
            answer = gate.refuses(lambda attack=attack: gate.stack.raw(attack), 400, control="check-head")  # type: ignore[misc]
            assert b"evil" not in answer.body, name
    gate.passes()


@pytest.mark.parametrize(
    "start",
    [b"http://evil.example/s/mcp", b"http://HOST/s/mcp", b"//evil.example/s/mcp", b"*", b"s/mcp", b"HOST:80"],
)
def test_t_31_a_target_that_is_not_a_plain_path_is_refused(gate: Target, start: bytes) -> None:
    body, fields = gate.message("modern")
    request = gate.stack.request("s", body, **fields, connection="close")
    attack = request.replace(b"/s/mcp", start.replace(b"HOST", gate.stack.host.encode()), 1)
    before = gate.upstream.hits
    answer = gate.stack.raw(attack)
    assert answer.status in (400, 404), answer
    assert gate.upstream.hits == before and gate.stack.row_of(answer)["verdict"] == "refuse"


def test_t_31_the_web_framework_of_the_admin_plane_has_a_floor_above_the_hole() -> None:
    floors = [line for line in requires("doorward") or [] if line.startswith("starlette")]
    assert floors and ">=1." in floors[0]
    assert tuple(int(part) for part in version("starlette").split(".")[:3]) >= (1, 0, 1)


# -- T-40, T-69, T-27 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/\\evil.example", "/%2f%2fevil.example", "/s/mcp/", "//s/mcp", "/s//mcp", "/./s/mcp",
     "/s/../s/mcp", "/%73/mcp", "/s%2fmcp", "/s/mcp;x", "/S/MCP", "/s/mcp%00", "/mcp/", "/https://evil.example",
     "/healthz/", "/.well-known/oauth-protected-resource//evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_t_40_no_path_leads_anywhere_else(gate: Target, path: str, verb: str) -> None:
    gate.passes()
    before = gate.upstream.hits
    body = gate.message("modern")[0] if verb == "POST" else None
    answer = gate.stack.ask("s", body, verb=verb, path=path)
    assert answer.status in (400, 404) and "location" not in answer.fields, answer
    assert gate.upstream.hits == before


@pytest.mark.parametrize("path", ["/s/mcp", "/mcp", "/ws", "/s/ws", "/healthz"])
def test_t_69_no_path_becomes_a_websocket(gate: Target, path: str) -> None:
    fields = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Protocol": "mcp", "Origin": gate.stack.url,
    }  # fmt: skip
    before = gate.upstream.hits
    with Wire(gate.stack.port) as wire:
        wire.send(gate.stack.request("s", verb="GET", path=path, **fields))
        status, lines = wire.read_head()
    assert status != 101 and "upgrade" not in {name.lower() for name, _ in lines}
    assert gate.upstream.hits == before
    with Wire(gate.stack.admin_port) as wire:
        wire.send(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{gate.stack.admin_port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert wire.read_head()[0] != 101


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that these processes listen on."""
    inodes = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    raw, port = fields[1].split(":")
                    address = socket.inet_ntoa(bytes.fromhex(raw)[::-1]) if table == "tcp" else raw
                    found.add((address, int(port, 16)))
    return found


def test_t_27_it_listens_on_loopback_and_nowhere_else(gate: Target) -> None:
    process = gate.stack.process
    assert process is not None
    found = listening([process.pid, *descendants(process.pid)])
    assert {port for _, port in found} == {gate.stack.port, gate.stack.admin_port}
    assert {address for address, _ in found} == {"127.0.0.1"}
