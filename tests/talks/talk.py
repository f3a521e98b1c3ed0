"""Conversations through the whole pipeline in memory: what a client says, what the server sees, what the client hears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from doorward.base.clock import FakeClock
from doorward.base.errors import UpstreamError
from doorward.base.ids import EventIds
from doorward.catalogue.server import ServerSpec
from doorward.controls.ask_policy import AskPolicy
from doorward.controls.bind_session import BindSession
from doorward.controls.check_head import CheckHead
from doorward.controls.check_origin import CheckOrigin
from doorward.controls.check_shape import CheckShape
from doorward.controls.check_token import CheckToken
from doorward.controls.control import Head, Mode
from doorward.controls.gate_server_requests import GateServerRequests
from doorward.controls.scope_cache import ScopeCache
from doorward.controls.seal_state import SealState
from doorward.gateway.bridge import BridgedUpstream
from doorward.gateway.desk import Desk
from doorward.gateway.facts import FactBook
from doorward.gateway.front import Gateway
from doorward.gateway.parks import ParkBook
from doorward.gateway.pipeline import Pipeline, Placed
from doorward.gateway.ports import never
from doorward.gateway.recorder import Recorder
from doorward.gateway.routes import Routes
from doorward.gateway.sessions import Seat, SessionSeal, SessionTable
from doorward.gateway.snapshot import Freshness, Snapshot
from doorward.gateway.states import StateSeal
from doorward.identity.keys import KeySet
from doorward.identity.metadata import resource_of
from doorward.identity.tokens import TokenJudge, issue
from doorward.policy.engine import PolicyEngine
from doorward.policy.roles import EVERYTHING, Role
from doorward.protocol.envelope import parse_message
from doorward.protocol.http_head import parse_request_head
from doorward.protocol.json_door import encode_json

URL = "http://127.0.0.1:8808"
MODERN = "2026-07-28"
LEGACY = "2025-11-25"


class MemoryJournal:
    """The ledger as a list."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.synced: list[Callable[[Any], None]] = []
        self.hold = False

    def append(self, entry: bytes) -> int:
        self.entries.append(msgspec.json.decode(entry))
        return len(self.entries) - 1

    def when_synced(self, callback: Callable[[Any], None]) -> None:
        if self.hold:
            self.synced.append(callback)
        else:
            callback(None)


