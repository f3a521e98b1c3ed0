"""Both HTTP faces over TLS, and a server whose certificate is not the expected one."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_in import listen
from doorward.adapters.http_out import HttpPool
from doorward.adapters.outbox import Outbox
from doorward.base.errors import UpstreamError

from .face_kit import Collector, NotingFront

pytestmark = pytest.mark.anyio

POST = b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n"


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext, bytes]:
    """A server's context, a client's that trusts it, and the certificate as DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "both.pem")
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client, certificate.public_bytes(serialization.Encoding.DER)


async def ask(pool: HttpPool) -> Collector:
    collector = Collector()
    pool.send(POST, b"hello", collector)
    return await collector.finished()


async def test_a_call_goes_through_both_faces_and_the_expected_certificate_is_seen_first(
    tmp_path: Path,
) -> None:
    server, client, der = contexts(tmp_path)
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.02)
    outbox = Outbox(loop, lambda: None)
    listener = await listen("127.0.0.1", 0, NotingFront(), outbox, deadlines, tls=server)
    seen: list[bytes] = []
    pool = HttpPool("127.0.0.1", listener.port, outbox, deadlines, tls=client, check_peer=seen.append)
    first, second = await ask(pool), await ask(pool)
    assert first.parts == second.parts == [b"hello"]
    assert seen == [der]
    pool.close()
    await listener.drain(1.0)
    deadlines.close()


async def test_a_server_with_another_certificate_never_sees_a_request(tmp_path: Path) -> None:
    server, client, _ = contexts(tmp_path)
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.02)
    outbox = Outbox(loop, lambda: None)
    front = NotingFront()
    listener = await listen("127.0.0.1", 0, front, outbox, deadlines, tls=server)

    def refuse(der: bytes) -> None:
        raise UpstreamError("upstream-pin", "This is not the server's certificate.")

    pinned = HttpPool("127.0.0.1", listener.port, outbox, deadlines, tls=client, check_peer=refuse)
    stranger = HttpPool("127.0.0.1", listener.port, outbox, deadlines, tls=ssl.create_default_context())
    for pool, code in ((pinned, "upstream-pin"), (stranger, "upstream-certificate")):
        error = (await ask(pool)).error
        assert error is not None
        assert error.code == code
        pool.close()
    assert front.heads == []
    await listener.drain(1.0)
    deadlines.close()
