"""What clients of the 2026 era carry between the rounds of a call: sealed on the way out, opened once on the way back.

A ``requestState`` is whatever its server wants to see again (2026-07-28 basic/patterns/mrtr), and on its return it is in an
attacker's hands (MR-03). Doorward seals it, whether a server made it or Doorward itself for a parked call of cell B: to its
caller, its server, its request and the worker that sealed it, which alone knows whether it was used before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.base.clock import Clock
from doorward.controls.control import Call
from doorward.gateway.parks import ParkBook, seat_of
from doorward.gateway.sessions import Seat
from doorward.protocol import codes
from doorward.protocol.json_door import encode_json, parse_json
from doorward.protocol.message import Message

STATE_SECONDS = 900.0  # as long as a person may take for a form or a page
ASKING = frozenset({"tools/call", "prompts/get", "resources/read"})  # alone may end in input_required (MR-01)
_PREFIX = "dwp."
_NONCE_BYTES = 12
_SEAT_BYTES, _NUMBER_BYTES, _DIGEST_BYTES = 10, 8, 16
_HEAD_BYTES = _SEAT_BYTES + _NUMBER_BYTES + 2 * _DIGEST_BYTES
_STATE_BYTES = 262_144  # of what a server may give a client to carry
_OWN_COUNT = 256  # states of one principal that may still come back
_TOTAL_COUNT = 65_536  # and of all
_LOOK_SECONDS = 1.0  # between two searches for what came too late, which cost as much as there are states
_CANNOT_WAIT = "This call cannot wait for its caller: too much would have to be kept."


class Opened(msgspec.Struct, frozen=True):
    """What a state stood for, or why it stands for nothing."""

    state: Any = None
    fault: str = ""  # for the record


def digest_of(message: Message) -> bytes:
    """What makes a request the same one when it comes again: method and params without what differs by design."""
    params = {
        key: value
        for key, value in (message.params or {}).items()
        if key not in ("_meta", "inputResponses", "requestState")
    }
    return hashlib.sha256(message.method.encode() + b"\0" + encode_json(params)).digest()[:_DIGEST_BYTES]


def _owner_digest(principal: str, server: str) -> bytes:
    parts = (principal.encode(), server.encode())
    content = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(content).digest()[:_DIGEST_BYTES]


class StateSeal:
    """Make and open the states that leave this worker; every worker can tell whose a state is."""

    def __init__(self, key: bytes, seat: Seat, clock: Clock) -> None:
        """``key``: 32 bytes, shared by all workers; ``seat``: this worker."""
        self._cipher = AESGCM(hashlib.blake2b(b"doorward parks 1", key=key, digest_size=32).digest())
        self._clock = clock
        self.book = ParkBook(seat)
        self._counter = 0
        self._out: dict[str, dict[int, float]] = {}  # principal -> number -> when it is too late (monotonic)
        self._out_count = 0
        self._looked_at = -1e9  # monotonic seconds: when late ones were last looked for

    @property
    def is_on(self) -> bool:
        """False where states leave as they are: in profile lab, with seal-state off."""
        return not self.book.is_shared

    def switch(self, *, on: bool) -> None:
        """Follow the settings in force."""
        self.book.is_shared = not on

    # -- out ----------------------------------------------------------------------------------------------------

    def seal(self, principal: str, server: str, request: Message, state: object) -> str | None:
        """The state as its client gets it; None where it is too large or too many are out."""
        plain = encode_json(state)
        if len(plain) > _STATE_BYTES or not self._has_room(principal):
            return None
        self._counter += 1
        self._out.setdefault(principal, {})[self._counter] = self._clock.monotonic() + STATE_SECONDS
        self._out_count += 1
        seat = self.book.seat
        head = (
            seat.worker.to_bytes(2, "big") + seat.incarnation + self._counter.to_bytes(_NUMBER_BYTES, "big")
        )
        head += _owner_digest(principal, server) + digest_of(request)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, head + plain, _PREFIX.encode())
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def _has_room(self, principal: str) -> bool:
        """Whether one more may be out: a principal's own oldest gives way, nobody else's."""
        own = self._out.get(principal, {})
        if self._out_count >= _TOTAL_COUNT:
            self._forget_late()
        if len(own) >= _OWN_COUNT or (own and self._out_count >= _TOTAL_COUNT):
            self._spend(principal, next(iter(own)))
        return self._out_count < _TOTAL_COUNT

    def _forget_late(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        for principal in list(self._out):
            for number in [one for one, end in self._out[principal].items() if end <= now]:
                self._spend(principal, number)

    def _spend(self, principal: str, number: int) -> float | None:
        """Take a state out of those that may come back; when it would have been too late, None if it is not there."""
        own = self._out.get(principal, {})
        end = own.pop(number, None)
        if end is not None:
            self._out_count -= 1
            if not own:
                del self._out[principal]
        return end

    def sealer(self, call: Call, first: Callable[[Message], None]) -> Callable[[Message], None]:
        """A function that seals the state in what a server answers to ``call``, in place, after ``first`` was done."""

        def seal(message: Message) -> None:
            first(message)
            result = message.value.get("result") if message.kind == "response" else None
            if not isinstance(result, dict) or result.get("resultType") != "input_required":
                return
            state = result.get("requestState")
            if state is None or not self.is_on:
                return
            sealed = self.seal(call.principal.key, call.server, call.message, state)
            if sealed is None:
                del message.value["result"]
                message.value["error"] = {"code": codes.UPSTREAM_FAILED, "message": _CANNOT_WAIT}
            else:
                result["requestState"] = sealed

        return seal

    # -- back ---------------------------------------------------------------------------------------------------

    def owner(self, message: Message) -> Seat | None:
        """Which worker knows the state that a request brings back; None when it does not say."""
        state = (message.params or {}).get("requestState")
        if state is None:
            return None
        plain = self._plain(state)
        if plain is not None:
            return Seat(int.from_bytes(plain[:2], "big"), plain[2:_SEAT_BYTES])
        found = None if self.is_on else seat_of(state)
        return found[0] if found is not None else None

    def open(self, principal: str, server: str, request: Message) -> Opened:
        """What the state of a request stands for. It is used up only where everything about it fits."""
        plain = self._plain((request.params or {}).get("requestState"))
        if plain is None:
            return Opened(fault="a state that Doorward did not seal, or that was changed")
        seat = self.book.seat
        if plain[:_SEAT_BYTES] != seat.worker.to_bytes(2, "big") + seat.incarnation:
            return Opened(fault="a state of another worker or of another life of this one")
        number = int.from_bytes(plain[_SEAT_BYTES : _SEAT_BYTES + _NUMBER_BYTES], "big")
        bound = plain[_SEAT_BYTES + _NUMBER_BYTES : _HEAD_BYTES]
        if bound[:_DIGEST_BYTES] != _owner_digest(principal, server):
            return Opened(fault="a state of another caller or server")
        if bound[_DIGEST_BYTES:] != digest_of(request):
            return Opened(fault="a state of another request")
        end = self._spend(principal, number)
        if end is None:
            return Opened(fault="a state that was used before, or had to give way")
        if end <= self._clock.monotonic():
            return Opened(fault="a state that came too late")
        return Opened(parse_json(plain[_HEAD_BYTES:]))

    def _plain(self, state: object) -> bytes | None:
        if not isinstance(state, str) or not state.startswith(_PREFIX):
            return None
        text = state[len(_PREFIX) :]
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
                return None  # one state has one spelling
            plain = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PREFIX.encode())
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return plain if len(plain) >= _HEAD_BYTES else None


def with_state(message: Message, state: Any) -> Message:
    """The request with the state that its server knows."""
    params = {**(message.params or {}), "requestState": state}
    value = {**message.value, "params": params}
    return Message(message.kind, message.method, message.id, params, value, message.params_fields)