class Ear:
    """A client's end of one exchange."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.on_gone: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.is_paused = False
        self.status = 0
        self.fields = b""
        self.body = b""
        self.events: list[bytes] = []
        self.streaming = False
        self.ended = False
        self.aborted = False

    def answer(self, reply: Any) -> None:
        assert not self.ended, "answered twice"
        self.status, self.fields, self.body, self.ended = reply.status, reply.fields, reply.body, True

    def start(self, status: int, fields: bytes) -> None:
        assert not self.streaming, "started twice"
        self.status, self.fields, self.streaming = status, fields, True

    def write(self, part: bytes) -> None:
        assert self.streaming and not self.ended
        self.events.append(part)

    def end(self) -> None:
        assert not self.ended, "ended twice"
        self.ended = True

    def abort(self) -> None:
        self.aborted = self.ended = True

    def leave(self) -> None:
        """The client drops the connection."""
        if self.on_gone is not None:
            self.on_gone()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def messages(self) -> list[Any]:
        """The JSON-RPC messages of a stream."""
        found = []
        for event in self.events:
            for line in event.split(b"\n"):
                if line.startswith(b"data: ") and len(line) > 6:
                    found.append(msgspec.json.decode(line[6:]))
        return found

    def field(self, name: str) -> str | None:
        for line in self.fields.decode().split("\r\n"):
            key, _, value = line.partition(": ")
            if key.lower() == name.lower():
                return value
        return None


class PlayedLink:
    """A link to a server that a test plays: answers come from ``server.on``."""

    def __init__(self, server: PlayedServer, principal: str, era: str = "modern") -> None:
        self.server = server
        self.era = era
        self.principal = principal
        self.closed_by_us = False
        self.listeners: list[Any] = []
        self.cancelled: list[Any] = []

    def post(self, message: Any, sink: Any) -> Callable[[], None]:
        self.server.seen.append(message)
        self.server.sinks.append(sink)
        reply = self.server.on(message, self)
        if reply is not None:
            status = 200
            sink.message(
                parse_message(msgspec.json.encode({"jsonrpc": "2.0", "id": message.id, **reply})), "", status
            )
            sink.done()
        elif message.kind != "request":
            sink.done()
        return lambda: self.cancel(message)

    def cancel(self, message: Any) -> None:
        """Nobody waits for a request: in the older era the server is told so by a message."""
        self.cancelled.append(message)
        if self.era == "legacy" and message.kind == "request":
            told = {"method": "notifications/cancelled", "params": {"requestId": message.id}}
            self.server.seen.append(parse_message(msgspec.json.encode({"jsonrpc": "2.0", **told})))

    def listen(self, last_event_id: str, sink: Any) -> Callable[[], None]:
        self.listeners.append(sink)
        return lambda: self.listeners.remove(sink)

    def close(self) -> None:
        self.closed_by_us = True


class PlayedServer:
    """A server played by a test."""

    def __init__(self, era: str = "both", tools: tuple[str, ...] = ("echo", "delete")) -> None:
        self.era = era
        self.tools = [
            {
                "name": name,
                "inputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": name != "delete"},
            }
            for name in tools
        ]
        self.seen: list[Any] = []
        self.sinks: list[Any] = []
        self.links: list[PlayedLink] = []
        self.answers: dict[str, Any] = {}

    def link(self, principal: str, era: str, version: str, capabilities: Any, ready: Any) -> None:
        if self.era not in ("both", era):
            return ready(UpstreamError("upstream-era", "The protected server speaks the other era."))
        link = PlayedLink(self, principal, era)
        self.links.append(link)
        return ready(link)

    def on(self, message: Any, link: PlayedLink) -> Any:
        if message.kind != "request":
            return None
        if message.method in self.answers:
            answer = self.answers[message.method]
            return answer(message) if callable(answer) else answer
        modern = "_meta" in (message.params or {}) and any(
            "protocolVersion" in key for key in message.params["_meta"]
        )
        extra = {"resultType": "complete", "ttlMs": 1000, "cacheScope": "public"} if modern else {}
        match message.method:
            case "initialize":
                return {
                    "result": {
                        "protocolVersion": message.params["protocolVersion"],
                        "capabilities": {"tools": {"listChanged": True}},
                        "serverInfo": {"name": "played", "version": "1"},
                    }
                }
            case "server/discover":
                found = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
                return {"result": {**found, **extra}}
            case "tools/list":
                return {"result": {"tools": [dict(tool) for tool in self.tools], **extra}}
            case "tools/call":
                text = encode_json(message.params.get("arguments")).decode()
                return {"result": {"content": [{"type": "text", "text": text}], **extra}}
        return {"error": {"code": -32601, "message": "Method not found"}}

    def methods(self) -> list[str]:
        return [message.method for message in self.seen]


def bridged(server: Any, book: ParkBook | None = None) -> BridgedUpstream:
    """A server as clients of both eras reach it."""
    return BridgedUpstream(server, "time", book or ParkBook(Seat(0, b"incarnat")), never)


class NoLimit:
    def admit_address(self, address: str) -> None:
        return None


class Talk:
    """A gateway in memory."""

    def __init__(
        self,
        servers: dict[str, PlayedServer],
        *,
        roles: dict[str, Role] | None = None,
        off: tuple[str, ...] = (),
        report: tuple[str, ...] = (),
        allow_requests: tuple[str, ...] = (),
        policies: dict[str, str] | None = None,
        sync_all: bool = False,
        deny_as: str = "error",
        worker: int = 0,
        seal_key: bytes = b"k" * 32,
        relay: Any = None,
        extra_controls: tuple[Any, ...] = (),
        judge_of: Any = None,
        bridge: bool = False,
    ) -> None:
        """``bridge``: the servers are reached as the real gateway does, in the era that they speak."""
        self.servers = servers
        self.clock = FakeClock()
        self.keys = KeySet.generate()
        self.journal = MemoryJournal()
        ids = EventIds()
        self.recorder = Recorder(self.journal, b"d" * 32, "test/w0", self.clock, ids, URL)
        self.table = SessionTable(SessionSeal(seal_key), Seat(worker, b"incarnat"), self.clock)
        self.freshness = Freshness(self.clock)
        specs = {
            name: ServerSpec(name=name, url=f"http://127.0.0.1:1/{name}", allow_requests=allow_requests)
            for name in servers
        }
        judge = (
            judge_of(self)
            if judge_of
            else TokenJudge(self.keys.jwks(), URL, self.clock, accepts_created=True)
        )
        policy = PolicyEngine(roles or {"user": EVERYTHING}, policies, tuple(servers))
        host = "127.0.0.1:8808"
        controls = [
            CheckOrigin([host], [URL]),
            CheckToken(judge, URL),
            CheckHead(4_194_304),
            BindSession(),
            CheckShape(),
            *extra_controls,
            AskPolicy(policy),
            SealState(),
            GateServerRequests({name: allow_requests for name in servers}),
            ScopeCache(),
        ]
        modes: dict[str, Mode] = {
            one.slug: "off" if one.slug in off else "report" if one.slug in report else "enforce"
            for one in controls
        }
        placed = [Placed(control, modes[control.slug]) for control in controls]
        self.states = StateSeal(seal_key, Seat(worker, b"incarnat"), self.clock)
        self.states.switch(on=modes[SealState.slug] != "off")
        pipeline = Pipeline(placed, lambda coroutine: coroutine.close())
        self.facts = FactBook(self.clock)
        self.live: set[Any] = set()
        desk = Desk(
            pipeline=pipeline,
            recorder=self.recorder,
            facts=self.facts,
            ids=ids,
            servers=specs,
            upstreams={
                name: bridged(one, self.states.book) if bridge else one for name, one in servers.items()
            },
            may_use_server=policy.may_use_server,
            end_session=self.table.drop,
            deny_as=deny_as,
            sync_all=sync_all,
            gate_requests="gate-server-requests" not in off,
            live=self.live,
            states=self.states,
            narrow=ScopeCache.narrowing(modes[ScopeCache.slug]),
            may_ask=lambda *question: policy.may(*question).allowed,
        )
        snapshot = Snapshot(1, Routes(servers, URL, {}), pipeline, desk, 4_194_304)
        self.freshness.tick(1)
        self.gateway = Gateway(
            snapshot=snapshot,
            table=self.table,
            recorder=self.recorder,
            addresses=NoLimit(),
            freshness=self.freshness,
            clock=self.clock,
            ids=ids,
            relay=relay,
            states=self.states,
            is_ready=lambda: True,
        )

    def token(self, server: str = "", user: str = "alice", roles: tuple[str, ...] = ("user",)) -> str:
        return issue(
            self.keys,
            issuer=URL,
            resource=resource_of(URL, server),
            subject=user,
            client="cli",
            clock=self.clock,
            roles=roles,
            created=True,
        )

    def send(
        self,
        server: str,
        body: Any,
        *,
        verb: str = "POST",
        token: str | None = None,
        user: str = "alice",
        **fields: str,
    ) -> Ear:
        """Send one HTTP request; header names are given with underscores."""
        path = f"/{server}/mcp" if server else "/mcp"
        token = self.token(server, user) if token is None else token
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        lines = {
            "Host": "127.0.0.1:8808",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
        }
        if token:
            lines["Authorization"] = f"Bearer {token}"
        lines.update({name.replace("_", "-"): value for name, value in fields.items()})
        if verb != "POST":
            del lines["Content-Length"], lines["Content-Type"]
        block = f"{verb} {path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items() if value
        )
        ear = Ear()
        head = parse_request_head((block + "\r\n").encode(), Head)
        refused = self.gateway.head(head, ear.address)
        if refused is not None:
            ear.answer(refused)
        else:
            self.gateway.body(head, raw, ear)
        return ear

    def modern(
        self, server: str, method: str, params: dict[str, Any] | None = None, *, id: Any = 1, **extra: Any
    ) -> Ear:
        """Send a request of the 2026 era."""
        capabilities = extra.pop("capabilities", {})
        params = dict(params or {})
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
            **params.get("_meta", {}),
        }
        fields = {"MCP_Protocol_Version": MODERN, "Mcp_Method": method}
        name = params.get("name") or params.get("uri")
        if name:
            fields["Mcp_Name"] = name
        fields.update(extra)
        return self.send(server, {"jsonrpc": "2.0", "id": id, "method": method, "params": params}, **fields)

    def open(self, server: str, user: str = "alice", capabilities: dict[str, Any] | None = None) -> str:
        """Open a session of the 2025 era; its id."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        ear = self.send(
            server, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, user=user
        )
        assert ear.status == 200, ear.body
        session = ear.field("Mcp-Session-Id")
        assert session, ear.fields
        done = self.legacy(server, session, "notifications/initialized", id=None, user=user)
        assert done.status == 202
        return session

    def legacy(
        self,
        server: str,
        session: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        id: Any = 1,
        **fields: Any,
    ) -> Ear:
        """Send a message of the 2025 era."""
        value: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if id is not None:
            value["id"] = id
        if params is not None:
            value["params"] = params
        return self.send(server, value, Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, **fields)
