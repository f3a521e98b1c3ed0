"""One worker's data plane under changing settings: what is kept, what ends, and who hears of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.ports import free_port
from tests.stack.wire import Answer, Events, Wire
from tests.stand_ins.http_server import HttpUpstream

from doorward.adapters.bus import Peer
from doorward.adapters.shared_counters import make_counters_file
from doorward.app.data_plane import DataPlane
from doorward.base.clock import SystemClock
from doorward.base.errors import StoreError
from doorward.identity.keys import KeySet
from doorward.identity.metadata import resource_of
from doorward.identity.tokens import issue
from doorward.settings_load import load_bytes

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Plane:
    """A data plane whose supervisor is played by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.keys = KeySet.generate()
        self.generation = 0
        self.revoked: list[str] = []
        self.faults: list[StoreError] = []
        self.counters_fd = make_counters_file(1)

    def payload(self, tables: str) -> dict[str, Any]:
        self.generation += 1
        text = (
            f'[gateway]\nlisten = "127.0.0.1:{self.port}"\npublic_url = "{self.url}"\n'
            f'data_dir = "{self.folder}/data"\n{tables}'
        )
        settings = load_bytes(text.encode(), self.folder / "doorward.toml").settings
        return {
            "generation": self.generation,
            "settings": msgspec.msgpack.encode(settings),
            "jwks": self.keys.jwks(),
            "revoked": self.revoked,
            "session_key": b"s" * 32,
            "digest_key": b"d" * 32,
            "ledger_origin": "test/w0",
            "policies": {},
            "secrets": {},
        }

    async def start(self, tables: str) -> None:
        mine, theirs = socket.socketpair()
        self.supervisor = await Peer.over(mine)
        self.supervisor.answer("sign", lambda asked: f"{asked['origin']}\n{asked['size']}\n\n— x y\n")
        self.peer = await Peer.over(theirs)
        (self.folder / "data").mkdir(exist_ok=True)
        self.plane = DataPlane(0, b"incarnat", self.counters_fd, self.peer, self.faults.append)
        await self.plane.start(self.payload(tables))
        self.ticking = asyncio.ensure_future(self.tick())

    async def tick(self) -> None:
        while True:
            self.plane.freshness.tick(self.generation)
            await asyncio.sleep(0.2)

    def renew(self, tables: str) -> None:
        self.plane.renew(self.payload(tables))

    async def stop(self) -> None:
        self.ticking.cancel()
        await self.plane.drain(0.5)
        await self.plane.stop()
        self.peer.close()
        self.supervisor.close()
        os.close(self.counters_fd)

    def token(self, server: str) -> str:
        return issue(
            self.keys, issuer=self.url, resource=resource_of(self.url, server), subject="alice", client="cli",
            clock=SystemClock(), roles=("user",), created=True,
        )  # fmt: skip

    async def ask(self, server: str, message: Any, verb: str = "POST", **fields: str) -> Answer:
        return await asyncio.to_thread(self._ask, server, message, verb, fields)

    def _ask(self, server: str, message: Any, verb: str, fields: dict[str, str]) -> Answer:
        with Wire(self.port) as wire:
            wire.send(self.request(server, message, verb, **fields))
            return wire.read(verb)

    def request(self, server: str, message: Any, verb: str = "POST", **fields: str) -> bytes:
        body = b"" if message is None else msgspec.json.encode(message)
        lines = {
            "Host": f"127.0.0.1:{self.port}",
            "Authorization": f"Bearer {fields.pop('token', '') or self.token(server)}",
            "Accept": "application/json, text/event-stream",
            **({"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}),
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        path = f"/{server}/mcp" if server else "/mcp"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode() + body

    async def open(self, server: str, **fields: str) -> str:
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        answer = await self.ask(server, message, **fields)
        assert answer.status == 200, answer
        return answer.fields["mcp-session-id"]

    async def works(self, server: str, session: str) -> bool:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        answer = await self.ask(server, message, Mcp_Session_Id=session)
        assert answer.status in (200, 404), answer
        return answer.status == 200

    async def stream(self, server: str, session: str, **fields: str) -> Events:
        def begin() -> Events:
            wire = Wire(self.port)
            wire.send(self.request(server, None, "GET", Mcp_Session_Id=session, **fields))
            status, _ = wire.read_head()
            assert status == 200
            return Events(wire)

        return await asyncio.to_thread(begin)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    made = Plane(tmp_path)
    yield made
    await made.stop()


@pytest.fixture
async def ups() -> AsyncIterator[tuple[HttpUpstream, HttpUpstream]]:
    one, two = HttpUpstream(), HttpUpstream()
    yield one, two
    await asyncio.to_thread(one.close)
    await asyncio.to_thread(two.close)


def servers(**urls: str) -> str:
    return "".join(f'[servers.{name}]\nurl = "{url}"\n' for name, url in urls.items())


async def test_what_did_not_change_is_kept_and_its_sessions_go_on(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url, b=ups[1].url))
    kept = plane.plane.gateway.snapshot.desk.upstreams
    one, all_ = await plane.open("a"), await plane.open("")
    plane.renew(servers(a=ups[0].url, b=ups[1].url) + "[limits]\ncalls = 500\n")
    assert plane.plane.gateway.snapshot.generation == 2
    assert plane.plane.gateway.snapshot.desk.upstreams == kept
    assert await plane.works("a", one) and await plane.works("", all_)


async def test_sessions_of_a_server_that_went_or_changed_end(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url, b=ups[1].url))
    a, b, both = await plane.open("a"), await plane.open("b"), await plane.open("")
    plane.renew(servers(a=ups[0].url, b=ups[0].url))
    assert await plane.works("a", a)
    assert not await plane.works("b", b) and not await plane.works("", both)
    b, both = await plane.open("b"), await plane.open("")
    plane.renew(servers(a=ups[0].url))
    assert not await plane.works("", both) and await plane.works("a", a)
    answer = await plane.ask("b", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, token=plane.token("a"))
    assert answer.status == 404
    assert len(plane.plane.table) == 1


async def test_a_revoked_token_ends_its_sessions_and_streams_and_no_others(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url))
    bad, good = plane.token("a"), plane.token("a")
    doomed, spared = await plane.open("a", token=bad), await plane.open("a", token=good)
    ends = await plane.stream("a", doomed, token=bad)
    stays = await plane.stream("a", spared, token=good)
    claims = msgspec.json.decode(_b64(bad.split(".")[1]))
    plane.revoked.append(claims["jti"])
    plane.renew(servers(a=ups[0].url))
    assert await asyncio.to_thread(ends.rest) == []
    refused = await plane.ask("a", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, token=bad)
    assert refused.status == 401
    assert plane.plane.table.streams_count() == 1
    stays.close()


