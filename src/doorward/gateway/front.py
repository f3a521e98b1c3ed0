"""The first room behind the HTTP face: heads in the order of checks, then bodies to the era they belong to.

The order, fixed by a table test: framing, Host and Origin (400/403), path (404), per-address limits (429), token (401),
method, Accept, type and size (405/406/415/413), body (400), and only then everything that costs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from doorward.base.clock import Clock
from doorward.base.errors import CallerError, DoorwardError
from doorward.base.ids import EventIds
from doorward.controls.control import Head, ProofMark, Refuse
from doorward.controls.seal_state import STATE_INVALID
from doorward.gateway import answers
from doorward.gateway.desk import caller_of
from doorward.gateway.legacy_face import SESSION_ENDED, LegacyFace
from doorward.gateway.modern_face import ModernFace
from doorward.gateway.pipeline import Ruling
from doorward.gateway.ports import Reply, Responder
from doorward.gateway.proofs import ProofDesk
from doorward.gateway.recorder import Recorder
from doorward.gateway.relay import RelayedResponder, RelayingClient, pack, unpack
from doorward.gateway.sessions import Seat, SessionTable
from doorward.gateway.snapshot import Freshness, Snapshot
from doorward.gateway.states import StateSeal
from doorward.gateway.waiting import UNANNOUNCED_BYTES, WaitingRoom
from doorward.gateway.web import BODY_BYTES, WebDoor
from doorward.identity.principal import LOCAL
from doorward.protocol import codes
from doorward.protocol.envelope import parse_message
from doorward.protocol.legacy import classify, is_modern
from doorward.protocol.message import Message

_log = logging.getLogger("doorward.front")
_BEFORE_PATH = frozenset({"check-origin"})  # head controls that come before the path is looked at
_NO_PATH = Ruling(
    "gateway", Refuse(reason="no such path", tell="There is no endpoint at this path.", status=404)
)
_READABLE = frozenset({"GET", "HEAD"})


class Addresses(Protocol):
    """The per-address limit, the one head check that depends on more than the head's bytes."""

    def admit_address(self, address: str) -> Refuse | None: ...


Relay = Callable[[int, dict[str, Any], RelayingClient], bool]


