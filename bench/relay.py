"""The faces alone: every body goes to one upstream and every answer comes back, with no control between.

``python bench/relay.py LISTEN_PORT UPSTREAM_PORT`` serves until it is ended. What it costs is the floor under the
gateway's own cost; compare it with a plain reverse proxy on the same machine, in the same run.
"""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_in import listen
from doorward.adapters.http_out import HttpPool
from doorward.adapters.outbox import Outbox
from doorward.base.errors import CallerError, UpstreamError
from doorward.controls.control import Head
from doorward.gateway.ports import HttpHandle, Reply, Responder
from doorward.protocol.http_head import ResponseHead


class Relayed:
    """One exchange on its way back."""

    __slots__ = ("handle", "head", "parts", "responder")

    def __init__(self, responder: Responder) -> None:
        self.responder = responder
        self.parts: list[bytes] = []
        self.handle: HttpHandle | None = None

    def on_head(self, head: ResponseHead) -> None:
        self.head = head

    def on_data(self, part: bytes) -> None:
        self.parts.append(part)

    def on_end(self) -> None:
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.responder.answer(Reply(self.head.status, b"Content-Type: application/json\r\n", body))

    def on_fail(self, error: UpstreamError) -> None:
        self.responder.answer(Reply(502, b"", error.code.encode()))

    def gone(self) -> None:
        if self.handle is not None:
            self.handle.cancel()


class Relay:
    """A front without an opinion."""

    def __init__(self, pool: HttpPool) -> None:
        self.pool = pool

    def head(self, head: Head, address: str) -> Reply | None:
        return None

    def body(self, head: Head, body: bytes, responder: Responder) -> None:
        relayed = Relayed(responder)
        responder.on_gone = relayed.gone
        line = b"POST /mcp HTTP/1.1\r\nHost: upstream\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        relayed.handle = self.pool.send(line % len(body), body, relayed)

    def broken(self, error: Exception, address: str) -> Reply:
        return Reply(error.status if isinstance(error, CallerError) else 500)

    def body_limit(self, head: Head) -> int:
        return 4_194_304


async def serve(port: int, upstream: int) -> None:
    """Relay from ``port`` to ``upstream``, both on loopback."""
    loop = asyncio.get_running_loop()
    outbox = Outbox(loop, lambda: None)
    deadlines = Deadlines(loop)
    pool = HttpPool("127.0.0.1", upstream, outbox, deadlines)
    await listen("127.0.0.1", port, Relay(pool), outbox, deadlines)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
