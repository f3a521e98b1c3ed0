"""Real sockets, a front that only notes what it gets, and servers that say exactly the bytes they are told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_in import listen
from doorward.adapters.http_listener import FaceCaps, HttpListener
from doorward.adapters.http_out import HttpPool, PoolCaps
from doorward.adapters.outbox import Outbox
from doorward.base.errors import CallerError, UpstreamError
from doorward.controls.control import Head
from doorward.gateway.ports import Reply, Responder
from doorward.protocol.http_head import ResponseHead

PATIENCE = 5.0  # seconds; every wait of a test is bounded by it


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.002)


class NotingFront:
    """Answers every body with itself, unless ``serve`` or ``judge`` says otherwise."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.bodies: list[bytes] = []
        self.errors: list[Exception] = []
        self.responders: list[Responder] = []
        self.limit = 1_000_000
        self.judge: Callable[[Head], Reply | None] = lambda head: None
        self.serve: Callable[[Head, bytes, Responder], None] = lambda head, body, responder: responder.answer(
            Reply(200, b"Content-Type: text/plain\r\n", body)
        )

    def head(self, head: Head, address: str) -> Reply | None:
        self.heads.append(head)
        return self.judge(head)

    def body(self, head: Head, body: bytes, responder: Responder) -> None:
        self.bodies.append(body)
        self.responders.append(responder)
        self.serve(head, body, responder)

    def broken(self, error: Exception, address: str) -> Reply:
        self.errors.append(error)
        return Reply(error.status if isinstance(error, CallerError) else 500, b"", b"no")

    def body_limit(self, head: Head) -> int:
        return self.limit


class Flushes:
    """Stands for the ledger: counts, and fails when told to."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        if self.error is not None:
            raise self.error


class Bench:
    """One listener and what a test needs to look inside."""

    def __init__(self, front: NotingFront, listener: HttpListener, outbox: Outbox, flushes: Flushes) -> None:
        self.front = front
        self.listener = listener
        self.outbox = outbox
        self.flushes = flushes

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port)

    async def say(self, *pieces: bytes) -> bytes:
        """Send the pieces one after the other and read until the server closes."""
        reader, writer = await self.connect()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        try:
            async with asyncio.timeout(PATIENCE):
                return await reader.read()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def face(front: NotingFront | None = None, caps: FaceCaps | None = None) -> AsyncIterator[Bench]:
    front = front or NotingFront()
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.02)
    flushes = Flushes()
    outbox = Outbox(loop, flushes)
    listener = await listen("127.0.0.1", 0, front, outbox, deadlines, caps=caps)
    try:
        yield Bench(front, listener, outbox, flushes)
    finally:
        await listener.drain(0.0)
        deadlines.close()


async def read_reply(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One answer with a Content-Length: its head and its body."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head, await reader.readexactly(length)


class Collector:
    """An HttpSink that keeps everything."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.parts: list[bytes] = []
        self.error: UpstreamError | None = None
        self.ends = 0

    def on_head(self, head: ResponseHead) -> None:
        self.head = head

    def on_data(self, part: bytes) -> None:
        self.parts.append(part)

    def on_end(self) -> None:
        self.ends += 1

    def on_fail(self, error: UpstreamError) -> None:
        self.error = error
        self.ends += 1

    async def finished(self) -> Collector:
        await until(lambda: self.ends)
        return self


class ScriptedServer:
    """Says ``script[n]`` to the n-th request it reads on any connection; None closes without a word.

    ``close_after`` closes the connection once the words are said.
    """

    def __init__(self, script: list[bytes | None], close_after: bool = False) -> None:
        self.script = script
        self.close_after = close_after
        self.requests: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.requests.append(head + await reader.readexactly(length))
                words = self.script[min(len(self.requests), len(self.script)) - 1]
                if words is None:
                    break
                writer.write(words)
                await writer.drain()
                if self.close_after:
                    break
        writer.close()


@contextlib.asynccontextmanager
async def pool_to(server: ScriptedServer, caps: PoolCaps | None = None) -> AsyncIterator[HttpPool]:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.02)
    outbox = Outbox(loop, lambda: None)
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    pool = HttpPool("127.0.0.1", listening.sockets[0].getsockname()[1], outbox, deadlines, caps=caps)
    try:
        yield pool
    finally:
        pool.close()
        deadlines.close()
        listening.close()
        for writer in server.writers:
            writer.close()
