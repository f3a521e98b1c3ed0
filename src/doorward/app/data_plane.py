"""Build one worker's data plane from settings: controls in order, upstreams, sessions, ledger and listener."""

from __future__ import annotations

import asyncio
import contextlib
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
from doorward.app.client_face import ClientFace, OpenFace
from doorward.app.controls import accounts_of, build_controls, build_policy
from doorward.app.documents import documents_of
from doorward.app.session_office import Killed
from doorward.app.trust import trusts_of, withdrawn_of
from doorward.app.worker_parts import Alarm, NoLimit, everyone, fixed_credential, kind_of, later
from doorward.app.worker_tls import WorkerTls
from doorward.base.clock import SystemClock
from doorward.base.errors import DoorwardError, StoreError
from doorward.base.ids import EventIds
from doorward.catalogue.pins import Row
from doorward.catalogue.server import ServerSpec
from doorward.controls.limit_rate import LimitRate
from doorward.controls.scope_cache import ScopeCache
from doorward.gateway.bridge import BridgedUpstream
from doorward.gateway.credentials import CredentialBook, CredentialedUpstream
from doorward.gateway.desk import Desk
from doorward.gateway.exchange import Exchange
from doorward.gateway.facts import FactBook
from doorward.gateway.front import Addresses, Gateway
from doorward.gateway.http_link import HttpUpstream
from doorward.gateway.pinned import PinDesk, PinnedUpstream
from doorward.gateway.pipeline import Pipeline, Placed
from doorward.gateway.ports import Upstream
from doorward.gateway.proofs import ProofDesk
from doorward.gateway.recorder import Recorder
from doorward.gateway.relay import RelayedResponder, RelayingClient
from doorward.gateway.routes import Routes
from doorward.gateway.sessions import Seat, SessionSeal, SessionTable
from doorward.gateway.snapshot import Freshness, Snapshot
from doorward.gateway.states import StateSeal
from doorward.gateway.web import WebDoor
from doorward.identity.foreign_judge import TokenMemory
from doorward.identity.metadata import issuer_of
from doorward.identity.principal import Principal
from doorward.identity.trust import TrustedIssuer
from doorward.settings import Settings

_ENDLESS = frozenset({"subscriptions/listen"})  # ends when somebody ends it
_BREAK_SECONDS = 1.0  # of a drain, for what is told that it ends now
_DRAIN_LOOK_SECONDS = 0.02
_ASK_SECONDS = 30.0
_GOODBYE_SECONDS = 1.0


