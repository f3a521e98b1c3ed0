"""Sign-in for programs without a browser: a code on the device, consent in a browser elsewhere (RFC 8628).

The user types the code, so that no link carries it to somebody else's victim (RFC 8628 §5.4), and the page names the client
and the code before anything is granted. Only clients that the operator knows may begin one.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from doorward.base.ids import mint_handle
from doorward.identity.clients import DEVICE, Client
from doorward.identity.grants import Grants, Issued, Who
from doorward.identity.oauth_forms import Form, OAuthRefusal
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.requests import Asked, check_resource, check_scope

DEVICE_SECONDS = 600.0
INTERVAL_SECONDS = 5.0
DEVICES, USER_CODES = "oauth-device", "oauth-device-user"
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: no vowels, so no words; 20^8 codes
_TRIES = 8


class Device(msgspec.Struct, frozen=True):
    """One device that waits. Both of its codes are kept as hashes only."""

    asked: Asked
    until: float
    state: str = "waits"  # then "agreed" or "denied"
    who: Who | None = None
    asked_at: float = 0.0
    interval: float = INTERVAL_SECONDS


class Devices:
    """Devices over the rows of a store; every method blocks. Raises: OAuthRefusal, StoreError."""

    def __init__(self, store: Store, grants: Grants, resources: frozenset[str]) -> None:
        self._store = store
        self._grants = grants
        self._resources = resources

    def begin(self, client: Client, form: Form, uri: str, now: float) -> dict[str, Any]:
        """The answer of RFC 8628 §3.2."""
        if DEVICE not in client.grants:
            raise OAuthRefusal("unauthorized_client", "This client may not sign in by a device code.")
        resource, scopes = check_resource(form, self._resources), check_scope(form)
        device_code = mint_handle()
        user_code = "".join(secrets.choice(_LETTERS) for _ in range(8))
        asked = Asked(client.id, client.version, "", resource, scopes, "", device=user_code)
        # SECURITY: the row must not tell the user code, or whoever reads rows could agree for somebody.
        kept = Device(msgspec.structs.replace(asked, device=""), now + DEVICE_SECONDS)
        key, until = hashed(device_code), now + DEVICE_SECONDS
        self._store.keep(DEVICES, key, msgspec.msgpack.encode(kept), expires_at=until)
        self._store.keep(USER_CODES, hashed(user_code), key.encode(), expires_at=until)
        return {
            "device_code": device_code,
            "user_code": shown_code(user_code),
            "verification_uri": uri,
            "expires_in": int(DEVICE_SECONDS),
            "interval": int(INTERVAL_SECONDS),
        }

    def find(self, typed: str, now: float) -> Asked:
        """What the device with this code asks for."""
        code = plain_code(typed)
        key = self._store.kept(USER_CODES, hashed(code), now)
        found = None if key is None else self._store.kept(DEVICES, key[0].decode(), now)
        device = None if found is None else msgspec.msgpack.decode(found[0], type=Device)
        if device is None or device.state != "waits":
            raise _no_code()
        return msgspec.structs.replace(device.asked, device=code)

    def decide(self, code: str, who: Who | None, now: float) -> None:
        """The user agreed (``who``) or not (None); the code is used up by that."""
        key = self._store.take(USER_CODES, hashed(code), now)
        if key is None:
            raise _no_code()
        for _ in range(_TRIES):
            found = self._store.kept(DEVICES, key.decode(), now)
            if found is None:
                raise _no_code()
            device = msgspec.msgpack.decode(found[0], type=Device)
            state = "denied" if who is None else "agreed"
            following = msgspec.structs.replace(device, state=state, who=who)
            if self._write(key.decode(), following, found[1], now):
                return
        raise OAuthRefusal("temporarily_unavailable", "Try again.", status=503)

    def redeem(self, client: Client, form: Form, now: float) -> Issued:
        """Tokens for a device whose user agreed (RFC 8628 §3.4)."""
        key = hashed(form.get("device_code"))
        found = self._store.kept(DEVICES, key, now)
        if found is None:
            raise OAuthRefusal("expired_token", "The code is unknown, used or too old; begin again.")
        device = msgspec.msgpack.decode(found[0], type=Device)
        if device.asked.client_id != client.id:
            raise OAuthRefusal("invalid_grant", "The code is not this client's.")
        if device.state == "waits":
            self._pause(key, device, found[1], now)
        if device.state == "denied" or device.who is None:
            raise OAuthRefusal("access_denied", "The user did not agree.")
        if self._store.take(DEVICES, key, now) is None:  # of two who ask at once one gets it
            raise OAuthRefusal("expired_token", "The code is unknown, used or too old; begin again.")
        return self._grants.begin(
            mint_handle(16), client, device.who, device.asked.resource, device.asked.scopes
        )

    def _pause(self, key: str, device: Device, version: int, now: float) -> None:
        early = now - device.asked_at < device.interval
        interval = device.interval + INTERVAL_SECONDS if early else device.interval
        self._write(key, msgspec.structs.replace(device, asked_at=now, interval=interval), version, now)
        if early:
            raise OAuthRefusal("slow_down", "Ask less often.")
        raise OAuthRefusal("authorization_pending", "The user has not decided yet.")

    def _write(self, key: str, device: Device, seen: int, now: float) -> bool:
        value = msgspec.msgpack.encode(device)
        return self._store.replace(DEVICES, key, value, seen=seen, now=now, expires_at=device.until)


def plain_code(typed: str) -> str:
    """A user code as it is kept, however it was typed."""
    return "".join(char for char in typed.upper() if char in _LETTERS)[:16]


def shown_code(code: str) -> str:
    """A user code as people read it."""
    return f"{code[:4]}-{code[4:]}"


def _no_code() -> OAuthRefusal:
    return OAuthRefusal(
        "access_denied", "There is no such code, or it is used or too old.", reason="no such code", status=403
    )
