"""Calls that wait for their client to come back: which worker keeps one, sealed into the state that the client carries.

A client of the 2026 era answers a server's question by sending its request again, with a state that it may not read
(2026-07-28 basic/patterns/mrtr; MR-03): so the state is sealed, bound to its caller, its request and a time, and good once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.gateway.sessions import Seat
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message

PARK_SECONDS = 240.0  # a person may take as long; the call itself may last a minute more
STATE_INVALID = "The requestState is not valid (any more)."
_PREFIX = "dwp."
_NONCE_BYTES = 12
_STATE_CHARS = 400


class Parked(msgspec.Struct, frozen=True):
    """Where a call waits."""

    seat: Seat
    handle: bytes  # 16 bytes; another one for each question


def digest_of(message: Message) -> bytes:
    """What makes a request the same one when it comes again: method and params without what differs by design."""
    params = {
        key: value
        for key, value in (message.params or {}).items()
        if key not in ("_meta", "inputResponses", "requestState")
    }
    return hashlib.sha256(message.method.encode() + b"\0" + encode_json(params)).digest()


class ParkSeal:
    """Make and open the states of this installation; every worker can open each."""

    def __init__(self, key: bytes, seat: Seat) -> None:
        """``key``: 32 bytes, shared by all workers; ``seat``: this worker."""
        self._cipher = AESGCM(hashlib.blake2b(b"doorward parks 1", key=key, digest_size=32).digest())
        self.seat = seat

    @staticmethod
    def fresh_handle() -> bytes:
        """A handle that nobody can guess."""
        return secrets.token_bytes(16)

    def seal(self, handle: bytes, bound: bytes) -> str:
        """The state for a call that waits here; ``bound`` names caller, server and request."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = self.seat.worker.to_bytes(2, "big") + self.seat.incarnation + handle
        plain += hashlib.sha256(bound).digest()
        sealed = nonce + self._cipher.encrypt(nonce, plain, _PREFIX.encode())
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def owner(self, message: Message) -> Seat | None:
        """Which worker keeps the call that a request comes back for; None when it does not say."""
        found = self._plain((message.params or {}).get("requestState"))
        return None if found is None else Seat(int.from_bytes(found[:2], "big"), found[2:10])

    def open(self, state: object, bound: bytes) -> bytes | None:
        """The handle of a state that was made for exactly this caller, server and request, in this worker's life."""
        found = self._plain(state)
        if found is None or found[26:] != hashlib.sha256(bound).digest():
            return None
        seat = Seat(int.from_bytes(found[:2], "big"), found[2:10])
        return found[10:26] if seat == self.seat else None

    def _plain(self, state: Any) -> bytes | None:
        if not isinstance(state, str) or not state.startswith(_PREFIX) or len(state) > _STATE_CHARS:
            return None
        text = state[len(_PREFIX) :]
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _PREFIX.encode())
        except (binascii.Error, ValueError, InvalidTag):
            return None