class DataPlane:
    """Everything between the listening socket and the upstreams, in one process."""

    def __init__(
        self,
        index: int,
        incarnation: bytes,
        counters_fd: int,
        peer: Peer,
        store_failed: Callable[[StoreError], None],
        open_face: OpenFace | None = None,
    ) -> None:
        """``open_face`` opens another face towards clients than the HTTP listener of the settings."""
        self._index = index
        self._incarnation = incarnation
        self._counters_fd = counters_fd
        self._peer = peer
        self._store_failed = store_failed
        self._open_face = open_face
        self._clock = SystemClock()
        self._ids = EventIds()
        self.freshness = Freshness(self._clock)
        self._facts = FactBook(self._clock, later)
        self._facts.tell = lambda server: peer.tell("list-changed", {"server": server})
        self._book = CredentialBook(lambda payload, then: self._ask("credential", payload, then), self._clock)
        self._live: set[Exchange] = set()
        self._killed = Killed()
        self._tls = WorkerTls(self._tell_certificate)
        self._pools: dict[tuple[object, ...], HttpPool] = {}
        self._upstreams: dict[str, tuple[ServerSpec, bytes, BridgedUpstream, Upstream]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tokens = TokenMemory(self._clock)
        self._trusts: dict[str, TrustedIssuer] = {}
        self._withdrawn: dict[tuple[str, str], float] = {}
        self._accounts: dict[str, frozenset[str]] = {}
        self._limits: LimitRate | None = None
        self._placed: list[Placed] = []
        self.pins = PinDesk(self._present, self._clock)
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
        self._recorder = Recorder(
            self._ledger,
            payload["digest_key"],
            origin,
            self._clock,
            self._ids,
            issuer_of(settings.gateway.public_url),
        )
        self._counters = SharedCounters.attach(self._counters_fd, self._index)
        seal = SessionSeal(payload["session_key"])
        seat = Seat(self._index, self._incarnation)
        self.table = SessionTable(seal, seat, self._clock)
        self._states = StateSeal(payload["session_key"], seat, self._clock)
        snapshot = self._build(payload, settings)
        self._killed.fresh(payload.get("papers"))
        self._access_check(payload, settings, snapshot.desk)
        self.gateway = Gateway(
            snapshot=snapshot,
            table=self.table,
            recorder=self._recorder,
            addresses=self._addresses(),
            freshness=self.freshness,
            clock=self._clock,
            ids=self._ids,
            relay=self._relay,
            alert=Alarm(peer=self._peer, clock=self._clock).ring,
            web=WebDoor(lambda payload, then: self._ask("web", payload, then)),
            states=self._states,
            proofs=ProofDesk(lambda payload, then: self._ask("proof-once", payload, then)),
            is_ready=lambda: self.ledger_ok,
        )
        self.freshness.tick(snapshot.generation)
        self._listener: ClientFace
        if self._open_face is not None:
            self._listener = await self._open_face(self.gateway, self._outbox, self._facts)
        else:
            listener = self._listener = await self._listen(settings.gateway.listen)
            self._tls.attach(listener, settings)
        self.port = self._listener.port

    async def _listen(self, address: str) -> HttpListener:
        host, _, port = address.rpartition(":")
        connections, backlog = connections_within(raise_open_files())
        return await listen(
            host.strip("[]"),
            int(port),
            self.gateway,
            self._outbox,
            self._deadlines,
            caps=FaceCaps(connections=connections, connections_per_address=max(16, connections // 2)),
            tls=self._tls.listener_context,
            reuse_port=True,
            backlog=backlog,
        )

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
        goodbyes = min(until, loop.time() + _GOODBYE_SECONDS)  # servers are told that their sessions are over
        while any(pool.is_busy for pool in self._pools.values()) and loop.time() < goodbyes:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
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
        if isinstance(self._listener, HttpListener):
            self._tls.attach(self._listener, settings)
        self.table.settings_changed()
        revoked = frozenset(payload["revoked"])
        killed = self._killed.fresh(payload.get("papers"))
        lost = self._access_check(payload, settings, snapshot.desk)
        self.table.drop_where(
            # What a session has with a server that changed or went cannot be carried over: its client begins anew.
            lambda session: (
                session.token_id in revoked
                or killed(session.principal, session.caller)
                or session.endpoint in gone
                or not gone.isdisjoint(session.links)
                or (session.caller is not None and lost(session.caller, session.links))
            )
        )
        for exchange in list(self._live):
            call = exchange.call
            if call.principal.token_id in revoked:
                exchange.stop("The access token was revoked.")
            elif killed(call.principal.key, call.principal):
                exchange.stop("An operator has ended the sessions of this caller.")
            elif lost(call.principal, getattr(exchange.link, "servers", (call.server,))):
                exchange.stop("The access of this caller has changed.")

    def _access_check(
        self, payload: dict[str, Any], settings: Settings, desk: Desk
    ) -> Callable[[Principal, Iterable[str]], bool]:
        """Who may no longer hear what a server says on streams that were opened before these settings."""
        before = self._accounts
        self._accounts = {name: frozenset(roles) for name, roles in accounts_of(settings).items()}
        # Their roles are as their token was judged then: the next request finds out what they are now.
        changed = {name for name, roles in before.items() if self._accounts.get(name) != roles}
        trusted, self._trusts = self._trusts, {one.issuer: one for one in trusts_of(settings)}
        earlier, self._withdrawn = self._withdrawn, withdrawn_of(payload)
        left = {who for who, before in self._withdrawn.items() if earlier.get(who) != before}
        moved = {name for name, trust in trusted.items() if self._trusts.get(name) != trust}
        return lambda who, servers: (
            who.subject in changed
            or who.issuer in moved
            or (who.issuer, who.subject) in left
            or not all(desk.may_use_server(who, name) for name in servers)
        )

    def _addresses(self) -> Addresses:
        """The per-address limit, unless its control is off."""
        on = any(one.control is self._limits and one.mode == "enforce" for one in self._placed)
        return self._limits if on and self._limits is not None else NoLimit()

    def _build(self, payload: dict[str, Any], settings: Settings) -> Snapshot:
        self._tls.adopt((payload.get("papers") or {}).get("tls"))
        policy = build_policy(settings, payload.get("policies") or {})
        kinds = {
            name: kind_of(spec) for name, spec in settings.servers.items() if spec.credentials.is_granted
        }
        self._book.adopt(kinds, (payload.get("papers") or {}).get("credentials"))
        placed, limits = build_controls(
            settings,
            payload,
            policy,
            self._counters,
            self._clock,
            self.pins,
            memory=self._tokens,
            ask=self._ask,
            credentials=self._book,
        )
        if self._limits is not None:
            limits.adopt(self._limits)
        self._limits = limits
        self._placed = placed
        pipeline = Pipeline(placed, self._spawn)
        modes = {one.control.slug: one.mode for one in placed}
        rows = (payload.get("papers") or {}).get("pins") or []
        self.pins.renew(msgspec.convert(rows, list[Row]))
        self.pins.apart = frozenset(
            name for name, spec in settings.servers.items() if spec.is_stdio and spec.per_principal
        )
        self.pins.enforce = modes.get("match-pin") == "enforce"
        self.pins.compares = modes.get("match-pin") != "off"
        upstreams = self._build_upstreams(settings, payload.get("secrets") or {})
        enforced = modes.get("ask-policy") == "enforce"
        profile = settings.gateway.profile
        self._states.switch(on=modes.get("seal-state") != "off")
        desk = Desk(
            pipeline=pipeline,
            recorder=self._recorder,
            facts=self._facts,
            ids=self._ids,
            servers=dict(settings.servers),
            upstreams=upstreams,
            may_use_server=policy.may_use_server if enforced else everyone,
            end_session=self.table.drop,
            deny_as=settings.gateway.deny_as,
            sync_all=settings.audit.durability == "before-upstream" or profile in ("production", "regulated"),
            gate_requests=modes.get("gate-server-requests") == "enforce",
            live=self._live,
            states=self._states,
            narrow=ScopeCache.narrowing(modes.get("scope-cache", "enforce")),
            task_key=payload["session_key"],
            pins=self.pins if modes.get("match-pin") != "off" else None,
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
            credential = fixed_credential(spec, secrets.get(name, b""))
            known = self._upstreams.get(name)
            if (
                known is not None
                and known[0] == spec
                and known[1] == credential
                and not self._tls.is_new(name)
            ):
                kept[name] = known
            elif (
                known is not None
                and known[0] == spec
                and not self._tls.is_new(name)
                and isinstance(known[3], HttpUpstream)
            ):
                known[3].present(credential)  # only the secret is another: what is open stays open
                kept[name] = (spec, credential, known[2], known[3])
            else:
                self._facts.forget(name)
                inner = self._make_upstream(spec, credential)
                kept[name] = (spec, credential, self._bridged(spec, inner), inner)
        for name, (_, _, before, _) in self._upstreams.items():
            if name not in kept or kept[name][2] is not before:
                before.close()
        self._upstreams = kept
        return {name: one[2] for name, one in kept.items()}

    def _bridged(self, spec: ServerSpec, inner: Upstream) -> BridgedUpstream:
        """The era bridge over the pins over the server: definitions are compared as the server wrote them."""
        pinned = inner if spec.trust == "off" else PinnedUpstream(inner, spec.name, self.pins)
        return BridgedUpstream(pinned, spec.name, self._states.book, later)

    def _make_upstream(self, spec: ServerSpec, credential: bytes) -> Upstream:
        if spec.is_stdio:
            return StdioUpstream(self._peer, spec)
        parts = urlsplit(spec.url)
        tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        key, context, check = self._tls.towards(spec) if tls else ("", None, None)
        pool = self._pools.get((host, port, key))
        if pool is None:
            pool = HttpPool(host, port, self._outbox, self._deadlines, tls=context, check_peer=check)
            self._pools[(host, port, key)] = pool
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def make(line: bytes) -> HttpUpstream:
            return HttpUpstream(spec.name, pool, parts.netloc, target, line, self._facts.schema_of, later)

        return (
            CredentialedUpstream(spec.name, self._book, make)
            if spec.credentials.is_granted
            else make(credential)
        )

    # -- pins ---------------------------------------------------------------------------------------------------

    def _present(self, payload: dict[str, Any], then: Callable[[Any], None]) -> None:
        def answered(rows: Any) -> None:
            try:
                then(msgspec.convert(rows, list[Row]))
            except msgspec.ValidationError:
                then(None)

        self._ask("present", payload, answered)

    def adopt_pins(self, payload: Any) -> None:
        """Newer rows, from the supervisor."""
        self.pins.adopt(msgspec.convert(payload, list[Row]))

    # -- the supervisor's offices -------------------------------------------------------------------------------

    def _ask(self, topic: str, payload: dict[str, Any], then: Callable[[Any], None]) -> None:
        """Ask the supervisor; ``then`` hears None where nobody answers."""

        async def asking() -> None:
            try:
                found = await self._peer.ask(topic, payload, timeout_seconds=_ASK_SECONDS)
            except DoorwardError:
                found = None
            then(found)

        self._spawn(asking())

    def _tell_certificate(self, payload: dict[str, Any]) -> None:
        """Tell the supervisor what a server has shown; a failure is logged there and changes nothing here."""

        async def telling() -> None:
            with contextlib.suppress(DoorwardError):
                await self._peer.ask("upstream-certificate", payload)

        self._spawn(telling())

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

    def list_changed(self, server: str) -> None:
        """Another worker has heard that a server's list of tools changed."""
        self._facts.forget(server)

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
            "crossed_sessions": sum(one[2].crossed_count for one in self._upstreams.values()),
            "parked_calls": sum(one[2].parked_count for one in self._upstreams.values()),
            "ledger_ok": self.ledger_ok,
            "ledger_unsigned_seconds": self._ledger.unsigned_seconds,
            "generation": self.gateway.snapshot.generation,
            **(self._tls.numbers(self._listener) if isinstance(self._listener, HttpListener) else {}),
            **self._recorder.numbers(),
        }
