"""Legacy sessions: sealed ids, bound to a principal, capped and expiring (2025-11-25 basic/transports; SF-22..SF-29).

A session lives in the memory of the worker that made it. Its id seals (AES-256-GCM) which worker that is, so that any
other worker can hand a request over, and nobody can make one up.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.base import limits
from doorward.base.clock import Clock
from doorward.base.errors import CallerError
from doorward.gateway.ports import Link
from doorward.gateway.streams import Stream, parse_event_id
from doorward.identity.principal import Principal
from doorward.protocol.message import Message, MessageId

_NONCE_BYTES = 12
_RANDOM_BYTES = 32  # 256 bits that nobody guesses, below a seal that nobody makes
_AAD = b"doorward session 1"
_STREAMS_COUNT = 64  # streams a session keeps for resumption
_STREAMS_BYTES = 2_097_152  # of its finished streams together, the newest one not counted
_STREAM_REST_SECONDS = 300.0  # a finished stream is kept for as long
_PENDING_COUNT = 128  # server requests that wait for the client's answer


class Seat(msgspec.Struct, frozen=True):
    """Which worker owns a session: its index and the random incarnation of its process."""

    worker: int
    incarnation: bytes  # 8 bytes


class SessionSeal:
    """Mint and open session ids."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 bytes, shared by all workers, made anew with each data folder."""
        self._cipher = AESGCM(key)

    def mint(self, seat: Seat) -> str:
        """Return a fresh id of visible ASCII."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = seat.worker.to_bytes(2, "big") + seat.incarnation + secrets.token_bytes(_RANDOM_BYTES)
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, plain, _AAD)).decode().rstrip("=")

    def open(self, session_id: str) -> Seat | None:
        """The owner of an id that we minted; None for anything else."""
        if len(session_id) > 200:
            return None
        try:
            raw = base64.b64decode(session_id + "=" * (-len(session_id) % 4), altchars=b"-_", validate=True)
            plain = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _AAD)
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return Seat(int.from_bytes(plain[:2], "big"), plain[2:10])


class Asked(msgspec.Struct, frozen=True):
    """A request that a server put to the client: where the answer goes."""

    link: Link
    id: MessageId | None
    server: str
    flight: MessageId | None = None  # the client's request on whose stream it came, where it came on one


_NO_TASKS: frozenset[tuple[str, str]] = frozenset()


class Session:
    """What the gateway remembers of one legacy client between its requests."""

    __slots__ = (
        "_counter", "_kept_bytes", "_newest", "asked", "call_renames", "caller", "capabilities", "common", "declared",
        "endpoint", "flights", "id", "is_over", "links", "listening", "made_at", "opened_by", "own_tasks", "principal", "streams",
        "tokens", "touched_at", "version",
    )  # fmt: skip

    def __init__(self, session_id: str, principal: str, endpoint: str, version: str, now: float) -> None:
        self.id = session_id
        self.principal = principal
        self.endpoint = endpoint  # server name or "" for the federated endpoint
        self.version = version
        self.capabilities: dict[str, Any] = {}
        self.declared: dict[str, dict[str, Any]] = {}  # server -> the capabilities that it may hear of
        self.links: dict[str, Link] = {}
        self.flights: dict[MessageId, Any] = {}  # the client's requests under way, by its id
        self.tokens: dict[
            MessageId, str
        ] = {}  # live progress tokens, and whose call each is ("": all servers')
        # (server, its id) of the tasks made in this session
        self.own_tasks: set[tuple[str, str]] | frozenset[tuple[str, str]] = _NO_TASKS
        # server -> (desk, what renames its replies to calls): of the servers in use only
        self.call_renames: dict[str, tuple[Any, Callable[[Message], None]]] = {}
        self.asked: dict[str, Asked] = {}
        self.streams: dict[str, Stream] = {}
        self.common = Stream("c")  # what servers say on their own
        self.listening: dict[str, Callable[[], None]] = {}  # server -> cancel of its listening stream
        self.caller: Principal | None = None  # as last seen: with the roles of the token last presented
        self.opened_by: Principal | None = None  # as they were when it began
        self.made_at = now
        self.touched_at = now
        self.is_over = False
        self._counter = 0
        self._newest: Stream | None = None
        self._kept_bytes = 0  # at most: of all streams but the newest

    def new_stream(self) -> Stream:
        """Open a stream for one POST; old finished ones give way."""
        self._counter += 1
        stream = Stream(f"p{self._counter}")
        self.streams[stream.key] = stream
        before, self._newest = self._newest, stream
        if before is not None:
            self._kept_bytes += before.size_bytes
        if len(self.streams) > _STREAMS_COUNT or self._kept_bytes > _STREAMS_BYTES:
            self._make_room()
        return stream

    def _make_room(self) -> None:
        """Forget the oldest finished streams beyond the caps."""
        streams = self.streams
        if self._kept_bytes > _STREAMS_BYTES:  # what was forgotten meanwhile may be in this number still
            self._kept_bytes = sum(one.size_bytes for one in streams.values())
        for old in list(streams.values()):
            if len(streams) <= _STREAMS_COUNT and self._kept_bytes <= _STREAMS_BYTES:
                break
            if old.finished:
                self._kept_bytes -= old.size_bytes
                del streams[old.key]

    def note_task(self, server: str, task_id: str) -> None:
        """Remember a task that was made in this session."""
        if isinstance(self.own_tasks, frozenset):
            self.own_tasks = set()
        self.own_tasks.add((server, task_id))

    def forget_finished(self, now: float) -> None:
        """Forget streams that have been finished for a while (``now``: monotonic seconds)."""
        for stream in [one for one in self.streams.values() if one.finished]:
            stream.rests_since = stream.rests_since or now
            if now - stream.rests_since > _STREAM_REST_SECONDS:
                del self.streams[stream.key]

    def stream_after(self, event_id: str) -> tuple[Stream, int] | None:
        """The stream that an event id names, and the event's number."""
        parsed = parse_event_id(event_id)
        if parsed is None:
            return None
        stream = self.common if parsed[0] == self.common.key else self.streams.get(parsed[0])
        return None if stream is None else (stream, parsed[1])

    def ask(
        self, link: Link, message_id: MessageId | None, server: str, flight: MessageId | None = None
    ) -> str | None:
        """Note a server's request and give it an id of ours; None when too many wait."""
        if len(self.asked) >= _PENDING_COUNT:
            # Questions of calls that are over by now, most of them cancelled, will not be answered any more.
            kept = (
                (ours, one)
                for ours, one in self.asked.items()
                if one.flight is None or one.flight in self.flights
            )
            self.asked = dict(kept)
            if len(self.asked) >= _PENDING_COUNT:
                return None
        self._counter += 1
        ours = f"dw-{self._counter}"
        self.asked[ours] = Asked(link, message_id, server, flight)
        return ours

    def unask(self, flight: MessageId) -> None:
        """A request was cancelled: nobody waits for answers to what was asked on its stream, and they take no room."""
        for ours in [one for one, asked in self.asked.items() if asked.flight == flight]:
            del self.asked[ours]

    def fits(self, who: Principal) -> Literal["yes", "other", "grown"]:
        """Whether its own principal may go on with it, by the token presented now.

        "other": that token is bound to another key or certificate, or to none, so it may be in other hands. "grown": it grants
        more than the one that the session began with (step-up), so the session must begin anew under an id that nobody knew
        before. A token that was refreshed is neither.
        """
        first = self.opened_by
        if first is None:
            return "yes"
        if first.bound != who.bound:
            return "other"
        return "yes" if {*who.roles} <= {*first.roles} and {*who.scopes} <= {*first.scopes} else "grown"

    @property
    def token_id(self) -> str:
        """Of the access token last presented."""
        return self.caller.token_id if self.caller is not None else ""

    def held_bytes(self) -> int:
        """What the session keeps for a client that comes back."""
        return sum(stream.size_bytes for stream in self.streams.values()) + self.common.size_bytes

    def release(self, excess_bytes: int) -> int:
        """Forget finished streams, oldest first, until so many bytes are free; the bytes freed."""
        freed = 0
        for key, stream in list(self.streams.items()):
            if freed >= excess_bytes:
                break
            if stream.finished:
                freed += stream.size_bytes
                del self.streams[key]
        return freed

    def end(self) -> None:
        """Close everything that hangs on this session."""
        if self.is_over:
            return
        self.is_over = True
        self.call_renames.clear()  # they point back here
        for cancel in self.listening.values():
            cancel()
        for flight in list(self.flights.values()):
            flight.session_ended()
        for stream in (self.common, *self.streams.values()):
            if not stream.finished:
                stream.finish()
        for link in self.links.values():
            link.close()


