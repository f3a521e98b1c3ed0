"""Build one worker's data plane from settings: controls in order, upstreams, sessions, ledger and listener."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorward.adapters.bus import Channel, Peer
from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_in import listen
from doorward.adapters.http_listener import FaceCaps, HttpListener
from doorward.adapters.http_out import HttpPool
from doorward.adapters.ledger_files import LedgerWriter
from doorward.adapters.open_files import connections_within, raise_open_files
from doorward.adapters.outbox import Outbox
from doorward.adapters.shared_counters import SharedCounters
from doorward.adapters.stdio_link import StdioUpstream
from doorward.app.controls import accounts_of, build_controls, build_policy
from doorward.app.documents import documents_of
from doorward.base.clock import SystemClock
from doorward.base.errors import DoorwardError, StoreError
from doorward.base.ids import EventIds
from doorward.catalogue.server import ServerSpec
from doorward.controls.control import Refuse
from doorward.controls.limit_rate import LimitRate
from doorward.gateway.bridge import BridgedUpstream
from doorward.gateway.credentials import CredentialBook, CredentialedUpstream, Kind
from doorward.gateway.desk import Desk
from doorward.gateway.exchange import Exchange
from doorward.gateway.facts import FactBook
from doorward.gateway.front import Addresses, Gateway
from doorward.gateway.http_link import HttpUpstream
from doorward.gateway.parks import ParkSeal
from doorward.gateway.pipeline import Pipeline, Placed
from doorward.gateway.ports import Cancel, Upstream
from doorward.gateway.recorder import Recorder
from doorward.gateway.relay import RelayedResponder, RelayingClient
from doorward.gateway.routes import Routes
from doorward.gateway.sessions import Seat, SessionSeal, SessionTable
from doorward.gateway.snapshot import Freshness, Snapshot
from doorward.gateway.web import WebDoor
from doorward.identity.principal import Principal
from doorward.settings import Settings

_ENDLESS = frozenset({"subscriptions/listen"})  # ends when somebody ends it
_BREAK_SECONDS = 1.0  # of a drain, for what is told that it ends now
_DRAIN_LOOK_SECONDS = 0.02
_ASK_SECONDS = 30.0
_RAISE_SECONDS, _RAISED_COUNT = 1.0, 1_024


class DataPlane:
    """Everything between the listening socket and the upstreams, in one process."""

    def __init__(
        self,
        index: int,
        incarnation: bytes,
        counters_fd: int,
        peer: Peer,
        store_failed: Callable[[StoreError], None],
    ) -> None:
        self._index = index
        self._incarnation = incarnation
        self._counters_fd = counters_fd
        self._peer = peer
        self._store_failed = store_failed
        self._clock = SystemClock()
        self._ids = EventIds()
        self.freshness = Freshness(self._clock)
        self._facts = FactBook(self._clock, _later)
        self._book = CredentialBook(lambda payload, then: self._ask("credential", payload, then), self._clock)
        self._live: set[Exchange] = set()
        self._pools: dict[tuple[str, int, bool], HttpPool] = {}
        self._upstreams: dict[str, tuple[ServerSpec, bytes, BridgedUpstream, Upstream]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._accounts: dict[str, frozenset[str]] = {}
        self._limits: LimitRate | None = None
        self._placed: list[Placed] = []
        self._raised: dict[tuple[str, str, str], float] = {}
        self.ledger_ok = True
        self.port = 0

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, payload: dict[str, Any]) -> None:
        """Build from the first snapshot and listen. Raises OperatorError, StoreError and OSError."""
        settings = msgspec.msgpack.decode(payload["settings"], type=Settings)
        loop = asyncio.get_running_loop()
        origin = str(payload["ledger_origin"])
        self._ledger = LedgerWriter(
            Path(settings.gateway.data_dir) / "ledger",
            origin,
            self._sign,
            self._clock,
            settings.audit.sync_ms,
        )
        await self._ledger.start()
        self._outbox = Outbox(loop, self._ledger.flush, self._failed)
        self._deadlines = Deadlines(loop)
        self._recorder = Recorder(self._ledger, payload["digest_key"], origin, self._clock, self._ids)
        self._counters = SharedCounters.attach(self._counters_fd, self._index)
        seal = SessionSeal(payload["session_key"])
        seat = Seat(self._index, self._incarnation)
        self.table = SessionTable(seal, seat, self._clock)
        self._parks = ParkSeal(payload["session_key"], seat)
        snapshot = self._build(payload, settings)
        self._access_check(settings, snapshot.desk)
        self.gateway = Gateway(
            snapshot=snapshot,
            table=self.table,
            recorder=self._recorder,
            addresses=self._addresses(),
            freshness=self.freshness,
            clock=self._clock,
            ids=self._ids,
            relay=self._relay,
            parks=self._parks,
            alert=self._raise,
            web=WebDoor(lambda payload, then: self._ask("web", payload, then)),
            is_ready=lambda: self.ledger_ok,
        )
        self.freshness.tick(snapshot.generation)
        host, _, port = settings.gateway.listen.rpartition(":")
        connections, backlog = connections_within(raise_open_files())
        self._listener: HttpListener = await listen(
            host.strip("[]"),
            int(port),
            self.gateway,
            self._outbox,
            self._deadlines,
            caps=FaceCaps(connections=connections, connections_per_address=max(16, connections // 2)),
            reuse_port=True,
            backlog=backlog,
        )
        self.port = self._listener.port

    async def _sign(self, origin: str, size: int, root: bytes) -> str:
        note = await self._peer.ask("sign", {"origin": origin, "size": size, "root": root})
        return str(note)

    def _failed(self, error: StoreError) -> None:
        self.ledger_ok = False
        self._store_failed(error)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let calls under way come to their answer, and end what would go on for ever."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._listener.close()
        while self._has_calls() and loop.time() < until - _BREAK_SECONDS:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        for exchange in list(self._live):
            exchange.stop("The gateway is shutting down.")
        self.table.close()
        for _, _, upstream, _ in self._upstreams.values():
            upstream.close()
        await self._listener.drain(max(until - loop.time(), _BREAK_SECONDS))

    def _has_calls(self) -> bool:
        """True while a call is under way that will end by itself."""
        streams = (one for one in self._live if one.call.message.method not in _ENDLESS)
        return self.table.has_flights() or any(streams)

    async def stop(self) -> None:
        """Close the ledger and all connections."""
        for task in self._tasks:
            task.cancel()
        for pool in self._pools.values():
            pool.close()
        await self._listener.drain(0.0)
        self._deadlines.close()
        await self._ledger.close()

    # -- snapshots ----------------------------------------------------------------------------------------------

    def renew(self, payload: dict[str, Any]) -> None:
        """Replace what is in force. Requests under way end under what they began with."""
        settings = msgspec.msgpack.decode(payload["settings"], type=Settings)
        before = {name: one[2] for name, one in self._upstreams.items()}
        snapshot = self._build(payload, settings)
        now = {name: one[2] for name, one in self._upstreams.items()}
        gone = {name for name, upstream in before.items() if now.get(name) is not upstream}
        self.gateway.addresses = self._addresses()
        self.gateway.snapshot = snapshot
        self.freshness.tick(snapshot.generation)
        self._listener.forget_heads()
        self.table.settings_changed()
        revoked = frozenset(payload["revoked"])
        lost = self._access_check(settings, snapshot.desk)
        self.table.drop_where(
            # What a session has with a server that changed or went cannot be carried over: its client begins anew.
            lambda session: (
                session.token_id in revoked
                or session.endpoint in gone
                or not gone.isdisjoint(session.links)
                or (session.caller is not None and lost(session.caller, session.links))
            )
        )
        for exchange in list(self._live):
            call = exchange.call
            if call.principal.token_id in revoked:
                exchange.stop("The access token was revoked.")
            elif lost(call.principal, getattr(exchange.link, "servers", (call.server,))):
                exchange.stop("The access of this caller has changed.")

    def _access_check(self, settings: Settings, desk: Desk) -> Callable[[Principal, Iterable[str]], bool]:
        """Who may no longer hear what a server says on streams that were opened before these settings."""
        before = self._accounts
        self._accounts = {name: frozenset(roles) for name, roles in accounts_of(settings).items()}
        # Their roles are as their token was judged then: the next request finds out what they are now.
        changed = {name for name, roles in before.items() if self._accounts.get(name) != roles}
        return lambda who, servers: (
            who.subject in changed or not all(desk.may_use_server(who, name) for name in servers)
        )

    def _addresses(self) -> Addresses:
        """The per-address limit, unless its control is off."""
        on = any(one.control is self._limits and one.mode == "enforce" for one in self._placed)
        return self._limits if on and self._limits is not None else _NoLimit()

    def _build(self, payload: dict[str, Any], settings: Settings) -> Snapshot:
        policy = build_policy(settings, payload.get("policies") or {})
        kinds = {
            name: kind_of(spec) for name, spec in settings.servers.items() if spec.credentials.is_granted
        }
        self._book.adopt(kinds, (payload.get("papers") or {}).get("credentials"))
        placed, limits = build_controls(settings, payload, policy, self._counters, self._clock, self._book)
        if self._limits is not None:
            limits.adopt(self._limits)
        self._limits = limits
        self._placed = placed
        pipeline = Pipeline(placed, self._spawn)
        upstreams = self._build_upstreams(settings, payload.get("secrets") or {})
        modes = {one.control.slug: one.mode for one in placed}
        enforced = modes.get("ask-policy") == "enforce"
        profile = settings.gateway.profile
        desk = Desk(
            pipeline=pipeline,
            recorder=self._recorder,
            facts=self._facts,
            ids=self._ids,
            servers=dict(settings.servers),
            upstreams=upstreams,
            may_use_server=policy.may_use_server if enforced else _everyone,
            end_session=self.table.drop,
            deny_as=settings.gateway.deny_as,
            sync_all=settings.audit.durability == "before-upstream" or profile in ("production", "regulated"),
            gate_requests=modes.get("gate-server-requests") == "enforce",
            live=self._live,
            task_key=payload["session_key"],
            may_ask=(lambda *question: policy.may(*question).allowed) if enforced else None,
        )
        documents = documents_of(settings, payload["jwks"])
        routes = Routes(settings.servers, settings.gateway.public_url, documents, payload.get("web") or ())
        return Snapshot(int(payload["generation"]), routes, pipeline, desk, settings.limits.body_bytes)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- upstreams ----------------------------------------------------------------------------------------------

    def _build_upstreams(self, settings: Settings, secrets: dict[str, bytes]) -> dict[str, Upstream]:
        """Keep the upstream of every server whose settings did not change: its era and links stay known."""
        kept: dict[str, tuple[ServerSpec, bytes, BridgedUpstream, Upstream]] = {}
        for name, spec in settings.servers.items():
            credential = _credential(spec, secrets.get(name, b""))
            known = self._upstreams.get(name)
            if known is not None and known[0] == spec and known[1] == credential:
                kept[name] = known
            elif known is not None and known[0] == spec and isinstance(known[3], HttpUpstream):
                known[3].present(credential)  # only the secret is another: what is open stays open
                kept[name] = (spec, credential, known[2], known[3])
            else:
                self._facts.forget(name)
                inner = self._make_upstream(spec, credential)
                bridged = BridgedUpstream(inner, spec.name, self._parks, _later)
                kept[name] = (spec, credential, bridged, inner)
        for name, (_, _, before, _) in self._upstreams.items():
            if name not in kept or kept[name][2] is not before:
                before.close()
        self._upstreams = kept
        return {name: one[2] for name, one in kept.items()}

    def _make_upstream(self, spec: ServerSpec, credential: bytes) -> Upstream:
        if spec.is_stdio:
            return StdioUpstream(self._peer, spec)
        parts = urlsplit(spec.url)
        tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        pool = self._pools.get((host, port, tls))
        if pool is None:
            context = ssl.create_default_context() if tls else None
            pool = HttpPool(host, port, self._outbox, self._deadlines, tls=context)
            self._pools[(host, port, tls)] = pool
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def make(line: bytes) -> HttpUpstream:
            return HttpUpstream(spec.name, pool, parts.netloc, target, line, self._facts.schema_of, _later)

        return (
            CredentialedUpstream(spec.name, self._book, make)
            if spec.credentials.is_granted
            else make(credential)
        )

    # -- what the supervisor's offices answer -------------------------------------------------------------------

    def _ask(self, topic: str, payload: dict[str, Any], then: Callable[[Any], None]) -> None:
        async def asking() -> None:
            try:
                found = await self._peer.ask(topic, payload, timeout_seconds=_ASK_SECONDS)
            except DoorwardError:
                found = None
            then(found)

        self._spawn(asking())

    def _raise(self, rule: str, item: str, server: str, address: str) -> None:
        """Tell the supervisor; the same once a second, whatever comes."""
        key, now = (rule, item, address), self._clock.monotonic()
        if now - self._raised.get(key, -_RAISE_SECONDS) < _RAISE_SECONDS:
            return
        if len(self._raised) >= _RAISED_COUNT:
            self._raised.clear()
        self._raised[key] = now
        told = {
            "rule": rule,
            "item": item,
            "server": server,
            "address": address,
            "reason": "presented at the door",
        }
        self._peer.tell("alert", told)

    # -- sessions of other workers ------------------------------------------------------------------------------

    def _relay(self, owner: int, payload: dict[str, Any], client: RelayingClient) -> bool:
        channel = self._peer.open(
            "relay", {**payload, "to": owner}, on_message=client.hear, on_close=client.closed
        )
        client.attach(channel)
        return True

    def accept_relay(self, payload: dict[str, Any], channel: Channel) -> None:
        """Serve a request that another worker handed over."""
        self.gateway.accept_relay(payload, lambda address: RelayedResponder(channel, address))

    # -- rounds -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """End idle and overdue sessions and streams."""
        self.table.sweep()
        now = time.time()
        for exchange in list(self._live):
            if 0 < exchange.call.principal.expires_at < now:
                exchange.stop("The access token has run out.")

    def numbers(self) -> dict[str, Any]:
        """What the metrics page shows of this worker."""
        return {
            "index": self._index,
            "sessions": len(self.table),
            "streams": self.table.streams_count() + len(self._live),
            "connections": len(self._listener.faces),
            "ledger_ok": self.ledger_ok,
            "ledger_unsigned_seconds": self._ledger.unsigned_seconds,
            "generation": self.gateway.snapshot.generation,
            **self._recorder.numbers(),
        }


def _later(seconds: float, run: Callable[[], None]) -> Cancel:
    return asyncio.get_running_loop().call_later(seconds, run).cancel


def _everyone(principal: Principal, server: str) -> bool:  # noqa: ARG001 - as the policy engine would be asked
    return True


class _NoLimit:
    """Addresses are not limited."""

    def admit_address(self, address: str) -> Refuse | None:
        """Everyone may come."""
        return None


def kind_of(spec: ServerSpec) -> Kind:
    """For whom a server's token is."""
    if not spec.credentials.varies:
        return "shared"
    return "personal" if spec.credentials.type == "oauth" else "exchange"


def _credential(spec: ServerSpec, secret: bytes) -> bytes:
    """The header line with what Doorward presents to this upstream, or b""."""
    if spec.credentials.type != "header":
        return b""
    value = spec.credentials.prefix.encode() + secret
    return spec.credentials.name.encode() + b": " + value + b"\r\n"