def _b64(text: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_calls_under_way_still_count_after_the_settings_changed(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url) + "[limits]\nconcurrent = 4\n")
    limits = plane.plane._limits
    assert limits is not None
    limits._tickets["under-way"] = object()  # type: ignore[assignment]
    plane.renew(servers(a=ups[0].url) + "[limits]\nconcurrent = 5\n")
    assert plane.plane._limits is not limits and plane.plane._limits is not None
    assert "under-way" in plane.plane._limits._tickets


async def test_heads_are_judged_anew_under_new_settings(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url))
    token = plane.token("b")
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert (await plane.ask("b", ping, token=token)).status == 404
    plane.renew(servers(a=ups[0].url, b=ups[1].url))
    assert (await plane.ask("b", ping, token=token)).status != 404


async def test_a_drain_ends_silent_streams_at_once(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url))
    stream = await plane.stream("a", await plane.open("a"))
    async with asyncio.timeout(5):
        await plane.plane.drain(10)
    assert await asyncio.to_thread(stream.rest) == []
    assert len(plane.plane.table) == 0


async def test_the_numbers_return_to_nothing_when_everybody_left(
    plane: Plane, ups: tuple[HttpUpstream, HttpUpstream]
) -> None:
    await plane.start(servers(a=ups[0].url))
    session = await plane.open("a")
    stream = await plane.stream("a", session)
    numbers = plane.plane.numbers()
    assert (numbers["sessions"], numbers["streams"]) == (1, 1)
    stream.close()
    await plane.ask("a", None, "DELETE", Mcp_Session_Id=session)
    await until(lambda: plane.plane.numbers()["connections"] == 0)
    numbers = plane.plane.numbers()
    assert (numbers["sessions"], numbers["streams"]) == (0, 0)