class SessionTable:
    """The sessions of this worker."""

    def __init__(self, seal: SessionSeal, seat: Seat, clock: Clock) -> None:
        self.seal = seal
        self.seat = seat
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._by_principal: dict[str, dict[str, Session]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def streams_count(self) -> int:
        """Client streams that are attached now."""
        return sum(
            session.common.is_attached + sum(stream.is_attached for stream in session.streams.values())
            for session in self._sessions.values()
        )

    def make(self, principal: str, endpoint: str, version: str) -> Session:
        """Open a session. Beyond a principal's share its own longest idle session ends; beyond the total: 429.

        Raises: CallerError when the worker is full.
        """
        if len(self._sessions) >= limits.SESSIONS_TOTAL:
            raise CallerError("sessions-full", "Too many sessions are open; try again later.", status=429)
        own = self._by_principal.setdefault(principal, {})
        if len(own) >= limits.SESSIONS_PER_PRINCIPAL:
            self.drop(min(own.values(), key=lambda session: session.touched_at))
            own = self._by_principal.setdefault(principal, {})
        session = Session(self.seal.mint(self.seat), principal, endpoint, version, self._clock.monotonic())
        self._sessions[session.id] = session
        own[session.id] = session
        return session

    def find(self, session_id: str, principal: str, endpoint: str) -> Session | None:
        """The session, if it is this principal's on this endpoint. Anybody else learns nothing (SF-26)."""
        session = self._sessions.get(session_id)
        if session is None or session.principal != principal or session.endpoint != endpoint:
            return None
        session.touched_at = self._clock.monotonic()
        return session

    def anyones(self, session_id: str, endpoint: str) -> Session | None:
        """The session whoever asks; what that means is for ``bind-session`` to say."""
        session = self._sessions.get(session_id)
        return session if session is not None and session.endpoint == endpoint else None

    def owner(self, session_id: str) -> Seat | None:
        """Which worker made an id, when it is a real one."""
        return self.seal.open(session_id)

    def drop(self, session: Session) -> None:
        """End a session and forget it."""
        self._sessions.pop(session.id, None)
        own = self._by_principal.get(session.principal)
        if own is not None:
            own.pop(session.id, None)
            if not own:
                del self._by_principal[session.principal]
        session.end()

    @property
    def is_full(self) -> bool:
        """True when no further session may be opened here."""
        return len(self._sessions) >= limits.SESSIONS_TOTAL

    def sweep(self) -> None:
        """End what is idle or too old, and streams whose token has run out; called about once a second."""
        now, wall = self._clock.monotonic(), self._clock.now()
        for session in list(self._sessions.values()):
            busy = bool(session.flights) or session.common.is_attached
            idle = now - session.touched_at > limits.SESSION_IDLE_SECONDS and not busy
            if idle or now - session.made_at > limits.SESSION_ABSOLUTE_SECONDS:
                self.drop(session)
                continue
            for flight in list(session.flights.values()):
                flight.end_overdue()
            session.forget_finished(now)
            for stream in (session.common, *session.streams.values()):
                if stream.is_attached and 0 < stream.expires_at < wall:
                    stream.suspend()

        self._bound_replay()

    def _bound_replay(self) -> None:
        """Forget answers kept for resumption when they are too many, of one session or of all: finished and oldest first."""
        total = 0
        for session in self._sessions.values():
            held = session.held_bytes()
            total += held - session.release(held - limits.SESSION_REPLAY_BYTES)
        excess = total - limits.TOTAL_REPLAY_BYTES
        if excess > 0:
            for session in sorted(self._sessions.values(), key=lambda one: one.touched_at):
                excess -= session.release(excess)

    def has_flights(self) -> bool:
        """True while a request of some session is under way."""
        return any(session.flights for session in self._sessions.values())

    def keep_alive(self) -> None:
        """Write a comment on every silent stream, so that nothing between drops it; called every 15 s or so."""
        for session in self._sessions.values():
            session.common.keep_alive()
            for stream in session.streams.values():
                stream.keep_alive()

    def drop_where(self, condition: Callable[[Session], bool]) -> None:
        """End the sessions for which ``condition`` holds (a revoked principal, a removed server)."""
        for session in [one for one in self._sessions.values() if condition(one)]:
            self.drop(session)

    def settings_changed(self) -> None:
        """What servers may hear of clients is worked out anew."""
        for session in self._sessions.values():
            session.declared.clear()

    def close(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            self.drop(session)
