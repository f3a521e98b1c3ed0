"""TLS on the face towards clients: half handshakes, junk, certificates of clients, and no confusion between connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from doorward.adapters import tls_face
from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_in import listen
from doorward.adapters.http_listener import HttpListener
from doorward.adapters.outbox import Outbox
from doorward.adapters.tls_contexts import ListenerMaterial, server_context
from doorward.adapters.tls_face import TlsDoor
from doorward.controls.control import Head
from doorward.gateway.ports import Reply, Responder
from tests.stand_ins.authority import Authority, Leaf

from .face_kit import PATIENCE, NotingFront, read_reply, until

pytestmark = pytest.mark.anyio

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
HELLO_HEAD = bytes.fromhex("160301")  # the beginning of a handshake record


class Secured:
    """A listener that speaks TLS, and what a test needs to look inside."""

    def __init__(self, listener: HttpListener, front: NotingFront, authority: Authority) -> None:
        self.listener = listener
        self.front = front
        self.authority = authority

    @property
    def door(self) -> TlsDoor:
        assert self.listener.door is not None
        return self.listener.door

    async def connect(self, leaf: Leaf | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.listener.port, ssl=self.authority.client_context(leaf)
        )

    async def plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port)

    async def serves(self) -> None:
        """An ordinary client is served."""
        reader, writer = await self.connect()
        writer.write(GET)
        assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 200 ")
        writer.close()


@contextlib.asynccontextmanager
async def secured(folder: Path, *, authority: Authority | None = None, **more: Any) -> AsyncIterator[Secured]:
    authority = authority or Authority(folder)
    leaf = authority.issue("front")
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.02)
    front = NotingFront()
    material = ListenerMaterial(chain=leaf.pem, key=leaf.key_pem, **more)
    listener = await listen(
        "127.0.0.1", 0, front, Outbox(loop, lambda: None), deadlines, tls=server_context(material)
    )
    try:
        yield Secured(listener, front, authority)
    finally:
        await listener.drain(0.0)
        assert listener.door is not None
        await until(lambda: not listener.door.pending)  # type: ignore[union-attr]
        deadlines.close()


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Everything up to the end."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_requests_in_one_record_and_one_request_in_many_records_are_served(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        reader, writer = await one.connect()
        writer.write(GET * 5)
        for _ in range(5):
            assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 200 ")
        for byte in b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc":
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await read_reply(reader))[1] == b"abc"
        writer.close()
        assert one.front.errors == []


async def test_large_bodies_go_both_ways_and_a_slow_reader_pauses_the_writer(tmp_path: Path) -> None:
    body = random.Random(1).randbytes(900_000)
    async with secured(tmp_path) as one:
        responders: list[Responder] = []

        def serve(head: Head, sent: bytes, responder: Responder) -> None:
            assert sent == body
            responder.start(200, b"")
            responders.append(responder)

        one.front.serve = serve
        reader, writer = await one.connect()
        writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: responders)
        responder, parts = responders[0], 0
        async with asyncio.timeout(PATIENCE):
            while not responder.is_paused:  # nobody reads yet
                responder.write(body)
                parts += 1
                await asyncio.sleep(0.001)
            go_on = asyncio.Event()
            responder.on_writable = go_on.set
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(parts):
                size = int((await reader.readuntil(b"\r\n")).strip(), 16)
                assert await reader.readexactly(size + 2) == body + b"\r\n"
            await go_on.wait()
            responder.end()
            assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.close()


async def test_many_requests_ahead_stop_the_reading_and_all_are_answered(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        waiting: list[Responder] = []
        one.front.serve = lambda head, body, responder: waiting.append(responder)
        reader, writer = await one.connect()
        writer.write(GET * 6_000)
        for _ in range(6_000):
            await until(lambda: waiting)
            waiting.pop().answer(Reply(200, b"", b"k"))
        got = 0
        while got < 6_000:
            await read_reply(reader)
            got += 1
        writer.close()


async def test_an_answer_to_an_unread_body_is_not_destroyed_by_a_reset(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        one.front.judge = lambda head: Reply(413, b"", b"too much")
        reader, writer = await one.connect()
        writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                writer.write(b"x" * 50_000)
                await writer.drain()
        head, body = await read_reply(reader)
        assert head.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in head
        assert body == b"too much"
        writer.close()


async def test_a_client_that_goes_away_is_noticed_and_nothing_is_left(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        gone: list[int] = []

        def serve(head: Head, body: bytes, responder: Responder) -> None:
            responder.on_gone = lambda: gone.append(1)

        one.front.serve = serve
        for brutally in (True, False):
            _, writer = await one.connect()
            writer.write(GET)
            await until(lambda: len(one.front.bodies) == len(gone) + 1)
            if brutally:
                writer.transport.abort()
            else:
                writer.close()
            await until(lambda: len(gone) == (1 if brutally else 2))  # noqa: B023 - awaited here
        await until(lambda: not one.listener.faces)


@pytest.mark.parametrize(
    ("words", "told", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", True, "plain"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", True, "plain"),
        (b"SSH-2.0-x\r\n", False, "plain"),
        (b"\x80\x2e\x01\x00\x02", False, "plain"),  # SSL 2
        (b"\0" * 64, False, "plain"),
        (b"\x15\x03\x01\x00\x02\x01\x00", False, "plain"),  # an alert first
        (HELLO_HEAD + b"\xff\xff" + b"A" * 70_000, False, "tls"),
        (HELLO_HEAD + b"\x00\x05" + b"\x01\x00\x00\x01\x00", False, "tls"),
        (HELLO_HEAD + b"\x00\x04" + b"\x01\xff\xff\xff" + (HELLO_HEAD + b"\x40\x00" + b"\0" * 16_384) * 9, False, "tls"),
    ],
)  # fmt: skip
async def test_what_is_no_handshake_ends_at_once(
    tmp_path: Path, words: bytes, told: bool, reason: str
) -> None:
    async with secured(tmp_path) as one:
        reader, writer = await one.plain()
        writer.write(words)
        said = await closed(reader)
        assert (b"speaks TLS" in said) is told
        assert b"ocation" not in said
        writer.close()
        assert set(one.door.failures) <= {reason, "too-large"} and one.door.failures
        assert one.front.heads == []
        await one.serves()


async def test_random_mutations_of_a_hello_end_and_leave_nothing(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = one.authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        dice = random.Random(7)
        names = [b"\0" * 9, b"\xff" * 9, b"a..b..c..", b"[::::::1]", b"%00%00%00"]
        for round_ in range(120):
            words = bytearray(hello)
            if round_ < len(names):
                words = bytearray(hello.replace(b"localhost", names[round_]))
            else:
                for _ in range(dice.randint(1, 6)):
                    words[dice.randrange(len(words))] = dice.randrange(256)
                if dice.random() < 0.3:
                    del words[dice.randrange(1, len(words)) :]
            reader, writer = await one.plain()
            writer.write(bytes(words))
            writer.write_eof()
            await closed(reader)
            writer.close()
        await until(lambda: not one.door.pending)
        assert one.front.heads == []
        await one.serves()


async def test_a_handshake_has_a_time_that_a_drip_does_not_prolong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_face, "HANDSHAKE_SECONDS", 0.3)
    async with secured(tmp_path) as one:
        silent, silent_writer = await one.plain()
        drip, drip_writer = await one.plain()

        async def dripping() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in HELLO_HEAD + b"\x02\x00" + b"\x01" * 512:
                    drip_writer.write(bytes([byte]))
                    await drip_writer.drain()
                    await asyncio.sleep(0.02)

        task = asyncio.ensure_future(dripping())
        assert await closed(silent) == b"" and await closed(drip) == b""
        task.cancel()
        silent_writer.close()
        drip_writer.close()
        await until(lambda: one.door.failures.get("too-slow") == 2)
        await one.serves()


async def test_half_handshakes_of_one_address_are_few_and_end_with_the_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_face, "PENDING_PER_ADDRESS", 5)
    async with secured(tmp_path) as one:
        held = [await one.plain() for _ in range(5)]
        await until(lambda: one.door.pending == 5)
        reader, writer = await one.plain()
        assert await closed(reader) == b""
        writer.close()
        assert one.door.failures == {"too-many": 1}
        held.pop()[1].close()
        await until(lambda: one.door.pending == 4)
        await one.serves()  # whoever shakes hands in time takes no place for long
        one.listener.close()
        for reader, writer in held:
            assert await closed(reader) == b""
            writer.close()


def bound(front: NotingFront) -> list[tuple[str | None, bytes]]:
    """Let the front note under which certificate each request came, and answer with it."""
    seen: list[tuple[str | None, bytes]] = []

    def serve(head: Head, body: bytes, responder: Responder) -> None:
        mine = None if head.certificate is None else head.certificate.thumbprint
        seen.append((mine, body))
        responder.answer(Reply(200, b"", (mine or "none").encode()))

    front.serve = serve
    return seen


async def test_equal_bytes_over_connections_with_other_certificates_are_other_heads(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    alice, bob = authority.issue("alice", client=True), authority.issue("bob", client=True)
    async with secured(tmp_path, authority=authority, client_ca=authority.pem) as one:
        bound(one.front)
        ways = [await one.connect(leaf) for leaf in (alice, None, bob)]
        expected = [alice.thumbprint, "none", bob.thumbprint]
        dice = random.Random(3)
        for _ in range(60):  # in any order, so that each meets what the others have left in the memo
            way = dice.randrange(3)
            reader, writer = ways[way]
            body = b"x" * dice.randrange(4)  # heads that differ in their length share what was parsed, too
            sent = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            writer.write(dice.choice((GET, sent)))
            assert (await read_reply(reader))[1].decode() == expected[way]
        # Bytes that spell the key of another connection's head do not reach it.
        reader, writer = await one.connect()
        writer.write(alice.thumbprint.encode() + GET)
        assert not (await closed(reader)).startswith(b"HTTP/1.1 200")
        writer.close()
        for _, writer in ways:
            writer.close()


async def test_a_client_certificate_of_a_stranger_or_out_of_time_fails_before_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    stranger = Authority(tmp_path, "stranger").issue("mallory", client=True)
    over = authority.issue("over", client=True, days=(-9, -1))
    server = authority.issue("not-a-client")
    async with secured(tmp_path, authority=authority, client_ca=authority.pem) as one:
        for leaf in (stranger, over, server):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                reader, writer = await one.connect(leaf)
                writer.write(GET)
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await read_reply(reader)
                writer.close()
        await until(lambda: one.door.failures.get("client-certificate") == 3)
        assert one.front.heads == []
        await one.serves()


async def test_where_a_certificate_is_required_nobody_without_one_says_anything(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    alice = authority.issue("alice", client=True)
    async with secured(tmp_path, authority=authority, client_ca=authority.pem, requires_client=True) as one:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            reader, writer = await one.connect()
            writer.write(GET)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await read_reply(reader)
            writer.close()
        assert one.front.heads == []
        reader, writer = await one.connect(alice)
        writer.write(GET)
        assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_no_session_is_resumed_so_no_certificate_outlives_its_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    alice = authority.issue("alice", client=True)
    # Named or not, TLS 1.2 is not spoken where clients show certificates: it would show them to everybody, and OpenSSL
    # resumes its sessions by their id whatever becomes of tickets.
    async with secured(tmp_path, authority=authority, client_ca=authority.pem, min_version="1.2") as one:

        def twice() -> list[bool]:
            context = authority.client_context(alice)
            reused, session = [], None
            for _ in range(2):
                with (
                    socket.create_connection(("127.0.0.1", one.listener.port), 5) as plain,
                    context.wrap_socket(plain, server_hostname="localhost", session=session) as way,
                ):
                    assert way.version() == "TLSv1.3"
                    way.sendall(GET)
                    way.recv(1_000)
                    reused.append(bool(way.session_reused))
                    session = way.session
            return reused

        assert await asyncio.to_thread(twice) == [False, False]
        old = authority.client_context(alice)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", one.listener.port, ssl=old)


async def test_other_authorities_take_back_what_connections_have_proven(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    alice = authority.issue("alice", client=True)
    async with secured(tmp_path, authority=authority, client_ca=authority.pem) as one:
        bound(one.front)
        waiting: list[Responder] = []
        reader, writer = await one.connect(alice)
        writer.write(GET)
        assert (await read_reply(reader))[1].decode() == alice.thumbprint
        answer = one.front.serve
        one.front.serve = lambda head, body, responder: waiting.append(responder)
        writer.write(GET)
        await until(lambda: waiting)
        one.listener.distrust_certificates()  # while a request is under way: the connection itself lives on
        one.front.serve = answer
        waiting[0].answer(Reply(200, b"", b"late"))
        assert (await read_reply(reader))[1] == b"late"
        writer.write(GET)
        assert (await read_reply(reader))[1] == b"none"
        writer.close()


async def test_after_a_long_silence_a_client_has_its_whole_time(tmp_path: Path) -> None:
    async with secured(tmp_path) as one:
        await one.serves()
        await until(lambda: not one.listener.faces)
        deadlines = one.listener.deadlines
        await until(lambda: deadlines._handle is None)
        deadlines.now -= 3_600.0  # as if nobody had come for an hour
        reader, writer = await one.connect()
        await until(lambda: one.listener.faces)
        face = next(iter(one.listener.faces))
        assert face.deadline > asyncio.get_running_loop().time() + 5
        plain_reader, plain_writer = await one.plain()
        await until(lambda: one.door.pending == 1)
        assert next(iter(one.door._pending)).deadline > asyncio.get_running_loop().time() + 3
        plain_writer.close()
        writer.write(GET)
        assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert plain_reader is not reader


async def test_a_handshake_that_began_under_old_authorities_proves_nothing_under_new_ones(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    alice = authority.issue("alice", client=True)
    async with secured(tmp_path, authority=authority, client_ca=authority.pem) as one:
        bound(one.front)
        for late in (False, True):
            reader, writer = await one.plain()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = authority.client_context(alice).wrap_bio(incoming, outgoing, server_hostname="localhost")
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
            writer.write(outgoing.read())
            incoming.write(await reader.read(65_536))
            client.do_handshake()  # its certificate waits to be sent
            if late:
                one.listener.distrust_certificates()
            client.write(GET)
            writer.write(outgoing.read())
            said = b""
            while b"\r\n\r\n" not in said or not said.partition(b"\r\n\r\n")[2]:
                incoming.write(await reader.read(65_536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    said += client.read()
            assert said.endswith(b"none" if late else alice.thumbprint.encode())
            writer.close()
