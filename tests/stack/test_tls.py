"""TLS of a running Doorward: what it speaks, whom it lets in, and how certificates change while it serves."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from doorward.adapters.local_authority import make_server_leaf
from tests.stack.kit import Stack, running
from tests.stack.wire import Wire, until
from tests.stand_ins.authority import Authority, Leaf
from tests.stand_ins.http_server import HttpUpstream

OPENSSL, CURL = shutil.which("openssl"), shutil.which("curl")


@contextmanager
def secured(
    folder: Path, *, workers: int = 1, tables: dict[str, dict[str, Any]] | None = None, **tls: Any
) -> Iterator[tuple[Stack, Authority, Leaf]]:
    """A Doorward with a certificate of a fresh authority."""
    authority = Authority(folder)
    leaf = authority.issue("live")
    table = {"cert": str(leaf.cert_path), "key": {"file": str(leaf.key_path)}, **tls}
    tables = {**(tables or {}), "gateway": {**(tables or {}).get("gateway", {}), "tls": table}}
    with running(
        {"time": HttpUpstream()}, workers=workers, tables=tables, tls=authority.client_context()
    ) as stack:
        yield stack, authority, leaf


def serial_at(stack: Stack) -> str:
    """The serial number of the certificate that a new connection sees."""
    with stack.wire() as wire:
        assert isinstance(wire.sock, ssl.SSLSocket)
        return str((wire.sock.getpeercert() or {})["serialNumber"]).lower().lstrip("0")


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_call_goes_through_tls_and_every_answer_says_so_for_next_time(tmp_path: Path, era: str) -> None:
    with secured(tmp_path, workers=2) as (stack, _, _):
        answer = stack.call(era, "time", arguments={"text": "hi"})
        assert answer.status == 200 and "result" in answer.json
        for reply in (answer, stack.ask("time", {}, Authorization=None), stack.raw(b"nonsense\r\n\r\n")):
            assert reply.fields["strict-transport-security"] == "max-age=31536000", reply
        assert (
            stack.ask("", verb="GET", path="/.well-known/oauth-protected-resource")
            .json["resource"]
            .startswith("https://")
        )


def test_only_tls_1_3_is_spoken_unless_1_2_is_named(tmp_path: Path) -> None:
    for version, fine in (("1.3", False), ("1.2", True)):
        folder = tmp_path / version
        folder.mkdir()
        with secured(folder, min_version=version) as (stack, authority, _):
            old = authority.client_context()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            if not fine:
                with pytest.raises(ssl.SSLError):
                    Wire(stack.port, tls=old)
                assert serial_at(stack)
                continue
            with Wire(stack.port, tls=old) as wire:
                assert isinstance(wire.sock, ssl.SSLSocket)
                assert wire.sock.version() == "TLSv1.2"
                name = (wire.sock.cipher() or ("",))[0]
                assert name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name)
            ancient = authority.client_context()
            ancient.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            ancient.maximum_version = ssl.TLSVersion.TLSv1_2
            ancient.set_ciphers("AES128-SHA:AES256-SHA:AES128-GCM-SHA256:@SECLEVEL=0")  # no forward secrecy
            with pytest.raises(ssl.SSLError):
                Wire(stack.port, tls=ancient)


@pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")
def test_the_openssl_client_sees_no_compression_no_renegotiation_and_no_tickets(tmp_path: Path) -> None:
    with secured(tmp_path, min_version="1.2") as (stack, authority, _):
        for flag in ("-tls1_3", "-tls1_2"):
            done = subprocess.run(
                [str(OPENSSL), "s_client", "-connect", stack.host, flag, "-CAfile", str(authority.path),
                 "-verify_return_error", "-alpn", "h2,http/1.1", "-servername", "localhost"],
                input=b"R\n", capture_output=True, timeout=20, check=False,
            )  # fmt: skip
            said = (done.stdout + done.stderr).decode(errors="replace")
            assert "Verify return code: 0 (ok)" in said or "Verification: OK" in said
            assert "Compression: NONE" in said
            assert "ALPN protocol: http/1.1" in said
            assert "TLS session ticket:" not in said and "Session Ticket arrived" not in said
            assert "no renegotiation" in said.lower() or flag == "-tls1_3"
        for flag in ("-tls1_1", "-tls1"):
            done = subprocess.run(
                [str(OPENSSL), "s_client", "-connect", stack.host, flag, "-cipher", "ALL:@SECLEVEL=0"],
                input=b"", capture_output=True, timeout=20, check=False,
            )  # fmt: skip
            assert done.returncode != 0 and b"Cipher is (NONE)" in done.stdout


@pytest.mark.skipif(CURL is None, reason="needs curl")
def test_curl_trusts_the_authority_and_nothing_else_and_plain_http_is_told_off(tmp_path: Path) -> None:
    with secured(tmp_path) as (stack, authority, _):

        def curl(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(CURL), "-sS", "-m", "10", *words],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )

        assert curl("--cacert", str(authority.path), f"{stack.url}/healthz").stdout == '{"status":"ok"}'
        assert curl(f"{stack.url}/healthz").returncode == 60  # unknown authority
        plain = curl("-i", f"http://{stack.host}/healthz", "-H", "Authorization: Bearer not-for-the-clear")
        assert plain.stdout.startswith("HTTP/1.1 400 ") and "speaks TLS" in plain.stdout
        assert "location" not in plain.stdout.lower()
        until(lambda: '"plain"' in stack_metrics(stack), "the plain request on the metrics page")


def stack_metrics(stack: Stack) -> str:
    """The metrics page, over the socket of the data folder."""
    return stack.admin("/metrics").body.decode()


def test_a_new_certificate_is_shown_while_old_connections_go_on_and_a_bad_pair_is_refused(
    tmp_path: Path,
) -> None:
    with secured(tmp_path, workers=2) as (stack, authority, leaf):
        assert serial_at(stack) == leaf.serial
        with stack.wire() as kept:
            request = f"GET /healthz HTTP/1.1\r\nHost: {stack.host}\r\n\r\n".encode()
            kept.send(request)
            assert kept.read().status == 200
            # A key that does not belong to the certificate: the old pair stays.
            stranger = authority.issue("stranger")
            leaf.cert_path.write_bytes(stranger.pem)
            row = until(
                lambda: next(iter(stack.rows(kind="admin")), {}).get("verdict") == "refuse", "a refusal"
            )
            assert row
            refused = next(one for one in stack.rows(kind="admin") if one["method"] == "certificate-refused")
            assert "does not belong" in refused["reason"]
            assert serial_at(stack) == leaf.serial
            assert any(one["state"] == "refused" for one in stack.admin("/api/v1/certificates").json)
            # Both files new: new connections, on every worker, get the new one.
            fresh = authority.issue("fresh")
            fresh.write(leaf.cert_path, leaf.key_path)
            until(lambda: {serial_at(stack) for _ in range(12)} == {fresh.serial}, "the new certificate")
            kept.send(request)
            assert kept.read().status == 200
        methods = [one["method"] for one in stack.rows(kind="admin")]
        assert methods.count("certificate-activated") == 1
        assert "PRIVATE KEY" not in stack.log()


def test_a_certificate_that_has_run_out_or_soon_will_is_refused_or_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    over = authority.issue("over", days=(-10, -1))
    soon = authority.issue("soon", days=(-29, 0.5))
    stack = Stack(tmp_path, {"time": HttpUpstream()}, tls=authority.client_context())
    try:
        stack.tables = {
            "gateway": {"tls": {"cert": str(over.cert_path), "key": {"file": str(over.key_path)}}}
        }
        stack.write_settings()
        process = stack.launch()
        assert process.wait(20) == 2
        assert "tls-certificate" in stack.log() and "has run out" in stack.log()
        stack.tables = {
            "gateway": {"tls": {"cert": str(soon.cert_path), "key": {"file": str(soon.key_path)}}}
        }
        stack.write_settings()
        stack.start()
        row = until(lambda: next(iter(stack.rows(kind="alert")), None), "a warning on record")
        assert (row["method"], row["item"]) == ("certificate-expiring", "gateway")
        assert "a certificate runs out" in stack.log()
        found = stack.admin("/api/v1/certificates").json
        assert [one["due"] for one in found] == [True]
        assert 'doorward_certificate_seconds_left{certificate="gateway"}' in stack_metrics(stack)
        done = stack.command("doctor")
        assert "certificate of gateway.tls" in done.stdout and "warn" in done.stdout
    finally:
        stack.stop()
        for server in stack.servers.values():
            assert isinstance(server, HttpUpstream)
            server.close()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ('[gateway]\nlisten = "0.0.0.0:9"\npublic_url = "https://h"', "gateway.listen"),
        ('[gateway]\nlisten = "[::]:9"\npublic_url = "https://h"', "gateway.listen"),
        ('[admin]\nlisten = "0.0.0.0:9"', "admin.listen"),
        ('[gateway]\nlisten = "192.0.2.1:9"\npublic_url = "https://h"\nterminator = "nginx"', "gateway"),
    ],
)
def test_plain_http_beyond_loopback_does_not_start(tmp_path: Path, settings: str, key: str) -> None:
    stack = Stack(tmp_path, {})
    stack.write_settings(settings + "\n")
    process = stack.launch()
    assert process.wait(20) == 2
    assert "settings-floor" in stack.log() and key in stack.log()


def test_the_admin_plane_speaks_tls_as_well(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.issue("admin")
    table = {"cert": str(leaf.cert_path), "key": {"file": str(leaf.key_path)}}
    with running({"time": HttpUpstream()}, tables={"admin": {"tls": table}}) as stack:
        stack.wait_admin()
        request = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{stack.admin_port}\r\nConnection: close\r\n\r\n".encode()
        )
        with Wire(stack.admin_port, tls=authority.client_context()) as wire:
            wire.send(request)
            assert wire.read().status == 200
        with Wire(stack.admin_port) as wire:
            wire.send(request)
            assert wire.read().status == 400
        old = authority.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            Wire(stack.admin_port, tls=old)


def test_the_posture_says_what_the_listener_does(tmp_path: Path) -> None:
    with secured(tmp_path) as (stack, _, leaf):

        def posture() -> dict[str, Any]:
            rows = stack.admin("/api/v1/controls").json
            return next(row for row in rows if row["slug"] == "keep-tls")

        fine = until(lambda: (row := posture())["state"] == "ok" and row, "a look at the listener")
        assert fine["kind"] == "posture" and "TLS 1.3" in fine["why"]
        leaf.cert_path.write_bytes(b"nonsense")
        bad = until(lambda: (row := posture())["state"] == "degraded" and row, "the refusal to show")
        assert "refused" in bad["why"]


def test_on_loopback_without_tls_the_posture_holds_too() -> None:
    with running({"time": HttpUpstream()}) as stack:
        rows = stack.admin("/api/v1/controls").json
        row = next(one for one in rows if one["slug"] == "keep-tls")
        assert (row["state"], row["why"]) == ("ok", "plain HTTP on loopback only")
        assert "strict-transport-security" not in stack.ask("time", {}).fields


def test_half_handshakes_do_not_shut_operators_out_and_a_new_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.issue("admin")
    table = {"cert": str(leaf.cert_path), "key": {"file": str(leaf.key_path)}}
    with running({"time": HttpUpstream()}, tables={"admin": {"tls": table}}) as stack:
        stack.wait_admin()
        held = [Wire(stack.admin_port) for _ in range(60)]
        for wire in held:
            wire.send(b"\x16\x03\x01")
        request = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{stack.admin_port}\r\nConnection: close\r\n\r\n".encode()
        )

        def serial() -> str:
            with Wire(stack.admin_port, tls=authority.client_context()) as wire:
                assert isinstance(wire.sock, ssl.SSLSocket)
                wire.send(request)
                assert wire.read().status == 200
                return str((wire.sock.getpeercert() or {})["serialNumber"]).lower().lstrip("0")

        assert serial() == leaf.serial
        for wire in held:
            assert wire.is_closed()  # after the time of a handshake
            wire.close()
        fresh = authority.issue("fresh")
        fresh.write(leaf.cert_path, leaf.key_path)
        until(lambda: serial() == fresh.serial, "the new certificate")
        with Wire(stack.admin_port) as plain:
            plain.send(request)
            assert plain.read().status == 400


def test_a_local_certificate_that_is_due_or_over_is_renewed_at_the_start(tmp_path: Path) -> None:
    now = time.time()
    made = make_server_leaf(tmp_path / "tls", now - 40 * 86_400)
    over = made.cert.read_bytes()
    table = {"cert": str(made.cert), "key": {"file": str(made.key)}}
    client = ssl.create_default_context(cafile=str(made.ca))
    with running({"time": HttpUpstream()}, tables={"gateway": {"tls": table}}, tls=client) as stack:
        assert made.cert.read_bytes() != over
        assert "result" in stack.call("modern", "time").json


def test_the_console_over_tls_takes_its_own_page_and_the_names_of_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.issue("admin", hosts=("localhost", "127.0.0.1", "admin.example", "*.wild.example"))
    table = {"cert": str(leaf.cert_path), "key": {"file": str(leaf.key_path)}}
    with running({"time": HttpUpstream()}, tables={"admin": {"tls": table}}) as stack:
        stack.wait_admin()
        token = (stack.data_dir / "admin-token").read_text().strip()

        def post(host: str, origin: str) -> Any:
            body = f"token={token}".encode()
            with Wire(stack.admin_port, tls=authority.client_context()) as wire:
                wire.send(
                    f"POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n"
                    f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                return wire.read()

        for name in ("127.0.0.1", "localhost", "admin.example"):
            host = f"{name}:{stack.admin_port}"
            answer = post(host, f"https://{host}")
            assert answer.status == 303, answer
            assert "secure" in answer.fields["set-cookie"].lower()
            assert post(host, f"http://{host}").status == 403  # a page in the clear is another origin
        for name in ("evil.example", "x.wild.example"):
            host = f"{name}:{stack.admin_port}"
            assert post(host, f"https://{host}").status == 403
        assert f"https://127.0.0.1:{stack.admin_port}/" in stack.log()
