"""Count what the interpreter does for one call: ``python bench/steps.py [SHAPE ...] [--where] [--time]``.

The whole data plane of one worker runs here, real but for its sockets: bytes go in at the client's face, the request's
bytes come out at the server's, a made answer goes in there, and the client's answer comes out. Bytecode instructions and
Python calls are the same in every run, however busy the machine is; ``--time`` adds the CPU time of a call without
sockets (the least of many batches), ``--where`` the functions that take the most.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_in import HttpFace
from doorward.adapters.http_listener import HttpListener
from doorward.adapters.http_out import HttpPool
from doorward.adapters.http_wire import ServerWire
from doorward.adapters.ledger_files import LedgerWriter
from doorward.adapters.outbox import Outbox
from doorward.adapters.shared_counters import SharedCounters, make_counters_file
from doorward.app.controls import build_controls, build_policy
from doorward.base.clock import SystemClock
from doorward.base.ids import EventIds
from doorward.catalogue.definition import pin_of
from doorward.catalogue.pins import Row
from doorward.gateway.bridge import BridgedUpstream
from doorward.gateway.desk import Desk
from doorward.gateway.facts import FactBook
from doorward.gateway.front import Gateway
from doorward.gateway.http_link import HttpUpstream
from doorward.gateway.pinned import PinDesk, PinnedUpstream
from doorward.gateway.pipeline import Pipeline
from doorward.gateway.ports import never
from doorward.gateway.recorder import Recorder
from doorward.gateway.routes import Routes
from doorward.gateway.sessions import Seat, SessionSeal, SessionTable
from doorward.gateway.snapshot import Freshness, Snapshot
from doorward.gateway.states import StateSeal
from doorward.identity.keys import KeySet
from doorward.identity.tokens import issue
from doorward.settings_load import load_file

WORDS = b"please find the orders of last week, and tell how many of them were late; thank you. "
SHAPES = {  # name: (bytes of the request, bytes of the text in the answer, era, a header that differs each time)
    "json": (1024, 500, "legacy", False),
    "vary": (1024, 500, "legacy", True),
    "modern": (1024, 500, "modern", False),
    "50k": (1024, 50_000, "legacy", False),
    "sse": (1024, 500, "legacy", False),
}
SETTINGS = """
[gateway]
listen = "127.0.0.1:8808"
data_dir = "{folder}"
[[identity.users]]
name = "bench"
roles = ["caller"]
[roles.caller]
servers = ["bench"]
tools = ["echo"]
[servers.bench]
url = "http://127.0.0.1:9/mcp"
[limits]
calls = 100000
per_seconds = 0.5
concurrent = 60000
"""


class Transport:
    """The far end of a connection: keeps what was written."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def set_write_buffer_limits(self, high: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def take(self) -> bytes:
        """What was written since the last time."""
        data, self.written = self.written, b""
        return data


def approve(offer: dict[str, Any], then: Callable[[Any], None]) -> None:
    """What the supervisor says of definitions that it has approved."""
    server, kind = offer["server"], offer["kind"]
    then([Row(server, kind, name, 1, pin_of(form), "approved", "current") for name, form in offer["items"]])


