"""The official Python SDK 2.x as a client that breaks off; what to do comes as JSON, what was found goes out as JSON.

In: ``{"targets": [{"url", "token"}], "mode", "name", "seed", "cancels", "lanes"}``. Out: counts, and ``faults`` in words: an answer, a
step or a question with a nonce that this very call did not send, an error nobody caused, or silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

SILENT_SECONDS = 60.0
CALLS = 24  # of one connection, in groups that are under way together


def leaves(error: BaseException) -> list[BaseException]:
    """What groups of errors hold."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]


class Soak:
    """All lanes of one process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.open: set[str] = set()  # nonces of calls under way
        self.counts = dict.fromkeys(("cancelled", "answered", "connects", "broken_connects", "questions"), 0)
        self.faults: list[str] = []

    @property
    def is_done(self) -> bool:
        return self.counts["cancelled"] >= self.job["cancels"] or len(self.faults) > 20

    def client(self, target: dict[str, str], http: httpx2.AsyncClient, mine: set[str], rng: Any) -> Client:
        async def answer(context: Any, params: Any) -> types.ElicitResult:
            self.counts["questions"] += 1
            if params.message not in mine:
                self.faults.append(f"asked about {params.message}, which is not this connection's")
            await asyncio.sleep(rng.uniform(0, 0.01))
            return types.ElicitResult(action="accept", content={"about": f"about {params.message}"})

        transport = streamable_http_client(target["url"], http_client=http)
        return Client(transport, mode=self.job["mode"], elicitation_callback=answer)

    async def call(self, client: Client, nonce: str, mine: set[str], rng: random.Random) -> None:
        """One call, broken off at a random point or answered before."""
        tool = rng.choice(("echo", "steps", "ask"))
        ms = rng.choice((0, 5, 20))
        patience = rng.uniform(0, 0.01 + ms / 600)

        async def step(done: float, total: float | None, message: str | None) -> None:
            if message != nonce:
                self.faults.append(f"{nonce} was told of {message}")

        mine.add(nonce)
        given = {"nonce": nonce, "ms": ms}
        call = asyncio.ensure_future(client.call_tool(tool, given, progress_callback=step))
        if rng.random() < 0.85:
            await asyncio.wait([call], timeout=patience)
            if call.cancel():
                with contextlib.suppress(asyncio.CancelledError):
                    await call
                if call.cancelled():
                    self.counts["cancelled"] += 1
                    return
        result = await asyncio.wait_for(call, SILENT_SECONDS)
        said = getattr(result.content[0], "text", "")
        if said != (f"{nonce}, about {nonce}" if tool == "ask" else nonce):
            self.faults.append(f"{tool} {nonce} was answered {said!r}")
        self.counts["answered"] += 1

    async def visit(self, target: dict[str, str], name: str, rng: random.Random) -> None:
        """Connect, call in groups, and leave."""
        mine: set[str] = set()
        headers = {"Authorization": f"Bearer {target['token']}"}
        async with httpx2.AsyncClient(headers=headers, timeout=SILENT_SECONDS) as http:
            async with self.client(target, http, mine, rng) as client:
                for first in range(0, CALLS, 4):
                    group = [
                        self.call(client, f"{name}-{first + n}", mine, rng) for n in range(rng.randint(1, 4))
                    ]
                    await asyncio.gather(*group)
                    if self.is_done:
                        return

    async def lane(self, number: int) -> None:
        rng = random.Random(f"{self.job['seed']}-{number}")
        while not self.is_done:
            self.counts["connects"] += 1
            name = f"{self.job['name']}-{self.job['seed']}-{number}-{self.counts['connects']}"
            visit = asyncio.ensure_future(self.visit(rng.choice(self.job["targets"]), name, rng))
            if rng.random() < 0.1:  # leave before or while the connection is made, or in the middle of calls
                await asyncio.wait([visit], timeout=rng.uniform(0, 0.06))
                self.counts["broken_connects"] += visit.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await visit
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
                # The SDK's transport hands an answer to a stream that it has closed itself, when a client leaves while
                # the answer to a call that it broke off comes in; the session is then left without a word.
                self.counts["broken_connects"] += 1

    async def run(self) -> dict[str, Any]:
        lanes = [self.lane(number) for number in range(self.job["lanes"])]
        for one in await asyncio.gather(*lanes, return_exceptions=True):
            if isinstance(one, BaseException):
                self.faults += [f"{type(leaf).__name__}: {leaf}" for leaf in leaves(one)]
        return {**self.counts, "faults": self.faults}


print(json.dumps(asyncio.run(Soak(json.load(sys.stdin)).run())))