class Gateway:
    """Implements ``gateway.ports.Front`` for one worker."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        table: SessionTable,
        recorder: Recorder,
        addresses: Addresses,
        freshness: Freshness,
        clock: Clock,
        ids: EventIds,
        relay: Relay | None,
        is_ready: Callable[[], bool],
        web: WebDoor | None = None,
        states: StateSeal | None = None,
        proofs: ProofDesk | None = None,
        alert: Callable[[str, str, str, str], None] | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.table = table
        self.addresses = addresses
        self._recorder = recorder
        self._freshness = freshness
        self._clock = clock
        self._ids = ids
        self._relay = relay
        self._is_ready = is_ready
        self.nobody = LOCAL  # who calls where nobody is authenticated
        self._web = web
        self._waiting = WaitingRoom(clock)
        self._states = states
        self._proofs = proofs
        self._alert = alert  # rule, item, server, address
        self._legacy = LegacyFace(table)
        self._modern = ModernFace()

    # -- heads --------------------------------------------------------------------------------------------------

    def head(self, head: Head, address: str) -> Reply | None:
        """See ``gateway.ports.Front``."""
        head.address = address
        verdict = self._verdict(head)
        if verdict is not None and verdict[0]:
            return self._refuse(head, verdict[1], address)
        if head.server is not None or head.is_web:
            limited = self.addresses.admit_address(address)
            if limited is not None:
                return self._refuse(head, Ruling("limit-rate", limited), address)
        if verdict is not None:
            return self._refuse(head, verdict[1], address)
        if head.pending is not None and not self._waiting.admit(head):
            return answers.NOT_READY
        return None

    def _verdict(self, head: Head) -> tuple[bool, Ruling] | None:
        """The verdict on a head that holds now: (before the address limit?, ruling), or None for none."""
        snapshot = self.snapshot
        if head.generation != snapshot.generation or 0 < head.expires_at <= self._clock.now():
            self._judge(head, snapshot)
        verdict: tuple[bool, Ruling] | None = head.refusal
        return verdict

    def _judge(self, head: Head, snapshot: Snapshot) -> None:
        """Give the verdict that holds for every request with these bytes: (before the address limit?, ruling)."""
        head.generation = snapshot.generation
        _forget(head)
        pipeline, routes = snapshot.pipeline, snapshot.routes
        ruling = pipeline.judge_head(head, _BEFORE_PATH, inside=True)
        if ruling is not None:
            head.refusal = (True, ruling)
            return
        head.server = routes.server_of(head.path)
        if head.server is None:
            head.is_web = self._web is not None and routes.is_web(head.path)
            if (
                not head.is_web
                and head.path not in routes.documents
                and head.path not in ("/healthz", "/readyz")
            ):
                head.refusal = (True, _NO_PATH)
            return
        head.resource = routes.resources[head.path]
        ruling = pipeline.judge_head(head, _BEFORE_PATH, inside=False)
        if ruling is not None:
            head.refusal = (False, ruling)
        elif _is_nobody(head):
            head.principal = self.nobody  # nobody authenticates here: check-token is off (profile lab)

    def _refuse(self, head: Head, ruling: Ruling, address: str) -> Reply:
        event = self._ids.mint()
        self._recorder.head_refused(head, ruling, event, address)
        if ruling.refuse.alert is not None and self._alert is not None:
            self._alert(*ruling.refuse.alert, head.server or "", address)
        return answers.refused(ruling.refuse, slug=ruling.slug, event=event, message_id=None)

    def body_limit(self, head: Head) -> int:
        """See ``gateway.ports.Front``. Only POST on an endpoint has a use for a body."""
        if head.is_web:
            return BODY_BYTES if head.verb == "POST" else 0
        if head.pending is not None and head.chunked:
            return min(self.snapshot.body_bytes, UNANNOUNCED_BYTES)
        return self.snapshot.body_bytes if head.server is not None and head.verb == "POST" else 0

    def broken(self, error: Exception, address: str) -> Reply:
        """See ``gateway.ports.Front``."""
        event = self._ids.mint()
        shown = (
            error
            if isinstance(error, DoorwardError)
            else CallerError("malformed", "The request is malformed.")
        )
        self._recorder.broken(shown, event, address)
        return answers.failed(shown, event=event, message_id=None, close=True, control="check-head")

    # -- bodies -------------------------------------------------------------------------------------------------

    def body(self, head: Head, body: bytes, responder: Responder, *, settled: bool = False) -> None:
        """See ``gateway.ports.Front``. ``settled``: whoever had to be asked about the token has been."""
        if head.server is None and not head.is_web:
            return responder.answer(self._document(head))
        return self._admit(head, body, responder, proven=False, settled=settled)

    def _admit(self, head: Head, body: bytes, responder: Responder, *, proven: bool, settled: bool) -> None:
        # SECURITY: judged again, for the body may have taken its time: the token may have run out or been revoked since,
        # and another request with an equal head may have found that out (tests/attacks/test_review_identity.py).
        head.address = responder.address
        verdict = self._verdict(head)
        if verdict is not None:
            return responder.answer(self._refuse(head, verdict[1], responder.address))
        if head.pending is not None:
            return self._wait(head, body, responder, proven=proven, settled=settled)
        snapshot = self.snapshot
        if self._freshness.is_stale(snapshot.generation):
            return responder.answer(answers.NOT_READY)
        if head.proof is not None and not proven:
            return self._prove(head.proof, head, body, responder, settled=settled)
        if head.is_web and self._web is not None:
            return self._web.serve(head, body, responder.address, responder.answer)
        event = self._ids.mint()
        try:
            self._serve(snapshot, head, body, responder, event)
        except CallerError as error:
            self._recorder.caller_error(head, error, event, responder.address)
            responder.answer(answers.failed(error, event=event, message_id=error.message_id))
        except Exception as error:  # noqa: BLE001 - the last net: a bug answers 500 and never leaks
            _log.error("exchange failed", exc_info=error, extra={"event": event})
            responder.answer(
                answers.failed(DoorwardError("internal", "internal"), event=event, message_id=None)
            )

    def _wait(self, head: Head, body: bytes, responder: Responder, *, proven: bool, settled: bool) -> None:
        """Go on when the token can be judged; nothing of the request is looked at before."""
        if settled or head.pending is None:
            return responder.answer(answers.NOT_READY)

        def again() -> None:
            head.generation = -1
            self._admit(head, body, responder, proven=proven, settled=True)

        return head.pending(again)

    def _prove(
        self, mark: ProofMark, head: Head, body: bytes, responder: Responder, *, settled: bool
    ) -> None:
        """Use up the proof that came with this request; then everything is judged again, for that took its time."""

        def marked(is_first: bool | None) -> None:  # noqa: FBT001 - the answer of the desk
            if is_first:
                return self._admit(head, body, responder, proven=True, settled=settled)
            refuse = mark.unknown if is_first is None else mark.used
            return responder.answer(self._refuse(head, Ruling("bind-token", refuse), responder.address))

        return marked(None) if self._proofs is None else self._proofs.use(mark, marked)

    def _serve(self, snapshot: Snapshot, head: Head, body: bytes, responder: Responder, event: str) -> None:
        if head.verb != "POST":
            return self._stream_or_end(snapshot, head, body, responder, event)
        message = parse_message(body)
        try:
            era = classify(head.fields.get("mcp-protocol-version"), message)
            if era == "modern":
                keeper = self._keeper(message)
                if keeper is not None:
                    return self._hand_to(keeper, head, body, responder, _call_gone(message))
                return self._modern.post(snapshot.desk, head, message, body, responder, event)
            session = self._legacy.session_of(snapshot.desk, head, caller_of(head))
            if session is None and message.method != "initialize" and self._is_elsewhere(head):
                return self._hand_over(head, body, responder)
            return self._legacy.post(snapshot.desk, head, message, body, responder, event, session)
        except CallerError as error:
            error.message_id = message.id if message.kind == "request" else None
            raise

    def _stream_or_end(
        self, snapshot: Snapshot, head: Head, body: bytes, responder: Responder, event: str
    ) -> None:
        session = self._legacy.session_of(snapshot.desk, head, caller_of(head))
        if session is None and self._is_elsewhere(head):
            return self._hand_over(head, body, responder)
        if session is None:
            return self._legacy.refuse(snapshot.desk, head, responder, event)
        self._recorder.session_event(head, head.verb, event, responder.address, 200)
        if head.verb == "GET":
            return self._legacy.get(snapshot.desk, head, responder, session)
        return self._legacy.delete(responder, session)

    def _document(self, head: Head) -> Reply:
        if head.verb not in _READABLE:
            return Reply(
                405, b"Allow: GET, HEAD\r\n" + answers.JSON_FIELDS, b'{"error":"method not allowed"}'
            )
        if head.path == "/healthz":
            return Reply(200, answers.JSON_FIELDS, b'{"status":"ok"}')
        if head.path == "/readyz":
            ready = self._is_ready() and not self._freshness.is_stale(self.snapshot.generation)
            return Reply(200, answers.JSON_FIELDS, b'{"status":"ready"}') if ready else answers.NOT_READY
        return self.snapshot.routes.documents[head.path]

    # -- sessions of other workers ------------------------------------------------------------------------------

    def _is_elsewhere(self, head: Head) -> bool:
        session_id = head.fields.get("mcp-session-id", "")
        owner = self.table.owner(session_id) if session_id and self._relay is not None else None
        return owner is not None and owner.worker != self.table.seat.worker

    def _keeper(self, message: Message) -> Seat | None:
        """The other worker that sealed the state which this request brings back (MR-03)."""
        owner = self._states.owner(message) if self._states is not None and self._relay is not None else None
        return owner if owner is not None and owner.worker != self.table.seat.worker else None

    def _hand_over(self, head: Head, body: bytes, responder: Responder) -> None:
        owner = self.table.owner(head.fields.get("mcp-session-id", ""))
        self._hand_to(owner, head, body, responder, self._owner_gone)

    def _hand_to(
        self,
        owner: Seat | None,
        head: Head,
        body: bytes,
        responder: Responder,
        gone: Callable[[Responder, bool], None],
    ) -> None:
        """``gone(responder, started)`` answers when the owner is not there (any more)."""
        client = RelayingClient(responder, gone)
        if (
            owner is None
            or self._relay is None
            or not self._relay(owner.worker, pack(head, body, responder.address), client)
        ):
            gone(responder, False)

    def _owner_gone(self, responder: Responder, started: bool) -> None:  # noqa: FBT001 - a callback of the relay
        """The worker that owned the session died: the client learns that its session is over (SF-24)."""
        if started:
            responder.abort()
        else:
            responder.answer(SESSION_ENDED)

    def accept_relay(self, payload: dict[str, Any], responder_of: Callable[[str], RelayedResponder]) -> None:
        """Serve a request that another worker has authenticated and handed over."""
        head, body, address = unpack(payload)
        responder = responder_of(address)
        snapshot = self.snapshot
        if self._freshness.is_stale(snapshot.generation):
            return responder.answer(answers.NOT_READY)
        event = self._ids.mint()
        if (
            not is_modern(head.fields.get("mcp-protocol-version"))
            and self._legacy.session_of(snapshot.desk, head, caller_of(head)) is None
        ):
            return self._legacy.refuse(snapshot.desk, head, responder, event)
        try:
            self._serve(snapshot, head, body, responder, event)
        except CallerError as error:
            self._recorder.caller_error(head, error, event, address)
            responder.answer(answers.failed(error, event=event, message_id=error.message_id))
        except Exception as error:  # noqa: BLE001 - the last net
            _log.error("exchange failed", exc_info=error, extra={"event": event})
            responder.answer(
                answers.failed(DoorwardError("internal", "internal"), event=event, message_id=None)
            )
        return None


def _forget(head: Head) -> None:
    """What an earlier judgement left behind."""
    head.refusal = None
    head.notes = ()
    head.expires_at = 0.0
    head.principal = None
    head.pending = None
    head.is_web = False
    head.proof = None
    head.answer_fields = b""


def _is_nobody(head: Head) -> bool:
    """Whether nobody authenticates here; one whose token is still asked about is not nobody."""
    return head.pending is None and (head.principal is None or head.principal is LOCAL)


def _call_gone(message: Message) -> Callable[[Responder, bool], None]:
    """The answer to a client that comes back for a call whose worker has died: as for any state that opens nothing."""

    def gone(responder: Responder, started: bool) -> None:  # noqa: FBT001 - a callback of the relay
        if started:
            return responder.abort()
        body = answers.error_body(message.id, codes.INVALID_PARAMS, STATE_INVALID)
        return responder.answer(Reply(200, answers.JSON_FIELDS, body))

    return gone