class Stand:
    """One worker's data plane on a loop, with a client's connection and a server's in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    async def build(self) -> None:
        """Put the parts together as ``app.data_plane`` does."""
        path = self.folder / "doorward.toml"
        path.write_text(SETTINGS.format(folder=self.folder / "data"))
        settings = load_file(path).settings
        loop = asyncio.get_running_loop()
        clock, ids, keys = SystemClock(), EventIds(), KeySet.generate()

        async def sign(origin: str, size: int, root: bytes) -> str:
            return f"{origin}\n{size}\n"

        self.ledger = LedgerWriter(self.folder / "ledger", "bench/w0", sign, clock, 100_000)
        await self.ledger.start()
        self.ledger._ticker.cancel()
        outbox = self.outbox = Outbox(loop, self.ledger.flush)
        deadlines = Deadlines(loop)
        recorder = Recorder(self.ledger, b"d" * 32, "bench/w0", clock, ids)
        seat = Seat(0, b"incarnat")
        table = SessionTable(SessionSeal(b"k" * 32), seat, clock)
        facts = FactBook(clock)
        policy = build_policy(settings, {})
        payload = {"jwks": keys.jwks(), "revoked": []}
        counters = SharedCounters(make_counters_file(1), 0, clock.monotonic)
        pins, states = PinDesk(approve, clock), StateSeal(b"k" * 32, seat, clock)
        placed, limits = build_controls(settings, payload, policy, counters, clock, pins)
        pipeline = Pipeline(placed, lambda coroutine: coroutine.close())
        pool = HttpPool("127.0.0.1", 9, outbox, deadlines)
        spec = settings.servers["bench"]
        upstream = HttpUpstream("bench", pool, "127.0.0.1:9", "/mcp", b"", facts.schema_of)
        pinned = PinnedUpstream(upstream, "bench", pins)
        desk = Desk(
            pipeline=pipeline,
            recorder=recorder,
            facts=facts,
            ids=ids,
            servers={"bench": spec},
            upstreams={"bench": BridgedUpstream(pinned, "bench", states.book, never)},
            may_use_server=policy.may_use_server,
            end_session=table.drop,
            deny_as="error",
            sync_all=False,
            gate_requests=True,
            live=set(),
            states=states,
            pins=pins,
        )
        freshness = Freshness(clock)
        freshness.tick(1)
        snapshot = Snapshot(
            1, Routes(["bench"], settings.gateway.public_url, {}), pipeline, desk, settings.limits.body_bytes
        )
        gateway = Gateway(
            snapshot=snapshot,
            table=table,
            recorder=recorder,
            addresses=limits,
            freshness=freshness,
            clock=clock,
            ids=ids,
            relay=lambda *_: False,
            is_ready=lambda: True,
            states=states,
        )
        self.tick = lambda: freshness.tick(1)
        listener = HttpListener(gateway, outbox, deadlines)
        self.client, self.server = Transport(), Transport()
        self.face, self.wire = HttpFace(listener), ServerWire(pool)
        self.face.connection_made(self.client)
        self.wire.connection_made(self.server)
        pool._wires.add(self.wire)
        pool._idle.append(self.wire)
        public = settings.gateway.public_url
        self.token = issue(
            keys, issuer=public, resource=public + "/bench/mcp", subject="bench", client="cli", clock=clock,
            roles=("caller",),
        )  # fmt: skip

    def head(self, length: int, lines: str = "") -> bytes:
        return (
            "POST /bench/mcp HTTP/1.1\r\nHost: 127.0.0.1:8808\r\nUser-Agent: doorward-bench/1\r\n"
            f"Accept: application/json, text/event-stream\r\nAuthorization: Bearer {self.token}\r\n{lines}"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def turn(self) -> None:
        """What a loop turn does at its end."""
        if self.outbox._scheduled:
            self.outbox.flush()

    def exchange(self, request: bytes, answer: Callable[[bytes], bytes]) -> bytes:
        """One request of the client and its answer."""
        self.face.data_received(request)
        self.turn()
        asked = self.server.take()
        if asked:
            self.wire.data_received(answer(asked))
            self.turn()
        return self.client.take()

    def open(self) -> None:
        """The handshake of a legacy session, and the list of tools in both eras."""
        hello = msgspec.json.encode(
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}}
        )  # fmt: skip
        agreed = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "serverInfo": {"name": "s", "version": "1"},
        }

        def first(asked: bytes) -> bytes:
            assert b"initialize" in asked or b"server/discover" in asked, asked
            return json_answer({"jsonrpc": "2.0", "id": 0, "result": agreed}, "Mcp-Session-Id: up-1\r\n")

        said = self.exchange(self.head(len(hello)) + hello, first)
        self.session = next(
            line[16:] for line in said.decode().split("\r\n") if line.lower().startswith("mcp-session-id: ")
        )
        tools = [{"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]
        lister = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
        lines = f"MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {self.session}\r\n"
        said = self.exchange(
            self.head(len(lister), lines) + lister,
            lambda _: json_answer({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}),
        )
        assert b'"echo"' in said, said
        wanted = self.call("modern")
        said = self.exchange(
            wanted[0], lambda _: json_answer({"jsonrpc": "2.0", "id": "doorward-probe", "result": {
                "supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete",
                "serverInfo": {"name": "s", "version": "1"}}})
        )  # fmt: skip
        asked = self.server.take()
        assert b"tools/call" in asked, asked
        self.wire.data_received(self.answer("json", wanted[1])(asked))
        self.turn()
        self.client.take()

    def call(self, shape: str) -> tuple[bytes, int]:
        """One request, unlike all others, and its id."""
        size, _, era, varies = SHAPES[shape]
        self.count += 1
        self.tick()
        meta = ""
        lines = f"X-Request-Id: {secrets.token_hex(8)}\r\n" if varies else ""
        if era == "modern":
            prefix = "io.modelcontextprotocol/"
            meta = (
                f'"_meta": {{"{prefix}protocolVersion": "2026-07-28", "{prefix}clientCapabilities": {{}}, '
                f'"{prefix}clientInfo": {{"name": "bench", "version": "1"}}}}, '
            )
            lines += "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n"
        else:
            lines += f"MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {self.session}\r\n"
        body = (
            f'{{"jsonrpc": "2.0", "id": {self.count}, "method": "tools/call", "params": {{{meta}"name": "echo", '
            f'"arguments": {{"shape": "json", "mark": "{secrets.token_hex(8)}", "count": {self.count % 977}, "text": "'
        ).encode()
        text = bytearray((WORDS * (size // len(WORDS) + 1))[: size - len(body) - 4])
        text[98:100] = b"\\n"
        body += bytes(text) + b'"}}}'
        return self.head(len(body), lines) + body, self.count

    @staticmethod
    def answer(shape: str, message_id: int) -> Callable[[bytes], bytes]:
        """What the server says to it."""
        text = (WORDS * (SHAPES[shape][1] // len(WORDS) + 1))[: SHAPES[shape][1]]
        kind = b',"resultType":"complete"' if SHAPES[shape][2] == "modern" else b""
        body = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%b"}],"isError":false%b}}' % (
            message_id, text.replace(b"; ", b"\\n"), kind,
        )  # fmt: skip
        if shape != "sse":
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            whole = head % len(body) + body
        else:
            event = b"event: message\ndata: %b\n\n" % body
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            whole = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
        return lambda _: whole


def json_answer(value: Any, lines: str = "") -> bytes:
    """A server's answer of one JSON body."""
    body = msgspec.json.encode(value)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def one(stand: Stand, shape: str) -> Callable[[], bytes]:
    """A call that is ready to be made; making it gives the client's answer."""
    request, message_id = stand.call(shape)
    answer = stand.answer(shape, message_id)
    return lambda: stand.exchange(request, answer)


def steps(stand: Stand, shape: str, calls: int = 20) -> tuple[Counter[str], Counter[str]]:
    """Bytecode instructions and Python calls of so many calls, by function."""
    opcodes: Counter[str] = Counter()
    entered: Counter[str] = Counter()

    def trace(frame: Any, event: str, _: Any) -> Any:
        code = frame.f_code
        name = f"{Path(code.co_filename).name}:{code.co_qualname}"
        if event == "call":
            if "steps.py" in name:
                return None
            entered[name] += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            opcodes[name] += 1
        return trace

    ready = [one(stand, shape) for _ in range(calls)]
    for make in ready:
        stand.tick()
        sys.settrace(trace)
        said = make()
        sys.settrace(None)
        assert b"200 OK" in said, said
        assert b'"isError":false' in said, said
    return opcodes, entered


def least_us(stand: Stand, shape: str, batches: int = 60, calls: int = 50) -> float:
    """CPU time of one call in microseconds: the least of many batches, hashing of records included."""
    best = 1e9
    for _ in range(batches):
        ready = [one(stand, shape) for _ in range(calls)]
        stand.tick()
        began = time.process_time_ns()
        for make in ready:
            make()
        while len(stand.ledger._unhashed) - stand.ledger._hashed >= 32:
            stand.ledger._hash_some()
        best = min(best, (time.process_time_ns() - began) / calls / 1000)
    return best


async def measure(given: argparse.Namespace) -> None:
    """Print a line for each shape."""
    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(Path(folder))
        await stand.build()
        stand.open()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        for shape in given.shapes or SHAPES:
            for _ in range(200):
                one(stand, shape)()
            opcodes, entered = steps(stand, shape)
            line = f"{shape}: {sum(opcodes.values()) / 20:.0f} instructions, {sum(entered.values()) / 20:.1f} Python calls"
            if given.time:
                line += f", {least_us(stand, shape):.1f} us without sockets"
            print(line, flush=True)
            for name, count in opcodes.most_common(given.where):
                print(f"  {count / 20:7.1f} {entered[name] / 20:5.2f}  {name}")
        os._exit(0)  # threads of the ledger wait for work


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--where", type=int, nargs="?", const=40, default=0)
    parser.add_argument("--time", action="store_true")
    uvloop.run(measure(parser.parse_args()))
